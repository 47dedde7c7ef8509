"""Batches of what arrives one by one, and a replica without Ray around it."""

import asyncio
import json
import threading

import numpy as np
import pytest
from serving_client import TIMEOUT, encoded

from keras_cvt.serving.batching import Batcher
from keras_cvt.serving.replica import ImageClassifier

requests = pytest.importorskip("starlette.requests")


class Recorder:
    """Doubles numbers, and waits for the test to let it."""

    def __init__(self, closed=False):
        self.batches = []
        self.open = threading.Event()
        if not closed:
            self.open.set()

    def __call__(self, items):
        self.batches.append(list(items))
        assert self.open.wait(TIMEOUT)
        if "bad" in items:
            raise RuntimeError("no memory")
        return [2 * item for item in items]


async def until(condition):
    async with asyncio.timeout(TIMEOUT):
        while not condition():
            await asyncio.sleep(0.001)


def run(main):
    async def limited():
        async with asyncio.timeout(TIMEOUT):
            return await main()

    return asyncio.run(limited())


def test_batches_grow_while_the_network_is_busy():
    compute = Recorder(closed=True)

    async def main():
        batcher = Batcher(compute, 4, 0)
        tasks = [asyncio.create_task(batcher(0))]
        await until(lambda: compute.batches)
        # One after the other, as requests come.
        for item in range(1, 8):
            tasks.append(asyncio.create_task(batcher(item)))
            await asyncio.sleep(0.002)
        compute.open.set()
        return await asyncio.gather(*tasks)

    assert run(main) == [2 * item for item in range(8)]
    assert compute.batches == [[0], [1, 2, 3, 4], [5, 6, 7]]


def test_an_idle_network_waits_a_little_for_more():
    compute = Recorder()

    async def main():
        batcher = Batcher(compute, 2, TIMEOUT)
        first = asyncio.create_task(batcher(1))
        await asyncio.sleep(0.05)
        assert not compute.batches
        # A full batch waits no longer.
        return await asyncio.gather(first, batcher(2))

    assert run(main) == [2, 4]
    assert compute.batches == [[1, 2]]

    async def alone():
        return await Batcher(compute, 2, 0.02)(3)

    assert run(alone) == 6


def test_an_error_reaches_its_callers_and_no_others():
    compute = Recorder()

    async def main():
        batcher = Batcher(compute, 2, 0.05)
        calls = [batcher(item) for item in (1, "bad", 3, 4)]
        answers = await asyncio.gather(*calls, return_exceptions=True)
        return answers, await batcher(5)

    answers, later = run(main)
    assert [repr(answer) for answer in answers[:2]] == ["RuntimeError('no memory')"] * 2
    assert answers[2:] == [6, 8] and later == 10


def test_what_nobody_waits_for_is_not_computed():
    compute = Recorder(closed=True)

    async def main():
        batcher = Batcher(compute, 4, 0)
        first = asyncio.create_task(batcher(0))
        await until(lambda: compute.batches)
        tasks = [asyncio.create_task(batcher(item)) for item in (1, 2, 3)]
        await asyncio.sleep(0.002)
        tasks[1].cancel()
        # Cancelled while it is computed: the others of its batch do not suffer.
        first.cancel()
        compute.open.set()
        return await asyncio.gather(first, *tasks, return_exceptions=True)

    answers = run(main)
    assert compute.batches == [[0], [1, 3]]
    assert [type(answer) for answer in answers] == [
        asyncio.CancelledError,
        int,
        asyncio.CancelledError,
        int,
    ]


def replica(model, **changes):
    """Return what runs in a process of Ray Serve, in this one."""
    arguments = {
        "class_names": None,
        "version": None,
        "top": 5,
        "batch_size": 4,
        "batch_wait_s": 0.0,
        "threads": 1,
        "timeout_s": TIMEOUT,
        "max_request_bytes": 2**20,
        "max_pixels": 10**6,
        "max_ongoing_requests": 2,
    }
    return ImageClassifier(model, **arguments | changes)


async def answer_of(served, body):
    """Return the status and the JSON for a request with this body."""

    async def receive():
        return {"type": "http.request", "body": body, "more_body": False}

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/predict",
        "root_path": "",
        "query_string": b"",
        "headers": [],
    }
    response = await served(requests.Request(scope, receive))
    return response.status_code, json.loads(response.body)


def test_a_slow_network_gets_504_and_computes_nothing_for_who_has_it(model):
    served = replica(model, timeout_s=1.0)
    compute = Recorder(closed=True)
    scores = np.array([0.2, 0.7, 0.1], "float32")
    batches = []

    def slow(images):
        batches.append(len(images))
        assert compute.open.wait(TIMEOUT)
        return [scores] * len(images)

    served._batcher = Batcher(slow, 4, 0)

    async def main():
        first = asyncio.create_task(answer_of(served, encoded()))
        await until(lambda: batches)
        late = [await first, await answer_of(served, encoded())]
        compute.open.set()
        return late, await answer_of(served, encoded())

    late, (status, answer) = run(main)
    assert [status for status, _ in late] == [504, 504]
    assert status == 200 and answer["predictions"][0]["label"] == "rose"
    # The second one was given up before its turn.
    assert batches == [1, 1]


def test_a_network_that_fails_gets_500_without_details(model, caplog):
    """It is no fault of the image, even if the network raises a ValueError."""
    served = replica(model)

    def fail(images):
        raise ValueError("secret")

    served._batcher = Batcher(fail, 4, 0)
    status, answer = run(lambda: answer_of(served, encoded()))
    assert status == 500 and "secret" not in answer["error"]
    assert "secret" in caplog.text
