"""Convert a checkpoint: read, build, compare, save and compare what was saved."""

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

from keras_cvt import builders, checkpoints, zoo
from keras_cvt._utils import files
from keras_cvt.checkpoints import layouts, sources, state_dict, transformers_format
from keras_cvt.config import CvTConfig
from keras_cvt.description import ModelDescription
from keras_cvt.layers.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from keras_cvt.models import CvTModel
from keras_cvt.repository import client

logger = logging.getLogger(__name__)

# Float32 outputs of two correct implementations differ by about 1e-6.
TOLERANCE = 2e-5


class ComparisonError(ValueError):
    """Two networks that should compute the same do not."""


@dataclass(frozen=True)
class ConversionReport:
    """The result of a conversion.

    Attributes:
        layout: The layout that the checkpoint was found in.
        config: The configuration of the network.
        classes: Number of classes.
        entries: Number of arrays that were loaded.
        reference_difference: Largest difference from the logits of the reference, or
            None if there was no reference.
        saved_difference: Largest difference between the logits of the model and of
            the saved file, loaded again.
    """

    layout: str
    config: CvTConfig
    classes: int
    entries: int
    reference_difference: float | None
    saved_difference: float


@dataclass(frozen=True)
class Converted:
    """A classifier with the weights of a checkpoint, compared and not yet saved.

    Attributes:
        model: The classifier; see `build` for what it takes and gives.
        layout: The layout that the checkpoint was found in.
        record: The published weights that the checkpoint is, or None.
        entries: Number of arrays that were loaded.
        images: The images that it was compared on, (B, H, W, C), as the model takes
            them.
        logits: The logits that it computes from them, (B, classes).
        reference_difference: See `ConversionReport`.
    """

    model: CvTModel
    layout: str
    record: zoo.WeightsRecord | None
    entries: int
    images: np.ndarray
    logits: np.ndarray
    reference_difference: float | None = None


def convert(
    checkpoint: str | os.PathLike,
    out: str | os.PathLike,
    config: CvTConfig | None = None,
    activation: str | None = None,
    reference: str | os.PathLike | None = None,
    tolerance: float = TOLERANCE,
) -> ConversionReport:
    """Convert a checkpoint and check that the result is the same network.

    Args:
        checkpoint: A file or folder in any layout of `keras_cvt.checkpoints`,
            `"hf://org/repo"`, also with `@revision`, a published name such as
            `"cvt13/imagenet"`, or a `.keras` file, which Keras loads as a whole: its
            class names, activation and evaluation transform go where `out` has a place
            for them, all but `.weights.h5`, `.safetensors` and `.pth`.
        out: Where to save. A name that ends in `.keras` saves the whole classifier,
            which gives probabilities (if it has one output, this number as it is) and,
            if its images have 3 channels, takes pixels of 0-255. What `keras_cvt` or
            transformers wrote beside the checkpoint goes before that. `.weights.h5`,
            `.safetensors` and `.pth` save the weights (the latter two in the official
            layout). A name without a suffix is a folder in the layout of transformers.
        config: The network. Defaults to `None`: the configuration that comes with
            the checkpoint, or the published network whose shapes fit. A `.keras` file
            takes no other.
        activation: `"quick_gelu"` or `"gelu"`. Defaults to `None`: what the origin of
            the checkpoint says. A `.keras` file takes no other.
        reference: An `.npz` file of another implementation with `input`, normalised
            images (B, H, W, C), and `logits` (B, classes). Defaults to `None`.
        tolerance: Largest allowed difference of any logit. Defaults to `2e-5`.

    Returns:
        What was loaded and how it compared.

    Raises:
        CheckpointError: If the checkpoint cannot be read or does not fit.
        ComparisonError: If the outputs differ. Nothing is saved then.
        ValueError: If `out` or the configuration is not valid.

    Example:
        >>> keras_cvt.conversion.convert("CvT-13-224x224-IN-1k.pth", "model.keras")
    """
    out = Path(out)
    save = _saver(out)
    done = load(checkpoint, config, activation, reference, tolerance)
    # Compared under a temporary name: a file that differs never gets the real one.
    with files.staged(out, merge=True) as written:
        save(done.model, written)
        saved_difference = _compare_saved(written, done, tolerance)
    return ConversionReport(
        layout=done.layout,
        config=done.model.cvt_config,
        classes=done.logits.shape[-1],
        entries=done.entries,
        reference_difference=done.reference_difference,
        saved_difference=saved_difference,
    )


