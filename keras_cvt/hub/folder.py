"""The folder that a push uploads: complete, verified, with hashes."""

import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras

from keras_cvt import conversion
from keras_cvt._utils import files
from keras_cvt.checkpoints import (
    CheckpointError,
    load_checkpoint,
    saving,
    sources,
    transformers_format,
)
from keras_cvt.deploy import formats
from keras_cvt.description import ACTIVATIONS, ModelDescription
from keras_cvt.features import describe_origin
from keras_cvt.hub import card, loading
from keras_cvt.hub.card import Artefact
from keras_cvt.models import CvTModel
from keras_cvt.repository import integrity

WEIGHTS = ("model.safetensors", "model.weights.h5")
VERIFICATION = "verification.json"
# An export program may describe its files here; see `card.Artefact`.
ARTEFACTS = "artefacts.json"
# While a folder is written: the names of the files that will be in it.
_PLAN = f"{files.TEMPORARY}repository/plan.json"
# What a loaded model has of its own. All else of its description must be the model's.
_ITS_OWN = {
    "name": "",
    "image_size": (None, None),
    "source_weights": None,
    "class_names": None,
    "layers_in_front": (),
}
# Names that a folder of artefacts must not use.
_OURS = {"README.md", "config.json", transformers_format.FILE, VERIFICATION, *WEIGHTS}


def write_folder(
    model: CvTModel,
    folder: str | os.PathLike,
    *,
    repo_id: str,
    class_names: Sequence[str] | None = None,
    artefacts: str | os.PathLike | None = None,
    about: card.About | None = None,
    reference_difference: float | None = None,
    tolerance: float = 1e-4,
    labels: Sequence[str] | None = None,
) -> float:
    """Write all files of a repository, and verify them.

    `config.json`, `model.safetensors` and `preprocessor_config.json` are those of
    transformers. If transformers does not have the network, the weights have their
    official names, and transformers refuses the `model_type` of `config.json`.

    Args:
        model: A classifier of `keras_cvt` that ends in a softmax, a sigmoid or its
            logits.
        folder: Where to write. It must be empty, new, or written by an earlier call,
            whose files are replaced.
        repo_id: What the card calls the repository, such as `"org/repo"`.
        class_names: The class names, in the order of the outputs. Defaults to
            `None`: `model.class_names`.
        artefacts: A folder of exported files (a SavedModel, `.tflite`, `.onnx`) to
            add. Its `artefacts.json`, a list of the fields of `Artefact`, says how
            they compared. Defaults to `None`.
        about: Facts for the card that the model does not know. Defaults to `None`.
        reference_difference: Largest difference of the model from a reference.
            Defaults to `None`: there was no reference.
        tolerance: Largest allowed difference of any logit of the written files.
            Defaults to `1e-4`.
        labels: The name of `class_names` in version 0.1.0.

    Returns:
        The largest difference between the logits of the model and of the written
        files, loaded again.

    Raises:
        ValueError: If the model is not such a classifier, or a class name or file is
            not valid.
        ComparisonError: If the written files compute something else.
        FileExistsError: If the folder holds files that no earlier call wrote.
        OSError: If a file cannot be written.

    Example:
        >>> keras_cvt.hub.write_folder(model, "page", repo_id="me/flowers")
        >>> keras_cvt.hub.upload_folder("page", "me/flowers")
    """
    folder = Path(folder)
    description = _describe(model)
    class_names = labels if class_names is None else class_names
    if class_names is not None:
        description = description.replace(class_names=class_names)
    folder.mkdir(parents=True, exist_ok=True)
    _clear(folder)
    source = Path(artefacts or folder)
    exported, listed = ([], []) if artefacts is None else _exported(source)
    planned = sorted({*_OURS, *exported})
    # After a kill, the next call knows by the plan which files are ours.
    (folder / _PLAN).parent.mkdir()
    files.write_json(folder / _PLAN, {"names": planned})
    for name in exported:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, folder / name)
    saving.write_described(model, folder, description)
    files.write_whole(folder / WEIGHTS[1], model.save_weights)
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
        description,
        repo_id=repo_id,
        about=about or card.About(),
        rows=[_row(folder, artefact) for artefact in written],
        reference_difference=reference_difference,
    )
    files.write_text(folder / "README.md", text)
    # Only planned files: a file that somebody else put here is not published.
    ours = [name for name in planned if (folder / name).is_file()]
    integrity.write_sums(folder, ours)
    shutil.rmtree((folder / _PLAN).parent)
    return max(differences.values())


