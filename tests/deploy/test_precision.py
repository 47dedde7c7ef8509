"""Models of any precision export as the same weights in a float32 network."""

import itertools

import keras
import numpy as np
import pytest
from networks import images

import keras_cvt
from keras_cvt import CvTConfig, StageConfig, deploy, training
from keras_cvt.deploy import formats
from keras_cvt.deploy.precision import in_float32
from keras_cvt.description import cvt_stages
from keras_cvt.preprocessing import EvalTransform

tf = pytest.importorskip("tensorflow")

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="exports need TensorFlow"
)

CONFIG = CvTConfig((StageConfig(8, 1, 2, 7, 4, 2, cls_token=True),))
POLICIES = ("float32", "mixed_bfloat16", "mixed_float16", "bfloat16")
IMAGES = images(4, 32, 32, 3)


def build(policy, **arguments):
    keras.utils.set_random_seed(0)
    keras.config.set_dtype_policy(policy)
    try:
        model = keras_cvt.CvT(CONFIG, classes=3, input_shape=(32, 32, 3), **arguments)
    finally:
        keras.config.set_dtype_policy("float32")
    head = model.get_layer("head").kernel
    head.assign(np.random.default_rng(0).normal(0, 0.5, head.shape))
    return model


@pytest.fixture(scope="module")
def models():
    return {policy: build(policy) for policy in POLICIES}


def layers_of(model):
    return model._flatten_layers(include_self=False)


