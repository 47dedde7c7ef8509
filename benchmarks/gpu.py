"""Inference and training on a GPU: keras_cvt on JAX and PyTorch beside transformers.

Every cell is a process of its own, so that its peak memory is its own. Needs PyTorch,
JAX and transformers with support for the GPU, and no TensorFlow.

    python benchmarks/gpu.py --output benchmarks/RESULTS.md
    python benchmarks/gpu.py --models cvt13 --sizes 64 --batches 2 --seconds 0.1

The second line tries the program, on a GPU or without one.
"""

import argparse
import datetime
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import interleaved
import networks
import reports

WARM_UP = 3


def keras_worker(args):
    """Return a function that runs one batch, and one that returns the peak memory."""
    backend = "jax" if "JAX" in args.worker else "torch"
    networks.use_backend(backend)
    import keras

    import keras_cvt
    from keras_cvt import training
    from keras_cvt._utils import backend_operations

    if "without fused attention" in args.worker:
        backend_operations.has_fused_attention = lambda *_: False
    training.set_precision(args.precision)
    builder = getattr(keras_cvt, networks.MODELS[args.model][0])
    model = builder(weights=None, classifier_activation=None)
    images = networks.pixels(args.batch, args.size)
    if args.mode == "training":
        model.compile(
            keras.optimizers.AdamW(1e-3, 0.05),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )
        labels = [i % 1000 for i in range(args.batch)]
        labels = keras.ops.convert_to_tensor(labels)
        images = keras.ops.convert_to_tensor(images)
        return lambda: model.train_on_batch(images, labels), memory_of(backend)
    if backend == "jax":
        run, _ = networks.jax_call(model, images)
        return run, memory_of(backend)
    import torch

    images = keras.ops.convert_to_tensor(images)

    def run():
        with torch.inference_mode():
            model(images, training=False)
        synchronise(torch)

    return run, memory_of(backend)


def transformers_worker(args):
    """Return the same for transformers' model under `torch.compile` and `autocast`."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    args.threads, args.image_size = os.cpu_count(), args.size
    model = networks.transformers_model(args).to(device)
    compiled = torch.compile(model)
    images = torch.from_numpy(networks.pixels(args.batch, args.size) / 255)
    images = images.permute(0, 3, 1, 2).contiguous().to(device)
    labels = torch.arange(args.batch, device=device) % 1000
    low = torch.autocast(device, torch.bfloat16, enabled=args.precision == "bfloat16")
    if args.mode == "training":
        model.train()
        optimizer = torch.optim.AdamW(model.parameters(), 1e-3, weight_decay=0.05)
        loss_of = torch.nn.CrossEntropyLoss()

        def run():
            with low:
                loss = loss_of(compiled(images).logits, labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss.item()
    else:

        def run():
            with torch.inference_mode(), low:
                compiled(images)
            synchronise(torch)

    return run, memory_of("torch")


def synchronise(torch):
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def memory_of(backend):
    """Return a function that returns the peak memory in bytes: the GPU's if any."""
    if backend == "jax":
        import jax

        def peak():
            statistics = jax.devices()[0].memory_stats() or {}
            return statistics.get("peak_bytes_in_use") or reports.peak_memory()
    else:
        import torch

        def peak():
            on_gpu = torch.cuda.is_available()
            return (
                torch.cuda.max_memory_allocated() if on_gpu else reports.peak_memory()
            )

    return peak


CONTENDERS = {
    "keras_cvt on JAX": keras_worker,
    "keras_cvt on JAX, without fused attention": keras_worker,
    "keras_cvt on PyTorch": keras_worker,
    "keras_cvt on PyTorch, without fused attention": keras_worker,
    "transformers torch.compile": transformers_worker,
}
BASELINE = "transformers torch.compile"


def work(args):
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # Keep what libraries print out of the replies.
    run, peak = CONTENDERS[args.worker](args)
    start = time.perf_counter()
    run()
    first = time.perf_counter() - start
    for _ in range(WARM_UP):
        run()
    times, end = [], time.perf_counter() + args.seconds
    while len(times) < 5 or time.perf_counter() < end:
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    speed = args.batch / statistics.median(times)
    json.dump({"speed": speed, "first": first, "memory": peak()}, replies)
    replies.close()


def measure(args, name, mode, model, size, batch):
    """Return what a contender's process found, or None if it failed."""
    options = {
        "worker": name,
        "mode": mode,
        "model": model,
        "size": size,
        "batch": batch,
        "precision": args.precision,
        "seconds": args.seconds,
        "config-file": config_file(args, model, size),
    }
    command = [sys.executable, __file__]
    command += [f"--{option}={value}" for option, value in options.items()]
    # Otherwise JAX would take most of the GPU's memory at once.
    environment = {**os.environ, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    process = subprocess.run(command, capture_output=True, env=environment)
    reports.say(f"{mode} {model} {size} {batch} {name}: {process.stdout.decode()}")
    if process.returncode:
        reports.say(process.stderr.decode()[-2000:])
        return None
    return json.loads(process.stdout)


def config_file(args, model, size):
    from keras_cvt import config

    path = Path(args.config_file).with_name(f"{model}_{size}.json")
    ours = getattr(config, networks.MODELS[model][1])
    path.write_text(json.dumps(ours.to_transformers(image_size=size)))
    return path


def rows(args):
    for mode, model, size, batch in itertools.product(
        args.modes, args.models, args.sizes, args.batches
    ):
        found = {n: measure(args, n, mode, model, size, batch) for n in CONTENDERS}
        baseline = found[BASELINE]
        for name, cell in found.items():
            what = [mode, model, size, batch, name]
            if cell is None:
                yield [*what, "failed", "", "", ""]
                continue
            ratio = f"{cell['speed'] / baseline['speed']:.2f}" if baseline else ""
            memory = f"{cell['memory'] / 2**20:.0f}"
            yield [*what, f"{cell['speed']:.1f}", ratio, memory, f"{cell['first']:.1f}"]


def device():
    """Return the GPU's name, or the processor's."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"no GPU: {reports.processor()}"


def report(args):
    columns = ["mode", "model", "size", "batch", "contender", "images/s"]
    columns += [f"x {BASELINE}", "peak memory, MiB", "first call, s"]
    lines = [
        f"## On a GPU ({datetime.date.today()})",
        "",
        f"`{reports.command_line()}`",
        "",
        f"- {device()}",
        f"- {reports.versions()}",
        f"- {args.precision}; random weights and images; medians",
        "",
        *reports.table(columns, rows(args)),
    ]
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    models = ["cvt13", "cvt21"]
    parser.add_argument("--models", nargs="+", choices=networks.MODELS, default=models)
    parser.add_argument("--sizes", type=int, nargs="+", default=[224, 384])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 64, 256])
    modes = ["inference", "training"]
    parser.add_argument("--modes", nargs="+", choices=modes, default=modes)
    parser.add_argument("--precision", default="bfloat16")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--output", type=Path, help="file that the report joins")
    for hidden in ("--worker", "--config-file", "--mode", "--model"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    for hidden in ("--size", "--batch"):
        parser.add_argument(hidden, type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        work(args)
        return
    args.model, args.image_size, args.threads = "cvt13", 224, os.cpu_count()
    # Neither this process nor the workers need TensorFlow.
    os.environ.setdefault("KERAS_BACKEND", "torch")
    interleaved.run(args, report)


if __name__ == "__main__":
    main()
