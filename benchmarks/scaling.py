"""How cost grows with resolution, with batch and with the keys' stride, on the CPU.

Each point is a process of its own, one at a time, so that its peak memory is the
point's. MACs are counted by `keras_cvt.profile`; those of the attention's two products
grow with the square of the image's area, and the paper's stage 1 (`stage0`), whose map
is the largest, has most of them. `stride_kv` divides them by its square (the published
networks have 2).

    python benchmarks/scaling.py --output benchmarks/RESULTS.md --plot scaling.png
    python benchmarks/scaling.py --resolutions 64 128 --batch-sizes 1 2 --rounds 1
"""

import argparse
import contextlib
import datetime
import functools
import math
import statistics
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import interleaved
import networks
import reports
import scaling_plot

STRIDES = (1, 2, 4)
PUBLISHED = 2
COMPILED = "compiled call"
LITERT = "LiteRT"
PREPARATION = "export"
PACKAGES = (*reports.PACKAGES, "ai-edge-litert")


def contender(stride):
    return COMPILED if stride == PUBLISHED else f"{COMPILED}, stride_kv {stride}"


@dataclass(frozen=True)
class Point:
    """What one process measured; `seconds` is of a call, None where it did not run."""

    name: str
    size: int
    batch: int
    stride: int
    macs: "Macs"
    seconds: tuple[float, ...] = ()
    memory: int | None = None
    remark: str = ""

    @property
    def milliseconds(self):
        """Of an image; not a number where it did not run."""
        seconds = statistics.median(self.seconds) if self.seconds else math.nan
        return 1000 * seconds / self.batch


@dataclass(frozen=True)
class Macs:
    """Multiply-adds of an image."""

    first_attention: int
    other_attention: int
    rest: int

    @property
    def total(self):
        return self.first_attention + self.other_attention + self.rest


# ---------------------------------------------------------------- what is counted


def config_of(args, stride):
    from keras_cvt import config

    published = getattr(config, networks.MODELS[args.model][1])
    stages = [replace(stage, stride_kv=stride) for stage in published.stages]
    return replace(published, stages=tuple(stages))


def macs_of(args, size, stride):
    from keras_cvt import profile

    parts = profile.profile(config_of(args, stride), size, size)
    first, *others = (part.attention_macs for part in parts)
    total = sum(part.macs for part in parts)
    return Macs(first, sum(others), total - first - sum(others))


def score_bytes(args, size, batch, stride):
    """Return the bytes of stage 1's attention scores and their softmax, in float32."""
    stage = config_of(args, stride).stages[0]
    per_score = 2 * stage.embed_dim  # of MACs
    scores = macs_of(args, size, stride).first_attention / per_score / stage.depth
    return 2 * 4 * batch * stage.num_heads * scores


def free_bytes():
    with contextlib.suppress(OSError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return math.inf


# ---------------------------------------------------------------- contenders


def compiled(args, stride):
    networks.tensorflow(args.threads)
    import keras_cvt

    return networks.compiled_call(args, keras_cvt.CvT(config_of(args, stride)))


def litert(args):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(litert_file(args)), num_threads=args.threads)
    runner = interpreter.get_signature_runner("serving_default")
    images = networks.pixels(args.batch_size, args.image_size)
    return lambda: runner(images=images), args.batch_size


def litert_file(args):
    folder = Path(args.config_file).parent
    return folder / f"{args.image_size}x{args.batch_size}.tflite"


def export(args):
    import keras_cvt

    keras_cvt.deploy.export(
        networks.keras_model(args),
        litert_file(args),
        "litert",
        batch_size=args.batch_size,
        image_size=(args.image_size,) * 2,
    )


CONTENDERS = {
    **{contender(s): functools.partial(compiled, stride=s) for s in STRIDES},
    LITERT: litert,
}


# ---------------------------------------------------------------- measuring


def measure(args, name, size, batch, stride=PUBLISHED):
    """Return a point, measured in a process that ends with it."""
    args = argparse.Namespace(**vars(args) | {"image_size": size})
    point = Point(name, size, batch, stride, macs_of(args, size, stride))
    what = f"{name} at {size}, batch {batch}"
    needed = score_bytes(args, size, batch, stride)
    if needed > 0.8 * free_bytes():
        remark = f"not run: scores take {needed / 2**30:.0f} GiB"
        reports.say(f"{what}: {remark}")
        return replace(point, remark=remark)
    reports.say(what)
    try:
        if name == LITERT:
            prepare(args, batch)
        with contextlib.closing(interleaved.Worker(name, args, batch)) as worker:
            speeds = [worker.ask("measure") for _ in range(args.rounds)]
            memory = worker.ask("quit")
    except (SystemExit, subprocess.CalledProcessError) as error:
        reports.say(str(error))
        return replace(point, remark="died")
    return replace(point, seconds=tuple(batch / s for s in speeds), memory=memory)


