"""The functional graph of CvT."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import layers

from keras_cvt import intermediates, profile
from keras_cvt._utils import graphs, onednn, pipelines, tensorflow_training, validation
from keras_cvt.config import CvTConfig
from keras_cvt.description import (
    OUTPUT_KINDS,
    ModelDescription,
    config_of,
    cvt_stages,
    describe,
    find_head,
    find_preprocessing,
)
from keras_cvt.eval_transform import EvalTransform
from keras_cvt.layers import ConvTransformerStage, ImagePreprocessing

_POOLINGS = (None, "avg", "max", "token")


@keras.saving.register_keras_serializable(package="keras_cvt")
class CvTModel(keras.Model):
    """A functional CvT: `preprocessing`, `stage0`, `stage1`, ..., `norm`, `head`.

    `keras_cvt.CvT`, `CvT13`, `CvT21` and `CvTW24` return one. It answers for itself:
    what it takes, what it gives, its class names and where its weights come from. It
    reads the answers off its graph, so that they survive saving, loading, cloning, a
    new head and layers in front.
    """

    @property
    def description(self) -> ModelDescription:
        """What the model takes and gives; see `keras_cvt.description`."""
        return describe(self)

    @property
    def stages(self) -> list[ConvTransformerStage]:
        """The stages, first to last."""
        return cvt_stages(self)

    @property
    def cvt_config(self) -> CvTConfig:
        """The configuration of the network."""
        return config_of(self.stages)

    @property
    def classes(self) -> int:
        """Number of outputs of the head; 0 for a model without a head."""
        return self.description.classes

    @property
    def channels(self) -> int:
        """Number of channels of the images that the model takes."""
        return self.description.channels

    @property
    def eval_transform(self) -> EvalTransform:
        """How images are resized and cropped for this model's weights."""
        return self.description.eval_transform

    @eval_transform.setter
    def eval_transform(self, transform: EvalTransform):
        layer = self._facts
        layer.image_size = transform.image_size
        layer.crop_ratio = transform.crop_ratio

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """The class names in the order of the outputs, or None if they are not known.

        They are saved with the model. Exported files, pages on the Hub and the
        command line read them here. `weights=` and `training.fit` set them,
        `load_checkpoint` does not. To set them yourself, assign one name for each
        class, or None.

        Raises:
            ValueError: If what is assigned is not one name for each class.
        """
        return self.description.class_names

    @class_names.setter
    def class_names(self, names: Sequence[str] | None):
        if names is not None:
            names = validation.check_class_names(names, self.classes)
        self._facts.class_names = names

    # The name in version 0.1.0.
    labels = class_names

    @property
    def output_kind(self) -> str:
        """`"probabilities"`, `"logits"`, `"regression"` or `"features"`.

        A head without an activation gives logits, and a model without a head
        features. Assign `"regression"` if the head's outputs are plain numbers, and
        `"features"` if they are not scores of classes at all.

        Raises:
            ValueError: If the head's activation says something else.
        """
        return self.description.outputs

    @output_kind.setter
    def output_kind(self, kind: str):
        validation.check_choice(OUTPUT_KINDS, output_kind=kind)
        before, self._facts.output_kind = self._facts.output_kind, kind
        if self.output_kind != kind:
            self._facts.output_kind = before
            raise ValueError(
                "`output_kind` must agree with the model's head, whose activation is "
                f"{self.description.activation!r}. Received: output_kind={kind!r}"
            )

    @property
    def source_weights(self) -> str | None:
        """Where the weights come from, such as `"cvt13/imagenet"`, or None."""
        return self.description.source_weights

    @source_weights.setter
    def source_weights(self, source: str | None):
        self._facts.source_weights = source

    @property
    def _facts(self):
        return find_preprocessing(self)[0]

    def with_activation(self, activation: str | None) -> "CvTModel":
        """Return the model with another activation of its head.

        All other layers are shared with this model; the head is copied.

        Args:
            activation: `"softmax"`, `"sigmoid"` or another of Keras; None or
                `"linear"` for the logits.

        Raises:
            ValueError: If the model has no head.
        """
        head, current, inputs = find_head(self)
        if head is None:
            raise ValueError(f"Expected a model with a head. Received: {self.name!r}")
        wanted = activation or "linear"
        if wanted == current:
            return self
        config = {**head.get_config(), "activation": wanted}
        copy = type(head).from_config(config)
        outputs = copy(inputs)
        copy.set_weights(head.get_weights())
        return type(self)(self.inputs[0], outputs, name=self.name)

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
            feature_map = graphs.node_of(self, stage).output_tensors[0]
            if len(feature_map.shape) != 4:
                raise ValueError(
                    "Expected stages that compute maps; fuse the pyramid itself, "
                    "`keras_cvt.deploy.fuse(keras.Model(model.input, "
                    "model.pyramid_outputs))`. "
                    f"Received: {stage.name} with only its class token"
                )
            levels[f"P{stride.bit_length() - 1}"] = feature_map
        return levels

    @property
    def intermediate_names(self) -> list[str]:
        """The names that `intermediates` takes, in the order of the computation.

        - `"preprocessing"`, `"stage0"`, ..., `"norm"`, `"pool"`, `"head"` and other
          layers of the model: their outputs. That of a stage is its map
          (B, H', W', C).
        - `"stage0/embed"`: the map of a stage's embedding (B, H', W', C).
        - `"stage0/blocks/0"`: the tokens (B, T, C) of a block, the class token first.
        - `"stage0/blocks/0/attention"`: the attention weights (B, heads, T, S) of a
          block; see `keras_cvt.layers.ConvAttention`.
        """
        return intermediates.names(self)

    def intermediates(self, names: Sequence[str]) -> keras.Model:
        """Return a model that computes the named tensors of this network.

        It shares this model's layers and weights. It is an ordinary functional model:
        it takes images of any size that this model takes, trains, and saves and loads
        as `.keras`. Stages that no tensor needs are not computed.

        Args:
            names: Names of `intermediate_names`.

        Returns:
            A model with the inputs of this one, whose outputs are a dict from the names
            to the tensors.

        Raises:
            ValueError: If a name is unknown, or if it is of the inside of a fused
                stage.

        Example:
            >>> model = keras_cvt.CvT13(weights=None)
            >>> inside = model.intermediates(["stage0", "stage2/blocks/9/attention"])
            >>> inside(keras.ops.ones((1, 224, 224, 3)))["stage0"].shape
            (1, 56, 56, 64)
        """
        return intermediates.build(self, names)

    @property
    def distribute_strategy(self) -> Any:
        # Only TensorFlow's models have one.
        strategy = super().distribute_strategy
        if strategy.num_replicas_in_sync > 1:
            return strategy
        return pipelines.StrategyWithoutTuner(strategy)

    def make_train_function(self, force=False):
        onednn.warn_of_frozen_weights(keras.backend.backend())
        tensorflow_training.build_optimizer(self)
        return super().make_train_function(force)

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        tensorflow_training.build_metrics(self._compile_metrics, y, y_pred)
        return super().compute_metrics(x, y, y_pred, sample_weight)


