"""Inference on the CPU: keras_cvt beside transformers' PyTorch CvT.

Every contender runs in a process of its own, so that its peak memory is its own.
The processes stay alive and take turns, one measuring at a time, round after round:
what else the machine does meets all of them alike. Speeds are medians over the
rounds; ratios are medians of the rounds' ratios.

    python benchmarks/inference.py --output benchmarks/RESULTS.md
"""

import argparse
import contextlib
import datetime
import importlib.metadata
import json
import os
import platform
import resource
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

MODELS = {
    "cvt13": ("CvT13", "CVT_13"),
    "cvt21": ("CvT21", "CVT_21"),
    "cvtw24": ("CvTW24", "CVT_W24"),
}
BASELINES = ("transformers eager", "transformers torch.compile")
PACKAGES = ("keras", "tensorflow", "tensorflow-cpu", "jax", "torch", "transformers")
MATMUL_SIZE = 2048


# ---------------------------------------------------------------- contenders
# Each returns a function that runs once and the number of images it takes.


def keras_cvt_call(args):
    """Return the compiled call of a model as users get it."""
    model = keras_model(args)
    images = pixels(args.batch_size, args.image_size)
    if os.environ["KERAS_BACKEND"] != "tensorflow":
        raise SystemExit("The compiled call is TensorFlow's: KERAS_BACKEND=tensorflow")
    import tensorflow as tf

    function = tf.function(lambda x: model(x, training=False))
    images = tf.constant(images)
    return lambda: function(images).numpy(), args.batch_size


def keras_cvt_predict(args):
    """Return `model.predict` over a whole set of images in memory."""
    model = keras_model(args)
    images = pixels(args.images, args.image_size)
    return (
        lambda: model.predict(images, batch_size=args.batch_size, verbose=0),
        args.images,
    )


def transformers_eager(args):
    """Return transformers' model under `inference_mode`."""
    return torch_run(args, transformers_model(args))


def transformers_compiled(args):
    """Return transformers' model under `torch.compile` and `inference_mode`."""
    import torch

    return torch_run(args, torch.compile(transformers_model(args)))


def matmul_tensorflow(args):
    """Return one large product, to say what the processor allows."""
    tf = tensorflow(args.threads)
    x = tf.random.normal((MATMUL_SIZE, MATMUL_SIZE))
    function = tf.function(tf.matmul)
    return lambda: function(x, x).numpy(), 1


def matmul_torch(args):
    """Return the same product on torch."""
    import torch

    torch.set_num_threads(args.threads)
    x = torch.randn(MATMUL_SIZE, MATMUL_SIZE)
    return lambda: x @ x, 1


CONTENDERS = {
    "keras_cvt compiled call": keras_cvt_call,
    "keras_cvt predict": keras_cvt_predict,
    "transformers eager": transformers_eager,
    "transformers torch.compile": transformers_compiled,
}
MATMULS = {"TensorFlow": matmul_tensorflow, "torch": matmul_torch}


def pixels(count, size):
    import numpy as np

    rng = np.random.default_rng(0)
    return rng.uniform(0, 255, (count, size, size, 3)).astype("float32")


def tensorflow(threads):
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    return tf


def keras_model(args):
    if os.environ["KERAS_BACKEND"] == "tensorflow":
        tensorflow(args.threads)
    import keras_cvt

    return getattr(keras_cvt, MODELS[args.model][0])(weights=None)


def transformers_model(args):
    import torch
    from transformers import CvtConfig, CvtForImageClassification

    torch.set_num_threads(args.threads)
    config = CvtConfig.from_json_file(args.config_file)
    return CvtForImageClassification(config).eval()


def torch_run(args, model):
    import torch

    images = torch.from_numpy(pixels(args.batch_size, args.image_size) / 255)
    images = images.permute(0, 3, 1, 2).contiguous()

    def run():
        with torch.inference_mode():
            return model(images).logits

    return run, args.batch_size


# ---------------------------------------------------------------- processes


def work(args, contenders):
    """Serve one contender: a line in, `measure` or `quit`, a line of JSON out."""
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # Nothing that a library prints may get between the replies.
    run, images = contenders[args.worker](args)
    run()
    run()
    replies.write(json.dumps("ready") + "\n")
    for line in sys.stdin:
        if line.strip() == "quit":
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            replies.write(json.dumps(peak * 1024) + "\n")
            return
        times = []
        while sum(times) < args.seconds or len(times) < 2:
            start = time.perf_counter()
            run()
            times.append(time.perf_counter() - start)
        replies.write(json.dumps(images / statistics.median(times)) + "\n")


