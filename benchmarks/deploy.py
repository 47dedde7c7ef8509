"""Measure exported files of keras_cvt and of PyTorch on the CPU, each in its runtime.

`interleaved.py` runs the processes and takes the medians. keras_cvt is compared with
transformers' PyTorch CvT, and with that model's ONNX file on ONNX Runtime and OpenVINO.
Precision differs, so each row of keras_cvt says how far its logits are from those of
the Keras model in float32. bfloat16 is measured if the processor multiplies it.

    python benchmarks/deploy.py --output benchmarks/RESULTS.md
"""

import datetime
import functools
import statistics
import subprocess
import sys
from pathlib import Path

import interleaved
import networks
import reports

BASELINES = ("transformers eager", "PyTorch's ONNX, OpenVINO")
PACKAGES = (
    *reports.PACKAGES,
    "ai-edge-litert",
    "ai-edge-quantizer",
    "onnxruntime",
    "openvino",
)
LITERT = {
    "keras_cvt LiteRT float32": None,
    "keras_cvt LiteRT float16": "float16",
    "keras_cvt LiteRT dynamic_int8": "dynamic_int8",
    "keras_cvt LiteRT int8": "int8",
}
# Made by ONNX Runtime's own `quantize_dynamic`. keras_cvt has no such quantization.
ONNX_INT8 = "keras_cvt ONNX, quantize_dynamic, ONNX Runtime"
OPENVINO_BFLOAT16 = "keras_cvt OpenVINO, bfloat16"
COMPILED_BFLOAT16 = "keras_cvt compiled call, mixed_bfloat16"
TORCH_BFLOAT16 = "PyTorch's ONNX, OpenVINO, bfloat16"


def files(args, batch_size):
    """Return the files of a batch size: contender -> path."""
    folder = Path(args.config_file).parent
    return {
        "PyTorch's ONNX, ONNX Runtime": folder / f"torch{batch_size}.onnx",
        "PyTorch's ONNX, OpenVINO": folder / f"torch{batch_size}.onnx",
        TORCH_BFLOAT16: folder / f"torch{batch_size}.onnx",
        "keras_cvt SavedModel": folder / f"saved_model{batch_size}",
        "keras_cvt ONNX, ONNX Runtime": folder / f"keras{batch_size}.onnx",
        ONNX_INT8: folder / f"keras_int8_{batch_size}.onnx",
        "keras_cvt OpenVINO": folder / f"keras{batch_size}.xml",
        OPENVINO_BFLOAT16: folder / f"keras{batch_size}.xml",
        **{name: folder / f"{q}{batch_size}.tflite" for name, q in LITERT.items()},
    }


def model_file(args):
    return Path(args.config_file).parent / "model.keras"


def logits_file(args, name, batch_size):
    return Path(args.config_file).parent / f"{name}, {batch_size}.npy"


REFERENCE = "Keras in float32"


# ---------------------------------------------------------------- preparation


def prepare_keras(args):
    import numpy as np
    from onnxruntime.quantization import quantize_dynamic

    from keras_cvt.deploy import export_in_subprocess

    model = networks.keras_model(args, classifier_activation=None)
    model.save(model_file(args))
    images = networks.pixels(32, args.image_size)
    for batch_size in args.batch_sizes:
        pixels = networks.pixels(batch_size, args.image_size)
        logits = model.predict(pixels, verbose=0)
        np.save(logits_file(args, REFERENCE, batch_size), logits)
        paths = files(args, batch_size)
        quantizations = {
            "keras_cvt SavedModel": None,
            "keras_cvt ONNX, ONNX Runtime": None,
            "keras_cvt OpenVINO": None,
            **LITERT,
        }
        for name, quantization in quantizations.items():
            export_in_subprocess(
                model_file(args),
                paths[name],
                quantization=quantization,
                representative_images=images if quantization == "int8" else None,
                batch_size=batch_size,
                image_size=(args.image_size,) * 2,
            )
        quantize_dynamic(paths["keras_cvt ONNX, ONNX Runtime"], paths[ONNX_INT8])


def prepare_torch(args):
    import torch

    class Logits(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = networks.transformers_model(args)

        def forward(self, pixels):
            return self.model(pixels).logits

    for batch_size in args.batch_sizes:
        pixels = torch.zeros(batch_size, 3, args.image_size, args.image_size)
        path = files(args, batch_size)["PyTorch's ONNX, OpenVINO"]
        # The TorchScript exporter needs no further package.
        torch.onnx.export(
            Logits().eval(), (pixels,), path, dynamo=False, opset_version=17
        )


PREPARATIONS = {"prepare keras_cvt": prepare_keras, "prepare torch": prepare_torch}


# ---------------------------------------------------------------- contenders


# Files are opened without keras_cvt, so that a process's peak memory is that of the
# runtime. Each function returns a call that computes the logits.


def compiled_call(args, policy="float32", fuse=False):
    networks.tensorflow(args.threads)
    import keras

    keras.config.set_dtype_policy(policy)
    model = networks.keras_model(args, classifier_activation=None)
    model.load_weights(model_file(args))
    if fuse:
        from keras_cvt import deploy

        model = deploy.fuse(model)
    return networks.compiled_call(args, model)


def saved_model(args):
    loaded = networks.tensorflow(args.threads).saved_model.load(path(args))
    images = networks.pixels(args.batch_size, args.image_size)
    call = loaded.signatures["serving_default"]
    # `loaded` owns the signature's resources.
    return lambda owner=loaded: call(images=images)["outputs"].numpy(), args.batch_size


def litert(args):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(path(args), num_threads=args.threads)
    runner = interpreter.get_signature_runner("serving_default")
    images = networks.pixels(args.batch_size, args.image_size)
    return lambda: runner(images=images)["outputs"], args.batch_size


def onnx(args):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = args.threads
    session = onnxruntime.InferenceSession(
        path(args), options, providers=["CPUExecutionProvider"]
    )
    images = layout(args, session.get_inputs()[0].shape)
    inputs = {session.get_inputs()[0].name: images}
    return lambda: session.run(None, inputs)[0], args.batch_size


def openvino(args, precision="f32"):
    import openvino

    compiled = openvino.compile_model(
        path(args),
        "CPU",
        {
            "INFERENCE_NUM_THREADS": args.threads,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": precision,
        },
    )
    images = layout(args, compiled.inputs[0].shape)
    return lambda: compiled(images)[0], args.batch_size


def path(args):
    return str(files(args, args.batch_size)[args.worker])


def layout(args, shape):
    """Return images as a file takes them: those of PyTorch take (B, 3, H, W) of 0-1."""
    import numpy as np

    images = networks.pixels(args.batch_size, args.image_size)
    if shape[1] != 3:
        return images
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2) / 255)


