"""What processes do to each other and to their files: kills, races, a full disk, forks.

Each experiment uses a small network and ends with a line of figures. The program ends
with status 1 if one went wrong.

    python benchmarks/faults.py conversions exports predictions processes --seed 0
    mount -t tmpfs -o size=512k tmpfs /mnt/small
    python benchmarks/faults.py disk --small-disk /mnt/small
"""

import argparse
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("experiments", nargs="+", choices=EXPERIMENTS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=20, help="of killed conversions")
    parser.add_argument("--predictions", type=int, default=10_000)
    parser.add_argument("--small-disk", type=Path, help="a file system of 512 KB")
    options = parser.parse_args()
    failed = []
    for name in options.experiments:
        with tempfile.TemporaryDirectory() as folder:
            result, right = EXPERIMENTS[name](Path(folder), options)
        print(f"{name}: {result}: {'right' if right else 'WRONG'}", flush=True)
        failed += [] if right else [name]
    raise SystemExit(1 if failed else 0)


def small_model():
    import keras

    import keras_cvt
    from keras_cvt import StageConfig

    keras.utils.set_random_seed(0)
    stages = (
        StageConfig(16, 1, 1, 7, 4, 2),
        StageConfig(96, 2, 3, 3, 2, 1, cls_token=True),
    )
    config = keras_cvt.CvTConfig(stages, activation="gelu")
    return keras_cvt.CvT(config, classes=3, input_shape=(32, 32, 3))


def pixels(count=4):
    import numpy as np

    rng = np.random.default_rng(0)
    return rng.uniform(0, 255, (count, 32, 32, 3)).astype("float32")


