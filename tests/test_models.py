"""The functional model: its facts, inputs, outputs, copies and training."""

import warnings

import keras
import numpy as np
import pytest
from gradients import gradients
from keras import ops
from reference import normal, randomise, to_numpy

import keras_cvt
from keras_cvt import CvTConfig, CvTModel, StageConfig
from keras_cvt.checkpoints import state_dict
from keras_cvt.checkpoints.sources import Checkpoint
from keras_cvt.models import build_model
from keras_cvt.preprocessing import EvalTransform

any_backend = pytest.mark.any_backend

BACKEND = keras.backend.backend()
CONFIG = CvTConfig(
    stages=(
        StageConfig(8, 1, 1, 7, 4, 2),
        StageConfig(8, 1, 2, 3, 2, 1, projection="linear"),
        StageConfig(16, 2, 2, 3, 2, 1, cls_token=True, drop_path_rate=0.2),
    ),
    activation="gelu",
    init="xavier",
)
ONE_STAGE = CvTConfig((StageConfig(16, 1, 2, 7, 4, 2, cls_token=True),))
TRANSFORM = EvalTransform((48, 64), None)
CLASSES = 5
NAMES = ["ant", "bee", "cat", "dog", "eel"]
IMAGES = np.random.default_rng(0).integers(0, 256, (2, 32, 40, 3)).astype("float32")


def build(config=CONFIG, **arguments):
    arguments = {
        "eval_transform": TRANSFORM,
        "classes": CLASSES,
        "classifier_activation": "softmax",
        **arguments,
    }
    model = build_model(config, **arguments)
    randomise(model)
    return model


@pytest.fixture(scope="module")
def model():
    """A model that no test changes."""
    return build()


@pytest.fixture(scope="module")
def single():
    """A model of one stage, for what more stages would only make slower."""
    return build(ONE_STAGE)


def assert_close(outputs, expected, atol=1e-5):
    np.testing.assert_allclose(to_numpy(outputs), to_numpy(expected), rtol=0, atol=atol)


# Facts of a model, which its copies share


def saved_and_loaded(model, tmp_path):
    model.save(tmp_path / "model.keras")
    return keras.models.load_model(tmp_path / "model.keras")


def cloned(model, tmp_path):
    return keras.models.clone_model(model)


def called_on_another_tensor(model, tmp_path):
    model(keras.Input((64, 64, 3)))
    return model


def part_of_another_model(model, tmp_path):
    image = keras.Input((64, 64, 3))
    outer = keras.Model(image, keras.layers.Flatten()(model(image)))
    return saved_and_loaded(outer, tmp_path).get_layer(model.name)


@pytest.fixture(
    scope="module",
    params=[saved_and_loaded, cloned, called_on_another_tensor, part_of_another_model],
    ids=lambda function: function.__name__,
)
def copied(request, tmp_path_factory):
    return request.param(build(), tmp_path_factory.mktemp("models"))


def test_a_copy_has_the_same_config(copied):
    assert copied.cvt_config == CONFIG


def test_a_copy_has_the_same_eval_transform(copied):
    assert copied.eval_transform == TRANSFORM


@any_backend
def test_a_copy_has_a_pyramid_of_its_own_input(copied):
    pyramid = keras.Model(copied.input, copied.pyramid_outputs)
    shapes = {level: output.shape for level, output in pyramid(IMAGES).items()}
    assert shapes == {"P2": (2, 8, 10, 8), "P3": (2, 4, 5, 8), "P4": (2, 2, 3, 16)}


@any_backend
def test_the_pyramid_contains_the_maps_of_the_stages(model):
    pyramid = keras.Model(model.input, model.pyramid_outputs)(IMAGES)
    stage0, stage1, _ = model.stages
    stage0_map = stage0(model.get_layer("preprocessing")(IMAGES))
    assert_close(pyramid["P2"], stage0_map)
    assert_close(pyramid["P3"], stage1(stage0_map))


@pytest.mark.parametrize(
    ("strides", "levels"),
    [((4, 2, 2), ["P2", "P3", "P4"]), ((2, 1, 4), ["P1", "P3"]), ((8,), ["P3"])],
)
def test_a_pyramid_level_is_the_logarithm_of_its_stride(strides, levels):
    stages = tuple(StageConfig(8, 1, 1, 3, stride, 1) for stride in strides)
    model = build(CvTConfig(stages), input_shape=(64, 64, 3))
    expected = {level: 64 >> int(level[1]) for level in levels}
    pyramid = model.pyramid_outputs
    assert {level: output.shape[1] for level, output in pyramid.items()} == expected


