"""Reads the tensors of a PyTorch checkpoint without PyTorch, running nothing.

A checkpoint of `torch.save` is a pickle that refers to raw storages. The unpickler
here knows only the constructors that a state dict needs, each replaced by one of
ours; any other name in the pickle ends the reading.
"""

import io
import math
import os
import pickle
import struct
import zipfile
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np

from keras_cvt.checkpoints.errors import CheckpointError

# The pickle holds names and shapes only; the largest published one is 0.2 MB.
_MAX_PICKLE_BYTES = 64 * 2**20
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001

_STORAGE_DTYPES = {
    "DoubleStorage": np.dtype("<f8"),
    "FloatStorage": np.dtype("<f4"),
    "HalfStorage": np.dtype("<f2"),
    "BFloat16Storage": np.dtype("<u2"),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("?"),
}


@dataclass(frozen=True)
class _StorageType:
    name: str


@dataclass(eq=False)
class _Storage:
    """A storage, filled when its bytes are known; legacy files name it first."""

    type: _StorageType
    numel: int
    array: np.ndarray | None = None

    @property
    def dtype(self):
        return _STORAGE_DTYPES[self.type.name]


@dataclass(frozen=True, eq=False)
class _Tensor:
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    def numpy(self) -> np.ndarray:
        base = self.storage.array
        itemsize = base.dtype.itemsize
        view = np.lib.stride_tricks.as_strided(
            base[self.offset :],
            self.shape,
            [step * itemsize for step in self.stride],
            writeable=False,
        )
        if self.storage.type.name == "BFloat16Storage":
            # The upper half of a float32's bits.
            return (view.astype(np.uint32) << 16).view(np.float32)
        return np.ascontiguousarray(view).reshape(self.shape)


def _rebuild_tensor(storage, offset, shape, stride, *_):
    shape, stride = tuple(shape), tuple(stride)
    numbers = (offset, *shape, *stride)
    if (
        not isinstance(storage, _Storage)
        or len(shape) != len(stride)
        or not all(type(number) is int and number >= 0 for number in numbers)
    ):
        raise CheckpointError("A tensor is described by impossible numbers.")
    numel = math.prod(shape)
    steps = zip(shape, stride, strict=True)
    last = offset + sum((size - 1) * step for size, step in steps)
    # A stride of 0 could blow a single number up to any size.
    if numel > storage.numel or (numel and last >= storage.numel):
        raise CheckpointError(
            f"A tensor of shape {shape}, stride {stride} and offset {offset} does "
            f"not lie inside its storage of {storage.numel} numbers."
        )
    return _Tensor(storage, offset, shape, stride)


def _rebuild_parameter(tensor, *_):
    return tensor


_GLOBALS = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch", "Size"): tuple,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
} | {("torch", name): _StorageType(name) for name in _STORAGE_DTYPES}


class _Unpickler(pickle.Unpickler):
    def __init__(self, file, persistent_load):
        super().__init__(file, encoding="utf-8")
        self._load_storage = persistent_load

    def find_class(self, module, name):
        try:
            return _GLOBALS[module, name]
        except KeyError:
            raise CheckpointError(
                f"It refers to `{module}.{name}`, which a state dict does not need; "
                "nothing was run. If you trust the file, save its state dict alone "
                "with PyTorch."
            ) from None

    def persistent_load(self, pid):
        valid = (
            isinstance(pid, tuple)
            and len(pid) >= 5
            and pid[0] == "storage"
            and isinstance(pid[1], _StorageType)
            and type(pid[4]) is int
            and pid[4] >= 0
        )
        if not valid:
            raise CheckpointError("It refers to a storage in an unknown way.")
        return self._load_storage(pid[1], str(pid[2]), pid[4])


def _unpickle(file, persistent_load):
    try:
        return _Unpickler(file, persistent_load).load()
    except CheckpointError:
        raise
    except Exception as error:  # whatever a damaged pickle makes the machine do
        raise CheckpointError(f"Its pickle is damaged: {error!r}") from error


def read_zip(path) -> object:
    """Read the zip format (PyTorch 1.6 and later); tensors become `_Tensor`."""
    try:
        with zipfile.ZipFile(path) as archive:
            return _read_archive(archive)
    except (zipfile.BadZipFile, EOFError, OSError, NotImplementedError) as error:
        raise CheckpointError(f"Its zip archive is damaged: {error}") from error


