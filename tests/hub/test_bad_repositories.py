"""Damaged and hostile repositories: none loads, and each error says what is wrong.

Counted: the cases below, each through `hub.load`, `weights="hf://..."` and
`load_checkpoint`.
"""

import hashlib
import io
import json
import pickle
import resource
import zipfile

import golden
import h5py
import hub_models
import numpy as np
import pytest
from hub_client import loopback

import keras_cvt
from keras_cvt import hub
from keras_cvt.checkpoints import load_checkpoint
from keras_cvt.repository import integrity

REPO = "bad/repo"
RAN = []


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """The files of a repository that loads."""
    folder = tmp_path_factory.mktemp("good")
    hub.write_folder(hub_models.classifier(), folder, repo_id=REPO)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def server(tmp_path, monkeypatch):
    with loopback(tmp_path, monkeypatch) as server:
        yield server


def without_sums(files, **changes):
    changes = {name.replace("__", "."): data for name, data in changes.items()}
    return {**{n: d for n, d in files.items() if n != "SHA256SUMS"}, **changes}


def with_config(files, change):
    values = json.loads(files["config.json"])
    change(values)
    return without_sums(files, config__json=json.dumps(values).encode())


def stage(**changes):
    def change(values):
        values["keras_cvt"]["config"]["stages"][1].update(changes)

    return lambda files: with_config(files, change)


def ours(**changes):
    return lambda files: with_config(files, lambda v: v["keras_cvt"].update(changes))


def our_input(**changes):
    return lambda files: with_config(
        files, lambda v: v["keras_cvt"]["input"].update(changes)
    )


def ours_of_0_1_0(**changes):
    """Describe the model in the form of version 0.1.0."""

    def change(values):
        written = values["keras_cvt"]
        names = ("include_preprocessing", "eval_transform")
        values["keras_cvt"] = {
            "name": written["name"],
            "config": written["config"],
            "classifier_activation": written["activation"],
            **{name: written["input"][name] for name in names},
            **changes,
        }

    return lambda files: with_config(files, change)


def theirs(**changes):
    def change(values):
        del values["keras_cvt"]
        values.update(changes)

    return lambda files: with_config(files, change)


def only(name, data):
    def files(good):
        return {
            "config.json": good["config.json"],
            name: data() if callable(data) else data,
        }

    return files


class Evil:
    def __reduce__(self):
        return (RAN.append, ("pickle",))


def torch_zip():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("x/data.pkl", pickle.dumps({"head.weight": Evil()}, 2))
        archive.writestr("x/version", "3")
    return buffer.getvalue()


def one_storage_by_many_names(good):
    import torch
    from safetensors.numpy import load

    state = {n: torch.from_numpy(a) for n, a in load(good["model.safetensors"]).items()}
    storage = torch.zeros(2**18)
    buffer = io.BytesIO()
    torch.save({**state, **{f"x{i}": storage for i in range(1000)}}, buffer)
    files = stage(embed_dim=2048)(good)
    return {
        "config.json": files["config.json"],
        "pytorch_model.bin": buffer.getvalue(),
    }


def hdf5(fill):
    def data():
        buffer = io.BytesIO()
        with h5py.File(buffer, "w") as file:
            fill(file)
        return buffer.getvalue()

    return data


def external_link(file):
    file["layers"] = h5py.ExternalLink("/etc/passwd", "/")


def external_data(file):
    file.create_dataset("layers/x", (4,), "f4", external=[("/etc/passwd", 0, 16)])


def virtual(file):
    layout = h5py.VirtualLayout((4,), "f4")
    layout[:] = h5py.VirtualSource("/tmp/other.h5", "x", (4,))
    file.create_virtual_dataset("layers/x", layout)


def keras_lambda():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        layer = {"class_name": "Lambda", "config": {"function": "print(1)"}}
        archive.writestr("config.json", json.dumps(layer))
    return buffer.getvalue()


def sums(line):
    def files(good):
        text = good["SHA256SUMS"].decode() + line + "\n"
        return {**good, "SHA256SUMS": text.encode()}

    return files


def changed(name):
    return lambda good: {**good, name: good[name][:-1] + bytes([good[name][-1] ^ 1])}


ABSURD = {"image_size": [10**9, 10**9], "crop_ratio": None}
DIGEST = hashlib.sha256(b"").hexdigest()
HUGE_HEADER = (2**40).to_bytes(8, "little") + b"{" + b" " * 100

