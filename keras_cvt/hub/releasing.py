"""Release a checkpoint: from any layout to a verified repository on the Hub."""

import hashlib
import json
import logging
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from keras_cvt import conversion, zoo
from keras_cvt._utils import files
from keras_cvt.config import CvTConfig
from keras_cvt.hub import card
from keras_cvt.hub.exports import find_variants, write_artefacts
from keras_cvt.hub.folder import write_folder
from keras_cvt.hub.space import write_space
from keras_cvt.hub.transformers_reference import transformers_logits
from keras_cvt.hub.upload import check_space, upload_folder
from keras_cvt.preprocessing.batches import preprocess_files
from keras_cvt.repository import integrity

logger = logging.getLogger(__name__)

# More images would not improve the calibration, and all of them are in memory.
_MAX_REPRESENTATIVE = 256

# For logits that another program computes with another library.
_TRANSFORMERS_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Release:
    """The result of the release of one checkpoint.

    Attributes:
        checkpoint: The name of the checkpoint.
        repo_id: The repository on the Hub.
        folder: The folder that was or will be uploaded.
        reference: What its logits were compared with, or `""`.
        reference_difference: Largest difference from these logits.
        written_difference: Largest difference of the written files; see
            `write_folder`.
        artefacts: Names of the exported formats.
        commit: The commit on the Hub, or None if it is not pushed.
        error: Why it stopped, or `""`.
        space: The address of the Space that was pushed too, or None.
        inputs: SHA-256 over the content of the checkpoint, reference and images, and
            over all arguments that shape the folder, or `""`.
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
    space: str | None = None


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
    page: bool = False,
) -> Release:
    """Convert, compare, export, verify, describe and push a checkpoint.

    A verified folder gets a record beside it, `<folder>.json`. A second call with the
    same arguments and the same content of the files that they name does only what is
    left, such as the push. After any other change everything is done again.

    Args:
        checkpoint: See `keras_cvt.conversion.convert`, also for `config`,
            `activation` and `tolerance`.
        repo_id: The repository, such as `"org/repo"`.
        folder: Where the files of the repository are written. They stay there.
        config: The network, if it does not come with the checkpoint. Defaults to
            `None`.
        activation: Activation of the network. Defaults to `None`: what the origin of
            the checkpoint says.
        reference: An `.npz` file with the outputs of another implementation. Defaults
            to `None`: transformers computes them if it is installed.
        tolerance: Largest allowed difference of a logit from `reference`. Defaults to
            `2e-5`.
        about: Facts for the card. Defaults to `None`: what is known of published
            weights.
        exports: Formats to export; see `write_artefacts`.
        representative: Image files, for the representative images of
            `write_artefacts`. If there are many, 256 are taken evenly.
        dry_run: Whether to stop before the push. Defaults to `False`.
        private: Whether a new repository is private. Defaults to `True`.
        token: A token of the Hub. Defaults to `None`; see `push`.
        page: Whether to push a static Space with a web page too; see `push`. It is
            written to `<folder>-space`. Defaults to `False`.

    Returns:
        What was done and how it compared.

    Raises:
        ComparisonError: If an output differs. Nothing is pushed; the files stay.
        ImportError: If an export needs a package that is missing.
        CheckpointError: If the checkpoint cannot be read or does not fit.
        OSError: If a file cannot be written or pushed.
        ValueError: If an export is unknown, or int8 has no images.

    Example:
        >>> keras_cvt.hub.release("cvt13/imagenet", "me/cvt-13", "page", dry_run=True)
    """
    variants = find_variants(exports, bool(representative))
    folder = Path(folder)
    record = folder.with_name(folder.name + ".json")
    names = tuple(variant.name for variant in variants)
    inputs = _hash_inputs(
        (checkpoint, reference, *representative),
        config=config and config.to_dict(),
        activation=activation,
        tolerance=tolerance,
        about=about and _known_to_earlier_records(asdict(about)),
        exports=names,
        # Earlier records have no such argument.
        **({"page": True} if page else {}),
    )
    wanted = Release(
        str(checkpoint), repo_id, str(folder), artefacts=names, inputs=inputs
    )
    done = _read_record(record, wanted)
    if done is None:
        # From now on the folder is not what an earlier record says.
        record.unlink(missing_ok=True)
        converted = conversion.load(
            checkpoint, config, activation, reference, tolerance
        )
        name = Path(reference).name if reference is not None else ""
        wanted = replace(wanted, reference=name)
        done = _Page(wanted, converted, about, representative).write(page)
        files.write_json(record, asdict(done))
    if dry_run or done.commit is not None:
        return done
    if page:
        check_space(repo_id, token)
    report = upload_folder(folder, repo_id, private=private, token=token)
    if page:
        shown = upload_folder(
            _space(folder), repo_id, private=private, token=token, repo_type="space"
        )
        done = replace(done, space=shown.url)
    done = replace(done, commit=report.commit)
    files.write_json(record, asdict(done))
    return done


@dataclass(frozen=True)
class _Page:
    """The repository of a converted checkpoint, before it is written.

    Attributes:
        wanted: The release without its results.
        converted: The classifier and how it compared.
        about: Facts for the card, or None.
        representative: Paths of image files.
    """

    wanted: Release
    converted: conversion.Converted
    about: card.About | None
    representative: Sequence[str | os.PathLike]

    def write(self, page: bool) -> Release:
        """Write the folder and a page, and return the release with its results."""
        model, wanted = self.converted.model, self.wanted
        reference, difference = self._compared()
        artefacts = Path(f"{wanted.folder}-artefacts") if wanted.artefacts else None
        if artefacts is not None:
            images = self._images()
            write_artefacts(
                model, artefacts, wanted.artefacts, representative_images=images
            )
        written = write_folder(
            model,
            wanted.folder,
            repo_id=wanted.repo_id,
            artefacts=artefacts,
            about=self.about or self._known(),
            reference_difference=difference,
        )
        if page:
            write_space(
                model,
                _space(Path(wanted.folder)),
                repo_id=wanted.repo_id,
                about=self.about or self._known(),
            )
        return replace(
            wanted,
            reference=reference,
            reference_difference=difference,
            written_difference=written,
        )

    def _compared(self):
        """Return the name of the reference, and the difference from its logits."""
        done = self.converted
        if done.reference_difference is not None:
            return self.wanted.reference, done.reference_difference
        logits = transformers_logits(done.model, done.images)
        if logits is None:
            return "", None
        return "transformers", conversion.compare(
            done.logits, logits, _TRANSFORMERS_TOLERANCE, "transformers"
        )

    def _images(self):
        """Return the representative images, or None."""
        if not self.representative:
            return None
        step = -(-len(self.representative) // _MAX_REPRESENTATIVE)
        paths = list(self.representative)[::step]
        images, _, unreadable = preprocess_files(paths, self.converted.model)
        for path, error in unreadable:
            logger.warning(f"{path} is skipped: {error}")
        if not images:
            raise ValueError(
                f"Expected images that can be read. Received: representative={paths}"
            )
        return np.stack(images)

    def _known(self) -> card.About | None:
        """Return what is known of published weights, or None."""
        record = self.converted.record
        if record is None:
            return None
        datasets = ["imagenet-1k"]
        if "22k" in record.tag:
            datasets.append("imagenet-22k")
        results = {
            ("ImageNet-1k", "imagenet-1k", "accuracy"): record.top1,
            ("ImageNet-1k", "imagenet-1k", "top-5 accuracy"): record.top5,
            ("ImageNet-V2", "imagenet-v2", "accuracy"): record.imagenet_v2_top1,
            ("ImageNet-V2", "imagenet-v2", "top-5 accuracy"): record.imagenet_v2_top5,
        }
        return card.About(
            base_model=record.repo,
            converted=True,
            datasets=datasets,
            evaluations=[
                card.Evaluation(*names, value, source="measured by third parties")
                for names, value in results.items()
            ],
        )


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
    """Release the seven published weights.

    If one of them fails, the others are released nevertheless.

    Args:
        organisation: Owner of the repositories. These keep their names.
        root: The folder in which each release has a folder.
        exports: See `release`, also for the other arguments.
        representative: See `release`.
        dry_run: See `release`.
        private: See `release`.
        token: See `release`.

    Returns:
        One result for each of the weights. `error` says why one failed.

    Raises:
        ValueError: If an export is unknown, or int8 has no images.

    Example:
        >>> keras_cvt.hub.release_all("my-org", "releases", dry_run=True)
    """
    find_variants(exports, bool(representative))
    releases = []
    for weights in zoo.WEIGHTS:
        name = weights.repo.split("/")[1]
        repo_id, folder = f"{organisation}/{name}", Path(root) / name
        logger.info("%s -> %s", weights.name, repo_id)
        try:
            done = release(
                weights.name,
                repo_id,
                folder,
                exports=exports,
                representative=representative,
                dry_run=dry_run,
                private=private,
                token=token,
            )
        # A converter may raise any error.
        except Exception as error:
            message = f"{type(error).__name__}: {error}"
            done = Release(weights.name, repo_id, str(folder), error=message)
        releases.append(done)
    return releases


def _known_to_earlier_records(about):
    """Leave out the titles of metrics that have none: earlier records had none."""
    evaluations = [
        {name: value for name, value in each.items() if name != "title" or value}
        for each in about["evaluations"]
    ]
    return {**about, "evaluations": evaluations}


def _space(folder: Path) -> Path:
    """Return the folder of a release's Space."""
    return folder.with_name(f"{folder.name}-space")


def _hash_inputs(sources, **arguments):
    """Return a hash of everything that a release is made from."""
    found = []
    for source in sources:
        path = Path(source) if source is not None else None
        if path is None or not path.exists():
            found.append(str(source))  # a published name, or None
        elif path.is_file():
            found.append(files.sha256(path))
        else:
            inside = sorted(p for p in path.rglob("*") if p.is_file())
            found += [(str(p.relative_to(path)), files.sha256(p)) for p in inside]
    text = json.dumps([found, arguments], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _read_record(record, wanted) -> Release | None:
    """Return the result of an earlier call if it is what is wanted and still intact."""
    try:
        values = json.loads(record.read_text(encoding="utf-8"))
        done = Release(**{**values, "artefacts": tuple(values["artefacts"])})
        folder = Path(wanted.folder)
        sums = integrity.read_sums(folder / integrity.SUMS)
        intact = all(files.sha256(folder / n) == d for n, d in sums.items())
    except (OSError, ValueError, TypeError, KeyError):
        return None
    results = ("reference", "reference_difference", "written_difference", "commit")
    results += ("space",)
    same = replace(wanted, **{name: getattr(done, name) for name in results})
    return done if intact and done == same else None