def test_a_stride_that_is_not_a_power_of_2_has_no_level():
    model = build(CvTConfig((StageConfig(8, 1, 1, 3, 3, 1),)))
    with pytest.raises(ValueError, match="powers of 2.*Received: stage0.*3"):
        _ = model.pyramid_outputs


@any_backend
def test_a_loaded_model_has_the_same_class_and_outputs(model, tmp_path):
    loaded = saved_and_loaded(model, tmp_path)
    assert type(loaded) is CvTModel
    assert_close(loaded(IMAGES), model(IMAGES))


@any_backend
def test_a_weights_file_restores_the_outputs(model, tmp_path):
    model.save_weights(tmp_path / "model.weights.h5")
    fresh = keras.models.clone_model(model)
    fresh.load_weights(tmp_path / "model.weights.h5")
    assert_close(fresh(IMAGES), model(IMAGES))


def test_three_stages_make_a_summary_of_six_layers(model):
    names = ["preprocessing", "stage0", "stage1", "stage2", "norm", "head"]
    assert [layer.name for layer in model.layers[1:]] == names


# Input


@any_backend
def test_preprocessing_in_the_model_equals_normalised_images(model):
    bare = build(include_preprocessing=False)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    normalised = ((IMAGES / 255 - mean) / std).astype("float32")
    assert_close(bare(normalised), model(IMAGES))


@any_backend
@pytest.mark.parametrize("dtype", ["uint8", "int32"])
def test_integer_pixels_give_what_floats_give(model, dtype):
    assert_close(model(IMAGES.astype(dtype)), model(IMAGES))


@any_backend
def test_an_input_tensor_of_integers_gives_what_floats_give(model):
    image = keras.Input((32, 40, 3), dtype="uint8")
    assert_close(build(input_tensor=image)(IMAGES.astype("uint8")), model(IMAGES))


@any_backend
def test_a_network_without_preprocessing_accepts_integers():
    image = keras.Input((32, 40, 3), dtype="uint8")
    bare = build(input_tensor=image, include_preprocessing=False)
    assert bare.input is image
    assert bare(IMAGES.astype("uint8")).shape == (len(IMAGES), bare.output.shape[-1])


def test_an_input_tensor_becomes_the_models_input(model):
    image = keras.Input((32, 40, 3), name="image")
    built = build(input_tensor=image)
    assert built.inputs == [image]
    assert_close(built(IMAGES), model(IMAGES))


@any_backend
def test_layers_in_front_of_an_input_tensor_become_part_of_the_model(model):
    grey = keras.Input((32, 40, 1))
    built = build(input_tensor=keras.layers.Concatenate()([grey, grey, grey]))
    images = IMAGES[..., :1]
    assert_close(built(images), model(np.repeat(images, 3, axis=-1)))


def test_input_tensor_and_input_shape_must_agree():
    with pytest.raises(ValueError, match="disagree.*Received"):
        build(input_tensor=keras.Input((32, 40, 3)), input_shape=(32, 32, 3))


@pytest.mark.parametrize("input_shape", [(32, 32), (32, 32, None), (1, 32, 32, 3)])
def test_an_input_shape_that_is_not_that_of_an_image_is_refused(input_shape):
    with pytest.raises(ValueError, match="Received: input_shape="):
        build(input_shape=input_shape)


def test_images_of_other_channels_work_without_preprocessing():
    built = build(include_preprocessing=False, input_shape=(32, 40, 2))
    assert built(IMAGES[..., :2]).shape == (2, CLASSES)


def test_another_number_of_channels_at_call_is_an_error(model):
    with pytest.raises(ValueError, match="incompatible"):
        model(normal((1, 32, 32, 4)))


@any_backend
def test_a_batch_of_one_keeps_its_axis_and_its_values(single):
    assert_close(single(IMAGES[:1]), single(IMAGES)[:1])


def test_the_error_for_channels_first_names_the_remedy():
    keras.config.set_image_data_format("channels_first")
    try:
        with pytest.raises(ValueError, match="set_image_data_format.*Received"):
            build()
    finally:
        keras.config.set_image_data_format("channels_last")


@any_backend
def test_odd_and_unknown_sizes_give_what_known_ones_give(single):
    images = IMAGES[:, :31, :37]
    assert_close(build(ONE_STAGE, input_shape=(31, 37, 3))(images), single(images))


