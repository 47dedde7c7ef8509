"""The process that answers: requests to images, images to batches, scores to JSON."""

import asyncio
import hashlib
import json
import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_cvt.inference import classifier_of
from keras_cvt.models import CvTModel
from keras_cvt.preprocessing.images import PathLike
from keras_cvt.serving.batching import Batcher
from keras_cvt.serving.requests import RefusedError, read_body, read_image

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

logger = logging.getLogger(__name__)

_METHODS = {"/predict": ("POST",), "/healthz": ("GET", "HEAD")}


class ImageClassifier:
    """What Ray Serve runs in each replica; see `keras_cvt.serving.application`.

    It is ready when the network has computed a batch of every size.
    """

    def __init__(
        self,
        model: CvTModel | PathLike,
        *,
        class_names: Sequence[str] | None,
        version: str | None,
        top: int,
        batch_size: int,
        batch_wait_s: float,
        threads: int | None,
        timeout_s: float,
        max_request_bytes: int,
        max_pixels: int,
        max_ongoing_requests: int,
    ):
        self._classifier = classifier_of(
            model, class_names=class_names, threads=threads
        )
        origin = self._classifier.origin
        digest = hashlib.sha256(json.dumps(origin, sort_keys=True).encode())
        self._about = {
            "model": origin["model"],
            "version": version or digest.hexdigest()[:12],
        }
        self._top = top
        self._timeout_s = timeout_s
        self._max_request_bytes = max_request_bytes
        self._max_pixels = max_pixels
        self._max_ongoing_requests = max_ongoing_requests
        self._ongoing = 0
        self._readers = ThreadPoolExecutor(threads or os.cpu_count(), "keras_cvt_read")
        self._batcher = Batcher(self._scores, batch_size, batch_wait_s)
        self._sizes = sizes(batch_size)
        image_size = self._classifier.eval_transform.image_size
        for size in self._sizes:
            self._scores([np.zeros((*image_size, 3), "float32")] * size)

    async def classify(self, content: bytes, top: int | None = None) -> dict[str, Any]:
        """Classify an image. Other deployments call this with a `DeploymentHandle`.

        Args:
            content: The bytes of an image file.
            top: Number of classes. Defaults to `None`, the application's.

        Returns:
            `"predictions"`, as `keras_cvt.inference.Classifier.best` returns them,
            `"model"` and `"version"`.

        Raises:
            ValueError: If it is no image that can be read.
        """
        return await self._classify_image(await self._read(content), top)

    async def __call__(self, request: "Request") -> "Response":
        """Answer an HTTP request with JSON."""
        from starlette.responses import JSONResponse

        status, headers = 200, {}
        try:
            async with asyncio.timeout(self._timeout_s):
                answer = await self._answer(request)
        except RefusedError as error:
            status, headers, answer = error.status, error.headers, _error(error)
        except TimeoutError:
            status = 504
            answer = _error(f"Expected an answer within {self._timeout_s:g} seconds")
        except Exception:
            logger.exception("A request failed")
            status, answer = 500, _error("The server failed; its log says why")
        return JSONResponse(answer, status, headers)

    async def _answer(self, request):
        path = request.scope["path"].removeprefix(request.scope.get("root_path", ""))
        if path not in _METHODS:
            raise RefusedError(
                404, f"Expected POST /predict or GET /healthz. Received: {path:.80}"
            )
        allowed = _METHODS[path]
        if request.method not in allowed:
            raise RefusedError(
                405,
                f"Expected {allowed[0]} {path}. Received: {request.method} {path}",
                Allow=", ".join(allowed),
            )
        if path == "/healthz":
            return {"status": "ready", **self._about}
        if self._ongoing >= self._max_ongoing_requests:
            raise RefusedError(
                503,
                f"Expected at most {self._max_ongoing_requests} requests at the same "
                f"time; try again. Received: one more",
                **{"Retry-After": "1"},
            )
        self._ongoing += 1
        try:
            top = _parse_top(request.query_params.get("top"))
            content = await read_body(request, self._max_request_bytes)
            try:
                image = await self._read(content)
            except ValueError as error:
                raise RefusedError(400, str(error)) from error
            return await self._classify_image(image, top)
        finally:
            self._ongoing -= 1

    async def _read(self, content):
        return await asyncio.get_running_loop().run_in_executor(
            self._readers,
            read_image,
            content,
            self._classifier.eval_transform,
            self._max_pixels,
        )

    async def _classify_image(self, image, top):
        scores = await self._batcher(image)
        (best,) = self._classifier.best(scores[None], top or self._top)
        return {"predictions": best, **self._about}

    def _scores(self, images):
        size = next(size for size in self._sizes if size >= len(images))
        return self._classifier.scores(np.stack(images), size)


def sizes(batch_size: int) -> list[int]:
    """Return the batch sizes that the network is compiled for: 1, 2, 3, 4, 6, 8, 12 ...

    A batch takes the next larger one, which is less than half again as large.
    """
    steps = (n << i for i in range(batch_size.bit_length()) for n in (1, 3))
    return sorted({batch_size, *(n for n in steps if n < batch_size)})


def _parse_top(text):
    if text is None:
        return None
    # Python refuses to read numbers of thousands of digits.
    short = text.isascii() and text.isdecimal() and len(text) < 10
    if not (short and int(text) > 0):
        raise RefusedError(
            400, f"Expected a positive integer. Received: top={text:.20}"
        )
    return int(text)


def _error(error):
    return {"error": str(error)}
