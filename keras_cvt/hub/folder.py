"""The folder that a push uploads: complete, verified, hashed."""

import json
import os
import shutil
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

from keras_cvt import (
    builders,
    conversion,
    files,
    image_processors,
    repository,
    validation,
)
from keras_cvt.checkpoints import layouts, readers, save_checkpoint
from keras_cvt.checkpoints.assign import assign, extract
from keras_cvt.hub import card
from keras_cvt.models import CvTModel

WEIGHTS = ("model.safetensors", "model.weights.h5")
VERIFICATION = "verification.json"
# An export program may describe its files here; see `Artefact`.
ARTEFACTS = "artefacts.json"
# While a folder is written: the names of what comes into it.
_PLAN = f"{files.TEMPORARY}repository/plan.json"
# What a folder of artefacts may not replace.
_OWN_FILES = {
    "README.md",
    "config.json",
    image_processors.FILE,
    VERIFICATION,
    *WEIGHTS,
}


@dataclass(frozen=True)
class Artefact:
    """An exported model: a file or folder, and how it compared.

    Attributes:
        path: Its name in the folder.
        format: What it is, for people.
        difference: Largest difference of any output from the Keras model's.
        milliseconds: For one image, where it was measured.
        agreement: Share of images whose best class is the Keras model's.
    """

    path: str
    format: str
    difference: float | None = None
    milliseconds: float | None = None
    agreement: float | None = None


def write_folder(
    model: CvTModel,
    folder: str | os.PathLike,
    *,
    repo_id: str,
    labels: Sequence[str] | None = None,
    artefacts: str | os.PathLike | None = None,
    about: card.About | None = None,
    reference_difference: float | None = None,
    tolerance: float = 1e-4,
) -> float:
    """Write everything that a repository holds, and prove it.

    `config.json`, `model.safetensors` and `preprocessor_config.json` are
    transformers'; a network that transformers cannot express has them under the
    official names, with a `model_type` that transformers refuses.

    Args:
        model: A classifier of `keras_cvt`.
        folder: Where to write: empty, new, or of an earlier call, whose files are
            replaced.
        repo_id: What the card calls it, such as `"org/repo"`.
        labels: The classes' names, in the order of the outputs; None means
            `model.labels`.
        artefacts: A folder of exported files (a SavedModel, `.tflite`, `.onnx`) to
            take along; `artefacts.json` in it, a list of `Artefact`'s fields, tells
            how they compared.
        about: What the card says beside what the model itself tells.
        reference_difference: How the model compared with a reference, if it did.
        tolerance: Largest allowed difference of any logit of what was written.

    Returns:
        The largest difference of what was written, loaded again.

    Raises:
        ValueError: If the model is no classifier, or a label or file is wrong.
        ComparisonError: If what was written computes something else.
        FileExistsError: If the folder holds files that no earlier call wrote.
        OSError: If it cannot be written.
    """
    folder = Path(folder)
    settings = _settings(model)
    if labels is None:
        labels = model.labels
    else:
        labels = validation.check_labels(labels, model.output.shape[-1])
    folder.mkdir(parents=True, exist_ok=True)
    _clear(folder)
    exported = [] if artefacts is None else _exported(Path(artefacts))
    planned = sorted({*_OWN_FILES, *exported})
    # A call after a kill knows by it what is ours.
    (folder / _PLAN).parent.mkdir()
    files.write_json(folder / _PLAN, {"names": planned})
    listed = [] if artefacts is None else _take_along(Path(artefacts), exported, folder)
    for_transformers = runs_in_transformers(model)
    _write_weights(model, folder, "transformers" if for_transformers else "official")
    files.write_json(
        folder / "config.json", _config(model, settings, labels, for_transformers)
    )
    processor = image_processors.to_transformers(settings.eval_transform)
    # Of other models nobody knows how their images are normalised.
    if processor and settings.include_preprocessing:
        files.write_json(folder / image_processors.FILE, processor)
    differences = _verify(model, folder, tolerance)
    written = [
        Artefact("model.safetensors", "weights, PyTorch", differences[WEIGHTS[0]]),
        Artefact("model.weights.h5", "weights, Keras", differences[WEIGHTS[1]]),
        *listed,
    ]
    files.write_json(
        folder / VERIFICATION,
        {
            "what": "largest absolute difference of any output from the Keras model's",
            "backend": keras.backend.backend(),
            "keras": keras.__version__,
            "tolerance": tolerance,
            "reference": reference_difference,
            "artefacts": [vars(artefact) for artefact in written],
        },
    )
    text = card.render(
        model,
        repo_id=repo_id,
        about=about or card.About(),
        rows=[_row(folder, artefact) for artefact in written],
        transformers=for_transformers,
        reference_difference=reference_difference,
        labels=labels,
    )
    files.write_text(folder / "README.md", text)
    # Only what was written: a file that came to lie here meanwhile is not published.
    ours = [name for name in planned if (folder / name).is_file()]
    repository.write_sums(folder, ours)
    shutil.rmtree((folder / _PLAN).parent)
    return max(differences.values())


def _clear(folder):
    """Remove what an earlier call left, finished or killed; refuse anything else."""
    sums = folder / repository.SUMS
    ours = set(repository.read_sums(sums if sums.is_file() else None))
    if VERIFICATION not in ours:
        ours = set()
    if (folder / _PLAN).is_file():
        ours |= set(json.loads((folder / _PLAN).read_text(encoding="utf-8"))["names"])
    found = [
        name
        for name in repository.names(folder)
        if not name.startswith(files.TEMPORARY)
    ]
    strangers = [name for name in found if name not in ours]
    if strangers or (sums.is_file() and not ours):
        raise FileExistsError(
            f"Expected an empty folder, or one of an earlier call. Received: {folder} "
            f"with {(strangers or [repository.SUMS])[:10]}"
        )
    for name in found:
        (folder / name).unlink()
    sums.unlink(missing_ok=True)
    # The plan at last, since it says whose the others were.
    for left_over in folder.glob(files.TEMPORARY + "*"):
        shutil.rmtree(left_over)


