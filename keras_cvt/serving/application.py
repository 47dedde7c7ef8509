"""Ray Serve applications that classify images."""

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import keras

from keras_cvt._utils import validation
from keras_cvt._utils.optional import require
from keras_cvt.models import CvTModel
from keras_cvt.preprocessing.images import PathLike
from keras_cvt.serving.replica import ImageClassifier

if TYPE_CHECKING:
    from ray.serve import Application

# Requests that a replica takes beyond those with images, so that /healthz is answered
# and others are refused while it is busy.
_SPARE = 16
# Environment variables of PyTorch and ONNX Runtime, and of TensorFlow.
_THREADS = ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")


def application(
    model: CvTModel | PathLike,
    *,
    class_names: Sequence[str] | None = None,
    version: str | None = None,
    top: int = 5,
    batch_size: int = 8,
    batch_wait_s: float = 0.005,
    threads: int | None = None,
    timeout_s: float = 10.0,
    max_request_bytes: int = 2**24,
    max_pixels: int = 50_000_000,
    max_ongoing_requests: int | None = None,
    **options: Any,
) -> "Application":
    """Return a Ray Serve application that classifies images.

    `POST /predict` with the bytes of an image file as the body answers, in JSON,
    `predictions` (`label` and `score`, for ImageNet also `wnid`, highest score first),
    `model` and `version`. `POST /predict?top=1` answers with one class. The scores are
    those of `keras_cvt.inference.Classifier`. `GET /healthz` answers 200 when a replica
    has loaded the network and computed with it.

    Errors are JSON with `error`: 400 (no image that can be read), 404, 405, 413 (too
    many bytes), 415 (a form), 503 (too many requests; try again), 504 (too late). When
    even refusals wait, Ray itself answers 503, with plain text.

    Other deployments of an application call `handle.classify.remote(content, top)`.

    Args:
        model: What `keras_cvt.inference.classifier_of` takes: a Keras model, the path
            of a `.keras` file or of an exported file. Each replica opens the path
            itself. A Keras model is sent to each replica, by way of Ray's controller;
            prefer a path for large ones.
        class_names: A name for each class. Defaults to `None`: the model's.
        version: What `version` answers. Defaults to `None`: a hash of the weights.
        top: Number of classes of an answer. Defaults to `5`.
        batch_size: Most images that the network computes at once. Defaults to `8`.
        batch_wait_s: Seconds that an idle network waits for more images after one.
            Defaults to `0.005`.
        threads: Threads of the network, and CPUs that Ray reserves, for each replica.
            Defaults to `None`: the runtime's own choice, mostly all processors, with
            one CPU reserved.
        timeout_s: Seconds in which a replica answers, or with 504. Defaults to `10.0`.
        max_request_bytes: Most bytes of an image file. Defaults to `2**24`, 16 MiB.
        max_pixels: Most pixels of an image. Three times as many bytes are needed to
            decode it, for each thread. Pillow's own limit, 178,956,970, holds as well.
            Defaults to `50_000_000`.
        max_ongoing_requests: Requests that one replica reads, keeps waiting or computes
            at the same time. The next one gets 503. Defaults to `None`: four batches.
        **options: Options of `ray.serve.deployment`, such as `num_replicas`,
            `autoscaling_config` and `ray_actor_options`.

    Raises:
        TypeError: If the model is neither a CvT nor a path.
        ValueError: If an argument is out of range.
        ImportError: If Ray Serve cannot be imported.

    Example:
        ```python
        from ray import serve

        app = serving.application("cvt13.tflite", threads=2, num_replicas=4)
        serve.run(app)  # or `serve run module:app` in a shell
        ```
    """
    if not isinstance(model, (CvTModel, str, os.PathLike)):
        raise TypeError(
            "Expected a CvT model or the path of a file. Received: "
            f"{type(model).__name__}"
        )
    if max_ongoing_requests is None:
        max_ongoing_requests = 4 * batch_size
    validation.check_int(
        1,
        top=top,
        batch_size=batch_size,
        max_request_bytes=max_request_bytes,
        max_pixels=max_pixels,
        max_ongoing_requests=max_ongoing_requests,
    )
    if threads is not None:
        validation.check_int(1, threads=threads)
    validation.check_non_negative(batch_wait_s=batch_wait_s)
    validation.check(
        lambda x: validation.is_number(x) and x > 0,
        "a positive number",
        timeout_s=timeout_s,
    )
    serve = require("ray.serve", "ray", "Serving")
    defaults = {
        "max_ongoing_requests": max_ongoing_requests + _SPARE,
        "max_queued_requests": max_ongoing_requests + _SPARE,
        # Requests that were accepted are answered before the process ends.
        "graceful_shutdown_timeout_s": timeout_s + 5,
    }
    actor = _actor_options(options.pop("ray_actor_options", None) or {}, threads)
    deployment = serve.deployment(
        ImageClassifier, **(defaults | options), ray_actor_options=actor
    )
    return deployment.bind(
        model if isinstance(model, CvTModel) else os.path.abspath(model),
        class_names=class_names,
        version=version,
        top=top,
        batch_size=batch_size,
        batch_wait_s=batch_wait_s,
        threads=threads,
        timeout_s=timeout_s,
        max_request_bytes=max_request_bytes,
        max_pixels=max_pixels,
        max_ongoing_requests=max_ongoing_requests,
    )


def build(arguments: dict[str, Any]) -> "Application":
    """Return `application(**arguments)`, for Ray's command line and YAML files.

    Args:
        arguments: Arguments of `application`. Numbers may be text, as `serve run
            keras_cvt.serving:build model=cvt13.tflite batch_size=4` gives them.

    Raises:
        TypeError: If there is no such argument.
        ValueError: If an argument is out of range.
        ImportError: If Ray Serve cannot be imported.
    """
    # A version such as "1.10" is no number.
    parsed = {
        name: value if name in ("model", "version") else _parse(value)
        for name, value in arguments.items()
    }
    return application(**parsed)


def _parse(value):
    for number in (int, float):
        try:
            return number(value) if isinstance(value, str) else value
        except ValueError:
            pass
    return value


def _actor_options(given: Mapping[str, Any], threads: int | None) -> dict[str, Any]:
    """Return Ray's options of a replica: CPUs, and the environment to start in."""
    environment = {"KERAS_BACKEND": keras.backend.backend()}
    if threads is not None:
        environment |= dict.fromkeys(_THREADS, str(threads))
    runtime = dict(given.get("runtime_env") or {})
    runtime["env_vars"] = environment | runtime.get("env_vars", {})
    return {"num_cpus": threads or 1} | dict(given) | {"runtime_env": runtime}
