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
import copy
import datetime
import io
import json
import os
import pickletools
import queue
import random
import struct
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import zipfile
from pathlib import Path

import reports

# Limits of one input. The files have less than 1 MB.
SECONDS = 20
MEGABYTES = 256
PACKAGES = (*reports.PACKAGES, "numpy", "h5py", "safetensors", "pyyaml")
# What replaces numbers, and text.
NUMBERS = (0, 1, -1, 2, 3, 7, 255, 2**31, 2**63, -(2**63), 10**400, 0.5, -0.0)
ODD_NUMBERS = (*NUMBERS, 1e308, float("nan"), float("inf"), True, None)
TEXTS = (
    "",
    "x",
    "../x",
    "a/b",
    "\x00",
    "\x1b[31mred\x1b[0m",
    "\r\n",
    "a: [b",
    "---",
    "- &a *a",
    "!!python/object/apply:os.system [ls]",
    "<script>alert(1)</script>",
    "<!-- keras_cvt: end -->",
    "| a | b |",
    "{classes}",
    "%s%n",
    "`${x}`",
    "\u202egnp",
    "\ud800",
    "é" * 300,
    "x" * 5000,
    "stage0",
    "float32",
)


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


class WrongResultError(Exception):
    """Something was read that cannot be right."""


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


# What is changed --------------------------------------------------------------------


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


def change_json(rng, value, times=None):
    """Return a copy of JSON values with a few of them replaced, moved or removed."""
    value = copy.deepcopy(value)
    for _ in range(times or rng.choice([1, 1, 1, 2, 4])):
        places = []
        left = [value]
        while left:
            part = left.pop()
            keys = part.keys() if isinstance(part, dict) else range(len(part))
            for key in list(keys):
                places.append((part, key))
                if isinstance(part[key], (dict, list)):
                    left.append(part[key])
        if not places:
            return value
        part, key = rng.choice(places)
        other, other_key = rng.choice(places)
        how = rng.randrange(8)
        if how == 0:
            del part[key]
        elif how == 1:
            part[key] = copy.deepcopy(other[other_key])
        elif how == 2:
            part[key] = rng.choice(TEXTS)
        elif how == 3:
            part[key] = [part[key]] * rng.choice([0, 1, 2, 1000])
        elif how == 4 and isinstance(part, dict):
            part[rng.choice([*TEXTS, *part])] = part.pop(key)
        elif how == 5 and isinstance(part[key], (int, float)):
            part[key] = part[key] + rng.choice([-1, 1, 0.5, 10**6])
        elif how == 6:
            part[key] = {"x": part[key]}
        else:
            part[key] = rng.choice(ODD_NUMBERS)
    return value


def change_bytes(rng, data, start=0):
    data = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 5])):
        place = rng.randrange(start, len(data)) if len(data) > start else 0
        how = rng.randrange(5)
        if how == 0:
            data[place : place + rng.choice([1, 8, 100])] = b""
        elif how == 1:
            data[place:place] = rng.randbytes(rng.choice([1, 8]))
        elif how == 2:
            data = data[:place]
        elif data:
            place = min(place, len(data) - 1)
            data[place] = rng.choice([0, 1, 255, data[place] ^ 1 << rng.randrange(8)])
    return bytes(data)


def dump_json(rng, value):
    text = json.dumps(value, ensure_ascii=rng.random() < 0.5)
    data = text.encode("utf-8", "surrogatepass")
    return change_bytes(rng, data) if rng.random() < 0.1 else data


def change_arrays(rng, state):
    """Return arrays by name with other names, shapes, types and values."""
    import ml_dtypes
    import numpy as np

    state = dict(state)
    for _ in range(rng.choice([1, 1, 2, 4])):
        name = rng.choice(list(state))
        array = state[name]
        other = rng.choice(list(state))
        how = rng.randrange(11)
        if how == 0:
            del state[name]
        elif how == 1:
            state[other] = array
        elif how == 2:
            state[change_name(rng, name)] = state.pop(name)
        elif how == 3:
            state = {change_name(rng, name) + key: a for key, a in state.items()}
        elif how == 4:
            state[name] = array.reshape(-1)[: rng.choice([0, 1, array.size])]
        elif how == 5:
            state[name] = np.expand_dims(array, rng.randrange(array.ndim + 1))
        elif how == 6:
            kind = rng.choice(["float16", "float64", "int8", "int64", "bool", "bf16"])
            state[name] = array.astype(ml_dtypes.bfloat16 if kind == "bf16" else kind)
        elif how == 7:
            value = rng.choice([np.nan, np.inf, -1e30, 1e30, -0.5])
            state[name] = np.where(
                np.arange(array.size).reshape(array.shape) == 1, value, array
            )
            state[name] = state[name].astype("float32")
        elif how == 8:
            state[name] = array.T
        elif how == 9:
            state[rng.choice(TEXTS)] = array
        else:
            state[name] = np.zeros((*array.shape[:-1], 0), "float32")
    return state