def runs_in_transformers(model: CvTModel) -> bool:
    """Return whether transformers has this network, apart from its activation."""
    config = model.cvt_config
    try:
        config.to_transformers(classes=0)
    except ValueError:
        return False
    return {stage.projection for stage in config.stages} == {"dw_bn"}


def _settings(model):
    if not isinstance(model, CvTModel):
        raise ValueError(
            "Expected a model of keras_cvt. "
            f"Received: model={model!r} of type {type(model).__name__}"
        )
    head = model.layers[-1]
    if head.name != "head" or not isinstance(head, keras.layers.Dense):
        raise ValueError(
            "Expected a classifier, which ends in its head. "
            f"Received: a model that ends in {head.name!r}"
        )
    activation = keras.activations.serialize(head.activation)
    if activation not in repository.CLASSIFIER_ACTIVATIONS:
        raise ValueError(
            "Expected a classifier_activation of "
            f"{repository.CLASSIFIER_ACTIVATIONS} or None. Received: {activation!r}"
        )
    settings = repository.Settings(
        model.cvt_config,
        model.eval_transform,
        model.get_layer("preprocessing").normalize,
        activation,
        model.name,
    )
    # What `load` would refuse must not be pushed.
    repository.read_settings({repository.CONFIG_KEY: settings.to_dict()})
    return settings


def _config(model, settings, labels, for_transformers):
    classes, channels = model.output.shape[-1], model.input.shape[-1]
    labels = labels or [f"LABEL_{i}" for i in range(classes)]
    values = {"model_type": "keras_cvt", "num_channels": channels}
    if for_transformers:
        values = model.cvt_config.to_transformers(
            classes, channels, settings.eval_transform.image_size[0]
        )
    return {
        **values,
        "id2label": {str(i): str(label) for i, label in enumerate(labels)},
        "label2id": {str(label): i for i, label in enumerate(labels)},
        repository.CONFIG_KEY: settings.to_dict(),
    }


def _write_weights(model, folder, layout):
    with warnings.catch_warnings():
        # The card says what the warning about the activation says.
        warnings.filterwarnings("ignore", "transformers runs CvT with exact GELU")
        save_checkpoint(model, folder / WEIGHTS[0], layout=layout)
    files.write_whole(folder / WEIGHTS[1], model.save_weights)


def _verify(model, folder, tolerance):
    """Load what was written into a fresh network, and compare the logits."""
    channels = model.input.shape[-1]

    def build():
        return builders.CvT(
            model.cvt_config,
            classes=model.output.shape[-1],
            input_shape=(None, None, channels),
            include_preprocessing=False,
            classifier_activation=None,
        )

    images = np.random.default_rng(0).standard_normal(
        (2, *model.eval_transform.image_size, channels), dtype="float32"
    )
    original = build()
    assign(original, extract(model))
    expected = keras.ops.convert_to_numpy(original(images))
    del original
    differences = {}
    for name in WEIGHTS:
        written = build()
        # Not load_checkpoint, which warns of GELU in transformers' layout.
        state, _ = layouts.to_official(readers.read_checkpoint(folder / name))
        assign(written, state)
        del state
        logits = keras.ops.convert_to_numpy(written(images))
        del written  # the largest network takes a gigabyte
        differences[name] = conversion.compare(
            logits, expected, tolerance, f"what {name} was written from"
        )
    return differences


def _exported(source):
    """Return the names of the exported files of a folder."""
    if not source.is_dir():
        raise FileNotFoundError(f"Expected a folder of artefacts. Received: {source}")
    found = [name for name in repository.names(source) if name != ARTEFACTS]
    # `names` leaves SHA256SUMS out.
    replaced = sorted(_OWN_FILES & set(found))
    if replaced:
        raise ValueError(f"A folder of artefacts may not hold {replaced}: {source}")
    return found


def _take_along(source, found, folder):
    """Copy the exported files, and return what their program says of them."""
    artefacts = _described(source, found)
    for name in found:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, folder / name)
    return artefacts


def _described(source, found):
    described = []
    if (source / ARTEFACTS).is_file():
        try:
            text = (source / ARTEFACTS).read_text(encoding="utf-8")
            described = [Artefact(**fields) for fields in json.loads(text)]
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"Expected a list of {list(Artefact.__annotations__)} in "
                f"{source / ARTEFACTS}: {error}"
            ) from error
    for artefact in described:
        if not any(f"{name}/".startswith(f"{artefact.path}/") for name in found):
            raise ValueError(
                f"{ARTEFACTS} lists {artefact.path!r}, which is not there."
            )
    # A folder, such as a SavedModel, is one artefact.
    tops = dict.fromkeys(name.split("/")[0] for name in found)
    listed = {artefact.path.split("/")[0] for artefact in described}
    formats = {".tflite": "LiteRT", ".onnx": "ONNX", ".keras": "Keras"}
    return described + [
        Artefact(
            top,
            "SavedModel"
            if f"{top}/saved_model.pb" in found
            else formats.get(Path(top).suffix, "file"),
        )
        for top in tops
        if top not in listed
    ]


def _row(folder, artefact):
    path = folder / artefact.path
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    return card.Row(**vars(artefact), bytes=sum(p.stat().st_size for p in files))