class Worker:
    """A contender's process."""

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
                f"{self.name} died with exit status {self.process.wait()}; "
                "run without --quiet to see why."
            )
        return json.loads(line)

    def close(self):
        self.process.kill()
        self.process.wait()


def environment(threads):
    return {
        "KERAS_BACKEND": "tensorflow",
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "OMP_NUM_THREADS": str(threads),
        "PYTHONPATH": str(Path(__file__).resolve().parents[1]),
    } | os.environ


def compare(args, names, batch_size=1):
    """Return each name's speeds, one a round, and its peak memory in bytes."""
    with contextlib.ExitStack() as stack:
        workers = []
        for name in names:
            say(f"starting {name}, batch {batch_size}")
            workers.append(Worker(name, args, batch_size))
            stack.callback(workers[-1].close)
        speeds = {name: [] for name in names}
        for i in range(args.rounds):
            # Every other round runs backwards, so that no one always goes first.
            for worker in workers if i % 2 == 0 else reversed(workers):
                speeds[worker.name].append(worker.ask("measure"))
            say(f"round {i + 1} of {args.rounds}")
        memory = {worker.name: worker.ask("quit") for worker in workers}
    return speeds, memory


_IMPORT = """
import time
start = time.perf_counter()
import {module}
print(time.perf_counter() - start)
"""

_FIRST = {
    "keras_cvt": """
import numpy as np
import keras_cvt
model = keras_cvt.{builder}(weights=None)
images = np.zeros((1, {size}, {size}, 3), "float32")
model.predict(images, verbose=0)
""",
    "transformers": """
import torch
from transformers import CvtConfig, CvtForImageClassification
config = CvtConfig.from_json_file({config_file!r})
model = CvtForImageClassification(config).eval()
with torch.inference_mode():
    model(torch.zeros(1, 3, {size}, {size}))
""",
}

# ---------------------------------------------------------------- start-up


def import_times(args):
    """Return the medians of `import keras` and `import keras_cvt`, in seconds."""
    times = {"keras": [], "keras_cvt": []}
    for _ in range(args.imports):
        for module, seen in times.items():
            output = python(args, _IMPORT.format(module=module))
            seen.append(float(output.split()[-1]))
    return {module: statistics.median(seen) for module, seen in times.items()}


def first_prediction_times(args):
    """Return the medians from the start of a process to its end, in seconds."""
    times = {name: [] for name in _FIRST}
    for _ in range(args.imports):
        for name, seen in times.items():
            program = _FIRST[name].format(
                builder=MODELS[args.model][0],
                size=args.image_size,
                config_file=args.config_file,
            )
            start = time.perf_counter()
            python(args, program)
            seen.append(time.perf_counter() - start)
    return {name: statistics.median(seen) for name, seen in times.items()}


def python(args, program):
    return subprocess.run(
        [sys.executable, "-c", program],
        check=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL if args.quiet else None,
        text=True,
        env=environment(args.threads),
    ).stdout


# ---------------------------------------------------------------- report


def ratios(seen, speeds, baselines):
    """Return how fast a contender is beside each baseline, round by round."""
    for baseline in baselines:
        pairs = zip(seen, speeds[baseline], strict=True)
        yield f"{statistics.median(ours / theirs for ours, theirs in pairs):.2f}"


def speed_rows(args):
    for batch_size in args.batch_sizes:
        speeds, memory = compare(args, CONTENDERS, batch_size)
        for name, seen in speeds.items():
            spread = f"{min(seen):.1f}-{max(seen):.1f}"
            yield (
                name,
                batch_size,
                args.threads,
                f"{statistics.median(seen):.1f}",
                spread,
                *ratios(seen, speeds, BASELINES),
                f"{memory[name] / 2**20:.0f}",
            )