def _read_archive(archive):
    members = {info.filename: info for info in archive.infolist()}
    pickles = [name for name in members if name.endswith("/data.pkl")]
    if "model.weights.h5" in members:
        raise CheckpointError(
            "It is a whole Keras model; open it with keras.models.load_model."
        )
    if len(pickles) != 1:
        raise CheckpointError(
            "Expected a zip archive of torch.save with one data.pkl. "
            f"Received the members {list(members)[:5]}"
        )
    prefix = pickles[0].removesuffix("data.pkl")

    def member(name, size=None):
        info = members.get(prefix + name)
        if info is None:
            raise CheckpointError(f"Its storage `{name}` is missing.")
        # torch.save never compresses; a compressed member could be a bomb.
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
            raise CheckpointError(f"Its member `{name}` is compressed or encrypted.")
        if info.file_size != (info.file_size if size is None else size):
            raise CheckpointError(
                f"Its member `{name}` has {info.file_size} bytes; expected {size}."
            )
        return info

    if prefix + "byteorder" in members:
        order = archive.read(member("byteorder", len(b"little")))
        if order != b"little":
            raise CheckpointError(f"Expected little-endian numbers. Received: {order}")
    if member("data.pkl").file_size > _MAX_PICKLE_BYTES:
        raise CheckpointError(f"Its pickle exceeds {_MAX_PICKLE_BYTES} bytes.")

    storages = {}

    def load(storage_type, key, numel):
        if key not in storages:
            storage = _Storage(storage_type, numel)
            info = member(f"data/{key}", numel * storage.dtype.itemsize)
            storage.array = np.frombuffer(archive.read(info), storage.dtype)
            storages[key] = storage
        return _same_type(storages[key], storage_type, numel)

    return _unpickle(io.BytesIO(archive.read(member("data.pkl"))), load)


def read_legacy(file) -> object:
    """Read the pickle stream of PyTorch before 1.6 from an open binary file."""
    storages = {}

    def load(storage_type, key, numel):
        storage = storages.setdefault(key, _Storage(storage_type, numel))
        return _same_type(storage, storage_type, numel)

    header = [_unpickle(file, load) for _ in range(2)]
    if header != [_LEGACY_MAGIC, _LEGACY_PROTOCOL]:
        raise CheckpointError("Expected a checkpoint of torch.save.")
    system = _unpickle(file, load)
    if not (isinstance(system, dict) and system.get("little_endian")):
        raise CheckpointError("Expected little-endian numbers.")
    content = _unpickle(file, load)
    keys = _unpickle(file, load)
    if not isinstance(keys, list) or set(map(str, keys)) != set(storages):
        raise CheckpointError("Its list of storages does not fit its tensors.")
    for key in keys:
        storage = storages[str(key)]
        prefix = file.read(8)
        if len(prefix) != 8 or struct.unpack("<q", prefix)[0] != storage.numel:
            raise CheckpointError(f"Its storage {key!r} is damaged.")
        size = storage.numel * storage.dtype.itemsize
        # Asked before reading: a false size must not reserve memory.
        if size > os.fstat(file.fileno()).st_size - file.tell():
            raise CheckpointError("It ends in the middle of its numbers.")
        storage.array = np.frombuffer(file.read(size), storage.dtype)
    return content


def _same_type(storage, storage_type, numel):
    if (storage.type, storage.numel) != (storage_type, numel):
        raise CheckpointError("It names one storage with two types or sizes.")
    return storage


def state_dict(content: object) -> dict[str, np.ndarray]:
    """Find the state dict in what a checkpoint holds, and turn it into arrays.

    A training checkpoint keeps it under a key such as `state_dict`; models wrapped
    for training prefix every name with `module.` or `_orig_mod.`.
    """
    if isinstance(content, dict):
        for key in ("state_dict", "model_state_dict", "model", "net", "module"):
            if _has_tensors(content.get(key)):
                content = content[key]
                break
    if not _has_tensors(content):
        raise CheckpointError("Expected a state dict: names and their tensors.")
    arrays = {
        name: tensor.numpy()
        for name, tensor in content.items()
        if isinstance(name, str) and isinstance(tensor, _Tensor)
    }
    for prefix in ("module.", "_orig_mod."):
        if all(name.startswith(prefix) for name in arrays):
            arrays = {name.removeprefix(prefix): a for name, a in arrays.items()}
    return arrays


def _has_tensors(value):
    return isinstance(value, dict) and any(
        isinstance(entry, _Tensor) for entry in value.values()
    )
