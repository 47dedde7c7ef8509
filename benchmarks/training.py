"""Training on the CPU: keras_cvt beside transformers' PyTorch CvT.

Each contender trains on random images in a process of its own, with AdamW,
cross-entropy and drop path 0.1. A round runs every contender once, so that other load
on the machine affects all of them. Speeds are those of whole steps after the first
ones. Ratios are medians of the rounds' ratios.

    python benchmarks/training.py --output benchmarks/RESULTS.md
"""

import argparse
import datetime
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

BASELINE = "transformers"
WARM_UP = 2


def keras_cvt_steps(args):
    """Train with `fit`. Return the seconds of each step; the first includes set-up."""
    if os.environ["KERAS_BACKEND"] == "tensorflow":
        networks.tensorflow(args.threads)
    import keras
    import numpy as np
    import tensorflow as tf

    import keras_cvt
    from keras_cvt import training

    training.set_precision(args.precision)
    model = getattr(keras_cvt, networks.MODELS[args.model][0])(
        weights=None, classifier_activation=None
    )
    recipe = training.PRETRAINING[args.model]
    recipe.compile(model, args.batch_size, steps_per_epoch=1000)
    images = networks.pixels(args.batch_size, args.image_size)
    labels = np.eye(1000, dtype="float32")[: args.batch_size]
    batches = tf.data.Dataset.from_tensors((images, labels)).repeat()
    ends = []
    watch = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: ends.append(time.perf_counter())
    )
    start = time.perf_counter()
    model.fit(
        batches,
        steps_per_epoch=args.steps,
        callbacks=[watch],
        shuffle=False,
        verbose=0,
    )
    return [b - a for a, b in zip([start, *ends], ends, strict=False)]


def keras_cvt_torch_steps(args):
    """Train with `fit` on PyTorch."""
    networks.use_backend("torch")
    import torch

    torch.set_num_threads(args.threads)
    return keras_cvt_steps(args)


def keras_cvt_jax_steps(args):
    """Train with `fit` on JAX."""
    networks.use_backend("jax")
    return keras_cvt_steps(args)


def transformers_steps(args):
    """Train with a plain PyTorch loop. Return the seconds of each step."""
    import torch

    model = networks.transformers_model(args).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05)
    loss_of = torch.nn.CrossEntropyLoss(label_smoothing=0.1)
    images = torch.from_numpy(networks.pixels(args.batch_size, args.image_size) / 255)
    images = images.permute(0, 3, 1, 2).contiguous()
    labels = torch.arange(args.batch_size)
    low = args.precision == "bfloat16"
    times = []
    for _ in range(args.steps):
        start = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            loss = loss_of(model(images).logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()
        times.append(time.perf_counter() - start)
    return times


CONTENDERS = {
    "keras_cvt": keras_cvt_steps,
    "keras_cvt on PyTorch": keras_cvt_torch_steps,
    "keras_cvt on JAX": keras_cvt_jax_steps,
    BASELINE: transformers_steps,
}


def work(args):
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # Keep what libraries print out of the replies.
    times = CONTENDERS[args.worker](args)
    peak = reports.peak_memory()
    json.dump({"times": times, "memory": peak}, replies)
    replies.close()


def start(name, precision, args):
    """Run a contender; return its images per second, first step and peak memory."""
    options = {
        "worker": name,
        "precision": precision,
        "model": args.model,
        "image-size": args.image_size,
        "batch-size": args.batch_size,
        "threads": args.threads,
        "steps": args.steps,
        "config-file": args.config_file,
    }
    command = [sys.executable, __file__]
    command += [f"--{option}={value}" for option, value in options.items()]
    output = subprocess.run(
        command,
        check=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL if args.quiet else None,
        env=interleaved.environment(args.threads),
    ).stdout
    found = json.loads(output)
    return {
        "speed": args.batch_size / statistics.median(found["times"][WARM_UP:]),
        "first": found["times"][0],
        "memory": found["memory"] / 2**20,
    }


def rows(args):
    names = [(name, precision) for precision in args.precisions for name in CONTENDERS]
    seen = {name: [] for name in names}
    for i in range(args.rounds):
        for name in names if i % 2 == 0 else reversed(names):
            seen[name].append(start(*name, args))
            reports.say(f"round {i + 1} of {args.rounds}: {name} {seen[name][-1]}")
    baseline = seen[BASELINE, args.precisions[0]]
    for (name, precision), found in seen.items():
        cells = [name, precision]
        for key, form in (
            ("speed", "{:.2f}"),
            ("first", "{:.1f}"),
            ("memory", "{:.0f}"),
        ):
            pairs = zip(found, baseline, strict=True)
            ratio = statistics.median(ours[key] / theirs[key] for ours, theirs in pairs)
            cells += [
                form.format(statistics.median(round_[key] for round_ in found)),
                f"{ratio:.2f}",
            ]
        yield cells


def report(args):
    columns = ["contender", "precision"]
    for title in ("images/s", "first step, s", "peak memory, MiB"):
        columns += [title, f"x {BASELINE}"]
    lines = [
        f"## Training steps: {args.model} at {args.image_size}, batch "
        f"{args.batch_size} ({datetime.date.today()})",
        "",
        f"`{reports.command_line()}`",
        "",
        f"- {reports.processor()}",
        f"- {reports.versions()}",
        f"- {args.threads} threads (TensorFlow intra-op and inter-op, torch); medians "
        f"over {args.rounds} rounds of {args.steps - WARM_UP} steps each; ratios to "
        f"{BASELINE} in {args.precisions[0]}",
        "",
        *reports.table(columns, rows(args)),
    ]
    return "\n".join(lines) + "\n"


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=networks.MODELS, default="cvt13")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument(
        "--precisions", nargs="+", default=["float32", "bfloat16"], metavar="NAME"
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=8, help="of each process")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, help="file that the report joins")
    parser.add_argument(
        "--quiet", action="store_true", help="drop what the processes print"
    )
    for hidden in ("--worker", "--config-file", "--precision"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    return parser.parse_args()


def main():
    args = arguments()
    if args.worker:
        work(args)
        return
    interleaved.run(args, report)


if __name__ == "__main__":
    main()
