"""Loading is exact and strict. A saved model is the same network for PyTorch."""

import logging
from pathlib import Path

import golden
import keras
import numpy as np
import pytest

from keras_cvt import CvT
from keras_cvt.checkpoints import (
    CheckpointError,
    load_checkpoint,
    save_checkpoint,
    state_dict,
)
from keras_cvt.checkpoints.readers import read_checkpoint
from keras_cvt.models import CvTModel, build_model
from keras_cvt.preprocessing import EvalTransform

any_backend = pytest.mark.any_backend
CHECKPOINTS = golden.FOLDER.parent / "checkpoints"
OFFICIAL = CHECKPOINTS / "official_zip.pth"


def tiny(activation="quick_gelu", drop_path_rate=0.0, **kwargs):
    _, meta = golden.load("tiny_base")
    config = golden.config(meta).with_overrides(
        activation=activation, drop_path_rate=drop_path_rate
    )
    return build_model(
        config,
        eval_transform=EvalTransform((64, 64), None),
        include_preprocessing=False,
        **{"classes": 10, **kwargs},
    )


def outputs(model):
    with np.load(CHECKPOINTS / "hf_expected.npz") as archive:
        return keras.ops.convert_to_numpy(model(archive["input_nhwc"]))


def weights(model):
    return [keras.ops.convert_to_numpy(v) for v in model.variables]


def expected(name):
    source, key = {
        "official": (golden.FOLDER / "tiny_base.npz", "logits"),
        "transformers": (CHECKPOINTS / "hf_expected.npz", "logits_gelu"),
        "cvt_tensorflow": (CHECKPOINTS / "cvt_tensorflow_expected.npz", "logits"),
    }[name]
    with np.load(source) as archive:
        return archive[key]


@pytest.mark.parametrize(
    ("file", "activation", "origin", "tolerance"),
    [
        # What differs between the files is read without a backend.
        pytest.param(
            *("official_zip.pth", "quick_gelu", "official", 2e-5), marks=any_backend
        ),
        ("official_legacy.pth", "quick_gelu", "official", 2e-5),
        ("official_training_checkpoint.pth", "quick_gelu", "official", 2e-5),
        ("official_fp16.pth", "quick_gelu", "official", 5e-3),
        ("hf_pt/model.safetensors", "gelu", "transformers", 2e-5),
        ("hf_pt/pytorch_model.bin", "gelu", "transformers", 2e-5),
        ("hf_tf/tf_model.h5", "gelu", "transformers", 2e-5),
        ("cvt_tensorflow.h5", "quick_gelu", "cvt_tensorflow", 2e-5),
    ],
)
def test_every_file_gives_the_logits_of_its_own_library(
    file, activation, origin, tolerance
):
    model = tiny(activation)
    load_checkpoint(model, CHECKPOINTS / file)
    np.testing.assert_allclose(outputs(model), expected(origin), rtol=0, atol=tolerance)


@any_backend
def test_everything_that_does_not_fit_is_listed_and_the_model_is_unchanged():
    state = read_checkpoint(OFFICIAL)
    del state["stage1.blocks.0.norm1.weight"]
    state["surprise.weight"] = np.ones(3, "float32")
    state["head.bias"] = np.ones(7, "float32")
    model = tiny()
    before = weights(model)
    with pytest.raises(CheckpointError) as error:
        load_checkpoint(model, state)
    for line in (
        "missing: stage1.blocks.0.norm1.weight",
        "unexpected: surprise.weight",
        "wrong shape: head.bias is (7,), the model has (10,)",
    ):
        assert line in str(error.value)
    for old, new in zip(before, weights(model), strict=True):
        np.testing.assert_array_equal(old, new)


def test_without_strict_the_rest_is_loaded_and_the_differences_are_logged(caplog):
    state = read_checkpoint(OFFICIAL)
    state["head.bias"] = np.ones(7, "float32")
    with caplog.at_level(logging.WARNING):
        report = load_checkpoint(tiny(), state, strict=False)
    assert report.mismatched == (("head.bias", (10,), (7,)),)
    assert len(report.loaded) == 202
    assert "head.bias" in caplog.text


