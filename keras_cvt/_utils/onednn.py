"""oneDNN's switches, which TensorFlow reads from the environment once per process."""

import os

from keras_cvt._utils import user_warnings

# The first computes float32 networks in bfloat16, on processors with AMX. The second
# keeps the weights in the form that oneDNN wants after their first use.
SWITCHES = ("TF_SET_ONEDNN_FPMATH_MODE", "TF_ONEDNN_ASSUME_FROZEN_WEIGHTS")


def _values():
    return {name: os.environ.get(name) for name in SWITCHES}


# This module is imported with the package, which imports TensorFlow.
_known = _values()
_warned: list[str] = []


def warn_of_late_switch(backend: str) -> None:
    """Warn, once, if a switch was changed after keras_cvt was imported."""
    changed = [name for name, value in _values().items() if value != _known[name]]
    _known.update(_values())
    if backend == "tensorflow" and changed:
        user_warnings.warn(
            f"TensorFlow may not see {' and '.join(changed)}: set after the import of "
            "keras_cvt. Set it in the environment before TensorFlow is imported."
        )


def warn_of_frozen_weights(backend: str) -> None:
    """Warn, once, of training in a process in which oneDNN keeps the first weights."""
    name = SWITCHES[1]
    frozen = os.environ.get(name, "").lower() in ("1", "true")
    if backend == "tensorflow" and frozen and not _warned:
        _warned.append(name)
        user_warnings.warn(
            f"{name} is set: TensorFlow goes on with the weights of the first step. "
            "Unset it for a program that trains."
        )
