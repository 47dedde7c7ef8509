"""Kill a small training again and again, and compare it with one that was not killed.

Each run has dropout, attention dropout, drop path, the paper's augmentation and
averaged weights. It is a process that is killed after a random time, often before the
end of an epoch, and started again with `resume=True` until it is done. The history,
both models and the optimizer must then equal those of an uninterrupted run bit for bit.
So must those of a second uninterrupted run.

    python benchmarks/kill_and_resume.py --kills 50 --terms 10 --seed 0
"""

import argparse
import contextlib
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
import zipfile
from collections import Counter
from pathlib import Path

# Each process is a copy of one that has imported TensorFlow and done nothing else.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["keras_cvt"])
EPOCHS = 6
IMAGE_SIZE = 16


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50, help="number of SIGKILLs")
    parser.add_argument("--terms", type=int, default=0, help="number of SIGTERMs more")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    with tempfile.TemporaryDirectory() as folder:
        interrupt(Path(folder), options)


def train(images, folder, reports):
    """Begin the run of a folder, or continue it."""
    import keras

    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        # Threads add up in another order from run to run.
        tf.config.experimental.enable_op_determinism()
    import keras_cvt
    from keras_cvt import StageConfig, data, training

    class Run(training.Run):
        """A run that reports its begin, each step and each written epoch."""

        def callbacks(self):
            def send(*_, logs=None):
                reports.send(True)

            report = keras.callbacks.LambdaCallback(
                on_train_begin=send, on_train_batch_end=send, on_epoch_end=send
            )
            return [*super().callbacks(), report]

    keras.utils.set_random_seed(0)
    stage = StageConfig(16, 2, 2, 3, 4, 1, cls_token=True)
    config = keras_cvt.CvTConfig((stage,)).with_overrides(
        drop_rate=0.2, attention_drop_rate=0.2, drop_path_rate=0.3
    )
    recipe = training.Recipe(
        image_size=IMAGE_SIZE,
        epochs=EPOCHS,
        learning_rate=1e-3,
        learning_rate_batch=8,
        warmup_epochs=1,
        drop_path_rate=0.3,
    )
    source = data.open_source(images, "train")
    model = keras_cvt.CvT(config, classes=2, classifier_activation=None)
    training.fit(
        model,
        recipe,
        source,
        data.open_source(images, "validation"),
        Run(folder, resume=True),
        batch_size=8,
        verbose=0,
        use_ema=True,
        ema_momentum=0.9,
        jit_compile=False,
    )


def interrupt(folder, options):
    rng = random.Random(options.seed)
    write_images(folder / "images", options.seed)
    whole = folder / "whole"
    status, steps = start(folder, whole)
    assert status == 0 and start(folder, folder / "again") == (0, steps)
    expected = result(whole)
    check(result(folder / "again"), expected, "a second uninterrupted run")
    print(f"{steps} reports of an uninterrupted run", flush=True)
    signals = [signal.SIGKILL] * options.kills + [signal.SIGTERM] * options.terms
    rng.shuffle(signals)
    runs, moments, left_behind, done = 0, Counter(), 0, False
    while signals or not done:
        run = folder / f"run-{runs}"
        # Not after seconds alone: other jobs on the machine make all steps slower.
        moment = (rng.randrange(steps), rng.uniform(0, 0.5)) if signals else None
        status, _ = start(folder, run, moment, signals[-1] if signals else None)
        done = status == 0
        if done:
            check(result(run), expected, run.name)
            runs += 1
            print(f"run {runs}: equal; {len(signals)} kills left", flush=True)
            continue
        assert status == -signals.pop(), f"exit status {status}"
        points = sorted(run.glob("resume-*.keras"))
        moments[int(points[-1].stem.split("-")[1]) if points else 0] += 1
        left_behind += bool(list(run.glob(".writing-*")))
        print(f"{run.name}: killed after {moment[0]} reports", flush=True)
    print(
        f"{sum(moments.values())} kills in {runs} runs, all equal bit for bit.\n"
        f"{left_behind} kills left half-written files behind.\n"
        "Kills by the number of whole epochs before them: "
        + ", ".join(f"{epochs}: {moments[epochs]}" for epochs in sorted(moments))
    )


def start(folder, run, moment=None, number=None):
    """Train in a process. Send it a signal some seconds after a number of reports.

    Returns:
        Its exit status, and the number of its reports.
    """
    receiver, sender = PROCESSES.Pipe(duplex=False)
    process = PROCESSES.Process(target=train, args=(folder / "images", run, sender))
    process.start()
    sender.close()
    count = 0
    # The end of the process is the end of its reports. It may come before the signal.
    with contextlib.suppress(EOFError, ProcessLookupError):
        while receiver.recv():
            if moment is not None and count == moment[0]:
                time.sleep(moment[1])
                os.kill(process.pid, number)
            count += 1
    process.join()
    return process.exitcode, count


def write_images(folder, seed):
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(seed)
    for split, count in (("train", 24), ("validation", 4)):
        for name in ("a", "b"):
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 256, (20, 24, 3), dtype="uint8")
                Image.fromarray(pixels).save(folder / split / name / f"{i}.png")


def result(folder):
    """Return the history, and all values of both saved models."""
    import h5py

    from keras_cvt import training

    run = training.Run(folder, resume=True)
    assert run.finished and not list(folder.glob(".*")), sorted(folder.iterdir())
    values = {}
    for path in (run.best, run.last):
        with (
            zipfile.ZipFile(path) as archive,
            archive.open("model.weights.h5") as file,
            h5py.File(file) as weights,
        ):
            weights.visititems(
                lambda name, item, path=path: values.update(
                    {f"{path.name}/{name}": item[()].tobytes()}
                    if isinstance(item, h5py.Dataset)
                    else {}
                )
            )
    assert len(values) > 100 and any("optimizer" in name for name in values)
    return run.history(), values


def check(found, expected, name):
    history, values = (a == b for a, b in zip(found, expected, strict=True))
    if not (history and values):
        sys.exit(f"{name} differs: history equal {history}, weights equal {values}")


if __name__ == "__main__":
    main()