def load(
    checkpoint: str | os.PathLike,
    config: CvTConfig | None = None,
    activation: str | None = None,
    reference: str | os.PathLike | None = None,
    tolerance: float = TOLERANCE,
) -> Converted:
    """Build the classifier of a checkpoint and compare it with a reference.

    The arguments are those of `convert`.

    Raises:
        CheckpointError: If the checkpoint cannot be read or does not fit.
        ComparisonError: If the outputs differ from those of the reference.
    """
    source = None
    if is_keras_file(checkpoint):
        if config is not None or activation is not None:
            raise ValueError(
                "A .keras file is a whole network; leave out config= and activation=. "
                f"Received: {checkpoint}"
            )
        model = load_keras_file(checkpoint)
        if not model.description.classes:
            raise checkpoints.CheckpointError(
                "Expected a model with a head, whose logits can be compared. "
                f"Received: {checkpoint}"
            )
        entries = len(state_dict.official_variables(model))
    else:
        source = sources.resolve(checkpoint, None, config)
        model = _Target(source, config, activation).build()
        # The builder loads strictly: all arrays fit, and all are in the model.
        entries = len(source.state)
    if reference is None:
        expected, images = None, example_images(model.description)
    else:
        images, expected = _read_reference(reference, model.description)
    found, difference = logits(model, images), None
    if expected is not None:
        difference = compare(found, expected, tolerance, "the reference")
    layout, record = (source.layout, source.record) if source else ("keras", None)
    return Converted(model, layout, record, entries, images, found, difference)


def is_keras_file(name: str | os.PathLike) -> bool:
    """Tell whether a model's name is the path of a `.keras` file."""
    return os.fspath(name).endswith(".keras") and not (
        isinstance(name, str) and name.startswith(client.SCHEME)
    )


def load_keras_file(path: str | os.PathLike) -> CvTModel:
    """Load a `.keras` file, without its optimizer and loss.

    Raises:
        FileNotFoundError: If there is no such file.
        CheckpointError: If it is damaged or not a model of keras_cvt.
    """
    if not Path(path).is_file():  # Keras would look for it on the web
        raise FileNotFoundError(f"There is no .keras file {os.fspath(path)!r}.")
    try:
        # A loss or a metric may be code that this process does not have.
        model = keras.models.load_model(path, compile=False)
    except ImportError:
        raise
    except Exception as error:  # of many types, even for one damaged byte
        raise checkpoints.CheckpointError(
            f"Keras cannot load {path}: {type(error).__name__}: {str(error)[:500]}"
        ) from error
    if not isinstance(model, CvTModel):
        raise checkpoints.CheckpointError(
            f"Expected a model of keras_cvt. Received: {path}"
        )
    return model


@dataclass(frozen=True)
class _Target:
    """The classifier that a checkpoint is converted into.

    Attributes:
        source: The checkpoint.
        given_config: The configuration that the caller wants, or None.
        given_activation: The activation that the caller wants, or None.
    """

    source: sources.Checkpoint
    given_config: CvTConfig | None
    given_activation: str | None

    def build(self) -> CvTModel:
        """Return the classifier with the weights, which all fit."""
        source, config, activation = self.source, self.config, self.activation
        if source.classes is None or source.channels is None:
            raise checkpoints.CheckpointError(
                "Expected a checkpoint with all stages and a head, whose logits can be "
                f"compared. Received: {source.source}"
            )
        if activation not in (None, config.activation):
            logger.warning("The checkpoint is converted as activation=%r.", activation)
        return build(source, config, activation=activation)

    @property
    def config(self) -> CvTConfig:
        """The wanted network, the one that was trained, or the one that fits."""
        return self.given_config or self.source.config or _recognise(self.source.state)

    @property
    def activation(self) -> str | None:
        """The wanted activation, or the one that the weights were trained with."""
        # The config.json of transformers, which may lie beside an official checkpoint,
        # means "gelu" if it names no activation. The official code never runs that.
        official = "quick_gelu" if self.source.layout == "official" else None
        return self.given_activation or self.source.activation or official


def _recognise(state) -> CvTConfig:
    """Return the published network whose widths and depths a checkpoint has."""
    found = layouts.dims_and_depths(state)
    for config in zoo.MODELS.values():
        dims = [stage.embed_dim for stage in config.stages]
        if found == (dims, [stage.depth for stage in config.stages]):
            return config
    raise checkpoints.CheckpointError(
        "Expected a checkpoint of one of the published networks "
        f"({', '.join(zoo.MODELS)}); pass config= for any other. "
        f"Received: {len(state)} arrays of other shapes"
    )