# Output


@any_backend
def test_softmax_is_the_activation_of_the_logits(model):
    logits = to_numpy(build(classifier_activation=None)(IMAGES))
    exponents = np.exp(logits - logits.max(-1, keepdims=True))
    assert_close(model(IMAGES), exponents / exponents.sum(-1, keepdims=True))


def backbone(config=CONFIG, pooling=None):
    """A backbone, and a whole model with the same weights."""
    built = build(config, include_top=False, pooling=pooling)
    whole = build(config)
    for ours, theirs in zip(built.weights, whole.weights, strict=False):
        assert ours.path == theirs.path
        ours.assign(theirs)
    return built, whole


@any_backend
def test_without_pooling_the_output_is_the_last_map_before_the_norm():
    built, whole = backbone()
    pyramid = keras.Model(whole.input, whole.pyramid_outputs)
    assert_close(built(IMAGES), pyramid(IMAGES)["P4"])


@any_backend
@pytest.mark.parametrize(("pooling", "pool"), [("avg", np.mean), ("max", np.max)])
def test_avg_and_max_pool_the_last_map_before_the_norm(pooling, pool):
    built, whole = backbone(pooling=pooling)
    pyramid = keras.Model(whole.input, whole.pyramid_outputs)
    assert_close(built(IMAGES), pool(to_numpy(pyramid(IMAGES)["P4"]), axis=(1, 2)))


WITHOUT_TOKEN = CvTConfig((StageConfig(8, 1, 2, 7, 4, 2),))


@any_backend
@pytest.mark.parametrize(
    "config", [CONFIG, WITHOUT_TOKEN], ids=["class token", "mean of positions"]
)
def test_token_pooling_gives_the_input_of_the_head(config):
    built, whole = backbone(config, pooling="token")
    assert_close(whole.get_layer("head")(built(IMAGES)), whole(IMAGES))


@any_backend
def test_without_a_class_token_the_head_gets_the_mean_of_the_normalised_map():
    whole = build(WITHOUT_TOKEN)
    feature_map = keras.Model(whole.input, whole.pyramid_outputs)(IMAGES)["P2"]
    mean = to_numpy(whole.get_layer("norm")(feature_map)).mean((1, 2))
    assert_close(whole(IMAGES), whole.get_layer("head")(mean))


# Precision and compilation


@pytest.fixture
def mixed():
    keras.config.set_dtype_policy("mixed_bfloat16")
    yield build(ONE_STAGE)
    keras.config.set_dtype_policy("float32")


@any_backend
def test_mixed_precision_ends_in_a_float32_head_close_to_float32(mixed, single):
    outputs = mixed(IMAGES)
    assert keras.backend.standardize_dtype(outputs.dtype) == "float32"
    assert_close(outputs, single(IMAGES), atol=0.05)


@any_backend
def test_mixed_precision_stages_compute_in_half_with_float32_weights(mixed):
    assert {str(v.dtype) for v in mixed.weights} == {"float32"}
    assert {s.compute_dtype for s in mixed.stages} == {"bfloat16"}


def test_the_dtype_argument_overrides_the_global_policy():
    built = build(dtype="mixed_bfloat16")
    assert {stage.compute_dtype for stage in built.stages} == {"bfloat16"}


@any_backend
@pytest.mark.skipif(BACKEND == "torch", reason="torch.compile takes a minute")
def test_jit_compiled_and_plain_predict_agree():
    outputs = []
    for jit_compile in (True, False):
        compiled = build(ONE_STAGE)
        compiled.compile(jit_compile=jit_compile)
        outputs.append(compiled.predict(IMAGES, verbose=0))
    assert_close(*outputs)


@any_backend
@pytest.mark.skipif(BACKEND != "torch", reason="only for PyTorch")
def test_a_program_of_torch_export_computes_the_same():
    """`torch.compile` takes such a program, but gives up on Keras's layers."""
    import torch

    model = build()
    images = ops.convert_to_tensor(IMAGES)
    program = torch.export.export(model, (images,))
    with torch.inference_mode():
        assert_close(program.module()(images), model(images))


# Training


@pytest.fixture(scope="module")
def trained():
    """All variables before and after one training step."""
    model = build(ONE_STAGE)
    before = {v.path: to_numpy(v) for v in model.weights}
    model.compile("sgd", "sparse_categorical_crossentropy")
    model.fit(IMAGES, np.array([0, 1]), epochs=1, verbose=0)
    return before, {v.path: to_numpy(v) for v in model.weights}


