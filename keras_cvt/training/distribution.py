"""Several devices and several processes, with one call before the model is built."""

import contextlib
import os
from collections.abc import Iterator

import keras

from keras_cvt._utils import validation

KINDS = ("none", "data_parallel", "mirrored")
"""What `distribute` takes: one device, JAX's data parallelism, TensorFlow's mirrors."""


def process_index_and_count() -> tuple[int, int]:
    """Return this process's index, and the number of processes."""
    if keras.backend.backend() != "jax":
        return 0, 1
    import jax

    return jax.process_index(), jax.process_count()


def device_count() -> int:
    """Return the number of devices, of all processes, that share each batch."""
    distribution = keras.distribution.distribution()
    if distribution is None:
        return batch_norm_replicas()
    return distribution.device_mesh.devices.size


def batch_norm_replicas() -> int:
    """Return into how many parts a batch is split for its statistics."""
    if keras.backend.backend() != "tensorflow":
        return 1
    import tensorflow as tf

    return tf.distribute.get_strategy().num_replicas_in_sync


@contextlib.contextmanager
def under(distribution: keras.distribution.DataParallel | None) -> Iterator[None]:
    """Set Keras's distribution until the block ends; None switches it off.

    Switch it off for what only this process does, such as saving, for which Keras makes
    variables. Otherwise all processes would have to make these variables together.
    """
    before = keras.distribution.distribution()
    keras.distribution.set_distribution(distribution)
    try:
        yield
    finally:
        keras.distribution.set_distribution(before)


@contextlib.contextmanager
def distribute(kind: str, batch_size: int) -> Iterator[None]:
    """Share the training of what is built inside among several devices.

    - `"data_parallel"` (JAX): `keras.distribution.DataParallel` over all devices of
      all processes. Each of several processes sets Keras's environment variables
      `KERAS_DISTRIBUTION_JOB_ADDRESSES` (`host:port` of every process, separated by
      commas), `KERAS_DISTRIBUTION_NUM_PROCESSES` and
      `KERAS_DISTRIBUTION_PROCESS_ID`; or `run_with_ray` starts them. BatchNorm sees
      the global batch. So the result is that of one device.
    - `"mirrored"` (TensorFlow): `tf.distribute.MirroredStrategy` over this machine's
      accelerators. BatchNorm sees each replica's share of the batch, as in the
      official code without SyncBN. So the result differs from that of one device,
      unless BatchNorm is frozen. (Keras's `synchronized=True` fails there.)
    - `"none"`: one device.

    Keras 3 does not run TensorFlow's `MultiWorkerMirroredStrategy`. Use JAX for
    several machines; the same script runs there.

    Args:
        kind: One of `KINDS`.
        batch_size: Global batch size: images per step on all devices together.

    Yields:
        Nothing. Build, compile and fit the model inside of the `with` block.

    Raises:
        ValueError: If the backend does not support it, or the devices cannot split
            the batch evenly.
    """
    validation.check_choice(KINDS, kind=kind)
    backend = keras.backend.backend()
    needed = {"data_parallel": "jax", "mirrored": "tensorflow"}.get(kind, backend)
    if backend != needed:
        raise ValueError(
            f"{kind!r} needs the {needed} backend: set KERAS_BACKEND={needed}. "
            f"Received: backend={backend!r}"
        )
    scope: contextlib.AbstractContextManager = contextlib.nullcontext()
    if kind == "mirrored":
        import tensorflow as tf

        # By default it takes accelerators only. If there are none, take all (virtual)
        # processors.
        found = tf.config.list_logical_devices
        devices = [device.name for device in found("GPU") or found("CPU")]
        _check_split(batch_size, devices)
        scope = tf.distribute.MirroredStrategy(devices).scope()
    elif kind == "data_parallel":
        if os.environ.get("KERAS_DISTRIBUTION_JOB_ADDRESSES"):
            keras.distribution.initialize()
        devices = keras.distribution.list_devices()
        _check_split(batch_size, devices)
        # `keras_cvt.data` already gives each process its share of every batch.
        data_parallel = keras.distribution.DataParallel(
            devices=devices, auto_shard_dataset=False
        )
        scope = under(data_parallel)
    with scope:
        yield


def _check_split(batch_size, devices):
    if batch_size % len(devices):
        raise ValueError(
            f"The global batch must split evenly over the {len(devices)} devices. "
            f"Received: batch_size={batch_size}"
        )