def build(
    source: sources.Checkpoint, config: CvTConfig, activation: str | None = None
) -> CvTModel:
    """Build the classifier that a checkpoint is, with its weights.

    It takes and gives what `keras_cvt` wrote about it. Any other checkpoint becomes a
    model that takes pixels of 0-255 if it has 3 channels, and ends in the activation
    that transformers' `problem_type` stands for. By default this is a softmax, or none
    for a single output: it may be a logit or a number.

    Args:
        source: Weights with all stages and a head.
        config: The network.
        activation: `"quick_gelu"` or `"gelu"`. Defaults to `None`: that of the source.
    """
    described, kind = source.description, source.problem_type
    if described is not None and described.classes:
        arguments = described.builder_arguments()
    else:
        pixels = source.channels == len(IMAGENET_MEAN)
        head = transformers_format.HEADS[kind or "single_label_classification"]
        # A softmax over one output would always be 1.
        head = None if head == "softmax" and source.classes == 1 else head
        arguments = {
            "classes": source.classes,
            "input_shape": (None, None, source.channels),
            "classifier_activation": head,
            "include_preprocessing": pixels,
        }
    arguments |= {"config": config, "activation": activation}
    model = builders.CvT(**arguments, weights=source)
    if "regression" in (kind, described and described.outputs):
        model.output_kind = "regression"
    return model


def example_images(description: ModelDescription) -> np.ndarray:
    """Return two images of random noise, as a model takes them.

    Returns:
        float32 (2, H, W, C), the same every time. They have the size of the model, or
        of its evaluation transform if it takes any size.
    """
    sizes = (description.image_size, description.eval_transform.image_size)
    height, width = (own or default for own, default in zip(*sizes, strict=True))
    images = np.random.default_rng(0).standard_normal(
        (2, height, width, description.channels), dtype="float32"
    )
    images = _as_taken(images, description)
    return images if description.value_range is None else np.clip(images, 0, 255)


def _as_taken(images, description):
    """Turn normalised images into what a model takes: pixels of 0-255, or these."""
    if description.value_range is None:
        return images
    mean, std = np.float32(IMAGENET_MEAN), np.float32(IMAGENET_STD)
    if description.channels != len(mean):
        mean, std = mean.mean(), std.mean()
    return 255 * (images * std + mean)


def _read_reference(path, description):
    with np.load(path, allow_pickle=False) as archive:
        if not {"input", "logits"} <= set(archive.files):
            raise ValueError(
                "Expected a reference with `input` and `logits`. "
                f"Received: {path} with {archive.files}"
            )
        return _as_taken(archive["input"], description), archive["logits"]


def logits(model: CvTModel, images: np.ndarray) -> np.ndarray:
    """Return the logits of a classifier, whatever the activation of its head is.

    Args:
        model: A model with a head.
        images: (B, H, W, C), as the model takes them.

    Returns:
        The logits, (B, classes).
    """
    network = model.with_activation(None)
    # A model of its own: `with_activation` may have returned `model` itself.
    network = keras.Model(network.input, network.output)
    # Compiling the network would take longer than running it once.
    network.run_eagerly = True
    return network.predict(images, verbose=0)


def compare(
    logits: np.ndarray, expected: np.ndarray, tolerance: float, name: str
) -> float:
    """Return the largest difference between two arrays of logits.

    Args:
        logits: (B, classes).
        expected: (B, classes).
        tolerance: Largest allowed difference.
        name: What an error message calls `expected`.

    Raises:
        ComparisonError: If they have different shapes, differ by more than
            `tolerance`, or hold NaN.
    """
    if logits.shape != expected.shape:
        raise ComparisonError(
            f"Expected logits of the shape of {name}, {expected.shape}. "
            f"Received: shape={logits.shape}"
        )
    difference = float(np.max(np.abs(logits - expected)))
    # Written so that NaN fails.
    if not difference <= tolerance:
        raise ComparisonError(
            f"The logits differ from {name} by {difference:.3g}; at most "
            f"{tolerance:.3g} is allowed."
        )
    return difference


def _saver(out) -> Callable[[CvTModel, Path], None]:
    save = checkpoints.save_checkpoint
    if out.suffix == ".keras":
        return lambda model, path: model.save(path)
    if out.name.endswith(".weights.h5"):
        return lambda model, path: model.save_weights(path)
    if out.suffix in (".safetensors", ".pth", ".pt", ".bin"):
        return save
    if not out.suffix:
        return lambda model, path: save(model, path, layout="transformers")
    raise ValueError(
        "Expected an output that ends in .keras, .weights.h5, .safetensors or .pth, "
        f"or a folder without a suffix. Received: {out}"
    )


def _compare_saved(path, done, tolerance):
    """Run what was saved, and return its largest difference from the model."""
    if path.suffix == ".keras":
        saved = keras.models.load_model(path)
        if saved.description != done.model.description:
            raise ComparisonError(
                f"Expected a model that saves as {done.model.description}. "
                f"Received: {saved.description}"
            )
    else:
        # In a network of its own: the weights of the model must not stay in it.
        saved = keras.models.clone_model(done.model)
        checkpoints.load_checkpoint(saved, path)
    found = logits(saved, done.images)
    return compare(found, done.logits, tolerance, "what was saved")
