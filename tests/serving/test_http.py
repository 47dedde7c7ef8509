"""The HTTP server of `keras_cvt.serving`, with Ray Serve on this machine."""

import asyncio
import concurrent.futures
import http.client
import io
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
import ray_cluster
from PIL import Image
from test_classifier import network

import keras_cvt
from keras_cvt import deploy, serving
from keras_cvt.inference import classifier_of
from keras_cvt.serving.batching import Batcher

pytest.importorskip("ray.serve")
EXAMPLE = Path(__file__).parents[2] / "examples" / "serve.py"
NAMES = ["daisy", "rose", "tulip"]


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def encoded(seed=0, size=(40, 32), format="PNG"):
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), "uint8")
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format)
    return file.getvalue()


def ask(port, method="POST", path="/predict", body=None, headers=None):
    """Return the status and the JSON of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


@pytest.fixture(scope="module")
def model():
    model = network()
    model.class_names = NAMES
    return model


@pytest.fixture(scope="module")
def server(model, tmp_path_factory):
    """Return the port of a server of an exported file."""
    path = tmp_path_factory.mktemp("model") / "m.tflite"
    deploy.export(model, path)
    with ray_cluster.started(cpus=4):
        from ray import serve

        port = free_port()
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        serve.run(
            serving.application(
                path,
                version="7",
                batch_size=4,
                threads=1,
                max_request_bytes=100_000,
                max_pixels=50_000,
                # All requests of these tests at once; see the test of 503.
                max_ongoing_requests=64,
            )
        )
        yield port
        serve.shutdown()


def test_the_answers_are_those_of_the_classifier(server, model):
    classifier = classifier_of(model)
    files = [encoded(seed) for seed in range(24)]
    with concurrent.futures.ThreadPoolExecutor(24) as executor:
        answers = list(executor.map(lambda body: ask(server, body=body), files))
    for content, (status, answer) in zip(files, answers, strict=True):
        image = Image.open(io.BytesIO(content))
        pixels = keras_cvt.preprocess_input(image, classifier)
        (expected,) = classifier.best(classifier.scores(pixels), 5)
        assert status == 200 and answer["version"] == "7"
        found = answer["predictions"]
        assert [e["label"] for e in found] == [e["label"] for e in expected]
        scores = [entry["score"] for entry in expected]
        np.testing.assert_allclose([e["score"] for e in found], scores, atol=2e-5)
    status, answer = ask(server, path="/predict?top=1", body=files[0])
    assert status == 200 and len(answer["predictions"]) == 1


def bomb():
    """A small PNG file that says it is of 60,000 x 60,000 pixels."""

    def chunk(kind, data):
        checked = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checked)

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    parts = (
        chunk(b"IHDR", header),
        chunk(b"IDAT", zlib.compress(b"0")),
        chunk(b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<html>no image</html>",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        encoded(format="JPEG")[:400],
        encoded()[:-100],
        bomb(),
        encoded(size=(300, 300), format="JPEG"),
        os.urandom(1000),
    ],
    ids=["empty", "html", "svg", "cut jpeg", "cut png", "bomb", "pixels", "noise"],
)
def test_what_is_no_image_is_refused(server, content):
    status, answer = ask(server, body=content)
    assert status == 400
    assert "Received: " in answer["error"] and "Traceback" not in answer["error"]
    assert ask(server, body=encoded())[0] == 200


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        ({"path": "/other"}, 404),
        ({"method": "GET"}, 405),
        ({"method": "DELETE", "path": "/healthz"}, 405),
        ({"body": bytes(100_001)}, 413),
        ({"body": b"x", "headers": {"Content-Type": "multipart/form-data"}}, 415),
        ({"path": "/predict?top=0", "body": encoded()}, 400),
        ({"path": "/predict?top=many", "body": encoded()}, 400),
    ],
)
def test_wrong_requests_get_their_status(server, request_, status):
    found, answer = ask(server, **request_)
    assert found == status and answer["error"].startswith("Expected")


def test_health(server):
    status, answer = ask(server, "GET", "/healthz")
    assert status == 200 and answer["status"] == "ready"


def test_too_many_and_too_late_requests_are_refused(server, model, tmp_path):
    """With one request at a time, and with no time at all."""
    from ray import serve

    model.save(tmp_path / "m.keras")
    # Enough to read that requests meet.
    body = encoded(size=(1500, 1500))
    for name, options in {
        "busy": {"max_ongoing_requests": 1},
        "late": {"timeout_s": 1e-4},
    }.items():
        path = tmp_path / "m.keras"
        app = serving.application(path, threads=1, **options)
        serve.run(app, name=name, route_prefix=f"/{name}")
    with concurrent.futures.ThreadPoolExecutor(8) as executor:
        answers = list(
            executor.map(
                lambda _: ask(server, path="/busy/predict", body=body), "1" * 8
            )
        )
    found = [status for status, _ in answers]
    assert {200, 503} == set(found), found
    assert all("try again" in answer["error"] for s, answer in answers if s == 503)
    status, answer = ask(server, path="/late/predict", body=body)
    assert status == 504 and "within 0.0001 seconds" in answer["error"]
    for name in ("busy", "late"):
        serve.delete(name)


def test_requests_in_flight_are_answered_when_the_application_ends(
    server, model, tmp_path
):
    from ray import serve

    model.save(tmp_path / "m.keras")
    app = serving.application(tmp_path / "m.keras", threads=1)
    serve.run(app, name="ending", route_prefix="/ending")
    # Half a second to read.
    file = io.BytesIO()
    Image.new("RGB", (6000, 6000)).save(file, "PNG")
    body = file.getvalue()
    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        answer = executor.submit(ask, server, path="/ending/predict", body=body)
        time.sleep(0.3)
        serve.delete("ending")
        assert answer.result()[0] == 200


def batched(items, compute, batch_size=4, cancel=()):
    """Return what a `Batcher` answers for items that come at the same time."""

    async def main():
        batcher = Batcher(compute, batch_size, 0.05)
        tasks = [asyncio.create_task(batcher(item)) for item in items]
        await asyncio.sleep(0)
        for index in cancel:
            tasks[index].cancel()
        return await asyncio.gather(*tasks, return_exceptions=True)

    return asyncio.run(main())


def test_what_comes_together_is_computed_together():
    seen = []

    def double(items):
        seen.append(list(items))
        return [2 * item for item in items]

    assert batched(range(10), double) == [2 * item for item in range(10)]
    assert seen == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_who_gives_up_is_not_computed_for():
    seen = []

    def same(items):
        seen.extend(items)
        return items

    answers = batched(range(4), same, cancel=[1])
    assert isinstance(answers[1], asyncio.CancelledError)
    assert seen == [0, 2, 3] == [answers[0], *answers[2:]]


def test_an_error_reaches_those_whose_batch_it_was():
    def fail(items):
        if 0 in items:
            raise RuntimeError("no memory")
        return items

    answers = batched(range(6), fail)
    assert [str(answer) for answer in answers[:4]] == ["no memory"] * 4
    assert answers[4:] == [4, 5]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"model": 1}, TypeError),
        ({"top": 0}, ValueError),
        ({"batch_size": 0}, ValueError),
        ({"threads": 0}, ValueError),
        ({"timeout_s": 0}, ValueError),
        ({"batch_wait_s": -1}, ValueError),
    ],
)
def test_wrong_arguments_are_refused(arguments, error):
    with pytest.raises(error, match="Received: "):
        serving.application(**{"model": "m.tflite"} | arguments)


def test_text_becomes_numbers_for_rays_command_line():
    application = serving.build({"model": "m.tflite", "batch_size": "4"})
    assert type(application).__name__ == "Application"


def test_the_package_does_not_import_ray():
    program = "import sys, keras_cvt; print('ray' in sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "False"


def test_the_example_serves_until_it_is_told_to_stop(model, tmp_path):
    model.save(tmp_path / "m.keras")
    port = free_port()
    command = [sys.executable, EXAMPLE, "--model", tmp_path / "m.keras"]
    command += ["--port", str(port), "--threads", "1"]
    process = subprocess.Popen(
        list(map(str, command)),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    try:
        for line in process.stdout:
            if line.startswith("Ctrl-C"):
                break
        status, answer = ask(port, body=encoded())
        assert status == 200 and answer["predictions"][0]["label"] in NAMES
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