@pytest.mark.parametrize("wanted", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize("policy", POLICIES)
def test_the_float32_network_has_the_same_weights(models, policy, wanted):
    """Whatever the policy of the program that exports."""
    model = models[policy]
    before = [layer.dtype_policy.name for layer in layers_of(model)]
    keras.config.set_dtype_policy(wanted)
    try:
        found = in_float32(model)
    finally:
        keras.config.set_dtype_policy("float32")
    assert {layer.dtype_policy.name for layer in layers_of(found)} == {"float32"}
    assert (found is model) == (policy == "float32")
    assert found.description == model.description
    expected = build("float32")
    expected.set_weights([np.asarray(w, "float32") for w in model.get_weights()])
    np.testing.assert_array_equal(
        found.predict(IMAGES, verbose=0), expected.predict(IMAGES, verbose=0)
    )
    # The model itself stays what it was.
    assert [layer.dtype_policy.name for layer in layers_of(model)] == before


# One policy each, in turn: what is exported is the same float32 network.
@pytest.mark.parametrize(
    ("policy", "name"), zip(itertools.cycle(POLICIES[1:]), formats.variants())
)
def test_every_format_and_quantization_starts_from_the_float32_network(
    models, tmp_path, monkeypatch, policy, name
):
    check_export(models[policy], tmp_path, monkeypatch, name)


def check_export(model, folder, monkeypatch, name):
    monkeypatch.setattr(deploy.verification, "_seconds", lambda run: 1.0)
    variant = formats.find_variant(name)
    path = folder / variant.file_name
    calibration = images(8, 32, 32, 3, seed=1) if variant.needs_images else None
    deploy.export(model, path, name, representative_images=calibration)
    result = deploy.verify(model, path, IMAGES)
    assert result.passed, result


def test_a_fused_model_in_mixed_precision_is_exported(models, tmp_path, monkeypatch):
    fused = deploy.fuse(models["mixed_bfloat16"])
    check_export(fused, tmp_path, monkeypatch, "tf_saved_model")


def test_layers_around_the_network_are_in_float32_too(tmp_path, monkeypatch):
    keras.config.set_dtype_policy("mixed_float16")
    try:
        image = keras.Input((32, 32, 3))
        inner = keras.Sequential([keras.layers.Rescaling(255.0)], name="in_front")
        model = keras_cvt.CvT(CONFIG, classes=3, input_tensor=inner(image))
    finally:
        keras.config.set_dtype_policy("float32")
    found = in_float32(model)
    assert {layer.dtype_policy.name for layer in layers_of(found)} == {"float32"}


def test_a_benchmark_measures_the_float32_network(models, monkeypatch):
    monkeypatch.setattr(deploy.verification, "_seconds", lambda run: 1.0)
    model = models["mixed_float16"]
    result = deploy.benchmark(model, IMAGES, formats=["keras", "fused"])
    assert result.passed, str(result)
    assert result.measurements[0].verification.max_difference == 0


@pytest.mark.parametrize("fuse", [True, False])
@pytest.mark.parametrize("name", formats.FORMATS)
@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize` method")
def test_a_model_that_keras_quantized_is_refused_with_what_to_do(
    quantized, tmp_path, name, fuse
):
    path = tmp_path / formats.find_variant(name).file_name
    with pytest.raises(ValueError, match="before `quantize`.*quantization="):
        deploy.export(quantized, path, name, fuse=fuse)
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def quantized():
    model = build("float32")
    model.quantize("int8")
    return model


def test_lora_in_mixed_precision_is_refused_with_what_to_do(tmp_path):
    model = build("mixed_bfloat16")
    training.enable_lora(model, 2)
    with pytest.raises(ValueError, match="without LoRA"):
        deploy.export(model, tmp_path / "m", fuse=False)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("error", [RuntimeError, KeyError, ValueError, AssertionError])
@pytest.mark.parametrize("name", formats.FORMATS)
def test_an_error_of_a_converter_is_one_clear_error(
    models, tmp_path, monkeypatch, name, error
):
    def write(network, path, options):
        raise error("first line\n" + 100 * "pages of MLIR\n")

    record = formats.FORMATS[name]
    monkeypatch.setattr(type(record), "__setattr__", object.__setattr__)
    monkeypatch.setattr(record, "write", write)
    with pytest.raises(deploy.ExportError) as caught:
        deploy.export(models["float32"], tmp_path / f"m{record.suffix or ''}", name)
    message = str(caught.value)
    assert record.title in message and "first line" in message
    assert len(message.splitlines()) == 1
    assert not list(tmp_path.iterdir())


@keras.saving.register_keras_serializable(package="tests")
class Failing(keras.layers.Layer):
    """A layer that fails when a converter traces it."""

    error = None

    def call(self, inputs):
        if self.error is not None:
            self.error()
        return inputs

    def compute_output_shape(self, input_shape):
        return input_shape


def raising(error):
    def fail():
        raise error

    return fail


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (
            raising(ValueError("Expected tea.\nReceived: coffee")),
            deploy.ExportError,
            "SavedModel cannot express.*Received: ValueError: Expected tea",
        ),
        (raising(MemoryError()), deploy.ExportError, "Memory ran out.*`image_size`"),
        (
            raising(tf.errors.ResourceExhaustedError(None, None, "OOM of a tensor")),
            deploy.ExportError,
            "Memory ran out.*ResourceExhaustedError: OOM of a tensor",
        ),
        # Of keras_cvt itself: a clear message, and a bug.
        (lambda: EvalTransform((0, 1), None), ValueError, "`height` must be"),
        (lambda: cvt_stages(None), AttributeError, "no attribute 'layers'"),
    ],
    ids=["another's", "memory", "memory of TensorFlow", "ours", "our bug"],
)
def test_an_error_says_what_it_is_and_only_a_converters_is_wrapped(
    tmp_path, monkeypatch, error, kind, message
):
    layer = Failing()
    model = keras_cvt.CvT(
        CONFIG, classes=3, input_tensor=layer(keras.Input((32, 32, 3)))
    )
    monkeypatch.setattr(Failing, "error", staticmethod(error))
    with pytest.raises(kind, match=message) as caught:
        deploy.export(model, tmp_path / "m")
    assert caught.type is kind
    assert not list(tmp_path.iterdir())


def test_an_operation_that_litert_does_not_have_is_one_clear_error(tmp_path):
    image = keras.Input((32, 32, 3))
    model = keras_cvt.CvT(
        CONFIG, classes=3, input_tensor=keras.ops.fft2((image, image * 0.0))[0]
    )
    with pytest.raises(deploy.ExportError, match="LiteRT.*Layers around the network"):
        deploy.export(model, tmp_path / "m.tflite")
    assert not list(tmp_path.iterdir())