CASES = {
    "a traversing name": (sums(f"{DIGEST}  ../../outside"), "inside its folder"),
    "an absolute name": (sums(f"{DIGEST}  /etc/passwd"), "inside its folder"),
    "a name of another system": (sums(f"{DIGEST}  ..\\x"), "inside its folder"),
    "hashes that are none": (sums("rm -rf"), "SHA-256 and a file name"),
    "a changed weights file": (changed("model.safetensors"), "model.safetensors.*SHA"),
    "a changed configuration": (changed("config.json"), "config.json.*SHA-256"),
    "a symbolic link as weights": (
        only("model.safetensors", b"../../../etc/passwd"),
        "model.safetensors.*expected",
    ),
    "a symbolic link as configuration": (
        lambda good: without_sums(good, config__json=b"../../../etc/passwd"),
        "Expected JSON",
    ),
    "a pickle with code": (only("pytorch_model.bin", torch_zip), "pytorch_model.bin"),
    "a bare pickle with code": (
        only("pytorch_model.bin", pickle.dumps(Evil())),
        "pytorch_model.bin",
    ),
    "another model's configuration": (theirs(model_type="vit"), "model_type 'cvt'"),
    "a stage of absurd width": (stage(embed_dim=2**40), "parameters"),
    "a stage of absurd depth": (stage(depth=10**12), "parameters"),
    "one storage by many names": (one_storage_by_many_names, "parameters"),
    "an absurd stride": (stage(stride_kv=10**9), "strides of at most 8192"),
    "an absurd head": (stage(head_dim=10**9), "parameters"),
    "an absurd kernel": (
        stage(kernel_size=10**6 + 1, padding_q=5 * 10**5),
        "no network",
    ),
    "an absurd MLP": (stage(mlp_ratio=1e12), "parameters"),
    "an absurd padding": (stage(patch_padding=10**9), "padding"),
    "absurd images": (our_input(eval_transform=ABSURD), "at most 8192 pixels"),
    "absurd images of 0.1.0": (
        ours_of_0_1_0(eval_transform=ABSURD),
        "at most 8192 pixels",
    ),
    "absurd stages of transformers": (
        theirs(embed_dim=[2**40] * 3, num_heads=[1, 2, 3]),
        "divisible|parameters",
    ),
    "code as activation": (ours(activation="lambda x: x"), "activation"),
    "code as activation of 0.1.0": (
        ours_of_0_1_0(classifier_activation="lambda x: x"),
        "activation",
    ),
    "a name with a path of 0.1.0": (ours_of_0_1_0(name="../x"), "name"),
    "channels without end": (our_input(channels=10**9), "channels=1000000000"),
    "a name with a path": (ours(name="../x"), "name"),
    "a nested configuration": (
        lambda good: without_sums(good, config__json=b"[" * 10**5),
        "Expected JSON",
    ),
    "an endless configuration": (
        lambda good: without_sums(good, config__json=b" " * (5 * 2**20)),
        "at most .* bytes",
    ),
    "a header of a terabyte": (only("model.safetensors", HUGE_HEADER), "damaged|safet"),
    "weights elsewhere": (only("tf_model.h5", hdf5(external_link)), "another place"),
    "numbers elsewhere": (only("tf_model.h5", hdf5(external_data)), "other files"),
    "virtual numbers": (only("model.weights.h5", hdf5(virtual)), "other files"),
    "a .keras with a Lambda": (only("model.keras", keras_lambda), "holds none of"),
    "a SavedModel": (only("saved_model/saved_model.pb", b"graph"), "holds none of"),
}


def loads():
    config = golden.config(golden.load("tiny_base")[1])
    return {
        "hub.load": lambda: hub.load(REPO),
        "weights": lambda: keras_cvt.CvT(config, weights=f"hf://{REPO}", classes=4),
    }


@pytest.mark.parametrize("name", CASES)
def test_a_bad_repository_is_refused_and_named(server, good, name):
    make, message = CASES[name]
    server.repos[REPO] = make(good)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for load in loads().values():
        with pytest.raises((ValueError, OSError), match=f"(?s){message}"):
            load()
    assert not RAN
    # In KiB: the tiny networks of this test take a few MiB.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 300 * 1024


def test_a_checkpoint_of_a_bad_hash_is_not_loaded_into_a_model_either(server, good):
    server.repos[REPO] = changed("model.safetensors")(good)
    model = hub_models.classifier()
    before = [np.array(w) for w in model.get_weights()]
    with pytest.raises(ValueError, match="SHA-256"):
        load_checkpoint(model, f"hf://{REPO}")
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize(
    "content", [b"[" * 10**5, b" " * (5 * 2**20), b"[]", b"../../../etc/passwd"]
)
def test_class_names_of_a_bad_configuration_are_refused(server, content):
    server.repos[REPO] = {"config.json": content}
    with pytest.raises(ValueError, match="config.json"):
        hub.load_class_names(REPO)


@pytest.mark.parametrize("form", [lambda good: good, ours_of_0_1_0()])
def test_the_good_repository_loads(server, good, form):
    server.repos[REPO] = form(good)
    assert hub.load(REPO).name == "tiny"


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/x", "x\n", ".git/config", ""])
def test_names_stay_in_their_folder(name):
    with pytest.raises(ValueError, match="inside its folder"):
        integrity.check_name(name)


def test_a_link_in_a_folder_of_artefacts_is_not_followed(tmp_path):
    (tmp_path / "exported").mkdir()
    (tmp_path / "exported" / "model.tflite").symlink_to("/etc/passwd")
    with pytest.raises(ValueError, match="plain files"):
        hub.write_folder(
            hub_models.classifier(),
            tmp_path / "out",
            repo_id=REPO,
            artefacts=tmp_path / "exported",
        )
