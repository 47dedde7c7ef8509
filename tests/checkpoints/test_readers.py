"""Real files are read as their own libraries read them. Hostile files do no harm."""

import os
import pickle
import zipfile

import h5py
import numpy as np
import pytest
import torch
from golden import FOLDER

from keras_cvt._utils.errors import CheckpointError
from keras_cvt.checkpoints import layouts, safe_pickle
from keras_cvt.checkpoints.readers import read_checkpoint

CHECKPOINTS = FOLDER.parent / "checkpoints"


@pytest.mark.parametrize(
    "name",
    [
        "official_zip.pth",
        "official_legacy.pth",
        "official_training_checkpoint.pth",
        "official_fp16.pth",
        "hf_pt/pytorch_model.bin",
    ],
)
def test_torch_files_read_as_torch_reads_them(name):
    expected = torch.load(CHECKPOINTS / name, weights_only=True)
    if "state_dict" in expected:
        expected = {f"state_dict.{n}": t for n, t in expected["state_dict"].items()}
    arrays = read_checkpoint(CHECKPOINTS / name)
    assert set(arrays) == set(expected)
    for key, tensor in expected.items():
        assert arrays[key].dtype == tensor.numpy().dtype
        np.testing.assert_array_equal(arrays[key], tensor.numpy(), err_msg=key)


@pytest.mark.parametrize("name", ["hf_pt/model.safetensors", "hf_tf/tf_model.h5"])
def test_all_files_of_one_transformers_model_contain_the_same_numbers(name):
    expected, _ = layouts.to_official(
        read_checkpoint(CHECKPOINTS / "hf_pt" / "pytorch_model.bin")
    )
    arrays, _ = layouts.to_official(read_checkpoint(CHECKPOINTS / name))
    assert set(arrays) == set(expected)
    for key, array in expected.items():
        np.testing.assert_array_equal(arrays[key], array, err_msg=key)


@pytest.mark.parametrize("legacy", [False, True])
def test_bfloat16_and_shared_strided_storages_are_read_exactly(tmp_path, legacy):
    base = torch.arange(24.0).reshape(4, 6)
    state = {"t": base.T, "part": base[1:3, ::2], "half": base.to(torch.bfloat16)}
    path = tmp_path / "x.pth"
    torch.save(state, path, _use_new_zipfile_serialization=not legacy)
    arrays = read_checkpoint(path)
    for key, tensor in state.items():
        np.testing.assert_array_equal(arrays[key], tensor.float().numpy())


