"""Promises that every layer keeps."""

import inspect
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
import pytest
from reference import normal, randomise, to_numpy

from keras_cvt import layers

pytestmark = pytest.mark.any_backend

ATTENTION = {
    "embed_dim": 8,
    "num_heads": 2,
    "qkv_bias": False,
    "drop_rate": 0.1,
    "attention_drop_rate": 0.2,
    "cls_token": True,
    "projection": "dw_bn",
    "kernel_size": 3,
    "padding_q": 1,
    "padding_kv": 0,
    "stride_q": 1,
    "stride_kv": 3,
    "head_dim": None,
    "scale": "embed_dim",
    "shared_kv": False,
    "init": "xavier",
}
BLOCK = {**ATTENTION, "mlp_ratio": 1.5, "activation": "gelu", "drop_path_rate": 0.3}
EMBEDDING = {
    "patch_size": 3,
    "patch_stride": 2,
    "patch_padding": 1,
    "embed_drop_rate": 0.4,
}
STAGE = {**BLOCK, **EMBEDDING, "depth": 2, "final_norm": False}
SIMPLIFIED = {"head_dim": 3, "scale": "head_dim", "shared_kv": True}


@dataclass
class Case:
    """A layer with every argument given, sizes odd and not square."""

    layer: type[keras.layers.Layer]
    arguments: dict[str, Any]
    shape: tuple[int, ...]
    output_shape: tuple
    trainable: int = 0
    not_trainable: int = 0
    call: dict[str, int] = field(default_factory=dict)

    def make(self, **kwargs):
        return self.layer(**self.arguments, **kwargs)

    def built(self, **kwargs):
        layer = self.make(**kwargs)
        layer.build(self.shape)
        randomise(layer)
        return layer

    def run(self, layer):
        inputs = keras.ops.convert_to_tensor(normal(self.shape, seed=1))
        return to_numpy(layer(inputs, **self.call))

    def model(self):
        inputs = keras.Input(self.shape[1:])
        layer = self.make(name="layer")
        model = keras.Model(inputs, layer(inputs, **self.call))
        randomise(layer)
        return model


def projection(name, kernel_size):
    return {"projection": name, "kernel_size": kernel_size, "stride": 2, "padding": 1}


MAP = (2, 7, 10, 4)
TOKENS = (2, 31, 8)
SIZE = {"height": 5, "width": 6}
CASES = {
    "ConvEmbed": Case(
        layers.ConvEmbed,
        {"embed_dim": 8, "patch_size": 5, "patch_stride": 3, "patch_padding": 1},
        (2, 10, 13, 3),
        (2, 3, 4, 8),
        trainable=624,
    ),
    "ConvProjection_dw_bn": Case(
        layers.ConvProjection,
        projection("dw_bn", 5),
        MAP,
        (2, 3, 4, 4),
        trainable=108,
        not_trainable=8,
    ),
    "ConvProjection_avg": Case(
        layers.ConvProjection, projection("avg", 3), MAP, (2, 4, 6, 4)
    ),
    "ConvProjection_linear": Case(
        layers.ConvProjection, projection("linear", 3), MAP, MAP
    ),
    "ConvAttention": Case(
        layers.ConvAttention, ATTENTION, TOKENS, TOKENS, 528, 48, SIZE
    ),
    "ConvAttention_simplified": Case(
        layers.ConvAttention,
        {**ATTENTION, **SIMPLIFIED},
        TOKENS,
        TOKENS,
        376,
        32,
        SIZE,
    ),
    "MLP": Case(
        layers.MLP,
        {
            "embed_dim": 8,
            "mlp_ratio": 1.5,
            "activation": "gelu",
            "drop_rate": 0.1,
            "init": "xavier",
        },
        (2, 5, 6),
        (2, 5, 8),
        trainable=188,
    ),
    "DropPath": Case(layers.DropPath, {"rate": 0.3, "seed": 1}, (2, 5, 6), (2, 5, 6)),
    "ClassToken": Case(layers.ClassToken, {}, (2, 5, 8), (2, 6, 8), trainable=8),
    "ConvTransformerBlock": Case(
        layers.ConvTransformerBlock, BLOCK, TOKENS, TOKENS, 772, 48, SIZE
    ),
    "ConvTransformerStage": Case(
        layers.ConvTransformerStage,
        STAGE,
        (2, 9, 12, 3),
        ((2, 5, 6, 8), (2, 8)),
        trainable=1792,
        not_trainable=96,
    ),
    "ConvTransformerStage_simplified": Case(
        layers.ConvTransformerStage,
        {**STAGE, **SIMPLIFIED},
        (2, 9, 12, 3),
        ((2, 5, 6, 8), (2, 8)),
        trainable=1488,
        not_trainable=64,
    ),
    "ImagePreprocessing": Case(
        layers.ImagePreprocessing,
        {
            "image_size": (32, 48),
            "crop_ratio": None,
            "normalize": True,
            "class_names": ("ant", "bee"),
            "source_weights": "cvt13/imagenet",
            "output_kind": "regression",
        },
        (2, 9, 12, 3),
        (2, 9, 12, 3),
    ),
}