def change_name(rng, name):
    how = rng.randrange(6)
    if how == 0:
        return rng.choice(["model.", "ema.", "_orig_mod.", "a/b.", "optim."]) + name
    if how == 1:
        return name.replace("0", rng.choice(["1", "2", "00", "99999999999", "٣"]))
    if how == 2:
        return name + rng.choice(TEXTS)
    if how == 3:
        return name[: rng.randrange(len(name) + 1)]
    if how == 4:
        return name.replace(".", rng.choice(["/", "..", "_", ""]))
    return rng.choice(TEXTS)


GLOBALS = [
    b"ctorch\nFloatStorage\n",
    b"ctorch\nBoolStorage\n",
    b"ctorch\nBFloat16Storage\n",
    b"ctorch\nComplexFloatStorage\n",
    b"ctorch\nSize\n",
    b"ctorch\ndevice\n",
    b"ctorch\nTensor\n",
    b"ctorch._utils\n_rebuild_tensor_v2\n",
    b"ctorch._utils\n_rebuild_parameter\n",
    b"ctorch._utils\n_rebuild_parameter_with_state\n",
    b"ctorch._tensor\n_rebuild_from_type_v2\n",
    b"ccollections\nOrderedDict\n",
    b"ccollections\nCounter\n",
    b"c__builtin__\nset\n",
    b"cbuiltins\neval\n",
    b"cos\nsystem\n",
    b"c_codecs\nencode\n",
]


def change_pickle(rng, data):
    """Return a pickle with other opcodes or arguments, which still parses mostly."""
    steps = list(pickletools.genops(data))
    ends = [step[2] for step in steps[1:]]
    end = steps[-1][2] + 1
    parts = [
        data[a:b] for a, b in zip([s[2] for s in steps], [*ends, end], strict=True)
    ]
    for _ in range(rng.choice([1, 1, 2, 4])):
        i = rng.randrange(1, len(parts))
        opcode, argument, _ = steps[i]
        how = rng.randrange(8)
        if isinstance(argument, int) and opcode.name.startswith("BININT") and how < 6:
            value = rng.choice([*NUMBERS, argument + 1, argument - 1, argument * 2])
            value = max(-(2**31), min(2**31 - 1, int(value)))
            parts[i] = b"J" + struct.pack("<i", value)
        elif isinstance(argument, str) and "UNICODE" in opcode.name and how < 6:
            text = change_name(rng, argument).encode("utf-8", "surrogatepass")
            parts[i] = b"X" + struct.pack("<I", len(text)) + text
        elif opcode.name == "GLOBAL" and how < 6:
            parts[i] = rng.choice(GLOBALS)
        elif how == 0:
            parts[i] = b""
        elif how == 1:
            parts[i] = parts[i] * 2
        elif how == 2:
            j = rng.randrange(1, len(parts))
            parts[i], parts[j] = parts[j], parts[i]
        elif how == 3:
            parts[i] = rng.choice(
                [b"N", b"0", b"2", b"(", b"t", b"R", b"b", b"s", b"u"]
            )
        elif how == 4:
            parts[i] = rng.choice([b"}", b"]", b")", b"\x88", b"Q", b"\x81", b"\x8f"])
        elif how == 5:
            parts[i] += rng.choice(GLOBALS)
        elif how == 6:
            parts[i] = b"h" + bytes([rng.randrange(256)])
        else:
            parts[i] = b"\x8a\x08" + rng.randbytes(8)
    return b"".join(parts) + data[end:]


# How each kind is read ----------------------------------------------------------------


def read_torch(reader, rng):
    legacy, data = rng.choice(reader.files.pickles)
    path = reader.folder / "x.pth"
    if legacy:
        # The fourth pickle is the content.
        start = 0
        for _ in range(rng.choice([3, 3, 3, 3, 0, 1, 2, 4])):
            start += list(pickletools.genops(data[start:]))[-1][2] + 1
        path.write_bytes(data[:start] + change_pickle(rng, data[start:]))
        return reader.load(path)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    name = next(name for name in members if name.endswith("data.pkl"))
    how = rng.randrange(8)
    if how < 6:
        members[name] = change_pickle(rng, members[name])
    else:
        other = rng.choice(list(members))
        if how == 6:
            members[other] = change_bytes(rng, members[other])
        else:
            members[change_name(rng, other)] = members.pop(other)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            name = name.encode("utf-8", "replace").decode().split("\0")[0]
            archive.writestr(name or "x", content)
    if rng.random() < 0.1:
        path.write_bytes(change_bytes(rng, path.read_bytes()))
    return reader.load(path)


