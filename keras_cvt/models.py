"""The functional graph of CvT."""

import dataclasses
from collections.abc import Sequence

import keras
from keras import layers

from keras_cvt import validation
from keras_cvt.config import CvTConfig, StageConfig
from keras_cvt.eval_transform import EvalTransform
from keras_cvt.layers import ConvTransformerStage, ImagePreprocessing

_POOLINGS = (None, "avg", "max", "token")


@keras.saving.register_keras_serializable(package="keras_cvt")
class CvTModel(keras.Model):
    """A functional CvT: `preprocessing`, `stage0`, `stage1`, ..., `norm`, `head`.

    `keras_cvt.CvT`, `CvT13`, `CvT21` and `CvTW24` return one. What it knows beyond
    a `keras.Model` it reads off its layers, so that it survives saving, loading and
    cloning.
    """

    @property
    def stages(self) -> list[ConvTransformerStage]:
        """The stages, first to last."""
        return [
            layer for layer in self.layers if isinstance(layer, ConvTransformerStage)
        ]

    @property
    def cvt_config(self) -> CvTConfig:
        """The configuration that this network was built from."""
        stages = self.stages
        return CvTConfig(
            stages=tuple(stage.config for stage in stages),
            activation=stages[0].activation,
            init=stages[0].init,
            final_norm=stages[0].final_norm,
        )

    @property
    def eval_transform(self) -> EvalTransform:
        """How images are resized and cropped for this network's weights."""
        layer = self.get_layer("preprocessing")
        return EvalTransform(layer.image_size, layer.crop_ratio)

    @eval_transform.setter
    def eval_transform(self, transform: EvalTransform):
        layer = self.get_layer("preprocessing")
        layer.image_size = transform.image_size
        layer.crop_ratio = transform.crop_ratio

    @property
    def labels(self) -> tuple[str, ...] | None:
        """The classes' names, in the order of the outputs, if they are known.

        They are saved with the model, and exported files, pages on the Hub and the
        command line take them from here. `weights=` brings them, training sets them,
        `load_checkpoint` leaves them alone. Set a name for each class, or None.

        Raises:
            ValueError: If they are set and not one for each class, or if the model
                has no classes.
        """
        labels = self.get_layer("preprocessing").labels
        # A new head may have been put on the layers of an old one.
        return None if labels is None or len(labels) != self._classes else labels

    @labels.setter
    def labels(self, labels: Sequence[str] | None):
        if labels is not None:
            labels = validation.check_labels(labels, self._classes)
        self.get_layer("preprocessing").labels = labels

    @property
    def _classes(self):
        shape = getattr(self.output, "shape", ())
        return shape[-1] if len(shape) == 2 else 0

    @property
    def pyramid_outputs(self) -> dict[str, keras.KerasTensor]:
        """The stages' maps as symbolic tensors, by level.

        Level `"P3"` has stride 2**3: for the published networks `"P2"`, `"P3"` and
        `"P4"`, of shape (B, H / 4, W / 4, C) and so on. Where stages share a stride,
        the last of them stands for it.

        Example:
            >>> backbone = keras_cvt.CvT13(include_top=False, weights=None)
            >>> pyramid = keras.Model(backbone.input, backbone.pyramid_outputs)

        Raises:
            ValueError: If a stage's cumulative stride is no power of 2, or if the
                model was fused into one that computes no last map.
        """
        levels = {}
        stride = 1
        for stage in self.stages:
            stride *= stage.config.patch_stride
            if stride & (stride - 1):
                raise ValueError(
                    "Pyramid levels are powers of 2. "
                    f"Received: {stage.name} with a cumulative stride of {stride}"
                )
            feature_map = _feature_map(stage.output)
            if len(feature_map.shape) != 4:
                raise ValueError(
                    "Expected stages that compute maps; fuse the pyramid itself, "
                    "`keras_cvt.deploy.fuse(keras.Model(model.input, "
                    "model.pyramid_outputs))`. "
                    f"Received: {stage.name} with only its class token"
                )
            levels[f"P{stride.bit_length() - 1}"] = feature_map
        return levels

    def make_train_function(self, force=False):
        # On TensorFlow Keras leaves the optimizer's variables to the first step: each
        # becomes a subgraph of it, and the whole step is traced a second time.
        unbuilt = self.optimizer is not None and not self.optimizer.built
        if unbuilt and keras.backend.backend() == "tensorflow":
            with self.distribute_strategy.scope():
                self.optimizer.build(self.trainable_variables)
        return super().make_train_function(force)

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        # What `metrics=["accuracy"]` stands for depends on the labels, so that Keras
        # makes it within the first step, and TensorFlow traces that a second time.
        unbuilt = self._compile_metrics is not None and not self._compile_metrics.built
        if unbuilt and keras.backend.backend() == "tensorflow":
            import tensorflow as tf

            # Variables that are made here would count as the step's own all the same.
            def not_lifted(make, **options):
                options["experimental_enable_variable_lifting"] = False
                return make(**options)

            with tf.init_scope(), tf.variable_creator_scope(not_lifted):
                self._compile_metrics.build(y, y_pred)
        return super().compute_metrics(x, y, y_pred, sample_weight)