@any_backend
def test_only_loads_the_named_parts():
    model = tiny()
    before = weights(model.get_layer("stage2"))
    report = load_checkpoint(model, OFFICIAL, only=("stage0", "stage1"))
    assert {key.split(".")[0] for key in report.loaded} == {"stage0", "stage1"}
    for old, new in zip(before, weights(model.get_layer("stage2")), strict=True):
        np.testing.assert_array_equal(old, new)


def test_only_must_name_parts_of_the_model():
    with pytest.raises(ValueError, match="stage0.*stage7"):
        load_checkpoint(tiny(), OFFICIAL, only=("stage7",))


def test_a_backbone_loads_the_checkpoint_of_a_classifier():
    report = load_checkpoint(tiny(include_top=False), OFFICIAL)
    assert not report.unexpected and not report.missing


@any_backend
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_an_official_file_is_unchanged_by_a_round_trip(tmp_path, suffix):
    model = tiny()
    load_checkpoint(model, OFFICIAL)
    save_checkpoint(model, tmp_path / f"back{suffix}")
    original, back = (
        read_checkpoint(path) for path in (OFFICIAL, tmp_path / f"back{suffix}")
    )
    assert set(back) == set(original)
    for key, array in original.items():
        np.testing.assert_array_equal(back[key], array, err_msg=key)
    assert [path.name for path in tmp_path.iterdir()] == [f"back{suffix}"]


def test_transformers_computes_the_same_from_a_saved_model(tmp_path):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    model = tiny("gelu")
    golden.fill(model)
    save_checkpoint(model, tmp_path / "model.safetensors", layout="transformers")
    config = transformers.CvtConfig(**model.cvt_config.to_transformers(classes=10))
    reference = transformers.CvtForImageClassification.from_pretrained(
        tmp_path, config=config
    ).eval()
    with np.load(CHECKPOINTS / "hf_expected.npz") as archive:
        images = torch.from_numpy(archive["input_nhwc"].transpose(0, 3, 1, 2).copy())
    with torch.inference_mode():
        logits = reference(images).logits.cpu().numpy()
    np.testing.assert_allclose(outputs(model), logits, rtol=0, atol=2e-5)


def test_a_model_that_transformers_saved_computes_the_same(tmp_path):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    model = tiny("gelu")
    config = transformers.CvtConfig(**model.cvt_config.to_transformers(classes=10))
    reference = transformers.CvtForImageClassification(config).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in reference.state_dict().items():
            # Fresh statistics would hide swapped entries.
            if tensor.is_floating_point():
                noise = torch.rand(tensor.shape, generator=generator)
                tensor.copy_(0.5 + noise if "running_var" in name else noise - 0.5)
    reference.save_pretrained(tmp_path)
    load_checkpoint(model, tmp_path)
    with np.load(CHECKPOINTS / "hf_expected.npz") as archive:
        images = torch.from_numpy(archive["input_nhwc"].transpose(0, 3, 1, 2).copy())
    with torch.inference_mode():
        logits = reference(images).logits.cpu().numpy()
    np.testing.assert_allclose(outputs(model), logits, rtol=1e-5, atol=2e-5)


def test_a_saved_folder_loads_by_from_pretrained_without_arguments(tmp_path):
    transformers = pytest.importorskip("transformers")
    model = tiny("gelu")
    save_checkpoint(model, tmp_path / "folder", layout="transformers")
    reference = transformers.CvtForImageClassification.from_pretrained(
        tmp_path / "folder"
    )
    assert reference.config.embed_dim == [16, 32, 48]
    assert reference.config.num_labels == 10
    assert reference.config.image_size == 64


def test_a_network_that_transformers_cannot_run_is_not_saved_for_it(tmp_path):
    _, meta = golden.load("tiny_avg")
    with pytest.raises(ValueError, match="dw_bn.*avg"):
        save_checkpoint(golden.model(meta), tmp_path / "f", layout="transformers")
    assert not list(tmp_path.iterdir())


