"""The second road whole: from a checkpoint to a verified folder and its page."""

import hashlib
import json
import logging
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from keras_cvt import conversion, files, repository, zoo
from keras_cvt.config import CvTConfig
from keras_cvt.hub import card, peers
from keras_cvt.hub.exports import check_names, write_artefacts
from keras_cvt.hub.folder import write_folder
from keras_cvt.hub.upload import upload_folder
from keras_cvt.preprocessing import preprocess_input

logger = logging.getLogger(__name__)

# Calibration gains nothing from more, and they are in memory together.
_REPRESENTATIVE = 256

# Of another program's logits on another library's kernels.
_PEER_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Release:
    """What became of one checkpoint, as far as it got.

    Attributes:
        checkpoint: Its name.
        repo_id: Where it goes.
        folder: What was or will be uploaded.
        reference: What its logits were compared with, or `""`.
        reference_difference: The largest difference from that.
        written_difference: The largest difference of what was written.
        artefacts: Exported files.
        commit: The commit on the Hub, or None.
        error: Why it stopped, or `""`.
        inputs: SHA-256 of the checkpoint, reference and images and of all arguments
            that shape the folder, or `""`.
    """

    checkpoint: str
    repo_id: str
    folder: str
    reference: str = ""
    reference_difference: float | None = None
    written_difference: float | None = None
    artefacts: tuple[str, ...] = ()
    commit: str | None = None
    error: str = ""
    inputs: str = ""


