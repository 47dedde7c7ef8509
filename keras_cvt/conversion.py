"""The second road up to a saved file: read, map, load strictly, compare, save."""

import logging
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

from keras_cvt import builders, weights, zoo
from keras_cvt.checkpoints import (
    CheckpointError,
    assign,
    load_checkpoint,
    save_checkpoint,
)
from keras_cvt.config import CvTConfig
from keras_cvt.layers.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from keras_cvt.models import CvTModel

logger = logging.getLogger(__name__)

# Float32 outputs of two correct implementations differ by about 1e-6.
TOLERANCE = 2e-5


class ComparisonError(ValueError):
    """The converted network does not compute what it should."""


@dataclass(frozen=True)
class ConversionReport:
    """What a conversion did.

    Attributes:
        layout: The layout that the checkpoint was found in.
        config: The network's configuration.
        classes: Number of classes.
        entries: Number of arrays that were loaded.
        reference_difference: Largest difference to the reference's logits, or None
            if there was no reference.
        saved_difference: Largest difference between the logits of the model and of
            what was saved, loaded again.
    """

    layout: str
    config: CvTConfig
    classes: int
    entries: int
    reference_difference: float | None
    saved_difference: float


@dataclass(frozen=True)
class Converted:
    """A network with its weights, compared and not yet saved.

    Attributes:
        model: Takes normalised images, gives logits.
        source: The checkpoint that the weights come from.
        entries: Number of arrays that were loaded.
        images: What it was compared on, normalised (B, H, W, C).
        logits: What it computes from them.
        reference_difference: See `ConversionReport`.
    """

    model: CvTModel
    source: weights.Checkpoint
    entries: int
    images: np.ndarray
    logits: np.ndarray
    reference_difference: float | None