def report(args):
    lines = [
        f"## {datetime.date.today()}: {args.model} at {args.image_size}",
        "",
        f"`{command_line()}`",
        "",
        f"- {processor()}",
        f"- {versions()}",
        f"- {settings(args)}",
    ]
    flops = 2 * MATMUL_SIZE**3 / 1e9
    speeds, _ = compare(args, MATMULS)
    products = ", ".join(
        f"{name} {statistics.median(seen) * flops:.0f}" for name, seen in speeds.items()
    )
    gflop = image_gflop(args)
    bound = max(statistics.median(seen) for seen in speeds.values()) * flops / gflop
    lines += [
        f"- A product of two {MATMUL_SIZE} x {MATMUL_SIZE} matrices in this run: "
        f"{products} GFLOP/s. An image takes {gflop:.2f} GFLOP: at that rate at most "
        f"{bound:.1f} images/s.",
        "",
    ]
    header = (
        "contender",
        "batch",
        "threads",
        "images/s",
        "min-max",
        *(f"x {name}" for name in BASELINES),
        "peak memory, MiB",
    )
    lines += table(header, speed_rows(args))
    say("import times")
    imports = import_times(args)
    extra = imports["keras_cvt"] - imports["keras"]
    say("first predictions")
    first = first_prediction_times(args)
    lines += [
        "",
        *table(
            ("start-up", "seconds"),
            (
                ("`import keras`", f"{imports['keras']:.2f}"),
                (
                    "`import keras_cvt`",
                    f"{imports['keras_cvt']:.2f} ({extra:+.2f}, "
                    f"{imports['keras_cvt'] / imports['keras']:.2f} x)",
                ),
                *(
                    (f"process start to first prediction, {name}", f"{seconds:.2f}")
                    for name, seconds in first.items()
                ),
            ),
        ),
    ]
    return "\n".join(lines) + "\n"


def table(header, rows):
    yield "| " + " | ".join(header) + " |"
    yield "|" + "---|" * len(header)
    for row in rows:
        yield "| " + " | ".join(map(str, row)) + " |"


def image_gflop(args):
    """Return the operations of one image: two for each multiply-accumulate."""
    from keras_cvt import config, profile

    size = args.image_size
    return 2 * profile.macs(getattr(config, MODELS[args.model][1]), size, size) / 1e9


def command_line():
    return shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])


def processor():
    model, flags = platform.processor() or platform.machine(), set()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                model = value.strip()
            elif key.strip() == "flags":
                flags = set(value.split())
    wanted = ("avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile")
    found = [flag for flag in wanted if flag in flags]
    return f"{model}, {os.cpu_count()} CPUs, {' '.join(found) or 'flags unknown'}"


def versions(packages=PACKAGES):
    found = [f"Python {platform.python_version()}"]
    for package in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found.append(f"{package} {importlib.metadata.version(package)}")
    return ", ".join(found)


def settings(args):
    one_dnn = os.environ.get("TF_ENABLE_ONEDNN_OPTS", "unset")
    return (
        f"{args.threads} threads (TensorFlow intra-op and inter-op, torch); "
        f"TF_ENABLE_ONEDNN_OPTS {one_dnn}; random weights; medians over "
        f"{args.rounds} rounds, the contenders' turns interleaved; predict runs over "
        f"{args.images} images"
    )


def say(text):
    print(text, file=sys.stderr, flush=True)


def arguments(description):
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--model", choices=MODELS, default="cvt13")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument(
        "--seconds", type=float, default=2.0, help="a turn lasts at least this long"
    )
    parser.add_argument(
        "--images", type=int, default=64, help="that one predict runs over"
    )
    parser.add_argument(
        "--imports", type=int, default=7, help="processes for each start-up time"
    )
    parser.add_argument("--output", type=Path, help="file that the report joins")
    parser.add_argument(
        "--quiet", action="store_true", help="drop what the processes print"
    )
    for hidden in ("--worker", "--config-file"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    parser.add_argument("--batch-size", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


def main():
    args = arguments(__doc__.splitlines()[0])
    if args.worker:
        work(args, {**CONTENDERS, **MATMULS})
        return
    run(args, report)


def run(args, report):
    """Set this process up, and print and keep what `report(args)` returns."""
    os.environ.update(environment(args.threads))
    sys.path.insert(0, os.environ["PYTHONPATH"])
    from keras_cvt import config

    with tempfile.TemporaryDirectory() as folder:
        # A file, so that transformers' processes need not import Keras.
        args.config_file = str(Path(folder) / "config.json")
        ours = getattr(config, MODELS[args.model][1])
        Path(args.config_file).write_text(
            json.dumps(ours.to_transformers(image_size=args.image_size))
        )
        text = report(args)
    keep(text, args.output)


def keep(text, output):
    """Print a report, and let it join a file if there is one."""
    print(text)
    if output:
        with output.open("a", encoding="utf-8") as file:
            file.write("\n" + text)


if __name__ == "__main__":
    main()