def changed(trained, ending):
    before, after = trained
    return [np.any(before[p] != after[p]) for p in before if p.endswith(ending)]


@any_backend
def test_a_training_step_changes_every_batch_norm_statistic(trained):
    statistics = changed(trained, "moving_mean") + changed(trained, "moving_variance")
    assert len(statistics) == 6 and all(statistics)


@any_backend
def test_a_training_step_changes_every_linear_kernel(trained):
    kernels = changed(trained, ("fc1/kernel", "fc2/kernel", "head/kernel"))
    assert len(kernels) == 3 and all(kernels)


@any_backend
def test_a_training_step_leaves_every_weight_finite(trained):
    assert all(np.all(np.isfinite(value)) for value in trained[1].values())


@pytest.mark.skipif(BACKEND != "tensorflow", reason="only TensorFlow traces steps")
@pytest.mark.parametrize("metrics", [None, ["accuracy"]])
def test_a_step_is_traced_once(metrics):
    model = build(ONE_STAGE)
    model.compile("adamw", "sparse_categorical_crossentropy", metrics=metrics)
    traced = []
    train_step, test_step = model.train_step, model.test_step
    model.train_step = lambda data: traced.append("train") or train_step(data)
    model.test_step = lambda data: traced.append("test") or test_step(data)
    labels = np.array([0, 1])
    model.evaluate(IMAGES, labels, verbose=0)
    model.fit(IMAGES, labels, epochs=2, verbose=0)
    assert traced == ["test", "train"]


def without_gradient(config):
    """Return the paths of the parameters that do not change a mix of the logits."""
    model = build(config, classifier_activation=None)
    mix = normal((len(IMAGES), CLASSES), seed=3)
    steps = gradients(model, lambda weights, y: ops.sum(weights * y), IMAGES, mix)
    # A constant added to every key changes no softmax: rounding noise remains.
    return {path for path, step in steps.items() if np.abs(step).max() < 1e-5}


def dw_bn(**arguments):
    last = {"cls_token": True, **arguments}
    return CvTConfig(
        (StageConfig(8, 1, 2, 7, 4, 2), StageConfig(8, 2, 2, 3, 2, 1, **last))
    )


def attention(stage, block, *names):
    return {f"stage{stage}/blocks/{block}/attn/{name}" for name in names}


@any_backend
def test_every_parameter_that_can_change_the_output_gets_a_gradient():
    # A shift of all keys has no effect. With a class token, BatchNorm shifts all keys
    # except one, which has.
    shifts = (
        attention(0, 0, "proj_k/bias", "conv_proj_k/bn/beta")
        | attention(1, 0, "proj_k/bias")
        | attention(1, 1, "proj_k/bias")
    )
    # The head gets the last block's class token, whose query skips the convolution.
    unused = attention(
        1,
        1,
        "conv_proj_q/conv/kernel",
        "conv_proj_q/bn/gamma",
        "conv_proj_q/bn/beta",
    )
    assert without_gradient(dw_bn()) == shifts | unused


@any_backend
def test_without_a_class_token_only_shifts_of_every_key_get_no_gradient():
    names = ("proj_k/bias", "conv_proj_k/bn/beta")
    assert without_gradient(dw_bn(cls_token=False)) == (
        attention(0, 0, *names) | attention(1, 0, *names) | attention(1, 1, *names)
    )


# Keras's own tools for smaller models


