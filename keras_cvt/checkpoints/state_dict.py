"""Loads an official state dict into a model, and extracts it from a model."""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import keras
import numpy as np

from keras_cvt._utils.errors import CheckpointError
from keras_cvt.checkpoints import layouts
from keras_cvt.description import find_head
from keras_cvt.models import CvTModel

logger = logging.getLogger(__name__)


@dataclass(frozen=True, repr=False)
class LoadReport:
    """The official keys that a load used and did not use.

    Attributes:
        loaded: Keys whose values were loaded.
        missing: Keys of the model that are not in the checkpoint. Their variables
            keep their values.
        unexpected: Keys of the checkpoint that are not in the model.
        mismatched: Keys with different shapes, as tuples (key, shape in the model,
            shape in the checkpoint), with PyTorch's order of axes. Their variables
            keep their values.
    """

    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]

    def describe_rest(self) -> str:
        """Return the counts and one line for each key that was not loaded."""
        lines = [self._counts()]
        lines += [f"missing: {key}" for key in self.missing]
        # Names of a file may hold anything, such as commands for a terminal.
        lines += [
            f"unexpected: {key if key.isprintable() else ascii(key)}"
            for key in self.unexpected
        ]
        for key, expected, found in self.mismatched:
            lines.append(f"wrong shape: {key} is {found}, the model has {expected}")
        return "\n".join(lines)

    def __repr__(self) -> str:
        """Return only the counts, because a network has hundreds of keys."""
        return f"<LoadReport: {self._counts()}>"

    def _counts(self):
        return (
            f"{len(self.loaded)} entries fit, {len(self.missing)} are missing, "
            f"{len(self.unexpected)} unexpected, "
            f"{len(self.mismatched)} of a wrong shape"
        )


def official_variables(model: CvTModel) -> dict[str, keras.Variable]:
    """Return the variables of a model by official key.

    Args:
        model: A model of `keras_cvt`.

    Raises:
        CheckpointError: If a layer has variables that no checkpoint layout contains
            (a fused network, LoRA or quantization).
    """
    if any(stage.fused for stage in model.stages):
        raise CheckpointError(
            "A checkpoint cannot contain the weights of a fused network. Save, load or "
            f"push the model that was fused. Received: {model.name!r}, fused"
        )
    variables = {}
    # There may be other layers before the first stage.
    parts = {layer.name: layer for layer in model.stages}
    parts |= {layer.name: layer for layer in model.layers if layer.name == "norm"}
    head, _, _ = find_head(model)
    if head is not None:
        parts["head"] = head
    for part, layer in parts.items():
        for variable in layer.variables:
            # The states of dropout's random numbers are not weights.
            if "seed_generator" in variable.path:
                continue
            path = variable.path.removeprefix(layer.path)
            *modules, leaf = (part + path).split("/")
            if leaf.startswith("lora_"):
                raise CheckpointError(
                    "A checkpoint cannot contain LoRA's matrices. Save the model as "
                    "`.keras`; loading that file can merge them. "
                    f"Received: {variable.path}"
                )
            if leaf.endswith("_scale"):
                raise CheckpointError(
                    "A checkpoint cannot contain quantized weights. Save the model as "
                    f"`.keras`. Received: {variable.path}"
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
    """Load an official state dict into a model.

    Args:
        model: A model of `keras_cvt`. It changes only after everything was checked.
        state: Official keys and shapes, as `layouts.to_official` returns them.
        strict: Whether missing or unexpected keys, wrong shapes, NaN, infinity and
            negative variances are an error. Otherwise they are logged; what does not
            fit is left out. Defaults to `True`.
        only: Parts to load, such as `"stage0"`, `"norm"` or `"head"`. The rest of the
            model keeps its values. Defaults to `None`, all parts.
        fresh_head: Whether the head keeps its values if the checkpoint has no head or
            a head of another shape. Defaults to `False`.

    Returns:
        The keys that were loaded, and those that were not.

    Raises:
        CheckpointError: If `strict` and something does not fit or holds such values.
            The error lists everything that does.
        ValueError: If the model does not have one of the parts in `only`.
    """
    variables = official_variables(model)
    parts = {layouts.part_of(key) for key in variables}
    if only is not None:
        only = {only} if isinstance(only, str) else set(only)
        if not only or not only <= parts:
            raise ValueError(
                f"`only` must name parts of the model: {sorted(parts)}. "
                f"Received: only={sorted(only)}"
            )
        variables = {k: v for k, v in variables.items() if layouts.part_of(k) in only}
        state = {k: a for k, a in state.items() if layouts.part_of(k) in only}
    # A backbone does not need the norm and head of a checkpoint. For a classifier
    # without a norm, a norm in the checkpoint means another network.
    unused = set() if "head" in parts else {"norm", "head"} - parts
    state = {k: a for k, a in state.items() if layouts.part_of(k) not in unused}

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
    if fresh_head and layouts.HEAD_KERNEL not in report.loaded:
        not_fitting -= {layouts.HEAD_KERNEL, layouts.HEAD_BIAS}
        if layouts.HEAD_KERNEL in shapes:
            other = state.get(layouts.HEAD_KERNEL)
            head = "no head" if other is None else f"a head of {len(other)} classes"
    if not_fitting and strict:
        raise CheckpointError(
            f"The checkpoint does not fit {model.name}, which is unchanged:\n"
            + report.describe_rest()
        )
    damaged = [key for key in report.loaded if _is_damaged(key, state[key])]
    if damaged:
        problem = (
            "Expected finite weights and variances of at least 0. Received NaN, "
            f"infinity or a negative variance in {len(damaged)} arrays: "
            f"{', '.join(damaged[:10])}"
        )
        if strict:
            raise CheckpointError(
                f"{problem}. load_checkpoint(..., strict=False) loads them anyway."
            )
        logger.warning("%s", problem)
    if head:
        logger.warning(
            "The head of %d classes starts fresh: the checkpoint has %s.",
            shapes[layouts.HEAD_KERNEL][0],
            head,
        )
    if not_fitting:
        logger.warning("Not loaded:\n%s", report.describe_rest())
    for key in report.loaded:
        array = layouts.to_keras_shape(state[key], layouts.is_depthwise(key))
        variables[key].assign(array)
    return report


def _is_damaged(key, array):
    with np.errstate(over="ignore"):  # of float64
        array = array.astype(np.float32, copy=False)
    negative = key.endswith(".running_var") and bool((array < 0).any())
    return negative or not np.isfinite(array).all()


def extract(model: CvTModel) -> dict[str, np.ndarray]:
    """Return the weights of a model as an official state dict in float32.

    Args:
        model: A model of `keras_cvt`.

    Raises:
        CheckpointError: If the model has LoRA matrices or quantized weights.
    """
    state = {}
    for key, variable in official_variables(model).items():
        array = np.asarray(keras.ops.convert_to_numpy(variable), "float32")
        array = layouts.from_keras_shape(array, layouts.is_depthwise(key))
        state[key] = np.ascontiguousarray(array)
    return state


def _official_shape(key, variable):
    # An array that needs no memory.
    empty = np.broadcast_to(np.float32(0), tuple(variable.shape))
    return layouts.from_keras_shape(empty, layouts.is_depthwise(key)).shape
