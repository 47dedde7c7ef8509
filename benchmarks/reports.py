"""The parts that all reports share: the machine, versions, tables, the output file."""

import contextlib
import importlib.metadata
import os
import platform
import resource
import shlex
import sys
from pathlib import Path

PACKAGES = ("keras", "tensorflow", "tensorflow-cpu", "jax", "torch", "transformers")


def command_line():
    return shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])


def processor():
    wanted = ("avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile")
    model, flags = processor_and_flags()
    found = [flag for flag in wanted if flag in flags]
    return f"{model}, {os.cpu_count()} CPUs, {' '.join(found) or 'flags unknown'}"


def has_bfloat16():
    """Return whether the processor has bfloat16 instructions."""
    return bool(processor_and_flags()[1] & {"avx512_bf16", "amx_bf16", "bf16"})


def processor_and_flags():
    model, flags = platform.processor() or platform.machine(), set()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                model = value.strip()
            elif key.strip() in ("flags", "Features"):
                flags = set(value.split())
    return model, flags


def versions(packages=PACKAGES):
    found = [f"Python {platform.python_version()}"]
    for package in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found.append(f"{package} {importlib.metadata.version(package)}")
    return ", ".join(found)


def peak_memory():
    """Return this process's peak memory in bytes."""
    # Not `ru_maxrss` on Linux: it starts at the parent process's value.
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def table(header, rows):
    yield "| " + " | ".join(header) + " |"
    yield "|" + "---|" * len(header)
    for row in rows:
        yield "| " + " | ".join(map(str, row)) + " |"


def say(text):
    print(text, file=sys.stderr, flush=True)


def keep(text, output):
    """Print a report, and append it to a file if one is given."""
    print(text)
    if output:
        with output.open("a", encoding="utf-8") as file:
            file.write("\n" + text)