def prepare(args, batch):
    subprocess.run(
        [sys.executable, sys.argv[0], "--worker", PREPARATION, "--model", args.model]
        + ["--image-size", str(args.image_size), "--batch-size", str(batch)]
        + ["--threads", str(args.threads), "--config-file", args.config_file],
        check=True,
        env=interleaved.environment(args.threads),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL if args.quiet else None,
    )


def sweeps(args):
    """Return the points by resolution, by batch and by stride."""
    names = [COMPILED] if args.no_litert else [COMPILED, LITERT]
    seen = {}

    def point(name, size, batch, stride=PUBLISHED):
        key = name, size, batch
        if key not in seen:
            seen[key] = measure(args, name, size, batch, stride)
        return seen[key]

    sizes, batches = args.resolutions, args.batch_sizes
    return {
        "resolution": [point(n, size, 1) for n in names for size in sizes],
        "batch": [point(n, args.image_size, b) for n in names for b in batches],
        "stride_kv": [point(contender(s), z, 1, s) for s in STRIDES for z in sizes],
    }


# ---------------------------------------------------------------- report

HEADER = (
    "contender",
    "size",
    "batch",
    "stride_kv",
    "GMACs an image",
    "stage 1's attention",
    "other attention",
    "the rest",
    "ms an image",
    "min-max",
    "GMAC/s",
    "peak memory, MiB",
)


def row(point):
    macs = point.macs
    parts = (macs.first_attention, macs.other_attention, macs.rest)
    cells = [point.name, point.size, point.batch, point.stride]
    cells.append(f"{macs.total / 1e9:.2f}")
    cells += [f"{part / 1e9:.2f} ({part / macs.total:.0%})" for part in parts]
    if point.remark:
        return [*cells, point.remark, "", "", ""]
    each = [1000 * seconds / point.batch for seconds in point.seconds]
    return [
        *cells,
        f"{point.milliseconds:.1f}",
        f"{min(each):.1f}-{max(each):.1f}",
        f"{macs.total / 1e6 / point.milliseconds:.1f}",
        f"{point.memory / 2**20:.0f}",
    ]


def bought(points):
    """Yield what each stride's time and MACs are beside the published stride's."""
    published = {p.size: p for p in points if p.stride == PUBLISHED}
    for point in points:
        other = published[point.size]
        yield (
            point.size,
            point.stride,
            f"{point.macs.total / other.macs.total:.2f}",
            point.remark or f"{point.milliseconds / other.milliseconds:.2f}",
            f"{point.memory / other.memory:.2f}"
            if point.memory and other.memory
            else "",
        )


def report(args):
    found = sweeps(args)
    if args.plot:
        scaling_plot.draw(found, args.plot, COMPILED, PUBLISHED)
    points = list(dict.fromkeys(p for points in found.values() for p in points))
    by_size = sorted(found["stride_kv"], key=lambda p: (p.size, p.stride))
    titles = ("size", "stride_kv", "x MACs", "x time", "x peak memory")
    lines = [
        f"## {datetime.date.today()}: how the cost of {args.model} grows",
        "",
        f"`{reports.command_line()}`",
        "",
        f"- {reports.processor()}",
        f"- {reports.versions(PACKAGES)}",
        f"- {args.threads} threads; random weights; medians over {args.rounds} rounds, "
        "a process for each point, one after the other; peak memory is the process's, "
        "libraries and weights included",
        "",
        *reports.table(HEADER, map(row, points)),
        "",
        f"What the keys' stride buys, batch 1, beside `stride_kv={PUBLISHED}`:",
        "",
        *reports.table(titles, bought(by_size)),
    ]
    if args.plot:
        lines += ["", f"![How the cost grows]({args.plot.name})"]
    return "\n".join(lines) + "\n"


def add_arguments(parser):
    parser.set_defaults(batch_sizes=[1, 2, 4, 8, 16], rounds=3)
    parser.add_argument(
        "--resolutions",
        type=int,
        nargs="+",
        default=[224, 384, 512, 768, 1024],
        help="in pixels, at batch 1; --batch-sizes run at --image-size",
    )
    parser.add_argument("--plot", type=Path, help="PNG file that is drawn")
    parser.add_argument(
        "--no-litert", action="store_true", help="leave LiteRT's line out"
    )


def main():
    args = interleaved.arguments(__doc__.splitlines()[0], add_arguments)
    if args.worker == PREPARATION:
        export(args)
    elif args.worker:
        # Where memory ends, this process is the one to go.
        with contextlib.suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text("1000")
        interleaved.work(args, CONTENDERS)
    else:
        interleaved.run(args, report)


if __name__ == "__main__":
    main()
