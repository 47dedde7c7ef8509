"""`CvT13(weights="imagenet")` end to end, through the real Hub client."""

import dataclasses
import os
import re
import subprocess
import sys
from pathlib import Path

import golden
import keras
import numpy as np
import pytest
from loopback_hub import LoopbackHub

import keras_cvt
from keras_cvt import builders, models
from keras_cvt.checkpoints import CheckpointError, save_checkpoint
from keras_cvt.checkpoints.sources import resolve
from keras_cvt.preprocessing import EvalTransform

CHECKPOINTS = golden.FOLDER.parent / "checkpoints"
REPO = "microsoft/cvt-13"

# Prints how far the outputs of the downloaded weights are from the golden ones.
USE = """
import sys
sys.path.insert(0, {tests!r})
import golden, keras_cvt, numpy as np
model = keras_cvt.CvT13(
    weights={weights!r}, include_preprocessing=False, classifier_activation=None
)
expected, meta = golden.load("cvt13_224x224")
# Compiling it for `predict` would take longer than everything else.
difference = np.abs(model(golden.images(meta)) - expected["logits"])
assert model.cvt_config.activation == "quick_gelu"
print("difference", difference.max())
"""


def start(hub_url, home, weights="imagenet", **environment):
    code = USE.format(tests=os.path.dirname(__file__), weights=weights)
    return start_python(["-c", code], hub_url, home, **environment)


