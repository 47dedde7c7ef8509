"""Measure time and peak memory of `conversion/convert.py --all --dry-run`.

A server on the loopback acts as the Hub. Its checkpoints have the sizes and the layout
of the published ones, but random weights. All steps run: download, conversion,
comparison with transformers if it is installed, exports and their verification, card
and hashes. Needs Linux, and about 40 GB of disk for all seven with every export.

    python benchmarks/release.py --exports saved_model litert onnx \\
        --output benchmarks/RESULTS.md
    python benchmarks/release.py --only cvt13/imagenet
"""

import argparse
import contextlib
import datetime
import http.server
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from pathlib import Path

import reports

ROOT = Path(__file__).resolve().parents[1]
COMMIT = "0" * 40
ORGANISATION = "random-weights"
PACKAGES = (*reports.PACKAGES, "ai-edge-litert", "onnxruntime", "openvino")
# Seconds between two measurements of the memory.
SECONDS = 0.1


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--exports", nargs="+", default=[])
    parser.add_argument("--representative", nargs="+", default=[])
    parser.add_argument("--only", help="one of the seven, such as cvt13/imagenet")
    parser.add_argument("--folder", type=Path, help="where temporary files go")
    parser.add_argument("--output", type=Path, help="Markdown file to append to")
    args = parser.parse_args()

    from keras_cvt import zoo

    weights = [zoo.find(args.only)] if args.only else list(zoo.WEIGHTS)
    with contextlib.ExitStack() as stack:
        folder = Path(
            stack.enter_context(
                tempfile.TemporaryDirectory(dir=args.folder, prefix="release-")
            )
        )
        for model in {record.model for record in weights}:
            reports.say(f"writing random weights of {model}")
            write_random_weights(model, folder / f"{model}.safetensors")
        files = {w.repo: folder / f"{w.model}.safetensors" for w in weights}
        url = stack.enter_context(served(files))
        measured = run(args, weights, folder, url)
    reports.keep("\n".join(report(weights, *measured)), args.output)


# -------------------------------------------------------------- loopback Hub


def write_random_weights(model, path):
    """Write a checkpoint from another process, whose memory is not measured."""
    process = multiprocessing.get_context("spawn").Process(
        target=fill, args=(model, str(path))
    )
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit(f"The random weights of {model} could not be written.")


def fill(model, path):
    import numpy as np
    from safetensors.numpy import save_file

    from keras_cvt import builders, zoo
    from keras_cvt.checkpoints import layouts, state_dict

    state = state_dict.extract(builders.CvT(zoo.MODELS[model]))
    for key, array in state.items():
        # Layers of the same size get different values.
        rng = np.random.default_rng(zlib.crc32(key.encode()))
        values = rng.standard_normal(array.shape, dtype="float32")
        if key.endswith("running_var"):
            values = 0.5 + np.abs(values)
        elif array.ndim == 1:
            values = 0.1 * values + ("norm" in key and key.endswith("weight"))
        elif not key.endswith("cls_token"):
            values /= np.sqrt(np.prod(array.shape[1:]), dtype="float32")
        state[key] = values.astype("float32")
    save_file({layouts.to_transformers(key): a for key, a in state.items()}, path)