@any_backend
def test_our_own_weights_file_loads_strictly(tmp_path):
    original, copy = tiny(drop_path_rate=0.1), tiny()
    golden.fill(original)
    original.save_weights(tmp_path / "x.weights.h5")
    report = load_checkpoint(copy, tmp_path / "x.weights.h5")
    assert len(report.loaded) == 203
    np.testing.assert_array_equal(outputs(copy), outputs(original))


def test_the_error_for_a_whole_keras_model_names_load_model(tmp_path):
    model = tiny()
    model.save(tmp_path / "x.keras")
    with pytest.raises(CheckpointError, match="keras.models.load_model"):
        load_checkpoint(model, tmp_path / "x.keras")


def test_saving_a_quick_gelu_model_for_transformers_warns(tmp_path):
    with pytest.warns(UserWarning, match="exact GELU"):
        save_checkpoint(tiny(), tmp_path / "x.safetensors", layout="transformers")


def test_a_failed_save_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"old")
    with pytest.raises(OSError, match="full"):
        import safetensors.numpy

        def full(*_, **__):
            raise OSError("disk full")

        monkeypatch.setattr(safetensors.numpy, "save_file", full)
        save_checkpoint(tiny(), path)
    assert path.read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1


@any_backend
def test_a_trained_models_weights_load_without_its_optimizer(tmp_path):
    expected, meta = golden.load("tiny_base")
    trained = golden.model(meta)
    trained.compile("adamw", "mse")
    trained.train_on_batch(golden.images(meta), expected["logits"])
    trained.save_weights(tmp_path / "trained.weights.h5")
    loaded = golden.model(meta)
    load_checkpoint(loaded, tmp_path / "trained.weights.h5")
    images = golden.images(meta)
    np.testing.assert_allclose(
        loaded.predict(images, verbose=0),
        trained.predict(images, verbose=0),
        rtol=0,
        atol=1e-6,
    )


def test_a_new_head_of_any_name_is_saved_and_loaded(tmp_path):
    def with_new_head():
        body = tiny(include_top=False, pooling="token")
        outputs = keras.layers.Dense(3, name="my_classes")(body.output)
        return CvTModel(body.input, outputs)

    model, other = with_new_head(), with_new_head()
    save_checkpoint(model, tmp_path / "model.safetensors")
    state = read_checkpoint(tmp_path / "model.safetensors")
    assert state["head.weight"].shape == (3, 48)
    report = load_checkpoint(other, tmp_path / "model.safetensors")
    assert "head.bias" in report.loaded
    np.testing.assert_array_equal(outputs(other), outputs(model))


def test_a_model_knows_where_its_weights_come_from(tmp_path):
    model = tiny()
    save_checkpoint(model, tmp_path / "first.safetensors")
    load_checkpoint(model, tmp_path / "first.safetensors")
    assert model.source_weights == "first.safetensors"
    # Parts of another checkpoint leave it as it is; arrays have no name.
    save_checkpoint(tiny(), tmp_path / "second.safetensors")
    load_checkpoint(model, tmp_path / "second.safetensors", only="stage0")
    assert model.source_weights == "first.safetensors"
    load_checkpoint(model, state_dict.extract(tiny()))
    assert model.source_weights is None


@pytest.mark.parametrize(
    "options", [{"name": "my model"}, {"classifier_activation": "relu"}]
)
def test_a_folder_loads_again_whatever_the_model_is_called_or_ends_in(
    tmp_path, options
):
    model = tiny(activation="gelu", **options)
    save_checkpoint(model, tmp_path / "folder", layout="transformers")
    loaded = CvT(model.cvt_config, weights=tmp_path / "folder", classes=10)
    assert loaded.eval_transform == model.eval_transform


def test_a_path_is_never_a_published_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = tiny(activation="gelu")
    save_checkpoint(model, "imagenet", layout="transformers")
    fresh = tiny(activation="gelu")
    load_checkpoint(fresh, Path("imagenet"))
    np.testing.assert_array_equal(outputs(fresh), outputs(model))


