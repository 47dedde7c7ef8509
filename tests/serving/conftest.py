"""What all tests of servers use."""

import pytest
import ray_cluster
from serving_client import NAMES, free_port
from test_classifier import network


@pytest.fixture(scope="module")
def model():
    model = network()
    model.class_names = NAMES
    return model


@pytest.fixture(scope="module")
def port():
    """Return the port of Ray Serve on a Ray of its own."""
    with ray_cluster.started(cpus=4):
        from ray import serve

        port = free_port()
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        yield port
        serve.shutdown()