def release(
    checkpoint: str | os.PathLike,
    repo_id: str,
    folder: str | os.PathLike,
    *,
    config: CvTConfig | None = None,
    activation: str | None = None,
    reference: str | os.PathLike | None = None,
    tolerance: float = conversion.TOLERANCE,
    about: card.About | None = None,
    exports: Sequence[str] = (),
    representative: Sequence[str | os.PathLike] = (),
    dry_run: bool = False,
    private: bool = True,
    token: str | None = None,
) -> Release:
    """Convert, compare, export, verify, describe and push a checkpoint.

    A verified folder leaves a record beside it: called again with the same
    arguments and the same content of the files that they name, only what is left is
    done, such as the push. Anything else, or a changed folder, starts anew.

    Args:
        checkpoint: As `keras_cvt.conversion.convert`, like the arguments that follow
            `folder`.
        repo_id: Such as `"org/repo"`.
        folder: Where the repository's files are put together, and stay.
        config: The network, if it does not come with the checkpoint.
        activation: Against what the checkpoint's origin tells.
        reference: An `.npz` file of another implementation's outputs; without one,
            transformers computes them where it is installed.
        tolerance: Largest allowed difference of a logit from `reference`.
        about: What the card says; None tells what is known of published weights.
        exports: Files to take along; see `write_artefacts`.
        representative: Image files, made as the weights were evaluated; see
            `write_artefacts`. Of many, 256 are taken evenly.
        dry_run: Whether to stop before the push.
        private: Whether a repository that is made is private.
        token: Of the Hub.

    Raises:
        ComparisonError: If an output differs: nothing is pushed, the files stay.
        ImportError: If an export needs a package that is missing.
        CheckpointError: If the checkpoint cannot be read or does not fit.
        OSError: If it cannot be written or pushed.
        ValueError: If an export is unknown, or int8 has no images.
    """
    check_names(exports, bool(representative))
    folder = Path(folder)
    record = folder.with_name(folder.name + ".json")
    inputs = _inputs(
        (checkpoint, reference, *representative),
        config=config and config.to_dict(),
        activation=activation,
        tolerance=tolerance,
        about=about and asdict(about),
        exports=list(exports),
    )
    done = _recorded(record, folder, str(checkpoint), repo_id, inputs)
    if done is None:
        # From now on the folder is no longer what an earlier record says.
        record.unlink(missing_ok=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        model, compared = _compared(
            checkpoint, config, activation, reference, tolerance
        )
        published = _published(checkpoint)
        if published is not None:
            about = about or _about(published)
        artefacts = folder.with_name(folder.name + "-artefacts") if exports else None
        if exports:
            write_artefacts(
                model,
                artefacts,
                exports,
                source=str(checkpoint),
                representative_images=_images(representative, model),
            )
        written = write_folder(
            model,
            folder,
            repo_id=repo_id,
            artefacts=artefacts,
            about=about,
            reference_difference=compared[1],
        )
        target = str(checkpoint), repo_id, str(folder)
        done = Release(*target, *compared, written, tuple(exports), inputs=inputs)
        files.write_json(record, asdict(done))
    if dry_run or done.commit is not None:
        return done
    report = upload_folder(folder, repo_id, private=private, token=token)
    done = replace(done, commit=report.commit)
    files.write_json(record, asdict(done))
    return done


def release_all(
    organisation: str,
    root: str | os.PathLike,
    *,
    exports: Sequence[str] = (),
    representative: Sequence[str | os.PathLike] = (),
    dry_run: bool = False,
    private: bool = True,
    token: str | None = None,
) -> list[Release]:
    """Release the seven published weights; one that fails does not stop the others.

    Args:
        organisation: Of the repositories, which keep their names.
        root: Folder of the releases' folders.
        exports: As `release`, like the arguments that follow.
        representative: See `release`.
        dry_run: See `release`.
        private: See `release`.
        token: See `release`.
    """
    check_names(exports, bool(representative))
    releases = []
    for weights in zoo.WEIGHTS:
        name = weights.repo.split("/")[1]
        target = weights.name, f"{organisation}/{name}", Path(root) / name
        logger.info("%s -> %s", *target[:2])
        try:
            done = release(
                *target,
                exports=exports,
                representative=representative,
                dry_run=dry_run,
                private=private,
                token=token,
            )
            releases.append(done)
        # Converters raise what they like.
        except Exception as error:
            message = f"{type(error).__name__}: {error}"
            releases.append(Release(*map(str, target), error=message))
    return releases


def _inputs(sources, **arguments):
    """Return a hash of what a release is made from."""
    found = []
    for source in sources:
        path = Path(source) if source is not None else None
        if path is None or not path.exists():
            found.append(str(source))  # the name of published weights, or none
        elif path.is_file():
            found.append(files.sha256(path))
        else:
            inside = sorted(p for p in path.rglob("*") if p.is_file())
            found += [(str(p.relative_to(path)), files.sha256(p)) for p in inside]
    text = json.dumps([found, arguments], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _recorded(record, folder, checkpoint, repo_id, inputs):
    """Return what an earlier call did, if all of it is still there."""
    try:
        values = json.loads(record.read_text(encoding="utf-8"))
        done = Release(**{**values, "artefacts": tuple(values["artefacts"])})
        sums = repository.read_sums(folder / repository.SUMS)
        intact = all(files.sha256(folder / n) == d for n, d in sums.items())
    except (OSError, ValueError, TypeError, KeyError):
        return None
    made_from = done.checkpoint, done.repo_id, done.inputs
    same = made_from == (checkpoint, repo_id, inputs)
    return done if intact and same else None


def _images(paths, model):
    if not paths:
        return None
    paths = list(paths)[:: -(-len(paths) // _REPRESENTATIVE)]
    return preprocess_input(paths, model)


def _compared(checkpoint, config, activation, reference, tolerance):
    """Return the classifier, and what it agrees with and how far.

    Nothing else of the conversion is left: of the largest network that is gigabytes.
    """
    done = conversion.load(checkpoint, config, activation, reference, tolerance)
    compared = "", None
    if reference is not None:
        compared = Path(reference).name, done.reference_difference
    else:
        logits = peers.transformers_logits(done.model, done.images)
        if logits is not None:
            what = "transformers'"
            compared = (
                "transformers",
                conversion.compare(done.logits, logits, _PEER_TOLERANCE, what),
            )
    return conversion.classifier(done.model), compared


def _published(checkpoint):
    try:
        return zoo.find(str(checkpoint).removeprefix("hf://"))
    except zoo.UnknownWeightsError:
        return zoo.find_repo(str(checkpoint).removeprefix("hf://"))


def _about(weights):
    datasets = ["imagenet-1k"]
    if "22k" in weights.tag:
        datasets.append("imagenet-22k")
    figures = {
        ("ImageNet-1k", "imagenet-1k", "accuracy"): weights.top1,
        ("ImageNet-1k", "imagenet-1k", "top-5 accuracy"): weights.top5,
        ("ImageNet-V2", "imagenet-v2", "accuracy"): weights.imagenet_v2_top1,
    }
    return card.About(
        base_model=weights.repo,
        converted=True,
        datasets=datasets,
        evaluations=[
            card.Evaluation(*names, value, source="measured by third parties")
            for names, value in figures.items()
        ],
    )
