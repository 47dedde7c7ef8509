"""A client of the server's, without a library, and the answers that it should get."""

import contextlib
import http.client
import io
import json
import socket
import struct
import time
import zlib

import numpy as np
from PIL import Image

import keras_cvt
from keras_cvt.inference import classifier_of

NAMES = ["daisy", "rose", "tulip"]
# Seconds. A busy machine may need many of them.
TIMEOUT = 60


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def encoded(seed=0, size=(40, 32), format="PNG"):
    """Return the bytes of an image file of (width, height)."""
    random = np.random.default_rng(seed)
    # Each image has a colour of its own.
    pixels = random.integers(0, random.integers(40, 256, 3), (*size[::-1], 3), "uint8")
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format)
    return file.getvalue()


def png(width, height):
    """Return a small file that declares any number of pixels."""

    def chunk(kind, data):
        checked = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + checked

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = (b"IHDR", header), (b"IDAT", zlib.compress(b"0")), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def ask(port, method="POST", path="/predict", body=None, headers=None):
    """Return the status, the headers and the JSON of an answer, or Ray's own text."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)
    with contextlib.closing(connection):
        connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        content = response.read()
        is_json = "json" in response.getheader("content-type", "")
        found = json.loads(content) if is_json and content else content or None
        return response.status, dict(response.getheaders()), found


@contextlib.contextmanager
def half_sent(port, path, body):
    """A request whose last byte is missing; yields what sends it and reads on."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)
    with contextlib.closing(connection):
        connection.putrequest("POST", path)
        connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body[:-1])

        def rest(send):
            if send:
                connection.send(body[-1:])
            response = connection.getresponse()
            return response.status, json.loads(response.read())

        time.sleep(0.3)  # so that it is the first to arrive
        yield rest


def refused(port, path, body):
    """Return the first answer that is no 200, or the last one."""
    end = time.monotonic() + 4
    while True:
        status, headers, answer = ask(port, path=path, body=body)
        if status != 200 or time.monotonic() > end:
            return status, headers, answer
        time.sleep(0.02)


def expected_answer(model, content, top=5):
    """Return what the application promises to answer for an image file."""
    classifier = classifier_of(model)
    with Image.open(io.BytesIO(content)) as image:
        pixels = keras_cvt.preprocess_input(image, model)
    return classifier.best(classifier.scores(pixels), top)[0]


def check_predictions(found, expected, atol):
    assert [set(entry) for entry in found] == [{"label", "score"}] * len(expected)
    assert [e["label"] for e in found] == [e["label"] for e in expected]
    scores = [[e["score"] for e in entries] for entries in (found, expected)]
    np.testing.assert_allclose(*scores, rtol=0, atol=atol)