@contextlib.contextmanager
def served(files):
    """Serve {repository: model.safetensors}: as much of the Hub as a download needs."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            """Print nothing for a request."""

        def do_HEAD(self):
            self.do_GET()

        def do_GET(self):
            repo, _, name = self.path.lstrip("/").partition("/resolve/")
            if repo not in files or not name.endswith("/model.safetensors"):
                self.send_response(404)
                self.send_header("X-Error-Code", "EntryNotFound")
                self.send_header("Content-Length", "0")
                return self.end_headers()
            self.send_response(200)
            self.send_header("ETag", f'"{zlib.crc32(repo.encode()):064x}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("Content-Length", str(files[repo].stat().st_size))
            self.end_headers()
            if self.command == "GET":
                with files[repo].open("rb") as file:
                    shutil.copyfileobj(file, self.wfile)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


# -------------------------------------------------------------- measurement


def run(args, weights, folder, url):
    """Return the exit status, and the seconds and peak bytes of each release."""
    names = [record.repo.split("/")[1] for record in weights]
    command = [sys.executable, str(ROOT / "conversion" / "convert.py")]
    out = folder / "releases"
    records = [out / f"{name}.json" for name in names]
    if args.only:
        records = [out / f"{ORGANISATION}--{names[0]}.json"]
        command += [args.only, f"hf://{ORGANISATION}/{names[0]}"]
    else:
        command += ["--all", f"hf://{ORGANISATION}"]
    command += ["--dry-run", "--folder", str(out)]
    for option in ("exports", "representative"):
        if getattr(args, option):
            command += [f"--{option}", *getattr(args, option)]
    environment = {
        "KERAS_BACKEND": "tensorflow",
        "TF_CPP_MIN_LOG_LEVEL": "2",
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "HF_ENDPOINT": url,
        "HF_HOME": str(folder / "hf"),
        "HF_HUB_DISABLE_XET": "1",
        "KERAS_HOME": str(folder / "keras"),
    }
    process = subprocess.Popen(command, env=environment)
    peaks, ends = [0] * (len(weights) + 1), []
    start = time.perf_counter()
    while process.poll() is None:
        # A release has ended when its record exists. A failed one has no record: its
        # time and memory are added to those of the next.
        while len(ends) < len(records) and records[len(ends)].is_file():
            ends.append(time.perf_counter() - start)
            reports.say(f"{names[len(ends) - 1]} after {ends[-1]:.0f} s")
        peaks[len(ends)] = max(peaks[len(ends)], tree_memory(process.pid))
        time.sleep(SECONDS)
    total = time.perf_counter() - start
    while len(ends) < len(records) and records[len(ends)].is_file():
        ends.append(total)
    return process.returncode, ends, total, peaks


def tree_memory(root):
    """Return the resident bytes of a process and all its descendants."""
    parents, resident = {}, {}
    for status in Path("/proc").glob("[0-9]*/status"):
        with contextlib.suppress(OSError):
            fields = dict(
                line.split(":", 1) for line in status.read_text().splitlines()
            )
            pid = int(status.parent.name)
            parents[pid] = int(fields["PPid"])
            resident[pid] = 1024 * int(fields.get("VmRSS", "0 kB").split()[0])
    family, size = {root}, 0
    while len(family) != size:
        size = len(family)
        family |= {pid for pid, parent in parents.items() if parent in family}
    return sum(resident.get(pid, 0) for pid in family)


def report(weights, status, ends, total, peaks):
    from keras_cvt import profile, zoo

    yield f"## A release at true size ({datetime.date.today()})\n"
    yield f"`{reports.command_line()}`, {reports.versions(PACKAGES)},"
    yield f"{reports.processor()}. Random weights in transformers' layout, served on"
    yield "the loopback. Memory: resident bytes of the process and its children.\n"
    rows = []
    for i, end in enumerate(ends):
        parameters = profile.parameters(zoo.MODELS[weights[i].model])
        seconds = end - (ends[i - 1] if i else 0)
        size, peak = (f"{n / 2**20:.0f}" for n in (4 * parameters, peaks[i]))
        rows.append([weights[i].name, size, f"{seconds:.0f}", peak])
    rows.append(["all", "", f"{total:.0f}", f"{max(peaks) / 2**20:.0f}"])
    header = ["weights", "parameters, MiB", "seconds", "peak memory, MiB"]
    yield from reports.table(header, rows)
    if status or len(ends) < len(weights):
        yield f"\nEnded with status {status}: {len(ends)} of {len(weights)} done."


if __name__ == "__main__":
    main()
