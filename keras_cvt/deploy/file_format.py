"""What an exported format is: the record that each module of `formats` fills in."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_cvt._utils.optional import require
from keras_cvt.description import ModelDescription

# Name of the entry that holds a file's metadata as JSON, and stem of such a file.
METADATA = "keras_cvt"


def has_shape(images: np.ndarray, shape: Sequence[int | None]) -> bool:
    """Return whether images are (N, H, W, C), where (H, W, C) fits; None: any size."""
    return images.ndim == 4 and all(
        expected in (None, found)
        for expected, found in zip(shape, images.shape[1:], strict=True)
    )


@dataclass(frozen=True)
class ExportOptions:
    """What a writer needs to know beside the network and the path.

    Attributes:
        shape: (B, H, W, C) of the images that the file takes; None for any size.
        description: The model's description at that size.
        metadata: What the file carries as JSON.
        representative_images: float32 (N, H, W, C) for a quantization that needs
            them, otherwise None.
        top: Number of classes that an answer with class names has.
        runtime: A folder with the runtime's files for a page, or None if it loads
            them from elsewhere.
    """

    shape: tuple[int | None, ...]
    description: ModelDescription
    metadata: dict[str, Any]
    representative_images: np.ndarray | None = None
    top: int = 5
    runtime: Path | None = None

    @property
    def quantization(self) -> str | None:
        """One of the format's quantizations."""
        return self.metadata["quantization"]


@dataclass(frozen=True)
class Runtime:
    """An opened file, ready to run.

    Attributes:
        format: Name of its format.
        batch_size: Number of images per call, or None for any number.
        call: Takes images, float32 (B, H, W, C), and returns the outputs, sorted by
            name.
    """

    format: str
    batch_size: int | None
    call: Callable[[np.ndarray], list[np.ndarray]]

    def images_per_call(self, images: np.ndarray) -> int:
        """Return how many of these images (N, H, W, C) go into one call.

        If the file takes any number, these are 8 images of 224 x 224, and fewer of
        larger ones: their attention needs gigabytes.
        """
        height, width = images.shape[1:3]
        return self.batch_size or min(8, max(1, 8 * 224**2 // (height * width)))

    def run(self, images: np.ndarray) -> list[np.ndarray]:
        """Return the outputs for any number of images (N, H, W, C)."""
        size = self.images_per_call(images)
        parts = []
        for start in range(0, len(images), size):
            batch = images[start : start + size]
            count = len(batch)
            if self.batch_size is not None and count < size:
                batch = np.concatenate([batch, np.repeat(batch[-1:], size - count, 0)])
            parts.append([output[:count] for output in self.call(batch)])
        return [np.concatenate(outputs) for outputs in zip(*parts, strict=True)]


@dataclass(frozen=True)
class FileFormat:
    """All facts of an exported format. A module of `formats` calls its own `FORMAT`.

    Attributes:
        name: What `keras_cvt.deploy.export` calls it.
        title: Its name for people.
        write: Writes a network with its metadata to a path.
        open: Opens a path with a number of threads.
        read_metadata: Returns the JSON text that a path carries. It raises `OSError`
            or `KeyError` if there is none.
        suffix: Suffix of its paths, which stands for the format if none is given. It
            may be empty. None if a path does not show the format.
        marker: For a format that is a folder: the file that shows this.
        companions: Suffixes of the files beside the named one.
        stem: Stem of a default file name.
        aliases: Other names that are accepted.
        quantizations: The quantizations, in the order of a table.
        calibrated: Those of them that need representative images.
        default_batch_size: Number of images per call; None for any number.
        is_page: Whether it is a web page around a file of another format, for which
            its runtime can be copied. What measures all formats leaves it out.
        runtime: The module that runs it, if it is an optional one. The extra of
            keras_cvt that installs it has the format's name.
        usage: How to run a file, as Markdown with the fields `{path}`, `{size}`,
            `{values}` and `{channels}`.
    """

    name: str
    title: str
    write: Callable[[keras.Model, Path, ExportOptions], None]
    open: Callable[[Path, int], Runtime]
    read_metadata: Callable[[Path], str]
    suffix: str | None = None
    marker: str = ""
    companions: tuple[str, ...] = ()
    stem: str = "model"
    aliases: tuple[str, ...] = ()
    quantizations: tuple[str | None, ...] = (None,)
    calibrated: tuple[str, ...] = ()
    default_batch_size: int | None = None
    is_page: bool = False
    runtime: str | None = None
    usage: str = ""

    def recognises(self, path: Path) -> bool:
        """Return whether an existing file or folder looks like this format."""
        if self.marker:
            return (path / self.marker).is_file()
        return path.suffix == self.suffix and path.is_file()

    def files(self, path: Path) -> list[Path]:
        """Return the files that make up one export."""
        if path.is_dir():
            return [file for file in path.rglob("*") if file.is_file()]
        return [path, *(path.with_suffix(suffix) for suffix in self.companions)]

    def size(self, path: Path) -> int:
        """Return the size of one export in bytes."""
        return sum(file.stat().st_size for file in self.files(path))

    def import_runtime(self) -> Any:
        """Return the runtime's module, or None if it is not an optional one.

        Raises:
            ImportError: If it is missing. The message names the extra.
        """
        if self.runtime is None:
            return None
        return require(self.runtime, self.name, f"Running {self.title}")


@dataclass(frozen=True)
class Variant:
    """A format with one of its quantizations, as one name on every surface.

    Attributes:
        format: The format.
        quantization: One of its quantizations.
    """

    format: FileFormat
    quantization: str | None = None

    @property
    def name(self) -> str:
        """The format's name, followed by the quantization if there is one."""
        return "_".join(filter(None, (self.format.name, self.quantization)))

    @property
    def title(self) -> str:
        """The name for people, such as `"LiteRT, int8"`."""
        return ", ".join(filter(None, (self.format.title, self.quantization)))

    @property
    def file_name(self) -> str:
        """The file's name if nobody chooses another, such as `"model_int8.tflite"`."""
        stem = "_".join(filter(None, (self.format.stem, self.quantization)))
        return stem + (self.format.suffix or "")

    @property
    def needs_images(self) -> bool:
        """Whether its export needs representative images."""
        return self.quantization in self.format.calibrated
