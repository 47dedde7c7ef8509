"""What is no model is refused before anything is downloaded or loaded."""

import keras
import numpy as np
import pytest
from PIL import Image

from keras_cvt.checkpoints import sources
from keras_cvt.cli import main

# Name -> (what is at the path, or None, what `--model` gets of it).
NAMES = {
    "no file": (None, "{}/model.keras"),
    "a suffix in capitals": (b"PK\x03\x04 of a .keras file \xff", "{}/MODEL.KERAS"),
    "no suffix": (b"\x89PNG\xff\xfe", "{}/model"),
    "a damaged configuration": (b'{"stages": [', "{}/config.json"),
    "a checkpoint": (b"\x80\x02\x8a\x0a of torch.save", "{}/model.pth"),
    "a folder": ("folder", "{}/folder"),
    "a folder like a model": ("folder", "{}/folder.keras"),
    "a tag of weights": (None, "imagenet"),
    "a name of weights": (None, "cvt13/imagenet"),
    "a name in capitals": (None, "CvT13"),
    "a repository": (None, "hf://microsoft/cvt-13"),
    "a .keras file of a repository": (None, "hf://org/repo/model.keras"),
    "an address": (None, "https://example.com/cvt13"),
    "a .keras file behind an address": (None, "https://example.com/model.keras"),
    "a bucket": (None, "gs://bucket/model.keras"),
}
COMMANDS = {
    "predict": ["predict", "{image}", "--model", "{model}"],
    "info": ["info", "{model}"],
    "export": ["export", "{model}", "{image}.onnx"],
    "verify": ["verify", "{model}", "{image}"],
    "benchmark": ["benchmark", "{model}"],
    "convert": ["convert", "{image}", "{image}.keras", "--model", "{model}"],
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("name", NAMES)
def test_what_is_no_model_says_what_was_expected(
    tmp_path, monkeypatch, capsys, name, command
):
    def fail(*_, **__):
        raise AssertionError("something is downloaded or loaded")

    monkeypatch.setattr(sources, "resolve", fail)
    monkeypatch.setattr(keras.models, "load_model", fail)
    content, model = NAMES[name]
    model = model.format(tmp_path)
    if content == "folder":
        (tmp_path / model).mkdir()
    elif content is not None:
        (tmp_path / model).write_bytes(content)
    image = tmp_path / "image.png"
    Image.fromarray(np.zeros((8, 8, 3), "uint8")).save(image)
    words = [word.format(model=model, image=image) for word in COMMANDS[command]]
    assert main(words) == 1
    said = capsys.readouterr().err
    kinds = "a config.json or a .keras file."
    if command == "predict":
        kinds = "a config.json, a .keras file, an exported SavedModel (a folder), "
    expected = f"Expected one of cvt13, cvt21, cvtw24, or the path of {kinds}"
    if name == "a damaged configuration":
        expected = "Expected the configuration of a network in JSON"
    assert expected in said
    assert said.rstrip().endswith(f"Received: {model}")
