"""Answers over HTTP: right ones, refusals, and none lost at the end."""

import concurrent.futures
import contextlib
import http.client
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import keras
import numpy as np
import pytest
from serving_client import (
    TIMEOUT,
    ask,
    check_predictions,
    encoded,
    expected_answer,
    free_port,
    half_sent,
    png,
    refused,
)

from keras_cvt import deploy, serving

pytest.importorskip("ray.serve")

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def server(port, model):
    """Return the port of a server of a Keras model."""
    from ray import serve

    app = serving.application(
        model,
        version="1.10",
        batch_size=4,
        threads=1,
        timeout_s=TIMEOUT,
        max_request_bytes=100_000,
        max_pixels=50_000,
    )
    serve.run(app)
    return port


@pytest.fixture(scope="module")
def small_server(port, model, tmp_path_factory):
    """The port of a server of an exported file that takes one request at a time."""
    from ray import serve

    path = tmp_path_factory.mktemp("exported") / "m.tflite"
    deploy.export(model, path)
    app = serving.application(
        path, threads=1, top=2, batch_size=1, timeout_s=8, max_ongoing_requests=1
    )
    serve.run(app, name="small", route_prefix="/small")
    return port


def test_images_sent_at_once_get_the_answers_of_the_classifier(server, model):
    files = [
        encoded(seed, (20 + seed, 40), ("PNG", "JPEG", "BMP")[seed % 3])
        for seed in range(14)
    ]
    with concurrent.futures.ThreadPoolExecutor(len(files)) as executor:
        answers = list(executor.map(lambda body: ask(server, body=body), files))
    for content, (status, headers, answer) in zip(files, answers, strict=True):
        assert status == 200 and headers["content-type"] == "application/json"
        assert set(answer) == {"predictions", "model", "version"}
        assert answer["model"] == model.name and answer["version"] == "1.10"
        check_predictions(answer["predictions"], expected_answer(model, content), 1e-6)
    # Not those of another image, which would be found.
    scores = sorted(answer["predictions"][0]["score"] for _, _, answer in answers)
    assert np.diff(scores).min() > 1e-5


@pytest.mark.parametrize(("top", "count"), [(1, 1), (2, 2), (999, 3)])
def test_the_client_says_how_many_classes_it_wants(server, model, top, count):
    status, _, answer = ask(server, path=f"/predict?top={top}", body=encoded())
    assert status == 200
    expected = expected_answer(model, encoded(), count)
    check_predictions(answer["predictions"], expected, 1e-6)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "Received: 0 bytes"),
        (b"<html>no image</html>", "Received: 21 bytes that begin with b'<html>"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "Expected an image file"),
        (encoded(format="JPEG")[:700], "cannot be read as an image"),
        (encoded()[:-100], "cannot be read as an image"),
        (png(60_000, 60_000), "cannot be read as an image"),
        (png(10_000, 10_000), "Received: 10000 x 10000 pixels"),
        (encoded(format="PPM"), "Received: PPM"),
        (bytes(range(256)) * 4, "Received: 1,024 bytes"),
    ],
    ids="empty html svg cut_jpeg cut_png bomb pixels format noise".split(),
)
def test_what_is_no_image_gets_400_and_harms_nobody(server, content, message):
    status, _, answer = ask(server, body=content)
    assert status == 400 and message in answer["error"], answer
    assert "Received: " in answer["error"] and "Traceback" not in answer["error"]
    assert ask(server, body=encoded())[0] == 200


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        ({"path": "/other"}, 404),
        ({"path": "/predict/more"}, 404),
        ({"method": "GET"}, 405),
        ({"method": "DELETE", "path": "/healthz"}, 405),
        ({"body": bytes(100_001)}, 413),
        # In chunks, without Content-Length.
        ({"body": (bytes(10_000) for _ in range(11))}, 413),
        ({"headers": {"Content-Type": "multipart/form-data; boundary=x"}}, 415),
        ({"path": "/predict?top=0"}, 400),
        ({"path": "/predict?top=-1"}, 400),
        ({"path": "/predict?top=many"}, 400),
        ({"path": "/predict?top=" + 5000 * "9"}, 400),
        ({"path": "/predict?top=%C2%B2"}, 400),
    ],
)
def test_a_wrong_request_gets_its_status_and_a_reason(server, request_, status):
    found, headers, answer = ask(server, **{"body": encoded()} | request_)
    assert found == status
    assert answer["error"].startswith("Expected ") and "Received: " in answer["error"]
    assert len(answer["error"]) < 300
    if status == 405:
        assert headers["allow"] in ("POST", "GET, HEAD")


def test_as_many_bytes_as_are_allowed_are_read(server):
    content = encoded()
    assert ask(server, body=content + bytes(100_000 - len(content)))[0] == 200


def test_healthz_tells_what_is_served(server, model):
    status, _, answer = ask(server, "GET", "/healthz")
    assert status == 200
    assert answer == {"status": "ready", "model": model.name, "version": "1.10"}
    assert ask(server, "HEAD", "/healthz")[::2] == (200, None)


def test_other_deployments_call_it_with_a_handle(server, model):
    from ray import serve

    handle = serve.get_app_handle("default")
    answer = handle.classify.remote(encoded(), 2).result(timeout_s=TIMEOUT)
    check_predictions(answer["predictions"], expected_answer(model, encoded(), 2), 1e-6)
    with pytest.raises(ValueError, match="Expected an image file"):
        handle.classify.remote(b"<html>").result(timeout_s=TIMEOUT)


