"""Real files read as their own libraries read them; hostile ones do nothing."""

import os
import pickle
import zipfile

import h5py
import numpy as np
import pytest
import torch
from golden import FOLDER

from keras_cvt.checkpoints import layouts
from keras_cvt.checkpoints.errors import CheckpointError
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
    expected = expected.get("state_dict", expected)
    expected = {key.removeprefix("module."): t for key, t in expected.items()}
    arrays = read_checkpoint(CHECKPOINTS / name)
    assert set(arrays) == set(expected)
    for key, tensor in expected.items():
        assert arrays[key].dtype == tensor.numpy().dtype
        np.testing.assert_array_equal(arrays[key], tensor.numpy(), err_msg=key)


@pytest.mark.parametrize("name", ["hf_pt/model.safetensors", "hf_tf/tf_model.h5"])
def test_every_file_of_one_transformers_model_holds_the_same_numbers(name):
    expected, _ = layouts.to_official(
        read_checkpoint(CHECKPOINTS / "hf_pt" / "pytorch_model.bin")
    )
    arrays, _ = layouts.to_official(read_checkpoint(CHECKPOINTS / name))
    assert set(arrays) == set(expected)
    for key, array in expected.items():
        np.testing.assert_array_equal(arrays[key], array, err_msg=key)


@pytest.mark.parametrize("legacy", [False, True])
def test_bfloat16_and_shared_strided_storages_read_exactly(tmp_path, legacy):
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
def test_a_pickle_that_would_run_code_runs_nothing(tmp_path, legacy):
    marker = tmp_path / "executed"
    path = tmp_path / "evil.pth"
    state = {"w": torch.ones(2), "x": Evil(marker)}
    torch.save(state, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(CheckpointError, match="mkdir.*nothing was run"):
        read_checkpoint(path)
    assert not marker.exists()


def zip_checkpoint(path, members, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(f"archive/{name}", data)


def tensor_pickle(shape, stride, offset=0, numel=4):
    """A state dict of one tensor, assembled by hand."""

    def push(value):
        return pickle.dumps(value, protocol=2)[2:-1]

    storage = b"(" + push("storage") + b"ctorch\nFloatStorage\n"
    storage += push("0") + push("cpu") + push(numel) + b"tQ"
    rest = push(offset) + push(shape) + push(stride)
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + rest + b"tR"
    return b"\x80\x02}" + push("w") + tensor + b"s."


def test_a_tensor_inside_its_storage_is_read(tmp_path):
    path = tmp_path / "x.pth"
    data = np.arange(4, dtype="<f4").tobytes()
    zip_checkpoint(path, {"data.pkl": tensor_pickle((2, 2), (2, 1)), "data/0": data})
    np.testing.assert_array_equal(read_checkpoint(path)["w"], [[0, 1], [2, 3]])


@pytest.mark.parametrize(
    ("shape", "stride", "offset"),
    [((10**6, 10**6), (0, 0), 0), ((4,), (1,), 1), ((2,), (-1,), 3), ((2,), (9,), 0)],
)
def test_a_tensor_that_leaves_its_storage_is_refused(tmp_path, shape, stride, offset):
    path = tmp_path / "x.pth"
    members = {"data.pkl": tensor_pickle(shape, stride, offset), "data/0": bytes(16)}
    zip_checkpoint(path, members)
    with pytest.raises(CheckpointError, match="storage|impossible"):
        read_checkpoint(path)


def test_a_member_of_the_wrong_size_is_refused(tmp_path):
    path = tmp_path / "x.pth"
    members = {"data.pkl": tensor_pickle((2, 2), (2, 1)), "data/0": bytes(12)}
    zip_checkpoint(path, members)
    with pytest.raises(CheckpointError, match="12 bytes; expected 16"):
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


def unwritten_bomb(file):
    file.create_dataset("x", (10**12,), "f4")


def group_cycle(file):
    group = file.create_group("g")
    group["again"] = group


@pytest.mark.parametrize(
    "attack",
    [
        external_link,
        soft_link,
        external_storage,
        virtual_dataset,
        compressed_bomb,
        unwritten_bomb,
        group_cycle,
    ],
)
def test_an_hdf5_file_may_hold_nothing_but_its_own_numbers(tmp_path, attack):
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
    ],
)
def test_a_file_that_is_no_checkpoint_is_refused(tmp_path, content, message):
    path = tmp_path / "model.pth"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(path)


def test_a_folder_and_a_missing_file_are_told_apart(tmp_path):
    with pytest.raises(CheckpointError, match="folder"):
        read_checkpoint(tmp_path)
    with pytest.raises(FileNotFoundError):
        read_checkpoint(tmp_path / "missing.pth")