class Evil:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_that_would_run_code_is_refused(tmp_path, legacy):
    marker = tmp_path / "executed"
    path = tmp_path / "evil.pth"
    state = {"w": torch.ones(2), "x": Evil(marker)}
    torch.save(state, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(CheckpointError, match="(?i)mkdir.*nothing was run"):
        read_checkpoint(path)
    assert not marker.exists()


def zip_checkpoint(path, members, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(f"archive/{name}", data)


def push(value):
    """The opcodes that put a value on the pickle machine's stack."""
    return pickle.dumps(value, protocol=2)[2:-1]


def push_tensor(shape=(4,), stride=(1,), offset=0, numel=4, after_storage=b""):
    storage = b"(" + push("storage") + b"ctorch\nFloatStorage\n"
    storage += push("0") + push("cpu") + push(numel) + b"tQ" + after_storage
    rest = push(offset) + push(shape) + push(stride) + push(False) + push(None)
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + rest + b"tR"


def tensor_pickle(*args, **kwargs):
    """A state dict of one tensor, assembled by hand."""
    return b"\x80\x02}" + push("w") + push_tensor(*args, **kwargs) + b"s."


def test_a_tensor_inside_its_storage_is_read(tmp_path):
    path = tmp_path / "x.pth"
    data = np.arange(4, dtype="<f4").tobytes()
    zip_checkpoint(path, {"data.pkl": tensor_pickle((2, 2), (2, 1)), "data/0": data})
    np.testing.assert_array_equal(read_checkpoint(path)["w"], [[0, 1], [2, 3]])


@pytest.mark.parametrize(
    ("shape", "stride", "offset"),
    [((10**6, 10**6), (0, 0), 0), ((4,), (1,), 1), ((2,), (-1,), 3), ((2,), (9,), 0)],
)
def test_a_tensor_outside_its_storage_is_refused(tmp_path, shape, stride, offset):
    path = tmp_path / "x.pth"
    members = {"data.pkl": tensor_pickle(shape, stride, offset), "data/0": bytes(16)}
    zip_checkpoint(path, members)
    with pytest.raises(CheckpointError, match="storage|invalid shape"):
        read_checkpoint(path)


# Each of these is harmful for `pickle.Unpickler` with a restricted `find_class`: it
# reads beyond a storage, changes how later files are read, crashes, or takes gigabytes.
HOSTILE_PICKLES = {
    "a tensor's shape is overwritten after the check": tensor_pickle().replace(
        b"tRs.", b"tR" + push({"shape": (40_000,)}) + b"bs."
    ),
    "a storage's size is overwritten before the check": tensor_pickle(
        (40_000,), after_storage=push({"numel": 10**9}) + b"b"
    ),
    "a storage type is renamed for good": b"\x80\x02ctorch\nFloatStorage\n"
    + push({"name": "IntStorage"})
    + b"b0"
    + tensor_pickle()[2:],
    "a memo index reserves gigabytes": b"\x80\x02Nr\xff\xff\xff\xff.",
    "a key nests three million tuples": b"\x80\x02})" + b"\x85" * 3_000_000 + b"Ns.",
    "a dotted name reaches into a function": b"\x80\x04\x8c\x0ctorch._utils"
    b"\x8c\x1f_rebuild_tensor_v2.__globals__\x93.",
    "a list is copied again and again": b"\x80\x02ccollections\nOrderedDict\nq\x00"
    b"U\x01aK\x01\x86q\x01]q\x02("
    + b"h\x01" * 200
    + b"e"
    + b"h\x00h\x02\x85R0" * 200
    + b"}.",
    "a list is changed into a set of attributes": b"\x80\x02]" + push({"x": 1}) + b"b.",
    "what stands for a device is called as a function of tensors": b"\x80\x02}"
    + push("w")
    + b"ctorch._tensor\n_rebuild_from_type_v2\n(ctorch\ndevice\nctorch\nTensor\n)NtRs.",
    "an object is made without its constructor": b"\x80\x02ctorch\nTensor\n)\x81.",
    "attributes are given to a tensor's class": b"\x80\x02ctorch\nTensor\n"
    + push({"numpy": 1})
    + b"b"
    + tensor_pickle()[2:],
    "an instance is made": b"\x80\x02(cos\nsystem\nios\nsystem\n.",
}


@pytest.mark.parametrize("name", HOSTILE_PICKLES)
def test_a_pickle_with_more_than_plain_data_is_refused(tmp_path, name):
    path = tmp_path / "x.pth"
    zip_checkpoint(path, {"data.pkl": HOSTILE_PICKLES[name], "data/0": bytes(16)})
    with pytest.raises(CheckpointError):
        read_checkpoint(path)
    data = np.arange(4, dtype="<f4").tobytes()
    zip_checkpoint(path, {"data.pkl": tensor_pickle(), "data/0": data})
    np.testing.assert_array_equal(read_checkpoint(path)["w"], [0, 1, 2, 3])


def test_tensors_that_share_a_storage_share_its_memory(tmp_path):
    base = torch.zeros(1000, 1000)
    path = tmp_path / "x.pth"
    torch.save({f"w{i}": base.T for i in range(1000)}, path)
    arrays = read_checkpoint(path)
    assert len(arrays) == 1000
    assert np.shares_memory(arrays["w0"], arrays["w999"])


def test_only_tensors_are_arrays(tmp_path):
    """A weight in another form is missing then: see `test_wrappers.py`."""
    torch.save({"w": torch.ones(2), "scale": 0.5, "b": [0.5]}, tmp_path / "x.pth")
    assert set(read_checkpoint(tmp_path / "x.pth")) == {"w"}


@pytest.mark.parametrize("content", [{}, [], 3, {"w": 0.5}, {"w": {"b": [1.0]}}])
def test_a_file_without_tensors_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match="names and their tensors"):
        read_checkpoint(tmp_path / "x.pth")


def test_a_tensor_with_a_pending_negation_is_refused(tmp_path):
    lazy = torch.imag(torch.conj(torch.ones(2, dtype=torch.complex64)))
    assert lazy.is_neg()
    torch.save({"w": lazy}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError):
        read_checkpoint(tmp_path / "x.pth")


def test_a_pipe_is_refused_without_waiting_for_it(tmp_path):
    os.mkfifo(tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match="Not a regular file"):
        read_checkpoint(tmp_path / "x.pth")


def test_a_member_of_the_wrong_size_is_refused(tmp_path):
    path = tmp_path / "x.pth"
    members = {"data.pkl": tensor_pickle((2, 2), (2, 1)), "data/0": bytes(12)}
    zip_checkpoint(path, members)
    with pytest.raises(CheckpointError, match="expected 16 bytes.*Received: 12 bytes"):
        read_checkpoint(path)


def test_a_zip_bomb_is_not_unpacked(tmp_path):
    path = tmp_path / "x.pth"
    numel = 16 * 2**20
    members = {
        "data.pkl": tensor_pickle((numel,), (1,), numel=numel),
        "data/0": bytes(4 * numel),
    }
    zip_checkpoint(path, members, zipfile.ZIP_DEFLATED)
    with pytest.raises(CheckpointError, match="compressed"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    "name",
    ["official_zip.pth", "official_legacy.pth", "hf_pt/model.safetensors"],
)
def test_a_truncated_file_is_an_error_that_names_it(tmp_path, name):
    data = (CHECKPOINTS / name).read_bytes()
    path = tmp_path / "half"
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(CheckpointError, match="half"):
        read_checkpoint(path)


def test_a_truncated_hdf5_file_is_an_error(tmp_path):
    data = (CHECKPOINTS / "hf_tf" / "tf_model.h5").read_bytes()
    path = tmp_path / "half.h5"
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(CheckpointError, match="damaged"):
        read_checkpoint(path)


def external_link(file):
    file["x"] = h5py.ExternalLink("/etc/hostname", "/")


def soft_link(file):
    file["x"] = h5py.SoftLink("/y")


def external_storage(file):
    file.create_dataset("x", (4,), "u1", external=[("/etc/hostname", 0, 4)])


def virtual_dataset(file):
    layout = h5py.VirtualLayout((4,), "f4")
    layout[:] = h5py.VirtualSource("/etc/hostname", "x", (4,))
    file.create_virtual_dataset("x", layout)


def compressed_bomb(file):
    file.create_dataset("x", data=np.zeros(10**6, "f4"), compression="gzip")


def large_chunk(file):
    file.create_dataset("x", (10,), "f4", chunks=(10**6,), maxshape=(None,))[:] = 1


def unwritten_bomb(file):
    file.create_dataset("x", (10**12,), "f4")


def group_cycle(file):
    group = file.create_group("g")
    group["again"] = group


def shared_bytes(file):
    file["a"] = np.zeros(10**6, "f4")
    file["b"] = file["a"]


def named_type(file):
    file["x"] = np.dtype("f4")


def no_numbers(file):
    file["x"] = h5py.Empty("f4")


def text(file):
    file["x"] = "text"


@pytest.mark.parametrize(
    "attack",
    [
        shared_bytes,
        named_type,
        no_numbers,
        text,
        external_link,
        soft_link,
        external_storage,
        virtual_dataset,
        compressed_bomb,
        large_chunk,
        unwritten_bomb,
        group_cycle,
    ],
)
def test_an_hdf5_file_with_more_than_its_own_numbers_is_refused(tmp_path, attack):
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        attack(file)
    with pytest.raises(CheckpointError, match="x.h5"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"\xff\xd8\xff\xe0\x00\x10JFIF" + bytes(99), "expected a file of torch.save"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git-lfs pointer"),
        (b"<!DOCTYPE html><html></html>", "HTML page"),
    ],
)
def test_a_file_that_is_not_a_checkpoint_is_refused(tmp_path, content, message):
    path = tmp_path / "model.pth"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(path)