@pytest.fixture(params=CASES)
def case(request):
    return CASES[request.param]


@pytest.fixture(params=list(CASES))
def model_case(request):
    return CASES[request.param]


def shapes(outputs):
    if isinstance(outputs, (tuple, list)):
        return tuple(tuple(output.shape) for output in outputs)
    return tuple(outputs.shape)


def count(variables):
    return sum(int(np.prod(variable.shape)) for variable in variables)


def assert_close(outputs, expected, **tolerances):
    # A loaded model returns a list instead of a tuple.
    outputs, expected = keras.tree.flatten(outputs), keras.tree.flatten(expected)
    for output, reference in zip(outputs, expected, strict=True):
        np.testing.assert_allclose(output.astype("float32"), reference, **tolerances)


def test_all_public_layers_are_covered():
    covered = {case.layer.__name__ for case in CASES.values()}
    # tests/test_intermediates.py has the one that takes another layer.
    assert covered | {"StageIntermediates"} == set(layers.__all__)


def test_the_output_has_the_documented_shape(case):
    assert shapes(case.run(case.built())) == case.output_shape


def test_the_symbolic_shape_is_the_eager_one(model_case):
    inputs = keras.Input(batch_shape=model_case.shape)
    outputs = model_case.make()(inputs, **model_case.call)
    assert shapes(outputs) == model_case.output_shape


def test_build_creates_the_stated_number_of_weights(case):
    layer = case.built()
    counts = count(layer.trainable_weights), count(layer.non_trainable_weights)
    assert counts == (case.trainable, case.not_trainable)


def test_the_cases_give_every_argument(case):
    if "__init__" in vars(case.layer):
        parameters = set(inspect.signature(case.layer).parameters)
        assert set(case.arguments) == parameters - {"kwargs"}


def test_the_config_holds_every_argument(case):
    config = case.make().get_config()
    assert {name: config.get(name) for name in case.arguments} == case.arguments


def test_from_config_of_the_config_has_the_same_config(case):
    config = case.make(name="other", dtype="mixed_bfloat16").get_config()
    assert case.layer.from_config(config).get_config() == config


def test_a_keras_file_restores_the_outputs_without_custom_objects(model_case, tmp_path):
    model = model_case.model()
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    images = normal(model_case.shape)
    assert_close(to_numpy(loaded(images)), to_numpy(model(images)), atol=1e-6)


def test_a_weights_file_restores_every_weight(model_case, tmp_path):
    model = model_case.model()
    model.save_weights(tmp_path / "model.weights.h5")
    fresh = keras.Model.from_config(model.get_config())
    fresh.load_weights(tmp_path / "model.weights.h5")
    for restored, saved in zip(fresh.weights, model.weights, strict=True):
        np.testing.assert_array_equal(to_numpy(restored), to_numpy(saved), saved.path)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_mixed_precision_is_close_to_float32(case, dtype):
    reference = case.built()
    layer = case.built(dtype=f"mixed_{dtype}")
    expected = case.run(reference)
    outputs = case.run(layer)
    scale = max(np.abs(output).max() for output in keras.tree.flatten(expected))
    tolerance = {"float16": 4e-3, "bfloat16": 3e-2}[dtype]
    assert_close(outputs, expected, rtol=0, atol=tolerance * scale)


def test_mixed_precision_computes_in_half_and_keeps_float32_weights(case):
    layer = case.built(dtype="mixed_bfloat16")
    inputs = keras.ops.ones(case.shape)
    outputs = keras.tree.flatten(layer(inputs, **case.call))
    dtypes = {keras.backend.standardize_dtype(output.dtype) for output in outputs}
    assert dtypes == {"bfloat16"}
    assert {variable.dtype for variable in layer.weights} <= {"float32"}