def convert(
    checkpoint: str | os.PathLike,
    out: str | os.PathLike,
    config: CvTConfig | None = None,
    activation: str | None = None,
    reference: str | os.PathLike | None = None,
    tolerance: float = TOLERANCE,
) -> ConversionReport:
    """Convert a checkpoint and prove that the result is the same network.

    Args:
        checkpoint: A file or folder in any layout of `keras_cvt.checkpoints`,
            `"hf://org/repo"`, or a published name such as `"cvt13/imagenet"`.
        out: Where to save: `….keras` (the classifier, which takes pixels of 0-255
            where they have 3 channels and gives probabilities), `….weights.h5`,
            `….safetensors` or `….pth` (official layout), or a folder without a
            suffix (transformers' layout).
        config: The network; None takes what came with the checkpoint, or the
            published network whose shapes fit.
        activation: `"quick_gelu"` or `"gelu"`, against what the origin tells.
        reference: An `.npz` file with `input`, normalised images (B, H, W, C), and
            `logits` (B, classes), what another implementation computes from them.
        tolerance: Largest allowed difference of any logit.

    Returns:
        What was done and how it compared.

    Raises:
        CheckpointError: If the checkpoint cannot be read or does not fit.
        ComparisonError: If the outputs differ; nothing is saved then.
        ValueError: If `out` or the configuration is not understood.
    """
    out = Path(out)
    save = _saver(out)
    done = load(checkpoint, config, activation, reference, tolerance)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".converting-") as folder:
        # Compared under another name: what differs never takes the real one.
        written = Path(folder) / out.name
        # Whole models are for people: with their own normalisation.
        whole = out.suffix in ("", ".keras")
        save(classifier(done.model) if whole else done.model, written)
        saved_difference = _compare_saved(
            written, done.model, done.images, done.logits, tolerance
        )
        _move(written, out)
    return ConversionReport(
        layout=done.source.layout,
        config=done.model.cvt_config,
        classes=done.source.classes,
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
    """Read, map, load strictly and compare; the arguments are `convert`'s.

    Raises:
        CheckpointError: If the checkpoint cannot be read or does not fit.
        ComparisonError: If the outputs differ from the reference's.
    """
    source = weights.resolve(checkpoint)
    config = config or source.config or _recognise(source)
    if source.classes is None:
        raise CheckpointError(f"{checkpoint} has no head, and so no logits to compare.")
    model = _build(config, source, activation)
    report = load_checkpoint(model, source.state)
    if source.eval_transform is not None:
        model.eval_transform = source.eval_transform
    model.labels = source.labels or None

    reference_difference = None
    if reference is not None:
        images, expected = _read_reference(reference)
        logits = model.predict(images, verbose=0)
        reference_difference = compare(logits, expected, tolerance, "the reference")
    else:
        images = np.random.default_rng(0).standard_normal(
            (2, *model.eval_transform.image_size, source.channels), dtype="float32"
        )
        logits = model.predict(images, verbose=0)
    return Converted(
        model, source, len(report.loaded), images, logits, reference_difference
    )


def _build(config, source, activation):
    """Build what a reference computes: normalised images in, logits out."""
    # transformers' config.json, which may describe an official checkpoint, says
    # "gelu" where it says nothing; the official code never runs that.
    official = "quick_gelu" if source.layout == "official" else None
    activation = activation or source.activation or official
    if activation not in (None, config.activation):
        logger.warning("The checkpoint is converted as activation=%r.", activation)
    return builders.CvT(
        config,
        classes=source.classes,
        input_shape=(None, None, source.channels),
        include_preprocessing=False,
        classifier_activation=None,
        activation=activation,
    )


def classifier(model: CvTModel) -> CvTModel:
    """Return the network as people use it: pixels in, probabilities out."""
    channels = model.input.shape[-1]
    classifier = builders.CvT(
        model.cvt_config,
        classes=model.output.shape[-1],
        input_shape=(None, None, channels),
        include_preprocessing=channels == 3,
    )
    assign.assign(classifier, assign.extract(model))
    classifier.eval_transform = model.eval_transform
    classifier.labels = model.labels
    return classifier


def _recognise(source) -> CvTConfig:
    """Find the published network that has these shapes."""
    shapes = {key: a.shape for key, a in source.state.items() if "head." not in key}
    for config in zoo.MODELS.values():
        dims = [stage.embed_dim for stage in config.stages]
        depths = [stage.depth for stage in config.stages]
        found = [
            shapes.get(f"stage{i}.patch_embed.norm.weight", (0,))[0]
            for i in range(len(dims))
        ]
        blocks = [
            len({k.split(".")[2] for k in shapes if k.startswith(f"stage{i}.blocks.")})
            for i in range(len(dims))
        ]
        if found == dims and blocks == depths:
            return config
    raise CheckpointError(
        "The checkpoint has the shapes of none of the published networks "
        f"({', '.join(zoo.MODELS)}); give its configuration (--model config.json)."
    )


def _read_reference(path):
    with np.load(path, allow_pickle=False) as archive:
        missing = {"input", "logits"} - set(archive.files)
        if missing:
            raise ValueError(
                f"A reference holds `input` and `logits`. Received: {archive.files} "
                f"in {path}"
            )
        return archive["input"], archive["logits"]


def compare(
    logits: np.ndarray, expected: np.ndarray, tolerance: float, what: str
) -> float:
    """Return the largest difference of two outputs (B, classes).

    Raises:
        ComparisonError: If it is more than `tolerance`, or no number.
    """
    if logits.shape != expected.shape:
        raise ComparisonError(
            f"Logits of shape {logits.shape} cannot be compared with {what}, "
            f"{expected.shape}."
        )
    difference = float(np.max(np.abs(logits - expected)))
    # Written so that NaN fails.
    if not difference <= tolerance:
        raise ComparisonError(
            f"The logits differ from {what} by {difference:.3g}; at most "
            f"{tolerance:.3g} is allowed."
        )
    return difference


def _saver(out):
    if out.name.endswith((".keras", ".weights.h5")):
        return _save_keras
    if out.suffix in (".safetensors", ".pth", ".pt", ".bin"):
        return save_checkpoint
    if not out.suffix:
        return lambda model, path: save_checkpoint(model, path, layout="transformers")
    raise ValueError(
        "Expected an output that ends in .keras, .weights.h5, .safetensors or .pth, "
        f"or a folder without a suffix. Received: {out}"
    )


def _save_keras(model, out):
    if out.suffix == ".keras":
        model.save(out)
    else:
        model.save_weights(out)


def _compare_saved(path, model, images, logits, tolerance):
    """Run what was saved, and return its largest difference from the model."""
    if path.suffix == ".keras":
        # As its users will: with its own normalisation and softmax.
        saved = keras.models.load_model(path)
        if saved.get_layer("preprocessing").normalize:
            images = 255 * (images * np.float32(IMAGENET_STD) + IMAGENET_MEAN)
        expected = keras.ops.convert_to_numpy(keras.ops.softmax(logits))
    else:
        saved, expected = keras.models.clone_model(model), logits
        load_checkpoint(saved, path)
    outputs = saved.predict(images.astype("float32"), verbose=0)
    return compare(outputs, expected, tolerance, "what was saved")


def _move(written, out):
    """Rename a file, or the files of a folder one by one."""
    if written.is_file():
        os.replace(written, out)
        return
    out.mkdir(exist_ok=True)
    for file in written.iterdir():
        os.replace(file, out / file.name)
