"""The example `distill.py` trains a student with a teacher."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
from example_program import EXAMPLES, run
from image_folders import write_folder

import keras_cvt
from keras_cvt import CvTConfig, StageConfig
from keras_cvt.preprocessing import EvalTransform

pytest.importorskip("tensorflow")
PROGRAM = "distill.py"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Images, a student's configuration, and a teacher of another image size."""
    root = tmp_path_factory.mktemp("distill")
    write_folder(root / "images", count=8)
    CvTConfig((StageConfig(8, 1, 1, 3, 2, 1, cls_token=True),)).to_json(
        root / "student.json"
    )
    save_teacher(root / "teacher.keras", class_names=("dog", "cat"))
    return root


def save_teacher(path, class_names=None, classes=2, **arguments):
    keras.utils.set_random_seed(3)
    config = CvTConfig((StageConfig(12, 1, 1, 7, 4, 2, cls_token=True),))
    teacher = keras_cvt.CvT(config, classes=classes, **arguments)
    teacher.eval_transform = EvalTransform((24, 20), None)
    teacher.class_names = class_names
    # Fresh heads answer nearly the same to everything.
    head = teacher.get_layer("head")
    head.set_weights([20 * head.get_weights()[0], head.get_weights()[1]])
    teacher.save(path)
    return teacher


def arguments(files, output, *extra, teacher="teacher.keras"):
    given = {
        "data": files / "images",
        "teacher": files / teacher,
        "student": files / "student.json",
        "output": output,
        "image-size": 16,
        "batch-size": 8,
        "epochs": 3,
        "warmup-epochs": 1,
        "crop-padding": 2,
        "drop-path-rate": 0.3,
        "ema": 0.9,
    }
    return [*(f"--{name}={value}" for name, value in given.items()), *extra]


