"""Batches for training and evaluation, with `tf.data` on every Keras backend."""

from typing import Any

from keras_cvt._utils import validation
from keras_cvt._utils.optional import tf
from keras_cvt.data.augmentation import Augmentation, augment_batch, augment_image
from keras_cvt.data.images import decode_image, parallel_map, prefetch, read_files
from keras_cvt.data.sources import ImageSource
from keras_cvt.eval_transform import EvalTransform
from keras_cvt.models import CvTModel
from keras_cvt.preprocessing import preprocess_input

# Purposes of a seed: each folds its own number into it.
_ORDER, _IMAGE, _BATCH = range(3)


def steps_per_epoch(source: ImageSource, batch_size: int) -> int:
    """Return the number of whole batches in an epoch.

    Repeated augmentation does not change the length of an epoch.

    Args:
        source: The training images.
        batch_size: The global batch size.

    Raises:
        ValueError: If there are fewer images than `batch_size`.
    """
    validation.check_int(1, batch_size=batch_size)
    if source.count < batch_size:
        raise ValueError(
            f"{source.name}: {source.count} images do not fill one batch. "
            f"Received: batch_size={batch_size}"
        )
    return source.count // batch_size


def training_batches(
    source: ImageSource,
    image_size: tuple[int, int],
    batch_size: int,
    *,
    augmentation: Augmentation | None = None,
    channels: int = 3,
    seed: int = 0,
    initial_epoch: int = 0,
    cache: bool | str = False,
    shuffle_buffer: int = 10_000,
    shard: tuple[int, int] = (0, 1),
) -> "tf.data.Dataset":
    """Return endless training batches; pass `steps_per_epoch` to `fit` as well.

    Each epoch has the images in a new order and leaves out the last ones if they do
    not fill a batch. Order and augmentation depend only on `seed`, the epoch and the
    image's position in it. So a run that is resumed at an epoch gets the same batches
    as a run that was not interrupted.

    Args:
        source: The images.
        image_size: (height, width) of the result, in pixels.
        batch_size: The global batch size.
        augmentation: How images are varied. With `repeats` n, an epoch shows 1/n of
            the images, each as n differently augmented copies in a row, like timm's
            `RASampler`. Defaults to `None`: images are only resized, whatever their
            aspect ratio.
        channels: 3, or 1 for grey images. Defaults to `3`.
        seed: 0 to 2**31 - 1. Defaults to `0`.
        initial_epoch: The first epoch, counted from 0. Defaults to `0`.
        cache: True keeps the encoded images in memory. A string keeps them in a file
            whose path begins with it, also for the next run; delete the file if the
            images change. Either way this call reads all images. Defaults to
            `False`.
        shuffle_buffer: Number of encoded images that are shuffled at a time, if they
            come from TensorFlow Datasets or a cache file. A folder is shuffled as a
            whole. Defaults to `10_000`.
        shard: (index, count) of this process. Each of `count` processes gets its
            contiguous part of every batch. Mixup and CutMix mix within that part.
            Defaults to `(0, 1)`.

    Returns:
        (images, labels): float32 (B, height, width, channels) in 0-255, and one-hot
        float32 (B, classes), with B = `batch_size / count`. TensorFlow's tuner of
        pipelines is off, also for later maps; `with_options` turns it on.

    Raises:
        ValueError: If there are fewer images than `batch_size`, if the processes cannot
            split the batch evenly, or if another argument is out of range.

    Example:
        ```python
        model.fit(
            training_batches(source, (224, 224), 128, augmentation=Augmentation()),
            steps_per_epoch=steps_per_epoch(source, 128),
            epochs=10,
        )
        ```

    Reference:
        Repeated augmentation: "Augment your batch", arXiv 1901.09335.
    """
    resize = EvalTransform(image_size, None)
    steps = steps_per_epoch(source, batch_size)
    local_size = _local_size(batch_size, shard)
    validation.check_choice((1, 3), channels=channels)
    validation.check_int(0, seed=seed, initial_epoch=initial_epoch)
    validation.check_int(1, shuffle_buffer=shuffle_buffer)
    validation.check_at_most(2**31 - 1, seed=seed)

    repeats = 1 if augmentation is None else augmentation.repeats
    read_late = source.files is not None and not cache
    # (path, label) if the files are read after the shuffling, else (image, label).
    items = source.files if read_late else source.examples
    # Two processes cannot write one file.
    items = _cache(items, cache, source, "" if shard[1] == 1 else f"-{shard[0]}")
    # A cache in memory must not change the order of a folder.
    whole = source.files is not None and not isinstance(cache, str)
    buffer = source.count if whole else shuffle_buffer

    def epoch_items(epoch):
        # This sets the seed of this function's graph. Without it, the program's seed
        # would change the order. (With 0, TensorFlow refuses a tensor as a seed.)
        tf.random.set_seed(1)
        order_seed = _fold_seed(seed, _ORDER, epoch)
        order_seed = tf.random.stateless_uniform((), order_seed, None, None, "int64")
        order = items.shuffle(buffer, order_seed, reshuffle_each_iteration=False)
        if repeats > 1:
            order = order.flat_map(
                lambda *item: tf.data.Dataset.from_tensors(item).repeat(repeats)
            )
        order = order.take(steps * batch_size)
        return _select_shard(order, batch_size, shard, source.count).map(
            lambda position, item: (*item, epoch, position)
        )

    def augmented(encoded, label, epoch, position):
        image = decode_image(encoded, channels)
        if augmentation is None:
            image = preprocess_input(image, resize)
        else:
            image_seed = _fold_seed(seed, _IMAGE, epoch, position)
            image = augment_image(image, image_size, augmentation, image_seed)
        image = tf.ensure_shape(image, (*resize.image_size, channels))
        return image, _one_hot(label, source), epoch, position

    def mixed(images, labels, epochs, positions):
        if augmentation is None:
            return images, labels
        # All processes draw the same, because the seed depends on the batch's number.
        batch_seed = _fold_seed(seed, _BATCH, epochs[0], positions[0] // batch_size)
        return augment_batch(images, labels, augmentation, batch_seed)

    epochs = tf.data.Dataset.range(initial_epoch, tf.int64.max)
    batches = epochs.flat_map(epoch_items)
    if read_late:
        batches = read_files(batches)
    batches = parallel_map(batches, augmented).batch(local_size, drop_remainder=True)
    # Told that there is no end, Keras asks for `steps_per_epoch`.
    return prefetch(parallel_map(batches, mixed), tf.data.INFINITE_CARDINALITY)


def evaluation_batches(
    source: ImageSource,
    model_or_weights: Any,
    batch_size: int,
    *,
    channels: int = 3,
    cache: bool | str = False,
    shard: tuple[int, int] = (0, 1),
    devices: int | None = None,
) -> "tf.data.Dataset":
    """Return the images in order, resized and cropped as for a model's weights.

    Args:
        source: The images.
        model_or_weights: A CvT model, an `EvalTransform`, or a tag of
            `keras_cvt.list_weights()`, as in `keras_cvt.preprocess_input`.
        batch_size: The global batch size. The last batch may be smaller.
        channels: 3, or 1 for grey images. Defaults to `3`.
        cache: As in `training_batches`. Defaults to `False`.
        shard: (index, count) of this process. Each of `count` processes gets its
            contiguous part of every batch. Defaults to `(0, 1)`.
        devices: Number of devices, of all processes together, over which each batch is
            split. If they cannot split the last batch evenly, its last images (at
            most `devices - 1`) are left out. Defaults to `None`, one per process.

    Returns:
        (images, labels): float32 (B, height, width, channels) in 0-255, and one-hot
        float32 (B, classes). TensorFlow's tuner of pipelines is off, as in
        `training_batches`.

    Raises:
        TypeError: If `model_or_weights` is none of the above.
        ValueError: If the model takes other images, if the processes or devices cannot
            split the batch evenly, or if another argument is out of range.
    """
    validation.check_int(1, batch_size=batch_size)
    local_size = _local_size(batch_size, shard)
    validation.check_choice((1, 3), channels=channels)
    index, processes = shard
    devices = processes if devices is None else devices
    validation.check_int(1, devices=devices)
    if devices % processes or batch_size % devices:
        raise ValueError(
            "All processes need equally many devices, which split the batch evenly. "
            f"Received: shard={shard}, devices={devices}, batch_size={batch_size}"
        )
    count = source.count - source.count % devices
    if not count:
        raise ValueError(
            f"{source.name}: {source.count} images are too few for all devices. "
            f"Received: devices={devices}"
        )
    items = source.examples if source.files is None else source.files
    items = _select_shard(items.take(count), batch_size, shard, count)
    items = items.map(lambda _, item: item)
    suffix = (
        "" if devices == 1 else f"-{index}-of-{processes}-by-{batch_size}-on-{devices}"
    )
    items = items if source.files is None else read_files(items)
    items = _cache(items, cache, source, suffix)

    expected = (None, None, None)
    if isinstance(model_or_weights, CvTModel):
        description = model_or_weights.description
        model_or_weights = description.eval_transform
        expected = (*description.image_size, description.channels)

    # AutoGraph is not needed, and would wrap errors about the arguments.
    @tf.autograph.experimental.do_not_convert
    def transformed(encoded, label):
        image = preprocess_input(decode_image(encoded, channels), model_or_weights)
        return image, _one_hot(label, source)

    images = parallel_map(items, transformed)
    shape = tuple(images.element_spec[0].shape)
    if any(e not in (None, size) for e, size in zip(expected, shape, strict=True)):
        raise ValueError(
            f"The model takes images of {expected}, but its evaluation transform and "
            f"`channels` make {shape}. Received: channels={channels}"
        )
    # Keras and its progress bar need the number of batches, which the filters hide.
    return prefetch(images.batch(local_size), -(-count // batch_size))


def _select_shard(items, batch_size, shard, count):
    """Return (position, item) of this process's part of every batch."""
    items = items.enumerate()
    index, processes = shard
    if processes == 1:
        return items
    full = count // batch_size * batch_size

    def selected(position, _):
        # Only the last batch may be smaller.
        size = tf.where(position < full, batch_size, count - full)
        part = tf.cast(size // processes, "int64")
        return position % batch_size // part == index

    return items.filter(selected)


def _cache(examples, cache, source, suffix):
    if not cache:
        return examples
    # Several sources and processes may use the same `cache` argument.
    name = f"{cache}-{source.fingerprint()[:16]}{suffix}"
    cached = examples.cache(name if isinstance(cache, str) else "")
    # TensorFlow drops an incomplete cache, and an epoch may not read all images.
    cached.reduce(0, lambda count, _: count)
    return cached


def _local_size(batch_size, shard):
    index, count = shard
    validation.check_int(1, shard_count=count)
    if index not in range(count) or batch_size % count:
        raise ValueError(
            "`shard` must be (index, count), and `count` must divide the batch size. "
            f"Received: shard={shard}, batch_size={batch_size}"
        )
    return batch_size // count


def _one_hot(label, source):
    classes = len(source.class_names)
    # For a label out of range, `one_hot` returns zeros.
    check = tf.debugging.Assert(
        (label >= 0) & (label < classes),
        [f"{source.name}: a label is not in 0-{classes - 1}:", label],
    )
    with tf.control_dependencies([check]):
        return tf.one_hot(label, classes)


def _fold_seed(seed, *numbers):
    """Return a seed for stateless operations that depends on all numbers."""
    folded = tf.constant([seed, 0])
    for number in numbers:
        folded = tf.random.experimental.stateless_fold_in(folded, number)
    return folded
