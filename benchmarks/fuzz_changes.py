"""Small changes inside of valid files, for `fuzz_files.py`."""

import copy
import json
import pickletools
import struct

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
