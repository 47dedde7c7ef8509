"""Between a model and an official state dict, strictly, in both directions."""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import keras
import numpy as np

from keras_cvt.checkpoints import layouts
from keras_cvt.errors import CheckpointError
from keras_cvt.models import CvTModel

logger = logging.getLogger(__name__)


@dataclass(frozen=True, repr=False)
class LoadReport:
    """What a load did, by official key.

    Attributes:
        loaded: Taken from the checkpoint.
        missing: In the model but not in the checkpoint; kept as they were.
        unexpected: In the checkpoint but not in the model.
        mismatched: In both, with another shape: (key, the model's shape, the
            checkpoint's shape), PyTorch's axis order; kept as they were.
    """

    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]

    def describe_rest(self) -> str:
        """Return how much did not fit, and what, a line an entry."""
        lines = [self._counts()]
        lines += [f"missing: {key}" for key in self.missing]
        lines += [f"unexpected: {key}" for key in self.unexpected]
        lines += [
            f"wrong shape: {key} is {found}, the model has {expected}"
            for key, expected, found in self.mismatched
        ]
        return "\n".join(lines)

    def __repr__(self) -> str:
        """Return the counts: a network has hundreds of entries."""
        return f"<LoadReport: {self._counts()}>"

    def _counts(self):
        return (
            f"{len(self.loaded)} entries fit, {len(self.missing)} are missing, "
            f"{len(self.unexpected)} unexpected, "
            f"{len(self.mismatched)} of a wrong shape"
        )


def official_variables(model: CvTModel) -> dict[str, object]:
    """Return the model's variables by official key.

    Raises:
        CheckpointError: If a layer has variables that no checkpoint knows (LoRA,
            quantization).
    """
    variables = {}
    # Not all layers: there may be others before the first stage.
    top = [layer for layer in model.layers if layer.name in ("norm", "head")]
    for layer in (*model.stages, *top):
        for variable in layer.variables:
            # Seeds of dropout are state of the model but not of the network.
            if "seed_generator" in variable.path:
                continue
            path = variable.path.removeprefix(layer.path)
            *modules, leaf = (layer.name + path).split("/")
            if leaf.startswith("lora_"):
                raise CheckpointError(
                    "Checkpoints have no place for LoRA's matrices: save the model "
                    "as `.keras`, or load that file and merge. "
                    f"Received: {variable.path}"
                )
            if leaf.endswith("_scale"):
                raise CheckpointError(
                    "Checkpoints have no place for quantized weights: save the model "
                    f"as `.keras`. Received: {variable.path}"
                )
            if leaf != "token":
                modules.append(layouts.KERAS_LEAVES[leaf])
            variables[".".join(modules)] = variable
    return variables


def assign(
    model: CvTModel,
    state: Mapping[str, np.ndarray],
    *,
    strict: bool = True,
    only: Iterable[str] | None = None,
    fresh_head: bool = False,
) -> LoadReport:
    """Give the model's variables the values of an official state dict.

    Args:
        model: The model; it is changed only when everything has been checked.
        state: Official keys and shapes, as `layouts.to_official` returns them.
        strict: Whether anything missing, unexpected or of a wrong shape is an error.
        only: Names of the parts to take (`"stage0"`, `"norm"`, `"head"`); the rest
            of the checkpoint and of the model is left alone.
        fresh_head: Whether a head that is missing or of another shape may stay as
            it is.

    Returns:
        What was loaded and what was not.

    Raises:
        CheckpointError: If `strict` and something does not fit; all of it is listed.
        ValueError: If `only` names a part that the model does not have.
    """
    variables = official_variables(model)
    parts = {key.split(".")[0] for key in variables}
    if only is not None:
        only = {only} if isinstance(only, str) else set(only)
        if not only or not only <= parts:
            raise ValueError(
                f"`only` takes parts of the model: {sorted(parts)}. "
                f"Received: only={sorted(only)}"
            )
        variables = {k: v for k, v in variables.items() if k.split(".")[0] in only}
        state = {k: a for k, a in state.items() if k.split(".")[0] in only}
    # A backbone needs no head, and nothing is lost when the file has one. A norm that
    # a classifier does not have is another network's.
    unused = set() if "head" in parts else {"norm", "head"} - parts
    state = {k: a for k, a in state.items() if k.split(".")[0] not in unused}

    not_floats = [k for k in variables if k in state and state[k].dtype.kind != "f"]
    if not_floats:
        raise CheckpointError(
            f"Expected floating-point weights. Received: {not_floats}"
        )

    shapes = {key: _official_shape(key, v) for key, v in variables.items()}
    mismatched = [
        (key, shape, state[key].shape)
        for key, shape in shapes.items()
        if key in state and state[key].shape != shape
    ]
    report = LoadReport(
        loaded=tuple(k for k in shapes if k in state and state[k].shape == shapes[k]),
        missing=tuple(key for key in shapes if key not in state),
        unexpected=tuple(key for key in state if key not in shapes),
        mismatched=tuple(mismatched),
    )
    head = None
    not_fitting = {*report.missing, *report.unexpected, *(m[0] for m in mismatched)}
    if fresh_head and "head.weight" not in report.loaded:
        not_fitting -= {"head.weight", "head.bias"}
        if "head.weight" in shapes:
            found = [found for key, _, found in mismatched if key == "head.weight"]
            head = f"one of {found[0][0]} classes" if found else "none"
    if not_fitting and strict:
        raise CheckpointError(
            f"The checkpoint does not fit {model.name}, which is unchanged:\n"
            + report.describe_rest()
        )
    if head:
        logger.warning(
            "The head of %d classes starts fresh: the checkpoint has %s.",
            shapes["head.weight"][0],
            head,
        )
    if not_fitting:
        logger.warning("Left out of the load:\n%s", report.describe_rest())
    for key in report.loaded:
        variables[key].assign(layouts.to_keras_shape(state[key], _is_depthwise(key)))
    return report


def extract(model: CvTModel) -> dict[str, np.ndarray]:
    """Return the model's weights as official keys and shapes, float32."""
    state = {}
    for key, variable in official_variables(model).items():
        array = np.asarray(keras.ops.convert_to_numpy(variable), "float32")
        array = layouts.from_keras_shape(array, _is_depthwise(key))
        state[key] = np.ascontiguousarray(array)
    return state


def _official_shape(key, variable):
    # A view of one number: shapes are compared without copying any weights.
    empty = np.broadcast_to(np.float32(0), tuple(variable.shape))
    return layouts.from_keras_shape(empty, _is_depthwise(key)).shape


def _is_depthwise(key):
    return ".conv_proj_" in key
