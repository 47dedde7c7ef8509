"""The servers that `serving.py` compares. Each runs until SIGTERM."""

import asyncio
import contextlib
import functools
import io
import json
import signal

TIMEOUT_S = 10.0  # of a request, half of the client's


def ray_serve(args, file="model.keras", batch_size=None, replica=None):
    """Serve with `keras_cvt.serving` until SIGTERM."""
    import ray
    from ray import serve

    from keras_cvt.serving import application

    if replica is not None:
        application.__globals__["ImageClassifier"] = replica()
    app = application(
        args.files / file,
        batch_size=batch_size or args.batch_size,
        threads=args.threads,
        timeout_s=TIMEOUT_S,
        max_ongoing_requests=4 * args.batch_size,
    )
    ray.init(
        "local",
        num_cpus=args.threads,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=200 * 2**20,
    )
    quiet = {"log_level": "ERROR", "enable_access_log": False}
    serve.start(http_options={"port": args.port}, logging_config=quiet)
    serve.run(app, logging_config=quiet)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    print("ready", flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        signal.pause()
    ray.shutdown()


def serve_batch_replica():
    """Return the replica with `ray.serve.batch` in place of its own batches."""
    from ray import serve

    from keras_cvt.serving.replica import ImageClassifier

    class Replica(ImageClassifier):
        def __init__(self, *args, batch_size, batch_wait_s, **kwargs):
            super().__init__(
                *args, batch_size=batch_size, batch_wait_s=batch_wait_s, **kwargs
            )
            self._batcher = self._batched
            self._batched.set_max_batch_size(batch_size)
            self._batched.set_batch_wait_timeout_s(batch_wait_s)

        @serve.batch
        async def _batched(self, images):
            loop = asyncio.get_running_loop()
            return list(await loop.run_in_executor(None, self._scores, images))

    return Replica


def saved_model(args):
    """Serve the SavedModel's signature for bytes with Starlette, in this process."""
    import tensorflow as tf

    loaded = tf.saved_model.load(str(args.files / "model_folder"))
    classify = loaded.signatures["classify_encoded"]

    def predict(content):
        try:
            found = classify(encoded=tf.constant([content]))
        except tf.errors.InvalidArgumentError as error:
            return 400, {"error": error.message}
        labels = [label.decode() for label in found["labels"].numpy()[0]]
        return 200, {"labels": labels, "scores": found["scores"].numpy()[0].tolist()}

    starlette_server(args, predict)


def transformers_server(args):
    """Serve transformers' PyTorch CvT with FastAPI, in this process."""
    import numpy as np
    import torch
    from PIL import Image
    from transformers import CvtConfig, CvtForImageClassification

    torch.set_num_threads(args.threads)
    settings = json.loads((args.files / "transformers.json").read_text())
    network = CvtForImageClassification(CvtConfig(**settings)).eval()
    size = settings["image_size"]
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

    def predict(content):
        try:
            image = Image.open(io.BytesIO(content)).convert("RGB")
        except OSError as error:
            return 400, {"error": str(error)}
        scale = size / 0.875 / min(image.size)
        image = image.resize([round(side * scale) for side in image.size], 3)
        left, top = ((side - size) // 2 for side in image.size)
        image = image.crop((left, top, left + size, top + size))
        pixels = (np.asarray(image, "float32") / 255 - mean) / std
        batch = torch.from_numpy(pixels.astype("float32")).permute(2, 0, 1)[None]
        with torch.inference_mode():
            best = network(batch).logits.softmax(-1)[0].topk(5)
        return 200, {"labels": best.indices.tolist(), "scores": best.values.tolist()}

    starlette_server(args, predict)


def starlette_server(args, predict):
    """Serve a function of the bytes with FastAPI and uvicorn until SIGTERM."""
    from concurrent.futures import ThreadPoolExecutor

    import uvicorn
    from fastapi import FastAPI, Request
    from fastapi.responses import JSONResponse

    # One call at a time has all threads; the event loop stays free.
    executor = ThreadPoolExecutor(1)
    app = FastAPI()

    @app.post("/predict")
    async def answer(request: Request):
        content = await request.body()
        loop = asyncio.get_running_loop()
        status, found = await loop.run_in_executor(executor, predict, content)
        return JSONResponse(found, status)

    for photo in sorted(args.files.glob("photo*.jpg"))[:3]:
        predict(photo.read_bytes())
    config = uvicorn.Config(app, port=args.port, log_level="error", access_log=False)
    server = uvicorn.Server(config)

    async def serve():
        running = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
        print("ready", flush=True)
        await running

    asyncio.run(serve())


OURS = "Ray Serve"
SERVERS = {
    OURS: ray_serve,
    f"{OURS}, without batches": functools.partial(ray_serve, batch_size=1),
    f"{OURS}, serve.batch": functools.partial(ray_serve, replica=serve_batch_replica),
    f"{OURS}, SavedModel": functools.partial(ray_serve, file="model_folder"),
    f"{OURS}, OpenVINO file": functools.partial(ray_serve, file="model.xml"),
    "SavedModel for bytes, FastAPI": saved_model,
    "transformers, FastAPI": transformers_server,
}