def safetensors_bytes(rng, state):
    import numpy as np
    from safetensors.numpy import save

    state = {
        key.encode("utf-8", "replace").decode(): np.ascontiguousarray(array)
        for key, array in state.items()
    }
    data = save(state)
    if rng.random() < 0.5:
        size = struct.unpack("<Q", data[:8])[0]
        header = change_json(rng, json.loads(data[8 : 8 + size]), times=1)
        text = dump_json(rng, header)
        data = struct.pack("<Q", len(text)) + text + data[8 + size :]
    return data


def read_safetensors(reader, rng):
    state = rng.choice(reader.files.states)
    if rng.random() < 0.7:
        state = change_arrays(rng, state)
    path = reader.folder / "x.safetensors"
    path.write_bytes(safetensors_bytes(rng, state))
    reader.load(path)


def read_shards(reader, rng):
    from safetensors.numpy import save_file

    folder = reader.folder / "shards"
    folder.mkdir(exist_ok=True)
    state = reader.files.states[1]
    names = sorted(state)
    index = {"metadata": {"total_size": 1}, "weight_map": {}}
    for i in range(2):
        file = f"model-0000{i + 1}-of-00002.safetensors"
        save_file({n: state[n] for n in names[i::2]}, folder / file)
        index["weight_map"] |= dict.fromkeys(names[i::2], file)
    index = change_json(rng, index)
    (folder / "model.safetensors.index.json").write_bytes(dump_json(rng, index))
    reader.load(folder)


def read_hdf5(reader, rng):
    import h5py
    import numpy as np

    path = reader.folder / "x.h5"
    data = rng.choice(reader.files.hdf5)
    path.write_bytes(data)
    if rng.random() < 0.4:
        # Near the structures, not in the numbers.
        marks = [b"TREE", b"SNOD", b"HEAP", b"GCOL", b"\x01\x00\x01\x00", b"\x89HDF"]
        start = data.find(rng.choice(marks), rng.randrange(len(data)))
        changed = bytearray(data)
        for _ in range(rng.choice([1, 2, 4])):
            place = min(max(start, 0) + rng.randrange(120), len(data) - 1)
            changed[place] = rng.choice([0, 1, 8, 255, rng.randrange(256)])
        path.write_bytes(changed)
        return reader.load(path)
    with h5py.File(path, "r+") as file:
        names = []
        file.visititems(
            lambda n, item: names.append(n) if isinstance(item, h5py.Dataset) else None
        )
        for _ in range(rng.choice([1, 1, 2])):
            name = rng.choice(names)
            if name not in file:
                continue
            array = file[name][()]
            how = rng.randrange(8)
            if how in (0, 1, 2, 3):
                del file[name]
            try:
                if how == 1:
                    file[change_name(rng, name)] = array
                elif how == 2:
                    file[name] = array.astype(rng.choice(["f2", "f8", ">f4", "i4"]))
                elif how == 3:
                    file[name] = np.reshape(array, (-1, 1))
                elif how == 4:
                    file[rng.choice(TEXTS)] = file[name]
                elif how == 5:
                    file[name].attrs["dtype"] = rng.choice(TEXTS)
                elif how == 6:
                    file.create_dataset("more", data=array, chunks=True)
                elif how == 7 and array.size:
                    file[name][...] = rng.choice([np.nan, -1, 1e38])
            except (ValueError, OSError, TypeError, RuntimeError, KeyError):
                pass  # h5py cannot write such a file
    return reader.load(path)


def read_dict(reader, rng):
    state = change_arrays(rng, rng.choice(reader.files.states))
    if rng.random() < 0.3:
        name = rng.choice(list(state))
        state[name] = rng.choice(
            [None, 3, "x", [1, 2], {"a": state[name]}, b"x", object(), {}]
        )
    if rng.random() < 0.3:
        state = {rng.choice(["state_dict", "model", "ema", "x", ""]): state}
    if rng.random() < 0.1:
        state["state_dict_ema"] = {**rng.choice(reader.files.states)}
    return reader.load(state)


def read_folder(reader, rng):
    """Build the network that a folder describes."""
    import numpy as np

    from keras_cvt.checkpoints import sources
    from keras_cvt.hub import loading

    folder = reader.folder / "folder"
    folder.mkdir(exist_ok=True)
    for original in reader.files.page.iterdir():
        data = original.read_bytes()
        if original.suffix == ".json":
            values = json.loads(data)
            if rng.random() < 0.3 and "keras_cvt" in values:
                del values["keras_cvt"]  # as transformers writes it
            data = dump_json(rng, change_json(rng, values))
        (folder / original.name).write_bytes(data)
    checkpoint = sources.resolve(folder)
    if rng.random() < 0.3:
        model = loading.build(checkpoint)
        for weight in model.weights:
            if not np.isfinite(np.asarray(weight)).all():
                raise WrongResultError(f"{weight.path} is not finite")
    return checkpoint