def add_evaluations(
    folder: str | os.PathLike,
    evaluations: Sequence[card.Evaluation],
    facts: Mapping[str, Any],
) -> None:
    """Add measured results to a folder that `write_folder` wrote.

    They go into the card's table, its `model-index` and `verification.json`, and the
    recorded hashes follow. All are written before the first is moved to its place. A
    call that was interrupted there is finished by another one.

    Args:
        folder: The folder. Its README.md may have been edited.
        evaluations: The results, for the card; see `card.add_evaluations`.
        facts: All that was measured, as JSON can hold it, for `"evaluations"` in
            `verification.json`. It replaces those with the same `"file"`, `"dataset"`
            and `"split"`, which it must have.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If it is another folder, or its card is damaged.
        CheckpointError: If a file has changed since it was verified.
        OSError: If a file cannot be written.
    """
    folder = Path(folder)
    sums = check_written(folder)
    text = (folder / "README.md").read_text(encoding="utf-8")
    heading = re.search(r"^# (.+)$", text, re.M)
    name = heading[1] if heading else folder.resolve().name
    text = card.add_evaluations(text, evaluations, name)
    verification = json.loads((folder / VERIFICATION).read_text(encoding="utf-8"))
    names = ("file", "dataset", "split")
    kept = [
        earlier
        for earlier in verification.get("evaluations", [])
        if [earlier.get(n) for n in names] != [facts[n] for n in names]
    ]
    verification["evaluations"] = [*kept, dict(facts)]
    with files.staged(folder, merge=True) as written:
        written.mkdir()
        files.write_text(written / "README.md", text)
        files.write_json(written / VERIFICATION, verification)
        sums |= {n: files.sha256(written / n) for n in ("README.md", VERIFICATION)}
        lines = [f"{digest}  {name}\n" for name, digest in sums.items()]
        files.write_text(written / integrity.SUMS, "".join(lines))


