"""The features of image files, in memory and as `.npz` files."""

import hashlib
import json
import os
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_cvt._utils import validation
from keras_cvt._utils.files import write_whole
from keras_cvt._utils.progress import Progress
from keras_cvt.features.extractor import feature_extractor
from keras_cvt.models import CvTModel
from keras_cvt.preprocessing.batches import file_batches
from keras_cvt.preprocessing.images import PathLike

# What NumPy and the reading of the members raise for files of another kind.
_OTHER_FILE = (
    *(ValueError, KeyError, AttributeError, TypeError, EOFError),
    zipfile.BadZipFile,
)


@dataclass(frozen=True, eq=False)
class ImageFeatures:
    """Features of image files, and what made them.

    Attributes:
        features: float32 (N, C), one row for each image.
        paths: N paths of image files.
        metadata: What made the features, as JSON can hold it: `"model"` (its name),
            `"weights"` (their source, or None), `"weights_sha256"`, `"image_size"`
            ((height, width) in pixels) and `"crop_ratio"` of the evaluation transform.
        labels: int64 (N,), the index of each image's class, or None.
        class_names: Name of each label, or None.
    """

    features: np.ndarray
    paths: tuple[Path, ...]
    metadata: dict[str, Any]
    labels: np.ndarray | None = None
    class_names: tuple[str, ...] | None = None

    def save(self, path: PathLike) -> None:
        """Write an `.npz` file, completely or not at all.

        It holds `features`, float32 (N, C); `paths`, text (N,); `metadata`, JSON text;
        and if the classes are known, `labels`, int64 (N,), and `class_names`, text.
        `numpy.load` reads it without `allow_pickle`. Paths are relative to the folder
        of the file, with `/`, and their bytes that are not UTF-8 are as `os.fsdecode`
        makes them. So the file and the images can be moved together.

        Args:
            path: Path of the file, with the suffix `.npz`.

        Raises:
            ValueError: If the path has another suffix or is a folder.
            OSError: If the file cannot be written.
        """
        path = check_npz(path)
        folder = os.path.realpath(path.parent)
        # Of the image itself, only its folder: the image may be a link.
        real = [Path(os.path.realpath(p.parent)) / p.name for p in self.paths]
        relative = [os.path.relpath(p, folder) for p in real]
        arrays = {
            "features": self.features,
            "paths": np.array([Path(p).as_posix() for p in relative], "str"),
            "metadata": np.array(json.dumps(self.metadata)),
        }
        if self.labels is not None:
            arrays["labels"] = self.labels
        if self.class_names is not None:
            arrays["class_names"] = np.array(self.class_names, "str")
        # mypy takes the arrays for the argument `allow_pickle`.
        write_whole(path, lambda file: np.savez(file, **arrays))  # type: ignore

    @classmethod
    def load(cls, path: PathLike) -> "ImageFeatures":
        """Read the file that `save` wrote.

        Raises:
            ValueError: If it is another file.
            OSError: If it cannot be read.
        """
        folder = os.path.realpath(Path(path).parent)
        try:
            with np.load(path, allow_pickle=False) as file:
                names = file.get("class_names")
                return cls(
                    file["features"],
                    tuple(
                        Path(os.path.normpath(os.path.join(folder, name)))
                        for name in file["paths"].tolist()
                    ),
                    json.loads(file["metadata"].item()),
                    file.get("labels"),
                    None if names is None else tuple(names.tolist()),
                )
        except _OTHER_FILE as error:
            raise ValueError(
                "Expected an .npz file that `keras-cvt embed` wrote "
                f"({type(error).__name__}: {error}). Received: {os.fspath(path)}"
            ) from error


def check_npz(path: PathLike) -> Path:
    """Return the path of an `.npz` file to write.

    Raises:
        ValueError: If it has another suffix or is a folder.
    """
    path = Path(path)
    if path.suffix != ".npz" or path.is_dir():
        raise ValueError(
            f"Expected the path of an .npz file to write. Received: {path}"
        )
    return path


def embed_files(
    model: CvTModel,
    paths: Sequence[PathLike],
    *,
    labels: Sequence[int] | None = None,
    class_names: Sequence[str] | None = None,
    batch_size: int = 8,
) -> tuple[ImageFeatures, list[tuple[PathLike, Exception]]]:
    """Compute the features of image files; see `feature_extractor`.

    The images are resized and cropped by the model's `eval_transform`, in threads while
    the model computes. Progress is shown, see `keras_cvt._utils.progress`.

    Args:
        model: A CvT that takes RGB images of 0-255.
        paths: Paths of image files. Those that cannot be read are left out.
        labels: The index of each image's class. Defaults to `None`.
        class_names: Name of each label. Defaults to `None`.
        batch_size: Images per step. Defaults to `8`.

    Returns:
        The features, and the paths of the files that cannot be read, each with the
        error.

    Raises:
        ValueError: If the model gives no features or takes other images, if no image
            can be read, or if an argument is out of range.
    """
    validation.check_int(1, batch_size=batch_size)
    if labels is not None and len(labels) != len(paths):
        raise ValueError(
            f"Expected a label for each image. Received: {len(labels)} labels for "
            f"{len(paths)} images"
        )
    model.description.check_photos()
    extractor = feature_extractor(model)
    features: list[np.ndarray] = []
    readable: list[PathLike] = []
    unreadable: list[tuple[PathLike, Exception]] = []
    with Progress() as progress:
        progress.update(0, len(paths))
        for batch in file_batches(paths, extractor, batch_size):
            readable += batch.readable
            unreadable += batch.unreadable
            if len(batch.images):
                features.append(extractor.predict(batch.images, verbose=0))
            progress.update(len(readable) + len(unreadable), len(paths))
    if not features:
        reason = "{}: {}".format(*unreadable[0]) if unreadable else "no images"
        raise ValueError(f"Expected images that can be read. Received: {reason}")
    if labels is not None:
        failures = {path for path, _ in unreadable}
        pairs = zip(paths, labels, strict=True)
        labels = [label for path, label in pairs if path not in failures]
    return (
        ImageFeatures(
            np.concatenate(features).astype("float32"),
            tuple(map(Path, readable)),
            describe_origin(extractor),
            None if labels is None else np.array(labels, "int64"),
            None if class_names is None else tuple(class_names),
        ),
        unreadable,
    )


def describe_origin(model: CvTModel) -> dict[str, Any]:
    """Return what a model's features are known by: the `metadata` of `ImageFeatures`.

    Args:
        model: The model that computes the features.

    Returns:
        `model`, `weights`, `weights_sha256` (of the values of all weights),
        `image_size` and `crop_ratio`. Features can be compared if these are equal.
    """
    content = hashlib.sha256()
    for weight in model.weights:
        content.update(keras.ops.convert_to_numpy(weight).tobytes())
    transform = model.eval_transform
    return {
        "model": model.name,
        "weights": model.source_weights,
        "weights_sha256": content.hexdigest(),
        "image_size": list(transform.image_size),
        "crop_ratio": transform.crop_ratio,
    }