def conversions(folder, options):
    """Two conversions into one folder, both killed at a random moment."""
    from keras_cvt import checkpoints
    from keras_cvt.checkpoints import sources
    from keras_cvt.hub import loading

    rng = random.Random(options.seed)
    model = small_model()
    source, out = folder / "source", folder / "out"
    checkpoints.save_checkpoint(model, source, "transformers")
    command = [sys.executable, "-m", "keras_cvt.cli", "convert"]
    command += [str(source), str(out / "model")]
    started = time.monotonic()
    subprocess.run(command, check=True, capture_output=True)
    duration, complete, wrong = time.monotonic() - started, 0, 0
    for _ in range(options.rounds):
        pair = [
            subprocess.Popen(
                command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            for _ in range(2)
        ]
        for process in pair:
            time.sleep(rng.uniform(0, 1.3) * duration)
            process.send_signal(signal.SIGKILL)
        complete += sum(process.wait() == 0 for process in pair)
        loaded = loading.build(sources.resolve(out / "model"))
        wrong += not (loaded(pixels()) == model(pixels())).numpy().all()
    subprocess.run(command, check=True, capture_output=True)
    left = sorted(path.name for path in out.iterdir())
    result = (
        f"{2 * options.rounds} conversions, {2 * options.rounds - complete} of them "
        f"killed; the folder was damaged {wrong} times; in the end it holds {left}"
    )
    return result, wrong == 0 and left == ["model"]


def export_often(folder, suffix, turns, queue):
    from keras_cvt import deploy

    model = small_model()
    try:
        for _ in range(turns):
            deploy.export(model, folder / f"model{suffix}")
        queue.put("")
    except Exception as error:
        queue.put(f"{type(error).__name__}: {error}")


def exports(folder, options, turns=3):
    """Processes that export to one path at the same time."""
    from keras_cvt import deploy

    context, errors, wrong = multiprocessing.get_context("spawn"), [], []
    records = deploy.formats.FORMATS.values()
    suffixes = [record.suffix for record in records if record.suffix is not None]
    for suffix in suffixes:
        queue = context.Queue()
        workers = [
            context.Process(target=export_often, args=(folder, suffix, turns, queue))
            for _ in range(2)
        ]
        for worker in workers:
            worker.start()
        errors += [error for error in (queue.get() for _ in workers) if error]
        for worker in workers:
            worker.join()
        report = deploy.verify(small_model(), folder / f"model{suffix}", pixels())
        wrong += [] if report.passed else [suffix]
    left = [path.name for path in folder.glob(".*")]
    result = (
        f"{2 * turns} exports to one path in each of {len(suffixes)} formats; "
        f"errors {errors}; files that are wrong {wrong}; left over {left}"
    )
    return result, not (errors or wrong or left)


def predictions(folder, options):
    """Memory of a process that predicts again and again."""
    from keras_cvt import deploy

    model, images = small_model(), pixels(1)
    deploy.export(model, folder / "model.tflite")
    litert = deploy.formats.open_file(folder / "model.tflite", threads=1)
    calls = {
        "keras": lambda: model.predict_on_batch(images),
        "litert": lambda: litert.run(images)[0],
    }
    parts, right = [], True
    for name, call in calls.items():
        first = call()
        for _ in range(options.predictions // 10):
            call()
        before = resident_mib()
        for _ in range(options.predictions):
            last = call()
        grown = resident_mib() - before
        right &= grown < 10 and bool((first == last).all())
        parts.append(f"{name} {grown:+.1f} MiB")
    return f"{options.predictions:,} predictions: {', '.join(parts)}", right


def resident_mib():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def predict_in_child(queue):
    queue.put(small_model().predict_on_batch(pixels()))


def processes(folder, options):
    """Child processes that predict, before and after the parent did."""
    expected, results, right = None, [], True
    for method, parent_first in (("fork", False), ("spawn", False), ("spawn", True)):
        if parent_first:
            expected = small_model().predict_on_batch(pixels())
        context = multiprocessing.get_context(method)
        queue = context.Queue()
        child = context.Process(target=predict_in_child, args=(queue,))
        child.start()
        found = queue.get(timeout=120)
        child.join()
        results.append(found)
        when = "after" if parent_first else "before"
        print(f"  {method}, {when} the parent's own prediction: a result")
    right = all((found == expected).all() for found in results)
    return "children by fork and by spawn predict the same as their parent", right


def disk(folder, options):
    """A disk that is full in the middle of a write."""
    from keras_cvt import checkpoints, conversion, deploy
    from keras_cvt.checkpoints import sources

    model, small = small_model(), options.small_disk
    source = folder / "source"
    checkpoints.save_checkpoint(model, source, "transformers")
    writes = {
        "safetensors": lambda: checkpoints.save_checkpoint(
            model, small / "m.safetensors"
        ),
        "pth": lambda: checkpoints.save_checkpoint(model, small / "m.pth"),
        "convert, folder": lambda: conversion.convert(source, small / "m"),
        "convert, .keras": lambda: conversion.convert(source, small / "m.keras"),
        "convert, .h5": lambda: conversion.convert(source, small / "m.weights.h5"),
        "cache": lambda: cache(small, sources, model, folder),
    }
    for name, record in deploy.formats.FORMATS.items():
        path = small / f"m{record.suffix or ''}"
        writes[name] = lambda path=path, name=name: deploy.export(
            model, path, format=name
        )
    (small / "filled").write_bytes(bytes(100_000))
    answers, wrong = {}, []
    for name, write in writes.items():
        before = files_below(small)
        try:
            answers[name] = write() or "no error"
        except OSError as error:
            answers[name] = f"{type(error).__name__}: {error}"
        except Exception as error:
            answers[name] = f"NO OSERROR: {type(error).__name__}: {error}"
        left = files_below(small) != before
        full = "o space left" in answers[name]
        wrong += [name] if left or not full or "NO OS" in answers[name] else []
        print(f"  {name}: {answers[name][:150]!r}{', FILES LEFT' if left else ''}")
    (small / "filled").unlink()
    return f"{len(writes)} ways to write on a full disk, wrong {wrong}", not wrong


def files_below(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def cache(small, sources, model, folder):
    """Keep weights in a cache on the small disk, and return what it warned of."""
    import logging
    from types import SimpleNamespace

    from keras_cvt.checkpoints import state_dict

    messages = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    sources.logger.addHandler(handler)
    os.environ["KERAS_HOME"] = str(small)
    files = SimpleNamespace(revision="a" * 40)
    state = state_dict.extract(model)
    sources._keep(SimpleNamespace(repo="a/b", files=files), state, "official")
    return " ".join(messages)


EXPERIMENTS = {
    "conversions": conversions,
    "exports": exports,
    "predictions": predictions,
    "processes": processes,
    "disk": disk,
}

if __name__ == "__main__":
    main()
