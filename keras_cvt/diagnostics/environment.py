"""Versions, backend, devices, switches, cache and formats of this environment."""

import contextlib
import importlib
import json
import os
import platform
import re
import shutil
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from keras_cvt._utils.optional import install_command
from keras_cvt.diagnostics.findings import Finding, guarded

# Extra -> what it is for. Those of formats have the formats' names.
_PURPOSES = {
    "tensorflow": "the TensorFlow backend, tf.data, every export",
    "jax": "the JAX backend",
    "torch": "the PyTorch backend",
    "train": "training curves",
    "parquet": "Parquet files of predictions",
    "ray": "prediction and training on clusters, servers",
}
# Extras of developers and of examples, and one that stands for another.
_LEFT_OUT = ("test", "docs", "demo", "dense", "tensorflow-cpu")
# Extra -> extras one of which is enough, if they differ from itself.
_EITHER = {"tensorflow": ("tensorflow", "tensorflow-cpu")}
# Needs nothing to be exported but TensorFlow.
_TENSORFLOW = "tensorflow"
_OFF = "|0|false|no|off"
# Environment variable -> values without an effect, as a pattern, and the effect of any
# other; None if no value does harm.
_SWITCHES = {
    "KERAS_BACKEND": None,
    "KERAS_HOME": None,
    "HF_HOME": None,
    "HF_ENDPOINT": (
        "https://huggingface.co/?",
        "Files come from this server instead of huggingface.co.",
    ),
    "HF_HUB_OFFLINE": (_OFF, "Nothing is downloaded."),
    "KERAS_CVT_HUB_FILES": ("", "Downloads are checked against this record."),
    "TF_ENABLE_ONEDNN_OPTS": ("|1|true", "TensorFlow's fast CPU operations are off."),
    "TF_SET_ONEDNN_FPMATH_MODE": (
        "|fp32",
        "float32 networks are computed in lower precision.",
    ),
    "NVIDIA_TF32_OVERRIDE": ("|0", "float32 products are computed in TF32."),
    "JAX_DEFAULT_MATMUL_PRECISION": (
        "|highest|float32",
        "float32 products may be computed in lower precision.",
    ),
    "JAX_ENABLE_X64": None,
    "XLA_FLAGS": None,
    "OMP_NUM_THREADS": None,
    "CUDA_VISIBLE_DEVICES": None,
}


def examine() -> list[Finding]:
    """Find out what this environment can do.

    Returns:
        Findings on versions, extras, the processor, environment variables, the caches
        and, if Keras and its backend can be imported, the backend and the formats. A
        backend that is missing is a problem, a missing extra is not.
    """
    return [
        *guarded("versions", _versions),
        *guarded("extras", _extras),
        *guarded("switches", _switches),
        *guarded("caches", _caches),
        *guarded("backend", _backend),
    ]


def _noted(topic, name, value, advice):
    """Return a finding that is a note if there is something to advise."""
    return Finding(topic, name, value, "note" if advice else "ok", advice)


def _versions():
    yield Finding("versions", "Python", platform.python_version())
    yield Finding("versions", "system", f"{platform.system()} {platform.machine()}")
    yield Finding("versions", "processor", _processor())
    try:
        yield Finding("versions", "keras_cvt", metadata.version("keras_cvt"))
    except metadata.PackageNotFoundError:
        advice = "What it depends on is not known. Install the package."
        yield Finding("versions", "keras_cvt", "not installed", "note", advice)
    for requirement in _requirements(""):
        lacking = _lacking(requirement)
        status = "problem" if lacking else "ok"
        found = lacking or metadata.version(requirement.name)
        advice = f"Install {requirement}." if lacking else ""
        yield Finding("versions", requirement.name, found, status, advice)


def _extras():
    for extra in _extra_names():
        purpose = _PURPOSES.get(extra, "files of this format")
        missing = _missing(extra)
        found = f"lacks {', '.join(missing)}" if missing else "installed"
        advice = f"For {purpose}: {install_command(extra)}." if missing else ""
        yield _noted("extras", extra, found, advice)


def _extra_names():
    """Return the names of the package's extras, or none if it is not installed."""
    try:
        names = metadata.metadata("keras_cvt").get_all("Provides-Extra") or ()
    except metadata.PackageNotFoundError:
        return []
    return [name for name in names if name not in _LEFT_OUT]


def _requirements(extra):
    """Yield what an extra requires, or without one the package itself."""
    from packaging.requirements import Requirement

    try:
        texts = metadata.requires("keras_cvt") or ()
    except metadata.PackageNotFoundError:
        return
    for text in texts:
        requirement = Requirement(text)
        marker = requirement.marker
        always = marker is None or marker.evaluate({"extra": ""})
        wanted = always
        if extra:
            wanted = not always and marker.evaluate({"extra": extra})
        if wanted:
            if requirement.name.replace("-", "_") == "keras_cvt":
                for inner in requirement.extras:
                    yield from _requirements(inner)
            else:
                requirement.marker = None
                yield requirement


