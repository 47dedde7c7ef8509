"""Reads the tensors of a PyTorch checkpoint, without PyTorch and without running code.

A checkpoint of `torch.save` is a pickle that refers to raw storages. This module
replaces the few constructors that a state dict needs by functions of its own. Any other
name in the pickle is an error.
"""

import math
import os
import struct
import zipfile
from dataclasses import dataclass
from functools import cached_property
from typing import BinaryIO

import numpy as np

from keras_cvt._utils.errors import CheckpointError
from keras_cvt.checkpoints import safe_pickle, wrappers

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
    """A storage. Its bytes may be read later, because legacy files list it first."""

    type: _StorageType
    numel: int
    data: bytes | None = None

    @property
    def dtype(self):
        return _STORAGE_DTYPES[self.type.name]

    @cached_property
    def array(self) -> np.ndarray:
        assert self.data is not None
        # Converted once, because any number of tensors may share a storage.
        if self.type.name == "BoolStorage":
            return np.frombuffer(self.data, np.uint8) != 0
        array = np.frombuffer(self.data, self.dtype)
        if self.type.name == "BFloat16Storage":
            # The upper half of a float32's bits.
            return (array.astype(np.uint32) << 16).view(np.float32)
        return array.astype(array.dtype.newbyteorder("="), copy=False)


@dataclass(frozen=True, eq=False)
class _Tensor:
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    def numpy(self) -> np.ndarray:
        # A view, because tensors that share a storage must not copy it.
        base = self.storage.array
        if 0 in self.shape:
            return np.empty(self.shape, base.dtype)
        return np.lib.stride_tricks.as_strided(
            base[self.offset :],
            self.shape,
            [step * base.dtype.itemsize for step in self.stride],
            writeable=False,
        )


_MAX_DIMENSIONS = 64  # of numpy arrays


def _rebuild_tensor(
    storage, offset, shape, stride, _grad=None, _hooks=None, metadata=None
):
    # Metadata such as a pending negation would change the numbers.
    if metadata:
        raise CheckpointError("a tensor is a lazy view. Save its clone instead.")
    shape, stride = _size(shape), _size(stride)
    numbers = (offset, *shape, *stride)
    if (
        not isinstance(storage, _Storage)
        or len(shape) != len(stride)
        or not all(type(n) is int and 0 <= n < 2**63 for n in numbers)
    ):
        raise CheckpointError("a tensor has an invalid shape, stride or offset.")
    numel = math.prod(shape)
    steps = zip(shape, stride, strict=True)
    last = offset + sum((size - 1) * step for size, step in steps)
    # With a stride of 0, a single number could become an array of any size.
    if numel > storage.numel or (numel and last >= storage.numel):
        raise CheckpointError(
            f"a tensor of shape {shape}, stride {stride} and offset {offset} is not "
            f"inside its storage of {storage.numel} numbers."
        )
    return _Tensor(storage, offset, shape, stride)


def _size(numbers=()):
    """Return a tuple. It replaces `torch.Size`."""
    # Copies of a long list could fill the memory.
    if not isinstance(numbers, (tuple, list)) or len(numbers) > _MAX_DIMENSIONS:
        raise CheckpointError("a shape is not a short list of numbers.")
    return tuple(numbers)


def _rebuild_parameter(tensor, *_):
    return tensor


def _rebuild_with_attributes(function, _type, arguments, _attributes):
    if function not in (_rebuild_tensor, _rebuild_parameter):
        raise CheckpointError("a tensor is made in an unknown way.")
    return function(*arguments)


def _ignore(*_):
    """Stand for anything that is not a tensor, a dict or a part of one of them."""


