"""Change valid files a little and read them: each is read, or refused with our error.

Checkpoints in every format and layout, what describes them (`config.json`, class names,
exported metadata) and model cards are changed inside: keys, shapes, types, storages,
offsets, opcodes, values, text. So the code behind a valid archive is reached. Worker
processes read them. The report counts what was read, what was refused by an error that
the package raises, and anything else: another error, a text with control characters, a
wrong result, a crash, too much time or memory.

    python benchmarks/fuzz_files.py --inputs 10000 --seed 0 \\
        --output benchmarks/RESULTS.md
    python benchmarks/fuzz_files.py --only 0:4711
"""

import argparse
import collections
import datetime
import io
import json
import os
import queue
import random
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path

import reports
from fuzz_readers import KINDS, WrongResultError, kind_of

# Limits of one input. The files have less than 1 MB.
SECONDS = 20
MEGABYTES = 256
PACKAGES = (*reports.PACKAGES, "numpy", "h5py", "safetensors", "pyyaml")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2, help="worker processes")
    parser.add_argument("--only", metavar="SEED:INPUT", help="show what one input does")
    parser.add_argument("--output", type=Path, help="Markdown file to append to")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        return work()
    if args.only:
        seed, index = map(int, args.only.split(":"))
        with tempfile.TemporaryDirectory() as folder:
            print(Reader(Path(folder)).outcome(seed, index, show=True))
        return 0
    start = time.monotonic()
    outcomes = run(args.seed, args.inputs, args.jobs)
    text, wrong = report(outcomes, time.monotonic() - start)
    reports.keep(text, args.output)
    return 1 if wrong else 0


def run(seed, inputs, jobs):
    """Return (input, kind, outcome, details) of every input."""
    left, done = queue.Queue(), []
    for index in range(inputs):
        left.put(index)
    threads = [
        threading.Thread(target=feed, args=(seed, left, done)) for _ in range(jobs)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sorted(done)


def feed(seed, left, done):
    """Give inputs to a worker process, and start another one when it dies."""
    worker = None
    while True:
        try:
            index = left.get_nowait()
        except queue.Empty:
            break
        worker = worker or Worker()
        answer = worker.ask(seed, index)
        if answer is None:
            worker.end()
            answer = [kind_of(seed, index), *worker.death()]
            worker = None
        done.append((index, *answer))
        if len(done) % 500 == 0:
            reports.say(f"{len(done)} inputs")
    if worker:
        worker.end()


class Worker:
    def __init__(self):
        command = [sys.executable, __file__, "--worker"]
        environment = {
            **os.environ,
            "KERAS_BACKEND": "numpy",
            "PYTHONWARNINGS": "ignore",
        }
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )
        self.answers = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()
        self.late = False
        self.answers.get()  # it is ready

    def _read(self):
        for line in self.process.stdout:
            self.answers.put(json.loads(line))
        self.answers.put(None)

    def ask(self, seed, index):
        self.process.stdin.write(f"{seed} {index}\n")
        self.process.stdin.flush()
        try:
            return self.answers.get(timeout=SECONDS)
        except queue.Empty:
            self.late = True
            return None

    def end(self):
        self.process.kill()
        self.process.wait()

    def death(self):
        if self.late:
            return ("other", f"more than {SECONDS} s")
        return ("other", f"the process ended with status {self.process.returncode}")


def work():
    """Read the inputs that standard input asks for; answer on standard output."""
    import resource

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    # In memory, if there is such a folder.
    place = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=place, prefix="fuzz-") as folder:
        reader = Reader(Path(folder))
        # Far more than any input should need, and less than would hurt the machine.
        limit = memory("VmSize") + 16 * MEGABYTES * 2**20
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        print("[]", file=answers, flush=True)
        for line in sys.stdin:
            answer = reader.outcome(*map(int, line.split()))
            print(json.dumps(answer), file=answers, flush=True)
    return 0


def memory(field):
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    return 0


def report(outcomes, seconds):
    """Return the report, and how many inputs went wrong."""
    counts = collections.defaultdict(collections.Counter)
    wrong = []
    for index, kind, outcome, details in outcomes:
        counts[kind][outcome] += 1
        counts["all"][outcome] += 1
        if outcome == "other":
            wrong.append(f"- input {index}, {kind}: {details}")
    rows = [
        [kind, sum(c.values()), c["read"], c["refused"], c["other"]]
        for kind, c in counts.items()
        if kind != "all"
    ]
    total = counts["all"]
    rows = [*sorted(rows), ["all", len(outcomes), *(total[n] for n in OUTCOMES)]]
    header = ["files", "inputs", "read", "refused with our error", "anything else"]
    lines = [
        f"## Valid files, changed a little ({datetime.date.today()})",
        "",
        f"`{reports.command_line()}`, {seconds:.0f} s, at most {SECONDS} s and "
        f"{MEGABYTES} MiB for one input. {reports.versions(PACKAGES)}.",
        "",
        *reports.table(header, rows),
        *([""] if wrong else []),
        *wrong,
        "",
    ]
    return "\n".join(lines), len(wrong)


