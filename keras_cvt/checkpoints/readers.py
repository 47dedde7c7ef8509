"""Checkpoint files to dicts of numpy arrays, under the file's own names.

The format is recognised by content. Nothing is executed, nothing is written, and
nothing outside the file is opened.
"""

import os
from pathlib import Path

import numpy as np

from keras_cvt.checkpoints import torch_pickle
from keras_cvt.checkpoints.errors import CheckpointError


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
    with path.open("rb") as file:
        head = file.read(64)
    try:
        return _reader(head)(path)
    except CheckpointError as error:
        raise CheckpointError(f"Cannot read {path}: {error}") from error


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
        raise_for = "it is a git-lfs pointer; fetch the real file with `git lfs pull`."
    elif not head:
        raise_for = "it is empty."
    else:
        raise_for = (
            "expected a file of torch.save, a .safetensors file or an HDF5 file. "
            f"Received one that starts with {head[:8]!r}."
        )

    def refuse(path):
        raise CheckpointError(raise_for)

    return refuse


def _read_legacy(path):
    with path.open("rb") as file:
        return torch_pickle.state_dict(torch_pickle.read_legacy(file))


def _read_safetensors(path):
    import ml_dtypes  # noqa: F401  registers bfloat16 with numpy
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        arrays = load_file(path)
    except (SafetensorError, ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"its safetensors content is damaged: {error}") from error
    return {
        name: a.astype(np.float32) if a.dtype.name == "bfloat16" else a
        for name, a in arrays.items()
    }


def _read_hdf5(path):
    import h5py

    arrays = {}
    try:
        with h5py.File(path, "r") as file:
            _collect(file, "", arrays, set())
    except (OSError, RuntimeError, KeyError) as error:
        raise CheckpointError(f"its HDF5 content is damaged: {error}") from error
    return arrays


def _collect(group, prefix, arrays, visited):
    import h5py

    identity = h5py.h5o.get_info(group.id).addr
    if identity in visited:
        raise CheckpointError(f"its group `{prefix}` is linked twice.")
    visited.add(identity)
    for key in group:
        name = f"{prefix}{key}"
        if not isinstance(group.get(key, getlink=True), h5py.HardLink):
            raise CheckpointError(f"`{name}` links to another place.")
        item = group[key]
        if isinstance(item, h5py.Group):
            _collect(item, f"{name}/", arrays, visited)
        elif item.dtype.kind in "fiub":
            _check_dataset(name, item)
            arrays[name] = item[()]


def _check_dataset(name, dataset):
    if dataset.is_virtual or dataset.external:
        raise CheckpointError(f"`{name}` keeps its numbers in other files.")
    # Keras never compresses; a compressed or unwritten dataset could be a bomb.
    if dataset.id.get_storage_size() != dataset.nbytes:
        raise CheckpointError(
            f"`{name}` stores {dataset.id.get_storage_size()} bytes for "
            f"{dataset.nbytes}: it is compressed or was never written."
        )
