"""Images of any number on many machines, with Ray Data."""

import contextlib
import itertools
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras

from keras_cvt._utils import files, validation
from keras_cvt._utils.optional import require, tf
from keras_cvt.inference.classifier import classifier_of
from keras_cvt.inference.outputs import to_table
from keras_cvt.inference.predicting import image_paths, predict_rows
from keras_cvt.models import CvTModel
from keras_cvt.preprocessing.batches import EncodedImage
from keras_cvt.preprocessing.images import PathLike

if TYPE_CHECKING:
    import pyarrow
    import ray.data

# Batches that an actor computes at a time. The images of the next ones are read
# meanwhile, but for the first of them.
_BATCHES = 32


def predict_with_ray(
    model: CvTModel | PathLike,
    sources: Sequence[PathLike],
    output: PathLike,
    *,
    list_file: PathLike | None = None,
    address: str | None = None,
    actors: int = 1,
    cpus_per_actor: int = 1,
    gpus_per_actor: float = 0,
    top: int = 5,
    batch_size: int = 8,
    class_names: Sequence[str] | None = None,
) -> int:
    """Classify images on a Ray cluster and write Parquet files.

    Each actor holds the network once and reads its images itself, so their paths must
    be the same on all machines. Images in an object store, such as `s3://bucket/key`,
    are read by Ray. The rows are those of `predict_files`. If an actor or a machine
    dies, Ray computes its images again, elsewhere.

    Args:
        model: A model, or a path; see `classifier_of`. Only this process reads the
            path.
        sources: Image files, folders that are searched for images, or addresses with
            `://`, which must be all or none.
        output: Folder to write. It must not exist. If it is a path, it appears when it
            is complete. It may also be an address with `://`.
        list_file: A text file with the path of another image in each line. Defaults
            to `None`.
        address: Address of the cluster; `"auto"` finds a running one. Not used if Ray
            has been initialised. Defaults to `None`: starts Ray on this machine.
        actors: Number of processes that each hold the network. Defaults to `1`.
        cpus_per_actor: Processors, and threads, of each of them. Defaults to `1`.
        gpus_per_actor: GPUs of each of them. Defaults to `0`.
        top: Number of classes per image. Defaults to `5`.
        batch_size: Images per call. Defaults to `8`.
        class_names: A name for each class; see `classifier_of`. Defaults to `None`.

    Returns:
        The number of images that could not be read. Their rows have an `error`.

    Raises:
        FileExistsError: If the output exists.
        ValueError: If an argument is out of range, or there is no image.
        ImportError: If Ray is missing.
    """
    validation.check_int(
        1, top=top, batch_size=batch_size, actors=actors, cpus_per_actor=cpus_per_actor
    )
    ray = require_ray()
    remote = [str(source) for source in sources if "://" in str(source)]
    if remote and (len(remote) < len(sources) or list_file is not None):
        raise ValueError(
            "Expected paths, or addresses with `://`, and not both. "
            f"Received: sources={sources}, list_file={list_file}"
        )
    stored = "://" in os.fspath(output)
    if not stored and os.path.exists(output):
        raise FileExistsError(f"Expected a new folder. {output} exists.")
    if not ray.is_initialized():
        ray.init(address=address, log_to_driver=False)
    if remote:
        dataset = ray.data.read_binary_files(remote, include_paths=True)
    else:
        dataset = _dataset_of(image_paths(sources, list_file), batch_size)
    results = predict_dataset(
        dataset,
        model,
        actors=actors,
        cpus_per_actor=cpus_per_actor,
        gpus_per_actor=gpus_per_actor,
        top=top,
        batch_size=batch_size,
        class_names=class_names,
    )
    parquet = require("pyarrow.dataset", "ray", "Ray Data")
    with contextlib.ExitStack() as stack:
        folder = output if stored else stack.enter_context(files.staged(Path(output)))
        # The actors may hold all processors.
        results.write_parquet(os.fspath(folder), ray_remote_args={"num_cpus": 0})
        written = parquet.dataset(os.fspath(folder), format="parquet")
        failed = parquet.field("error").is_valid()
        return written.count_rows(filter=failed)