def remembered(contender):
    """Return a contender that saves its logits before it is timed."""

    def start(args):
        import numpy as np

        run, images = contender(args)
        logits = np.asarray(run(), "float32")
        np.save(logits_file(args, args.worker, args.batch_size), logits)
        return run, images

    return start


BFLOAT16 = {
    "keras_cvt compiled call, fused, mixed_bfloat16": functools.partial(
        compiled_call, policy="mixed_bfloat16", fuse=True
    ),
    COMPILED_BFLOAT16: functools.partial(compiled_call, policy="mixed_bfloat16"),
    OPENVINO_BFLOAT16: functools.partial(openvino, precision="bf16"),
}
TORCH_BFLOAT16_PEERS = {
    "transformers eager, bfloat16": networks.transformers_bfloat16,
    TORCH_BFLOAT16: functools.partial(openvino, precision="bf16"),
}
OURS = {
    "keras_cvt compiled call": compiled_call,
    "keras_cvt compiled call, fused": functools.partial(compiled_call, fuse=True),
    "keras_cvt SavedModel": saved_model,
    "keras_cvt ONNX, ONNX Runtime": onnx,
    ONNX_INT8: onnx,
    "keras_cvt OpenVINO": openvino,
    **dict.fromkeys(LITERT, litert),
    **(BFLOAT16 if reports.has_bfloat16() else {}),
}
CONTENDERS = {
    "transformers eager": networks.transformers_eager,
    "PyTorch's ONNX, ONNX Runtime": onnx,
    "PyTorch's ONNX, OpenVINO": openvino,
    **(TORCH_BFLOAT16_PEERS if reports.has_bfloat16() else {}),
    **{name: remembered(contender) for name, contender in OURS.items()},
}


# ---------------------------------------------------------------- report


def speed_rows(args):
    for batch_size in args.batch_sizes:
        speeds, memory = interleaved.compare(args, CONTENDERS, batch_size)
        paths = files(args, batch_size)
        sizes = {name: size(path) for name, path in paths.items()}
        for name, seen in speeds.items():
            yield (
                name,
                batch_size,
                f"{statistics.median(seen):.1f}",
                f"{min(seen):.1f}-{max(seen):.1f}",
                *interleaved.ratios(seen, speeds, BASELINES),
                *(agreement(args, name, batch_size) if name in OURS else ("", "")),
                f"{memory[name] / 2**20:.0f}",
                f"{sizes[name] / 2**20:.1f}" if name in sizes else "",
            )


def agreement(args, name, batch_size):
    """Return the logits' largest difference from Keras's and their smallest cosine."""
    import numpy as np

    expected, found = (
        np.load(logits_file(args, which, batch_size)).astype("float64")
        for which in (REFERENCE, name)
    )
    norms = np.linalg.norm(expected, axis=1) * np.linalg.norm(found, axis=1)
    cosines = np.sum(expected * found, axis=1) / norms
    return f"{np.abs(found - expected).max():.1e}", f"{cosines.min():.6f}"


def size(path):
    from keras_cvt.deploy import formats

    return formats.of_path(path).size(path)


def report(args):
    lines = [
        f"## {datetime.date.today()}: exported {args.model} at {args.image_size}",
        "",
        f"`{reports.command_line()}`",
        "",
        f"- {reports.processor()}",
        f"- {reports.versions(PACKAGES)}",
        f"- {args.threads} threads; random weights; medians over {args.rounds} rounds, "
        "the contenders interleaved",
        "- difference (the largest of a logit) and cosine (the smallest of an image) "
        "are to the float32 Keras model's logits",
        "",
    ]
    header = (
        "contender",
        "batch",
        "images/s",
        "min-max",
        *(f"x {name}" for name in BASELINES),
        "difference",
        "cosine",
        "peak memory, MiB",
        "file, MiB",
    )
    return "\n".join([*lines, *reports.table(header, speed_rows(args))]) + "\n"


def main():
    args = interleaved.arguments(__doc__.splitlines()[0])
    workers = {**CONTENDERS, **PREPARATIONS}
    if args.worker in PREPARATIONS:
        workers[args.worker](args)
        return
    if args.worker:
        interleaved.work(args, workers)
        return
    interleaved.run(args, prepared_report)


def prepared_report(args):
    for name in PREPARATIONS:
        reports.say(name)
        subprocess.run(
            [sys.executable, *sys.argv, "--worker", name]
            + ["--config-file", args.config_file],
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL if args.quiet else None,
        )
    return report(args)


if __name__ == "__main__":
    main()