# `model.save("x.h5")`, which is older than packages of classes, writes the bare name.
keras.saving.get_custom_objects()["CvTModel"] = CvTModel


def build_model(
    config: CvTConfig,
    *,
    eval_transform: EvalTransform,
    include_top: bool = True,
    input_tensor: Any = None,
    input_shape: tuple[int | None, ...] | None = None,
    pooling: str | None = None,
    classes: int = 1000,
    classifier_activation: Any = None,
    include_preprocessing: bool = True,
    name: str = "cvt",
    dtype: Any = None,
) -> CvTModel:
    """Build the graph of a configuration, with fresh weights.

    The arguments are those of `keras_cvt.CvT`. The model stores `eval_transform`, or
    its crop at the model's own image size if that is fixed.
    """
    onednn.warn_of_late_switch(keras.backend.backend())
    policy = keras.dtype_policies.get(dtype or keras.config.dtype_policy())
    inputs = _inputs(input_tensor, input_shape)
    transform = eval_transform.at_size(*inputs.shape[1:3])
    x = ImagePreprocessing(
        transform.image_size,
        transform.crop_ratio,
        normalize=include_preprocessing,
        # Pixels keep their precision up to the first convolution.
        dtype="float32",
        name="preprocessing",
    )(inputs)
    for i, stage in enumerate(config.stages):
        outputs = ConvTransformerStage(
            **vars(stage),
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


def check_arguments(
    config: CvTConfig,
    include_top: bool,
    input_tensor: Any,
    input_shape: tuple[int | None, ...] | None,
    pooling: str | None,
    classes: int,
    classifier_activation: Any,
    include_preprocessing: bool,
    name: str,
) -> None:
    """Raise ValueError unless `build_model` takes these arguments.

    It builds nothing, so that a wrong argument costs neither time nor a download.
    """
    if not isinstance(config, CvTConfig):
        raise ValueError(f"Expected a CvTConfig. Received: config={config!r}")
    validation.check_bool(
        include_top=include_top, include_preprocessing=include_preprocessing
    )
    validation.check_choice(_POOLINGS, pooling=pooling)
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
    keras.activations.get(classifier_activation)
    plain = "text without a '/'"
    validation.check(lambda x: isinstance(x, str) and "/" not in x, plain, name=name)
    _, height, width, channels = _inputs(input_tensor, input_shape).shape
    preprocessing = ImagePreprocessing(normalize=include_preprocessing)
    preprocessing.build((None, height, width, channels))
    # Raises if the images are too small.
    profile.profile(config, height or 2**20, width or 2**20, channels=channels)


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


def _feature_map(stage_outputs):
    """Return the map: a stage with a class token returns (map, token)."""
    if isinstance(stage_outputs, (tuple, list)):
        return stage_outputs[0]
    return stage_outputs
