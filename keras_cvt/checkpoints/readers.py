"""Checkpoint files to dicts of numpy arrays, under the file's own names.

The format is recognised by content. Nothing is executed, nothing is written, and
nothing outside the file is opened.
"""

import os
from pathlib import Path

import numpy as np

from keras_cvt.checkpoints import torch_pickle
from keras_cvt.errors import CheckpointError


def read_checkpoint(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Read every array of a checkpoint file, without PyTorch.

    Args:
        path: A file of `torch.save` (zip or legacy format), a `.safetensors` file,
            or an HDF5 file of Keras.

    Returns:
        Name -> array, as stored; bfloat16 becomes float32.

    Raises:
        FileNotFoundError: If there is no such file.
        CheckpointError: If it is not a checkpoint, is damaged, or asks for anything
            but its own numbers.
    """
    path = Path(path)
    if path.is_dir():
        raise CheckpointError(f"Expected a checkpoint file. {path} is a folder.")
    if path.exists() and not path.is_file():  # reading a pipe would wait forever
        raise CheckpointError(f"Expected a checkpoint file. {path} is no plain file.")
    with path.open("rb") as file:
        head = file.read(64)
    try:
        return _reader(head)(path)
    except CheckpointError as error:
        raise CheckpointError(f"Cannot read {path}: {error}") from error
    except ImportError:
        raise
    except Exception as error:  # whatever damaged bytes make of a library
        raise CheckpointError(
            f"Cannot read {path}: it is damaged: "
            f"{type(error).__name__}: {str(error)[:200]!a}"
        ) from error


def _reader(head):
    if head.startswith(b"PK\x03\x04"):
        return lambda path: torch_pickle.state_dict(torch_pickle.read_zip(path))
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        return _read_hdf5
    # A pickle of protocol 2 that starts with torch's ten-byte magic number.
    if head.startswith(b"\x80\x02\x8a\x0a"):
        return _read_legacy
    if head[8:9] == b"{":
        return _read_safetensors
    if head.startswith(b"version https://git-lfs"):
        reason = "it is a git-lfs pointer; fetch the real file with `git lfs pull`."
    elif head.lstrip().lower().startswith((b"<!doctype html", b"<html")):
        reason = "it is an HTML page: the download went to a web page."
    elif not head:
        reason = "it is empty."
    else:
        reason = (
            "expected a file of torch.save, a .safetensors file or an HDF5 file. "
            f"Received one that starts with {head[:8]!r}."
        )

    def refuse(path):
        raise CheckpointError(reason)

    return refuse


def _read_legacy(path):
    with path.open("rb") as file:
        return torch_pickle.state_dict(torch_pickle.read_legacy(file))


def _read_safetensors(path):
    import ml_dtypes  # noqa: F401  registers bfloat16 with numpy
    from safetensors.numpy import load_file

    return {
        name: a.astype(np.float32) if a.dtype.name == "bfloat16" else a
        for name, a in load_file(path).items()
    }


def _read_hdf5(path):
    import h5py

    arrays = {}
    visited = set()
    left = os.path.getsize(path)
    with h5py.File(path, "r") as file:
        items = [("", file)]
        while items:
            name, item = items.pop()
            # Reached twice, a group may never end and a dataset may fill memory.
            identity = h5py.h5o.get_info(item.id).addr
            if identity in visited:
                raise CheckpointError(f"`{name}` is linked twice.")
            visited.add(identity)
            if isinstance(item, h5py.Group):
                items.extend(_members(name, item))
                continue
            _check_dataset(name, item)
            left -= item.nbytes
            if left < 0:
                raise CheckpointError("its datasets overlap.")
            arrays[name] = _to_array(item)
    return arrays


def _members(prefix, group):
    import h5py

    # Reversed, because the caller takes the last one first.
    for key in reversed(list(group)):
        name = f"{prefix}/{key}" if prefix else key
        if not isinstance(group.get(key, getlink=True), h5py.HardLink):
            raise CheckpointError(f"`{name}` links to another place.")
        yield name, group[key]


def _is_bfloat16(dataset):
    return dataset.dtype.str == "|V2" and dataset.attrs.get("dtype") == "bfloat16"


def _check_dataset(name, dataset):
    import h5py

    if not isinstance(dataset, h5py.Dataset):
        raise CheckpointError(f"`{name}` holds no numbers.")
    # Before its shape, which a virtual dataset would look for in other files.
    if dataset.is_virtual or dataset.external:
        raise CheckpointError(f"`{name}` keeps its numbers in other files.")
    if dataset.shape is None:
        raise CheckpointError(f"`{name}` holds no numbers.")
    if dataset.dtype.kind not in "fiub" and not _is_bfloat16(dataset):
        raise CheckpointError(f"Expected numbers in `{name}`. Received {dataset.dtype}")
    # Keras never chunks, which compression needs: a small chunk, or one that is
    # larger than its dataset, could be a bomb, and so could an unwritten dataset.
    if dataset.chunks is not None:
        raise CheckpointError(f"`{name}` is kept in chunks, as compressed data is.")
    if dataset.id.get_storage_size() != dataset.nbytes:
        raise CheckpointError(
            f"`{name}` stores {dataset.id.get_storage_size()} bytes for "
            f"{dataset.nbytes}: it was never written."
        )


def _to_array(dataset):
    array = np.asarray(dataset[()])
    if _is_bfloat16(dataset):  # how Keras stores it; the upper half of a float32
        array = array.view(np.uint16).astype(np.uint32) << 16
        return array.view(np.float32)
    return array.astype(array.dtype.newbyteorder("="), copy=False)
