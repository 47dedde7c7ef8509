"""Checkpoints that are split into several files, with an index."""

import json
from pathlib import Path

from keras_cvt._utils.errors import CheckpointError
from keras_cvt.repository import integrity

SUFFIX = ".index.json"
_MAX_BYTES = 16 * 2**20
_MAX_SHARDS = 1000


def shard_files(checkpoint: Path) -> list[Path]:
    """Return the files that hold a checkpoint's arrays: the file itself, or its shards.

    Args:
        checkpoint: A checkpoint file, or the index beside its shards, such as
            `model.safetensors.index.json`.

    Raises:
        CheckpointError: If the index is damaged or names files outside its folder.

    Reference:
        `save_pretrained(max_shard_size=...)` of transformers.
    """
    if not checkpoint.name.endswith(SUFFIX):
        return [checkpoint]
    if checkpoint.stat().st_size > _MAX_BYTES:
        raise CheckpointError(f"Expected at most {_MAX_BYTES} bytes in {checkpoint}.")
    try:
        weight_map = json.loads(checkpoint.read_text(encoding="utf-8"))["weight_map"]
        names = sorted(set(weight_map.values()))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"Expected an index of shards, {{'weight_map': {{name: file}}}}, in "
            f"{checkpoint}: {type(error).__name__}: {str(error)[:200]}"
        ) from error
    if not 0 < len(names) <= _MAX_SHARDS:
        raise CheckpointError(
            f"Expected 1 to {_MAX_SHARDS} shards in {checkpoint}. "
            f"Received: {len(names)}"
        )
    for name in names:
        if not isinstance(name, str) or "/" in name:
            raise CheckpointError(
                f"Expected names of files beside {checkpoint}. Received: {name!r:.200}"
            )
        integrity.check_name(name)
    return [checkpoint.with_name(name) for name in names]