def wrapped():
    inputs = keras.Input((64, 64, 3))
    return keras.Model(inputs, keras.layers.Dense(2)(tiny(include_top=False)(inputs)))


# Models whose `.h5` file, Keras's older format, loads as that of any other layers.
LEGACY = {
    "a classifier": tiny,
    "a backbone": lambda: tiny(include_top=False, pooling="avg"),
    "of a fixed size": lambda: tiny(input_shape=(64, 64, 3)),
    "with dropout": lambda: tiny(drop_path_rate=0.1),
    "with a new activation": lambda: tiny().with_activation("softmax"),
    "as a layer": wrapped,
    "mixed precision": lambda: tiny(dtype="mixed_bfloat16"),
}


@any_backend
@pytest.mark.parametrize("name", LEGACY)
def test_keras_older_file_of_a_whole_model_loads_without_custom_objects(tmp_path, name):
    model = LEGACY[name]()
    model.save(tmp_path / "x.h5")
    loaded = keras.models.load_model(tmp_path / "x.h5")
    assert type(loaded) is type(model)
    np.testing.assert_array_equal(outputs(loaded), outputs(model))


@any_backend
@pytest.mark.parametrize("name", ["a classifier", "with dropout"])
def test_keras_older_file_of_a_whole_model_is_a_checkpoint(tmp_path, name):
    original, copy = LEGACY[name](), tiny()
    golden.fill(original)
    original.compile("adamw", "mse")
    original.optimizer.build(original.trainable_variables)
    original.save(tmp_path / "x.h5")
    report = load_checkpoint(copy, tmp_path / "x.h5")
    assert len(report.loaded) == 203
    np.testing.assert_array_equal(outputs(copy), outputs(original))


DAMAGES = {
    "NaN": ("stage0.patch_embed.norm.bias", np.nan),
    "infinity": ("stage1.blocks.0.mlp.fc1.weight", np.inf),
    "minus infinity": ("head.bias", -np.inf),
    "a negative variance": ("stage2.blocks.0.attn.conv_proj_k.bn.running_var", -0.1),
    "more than float32 can hold": ("norm.weight", 1e39),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_weights_that_cannot_be_meant_are_named(caplog, name):
    """An error, unless `strict=False` asks for them."""
    key, value = DAMAGES[name]
    state = {k: a.astype("float64") for k, a in read_checkpoint(OFFICIAL).items()}
    state[key].flat[1] = value
    model = tiny()
    before = weights(model)
    with pytest.raises(CheckpointError, match=f"1 arrays: {key}. .*strict=False"):
        load_checkpoint(model, state)
    for old, new in zip(before, weights(model), strict=True):
        np.testing.assert_array_equal(old, new)
    load_checkpoint(model, state, strict=False)
    assert key in caplog.text
    # What is not loaded does not matter.
    load_checkpoint(model, state, only="stage0" if "stage0" not in key else "stage1")


@any_backend
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
def test_arrays_of_any_float_type_are_weights(dtype):
    import ml_dtypes

    kind = ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype
    state = read_checkpoint(OFFICIAL)
    model = tiny()
    report = load_checkpoint(model, {k: a.astype(kind) for k, a in state.items()})
    assert len(report.loaded) == 203
    loaded = state_dict.extract(model)
    for key in report.loaded:
        np.testing.assert_array_equal(loaded[key], state[key].astype(kind), key)


@pytest.mark.parametrize("dtype", ["int32", "complex64", "bool", "U1"])
def test_arrays_of_other_types_are_not_weights(dtype):
    state = read_checkpoint(OFFICIAL)
    state["head.bias"] = np.zeros(10).astype(dtype)
    with pytest.raises(CheckpointError, match="floating-point.*head.bias"):
        load_checkpoint(tiny(), state)


@any_backend
def test_a_tensor_that_numpy_cannot_hold_is_an_error():
    torch = pytest.importorskip("torch")
    with pytest.raises(CheckpointError, match="numpy arrays.*Tensor"):
        load_checkpoint(tiny(), {"head.bias": torch.zeros(10, dtype=torch.bfloat16)})