def check_written(folder: Path) -> dict[str, str]:
    """Return the recorded hashes of a folder that `write_folder` wrote.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If it is another folder.
        CheckpointError: If a file other than the card and `verification.json` has
            changed or is missing.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder}")
    recorded = folder / integrity.SUMS
    sums = integrity.read_sums(recorded if recorded.is_file() else None)
    own = {"README.md", VERIFICATION}
    if not own <= set(sums) or not all((folder / name).is_file() for name in own):
        raise ValueError(
            "Expected a folder that `keras_cvt.hub.write_folder` wrote, with "
            f"{', '.join(sorted({*own, integrity.SUMS}))}. Received: {folder}"
        )
    changed = [
        name
        for name, digest in sums.items()
        if name not in own
        and not ((folder / name).is_file() and files.sha256(folder / name) == digest)
    ]
    if changed:
        raise CheckpointError(
            f"Expected the files that were verified in {folder}. Changed: {changed}"
        )
    return sums


def find_evaluated(
    folder: str | os.PathLike, description: ModelDescription, origin: Mapping[str, Any]
) -> str:
    """Return the name of a folder's file, of which an evaluated classifier was made.

    Args:
        folder: A folder that `write_folder` wrote.
        description: The classifier's description.
        origin: Its weights or files; see `keras_cvt.inference.Classifier`.

    Returns:
        A name such as `"model.safetensors"` for the Keras model, or the name of an
        exported file or folder.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If it is another folder, or the classifier is not of its files.
        CheckpointError: If a file has changed since it was verified.
    """
    folder = Path(folder)
    sums = check_written(folder)
    hashes = origin.get("files_sha256")
    if hashes is None:
        network = loading.build(sources.resolve(folder))
        found = [
            (each.config, each.include_preprocessing, each.eval_transform)
            for each in (network.description, description)
        ]
        hashes = describe_origin(network)["weights_sha256"], origin["weights_sha256"]
        same = found[0] == found[1] and hashes[0] == hashes[1]
        name = WEIGHTS[0] if same else None
    else:
        name = _find_export(folder, sums, set(hashes.values()))
    if name is None:
        raise ValueError(
            f"Expected the result of the model in {folder}, or of an exported file in "
            f"it. Received: that of {description.name}, which is another"
        )
    return name


def _find_export(folder, sums, hashes):
    """Return the exported file or folder that has these hashes, or None."""
    listed = json.loads((folder / VERIFICATION).read_text(encoding="utf-8"))
    for artefact in listed["artefacts"]:
        path = folder / artefact["path"]
        exported = _format_of(path)
        found = exported.files(path) if exported else ()
        names = [file.relative_to(folder).as_posix() for file in found]
        if {sums.get(name) for name in names} == hashes:
            return artefact["path"]
    return None


def _describe(model):
    saving.check_model(model)
    description = model.description
    if not description.is_classifier or description.activation not in ACTIVATIONS:
        raise ValueError(
            "Expected a classifier, which ends in its head with an activation of "
            f"{ACTIVATIONS} (no softmax over one output). Received: "
            f"outputs={description.outputs!r}, activation={description.activation!r}, "
            f"classes={description.classes}"
        )
    saving.check_expressible(model)
    return description


def _verify(model, folder, tolerance):
    """Load the written files as `hub.load` does, and compare them with the model.

    One network takes both weight files, one after the other, each strictly. It cannot
    be the model itself: there, an array that was never written would go unnoticed.
    """
    description = model.description
    images = conversion.example_images(description)
    expected = conversion.logits(model, images)
    # With the same dtypes, so that only weights can make a difference.
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy(model.stages[0].dtype_policy)
    try:
        network = loading.build(sources.resolve(folder))
    finally:
        keras.config.set_dtype_policy(policy)
    found, given = (
        vars(d.replace(**_ITS_OWN)) for d in (network.description, description)
    )
    other = [name for name, value in given.items() if found[name] != value]
    if other:
        raise conversion.ComparisonError(
            "Expected files that describe the model, with "
            f"{', '.join(f'{name}={given[name]!r:.200}' for name in other)}. Received: "
            f"{', '.join(f'{name}={found[name]!r:.200}' for name in other)}"
        )
    differences = {}
    for name in WEIGHTS:
        if differences:
            load_checkpoint(network, folder / name)
        differences[name] = conversion.compare(
            conversion.logits(network, images),
            expected,
            tolerance,
            f"the model that {name} was written from",
        )
    return differences


def _clear(folder):
    """Remove the files of an earlier call, finished or killed; refuse any other."""
    sums = folder / integrity.SUMS
    ours = set(integrity.read_sums(sums if sums.is_file() else None))
    if VERIFICATION not in ours:
        ours = set()
    if (folder / _PLAN).is_file():
        ours |= set(json.loads((folder / _PLAN).read_text(encoding="utf-8"))["names"])
    names = integrity.file_names(folder)
    found = [name for name in names if not name.startswith(files.TEMPORARY)]
    strangers = [name for name in found if name not in ours]
    if strangers or (sums.is_file() and not ours):
        raise FileExistsError(
            f"Expected an empty folder, or one of an earlier call. Received: {folder} "
            f"with {(strangers or [integrity.SUMS])[:10]}"
        )
    for name in found:
        (folder / name).unlink()
    sums.unlink(missing_ok=True)
    # The plan goes last, because it says which of the other files are ours.
    for left_over in folder.glob(files.TEMPORARY + "*"):
        shutil.rmtree(left_over)


def _exported(source):
    """Return the names of the exported files in a folder, and how they compared."""
    if not source.is_dir():
        raise FileNotFoundError(f"Expected a folder of artefacts. Received: {source}")
    # `file_names` leaves SHA256SUMS out.
    found = [name for name in integrity.file_names(source) if name != ARTEFACTS]
    replaced = sorted(_OURS & set(found))
    if replaced:
        raise ValueError(
            f"Expected a folder of artefacts without {sorted(_OURS)}. "
            f"Received: {source} with {replaced}"
        )
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
                f"Expected the files that {ARTEFACTS} lists in {source}. "
                f"Missing: {artefact.path!r}"
            )
    # A folder, such as a SavedModel, is one artefact.
    tops = dict.fromkeys(name.split("/")[0] for name in found)
    listed = {artefact.path.split("/")[0] for artefact in described}
    return found, described + [
        Artefact(top, _title(source / top)) for top in tops if top not in listed
    ]


def _title(path):
    exported = _format_of(path)
    if exported is not None:
        return exported.title
    return "Keras" if path.suffix == ".keras" else "file"


def _format_of(path):
    known = formats.FORMATS.values()
    return next((f for f in known if f.recognises(path)), None)


def _row(folder, artefact):
    path = folder / artefact.path
    exported = _format_of(path)
    found = exported.files(path) if exported else (path, *path.rglob("*"))
    size = sum(file.stat().st_size for file in found if file.is_file())
    return card.Row(**vars(artefact), bytes=size)
