"""A Ray cluster of this process's own, as small as it gets."""

import contextlib
import os
from pathlib import Path

# Before Ray is imported.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")


@contextlib.contextmanager
def started(cpus=2):
    import ray

    ray.init(
        "local",
        num_cpus=cpus,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=200 * 2**20,
    )
    try:
        yield ray
    finally:
        ray.shutdown()


def processes(title):
    """Return the numbers of the processes of this user whose title begins so."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if file.read_bytes().startswith(title.encode()):
                found.append(int(file.parent.name))
    return found