@pytest.fixture(scope="module")
def whole(files, tmp_path_factory):
    """The folder of a run that was not interrupted, and what it printed."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    status, printed, errors = run(PROGRAM, *arguments(files, folder, "--alone"))
    assert status == 0, errors
    return folder, printed


def accuracies(folder):
    with (folder / "log.csv").open(newline="") as file:
        return [float(row["val_accuracy"]) for row in csv.DictReader(file)]


@pytest.mark.any_backend
def test_the_student_is_saved_and_the_accuracies_are_printed(files, whole):
    folder, printed = whole
    student = keras.models.load_model(folder / "best.keras")
    assert isinstance(student, keras_cvt.CvTModel)
    # In the order of the teacher's outputs.
    assert student.class_names == ("dog", "cat")
    assert student.eval_transform.image_size == (16, 16)
    assert student.cvt_config.stages[0].embed_dim == 8
    alone = keras.models.load_model(folder / "alone" / "best.keras")
    assert alone.class_names == student.class_names

    teacher = keras.models.load_model(files / "teacher.keras")
    right = []
    for label, name in enumerate(teacher.class_names):
        paths = sorted((files / "images" / "validation" / name).iterdir())
        images = np.concatenate([keras_cvt.preprocess_input(p, teacher) for p in paths])
        right += (teacher.predict(images, verbose=0).argmax(-1) == label).tolist()
    best = np.mean(right), max(accuracies(folder)), max(accuracies(folder / "alone"))
    found = re.search(r"teacher (.*)%, student (.*)%, student alone (.*)%\n", printed)
    np.testing.assert_allclose(
        [float(x) / 100 for x in found.groups()], best, atol=1e-4
    )


def test_the_run_records_the_teacher(whole):
    settings = json.loads((whole[0] / "run.json").read_text())
    assert settings["alpha"] == 0.7 and settings["temperature"] == 3.0
    assert settings["teacher"]["weights"] == "teacher.keras"
    assert len(settings["teacher"]["weights_sha256"]) == 64
    alone = json.loads((whole[0] / "alone" / "run.json").read_text())
    assert "teacher" not in alone
    # The same images, steps and seed.
    for key in ("recipe", "batch_size", "seed", "training_images", "network"):
        assert alone["fit"][key] == settings["fit"][key]


def test_a_killed_run_ends_as_one_that_was_not_killed(files, whole, tmp_path):
    folder = tmp_path / "run"
    killed = subprocess.Popen(
        [sys.executable, EXAMPLES / PROGRAM, *arguments(files, folder)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ,
    )
    while not list(folder.glob("resume-*.keras")):
        assert killed.poll() is None
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert not (folder / "finished").exists()
    status, _, errors = run(PROGRAM, *arguments(files, folder, "--resume"))
    assert status == 0, errors
    for name in ("last.keras", "best.keras"):
        ours, theirs = (
            keras.models.load_model(path / name).get_weights()
            for path in (folder, whole[0])
        )
        for a, b in zip(ours, theirs, strict=True):
            # Threads add up in another order from run to run.
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_a_run_is_not_resumed_with_another_teacher(files, whole):
    extra = "--resume", "--temperature=2"
    status, _, errors = run(PROGRAM, *arguments(files, whole[0], *extra))
    assert status == 1 and "temperature: there 3.0, now 2.0" in errors


@pytest.mark.any_backend
def test_the_loss_is_that_of_the_paper(files, monkeypatch):
    """Labels and divergence from the teacher at its own image size."""
    monkeypatch.syspath_prepend(EXAMPLES)
    import distill

    teacher = keras.models.load_model(files / "teacher.keras")
    student = keras_cvt.CvT(
        CvTConfig.from_json(files / "student.json"),
        classes=2,
        classifier_activation=None,
    )
    student.compile("sgd", keras.losses.CategoricalCrossentropy(from_logits=True))
    options = type("", (), {"alpha": 0.6, "temperature": 4.0})
    model = distill.distiller(student, distill.logits_model(teacher, 16), options)
    rng = np.random.default_rng(0)
    images = rng.uniform(0, 255, (4, 16, 16, 3)).astype("float32")
    labels = np.eye(2, dtype="float32")[[0, 1, 1, 0]]
    loss = model.evaluate(images, labels, verbose=0, return_dict=True)["loss"]

    resized = keras_cvt.preprocess_input(images, EvalTransform((24, 20), None))
    theirs = teacher.with_activation(None).predict(resized, verbose=0)
    ours = student.predict(images, verbose=0)

    def log_softmax(x):
        return x - np.log(np.exp(x).sum(-1, keepdims=True))

    expected = 0.4 * -(labels * log_softmax(ours)).sum(-1).mean()
    p, q = log_softmax(theirs / 4), log_softmax(ours / 4)
    expected += 0.6 * 16 * (np.exp(p) * (p - q)).sum(-1).mean()
    np.testing.assert_allclose(loss, expected, rtol=1e-3)


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        ({"classes": 3}, "a teacher of 3 classes and images of 2: cat, dog"),
        ({"class_names": ("cat", "cow")}, "The images have none of cow"),
        ({"include_preprocessing": False}, "include_preprocessing=True"),
        ({"classes": 1}, "a softmax over one output"),
        ({"classifier_activation": "sigmoid"}, "whose outputs are decisions"),
    ],
    ids=["classes", "names", "preprocessing", "one output", "sigmoid"],
)
def test_a_teacher_that_does_not_fit_is_refused(files, tmp_path, teacher, message):
    save_teacher(tmp_path / "other.keras", **teacher)
    other = tmp_path / "other.keras"
    status, _, errors = run(PROGRAM, *arguments(files, tmp_path / "run", teacher=other))
    assert status == 1 and message in errors
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("--teacher=nobody.keras", "Expected one of cvt13"),
        ("--teacher-weights=imagenet", "--teacher: A .keras file has its own weights"),
        ("--student=cvt14", "Expected --model cvt13"),
        ("--alpha=1.5", "expected a positive number of at most 1"),
        ("--temperature=0", "expected a positive number"),
        ("--distribute=mirrored", "train on one device"),
        ("--ray=local", "train on one device"),
    ],
)
def test_wrong_options_are_messages(files, tmp_path, extra, message):
    status, _, errors = run(PROGRAM, *arguments(files, tmp_path / "run", extra))
    assert status in (1, 2) and message in errors
    assert not (tmp_path / "run").exists()
