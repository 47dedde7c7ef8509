"""Test a wheel as a user gets it: installed alone, away from the checkout.

    python3.12 tests/wheel.py dist/keras_cvt-0.2.0-py3-none-any.whl tensorflow-cpu

makes an environment of that Python in a temporary folder, installs the wheel with the
extra, and runs the program there: version, list, doctor, a network, a prediction and an
export.
It ends with an error if one of them fails. `make test-wheel` calls it.
"""

import os
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

BUILD = """\
import keras_cvt
from PIL import Image

model = keras_cvt.CvT13(weights=None, classes=2)
model.class_names = ["daisy", "rose"]
model.save("model.keras")
Image.effect_noise((320, 240), 64).convert("RGB").save("photo.jpg")
print(keras_cvt.__file__)
"""


def main():
    wheel, extra = Path(sys.argv[1]).resolve(), sys.argv[2]
    version = wheel.name.split("-")[1]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        venv.create(folder / "venv", with_pip=True)
        binaries = folder / "venv" / "bin"

        def run(*words):
            start = time.monotonic()
            done = subprocess.run(
                [binaries / words[0], *words[1:]],
                cwd=folder,
                env={
                    **{k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
                    "KERAS_BACKEND": "tensorflow",
                    "TF_CPP_MIN_LOG_LEVEL": "2",
                },
                stdout=subprocess.PIPE,
                text=True,
            )
            seconds = time.monotonic() - start
            print(f"{seconds:5.1f} s  {' '.join(words)}", flush=True)
            if done.returncode:
                sys.exit(f"{done.stdout}\nstatus {done.returncode}")
            return done.stdout

        def check(condition, output):
            if not condition:
                sys.exit(f"Not expected:\n{output}")

        print(f"Python {sys.version.split()[0]}, {wheel.name}[{extra}]", flush=True)
        run("pip", "install", "--quiet", f"{wheel}[{extra}]")
        output = run("keras-cvt", "--version")
        check(output == f"keras_cvt {version}\n", output)
        output = run("keras-cvt", "list")
        check("cvtw24/imagenet" in output, output)
        output = run("keras-cvt", "doctor")
        check(output.endswith("No problems.\n"), output)
        (folder / "build.py").write_text(BUILD)
        output = run("python", "build.py")
        check(Path(output.strip()).is_relative_to(folder / "venv"), output)
        output = run("keras-cvt", "predict", "photo.jpg", "--model", "model.keras")
        check("daisy" in output and "rose" in output, output)
        # Runs the file and compares it, which is its exit status.
        output = run(
            *("keras-cvt", "export", "model.keras", "exported"),
            *("--images", "photo.jpg"),
        )
        check((folder / "exported" / "saved_model.pb").exists(), output)
    print("The wheel works.")


if __name__ == "__main__":
    main()