def read_metadata(reader, rng):
    from keras_cvt import deploy
    from keras_cvt.deploy import metadata
    from keras_cvt.deploy.formats import FORMATS
    from keras_cvt.description import ModelDescription

    values = json.loads(json.dumps(reader.files.description.to_dict()))
    values["input"]["batch_size"] = 1
    values |= {"labels": values["class_names"], "format": "litert", "fused": True}
    if rng.random() < 0.2:  # as version 0.1.0 wrote them
        del values["class_names"], values["config"]
    data = dump_json(rng, change_json(rng, values))
    if rng.random() < 0.5:
        name = sys.modules[FORMATS["litert"].write.__module__]._METADATA_FILE
        path = reader.folder / "x.tflite"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(name, data)
        if rng.random() < 0.2:
            path.write_bytes(change_bytes(rng, path.read_bytes()))
    else:
        name = sys.modules[FORMATS["tf_saved_model"].write.__module__]._METADATA_FILE
        path = reader.folder / "saved_model"
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / "saved_model.pb").touch()
        (path / name).write_bytes(data)
    assert deploy.read_metadata is metadata.read
    description = ModelDescription.from_dict(deploy.read_metadata(path))
    json.dumps(description.to_dict())


def read_class_names(reader, rng):
    from keras_cvt.cli import loading

    names = [rng.choice([name, rng.choice(TEXTS)]) for name in ("daisy", "rose", "oak")]
    if rng.random() < 0.4:
        data = dump_json(rng, change_json(rng, names))
    else:
        text = rng.choice(["\n", "\r\n", "\n\n"]).join(names) + rng.choice(["", "\n"])
        coding = rng.choice(["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "latin-1"])
        data = text.encode(coding, "replace")
        data = change_bytes(rng, data) if rng.random() < 0.2 else data
    path = reader.folder / "names.txt"
    path.write_bytes(data)
    loading.load_file = lambda _: reader.model
    options = argparse.Namespace(model="x.keras", weights=None, class_names=str(path))
    model = loading.classifier(options)
    if len(model.class_names) != 3 or not all(map(str.strip, model.class_names)):
        raise WrongResultError(model.class_names)


def read_card(reader, rng):
    """Render a card of odd texts and merge it into an odd card that exists."""
    import yaml

    from keras_cvt.hub import card

    def text(default):
        return rng.choice([default, default, rng.choice(TEXTS)])

    names = [text(name) or "x" for name in ("daisy", "rose", "oak")]
    names = [n if n.strip() and n.isprintable() else "x" for n in names]
    evaluation = card.Evaluation(
        text("Flowers"), text("me/flowers"), text("accuracy"), 0.9, text("test")
    )
    about = card.About(
        description=text("Flowers."),
        license=rng.choice(["mit", None, rng.choice(TEXTS)]),
        datasets=[text("me/flowers")],
        tags=[text("tag")],
        evaluations=[evaluation],
    )
    new = card.render(
        reader.files.description.replace(class_names=tuple(names)),
        repo_id="me/flowers",
        about=about,
        rows=[card.Row(text("x.onnx"), text("ONNX"), 1e-6, bytes=3)],
    )
    metadata = yaml.safe_load(new.split("---\n")[1])
    if metadata["library_name"] != "keras" or metadata["tags"][0] != "keras_cvt":
        raise WrongResultError(str(metadata)[:200])
    existing = new
    if rng.random() < 0.7:
        existing = change_bytes(rng, new.encode("utf-8", "replace")).decode(
            "utf-8", "replace"
        )
    if rng.random() < 0.3:
        existing = f"---\n{text('license: mit')}\n---\n{text('# Mine')}\n" + existing
    merged = card.merge(existing, new)
    card.merge(merged, new)


KINDS = {
    "torch.save": read_torch,
    "safetensors": read_safetensors,
    "shards": read_shards,
    "HDF5": read_hdf5,
    "dicts": read_dict,
    "folders with config.json": read_folder,
    "exported metadata": read_metadata,
    "class names": read_class_names,
    "cards": read_card,
}
# How often each comes.
SHARES = (30, 12, 4, 16, 10, 10, 8, 5, 5)


def kind_of(seed, index):
    return random.Random(f"kind {seed}:{index}").choices(list(KINDS), SHARES)[0]


if __name__ == "__main__":
    sys.exit(main())