OUTCOMES = ("read", "refused", "other")


class Reader:
    """Makes inputs in a folder and reads them with the package."""

    def __init__(self, folder):
        import keras_cvt
        from keras_cvt.checkpoints import state_dict

        self.folder = folder
        stages = (
            keras_cvt.StageConfig(8, 1, 1, 7, 4, 2),
            keras_cvt.StageConfig(12, 2, 3, 3, 2, 1, cls_token=True),
        )
        self.config = keras_cvt.CvTConfig(stages, activation="gelu")
        self.model = keras_cvt.CvT(self.config, classes=3, name="tiny")
        self.model.class_names = ["daisy", "rose", "oak"]
        self.state = state_dict.extract(self.model)
        self.files = Originals(self, folder)

    def outcome(self, seed, index, show=False):
        """Return the kind of an input, what happened and, if it is wrong, why."""
        kind = kind_of(seed, index)
        rng = random.Random(f"{seed}:{index}")
        if os.path.exists("/proc/self/clear_refs"):
            Path("/proc/self/clear_refs").write_text("5")
        before = memory("VmHWM")
        try:
            KINDS[kind](self, rng)
            outcome, details = "read", ""
        except (ValueError, OSError) as error:
            outcome, details = judge(error)
            if show:
                traceback.print_exc()
        except BaseException as error:
            outcome = "other"
            details = "".join(traceback.format_exception(error)[-2:])[-500:]
            if show:
                traceback.print_exc()
        used = (memory("VmHWM") - before) // 2**20
        if used > MEGABYTES:
            outcome, details = "other", f"{used} MiB"
        return kind, outcome, details

    def load(self, source):
        import numpy as np

        from keras_cvt.checkpoints import load_checkpoint

        report = load_checkpoint(self.model, source)
        if len(report.loaded) != len(self.state):
            raise WrongResultError(report)
        for weight in self.model.weights:
            if not np.isfinite(np.asarray(weight)).all():
                raise WrongResultError(f"{weight.path} is not finite")


def judge(error):
    """Tell an error that the package raises from one that happens to it."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    ours = f"{os.sep}keras_cvt{os.sep}" in frame.filename
    control = [c for c in str(error) if ord(c) < 32 and c not in "\n\t"]
    if ours and not control and str(error):
        return "refused", ""
    where = f"{Path(frame.filename).name}:{frame.lineno}"
    return "other", f"{where}: {type(error).__name__}: {str(error)[:300]!r}"


class Originals:
    """Valid files of the reader's model."""

    def __init__(self, reader, folder):
        import h5py
        import numpy as np
        import torch

        from keras_cvt.checkpoints import layouts

        state = reader.state
        transformers = {layouts.to_transformers(k): a for k, a in state.items()}
        prefixed = {f"module.{key}": array for key, array in state.items()}
        self.states = [state, transformers, prefixed]
        self.pickles = []
        for arrays in self.states:
            tensors = {name: torch.tensor(array) for name, array in arrays.items()}
            plain = {
                "epoch": 3,
                "state_dict": tensors,
                "args": {"lr": 0.1, "sizes": torch.Size([1, 2]), "type": torch.float32},
                "counter": collections.Counter("aab"),
                "set": {1, 2},
                "parameter": torch.nn.Parameter(torch.ones(3)),
            }
            for content in (tensors, plain):
                for options in ({}, {"pickle_protocol": 4}, {"legacy": True}):
                    options = dict(options)
                    legacy = options.pop("legacy", False)
                    file = io.BytesIO()
                    torch.save(
                        content,
                        file,
                        _use_new_zipfile_serialization=not legacy,
                        **options,
                    )
                    self.pickles.append((legacy, file.getvalue()))
        reader.model.save_weights(folder / "x.weights.h5")
        reader.model.save(folder / "x.h5")
        with h5py.File(folder / "tf.h5", "w") as file:
            for name, array in state.items():
                module, leaf = name.rsplit(".", 1) if "." in name else ("", name)
                if leaf == "cls_token":
                    file[f"{module}/{module}/cls_token:0"] = array
                    continue
                leaf = {
                    "weight": "kernel" if array.ndim > 1 else "gamma",
                    "bias": "beta" if "norm" in module or "bn" in module else "bias",
                    "running_mean": "moving_mean",
                    "running_var": "moving_variance",
                }[leaf]
                top = module.split(".")[0]
                path = f"{top}/{module.replace('.', '/')}/{leaf}:0"
                file[path] = layouts.to_keras_shape(np.asarray(array))
        with h5py.File(folder / "names.h5", "w") as file:
            for name, array in prefixed.items():
                file[name] = array
        names = ("x.weights.h5", "x.h5", "tf.h5", "names.h5")
        self.hdf5 = [(folder / name).read_bytes() for name in names]
        self.description = reader.model.description
        self.page = folder / "page"
        from keras_cvt.checkpoints import save_checkpoint

        save_checkpoint(reader.model, self.page, layout="transformers")


if __name__ == "__main__":
    sys.exit(main())