# What `torch.load(weights_only=True)` reads as well; the dtypes are those of PyTorch.
_IGNORED = {
    ("collections", "Counter"),
    ("torch", "Tensor"),
    ("torch", "device"),
    ("torch.nn.parameter", "Parameter"),
    ("torch.serialization", "_get_layout"),
    ("_codecs", "encode"),
    *(
        (module, name)
        for module in ("builtins", "__builtin__")
        for name in ("bytearray", "complex", "frozenset", "set")
    ),
    *(
        ("torch", name)
        for name in (
            "bfloat16 bits16 bits1x8 bits2x4 bits4x2 bits8 bool complex128 complex32 "
            "complex64 float16 float32 float4_e2m1fn_x2 float64 float8_e4m3fn "
            "float8_e4m3fnuz float8_e5m2 float8_e5m2fnuz float8_e8m0fnu int16 int32 "
            "int64 int8 qint32 qint8 quint2x4 quint4x2 quint8 uint16 uint32 uint64 "
            "uint8"
        ).split()
    ),
}
_GLOBALS = {
    **dict.fromkeys(_IGNORED, _ignore),
    ("collections", "OrderedDict"): safe_pickle.mapping,
    ("torch", "Size"): _size,
    ("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _rebuild_parameter,
    ("torch._tensor", "_rebuild_from_type_v2"): _rebuild_with_attributes,
} | {("torch", name): _StorageType(name) for name in _STORAGE_DTYPES}


def _unpickle(data, load_storage):
    def persistent_load(pid):
        valid = (
            isinstance(pid, tuple)
            and len(pid) in (5, 6)
            and pid[0] == "storage"
            and isinstance(pid[1], _StorageType)
            and type(pid[2]) is str
            and type(pid[4]) is int
            and 0 <= pid[4] < 2**60
            # Views of storages, from before PyTorch 0.4, would give wrong numbers.
            and (len(pid) == 5 or pid[5] is None)
        )
        if not valid:
            raise CheckpointError("it refers to a storage in an unknown form.")
        return load_storage(pid[1], pid[2], pid[4])

    return safe_pickle.load(data, _GLOBALS, persistent_load)


def read_zip(path: str | os.PathLike) -> object:
    """Read a file in the zip format of PyTorch 1.6 and later.

    Args:
        path: The file.

    Returns:
        The object in its pickle, for `state_dict`.

    Raises:
        CheckpointError: If the file is damaged or contains more than tensors.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return _read_archive(archive, os.path.getsize(path))
    except (zipfile.BadZipFile, EOFError, OSError, NotImplementedError) as error:
        raise CheckpointError(f"its zip archive is damaged: {error}") from error


def _read_archive(archive, size_on_disk):
    members = {info.filename: info for info in archive.infolist()}
    pickles = [name for name in members if name.endswith("/data.pkl")]
    if "model.weights.h5" in members:
        raise CheckpointError(
            "it is a whole Keras model. Load it with keras.models.load_model."
        )
    if len(pickles) != 1:
        raise CheckpointError(
            "expected a zip archive of torch.save with one data.pkl. "
            f"Received the members {str(list(members)[:5])[:200]!a}"
        )
    prefix = pickles[0].removesuffix("data.pkl")
    if prefix + "constants.pkl" in members:
        raise CheckpointError(
            "it is a TorchScript archive. Save only its state dict: "
            "torch.save(torch.jit.load(path).state_dict(), new_path)."
        )
    # Members that overlap could use the same bytes many times.
    if sum(info.file_size for info in archive.infolist()) > size_on_disk:
        raise CheckpointError("its members are compressed or overlap.")

    def member(name, size=None):
        info = members.get(prefix + name)
        if info is None:
            raise CheckpointError(f"its storage {name[:100]!a} is missing.")
        # torch.save never compresses. A compressed member could fill the memory.
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
            raise CheckpointError(
                f"its member {name[:100]!a} is compressed or encrypted."
            )
        if size is not None and info.file_size != size:
            raise CheckpointError(
                f"expected {size} bytes in its member {name[:100]!a}. "
                f"Received: {info.file_size} bytes"
            )
        return info

    if prefix + "byteorder" in members:
        order = archive.read(member("byteorder", len(b"little")))
        if order != b"little":
            raise CheckpointError(f"expected little-endian numbers. Received: {order}")
    if member("data.pkl").file_size > safe_pickle.MAX_BYTES:
        raise CheckpointError(
            f"its pickle has more than {safe_pickle.MAX_BYTES} bytes."
        )

    storages = {}

    def load(storage_type, key, numel):
        if key not in storages:
            storage = _Storage(storage_type, numel)
            info = member(f"data/{key}", numel * storage.dtype.itemsize)
            storage.data = archive.read(info)
            storages[key] = storage
        return _same_type(storages[key], storage_type, numel)

    return _unpickle(archive.read(member("data.pkl")), load)[0]


def read_legacy(file: BinaryIO) -> object:
    """Read the pickle stream of PyTorch before 1.6.

    Args:
        file: A binary file, open for reading.

    Returns:
        The object in its pickle, for `state_dict`.

    Raises:
        CheckpointError: If the file is damaged or contains more than tensors.
    """
    storages: dict[str, _Storage] = {}

    def load(storage_type, key, numel):
        storage = storages.setdefault(key, _Storage(storage_type, numel))
        return _same_type(storage, storage_type, numel)

    def unpickle():
        start = file.tell()
        content, used = _unpickle(file.read(safe_pickle.MAX_BYTES + 1), load)
        file.seek(start + used)
        return content

    if [unpickle(), unpickle()] != [_LEGACY_MAGIC, _LEGACY_PROTOCOL]:
        raise CheckpointError("expected a checkpoint of torch.save.")
    system = unpickle()
    if not (isinstance(system, dict) and system.get("little_endian") is True):
        raise CheckpointError("expected little-endian numbers.")
    content = unpickle()
    keys = unpickle()
    if (
        not isinstance(keys, list)
        or not all(type(key) is str for key in keys)
        or sorted(keys) != sorted(storages)
    ):
        raise CheckpointError("its list of storages does not fit its tensors.")
    for key in keys:
        storage = storages[key]
        prefix = file.read(8)
        if len(prefix) != 8 or struct.unpack("<q", prefix)[0] != storage.numel:
            raise CheckpointError(f"its storage {key[:100]!a} is damaged.")
        size = storage.numel * storage.dtype.itemsize
        # A false size must not reserve memory.
        if size > os.fstat(file.fileno()).st_size - file.tell():
            raise CheckpointError("it ends before its last number.")
        storage.data = file.read(size)
    return content


def _same_type(storage, storage_type, numel):
    if (storage.type, storage.numel) != (storage_type, numel):
        raise CheckpointError("it gives one storage two types or sizes.")
    return storage


def state_dict(content: object) -> dict[str, np.ndarray]:
    """Return the arrays of a state dict.

    Args:
        content: The result of `read_zip` or `read_legacy`: a state dict, or a training
            checkpoint that has one in it, beside any plain data.

    Returns:
        A dict from names to arrays. Names in nested dicts are joined with dots.

    Raises:
        CheckpointError: If there are no tensors.
    """
    arrays = {}
    if isinstance(content, dict):
        arrays = wrappers.flatten(
            content, lambda value: value.numpy() if isinstance(value, _Tensor) else None
        )
    if not arrays:
        raise CheckpointError("expected a state dict: names and their tensors.")
    return arrays
