"""Images that a pipeline augmented."""

import numpy as np

from keras_cvt.data.augmentation import Augmentation, augment_image

OFF = {"flip": False, "rand_augment": 0, "random_erasing": 0, "mixup": 0, "cutmix": 0}
PLAIN = Augmentation(crop_scale=None, **OFF)
MEAN = (124, 116, 104)
SIZE = (48, 64)


def augmented(image, augmentation, seeds, parallel=4):
    """Return (seeds, height, width, C): an image augmented in a pipeline."""
    import tensorflow as tf

    image = tf.constant(image)

    def one(seed):
        return augment_image(image, SIZE, augmentation, [7, seed])

    dataset = tf.data.Dataset.range(seeds).map(lambda i: tf.cast(i, "int32"))
    dataset = dataset.map(one, num_parallel_calls=parallel)
    return np.stack([*dataset.as_numpy_iterator()])