@any_backend
@pytest.mark.skipif(BACKEND == "jax", reason="compiles each operation, slowly")
@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize` method")
def test_int8_quantization_stays_close():
    built = build(ONE_STAGE)
    expected = to_numpy(built(IMAGES))
    built.quantize("int8")
    assert built.stages[0].blocks.blocks[0].mlp.fc1.quantization_mode == "int8"
    assert_close(built(IMAGES), expected, atol=0.05)


@any_backend
def test_lora_of_a_query_trains_two_small_kernels_instead_of_a_large_one():
    built = build(ONE_STAGE)
    expected = to_numpy(built(IMAGES))
    built.stages[0].blocks.blocks[0].attn.proj_q.enable_lora(2)
    paths = {
        v.path.rpartition("/")[2]
        for v in built.trainable_variables
        if "proj_q/" in v.path and "conv_proj" not in v.path
    }
    assert paths == {"lora_kernel_a", "lora_kernel_b", "bias"}
    assert_close(built(IMAGES), expected)


# The public builder


def test_cvt_builds_the_config_with_its_overrides():
    built = keras_cvt.CvT(CONFIG, classes=CLASSES, drop_path_rate=0.5)
    assert built.cvt_config == CONFIG.with_overrides(drop_path_rate=0.5)


def test_the_transform_has_the_size_of_the_input():
    built = keras_cvt.CvT(ONE_STAGE, input_shape=(64, 48, 3))
    assert built.eval_transform == EvalTransform((64, 48), 0.875)


def test_copies_have_the_same_class_names(tmp_path):
    model = build()
    assert model.class_names is None
    model.class_names = NAMES
    model.save(tmp_path / "m.keras")
    for other in (
        keras.models.load_model(tmp_path / "m.keras"),
        keras.models.clone_model(model),
        keras_cvt.deploy.fuse(model),
    ):
        assert other.class_names == tuple(NAMES)
    model.class_names = None
    assert model.class_names is None


def test_a_model_without_these_classes_has_no_class_names():
    model = build()
    model.class_names = NAMES
    features = model.get_layer("norm").output
    head = keras.layers.Dense(3, name="head")(features)
    assert CvTModel(model.input, head).class_names is None
    for output in (model.stages[0].output, model.pyramid_outputs):
        other = CvTModel(model.input, output)
        assert other.class_names is None
        with pytest.raises(ValueError, match="Expected 0 class names"):
            other.class_names = NAMES


@pytest.mark.parametrize(
    "names",
    [NAMES[:-1], "abcde", [], dict(enumerate(NAMES)), set(NAMES)],
)
def test_there_must_be_one_class_name_for_each_class(names):
    model = build()
    with pytest.raises(ValueError, match="Expected 5 class names"):
        model.class_names = names
    assert model.class_names is None


@pytest.mark.parametrize(
    ("name", "text"),
    [
        *((b"c\xc3\xa9", "cé"), (np.bytes_(b"cat"), "cat"), (np.str_("cat"), "cat")),
        *((7, "7"), (np.int64(7), "7")),
        *((x, None) for x in (None, 1.5, ["cat"], b"\xe9", "caf\udce9", "", " ")),
    ],
)
def test_class_names_are_text_in_utf8(name, text):
    model = build()
    names = (*NAMES[:-1], name)
    if text is None:
        with pytest.raises(ValueError, match="text in UTF-8. Received: "):
            model.class_names = names
    else:
        model.class_names = names
        assert model.class_names == (*NAMES[:-1], text)


def test_a_model_that_was_saved_with_an_empty_class_name_can_be_used_and_mended():
    model = build()
    model.get_layer("preprocessing").class_names = ("", *NAMES[1:])
    assert model.class_names == ("", *NAMES[1:])
    model.class_names = NAMES
    assert model.class_names == tuple(NAMES)


def test_a_fresh_head_does_not_get_the_class_names_of_the_checkpoint():
    state = state_dict.extract(build())
    checkpoint = Checkpoint("me", state, "official", class_names=tuple(NAMES))
    same = keras_cvt.CvT(CONFIG, weights=checkpoint, classes=CLASSES)
    assert same.class_names == tuple(NAMES)
    other = keras_cvt.CvT(CONFIG, weights=checkpoint, classes=3)
    body = keras_cvt.CvT(CONFIG, weights=checkpoint, include_top=False)
    assert other.class_names is None and body.class_names is None


def test_a_switch_of_onednn_that_is_set_late_is_a_warning_once(monkeypatch):
    monkeypatch.setenv("TF_SET_ONEDNN_FPMATH_MODE", "BF16")
    with pytest.warns(UserWarning, match="TF_SET_ONEDNN_FPMATH_MODE: set after"):
        build(ONE_STAGE)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        build(ONE_STAGE)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="only TensorFlow has oneDNN")
def test_training_with_frozen_weights_is_a_warning(monkeypatch):
    monkeypatch.setenv("TF_ONEDNN_ASSUME_FROZEN_WEIGHTS", "1")
    model = build(ONE_STAGE)
    model.compile("sgd", "sparse_categorical_crossentropy")
    with pytest.warns(UserWarning, match="weights of the first step"):
        model.fit(IMAGES, np.array([0, 1]), epochs=1, verbose=0)