def test_an_exported_file_is_served(small_server, model):
    status, _, answer = ask(small_server, path="/small/predict", body=encoded(3))
    assert status == 200 and len(answer["version"]) == 12
    check_predictions(
        answer["predictions"], expected_answer(model, encoded(3), 2), 2e-5
    )


def test_one_request_too_many_gets_503_and_one_too_late_504(small_server):
    path, body = "/small/predict", encoded()
    with half_sent(small_server, path, body) as rest:
        status, headers, answer = refused(small_server, path, body)
        assert status == 503 and "try again" in answer["error"]
        assert headers["retry-after"] == "1"
        assert ask(small_server, "GET", "/small/healthz")[0] == 200
        status, answer = rest(send=False)
        assert status == 504 and "within 8 seconds" in answer["error"]
    # Its place is free again.
    assert ask(small_server, path=path, body=body)[0] == 200


def test_a_request_in_flight_is_answered_when_the_application_is_deleted(small_server):
    from ray import serve

    path, body = "/small/predict", encoded()
    with (
        half_sent(small_server, path, body) as rest,
        concurrent.futures.ThreadPoolExecutor(1) as executor,
    ):
        assert refused(small_server, path, body)[0] == 503
        deleted = executor.submit(serve.delete, "small")
        time.sleep(1)
        status, answer = rest(send=True)
        assert status == 200 and len(answer["predictions"]) == 2
        deleted.result(timeout=TIMEOUT)
    # Ray's proxy answers, with text, once it knows.
    connection = http.client.HTTPConnection("127.0.0.1", small_server, timeout=TIMEOUT)
    with contextlib.closing(connection):
        connection.request("POST", path, body)
        assert connection.getresponse().status in (404, 503)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"model": 1}, TypeError),
        ({"model": keras.Sequential()}, TypeError),
        ({"top": 0}, ValueError),
        ({"batch_size": 0}, ValueError),
        ({"batch_size": 1.5}, ValueError),
        ({"batch_wait_s": -1}, ValueError),
        ({"threads": 0}, ValueError),
        ({"timeout_s": 0}, ValueError),
        ({"timeout_s": float("inf")}, ValueError),
        ({"max_request_bytes": 0}, ValueError),
        ({"max_pixels": 0}, ValueError),
        ({"max_ongoing_requests": 0}, ValueError),
    ],
)
def test_wrong_arguments_are_refused_before_ray_is_needed(
    monkeypatch, arguments, error
):
    monkeypatch.setitem(sys.modules, "ray.serve", None)
    with pytest.raises(error, match="Received: "):
        serving.application(**{"model": "m.tflite"} | arguments)
    with pytest.raises(ImportError, match=r"keras_cvt\[ray\]"):
        serving.application("m.tflite")


def test_rays_command_line_gives_text():
    application = serving.build(
        {"model": "m.tflite", "version": "1.10", "batch_size": "4", "timeout_s": "2.5"}
    )
    bound = application._bound_deployment
    given = bound.init_kwargs
    assert bound.init_args == (os.path.abspath("m.tflite"),)
    assert given["version"] == "1.10"
    assert given["batch_size"] == 4 and given["timeout_s"] == 2.5
    with pytest.raises(TypeError):
        serving.build({"model": "m.tflite", "batchsize": "4"})


def test_the_package_imports_no_ray():
    program = (
        "import sys, keras_cvt; from keras_cvt import serving, inference; "
        "print([name for name in ('ray', 'starlette') if name in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        timeout=TIMEOUT,
    )
    assert result.stdout.strip() == "[]"


def session(process):
    """Return the processes of the session that a process began."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            # Those that have ended, and wait to be noticed, have no words.
            if os.getsid(int(file.parent.name)) == process.pid and file.read_bytes():
                found.append(int(file.parent.name))
    return found


@contextlib.contextmanager
def example(*arguments):
    """Run `examples/serve.py`. At the end, nothing of it is left."""
    process = subprocess.Popen(
        [sys.executable, EXAMPLES / "serve.py", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )

    def kill():
        for number in session(process):
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)

    # Reading what it prints ends at the latest when it has ended.
    killer = threading.Timer(2 * TIMEOUT, kill)
    killer.start()
    try:
        yield process
    finally:
        killer.cancel()
        kill()
        process.wait(10)
        process.stdout.close()


def test_the_example_answers_until_sigterm_stops_it(model, tmp_path):
    model.save(tmp_path / "m.keras")
    port, body = free_port(), encoded()
    words = ["--model", tmp_path / "m.keras", "--port", port, "--threads", 1]
    with example(*words) as process:
        printed = []
        for line in process.stdout:
            printed.append(line)
            if line.startswith("Ctrl-C"):
                break
        assert f"http://127.0.0.1:{port}/healthz\n" in "".join(printed), printed
        status, _, answer = ask(port, body=body)
        assert status == 200
        check_predictions(answer["predictions"], expected_answer(model, body), 1e-6)
        # What is in flight is answered.
        with half_sent(port, "/predict", body) as rest:
            time.sleep(1)
            process.send_signal(signal.SIGTERM)
            assert process.stdout.readline() == "Stopping ...\n"
            assert rest(send=True) == (200, answer)
        assert process.wait(TIMEOUT) == 0
        end = time.monotonic() + TIMEOUT
        while session(process) and time.monotonic() < end:
            time.sleep(0.1)
        assert not session(process)
    with pytest.raises(OSError):
        ask(port, "GET", "/healthz")