def start_python(arguments, hub_url, home, **environment):
    return subprocess.Popen(
        [sys.executable, *arguments],
        env={
            **os.environ,
            "HF_ENDPOINT": hub_url,
            "HF_HOME": str(home / "hf"),
            "KERAS_HOME": str(home / "keras"),
            "HF_HUB_DISABLE_XET": "1",
            **environment,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def assert_published_network(process):
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert float(output.split()[-1]) < 2e-5


def converted(home):
    return sorted((home / "keras" / "keras_cvt").iterdir())


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A checkpoint of CvT-13 in transformers' layout."""
    _, meta = golden.load("cvt13_224x224")
    path = tmp_path_factory.mktemp("served") / "model.safetensors"
    with pytest.warns(UserWarning, match="exact GELU"):
        save_checkpoint(golden.model(meta), path, layout="transformers")
    return path.read_bytes()


@pytest.mark.full_size
def test_imagenet_weights_load_despite_broken_and_damaged_files(served, tmp_path):
    with LoopbackHub({REPO: {"model.safetensors": served}}) as hub:
        # A download that breaks off: huggingface_hub or the next call resumes it.
        hub.cut_after["model.safetensors"] = len(served) // 2
        first = start(hub.url, tmp_path)
        output, _ = first.communicate(timeout=300)
        if first.returncode:
            assert "next call resumes" in output, output
        # Two processes at once.
        both = [start(hub.url, tmp_path) for _ in range(2)]
        for process in both:
            assert_published_network(process)
        (file,) = converted(tmp_path)
        # A damaged file is detected and converted again, from the cache of the Hub.
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
    assert_published_network(start(hub.url, tmp_path, HF_HUB_OFFLINE="1"))
    assert [path.name for path in converted(tmp_path)] == [file.name]


@pytest.mark.full_size
def test_the_demo_classifies_photos_if_the_hub_can_be_reached(served, tmp_path):
    demo = Path(__file__).parents[1] / "examples" / "demo.py"
    with LoopbackHub({REPO: {"model.safetensors": served}}) as hub:
        process = start_python([demo, "--output", tmp_path], hub.url, tmp_path)
        output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert "scenes" not in output
    # Three names and scores for each of seven photos, and the exported file's verdict.
    answers = re.findall(r"^  \w+: ((?:.* \d+\.\d%(?:, |$)){3})$", output, re.M)
    assert len(answers) == 7
    assert "gives the same answer for" in output
    assert (tmp_path / "demo.png").read_bytes().startswith(b"\x89PNG")


def test_without_a_hub_the_error_names_the_repository_and_the_remedy(tmp_path):
    process = start("http://127.0.0.1:9", tmp_path)
    output, _ = process.communicate(timeout=120)
    assert process.returncode != 0
    assert REPO in output and "weights='path/to/checkpoint'" in output


def test_an_unknown_name_raises_an_error_with_the_valid_ones():
    with pytest.raises(ValueError, match="imagenet22k_384.*'imagenet_22k'"):
        keras_cvt.CvT13(weights="imagenet_22k")


def tiny_config():
    _, meta = golden.load("tiny_base")
    return golden.config(meta)


def tiny(**kwargs):
    return keras_cvt.CvT(tiny_config(), **kwargs)


def test_a_local_official_file_loads_as_quick_gelu():
    model = tiny(
        weights=CHECKPOINTS / "official_zip.pth",
        classes=10,
        include_preprocessing=False,
        classifier_activation=None,
    )
    expected, meta = golden.load("tiny_base")
    np.testing.assert_allclose(
        model.predict(golden.images(meta), verbose=0),
        expected["logits"],
        rtol=0,
        atol=2e-5,
    )


def test_a_folder_of_transformers_loads_as_gelu_with_a_log_message(caplog):
    model = tiny(
        weights=CHECKPOINTS / "hf_pt",
        classes=10,
        include_preprocessing=False,
        classifier_activation=None,
    )
    with np.load(CHECKPOINTS / "hf_expected.npz") as archive:
        logits = model.predict(archive["input_nhwc"], verbose=0)
        np.testing.assert_allclose(logits, archive["logits_gelu"], rtol=0, atol=2e-5)
    assert "activation='gelu'" in caplog.text


def test_with_another_number_of_classes_only_the_head_is_fresh(caplog):
    source = CHECKPOINTS / "official_zip.pth"
    model = tiny(weights=source, classes=3)
    whole = tiny(weights=source, classes=10)
    assert "head of 3 classes starts fresh" in caplog.text
    for ours, theirs in zip(
        model.get_layer("stage2").weights,
        whole.get_layer("stage2").weights,
        strict=True,
    ):
        np.testing.assert_array_equal(
            keras.ops.convert_to_numpy(ours), keras.ops.convert_to_numpy(theirs)
        )


def test_a_checkpoint_with_half_a_head_is_refused(tmp_path):
    whole = tiny(classes=10)
    save_checkpoint(whole, tmp_path / "whole.safetensors")
    checkpoint = resolve(tmp_path / "whole.safetensors")
    state = {k: v for k, v in checkpoint.state.items() if k != "head.bias"}
    with pytest.raises(CheckpointError, match="missing: head.bias"):
        tiny(classes=10, weights=dataclasses.replace(checkpoint, state=state))


def test_one_channel_gives_the_same_as_grey_images_in_rgb(caplog):
    source = CHECKPOINTS / "official_zip.pth"
    common = {"weights": source, "classes": 10, "include_preprocessing": False}
    grey = tiny(input_shape=(64, 64, 1), **common)
    assert "from 3 to 1 channels" in caplog.text
    images = np.random.default_rng(0).normal(size=(2, 64, 64, 1)).astype("float32")
    np.testing.assert_allclose(
        grey.predict(images, verbose=0),
        tiny(**common).predict(np.repeat(images, 3, -1), verbose=0),
        rtol=0,
        atol=1e-5,
    )


def test_more_channels_repeat_the_channels_of_the_kernel():
    source = CHECKPOINTS / "official_zip.pth"
    common = {"weights": source, "classes": 10, "include_preprocessing": False}
    rgb, five = (tiny(input_shape=(64, 64, n), **common) for n in (3, 5))
    kernels = [m.stages[0].patch_embed.proj.kernel.numpy() for m in (rgb, five)]
    repeated = kernels[0][:, :, [0, 1, 2, 0, 1]] * 3 / 5
    np.testing.assert_allclose(kernels[1], repeated, rtol=1e-6)


def test_layers_in_front_of_the_network_do_not_change_its_weights(tmp_path):
    image = keras.Input((64, 64, 1))
    source = CHECKPOINTS / "official_zip.pth"
    path = tmp_path / "again.safetensors"
    rgb = keras.layers.Concatenate()([image, image, image])
    save_checkpoint(tiny(weights=source, classes=10, input_tensor=rgb), path)
    saved, first = resolve(path), resolve(source)
    assert all(np.array_equal(saved.state[k], v) for k, v in first.state.items())
    # The weights of a layer in front would be lost.
    rgb = keras.layers.Conv2D(3, 1, name="to_rgb")(image)
    with pytest.raises(ValueError, match="to_rgb"):
        save_checkpoint(tiny(weights=source, classes=10, input_tensor=rgb), path)


def test_the_size_of_an_input_tensor_becomes_that_of_the_transform():
    model = tiny(input_tensor=keras.Input((96, 64, 3)))
    assert model.eval_transform == EvalTransform((96, 64), 0.875)


def test_saving_a_model_with_lora_as_a_checkpoint_is_an_error(tmp_path):
    model = tiny(classes=10)
    model.stages[0].blocks.blocks[0].attn.proj_q.enable_lora(2)
    with pytest.raises(CheckpointError, match="LoRA"):
        save_checkpoint(model, tmp_path / "model.safetensors")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("pooling", "shape"),
    [(None, (2, 4, 4, 48)), ("avg", (2, 48)), ("max", (2, 48)), ("token", (2, 48))],
)
def test_a_backbone_gives_the_documented_shape(pooling, shape):
    model = tiny(include_top=False, pooling=pooling)
    assert model.predict(np.zeros((2, 64, 64, 3)), verbose=0).shape == shape


WRONG = pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"pooling": "avg"}, "include_top=False"),
        ({"include_top": False, "pooling": "mean"}, "pooling"),
        ({"classes": 0}, "classes"),
        ({"input_shape": (64, 64, 4)}, "3 channels"),
        ({"input_shape": 224}, "input_shape=224"),
        ({"input_shape": (2, 2, 3)}, "too small"),
        ({"dropout": 0.1}, "Unknown arguments"),
        ({"drop_path_rate": 1.5}, "drop_path_rate"),
        ({"activation": "relu"}, "activation"),
        ({"classifier_activation": "softmaxx"}, "softmaxx"),
        ({"include_preprocessing": "no"}, "include_preprocessing"),
        ({"include_top": 1}, "include_top"),
        ({"name": "a/b"}, "name"),
        ({"name": None}, "name"),
    ],
)


