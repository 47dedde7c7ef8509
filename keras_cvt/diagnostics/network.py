"""A small network with known weights, compared with the outputs of the official code.

The weights come from a formula, so that nothing but the outputs need be kept.
"""

import contextlib
import json
import zlib
from importlib import resources

import numpy as np

from keras_cvt.diagnostics.findings import Finding

# As everywhere in this package: the largest difference of a logit.
TOLERANCE = 2e-5
# TF32 keeps 10 bits of a factor.
_TF32 = 1e-2


def check_network() -> Finding:
    """Compute a small network and compare it with the official code's logits.

    Returns:
        A problem if a logit differs by more than 2e-5, which reduced precision or a
        broken installation does. On a GPU, whose TF32 rounds products by default,
        up to 1e-2 is a note.
    """
    from keras_cvt.checkpoints import state_dict
    from keras_cvt.config import CvTConfig, StageConfig
    from keras_cvt.eval_transform import EvalTransform
    from keras_cvt.models import build_model

    text = resources.files("keras_cvt").joinpath("assets/known_logits.json").read_text()
    expected = np.array(json.loads(text)["tiny_base"], "float32")
    config = CvTConfig(
        stages=(
            StageConfig(16, 1, 1, 7, 4, 2),
            StageConfig(32, 2, 2, 3, 2, 1),
            StageConfig(48, 3, 3, 3, 2, 1, cls_token=True),
        )
    )
    model = build_model(
        config,
        eval_transform=EvalTransform((64, 64), None),
        input_shape=(64, 64, 3),
        classes=expected.shape[1],
        include_preprocessing=False,
        classifier_activation=None,
        dtype="float32",
    )
    shapes = {key: x.shape for key, x in state_dict.extract(model).items()}
    state_dict.assign(model, {key: weight(key, shapes[key]) for key in shapes})
    found = model.predict(images([len(expected), 64, 64, 3]), verbose=0)
    difference = float(np.abs(found - expected).max())
    name, value = "logits against the official code", f"differ by {difference:.1e}"
    expectation = f"Expected at most {TOLERANCE:.0e}. "
    if difference <= TOLERANCE:
        return Finding("network", name, value)
    if difference <= _TF32 and _has_gpu():
        advice = "GPUs round products to TF32; NVIDIA_TF32_OVERRIDE=0 prevents it."
        return Finding("network", name, value, "note", expectation + advice)
    advice = "Look for reduced precision among the switches, or reinstall the backend."
    return Finding("network", name, value, "problem", expectation + advice)


def _has_gpu():
    import keras

    # JAX raises an error instead of returning an empty list.
    with contextlib.suppress(Exception):
        return bool(keras.distribution.list_devices("gpu"))
    return False


def images(shape: list[int], seed: int = 0) -> np.ndarray:
    """Return the known images, float32 (N, H, W, C), of the standard normal."""
    rng = np.random.default_rng([seed, zlib.crc32(b"input")])
    return rng.standard_normal(shape, dtype=np.float32)


def weight(key: str, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Return the known array of an official key in its official shape."""
    rng = np.random.default_rng([seed, zlib.crc32(key.encode())])
    if key.endswith("running_var"):
        return 0.5 + rng.random(shape, dtype=np.float32)
    normal = rng.standard_normal(shape, dtype=np.float32)
    if key.endswith("running_mean"):
        return np.float32(0.2) * normal
    if key.endswith("cls_token"):
        return normal
    if len(shape) == 1 or key.endswith((".g", ".b")):
        small = np.float32(0.1) * normal
        return 1 + small if key.endswith((".weight", ".g")) else small
    return normal / np.float32(np.sqrt(np.prod(shape[1:])))
