"""Checkpoints as training programs leave them: the network in dicts and prefixes."""

import collections

import golden
import h5py
import keras
import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from keras_cvt import CvT, CvTConfig, StageConfig
from keras_cvt.checkpoints import (
    CheckpointError,
    layouts,
    load_checkpoint,
    readers,
    state_dict,
)

# Prefixes before every name.
PREFIXES = (
    "",
    "module.",
    "_orig_mod.",
    "module._orig_mod.",
    "_orig_mod.module.",
    "model.",
    "net.",
    "backbone.",
    "teacher.",
    "model.module.",
    "model.net.backbone._orig_mod.",
    "_forward_module.model.",
    "ema_model.module.",
    "classifier.0.",
)


def build():
    stages = (
        StageConfig(8, 1, 1, 7, 4, 2),
        StageConfig(12, 2, 3, 3, 2, 1, cls_token=True),
    )
    return CvT(CvTConfig(stages), classes=3)


@pytest.fixture(scope="module")
def model():
    return build()


@pytest.fixture(scope="module")
def official(model):
    """A state dict of other values than the model's."""
    return {
        key: golden.weight(key, array.shape)
        for key, array in state_dict.extract(model).items()
    }


def to_transformers(state):
    return {layouts.to_transformers(key): array for key, array in state.items()}


def tensors(state):
    return {name: torch.tensor(array) for name, array in state.items()}


def write_h5(state, path):
    with h5py.File(path, "w") as file:
        for name, array in state.items():
            file[name] = array


def write_torch(state, path, **options):
    torch.save(tensors(state), path, **options)


def write_legacy(protocol):
    options = {
        "pickle_protocol": protocol,
        "_use_new_zipfile_serialization": False,
    }
    return lambda state, path: write_torch(state, path, **options)


# Name -> (suffix, what writes a flat state dict; None for a dict of arrays itself).
FORMATS = {
    "zip": (".pth", write_torch),
    "zip protocol 4": (".pt", lambda s, p: write_torch(s, p, pickle_protocol=4)),
    "legacy protocol 2": (".pth.tar", write_legacy(2)),
    "legacy protocol 3": (".pth.tar", write_legacy(3)),
    "legacy protocol 4": (".pth.tar", write_legacy(4)),
    "legacy protocol 5": (".pth", write_legacy(5)),
    "bin": (".bin", write_torch),
    "safetensors": (".safetensors", save_file),
    "h5": (".h5", write_h5),
    "dict": (None, None),
    "dict of tensors": (None, None),
}
LAYOUTS = {"official": lambda state: state, "transformers": to_transformers}


def read(path):
    """Return the official arrays and the layout of a file."""
    return layouts.to_official(readers.read_checkpoint(path))


def assert_equal(found, official):
    assert set(found) == set(official)
    for key, array in official.items():
        np.testing.assert_array_equal(found[key], array, err_msg=key)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_prefix_before_all_names_is_removed(
    official, tmp_path, prefix, format, layout
):
    state = {prefix + n: array for n, array in LAYOUTS[layout](official).items()}
    suffix, write = FORMATS[format]
    if write is None:
        state = tensors(state) if "tensors" in format else state
        found, name = layouts.to_official(readers.from_dict(state))
    else:
        write(state, tmp_path / f"x{suffix}")
        found, name = read(tmp_path / f"x{suffix}")
    assert name == layout
    assert_equal(found, official)


