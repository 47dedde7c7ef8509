"""Changed files of every kind and how they are read, for `fuzz_files.py`."""

import argparse
import io
import json
import pickletools
import random
import struct
import sys
import zipfile

from fuzz_changes import (
    TEXTS,
    change_arrays,
    change_bytes,
    change_json,
    change_name,
    change_pickle,
    dump_json,
)


class WrongResultError(Exception):
    """Something was read that cannot be right."""


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