def _lacking(requirement):
    """Say what is wrong with the installed version; nothing if it fits."""
    try:
        version = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return "not installed"
    if requirement.specifier.contains(version, prereleases=True):
        return ""
    return f"{version}, which is not {requirement.specifier}"


def _missing(extra):
    """Return the names of an extra's packages that are missing or too old."""
    choices = [
        [r.name for r in _requirements(name) if _lacking(r)]
        for name in _EITHER.get(extra, (extra,))
    ]
    return min(choices, key=len)


def _processor():
    name, flags = platform.processor() or platform.machine(), set()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        values = {k.strip(): v.strip() for k, _, v in (x.partition(":") for x in lines)}
        name = values.get("model name", name)
        flags = set(values.get("flags", values.get("Features", "")).split())
    fast = "with" if flags & {"avx512_bf16", "amx_bf16", "bf16"} else "without"
    known = f", {fast} bfloat16 instructions" if flags else ""
    return f"{name}, {os.cpu_count()} CPUs{known}"


def _switches():
    for name, effect in _SWITCHES.items():
        if name in os.environ:
            value = re.sub("//[^/@]*@", "//***@", os.environ[name])
            harmless, advice = effect or (".*", "")
            matches = re.fullmatch(harmless, value, re.IGNORECASE)
            yield _noted("switches", name, value, "" if matches else advice)


def _caches():
    from huggingface_hub import constants, get_token

    from keras_cvt.repository.cache import cache_folder

    for name, folder in (
        ("converted weights", cache_folder()),
        ("downloads", Path(constants.HF_HUB_CACHE)),
    ):
        yield _cache(name, folder)
    kept = sorted(path.name for path in cache_folder().glob("*.safetensors"))
    yield Finding("caches", "kept weights", ", ".join(kept) or "none")
    token = "set" if get_token() else "not set, which public files do not need"
    yield Finding("caches", "token of the Hub", token)


def _cache(name, folder):
    # `Path.exists` raises an error below a folder that cannot be read.
    existing = next(p for p in (folder, *folder.parents) if os.path.exists(p))
    free = shutil.disk_usage(existing).free / 1e9
    value = f"{folder}, {free:.1f} GB free"
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        advice = f"{existing} cannot be written. Set KERAS_HOME or HF_HOME."
        return Finding("caches", name, value, "problem", advice)
    # The largest network takes 1.1 GB, once as downloaded and once converted.
    low = free < 2.5
    advice = "CvT-W24 needs 2.2 GB." if low else ""
    return _noted("caches", name, value, advice)


def _backend() -> Iterator[Finding]:
    name = _backend_name()
    try:
        keras = importlib.import_module("keras")
        name = keras.config.backend()
        importlib.import_module("keras_cvt.deploy")
    # A broken installation can raise anything.
    except Exception as error:
        extra = {"jax": "jax", "torch": "torch"}.get(name, _TENSORFLOW)
        advice = (
            f"Install it with {install_command(extra)}, or set KERAS_BACKEND to a "
            "backend that you have."
        )
        said = f"{name} cannot be used: {type(error).__name__}: {error}"
        yield Finding("backend", "Keras's backend", said, "problem", advice)
        return
    yield Finding("backend", "Keras's backend", name)
    yield Finding("backend", "devices", ", ".join(_DEVICES[name]()))
    policy = keras.config.dtype_policy().name
    low = policy != "float32"
    advice = "Layers compute in lower precision by default." if low else ""
    yield _noted("backend", "precision", policy, advice)
    from keras_cvt.deploy import formats

    extras = _extra_names()
    for record in formats.FORMATS.values():
        wanted = (_TENSORFLOW, *([record.name] if record.name in extras else ()))
        lacking = [extra for extra in wanted if _missing(extra)]
        found = f"lacks [{'], ['.join(lacking)}]" if lacking else "ready"
        advice = f"{install_command(','.join(wanted))}" if lacking else ""
        yield _noted("formats", record.title, found, advice)


def _backend_name():
    """Return the backend that Keras will use, as it reads it."""
    name = os.environ.get("KERAS_BACKEND")
    if name is None:
        home = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras")
        with contextlib.suppress(OSError, ValueError, AttributeError):
            name = json.loads((home / "keras.json").read_text()).get("backend")
    return name or "tensorflow"


def _tensorflow_devices():
    import tensorflow as tf

    for device in tf.config.list_physical_devices():
        details = tf.config.experimental.get_device_details(device)
        yield re.sub("^/physical_device:", "", device.name) + "".join(
            f" ({details['device_name']})" for _ in range("device_name" in details)
        )


def _jax_devices():
    import jax

    return [f"{device.platform}:{device.id}" for device in jax.devices()]


def _torch_devices():
    import torch

    names = map(torch.cuda.get_device_name, range(torch.cuda.device_count()))
    return ["CPU", *names, *["MPS"] * torch.backends.mps.is_available()]


_DEVICES = {
    "tensorflow": _tensorflow_devices,
    "jax": _jax_devices,
    "torch": _torch_devices,
    "numpy": lambda: ["CPU"],
    "openvino": lambda: ["CPU"],
}