def test_keras_bfloat16_datasets_become_float32(tmp_path):
    import ml_dtypes

    values = np.array([1, -2.5, 3], ml_dtypes.bfloat16)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("w", data=values).attrs["dtype"] = "bfloat16"
    array = read_checkpoint(tmp_path / "x.h5")["w"]
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array, values.astype("float32"))


def test_attributes_of_an_hdf5_file_are_not_read(monkeypatch):
    """Reading the damaged one in this file never ends."""

    def read(_):
        raise AssertionError("an attribute is read")

    for kind in (h5py.Dataset, h5py.Group):
        monkeypatch.setattr(kind, "attrs", property(read))
    arrays = read_checkpoint(CHECKPOINTS / "damaged_attribute.h5")
    assert arrays["v"].dtype == np.float32 and arrays["v"].shape == (2,)
    assert len(arrays) == 4


def test_groups_that_are_nested_too_deep_are_refused(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        group = file
        for _ in range(30):
            group = group.create_group("g" * 50)
    with pytest.raises(CheckpointError, match="nested too deep"):
        read_checkpoint(tmp_path / "x.h5")


def test_a_folder_and_a_missing_file_have_different_errors(tmp_path):
    with pytest.raises(CheckpointError, match="folder"):
        read_checkpoint(tmp_path)
    with pytest.raises(FileNotFoundError):
        read_checkpoint(tmp_path / "missing.pth")


def test_many_copies_of_a_long_list_do_not_fill_the_memory(tmp_path):
    # A list of 100,000 numbers, and as many times torch.Size of it.
    items = b"(" + b"K\x01" * 100_000
    size = b"ctorch\nSize\n"
    data = b"]" + items + b"e" + b"q\x00" + (size + b"h\x00\x85R") * 1000 + b"."
    path = tmp_path / "x.pth"
    zip_checkpoint(path, {"data.pkl": data})
    with pytest.raises(CheckpointError, match="short list"):
        read_checkpoint(path)


def test_keys_that_share_one_hash_are_refused(tmp_path):
    key = b"\x8a\x09" + (2**61 - 1 << 8).to_bytes(9, "little")
    path = tmp_path / "x.pth"
    zip_checkpoint(path, {"data.pkl": b"}(" + key + b"K\x01u."})
    with pytest.raises(CheckpointError, match="60 bits"):
        read_checkpoint(path)


@pytest.mark.parametrize("more", [0, 1, 1000])
def test_a_pickle_that_is_too_long_is_refused(more, monkeypatch):
    data = pickle.dumps(["text"] * 20, protocol=2)
    monkeypatch.setattr(safe_pickle, "MAX_BYTES", len(data))
    content, size = safe_pickle.load(data + b"of the next", {}, None)
    assert (content, size) == (["text"] * 20, len(data))
    longer = data[:-1] + b"N0" * more + b"N0."
    with pytest.raises(CheckpointError, match=f"more than {len(data)} bytes|exhausted"):
        safe_pickle.load(longer, {}, None)
