"""`CvT13(weights="imagenet")` end to end, through the real Hub client."""

import os
import subprocess
import sys

import golden
import keras
import numpy as np
import pytest
from loopback_hub import LoopbackHub

import keras_cvt
from keras_cvt.checkpoints import save_checkpoint

CHECKPOINTS = golden.FOLDER.parent / "checkpoints"
REPO = "microsoft/cvt-13"

# Prints what the golden images give, from the weights that the Hub serves.
USE = """
import sys
sys.path.insert(0, {tests!r})
import golden, keras_cvt, numpy as np
model = keras_cvt.CvT13(
    weights={weights!r}, include_preprocessing=False, classifier_activation=None
)
expected, meta = golden.load("cvt13_224x224")
difference = np.abs(model.predict(golden.images(meta), verbose=0) - expected["logits"])
assert model.cvt_config.activation == "quick_gelu"
print("difference", difference.max())
"""


def start(hub_url, home, weights="imagenet", **environment):
    code = USE.format(tests=os.path.dirname(__file__), weights=weights)
    return subprocess.Popen(
        [sys.executable, "-c", code],
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
    """A transformers-layout checkpoint of CvT-13's true size."""
    _, meta = golden.load("cvt13_224x224")
    path = tmp_path_factory.mktemp("served") / "model.safetensors"
    with pytest.warns(UserWarning, match="exact GELU"):
        save_checkpoint(golden.model(meta), path, layout="transformers")
    return path.read_bytes()


@pytest.mark.full_size
def test_imagenet_weights_arrive_whatever_happens_on_the_way(served, tmp_path):
    with LoopbackHub({REPO: {"model.safetensors": served}}) as hub:
        # A download that dies half-way: huggingface_hub or the next call resumes.
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
        # A damaged file is noticed and made anew, offline from the Hub's cache.
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
    assert_published_network(start(hub.url, tmp_path, HF_HUB_OFFLINE="1"))
    assert [path.name for path in converted(tmp_path)] == [file.name]


def test_without_a_hub_the_error_names_the_repository_and_the_way_out(tmp_path):
    process = start("http://127.0.0.1:9", tmp_path)
    output, _ = process.communicate(timeout=120)
    assert process.returncode != 0
    assert REPO in output and "weights='path/to/checkpoint'" in output


def test_an_unknown_name_is_answered_with_the_valid_ones():
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


def test_a_folder_of_transformers_loads_as_gelu_and_says_so(caplog):
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


def test_another_number_of_classes_keeps_the_body_and_says_so(caplog):
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


@pytest.mark.parametrize(
    ("pooling", "shape"),
    [(None, (2, 4, 4, 48)), ("avg", (2, 48)), ("max", (2, 48)), ("token", (2, 48))],
)
def test_a_backbone_gives_the_documented_shape(pooling, shape):
    model = tiny(include_top=False, pooling=pooling)
    assert model.predict(np.zeros((2, 64, 64, 3)), verbose=0).shape == shape


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"pooling": "avg"}, "include_top=False"),
        ({"include_top": False, "pooling": "mean"}, "pooling"),
        ({"classes": 0}, "classes"),
        ({"input_shape": (64, 64, 4)}, "3 channels"),
        ({"input_shape": (2, 2, 3)}, "too small"),
        ({"dropout": 0.1}, "Unknown arguments"),
        ({"weights": 3}, "weights"),
        ({"drop_path_rate": 1.5}, "drop_path_rate"),
    ],
)
def test_wrong_arguments_are_answered_with_what_was_expected(arguments, message):
    with pytest.raises(ValueError, match=message):
        tiny(**arguments)


def test_the_three_networks_have_the_papers_parameters():
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
