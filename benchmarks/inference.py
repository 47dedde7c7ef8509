"""Inference on the CPU: keras_cvt beside transformers' PyTorch CvT.

`interleaved.py` measures in rounds. A speed is the median of its rounds. A ratio is the
median of the ratios within each round.

    python benchmarks/inference.py --output benchmarks/RESULTS.md
"""

import datetime
import os
import statistics
import subprocess
import sys
import time

import interleaved
import networks
from reports import command_line, processor, say, table, versions

BASELINES = ("transformers eager", "transformers torch.compile")
MATMUL_SIZE = 2048


# ---------------------------------------------------------------- contenders


def keras_cvt_predict(args):
    """Return `model.predict` on a set of images in memory."""
    model = networks.keras_model(args)
    images = networks.pixels(args.images, args.image_size)
    return (
        lambda: model.predict(images, batch_size=args.batch_size, verbose=0),
        args.images,
    )


def transformers_compiled(args):
    """Return transformers' model under `torch.compile` and `inference_mode`."""
    import torch

    return networks.torch_run(args, torch.compile(networks.transformers_model(args)))


def transformers_tuned(args):
    """Return transformers' model compiled with frozen weights and `max-autotune`."""
    os.environ["TORCHINDUCTOR_FREEZING"] = "1"
    import torch

    model = networks.transformers_model(args)
    return networks.torch_run(args, torch.compile(model, mode="max-autotune"))


def matmul_tensorflow(args):
    """Return one large matrix product, which shows the processor's peak rate."""
    tf = networks.tensorflow(args.threads)
    x = tf.random.normal((MATMUL_SIZE, MATMUL_SIZE))
    function = tf.function(tf.matmul)
    return lambda: function(x, x).numpy(), 1


def matmul_torch(args):
    """Return the same matrix product in PyTorch."""
    import torch

    torch.set_num_threads(args.threads)
    x = torch.randn(MATMUL_SIZE, MATMUL_SIZE)
    return lambda: x @ x, 1


def matmul_jax(args):
    """Return the same matrix product in JAX."""
    import jax

    x = jax.random.normal(jax.random.key(0), (MATMUL_SIZE, MATMUL_SIZE))
    function = jax.jit(jax.numpy.matmul)
    return lambda: function(x, x).block_until_ready(), 1


CONTENDERS = {
    "keras_cvt compiled call": networks.keras_cvt_call,
    "keras_cvt predict": keras_cvt_predict,
    "keras_cvt on PyTorch": networks.keras_cvt_torch,
    "keras_cvt on PyTorch, compiled": networks.keras_cvt_torch_compiled,
    "keras_cvt on JAX, compiled": networks.keras_cvt_jax,
    "transformers eager": networks.transformers_eager,
    "transformers torch.compile": transformers_compiled,
    "transformers torch.compile, tuned": transformers_tuned,
}
MATMULS = {"TensorFlow": matmul_tensorflow, "torch": matmul_torch, "JAX": matmul_jax}


def runtime(contender):
    """Return the name in `MATMULS` of a contender's runtime."""
    if "PyTorch" in contender or "transformers" in contender:
        return "torch"
    return "JAX" if "JAX" in contender else "TensorFlow"


# ---------------------------------------------------------------- start-up

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


def import_times(args):
    """Return the median seconds of `import keras` and of `import keras_cvt`."""
    times = {"keras": [], "keras_cvt": []}
    for _ in range(args.imports):
        for module, seen in times.items():
            output = python(args, _IMPORT.format(module=module))
            seen.append(float(output.split()[-1]))
    return {module: statistics.median(seen) for module, seen in times.items()}


def first_prediction_times(args):
    """Return the median seconds of a process that predicts once, for each library."""
    times = {name: [] for name in _FIRST}
    for _ in range(args.imports):
        for name, seen in times.items():
            program = _FIRST[name].format(
                builder=networks.MODELS[args.model][0],
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
        env=interleaved.environment(args.threads),
    ).stdout


# ---------------------------------------------------------------- report


def speed_rows(args, limits):
    for batch_size in args.batch_sizes:
        speeds, memory = interleaved.compare(args, CONTENDERS, batch_size)
        for name, seen in speeds.items():
            spread = f"{min(seen):.1f}-{max(seen):.1f}"
            yield (
                name,
                batch_size,
                args.threads,
                f"{statistics.median(seen):.1f}",
                spread,
                f"{statistics.median(seen) / limits[runtime(name)]:.0%}",
                *interleaved.ratios(seen, speeds, BASELINES),
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
    speeds, _ = interleaved.compare(args, MATMULS)
    products = ", ".join(
        f"{name} {statistics.median(seen) * flops:.0f}" for name, seen in speeds.items()
    )
    gflop = networks.image_gflop(args)
    limits = {
        name: statistics.median(seen) * flops / gflop for name, seen in speeds.items()
    }
    lines += [
        f"- Product of two {MATMUL_SIZE} x {MATMUL_SIZE} matrices in this run: "
        f"{products} GFLOP/s. One image needs {gflop:.2f} GFLOP. The limit is the "
        "number of images that this rate of the contender's runtime allows.",
        "",
    ]
    header = (
        "contender",
        "batch",
        "threads",
        "images/s",
        "min-max",
        "of the limit",
        *(f"x {name}" for name in BASELINES),
        "peak memory, MiB",
    )
    lines += table(header, speed_rows(args, limits))
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


def settings(args):
    one_dnn = os.environ.get("TF_ENABLE_ONEDNN_OPTS", "unset")
    return (
        f"{args.threads} threads (TensorFlow intra-op and inter-op, torch); "
        f"TF_ENABLE_ONEDNN_OPTS {one_dnn}; random weights; medians over "
        f"{args.rounds} rounds, the contenders interleaved; predict runs over "
        f"{args.images} images"
    )


def main():
    args = interleaved.arguments(__doc__.splitlines()[0])
    if args.worker:
        interleaved.work(args, {**CONTENDERS, **MATMULS})
        return
    interleaved.run(args, report)


if __name__ == "__main__":
    main()
