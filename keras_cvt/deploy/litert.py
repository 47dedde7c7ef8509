"""LiteRT (TensorFlow Lite): one file, builtin operators only."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np

from keras_cvt.deploy import saved_model
from keras_cvt.deploy.packages import require

QUANTIZATIONS = (None, "float16", "dynamic_int8", "int8")


def write(
    model: keras.Model,
    path: Path,
    shape: tuple[int | None, ...],
    quantization: str | None = None,
    representative_images: np.ndarray | None = None,
) -> None:
    """Write a LiteRT file; what needs TensorFlow's operators is an error.

    Args:
        model: The model.
        path: Where to write.
        shape: Of the images, (B, H, W, C); static is faster.
        quantization: None; `"float16"`, weights in half precision;
            `"dynamic_int8"`, weights in 8 bits and activations quantized as they
            come, row by row; `"int8"`, weights and activations of the linear layers
            and convolutions in 8 bits, with ranges from `representative_images`.
        representative_images: (N, H, W, C) for `"int8"`.
    """
    import tensorflow as tf

    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        # A SavedModel gives the file a signature, with names for its tensors. Of
        # variables the converter makes constants itself, in a third of the memory.
        saved_model.write(model, Path(folder), shape, constants=False)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        # Not SELECT_TF_OPS: the small runtime has none of them.
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        if quantization == "float16":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
            converter.target_spec.supported_types = [tf.float16]
        content = converter.convert()
    if quantization in (None, "float16"):
        path.write_bytes(content)
        return
    _quantize(content, path, quantization, representative_images, shape)


def _quantize(content, path, quantization, images, shape):
    # What the converter itself quantizes runs mostly outside of XNNPACK.
    quantizer = require("ai_edge_quantizer", "litert")
    job = quantizer.quantizer.Quantizer(content)
    ranges = None
    if quantization == "dynamic_int8":
        job.load_quantization_recipe(quantizer.recipe.dynamic_wi8_afp32())
    else:
        recipe = _static_recipe(quantizer)
        job.load_quantization_recipe(recipe.get_quantization_recipe())
        calibrator = quantizer.calibrator.Calibrator(
            content,
            # The default is a moving average, which cuts off what is rare but large.
            qsv_update_func=quantizer.calibrator.qsv_utils.min_max_update,
        )
        batches = list(_batches(images, shape[0] or 1))
        calibrator.calibrate({"serving_default": batches}, recipe)
        ranges = calibrator.get_model_qsvs()
    result = job.quantize(ranges, enable_progress_report=False)
    result.export_model(str(path))


def _static_recipe(quantizer):
    # All else stays float: norms, softmax, activation and the residual stream lose
    # in 8 bits, and their 8-bit kernels fall off XNNPACK.
    recipe = quantizer.recipe_manager.RecipeManager()
    names = quantizer.qtyping.TFLOperationName
    for name in (names.FULLY_CONNECTED, names.CONV_2D, names.DEPTHWISE_CONV_2D):
        recipe.add_static_config(".*", name, activation_num_bits=8, weight_num_bits=8)
    return recipe


def _batches(images: np.ndarray, batch_size: int) -> Iterator[dict[str, np.ndarray]]:
    # A rest that fills no batch is left out.
    for start in range(0, len(images) - batch_size + 1, batch_size):
        yield {"images": images[start : start + batch_size]}