@WRONG
def test_the_error_for_a_wrong_argument_names_it(arguments, message):
    with pytest.raises(ValueError, match=message):
        tiny(**arguments)


@WRONG
def test_a_wrong_argument_costs_no_download(arguments, message, monkeypatch):
    def resolve(*arguments):
        pytest.fail("weights were looked for")

    monkeypatch.setattr(builders, "resolve", resolve)
    with pytest.raises(ValueError, match=message):
        tiny(weights="imagenet", **arguments)


@pytest.mark.parametrize("weights", [3, ["imagenet"], "imagenet_22k"])
def test_the_error_for_wrong_weights_names_them(weights):
    with pytest.raises(ValueError, match="Received"):
        tiny(weights=weights)


@pytest.mark.parametrize("weights", [None, "official_zip.pth", "hf_pt"])
def test_the_network_is_built_once(weights, monkeypatch):
    built = []

    def build_model(*arguments, **options):
        built.append(models.build_model(*arguments, **options))
        return built[-1]

    monkeypatch.setattr(builders, "build_model", build_model)
    model = tiny(classes=10, weights=weights and CHECKPOINTS / weights)
    assert built == [model]
    # The checkpoint decides the activation, but needs no second network.
    activation = "gelu" if weights == "hf_pt" else "quick_gelu"
    assert model.cvt_config.activation == activation


def test_two_networks_have_the_number_of_parameters_of_the_paper():
    counts = {}
    for builder in (keras_cvt.CvT13, keras_cvt.CvT21):
        model = builder(weights=None)
        trainable, statistics = (
            sum(int(np.prod(v.shape)) for v in variables)
            for variables in (
                model.trainable_variables,
                [v for v in model.variables if "moving_" in v.path],
            )
        )
        counts[model.name] = (trainable, statistics)
    assert counts == {"cvt13": (19_997_480, 25_728), "cvt21": (31_622_696, 41_856)}


@pytest.mark.parametrize("name", ["CvT13", "CvT21", "CvTW24"])
def test_the_docstring_of_a_published_network_is_about_itself(name):
    text = getattr(keras_cvt, name).__doc__
    assert text.startswith(f"Build the {name} of the paper")
    assert f'`list_weights("{name.lower()}")`' in text
    assert 'Defaults to `"imagenet"`' in text
    assert f"keras_cvt.{name}(classes=5)" in text
    assert "config:" not in text and "    pooling: With `include_top=False`" in text
