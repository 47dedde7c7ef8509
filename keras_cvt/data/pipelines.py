"""Batches for training and evaluation, on `tf.data` whatever Keras's backend is."""

from typing import TYPE_CHECKING, Any

from keras_cvt import validation
from keras_cvt.data.augmentation import Augmentation, augment_batch, augment_image
from keras_cvt.data.images import PREFETCHED, decode, parallel, read, untuned
from keras_cvt.data.imports import tensorflow
from keras_cvt.data.sources import ImageSource
from keras_cvt.preprocessing import EvalTransform, preprocess_input

if TYPE_CHECKING:
    import tensorflow as tf

# What a seed is for, so that no two draws are the same.
_ORDER, _IMAGE, _BATCH = range(3)


def steps_per_epoch(source: ImageSource, batch_size: int) -> int:
    """Return how many whole batches an epoch has.

    An epoch keeps its length however often repeated augmentation shows each image.

    Args:
        source: The training images.
        batch_size: The global batch size.

    Raises:
        ValueError: If there are fewer images than a batch has.
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
    """Return endless training batches; give `fit` `steps_per_epoch` with them.

    Each epoch has the images in a new order and leaves out the rest that fills no
    batch. Order and augmentation follow from `seed`, the epoch and the image's place
    in it, and from nothing else, so that a run resumed at an epoch sees what it would
    have seen.

    Args:
        source: The images.
        image_size: (height, width) of the result, in pixels.
        batch_size: The global batch size.
        augmentation: How images are varied. None resizes them, whatever their aspect
            ratio. With `repeats` n, n differently augmented copies of an image follow
            each other, and an epoch shows 1/n of the images, as timm's `RASampler`
            does.
        channels: 3, or 1 for gray images.
        seed: 0 to 2**31 - 1.
        initial_epoch: The epoch to begin with, counted from 0.
        cache: True keeps the encoded images in memory. A string is the beginning of a
            file's path: they are kept there, also for the next run; delete the file
            when the images change. Either way they are all read at once, here.
        shuffle_buffer: How many encoded images are shuffled at a time, where they come
            from TensorFlow Datasets or a cache file. A folder is shuffled as a whole.
        shard: (index, count): of several processes, each gets its contiguous part of
            every batch. Mixup and CutMix then mix within that part.

    Returns:
        (images, labels): float32 (B, height, width, channels) in 0-255, and one-hot
        float32 (B, classes), where B is `batch_size / count`.
        TensorFlow's tuner is off, also for what is mapped onto them afterwards;
        `with_options` turns it on.

    Raises:
        ValueError: If there are fewer images than a batch has, the processes cannot
            split the batch evenly, or another argument is out of range.
        ImportError: If TensorFlow is missing.

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
    tf = tensorflow()
    squash = EvalTransform(image_size, None)
    height, width = squash.image_size
    steps = steps_per_epoch(source, batch_size)
    local_size = _local_size(batch_size, shard)
    _check_channels(channels)
    validation.check_int(0, seed=seed, initial_epoch=initial_epoch)
    validation.check_int(1, shuffle_buffer=shuffle_buffer)
    if seed >= 2**31:
        raise ValueError(f"`seed` must be below 2**31. Received: seed={seed}")

    repeats = 1 if augmentation is None else augmentation.repeats
    read_late = source.files is not None and not cache
    # Two processes cannot write one file.
    part = "" if shard[1] == 1 else f"-{shard[0]}"
    items = source.files if read_late else source.examples
    items = _cached(items, cache, source, part)
    # Files in memory are shuffled whole, too: with and without, the order is the same.
    whole = source.files is not None and not isinstance(cache, str)
    buffer = source.count if whole else shuffle_buffer

    def epoch_items(epoch):
        # The program's seed would change the order; this one is this function's graph's
        # alone. (With 0, TensorFlow fails on a seed that is a tensor.)
        tf.random.set_seed(1)
        order = items.shuffle(
            buffer,
            seed=tf.random.stateless_uniform(
                (), _fold(seed, _ORDER, epoch), None, None, "int64"
            ),
            reshuffle_each_iteration=False,
        )
        if repeats > 1:
            order = order.flat_map(
                lambda *item: tf.data.Dataset.from_tensors(item).repeat(repeats)
            )
        order = order.take(steps * batch_size)
        return _shard(order, batch_size, shard, source.count).map(
            lambda position, item: (*item, epoch, position)
        )

    def augmented(encoded, label, epoch, position):
        image = decode(encoded, channels)
        if augmentation is None:
            image = preprocess_input(image, squash)
        else:
            image_seed = _fold(seed, _IMAGE, epoch, position)
            image = augment_image(image, image_size, augmentation, image_seed)
        image = tf.ensure_shape(image, (height, width, channels))
        return image, _one_hot(label, source), epoch, position

    def mixed(images, labels, epochs, positions):
        if augmentation is None:
            return images, labels
        # By the batch's number, so that every process draws the same.
        batch_seed = _fold(seed, _BATCH, epochs[0], positions[0] // batch_size)
        return augment_batch(images, labels, augmentation, batch_seed)

    epochs = tf.data.Dataset.range(initial_epoch, tf.int64.max)
    batches = epochs.flat_map(epoch_items)
    if read_late:
        batches = batches.map(
            lambda path, *rest: (tf.io.read_file(path), *rest), **parallel()
        )
    return (
        batches.map(augmented, **parallel())
        .batch(local_size, drop_remainder=True)
        .map(mixed, **parallel())
        # Keras then asks for `steps_per_epoch` instead of waiting for the end.
        .apply(tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY))
        .prefetch(PREFETCHED)
        .with_options(untuned())
    )


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
    """Return the images, in order, as some weights' own evaluation makes them.

    Args:
        source: The images.
        model_or_weights: A CvT model, an `EvalTransform`, or a tag of
            `keras_cvt.list_weights()`, as in `keras_cvt.preprocess_input`.
        batch_size: The global batch size. The last batch may be smaller.
        channels: 3, or 1 for gray images.
        cache: As in `training_batches`.
        shard: (index, count): of several processes, each gets its contiguous part of
            every batch.
        devices: Over how many devices of all processes each batch is split; None is
            one a process. Up to `devices - 1` last images that they cannot split
            evenly are left out.

    Returns:
        (images, labels): float32 (B, height, width, channels) in 0-255, and one-hot
        float32 (B, classes).
        TensorFlow's tuner is off, as in `training_batches`.

    Raises:
        TypeError: If `model_or_weights` is none of the above.
        ValueError: If the model takes other images, the processes or devices cannot
            split the batch evenly, or another argument is out of range.
        ImportError: If TensorFlow is missing.
    """
    tf = tensorflow()
    validation.check_int(1, batch_size=batch_size)
    local_size = _local_size(batch_size, shard)
    _check_channels(channels)
    index, processes = shard
    devices = processes if devices is None else devices
    validation.check_int(1, devices=devices)
    if devices % processes or batch_size % devices:
        raise ValueError(
            "The processes must have equally many devices, which split the batch "
            f"evenly. Received: shard={shard}, devices={devices}, "
            f"batch_size={batch_size}"
        )
    count = source.count - source.count % devices
    if not count:
        raise ValueError(
            f"{source.name}: {source.count} images are too few for {devices} devices."
        )
    read_late = source.files is not None
    items = source.files if read_late else source.examples
    items = _shard(items.take(count), batch_size, shard, count)
    items = items.map(lambda _, item: item)
    part = (
        "" if devices == 1 else f"-{index}-of-{processes}-by-{batch_size}-on-{devices}"
    )
    items = _cached(read(items) if read_late else items, cache, source, part)

    # Without the model: what it takes is compared below, size and channels at once.
    transform = getattr(model_or_weights, "eval_transform", model_or_weights)

    # AutoGraph, which none of it needs, would wrap errors about the arguments.
    @tf.autograph.experimental.do_not_convert
    def transformed(encoded, label):
        image = preprocess_input(decode(encoded, channels), transform)
        return image, _one_hot(label, source)

    images = items.map(transformed, **parallel())
    shape = tuple(images.element_spec[0].shape)
    expected = tuple(getattr(model_or_weights, "input_shape", (None,) * 4))[1:]
    if any(e not in (None, size) for e, size in zip(expected, shape, strict=True)):
        raise ValueError(
            f"The model takes images of {expected}; its evaluation transform and "
            f"`channels` make {shape}."
        )
    batches = images.batch(local_size)
    # The filters hide the number, which a progress bar shows and Keras else misses.
    steps = tf.data.experimental.assert_cardinality(-(-count // batch_size))
    return batches.apply(steps).prefetch(PREFETCHED).with_options(untuned())


def _shard(items, batch_size, shard, count):
    """Return (position, item) of the part of every batch that is this process's."""
    tf = tensorflow()
    items = items.enumerate()
    index, processes = shard
    if processes == 1:
        return items
    full = count // batch_size * batch_size

    def mine(position, _):
        # All but the last batch are whole.
        size = tf.where(position < full, batch_size, count - full)
        part = tf.cast(size // processes, "int64")
        return position % batch_size // part == index

    return items.filter(mine)


def _cached(examples, cache, source, part):
    if not cache:
        return examples
    # One path serves several sources and processes.
    name = f"{cache}-{source.fingerprint()[:16]}{part}"
    cached = examples.cache(name if isinstance(cache, str) else "")
    # An epoch may end before the last image; TensorFlow drops a cache in that state.
    cached.reduce(0, lambda count, _: count)
    return cached


def _local_size(batch_size, shard):
    index, count = shard
    validation.check_int(1, shard_count=count)
    if index not in range(count) or batch_size % count:
        raise ValueError(
            "`shard` must be (index, count) of processes that split the batch evenly. "
            f"Received: shard={shard}, batch_size={batch_size}"
        )
    return batch_size // count


def _check_channels(channels):
    if channels not in (1, 3):
        raise ValueError(f"`channels` must be 1 or 3. Received: channels={channels!r}")


def _one_hot(label, source):
    tf = tensorflow()
    classes = len(source.class_names)
    # `one_hot` would make it a row of zeros.
    check = tf.debugging.Assert(
        (label >= 0) & (label < classes),
        [f"{source.name}: a label is no class of 0-{classes - 1}:", label],
    )
    with tf.control_dependencies([check]):
        return tf.one_hot(label, classes)


def _fold(seed, *numbers):
    """Return a seed of stateless operations for these numbers."""
    tf = tensorflow()
    folded = tf.constant([seed, 0])
    for number in numbers:
        folded = tf.random.experimental.stateless_fold_in(folded, number)
    return folded
