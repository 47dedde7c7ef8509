"""Measure several contenders in interleaved rounds, each in a process of its own.

Each process lives until the end, so that its peak memory belongs to one contender. The
processes measure one after another in every round. So other load on the machine slows
all contenders alike.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from networks import MODELS
from reports import keep, peak_memory, say


def arguments(description, add=None):
    """Return the parsed arguments. `add(parser)` may define more of them."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--model", choices=MODELS, default="cvt13")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument(
        "--seconds",
        type=float,
        default=2.0,
        help="least duration of one measurement",
    )
    parser.add_argument(
        "--images", type=int, default=64, help="number of images for `predict`"
    )
    parser.add_argument(
        "--imports", type=int, default=7, help="processes for each start-up time"
    )
    parser.add_argument("--output", type=Path, help="append the report to this file")
    parser.add_argument(
        "--quiet", action="store_true", help="hide the processes' error output"
    )
    for hidden in ("--worker", "--config-file"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    parser.add_argument("--batch-size", type=int, help=argparse.SUPPRESS)
    if add is not None:
        add(parser)
    return parser.parse_args()


def run(args, report):
    """Prepare this process, then print and store the text of `report(args)`."""
    os.environ.update(environment(args.threads))
    sys.path.insert(0, os.environ["PYTHONPATH"])
    from keras_cvt import config

    with tempfile.TemporaryDirectory() as folder:
        # In a file, so that the processes of transformers do not import Keras.
        args.config_file = str(Path(folder) / "config.json")
        ours = getattr(config, MODELS[args.model][1])
        Path(args.config_file).write_text(
            json.dumps(ours.to_transformers(image_size=args.image_size))
        )
        text = report(args)
    keep(text, args.output)


def environment(threads):
    return {
        "KERAS_BACKEND": "tensorflow",
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "OMP_NUM_THREADS": str(threads),
        "PYTHONPATH": str(Path(__file__).resolve().parents[1]),
    } | os.environ


def compare(args, names, batch_size=1):
    """Return each contender's speeds, one per round, and peak memory in bytes."""
    with contextlib.ExitStack() as stack:
        workers = []
        for name in names:
            say(f"starting {name}, batch {batch_size}")
            workers.append(Worker(name, args, batch_size))
            stack.callback(workers[-1].close)
        speeds = {name: [] for name in names}
        for i in range(args.rounds):
            # Every second round runs backwards, so that none is always the first.
            for worker in workers if i % 2 == 0 else reversed(workers):
                speeds[worker.name].append(worker.ask("measure"))
            say(f"round {i + 1} of {args.rounds}")
        memory = {worker.name: worker.ask("quit") for worker in workers}
    return speeds, memory


class Worker:
    """The process of one contender."""

    def __init__(self, name, args, batch_size=1):
        options = {
            "worker": name,
            "model": args.model,
            "image-size": args.image_size,
            "batch-size": batch_size,
            "threads": args.threads,
            "images": args.images,
            "seconds": args.seconds,
            "config-file": args.config_file,
        }
        command = [sys.executable, sys.argv[0]]
        for option, value in options.items():
            command += [f"--{option}", str(value)]
        self.name = name
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL if args.quiet else None,
            text=True,
            env=environment(args.threads),
        )
        self._reply()

    def ask(self, question):
        self.process.stdin.write(question + "\n")
        self.process.stdin.flush()
        return self._reply()

    def _reply(self):
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(
                f"{self.name} ended with exit status {self.process.wait()}. "
                "Run without --quiet to see why."
            )
        return json.loads(line)

    def close(self):
        self.process.kill()
        self.process.wait()


def work(args, contenders):
    """Answer each line of stdin, `measure` or `quit`, with one line of JSON."""
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # Libraries must not print between the replies.
    run, images = contenders[args.worker](args)
    run()
    run()
    replies.write(json.dumps("ready") + "\n")
    for line in sys.stdin:
        if line.strip() == "quit":
            replies.write(json.dumps(peak_memory()) + "\n")
            return
        times = []
        while sum(times) < args.seconds or len(times) < 2:
            start = time.perf_counter()
            run()
            times.append(time.perf_counter() - start)
        replies.write(json.dumps(images / statistics.median(times)) + "\n")


def ratios(seen, speeds, baselines):
    """Return a contender's speed relative to each baseline, as medians over rounds."""
    for baseline in baselines:
        pairs = zip(seen, speeds[baseline], strict=True)
        yield f"{statistics.median(ours / theirs for ours, theirs in pairs):.2f}"