def build_model(
    config: CvTConfig,
    *,
    eval_transform: EvalTransform,
    include_top: bool = True,
    input_tensor=None,
    input_shape: tuple[int | None, ...] | None = None,
    pooling: str | None = None,
    classes: int = 1000,
    classifier_activation=None,
    include_preprocessing: bool = True,
    name: str = "cvt",
    dtype=None,
) -> CvTModel:
    """Build the graph of a configuration, with fresh weights.

    The arguments are those of `keras_cvt.CvT`; `eval_transform` is recorded in the
    model.
    """
    _check_top(include_top, pooling, classes)
    policy = keras.dtype_policies.get(dtype or keras.config.dtype_policy())
    inputs = _inputs(input_tensor, input_shape)
    x = ImagePreprocessing(
        eval_transform.image_size,
        eval_transform.crop_ratio,
        normalize=include_preprocessing,
        # Pixels keep their precision up to the first convolution.
        dtype="float32",
        name="preprocessing",
    )(inputs)
    for i, stage in enumerate(config.stages):
        outputs = ConvTransformerStage(
            **_fields(stage),
            activation=config.activation,
            init=config.init,
            final_norm=config.final_norm,
            dtype=policy,
            name=f"stage{i}",
        )(x)
        x = _feature_map(outputs)

    if include_top or pooling == "token":
        token = outputs[1] if config.stages[-1].cls_token else None
        x = x if token is None else token
        if config.final_norm:
            x = layers.LayerNormalization(epsilon=1e-5, dtype=policy, name="norm")(x)
        if token is None:
            x = layers.GlobalAveragePooling2D(
                data_format="channels_last", dtype=policy, name="pool"
            )(x)
    elif pooling is not None:
        pool = {
            "avg": layers.GlobalAveragePooling2D,
            "max": layers.GlobalMaxPooling2D,
        }[pooling]
        x = pool(data_format="channels_last", dtype=policy, name="pool")(x)
    if include_top:
        x = layers.Dense(
            classes,
            activation=classifier_activation,
            kernel_initializer=keras.initializers.RandomNormal(stddev=0.02),
            # Logits, softmax and loss in half precision lose accuracy.
            dtype=policy.variable_dtype,
            name="head",
        )(x)
    model_inputs = inputs
    if input_tensor is not None:
        model_inputs = keras.utils.get_source_inputs(inputs)
        if len(model_inputs) == 1:
            (model_inputs,) = model_inputs
    return CvTModel(model_inputs, x, name=name)


def _check_top(include_top, pooling, classes):
    if pooling not in _POOLINGS:
        raise ValueError(
            f"`pooling` must be one of {_POOLINGS}. Received: pooling={pooling!r}"
        )
    if include_top and pooling is not None:
        raise ValueError(
            "`pooling` shapes the output of a model without its head; pass "
            f"`include_top=False` with it. Received: pooling={pooling!r}"
        )
    if include_top and (not isinstance(classes, int) or classes < 1):
        raise ValueError(
            "`classes` must be a positive integer; for a model without a head pass "
            f"`include_top=False`. Received: classes={classes!r}"
        )


def _inputs(input_tensor, input_shape):
    if keras.config.image_data_format() != "channels_last":
        raise ValueError(
            "keras_cvt takes images as (B, H, W, C); call "
            "keras.config.set_image_data_format('channels_last'). "
            f"Received: image_data_format={keras.config.image_data_format()!r}"
        )
    if input_tensor is not None:
        if not keras.utils.is_keras_tensor(input_tensor):
            input_tensor = keras.Input(tensor=input_tensor)
        shape = tuple(input_tensor.shape[1:])
        if input_shape is not None and tuple(input_shape) != shape:
            raise ValueError(
                "`input_shape` and `input_tensor` disagree. Received: "
                f"input_shape={input_shape}, input_tensor of shape {shape}"
            )
        input_shape = shape
    input_shape = (None, None, 3) if input_shape is None else input_shape
    is_shape = isinstance(input_shape, (tuple, list)) and len(input_shape) == 3
    if not is_shape or input_shape[-1] is None:
        raise ValueError(
            "`input_shape` must be (height, width, channels); height and width may "
            f"be None. Received: input_shape={input_shape}"
        )
    return keras.Input(input_shape) if input_tensor is None else input_tensor


def _fields(stage: StageConfig):
    return {
        field.name: getattr(stage, field.name) for field in dataclasses.fields(stage)
    }


def _feature_map(stage_outputs):
    """A stage with a class token returns (map, token), any other its map."""
    if isinstance(stage_outputs, (tuple, list)):
        return stage_outputs[0]
    return stage_outputs
