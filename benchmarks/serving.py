"""HTTP servers under load: keras_cvt on Ray Serve, beside servers without Ray.

Requests come when they come, also while earlier ones wait (an open loop, with
exponential gaps). A latency starts when the request was due.

    python benchmarks/serving.py --output benchmarks/RESULTS.md
    python benchmarks/serving.py --hold 240     # one in a hundred requests is hostile

The second holds 70 % of the measured capacity, checks every answer and the memory of
the process that answers, and then doubles the capacity.
"""

import argparse
import asyncio
import collections
import contextlib
import datetime
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from networks import MODELS
from reports import command_line, keep, processor, say, table, versions
from serving_load import (
    closed_loop,
    count_wrong,
    hostile,
    open_loop,
    others,
    percentiles,
    span,
)
from serving_servers import OURS, SERVERS

OUR_PACKAGES = ("keras", "tensorflow-cpu", "ray", "torch", "transformers", "openvino")
PHOTOS = 32


def arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=("small", *MODELS), default="cvt13")
    parser.add_argument("--contenders", nargs="+", choices=SERVERS, default=SERVERS)
    parser.add_argument(
        "--rates", type=float, nargs="+", default=[5, 15, 25, 50], help="requests/s"
    )
    parser.add_argument("--seconds", type=float, default=12.0, help="for each rate")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--hold", type=float, metavar="SECONDS", help="hold a load on the first"
    )
    parser.add_argument("--note", help="what else ran on the machine")
    parser.add_argument("--output", type=Path, help="append the report to this file")
    parser.add_argument("--server", help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--files", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


# ---------------------------------------------------------------- files


def write_files(args, folder):
    """Write the networks and the photos; return the photos' bytes and right answers."""
    import keras
    import numpy as np

    import keras_cvt
    from keras_cvt import CvTConfig, StageConfig, config, deploy
    from keras_cvt.inference import classifier_of
    from keras_cvt.preprocessing import EvalTransform

    keras.utils.set_random_seed(0)
    if args.model == "small":
        ours = CvTConfig(
            (
                StageConfig(32, 1, 1, 7, 4, 2),
                StageConfig(64, 2, 2, 3, 2, 1, cls_token=True),
            )
        )
        model, size = keras_cvt.CvT(ours), 96
        model.eval_transform = EvalTransform((size, size), 0.875)
    else:
        builder, name = MODELS[args.model]
        ours, size = getattr(config, name), 224
        model = getattr(keras_cvt, builder)(weights=None)
    # Scores that differ between classes and images.
    head = model.get_layer("head")
    rng = np.random.default_rng(1)
    head.kernel.assign(rng.normal(0, 0.5, head.kernel.shape))
    model.save(folder / "model.keras")
    if f"{OURS}, OpenVINO file" in args.contenders:
        deploy.export(model, folder / "model.xml")
    if any("SavedModel" in name for name in args.contenders):
        deploy.export(model, folder / "model_folder")
    settings = json.dumps(ours.to_transformers(image_size=size))
    (folder / "transformers.json").write_text(settings)

    photos = []
    for index in range(PHOTOS):
        path = folder / f"photo{index:02}.jpg"
        photograph(index).save(path, quality=90)
        photos.append(path.read_bytes())
    classifier = classifier_of(folder / "model.keras")
    paths = sorted(folder.glob("photo*.jpg"))
    pixels = keras_cvt.preprocess_input(paths, classifier)
    expected = classifier.best(classifier.scores(pixels, args.batch_size), 5)
    return photos, expected


def photograph(seed, size=(500, 375)):
    """Return a picture with the sizes and about the bytes of ImageNet's."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (15, 20, 3), "uint8")
    pixels = np.asarray(Image.fromarray(coarse).resize(size, 3), "float32")
    pixels = pixels + rng.normal(0, 6, pixels.shape)
    return Image.fromarray(np.clip(pixels, 0, 255).astype("uint8"))


# ---------------------------------------------------------------- processes


@contextlib.contextmanager
def started(name, args, folder):
    """Start a server; yield its process and port."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    command = [sys.executable, sys.argv[0], "--server", name, "--port", str(port)]
    command += ["--files", str(folder), "--threads", str(args.threads)]
    command += ["--batch-size", str(args.batch_size), "--model", args.model]
    say(f"starting {name}")
    with open(folder / "errors.txt", "w+") as errors:
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=environment(args.threads),
            start_new_session=True,
        )
        try:
            for line in process.stdout:
                if line.strip() == "ready":
                    break
            else:
                errors.seek(0)
                raise SystemExit(f"{name} did not start:\n{errors.read()[-3000:]}")
            yield process, port
        finally:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(60)
            for pid in session_processes(process.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.wait()


def environment(threads):
    return os.environ | {
        "KERAS_BACKEND": "tensorflow",
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "OMP_NUM_THREADS": str(threads),
        "TF_NUM_INTRAOP_THREADS": str(threads),
        "TF_NUM_INTEROP_THREADS": str(threads),
        "RAY_USAGE_STATS_ENABLED": "0",
        "PYTHONPATH": str(Path(__file__).resolve().parents[1]),
    }


def session_processes(leader):
    """Return the processes that a server started, found by their session."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if os.getsid(int(entry.name)) == leader:
                found.append(int(entry.name))
    return found


def replica_of(leader):
    """Return the process of a Ray Serve server that holds the network."""
    for pid in session_processes(leader):
        with contextlib.suppress(OSError):
            title = Path(f"/proc/{pid}/cmdline").read_bytes()
            if title.startswith(b"ray::ServeReplica"):
                return pid
    raise SystemExit("There is no replica.")


def cpu_seconds(leader):
    """Return the processor time of a server's processes so far, in seconds."""
    ticks = 0
    for pid in session_processes(leader):
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])  # user, system
    return ticks / os.sysconf("SC_CLK_TCK")