# What a training program saves, given the state dict of its network.
PROGRAMS = {
    "PyTorch Lightning": lambda s: {
        "epoch": 1,
        "pytorch-lightning_version": "2.5.0",
        "state_dict": {f"model.{name}": array for name, array in s.items()},
        "hyper_parameters": {"lr": 0.001, "dims": [8, 12]},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(3)}}}],
        "callbacks": {"ModelCheckpoint": {"best_model_score": torch.tensor(0.5)}},
    },
    "timm": lambda s: {
        "epoch": 3,
        "arch": "cvt",
        "state_dict": s,
        "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": []},
    },
    "timm's average alone": lambda s: {"state_dict_ema": s, "epoch": 3},
    "official": lambda s: {
        "state_dict": {f"module.{name}": array for name, array in s.items()}
    },
    "DeiT": lambda s: {"model": s, "model_ema": None, "epoch": 1},
    "DeiT's average alone": lambda s: {"model_ema": s},
    "model_state_dict": lambda s: {"model_state_dict": s, "loss": torch.tensor(0.1)},
    "net": lambda s: {"net": s, "acc": 93.5},
    "module": lambda s: {"module": s},
    "DeepSpeed": lambda s: {"module": {f"model.{n}": a for n, a in s.items()}},
    "nested twice": lambda s: {"trainer": {"model": {"state_dict": s}}},
    "PyTorch's AveragedModel": lambda s: {
        "n_averaged": torch.tensor(3),
        **{f"module.{name}": array for name, array in s.items()},
    },
    "FSDP in the middle": lambda s: {
        "model": {
            name.replace("blocks.", "_fsdp_wrapped_module.blocks."): array
            for name, array in s.items()
        }
    },
    "a compiled stage": lambda s: {
        name.replace("stage0.", "stage0._orig_mod."): array for name, array in s.items()
    },
    "plain numbers among the tensors": lambda s: {**s, "epoch": 3, "note": "x"},
    "an optimizer by name": lambda s: {
        "model": s,
        "optimizer": {"state": {name: {"exp_avg": a} for name, a in s.items()}},
    },
}


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_files_of_training_programs_load_without_a_word(
    official, tmp_path, caplog, program
):
    torch.save(PROGRAMS[program](tensors(official)), tmp_path / "x.ckpt")
    assert_equal(read(tmp_path / "x.ckpt")[0], official)
    found, _ = layouts.to_official(readers.from_dict(PROGRAMS[program](official)))
    assert_equal(found, official)
    assert not caplog.text


# Name -> (what holds the network s and a copy t, the prefix of s).
COPIES = {
    "timm": (lambda s, t: {"state_dict_ema": t, "state_dict": s}, "state_dict."),
    "DeiT": (lambda s, t: {"model": s, "model_ema": t}, "model."),
    "an unknown name": (lambda s, t: {"copy": t, "model": s}, "model."),
    "Lightning": (
        lambda s, t: {
            **{f"model.{name}": a for name, a in s.items()},
            **{f"ema_model.module.{name}": a for name, a in t.items()},
        },
        "model.",
    ),
    "a copy inside": (
        lambda s, t: {**s, **{f"ema.{name}": a for name, a in t.items()}},
        "",
    ),
    "averages of an unknown name": (
        lambda s, t: {"network": s, "network_avg": t},
        "network.",
    ),
}


@pytest.mark.parametrize("name", COPIES)
def test_of_several_networks_the_own_one_is_loaded_and_the_rest_named(
    official, tmp_path, caplog, name
):
    make, prefix = COPIES[name]
    copy = {key: array + 1 for key, array in official.items()}
    torch.save(make(tensors(official), tensors(copy)), tmp_path / "x.pth")
    assert_equal(read(tmp_path / "x.pth")[0], official)
    assert "several networks" in caplog.text and f"{prefix!r} is loaded" in caplog.text


@pytest.mark.parametrize(
    "names", [("online", "target"), ("student", "teacher"), ("a.model", "b.model")]
)
def test_networks_that_nothing_tells_apart_are_an_error_with_a_way_out(
    official, model, names
):
    content = {name: official for name in names}
    content[names[1]] = dict(official)
    with pytest.raises(CheckpointError, match=f"{names[0]}.*{names[1]}.*pass its"):
        load_checkpoint(model, content)
    load_checkpoint(model, content[names[1]])


def test_a_head_behind_a_wrapped_backbone_is_its_head(official, model, caplog):
    state = {
        name if name.startswith("head.") else f"backbone.{name}": array
        for name, array in official.items()
    }
    assert_equal(layouts.to_official(state)[0], official)
    assert not caplog.text


def test_arrays_outside_the_network_are_named(official, caplog):
    state = {f"model.{name}": array for name, array in official.items()}
    state["criterion.weight"] = np.ones(3, "float32")
    assert_equal(layouts.to_official(state)[0], official)
    assert "criterion.weight" in caplog.text and "'model.'" in caplog.text


def test_an_unknown_array_inside_the_network_is_an_error(official, model):
    state = {f"model.{name}": array for name, array in official.items()}
    state["model.stage0.surprise"] = np.ones(3, "float32")
    with pytest.raises(CheckpointError, match="unexpected: stage0.surprise"):
        load_checkpoint(model, state)


