"""Reads a checkpoint file into numpy arrays, under the names that the file uses.

The format is recognised by the content. Reading executes no code, writes nothing, and
opens no other file.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from keras_cvt._utils.errors import CheckpointError
from keras_cvt.checkpoints import torch_pickle, wrappers

# From protocol 4 the length of a frame comes first.
_LEGACY_TORCH = re.compile(rb"\x80[\x02-\x05](?:\x95.{8})?\x8a\x0a", re.DOTALL)

_MAX_HDF5_NAME = 1000


def read_checkpoint(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Read all arrays of a checkpoint file. PyTorch is not needed.

    Args:
        path: A file of `torch.save` (zip or legacy format), a `.safetensors` file, or
            an HDF5 file of Keras.

    Returns:
        A dict from names to arrays. Names in nested dicts of PyTorch are joined with
        dots. bfloat16 becomes float32; other types stay.

    Raises:
        FileNotFoundError: If there is no such file.
        CheckpointError: If the file is not a checkpoint, is damaged, or refers to
            anything except its own numbers.
    """
    path = Path(path)
    if path.is_dir():
        raise CheckpointError(f"Expected a checkpoint file. Received a folder: {path}")
    if path.exists() and not path.is_file():  # reading a pipe would wait forever
        raise CheckpointError(f"Expected a checkpoint file. Not a regular file: {path}")
    with path.open("rb") as file:
        head = file.read(64)
    try:
        return _read(path, head)
    except CheckpointError as error:
        raise CheckpointError(f"Cannot read {path}: {error}") from error
    except ImportError:
        raise
    except Exception as error:  # damaged bytes can raise anything in a library
        raise CheckpointError(
            f"Cannot read {path}: it is damaged: "
            f"{type(error).__name__}: {str(error)[:200]!a}"
        ) from error


def from_dict(content: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return the arrays of a dict in the form of `read_checkpoint`.

    Args:
        content: Arrays of numpy or tensors of PyTorch by name, also in nested dicts.

    Raises:
        CheckpointError: If a tensor cannot become a numpy array.
    """

    def to_array(value):
        if not hasattr(value, "__array__"):
            return None
        try:
            array = np.asarray(value)
        except Exception as error:
            raise CheckpointError(
                "Expected numpy arrays, such as tensor.detach().cpu().float().numpy(). "
                f"Received: {type(value).__name__}: {error}"
            ) from error
        return array.astype(np.float32) if array.dtype.name == "bfloat16" else array

    return wrappers.flatten(content, to_array)


def _read(path, head):
    if head.startswith(b"PK\x03\x04"):
        return torch_pickle.state_dict(torch_pickle.read_zip(path))
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        return _read_hdf5(path)
    # A pickle of protocol 2 or later that starts with torch's ten-byte magic number.
    if _LEGACY_TORCH.match(head):
        with path.open("rb") as file:
            return torch_pickle.state_dict(torch_pickle.read_legacy(file))
    if head[8:9] == b"{":
        return _read_safetensors(path)
    if head.startswith(b"version https://git-lfs"):
        raise CheckpointError(
            "it is a git-lfs pointer. Download the real file with `git lfs pull`."
        )
    if head.lstrip().lower().startswith((b"<!doctype html", b"<html")):
        raise CheckpointError("it is an HTML page, not the file behind a web address.")
    if not head:
        raise CheckpointError("it is empty.")
    raise CheckpointError(
        "expected a file of torch.save, a .safetensors file or an HDF5 file. "
        f"Received a file that starts with {head[:8]!r}."
    )


def _read_safetensors(path):
    import ml_dtypes  # noqa: F401  registers bfloat16 with numpy
    from safetensors.numpy import load_file

    return from_dict(load_file(path))


def _read_hdf5(path):
    arrays = {}
    visited = set()
    left = os.path.getsize(path)
    with h5py.File(path, "r") as file:
        items = [("", file)]
        while items:
            name, item = items.pop()
            # A group that contains itself never ends. Links to the same dataset
            # could fill the memory.
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
    # Reversed, because the caller takes the last item first.
    for key in reversed(list(group)):
        name = f"{prefix}/{key}" if prefix else key
        if len(name) > _MAX_HDF5_NAME:
            raise CheckpointError(f"`{name[:50]}...` is nested too deep.")
        if not isinstance(group.get(key, getlink=True), h5py.HardLink):
            raise CheckpointError(f"`{name}` is a link to another place.")
        yield name, group[key]


def _is_bfloat16(dataset):
    # Keras also says so in an attribute, but reading a damaged one may never end.
    return dataset.dtype.str == "|V2"


def _check_dataset(name, dataset):
    if not isinstance(dataset, h5py.Dataset):
        raise CheckpointError(f"`{name}` does not contain numbers.")
    # First, because the shape of a virtual dataset is looked up in other files.
    if dataset.is_virtual or dataset.external:
        raise CheckpointError(f"`{name}` stores its numbers in other files.")
    if dataset.shape is None:
        raise CheckpointError(f"`{name}` does not contain numbers.")
    if dataset.dtype.kind not in "fiub" and not _is_bfloat16(dataset):
        raise CheckpointError(
            f"expected numbers in `{name}`. Received: dtype={dataset.dtype}"
        )
    # Compressed data comes in chunks, which Keras never uses. A compressed chunk, a
    # chunk larger than its dataset or an unwritten dataset could fill the memory.
    if dataset.chunks is not None:
        raise CheckpointError(f"`{name}` is stored in chunks, as compressed data is.")
    if dataset.id.get_storage_size() != dataset.nbytes:
        raise CheckpointError(
            f"`{name}` was never written. Expected {dataset.nbytes} bytes. "
            f"Received: {dataset.id.get_storage_size()}"
        )


def _to_array(dataset):
    array = np.asarray(dataset[()])
    if _is_bfloat16(dataset):  # stored by Keras as the upper half of a float32
        array = array.view(np.uint16).astype(np.uint32) << 16
        return array.view(np.float32)
    return array.astype(array.dtype.newbyteorder("="), copy=False)
