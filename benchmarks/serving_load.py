"""The requests that `serving.py` sends, hostile ones too, and their answers."""

import asyncio
import collections
import contextlib
import json
import os
import statistics
import struct
import time
import zlib
from dataclasses import dataclass

TIMEOUT_S = 20.0  # of the client
NEEDED = 50  # accepted requests for a 99th percentile


@dataclass
class Answer:
    """What came back: index of the request's body, status, seconds, JSON, when."""

    index: int
    status: int
    latency: float
    content: object
    time: float


async def open_loop(port, bodies, indices, rate, seconds, seed=0):
    """Send bodies at a rate of `rate` a second; return the answers."""
    import numpy as np

    rng = np.random.default_rng(seed)
    gaps = rng.exponential(1 / rate, max(1, round(rate * seconds)))
    chosen = rng.choice(len(indices), len(gaps))
    answers = []
    async with client() as session:
        start, due, tasks = time.perf_counter(), 0.0, []
        for gap, choice in zip(gaps, chosen, strict=True):
            due += gap
            await asyncio.sleep(max(0, start + due - time.perf_counter()))
            index = indices[choice]
            tasks.append(
                asyncio.create_task(
                    ask(session, port, index, bodies[index], start + due, answers)
                )
            )
        await asyncio.gather(*tasks)
    return answers


async def closed_loop(port, bodies, seconds, clients=16):
    """Return the requests a second that clients get, each asking all the time."""
    answers = []
    start = time.perf_counter()

    async def one(session, number):
        while time.perf_counter() < start + seconds:
            index = (number + len(answers)) % len(bodies)
            due = time.perf_counter()
            await ask(session, port, index, bodies[index], due, answers)

    async with client() as session:
        await asyncio.gather(*(one(session, number) for number in range(clients)))
    good = sum(answer.status == 200 for answer in answers)
    return good / (time.perf_counter() - start)


def client():
    import aiohttp

    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        timeout=aiohttp.ClientTimeout(total=TIMEOUT_S),
    )


async def ask(session, port, index, body, due, answers):
    import aiohttp

    status, content = 0, None
    try:
        url = f"http://127.0.0.1:{port}/predict"
        async with session.post(url, data=body) as response:
            status, text = response.status, await response.read()
        with contextlib.suppress(ValueError):
            content = json.loads(text)
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        content = f"{type(error).__name__}: {error}"
    now = time.perf_counter()
    answers.append(Answer(index, status, now - due, content, now))


def percentiles(answers):
    """Return the 50th, 95th and 99th percentile of the latencies in ms, as text."""
    accepted = [1000 * a.latency for a in answers if a.status == 200]
    if len(accepted) < 2:
        return ["-"] * 3
    cuts = statistics.quantiles(accepted, n=100, method="inclusive")
    last = f"{cuts[98]:.0f}" if len(accepted) >= NEEDED else "-"
    return [f"{cuts[49]:.0f}", f"{cuts[94]:.0f}", last]


def others(answers):
    """Return how many answers were not 200, by status; 0 is no answer at all."""
    counts = collections.Counter(a.status for a in answers if a.status != 200)
    parts = [f"{s or 'none'}: {n / len(answers):.1%}" for s, n in counts.items()]
    return ", ".join(parts) or "0"


def span(answers):
    """Return the seconds from the first request to the last answer."""
    return max(a.time for a in answers) - min(a.time - a.latency for a in answers)


def count_wrong(answers, expected, tolerance=1e-4):
    """Return how many of the accepted photos got another answer than they should."""
    wrong = 0
    for answer in answers:
        if answer.status != 200 or answer.index >= len(expected):
            continue
        right = expected[answer.index]
        found = answer.content["predictions"]
        scores = {entry["label"]: entry["score"] for entry in found}
        wrong += any(
            abs(scores.get(entry["label"], 9) - entry["score"]) > tolerance
            for entry in right
        )
    return wrong


def hostile(photo):
    """Return requests that do harm: for each a body, and the statuses it may get."""

    def png(width, height, data):
        def chunk(kind, data):
            checked = struct.pack(">I", zlib.crc32(kind + data))
            return struct.pack(">I", len(data)) + kind + data + checked

        header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
        parts = (b"IHDR", header), (b"IDAT", zlib.compress(data)), (b"IEND", b"")
        return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)

    return {
        "empty": (b"", {400}),
        "HTML": (b"<html><body>no image</body></html>", {400}),
        "SVG": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", {400}),
        "truncated JPEG": (photo[: len(photo) // 2], {400}),
        "noise": (os.urandom(50_000), {400}),
        "JPEG's first bytes, then noise": (photo[:20] + os.urandom(50_000), {400}),
        "PNG that declares 60,000 x 60,000": (png(60_000, 60_000, b"0"), {400}),
        "PNG of 10,000 x 10,000": (png(10_000, 10_000, bytes(10_001 * 10_000)), {400}),
        "PNG of 7,000 x 7,000, still allowed": (
            png(7_000, 7_000, bytes(7_001 * 7_000)),
            {200},
        ),
        "20 MB": (bytes(20_000_000), {413}),
    }
