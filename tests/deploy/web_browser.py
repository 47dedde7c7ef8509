"""Web pages in a real browser, and their scripts in Node."""

import contextlib
import functools
import importlib.util
import os
import shutil
import subprocess
import sys
import threading
import time
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import keras_cvt
from keras_cvt.deploy.formats import web

ASSETS = Path(keras_cvt.__file__).parent / "assets" / "web"
# With these, a page may compute in several threads.
ISOLATED = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
}
# In the page: collects what it answers.
COLLECT = """
window.answers = [];
document.addEventListener("keras-cvt-answer", ({ detail }) => window.answers.push({
  ...detail, outputs: Array.from(detail.outputs), pixels: Array.from(detail.pixels),
}));
document.addEventListener("keras-cvt-ready", ({ detail }) => {
  window.ready = detail;
});
document.addEventListener("securitypolicyviolation", (event) => {
  (window.violations ??= []).push(event.blockedURI);
});
"""


def runtime_folder():
    """Return the folder with the files of ONNX Runtime Web, or skip the test."""
    default = Path(sys.prefix) / f"onnxruntime-web-{web._VERSION}"
    folder = Path(os.environ.get("ONNXRUNTIME_WEB", default))
    if not all((folder / name).is_file() for name in web._INTEGRITY):
        pytest.skip(
            f"no ONNX Runtime Web in {folder}: `make test` gets it with npm, or set "
            "ONNXRUNTIME_WEB to `dist` of the npm package onnxruntime-web"
        )
    return folder


def node():
    """Return the path of Node.js, also that of playwright, or skip the test."""
    found = shutil.which("node")
    spec = importlib.util.find_spec("playwright")
    if found is None and spec is not None:
        inside = Path(spec.origin).parent / "driver" / "node"
        found = str(inside) if inside.is_file() else None
    if found is None:
        pytest.skip("no Node.js: `node` is not on the PATH")
    return found


def run_in_node(folder, program, *arguments):
    """Run a program that imports the page's scripts, and return what it prints."""
    for name in ("preprocess.js", "decode.js"):
        shutil.copyfile(ASSETS / name, folder / name)
    (folder / "package.json").write_text('{"type": "module"}')
    (folder / "program.js").write_text(program)
    command = [node(), folder / "program.js", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@contextlib.contextmanager
def chromium():
    """Start Chromium with a made-up camera, or skip the test."""
    sync_api = pytest.importorskip(
        "playwright.sync_api", reason="playwright is missing"
    )
    with sync_api.sync_playwright() as playwright:
        names = ("chromium", "chromium-browser", "google-chrome")
        candidates = [
            os.environ.get("CHROMIUM"),
            playwright.chromium.executable_path,
            *map(shutil.which, names),
        ]
        found = [path for path in candidates if path and Path(path).is_file()]
        if not found:
            pytest.skip(
                "no Chromium: run `playwright install chromium`, install the package "
                "`chromium` of the system, or set CHROMIUM to its path"
            )
        devices = [f"--use-fake-{name}-for-media-stream" for name in ("device", "ui")]
        browser = playwright.chromium.launch(executable_path=found[0], args=devices)
        try:
            yield browser
        finally:
            browser.close()


@contextlib.contextmanager
def served(folder, headers=None, arrived=None):
    """Serve a folder on the loopback, and yield its address.

    What arrives is added to the list `arrived`, as (method, path).
    """

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            """Print no line for each request."""

        def parse_request(self):
            parsed = super().parse_request()
            if parsed and arrived is not None:
                arrived.append((self.command, self.path))
            return parsed

        def end_headers(self):
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            super().end_headers()

    handler = functools.partial(Handler, directory=folder)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()


def open_page(browser, address, prepare=None, **options):
    """Open a page and wait until its network is ready."""
    page = browser.new_page(**options)
    page.errors = []
    page.on("pageerror", lambda error: page.errors.append(str(error)))
    page.add_init_script(COLLECT)
    if prepare is not None:
        prepare(page)
    page.goto(address)
    page.locator("#choose:enabled").wait_for(timeout=60_000)
    return page


def classify(page, files):
    """Let the page classify {name: content}, and return its answers by name."""
    page.set_input_files(
        "#file",
        [
            {"name": name, "mimeType": "", "buffer": content}
            for name, content in files.items()
        ],
    )
    return {answer["name"]: answer for answer in take_answers(page, len(files))}


def take_answers(page, count, seconds=60):
    """Return the next answers of a page."""
    end = time.monotonic() + seconds
    # Not `wait_for_function`, which the page's policy forbids.
    while page.evaluate("window.answers.length") < count:
        status = page.get_by_role("status").inner_text()
        assert time.monotonic() < end, status
        page.wait_for_timeout(20)
    return page.evaluate("window.answers.splice(0)")