def test_a_layer_built_without_known_sizes_gives_the_same_outputs(model_case):
    known = model_case.built()
    unknown = model_case.make()
    sizes = [None] * (len(model_case.shape) - 2)
    unknown(keras.Input((*sizes, model_case.shape[-1])), **model_case.call)
    unknown.set_weights(known.get_weights())
    assert_close(model_case.run(unknown), model_case.run(known), atol=1e-6)


def test_the_layer_is_deterministic_outside_training(case):
    layer = case.built()
    assert_close(case.run(layer), case.run(layer), rtol=0, atol=0)


ARGUMENTS_OUT_OF_RANGE = [
    (layers.ConvEmbed, {"embed_dim": 0}, "embed_dim"),
    (layers.ConvEmbed, {"embed_dim": 8.0}, "embed_dim"),
    (layers.ConvEmbed, {"embed_dim": 8, "patch_size": 0}, "patch_size"),
    (layers.ConvEmbed, {"embed_dim": 8, "patch_stride": 0}, "patch_stride"),
    (layers.ConvEmbed, {"embed_dim": 8, "patch_padding": -1}, "patch_padding"),
    (layers.ConvProjection, {"projection": "conv"}, "projection"),
    (layers.ConvProjection, {"kernel_size": True}, "kernel_size"),
    (layers.ConvProjection, {"stride": 0}, "stride"),
    (layers.ConvProjection, {"padding": -1}, "padding"),
    (layers.ConvProjection, {"projection": "avg", "padding": 2}, "padding"),
    (layers.ConvAttention, {"embed_dim": 8, "num_heads": 3}, "num_heads"),
    (layers.ConvAttention, {"embed_dim": 8, "num_heads": 0}, "num_heads"),
    (layers.ConvAttention, {**ATTENTION, "stride_q": 2}, "stride_q"),
    (layers.ConvAttention, {**ATTENTION, "padding_q": 0}, "padding_q"),
    (layers.ConvAttention, {**ATTENTION, "qkv_bias": 1}, "qkv_bias"),
    (layers.ConvAttention, {**ATTENTION, "drop_rate": 1.0}, "drop_rate"),
    (layers.ConvAttention, {**ATTENTION, "attention_drop_rate": -0.1}, "attention"),
    (layers.ConvAttention, {**ATTENTION, "init": "he"}, "init"),
    (layers.MLP, {"embed_dim": 0}, "embed_dim"),
    (layers.MLP, {"embed_dim": 8, "mlp_ratio": 0.1}, "mlp_ratio"),
    (layers.MLP, {"embed_dim": 8, "mlp_ratio": float("nan")}, "mlp_ratio"),
    (layers.MLP, {"embed_dim": 8, "activation": "relu"}, "activation"),
    (layers.MLP, {"embed_dim": 8, "drop_rate": "0.1"}, "drop_rate"),
    (layers.DropPath, {"rate": 1.0}, "rate"),
    (layers.DropPath, {"rate": -0.1}, "rate"),
    (layers.ConvTransformerBlock, {**BLOCK, "drop_path_rate": 1.0}, "drop_path_rate"),
    (layers.ConvTransformerStage, {**STAGE, "depth": 0}, "depth"),
    (layers.ConvTransformerStage, {**STAGE, "cls_token": "yes"}, "cls_token"),
]


@pytest.mark.parametrize(
    ("layer", "arguments", "name"),
    ARGUMENTS_OUT_OF_RANGE,
    ids=[f"{layer.__name__}-{name}" for layer, _, name in ARGUMENTS_OUT_OF_RANGE],
)
def test_the_error_names_the_argument_that_is_out_of_range(layer, arguments, name):
    with pytest.raises(ValueError, match=rf"(?s){name}.*Received: "):
        layer(**arguments)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (layers.ConvEmbed(8, 7, 4, 2), (1, 2, 64, 3)),
        (layers.ConvProjection("dw_bn", 5, padding=1), (1, 64, 2, 3)),
        (layers.ConvProjection("avg", 3, padding=0), (1, 2, 64, 3)),
        (layers.ConvTransformerStage(**STAGE | {"patch_padding": 0}), (1, 2, 2, 3)),
        (layers.ConvEmbed(8), (1, 32, 32, None)),
        (layers.ConvAttention(8, 2), (1, 4, 9)),
        (layers.ImagePreprocessing(), (1, 32, 32, 1)),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_build_refuses_an_input_that_does_not_fit(layer, shape):
    with pytest.raises(ValueError, match="Received: "):
        layer.build(shape)