def predict_dataset(
    dataset: "ray.data.Dataset",
    model: CvTModel | PathLike,
    *,
    images: str = "bytes",
    names: str = "path",
    actors: int = 1,
    cpus_per_actor: int = 1,
    gpus_per_actor: float = 0,
    top: int = 5,
    batch_size: int = 8,
    class_names: Sequence[str] | None = None,
) -> "ray.data.Dataset":
    """Classify the images of a Ray data set.

    Args:
        dataset: A data set with encoded images, such as
            `ray.data.read_binary_files(folder, include_paths=True)` or a Parquet table.
        model: A model, or a path; see `classifier_of`.
        images: The column with the files' contents. If there is none, the files that
            the column `names` names are read. Defaults to `"bytes"`.
        names: The column with the images' names. It may be missing, if there are
            contents. Defaults to `"path"`.
        actors: See `predict_with_ray`, also for the other arguments. Defaults to `1`.
        cpus_per_actor: Defaults to `1`.
        gpus_per_actor: Defaults to `0`.
        top: Defaults to `5`.
        batch_size: Defaults to `8`.
        class_names: Defaults to `None`.

    Returns:
        A lazy data set with a row for each image: `image` (its name), `labels` and
        `scores` (lists, highest score first) and `error` (why it could not be read).
    """
    ray = require_ray()
    return dataset.map_batches(
        _Predictor,
        fn_constructor_kwargs={
            "model": ray.put(_pack(model)),
            "columns": (images, names),
            "threads": cpus_per_actor,
            "settings": {"top": top, "batch_size": batch_size},
            "class_names": class_names,
        },
        batch_size=_BATCHES * batch_size,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=actors),
        num_cpus=cpus_per_actor,
        num_gpus=gpus_per_actor,
        # Workers on other machines do not have this process's environment.
        runtime_env={"env_vars": {"KERAS_BACKEND": keras.backend.backend()}},
    )


def require_ray() -> Any:
    """Import `ray` with `ray.data`.

    Raises:
        ImportError: If it is missing. The message names the extra.
    """
    require("ray.data", "ray", "Ray Data")
    return require("ray", "ray")


def _dataset_of(paths, batch_size):
    """Return a data set of paths, in blocks of whole batches."""
    import pyarrow
    import ray

    tables = []
    while part := list(itertools.islice(paths, _BATCHES * batch_size)):
        # As bytes: a path need not be text.
        tables.append(pyarrow.table({"path": [os.fsencode(path) for path in part]}))
    if not tables:
        raise ValueError("Expected at least one image. Received: none")
    return ray.data.from_arrow(tables)


def _pack(model: CvTModel | PathLike) -> tuple[str, dict[str, bytes]]:
    """Return the name of a model's file or folder, and the content of each file."""
    if isinstance(model, CvTModel):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.keras"
            model.save(path)
            return path.name, {path.name: path.read_bytes()}
    path = Path(model)
    if path.suffix == ".keras":
        found = [path]
    else:
        from keras_cvt.deploy import formats

        found = formats.of_path(path).files(path)
    return path.name, {
        str(file.relative_to(path.parent)): file.read_bytes() for file in found
    }


class _Predictor:
    """An actor that holds a classifier."""

    def __init__(self, model, columns, threads, settings, class_names):
        import ray

        name, contents = ray.get(model)
        if keras.backend.backend() == "tensorflow":
            with contextlib.suppress(RuntimeError):  # TensorFlow has computed already
                tf.config.threading.set_intra_op_parallelism_threads(threads)
                tf.config.threading.set_inter_op_parallelism_threads(threads)
        self._folder = tempfile.TemporaryDirectory()
        for file, content in contents.items():
            path = Path(self._folder.name) / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        self._classifier = classifier_of(
            Path(self._folder.name) / name, class_names=class_names, threads=threads
        )
        self._columns, self._settings = columns, settings | {"workers": threads}

    def __call__(self, batch: "pyarrow.Table") -> "Iterator[pyarrow.Table]":
        for rows in predict_rows(self._classifier, self._read(batch), **self._settings):
            yield to_table(rows)

    def _read(self, batch):
        images, names = self._columns
        found = set(batch.column_names)
        if not found & {images, names}:
            raise ValueError(
                f"Expected a data set with a column {images!r} or {names!r}. "
                f"Received: {', '.join(batch.column_names)}"
            )
        if images not in found:
            return [os.fsdecode(name) for name in batch.column(names).to_pylist()]
        contents = batch.column(images).to_pylist()
        given = batch.column(names).to_pylist() if names in found else [""] * len(batch)
        pairs = zip(given, contents, strict=True)
        return [EncodedImage(str(name), content) for name, content in pairs]
