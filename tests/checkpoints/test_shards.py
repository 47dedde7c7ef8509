"""Checkpoints in several files: transformers' `save_pretrained(max_shard_size=...)`."""

import json
import shutil

import golden
import numpy as np
import pytest
from hub_client import loopback
from safetensors.numpy import load_file, save_file

import keras_cvt
from keras_cvt.checkpoints import CheckpointError, load_checkpoint, sources

HF = golden.FOLDER.parent / "checkpoints" / "hf_pt"
INDEX = "model.safetensors.index.json"


@pytest.fixture
def sharded(tmp_path):
    """The folder of tests/data/checkpoints/hf_pt in two shards."""
    folder = tmp_path / "sharded"
    folder.mkdir()
    state = load_file(HF / "model.safetensors")
    weight_map = {}
    for i in range(2):
        name = f"model-0000{i + 1}-of-00002.safetensors"
        part = sorted(state)[i::2]
        save_file({key: state[key] for key in part}, folder / name, {"format": "pt"})
        weight_map |= dict.fromkeys(part, name)
    write_index(folder, weight_map)
    shutil.copy(HF / "config.json", folder)
    return folder


def write_index(folder, weight_map):
    values = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    (folder / INDEX).write_text(json.dumps(values))


def build(weights):
    return keras_cvt.CvT(
        golden.config(golden.load("tiny_base")[1]), weights=weights, classes=10
    )


@pytest.mark.parametrize("how", ["folder", "index", "load_checkpoint", "hub"])
def test_shards_load_like_the_whole(sharded, tmp_path, monkeypatch, how):
    whole = build(HF)
    if how == "hub":
        contents = {p.name: p.read_bytes() for p in sharded.iterdir()}
        with loopback(tmp_path, monkeypatch, {"me/tiny": contents}):
            model = build("hf://me/tiny")
    elif how == "load_checkpoint":
        model = keras_cvt.CvT(whole.cvt_config, classes=10)
        load_checkpoint(model, sharded)
    else:
        model = build(sharded if how == "folder" else sharded / INDEX)
    for ours, theirs in zip(model.weights, whole.weights, strict=True):
        if "seed_generator" not in ours.path:
            np.testing.assert_array_equal(np.array(ours), np.array(theirs))


@pytest.mark.parametrize("name", ["../x.safetensors", "/etc/passwd", "a/b", "", 3])
def test_an_index_names_files_beside_it_only(sharded, name):
    write_index(sharded, {"a": name})
    with pytest.raises(CheckpointError, match="name"):
        sources.resolve(sharded)


@pytest.mark.parametrize("text", ["", "[]", '{"weight_map": 1}', '{"weight_map": {}}'])
def test_a_damaged_index_is_one_sentence(sharded, text):
    (sharded / INDEX).write_text(text)
    with pytest.raises(CheckpointError, match=r"index of shards|1 to 1000 shards"):
        sources.resolve(sharded)


def test_a_missing_shard_is_named(sharded):
    (sharded / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="00002-of-00002"):
        sources.resolve(sharded)
