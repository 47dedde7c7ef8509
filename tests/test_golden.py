"""The network computes the same as the official code."""

import golden
import keras
import numpy as np
import pytest

any_backend = pytest.mark.any_backend
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


# Where `predict` runs the network as a call does (PyTorch), or compiles it as it would
# the call (JAX), one of the two runs for all networks.
BACKEND = keras.backend.backend()
CALLED = ["tiny_base"] if BACKEND == "jax" else TINY
PREDICTED = ["tiny_base"] if BACKEND == "torch" else TINY


@any_backend
@pytest.mark.parametrize("name", CALLED)
def test_every_stage_and_the_logits_equal_the_official_code_eagerly(name):
    expected, meta = golden.load(name)
    model = golden.model(meta)
    outputs = keras.Model(model.input, symbolic_outputs(model))(golden.images(meta))
    assert_equal_to_official(outputs, expected)


@any_backend
@pytest.mark.parametrize("name", PREDICTED)
def test_predict_equals_the_official_code(name):
    expected, meta = golden.load(name)
    logits = golden.model(meta).predict(golden.images(meta), verbose=0)
    assert_equal_to_official({"logits": logits}, {"logits": expected["logits"]})


# By itself, `predict` compiles with XLA on TensorFlow, and not at all on PyTorch. JAX
# always compiles it, and torch.compile takes minutes for each network.
OTHER_WAY = ["tiny_base"]
if BACKEND == "tensorflow":
    OTHER_WAY += ["tiny_avg_odd_60x52", "tiny_cls_everywhere", "tiny_odd_63x95"]


@any_backend
@pytest.mark.parametrize("name", OTHER_WAY)
def test_predict_compiled_the_other_way_equals_the_official_code(name):
    expected, meta = golden.load(name)
    model = golden.model(meta)
    model.compile(jit_compile=BACKEND != "tensorflow")
    logits = model.predict(golden.images(meta), verbose=0)
    assert_equal_to_official({"logits": logits}, {"logits": expected["logits"]})


@pytest.mark.full_size
@pytest.mark.parametrize(
    ("names", "parameters", "statistics"),
    [
        # The others have more of the same layers.
        pytest.param(
            ["cvt13_224x224", "cvt13_320x256", "cvt13_384x384"],
            *(19_997_480, 25_728),
            marks=any_backend,
        ),
        (["cvt21_224x224"], 31_622_696, 41_856),
        (["cvtw24_384x384"], 277_196_392, 134_400),
    ],
    ids=["CvT-13", "CvT-21", "CvT-W24"],
)
def test_the_published_networks_equal_the_official_code(names, parameters, statistics):
    _, meta = golden.load(names[0])
    model = golden.model(meta)
    trainable = sum(int(np.prod(v.shape)) for v in model.trainable_variables)
    moving = [v for v in model.variables if "moving_" in v.path]
    assert trainable == parameters
    assert sum(int(np.prod(v.shape)) for v in moving) == statistics
    for name in names:
        expected, meta = golden.load(name)
        images = golden.images(meta)
        # Compiling takes longer than the network: once is enough where a call does not.
        compiled = BACKEND == "jax" or name == "cvt13_224x224"
        logits = model.predict(images, verbose=0) if compiled else model(images)
        assert_equal_to_official({"logits": logits}, expected)


@any_backend
def test_a_saved_and_loaded_model_gives_the_same_outputs(tmp_path):
    expected, meta = golden.load("tiny_base")
    golden.model(meta).save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    outputs = loaded.predict(golden.images(meta), verbose=0)
    assert_equal_to_official({"logits": outputs}, {"logits": expected["logits"]})
    assert list(loaded.pyramid_outputs) == ["P2", "P3", "P4"]
    assert loaded.cvt_config == golden.config(meta)
