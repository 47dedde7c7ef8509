"""Several replicas of one application, and what happens when one is killed."""

import concurrent.futures
import os
import signal
import time

import pytest
import ray_cluster
from serving_client import (
    TIMEOUT,
    ask,
    check_predictions,
    encoded,
    expected_answer,
)

from keras_cvt import serving

pytest.importorskip("ray.serve")

TITLE = "ray::ServeReplica"
# Of other clusters on this machine.
others = set()


@pytest.fixture(scope="module")
def server(port, model):
    """Return the port of a server with two replicas."""
    from ray import serve

    others.update(ray_cluster.processes(TITLE))
    serve.run(
        serving.application(
            model, batch_size=2, threads=1, timeout_s=TIMEOUT, num_replicas=2
        )
    )
    return port


def replicas():
    return set(ray_cluster.processes(TITLE)) - others


def ask_all(port, files):
    with concurrent.futures.ThreadPoolExecutor(len(files)) as executor:
        return list(executor.map(lambda body: ask(port, body=body), files))


def ticks_of(processes):
    """Return the processor time of each process, in ticks of 10 ms."""
    ticks = {}
    for process in processes:
        with open(f"/proc/{process}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
        ticks[process] = int(fields[11]) + int(fields[12])
    return ticks


def check(model, files, answers):
    for content, (status, _, answer) in zip(files, answers, strict=True):
        assert status == 200, answer
        check_predictions(answer["predictions"], expected_answer(model, content), 1e-6)


def test_all_replicas_compute_and_give_the_same_answers(server, model):
    assert len(replicas()) == 2
    # Fewer than one replica takes at the same time: Ray may send it all of them. In the
    # long run it sends each request to the less busy of the two.
    files = [encoded(seed, (300, 300)) for seed in range(6)]
    computed = dict.fromkeys(replicas(), 0)
    end = time.monotonic() + TIMEOUT
    while not all(ticks > 20 for ticks in computed.values()):
        assert time.monotonic() < end, computed
        used = ticks_of(computed)
        start = time.monotonic()
        check(model, files, ask_all(server, files))
        busy = ticks_of(computed)
        # What a replica uses without requests does not count.
        time.sleep(time.monotonic() - start)
        idle = ticks_of(computed)
        for each in computed:
            computed[each] += (busy[each] - used[each]) - (idle[each] - busy[each])


def test_the_others_answer_while_a_killed_replica_is_replaced(server, model):
    killed = min(replicas())
    os.kill(killed, signal.SIGKILL)
    files = [encoded(seed) for seed in range(4)]
    end, right = time.monotonic() + TIMEOUT, 0
    while time.monotonic() < end:
        answers = ask_all(server, files)
        # What was sent to the killed one before Ray knew of it gets an error of Ray's.
        good = [n for n, answer in enumerate(answers) if answer[0] == 200]
        check(model, [files[n] for n in good], [answers[n] for n in good])
        right = right + 1 if len(good) == len(files) else 0
        if right > 3 and len(replicas()) == 2:
            break
    assert right > 3 and len(replicas()) == 2 and killed not in replicas()
