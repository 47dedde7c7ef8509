"""Batches for training and evaluation, on `tf.data` whatever Keras's backend is."""

from typing import TYPE_CHECKING, Any

from keras_cvt import validation
from keras_cvt.data.augmentation import Augmentation, augment_batch, augment_image
from keras_cvt.data.sources import ImageSource, import_tensorflow
from keras_cvt.preprocessing import preprocess_input

if TYPE_CHECKING:
    import tensorflow as tf


def steps_per_epoch(source: ImageSource, batch_size: int) -> int:
    """Return how many whole batches an epoch has.

    Args:
        source: The training images.
        batch_size: The global batch size.

    Raises:
        ValueError: If there are fewer images than a batch has.
    """
    validation.check_int(1, batch_size=batch_size)
    if source.count < batch_size:
        raise ValueError(
            f"A batch needs {batch_size} images; the source has {source.count}."
        )
    return source.count // batch_size


def training_batches(
    source: ImageSource,
    image_size: tuple[int, int],
    batch_size: int,
    *,
    augmentation: Augmentation,
    seed: int = 0,
    initial_epoch: int = 0,
    cache: bool | str = False,
    shuffle_buffer: int = 10_000,
    shard: tuple[int, int] = (0, 1),
) -> "tf.data.Dataset":
    """Return endless training batches; pass `steps_per_epoch` to `fit` with them.

    Each epoch visits the images in a new order and leaves out the rest that fills no
    batch. Order and augmentation follow from `seed` and the epoch alone, so that a
    run which is resumed at an epoch sees what it would have seen.

    Args:
        source: The images.
        image_size: (height, width) of the result, in pixels.
        batch_size: The global batch size.
        augmentation: What is done to the images. With `repeats` above 1, an epoch
            holds that many differently augmented copies of correspondingly fewer
            images.
        seed: Chooses order and augmentation.
        initial_epoch: The epoch to begin with, counted from 0.
        cache: Whether the encoded images stay in memory after they were read once; a
            string is the path of a file for them.
        shuffle_buffer: How many encoded images of a TensorFlow Datasets source are
            shuffled at a time, in blocks. Folders are always shuffled whole.
        shard: (index, count): this process's contiguous share of every batch.

    Returns:
        (images, labels): float32 (B, height, width, 3) in 0-255 and one-hot float32
        (B, classes), B being `batch_size / count`.

    Raises:
        ValueError: If there are fewer images than a batch has, or the shards cannot
            split a batch evenly.
    """
    tf = import_tensorflow()
    steps = steps_per_epoch(source, batch_size)
    local = _local_batch_size(batch_size, shard)
    repeats = augmentation.repeats
    items = source.items
    read_later = source.paths and not cache
    if cache:
        items = _cached(source.examples, cache)
    buffer = source.count if source.paths else min(shuffle_buffer, source.count)

    def epoch_items(epoch):
        shuffled = _shuffled(items, buffer, seed, epoch)
        if repeats > 1:
            shuffled = shuffled.flat_map(
                lambda *item: tf.data.Dataset.from_tensors(item).repeat(repeats)
            )
        taken = shuffled.take(steps * batch_size).enumerate()
        return taken.map(lambda i, item: (epoch, i, *item))

    dataset = tf.data.Dataset.range(initial_epoch, tf.int64.max).flat_map(epoch_items)
    index, count = shard
    if count > 1:
        dataset = dataset.filter(lambda epoch, i, *_: i % batch_size // local == index)
    if read_later:
        dataset = dataset.map(
            lambda epoch, i, path, label: (epoch, i, tf.io.read_file(path), label),
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=True,
        )

    def augmented(epoch, i, encoded, label):
        image = augment_image(
            _decode(encoded),
            image_size,
            augmentation,
            _stateless_seed(seed, epoch, i),
        )
        return epoch, i, image, tf.one_hot(label, len(source.class_names))

    def mixed(epochs, positions, images, labels):
        # By the batch's number, so that every process draws the same.
        number = positions[0] // batch_size
        batch_seed = _stateless_seed(seed + 1, epochs[0], number)
        return augment_batch(images, labels, augmentation, batch_seed)

    parallel = {"num_parallel_calls": tf.data.AUTOTUNE, "deterministic": True}
    return (
        dataset.map(augmented, **parallel)
        .batch(local, drop_remainder=True)
        .map(mixed, **parallel)
        .prefetch(tf.data.AUTOTUNE)
    )


def evaluation_batches(
    source: ImageSource,
    model_or_weights: Any,
    batch_size: int,
    *,
    cache: bool | str = False,
    shard: tuple[int, int] = (0, 1),
) -> "tf.data.Dataset":
    """Return the images as the weights' own evaluation transform makes them.

    Args:
        source: The images; they keep their order.
        model_or_weights: As in `keras_cvt.preprocess_input`.
        batch_size: The global batch size. The last batch may be smaller.
        cache: Whether the encoded images stay in memory; a string is a file.
        shard: (index, count): with several processes, each gets its contiguous
            share of every batch, and images that fill no batch are left out.

    Returns:
        (images, labels) as `training_batches` gives them.

    Raises:
        ValueError: If the shards cannot split a batch evenly.
    """
    tf = import_tensorflow()
    validation.check_int(1, batch_size=batch_size)
    local = _local_batch_size(batch_size, shard)
    index, count = shard
    examples = source.examples
    if count > 1:
        examples = (
            examples.take(source.count // batch_size * batch_size)
            .enumerate()
            .filter(lambda i, _: i % batch_size // local == index)
            .map(lambda _, item: item)
        )
    if cache:
        examples = _cached(examples, cache)

    def transformed(encoded, label):
        image = preprocess_input(_decode(encoded), model_or_weights)
        return image, tf.one_hot(label, len(source.class_names))

    return (
        examples.map(transformed, num_parallel_calls=tf.data.AUTOTUNE)
        .batch(local)
        .prefetch(tf.data.AUTOTUNE)
    )


def _shuffled(items, buffer, seed, epoch):
    """Shuffle blocks of `buffer` items, whose bounds move from epoch to epoch.

    `Dataset.shuffle` would depend on TensorFlow's global seed as well.
    """
    tf = import_tensorflow()
    start = tf.random.stateless_uniform(
        (), _stateless_seed(seed, epoch, 0), 0, buffer, "int64"
    )
    turned = items.skip(start).concatenate(items.take(start))

    def shuffled(number, item):
        order = tf.random.experimental.stateless_shuffle(
            tf.range(tf.shape(item[0])[0]), _stateless_seed(seed, epoch, number + 1)
        )
        return tuple(tf.gather(part, order) for part in item)

    return turned.batch(buffer).enumerate().map(shuffled).unbatch()


def _local_batch_size(batch_size, shard):
    index, count = shard
    if not 0 <= index < count or batch_size % count:
        raise ValueError(
            "`shard` is (index, count) of processes that split the batch evenly. "
            f"Received: shard={shard}, batch_size={batch_size}"
        )
    return batch_size // count


def _cached(examples, cache):
    return examples.cache(cache if isinstance(cache, str) else "")


def _decode(encoded):
    """Decode to (H, W, 3), JPEG as PIL does it, of a GIF the first frame."""
    tf = import_tensorflow()
    return tf.cond(
        tf.io.is_jpeg(encoded),
        lambda: tf.io.decode_jpeg(encoded, 3, dct_method="INTEGER_ACCURATE"),
        lambda: tf.io.decode_image(encoded, 3, expand_animations=False),
    )


def _mix(seed, epoch):
    """Return a seed of an epoch: products keep neighbouring seeds apart."""
    return (seed * 1_000_003 + epoch * 7_919) % (2**31 - 1)


def _stateless_seed(seed, epoch, position):
    tf = import_tensorflow()
    return tf.cast([_mix(seed, epoch), position % (2**31 - 1)], "int32")
