"""The network computes what the official code computes."""

import golden
import keras
import numpy as np
import pytest

pytestmark = pytest.mark.any_backend
TINY = sorted(path.stem for path in golden.FOLDER.glob("tiny_*.npz"))


def symbolic_outputs(model):
    outputs = {"logits": model.output}
    for stage in model.stages:
        if stage.config.cls_token:
            outputs[stage.name], outputs[f"{stage.name}_cls"] = stage.output
        else:
            outputs[stage.name] = stage.output
    return outputs


def assert_equal_to_official(outputs, expected):
    for name, official in expected.items():
        output = keras.ops.convert_to_numpy(outputs[name])
        np.testing.assert_allclose(
            output, official.reshape(output.shape), rtol=0, atol=2e-5, err_msg=name
        )


@pytest.mark.parametrize("name", TINY)
def test_every_stage_and_the_logits_equal_the_official_code_eagerly(name):
    expected, meta = golden.load(name)
    model = golden.model(meta)
    outputs = keras.Model(model.input, symbolic_outputs(model))(golden.images(meta))
    assert_equal_to_official(outputs, expected)


@pytest.mark.parametrize("name", TINY)
def test_predict_equals_the_official_code(name):
    expected, meta = golden.load(name)
    logits = golden.model(meta).predict(golden.images(meta), verbose=0)
    assert_equal_to_official({"logits": logits}, {"logits": expected["logits"]})


@pytest.mark.full_size
def test_cvt13_at_224_equals_the_official_code():
    expected, meta = golden.load("cvt13_224x224")
    model = golden.model(meta)
    trainable = sum(int(np.prod(v.shape)) for v in model.trainable_variables)
    assert trainable == meta["parameters"] == 19_997_480
    logits = model.predict(golden.images(meta), verbose=0)
    assert_equal_to_official({"logits": logits}, expected)


def test_a_saved_and_loaded_model_gives_the_same_outputs(tmp_path):
    expected, meta = golden.load("tiny_base")
    golden.model(meta).save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    outputs = loaded.predict(golden.images(meta), verbose=0)
    assert_equal_to_official({"logits": outputs}, {"logits": expected["logits"]})
    assert list(loaded.pyramid_outputs) == ["P2", "P3", "P4"]
    assert loaded.cvt_config == golden.config(meta)
