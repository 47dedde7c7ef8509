"""The example works from start to end: fine-tune, export, push, load back."""

import re
import subprocess
import sys
from pathlib import Path

from hub_client import TOKEN, environment
from image_folders import write_folder
from loopback_hub import LoopbackHub

from keras_cvt.config import CvTConfig, StageConfig

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_the_fine_tuned_model_is_pushed_and_comes_back(tmp_path):
    write_folder(tmp_path / "images")
    config = CvTConfig(
        (StageConfig(8, 1, 1, 7, 4, 2), StageConfig(8, 1, 1, 3, 2, 1, cls_token=True))
    )
    config.to_json(tmp_path / "tiny.json")
    arguments = {
        "data": tmp_path / "images",
        "repo": "me/pets",
        "weights": "none",
        "model": tmp_path / "tiny.json",
        "steps": 2,
        "batch-size": 4,
        "image-size": 32,
        "run": tmp_path / "run",
    }
    command = [sys.executable, EXAMPLES / "push_fine_tuned.py"]
    for name, value in arguments.items():
        command += [f"--{name}", str(value)]
    command += ["--exports", "saved_model", "litert_int8"]
    with LoopbackHub({}, token=TOKEN) as server:
        result = subprocess.run(
            command,
            env=environment(server, tmp_path),
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert result.returncode == 0, result.stderr
        assert float(re.search(r"Loaded back within (\S+)", result.stdout)[1]) < 1e-6
        files = server.repos["me/pets"]
        assert b"Classes: cat, dog." in files["README.md"]
        assert {"saved_model/saved_model.pb", "model_int8.tflite"} <= set(files)