def memory(pid):
    """Return the resident memory of a process in MiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise SystemExit(f"Process {pid} has ended.")


# ---------------------------------------------------------------- reports


def compare(args, folder, photos, expected):
    """Return the lines of a table of all contenders at all rates."""
    rows = []
    for name in args.contenders:
        with started(name, args, folder) as (process, port):
            asyncio.run(closed_loop(port, photos, args.seconds / 2))
            before = cpu_seconds(process.pid)
            capacity = asyncio.run(closed_loop(port, photos, args.seconds))
            used = cpu_seconds(process.pid) - before
            cost = f"{1000 * used / (capacity * args.seconds):.0f}"
            for rate in args.rates:
                answers = asyncio.run(
                    open_loop(port, photos, range(len(photos)), rate, args.seconds)
                )
                wrong = count_wrong(answers, expected) if name.startswith(OURS) else 0
                if wrong:
                    raise SystemExit(f"{name}: {wrong} wrong answers")
                good = sum(a.status == 200 for a in answers)
                served = f"{good / span(answers):.1f}"
                rows.append(
                    (name, f"{capacity:.1f}", cost, f"{rate:g}", served)
                    + (others(answers), *percentiles(answers))
                )
                say(" | ".join(rows[-1]))
    header = (
        "server",
        "most answers/s, 16 clients",
        "CPU, ms an answer",
        "requests/s",
        "answers/s",
        "others",
        "p50, ms",
        "p95, ms",
        "p99, ms",
    )
    return list(table(header, rows))


async def hold(args, process, port, photos, expected):
    """Hold a load with hostile requests, then twice the capacity."""
    bad = hostile(photos[0])
    bodies = photos + [body for body, _ in bad.values()]
    # A hundredth of the choices is hostile.
    places = list(range(len(photos))) * (99 * len(bad) // len(photos) + 1)
    places = places[: 99 * len(bad)] + list(range(len(photos), len(bodies)))
    pid = replica_of(process.pid)
    await closed_loop(port, photos, 5)
    capacity = await closed_loop(port, photos, 10)
    rate = 0.7 * capacity
    seen = []

    async def watch():
        while True:
            seen.append((time.perf_counter(), memory(pid)))
            await asyncio.sleep(1)

    watching = asyncio.create_task(watch())
    say(f"capacity {capacity:.1f}/s, holding {rate:.1f}/s for {args.hold:.0f} s")
    answers = await open_loop(port, bodies, places, rate, args.hold)
    held = len(seen)
    say(f"twice the capacity, {2 * capacity:.1f}/s")
    double = await open_loop(
        port, photos, range(len(photos)), 2 * capacity, args.hold / 6, seed=1
    )
    after = await open_loop(port, photos, range(len(photos)), 2, 10, seed=2)
    watching.cancel()

    rows = []
    for title, part, offered in (
        ("70 % of the capacity, 1 % hostile", answers, rate),
        ("twice the capacity", double, 2 * capacity),
        ("then 2 a second", after, 2),
    ):
        shown = [a for a in part if a.index < len(photos)]
        rows.append(
            (title, f"{offered:.1f}", len(shown), others(shown))
            + (*percentiles(shown), count_wrong(shown, expected))
        )
    header = ("load", "requests/s", "photos", "not 200")
    header += ("p50, ms", "p95, ms", "p99, ms", "wrong answers")
    lines = [f"Capacity with 16 clients: {capacity:.1f} photos a second.", ""]
    lines += [*table(header, rows), ""]
    rows = []
    unexpected = 0
    for place, (name, (_, allowed)) in enumerate(bad.items(), len(photos)):
        got = [a for a in answers if a.index == place]
        counts = collections.Counter(a.status for a in got)
        unexpected += sum(n for s, n in counts.items() if s not in allowed | {503})
        slowest = max((a.latency for a in got), default=0)
        rows.append((name, len(got), dict(counts), f"{1000 * slowest:.0f}"))
    lines += [*table(("hostile request", "sent", "statuses", "slowest, ms"), rows), ""]
    sixths = [seen[held * i // 6 : held * (i + 1) // 6] for i in range(6)]
    means = ", ".join(f"{statistics.mean(m for _, m in f):.0f}" for f in sixths if f)
    peak = max(m for _, m in seen)
    same = "the same" if replica_of(process.pid) == pid else "ANOTHER"
    lines += [
        f"Memory of the replica in MiB, means of the sixths of the held load: {means}. "
        f"Highest ever: {peak:.0f}; at the end: {memory(pid):.0f}. "
        f"The replica is {same} process. "
        f"Unexpected statuses of hostile requests: {unexpected}."
    ]
    return lines


def report(args):
    os.environ.update(environment(args.threads))
    sys.path.insert(0, os.environ["PYTHONPATH"])
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        photos, expected = write_files(args, folder)
        if args.hold:
            name = next(iter(args.contenders))
            with started(name, args, folder) as (process, port):
                body = asyncio.run(hold(args, process, port, photos, expected))
        else:
            body = compare(args, folder, photos, expected)
    kilobytes = statistics.mean(map(len, photos)) / 1000
    return "\n".join(
        [
            f"## Servers, {args.model} ({datetime.date.today()})",
            "",
            f"`{command_line()}`",
            "",
            f"- {processor()}",
            f"- {versions(OUR_PACKAGES)}",
            f"- {args.threads} threads for each network, batches of {args.batch_size}; "
            f"random weights; JPEGs of 500 x 375 and {kilobytes:.0f} kB on average; "
            "client and server share the processors",
            *([f"- {args.note}"] if args.note else []),
            "",
            *body,
            "",
        ]
    )


def main():
    args = arguments()
    if args.server:
        SERVERS[args.server](args)
        return
    # So that the servers end too if somebody ends this program.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    keep(report(args), args.output)


if __name__ == "__main__":
    main()
