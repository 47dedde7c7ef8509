"""The real client of the Hub, pointed at a server on the loopback."""

import contextlib
import os
import subprocess
import sys

from loopback_hub import LoopbackHub

TOKEN = "hf_loopbacktokenthatmustnotappear"


@contextlib.contextmanager
def loopback(tmp_path, monkeypatch, repos=None, **arguments):
    """Serve repositories to this process, whose caches start empty."""
    with LoopbackHub(repos or {}, token=TOKEN, **arguments) as server:
        with pointed_at(server.url, tmp_path, monkeypatch):
            yield server


@contextlib.contextmanager
def pointed_at(url, tmp_path, monkeypatch):
    """Point this process's client at a server, with empty caches."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(
        constants,
        "HUGGINGFACE_CO_URL_TEMPLATE",
        url + "/{repo_id}/resolve/{revision}/{filename}",
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    yield


def environment(server, home, **more):
    """Return the environment of another process with an empty cache of its own."""
    return {
        **os.environ,
        "HF_ENDPOINT": server.url,
        "HF_HOME": str(home / "hf"),
        "KERAS_HOME": str(home / "keras"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_TOKEN": TOKEN,
        **more,
    }


def run(code, server, home, **more):
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment(server, home, **more),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
