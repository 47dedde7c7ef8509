"""Serve a classifier over HTTP with Ray Serve.

    python examples/serve.py --model tuned/best.keras
    curl --data-binary @photo.jpg http://127.0.0.1:8000/predict

Ctrl-C or SIGTERM stops it; requests in flight are answered first.
"""

import argparse
import logging
import os
import signal
import threading

# Before Ray is imported.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import options as common

from keras_cvt import serving
from keras_cvt._utils.optional import require
from keras_cvt.cli import arguments, loading


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model",
        default="cvt13",
        help=f"{arguments.MODEL_HELP}, or what `keras-cvt export` wrote (default: "
        "%(default)s)",
    )
    arguments.add_weights(parser)
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen at; 0.0.0.0 lets other machines in (default: "
        "%(default)s)",
    )
    arguments.add_number(parser, "--port", "port to listen at", 8000)
    arguments.add_number(parser, "--replicas", "processes that hold the network", 1)
    arguments.add_number(parser, "--threads", "threads of each of them", os.cpu_count())
    arguments.add_number(parser, "--batch-size", "most images computed at once", 8)
    arguments.add_number(parser, "--top", "classes of an answer", 5)
    return parser.parse_args()


def main():
    options = parse_arguments()
    ray = require("ray", "ray", "Serving")
    serve = require("ray.serve", "ray", "Serving")
    model, class_names = loading.model_or_exported(options)
    application = serving.application(
        model,
        class_names=class_names,
        top=options.top,
        batch_size=options.batch_size,
        threads=options.threads,
        num_replicas=options.replicas,
    )
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    ray.init(
        "local",
        num_cpus=options.replicas * options.threads,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="error",
    )
    stopped = threading.Event()

    def stop(number, frame):
        stopped.set()
        raise KeyboardInterrupt

    # Only now, since Ray has a handler of its own. Shells start programs in the
    # background with SIGINT ignored.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    try:
        quiet = {"log_level": "ERROR", "enable_access_log": False}
        http = {"host": options.host, "port": options.port}
        serve.start(http_options=http, logging_config=quiet)
        serve.run(application, logging_config=quiet)
        address = f"http://{options.host}:{options.port}"
        print(
            f"Ready. Try\n  curl --data-binary @photo.jpg {address}/predict\n"
            f"  curl {address}/healthz\nCtrl-C stops the server.",
            flush=True,
        )
        # `signal.pause` would miss a signal that came just before it.
        while not stopped.wait(1):
            pass
        raise KeyboardInterrupt
    except KeyboardInterrupt:
        print("Stopping ...", flush=True)
        # Before Ray stops, which would drop the requests in flight.
        serve.delete("default")
    finally:
        ray.shutdown()


if __name__ == "__main__":
    common.run(main)