def test_a_weight_that_is_no_tensor_is_missing(official, model, tmp_path):
    content = tensors(official)
    content["stage0.patch_embed.norm.bias"] = [0.5] * 8
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match="missing: stage0.patch_embed.norm.bias"):
        load_checkpoint(model, tmp_path / "x.pth")


def test_two_arrays_for_one_weight_are_an_error(official):
    key = "stage0.patch_embed.norm.bias"
    content = {**official, key.replace(".patch", "._orig_mod.patch"): official[key]}
    keras_2 = {n: np.ones(2) for n in ("stage0/x/gamma:0", "m/stage0/x/gamma:0")}
    for state in (content, keras_2):
        with pytest.raises(CheckpointError, match="one array for"):
            layouts.to_official(state)


def test_a_keras_model_around_the_network_is_a_wrapper(model, official, tmp_path):
    body = CvT(model.cvt_config, include_top=False, pooling="token")
    inputs = keras.Input((64, 64, 3))
    outputs = keras.layers.Dense(3)(body(inputs))
    whole = keras.Model(inputs, outputs)
    load_checkpoint(body, official)
    whole.layers[-1].set_weights([official["head.weight"].T, official["head.bias"]])
    whole.save_weights(tmp_path / "x.weights.h5")
    assert_equal(read(tmp_path / "x.weights.h5")[0], official)


# Plain data that `torch.load(weights_only=True)` reads too.
PLAIN = {
    "counter": collections.Counter("abca"),
    "ordered": collections.OrderedDict(a=1),
    "dtype": torch.bfloat16,
    "float8": torch.float8_e4m3fn,
    "device": torch.device("cuda:0"),
    "size": torch.Size([1, 2]),
    "set": {1, 2, "x"},
    "bytes": b"\x00\xff",
    "bytearray": bytearray(b"x"),
    "complex": 1 + 2j,
    "layout": torch.strided,
    "tuple as a key": {(1, 2): 3},
    "dtype as a key": {torch.float32: "x"},
    "nested": {"a": [{"b": {3}}], "c": (None, True, 2**70)},
}


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("name", PLAIN)
def test_plain_data_beside_the_weights_is_read(
    official, tmp_path, name, legacy, protocol
):
    content = {"extra": PLAIN[name], "state_dict": tensors(official), name: PLAIN[name]}
    torch.save(
        content,
        tmp_path / "x.pth",
        pickle_protocol=protocol,
        _use_new_zipfile_serialization=not legacy,
    )
    if protocol == 2:
        torch.load(tmp_path / "x.pth", weights_only=True)
    assert_equal(read(tmp_path / "x.pth")[0], official)


def with_attribute(tensor):
    tensor.tag = "decay"
    return tensor


# What may stand for a tensor in a state dict.
TENSORS = {
    "parameter": torch.nn.Parameter,
    "frozen parameter": lambda t: torch.nn.Parameter(t, requires_grad=False),
    "parameter with attributes": lambda t: with_attribute(torch.nn.Parameter(t)),
    "tensor with attributes": with_attribute,
    "channels last": lambda t: (
        t.contiguous(memory_format=torch.channels_last) if t.ndim == 4 else t
    ),
    "float64": lambda t: t.double(),
}


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("name", TENSORS)
def test_every_kind_of_tensor_is_read(official, tmp_path, name, protocol):
    state = {key: TENSORS[name](t) for key, t in tensors(official).items()}
    torch.save(state, tmp_path / "x.pth", pickle_protocol=protocol)
    assert_equal(read(tmp_path / "x.pth")[0], official)


def test_dicts_that_contain_themselves_end(official, tmp_path):
    content = {"state_dict": tensors(official)}
    content["again"] = content
    torch.save(content, tmp_path / "x.pth")
    assert_equal(read(tmp_path / "x.pth")[0], official)


def test_names_of_any_length_are_refused(official):
    with pytest.raises(CheckpointError, match="at most 200 characters"):
        readers.from_dict({"x" * 201: np.ones(2)})
    deep = {"stage0.x": np.ones(2)}
    for _ in range(100_000):
        deep = {"level": deep}
    assert readers.from_dict(deep) == {}


def test_thousands_of_networks_are_refused():
    many = {f"optim{i}.stage0.x": np.ones(1) for i in range(100_000)}
    with pytest.raises(CheckpointError, match="Expected one network"):
        layouts.to_official(many)
