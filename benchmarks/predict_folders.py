"""`keras-cvt predict` on folders: rate against the network's own, memory, kills, Ray.

    python benchmarks/predict_folders.py --images FOLDER --count 20000
    python benchmarks/predict_folders.py --images FOLDER --count 200 --model cvt13
    python benchmarks/predict_folders.py --images FOLDER --kills 5 --ray 1 2

The network has random weights; the default is small. Links to the images stand for
copies. The network's own rate is that of the same calls on images in memory.
"""

import argparse
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")


def resident_mib():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def set_threads(count):
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(count)
    tf.config.threading.set_inter_op_parallelism_threads(count)


def save_model(name, path):
    """Save a network with random weights."""
    import keras

    import keras_cvt

    keras.utils.set_random_seed(0)
    if name == "cvt13":
        model = keras_cvt.CvT13(weights=None)
    else:
        stages = keras_cvt.CvTConfig.from_json(Path(name))
        model = keras_cvt.CvT(stages, classes=10)
        model.eval_transform = keras_cvt.preprocessing.EvalTransform((32, 32), None)
    model.save(path)


def link_images(source, folder, count):
    files = sorted(p for p in Path(source).rglob("*") if p.is_file())
    folder.mkdir()
    for i in range(count):
        os.symlink(files[i % len(files)].resolve(), folder / f"{i:07}.jpg")


def measure_rate(classifier, folder, batch_size, out, rounds):
    """Compare `predict_files` with the network alone, in turn."""
    from keras_cvt.inference import image_paths, predict_files
    from keras_cvt.preprocessing.batches import file_batches

    batches = file_batches(image_paths([folder]), classifier, batch_size)
    held = [batch.images for batch, _ in zip(batches, range(16), strict=False)]
    classifier.scores(held[0], batch_size)
    rates, memory = {"network": [], "reading": [], "predict": []}, []
    for _ in range(rounds):
        start, done = time.perf_counter(), 0
        while time.perf_counter() - start < 5:
            done += len(classifier.scores(held[done % len(held)], batch_size))
        rates["network"].append(done / (time.perf_counter() - start))

        start, done = time.perf_counter(), 0
        for batch in file_batches(image_paths([folder]), classifier, batch_size):
            done += len(batch.images)
            if time.perf_counter() - start > 5:
                break
        rates["reading"].append(done / (time.perf_counter() - start))

        def progress(done, total, rows):
            memory.append(resident_mib())

        start = time.perf_counter()
        result = predict_files(
            classifier, [folder], out, batch_size=batch_size, progress=progress
        )
        rates["predict"].append(result.images / (time.perf_counter() - start))
        out.unlink()
    for name, values in rates.items():
        print(f"| {name} | {statistics.median(values):.1f} images/s |", flush=True)
    ratios = [p / n for p, n in zip(rates["predict"], rates["network"], strict=True)]
    print(f"| predict / network | {' '.join(f'{r:.2f}' for r in ratios)} |")
    quarter = len(memory) // 4
    print(
        f"| resident MiB after 1/4 and at the end | {memory[quarter]:.0f} "
        f"{memory[-1]:.0f} |",
        flush=True,
    )


def kill_and_resume(model, folder, count, batch_size, out, kills):
    """Kill the command at random moments; count the rows of each image."""
    words = ["predict", folder, "--model", model, "--output", out, "--resume"]
    words += ["--batch-size", batch_size]
    command = [sys.executable, "-m", "keras_cvt.cli", *map(str, words)]
    partial, draws, resumed = Path(f"{out}.partial"), random.Random(0), []
    for kill in range(kills):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=-3)
        goal = (kill + draws.random()) / kills * count
        while process.poll() is None:
            rows = partial.read_bytes().count(b"\n") - 1 if partial.exists() else 0
            if rows >= goal:
                process.send_signal(signal.SIGKILL)
                resumed.append(rows)
                break
            time.sleep(0.05)
        process.wait()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=-3)
    with open(out) as lines:
        names = [json.loads(line)["image"] for line in lines]
    expected = [str(folder / f"{i:07}.jpg") for i in range(count)]
    print(
        f"| killed {len(resumed)} times, after {resumed} rows | each image once, in "
        f"order: {names == expected} |",
        flush=True,
    )


def measure_ray(model, folder, batch_size, out, actors, threads):
    import ray

    from keras_cvt.inference import predict_with_ray

    if not ray.is_initialized():
        ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    start = time.perf_counter()
    predict_with_ray(
        model,
        [folder],
        out,
        actors=actors,
        cpus_per_actor=threads,
        batch_size=batch_size,
    )
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", required=True, help="folder of real photos")
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--model", default="examples/small_images.json")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--ray", type=int, nargs="*", default=[], help="actors")
    args = parser.parse_args()
    set_threads(args.threads)
    from keras_cvt.inference import classifier_of

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "images"
        model = Path(temporary) / "model.keras"
        link_images(args.images, folder, args.count)
        save_model(args.model, model)
        out = Path(temporary) / "out.jsonl"
        if args.rounds:
            classifier = classifier_of(model)
            measure_rate(classifier, folder, args.batch_size, out, args.rounds)
        if args.kills:
            kill_and_resume(model, folder, args.count, args.batch_size, out, args.kills)
        for actors in args.ray:
            threads = max(1, args.threads // actors)
            for count in sorted({args.count // 100, args.count // 10, args.count}):
                part = Path(temporary) / f"part{count}-{actors}"
                link_images(folder, part, count)
                shards = Path(temporary) / f"shards{count}-{actors}"
                size = args.batch_size
                seconds = measure_ray(model, part, size, shards, actors, threads)
                print(
                    f"| Ray, {actors} actors of {threads} threads | {count} images | "
                    f"{seconds:.1f} s |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
