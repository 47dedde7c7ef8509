"""Train ten SGD steps on a folder's images; test_distribution starts the processes.

python distributed_worker.py KIND IMAGES OUTPUT [freeze] [average]
"""

import dataclasses
import sys
from pathlib import Path

import keras

import keras_cvt
from keras_cvt import StageConfig, data, training

BATCH_SIZE = 8


def freeze_batch_norm(model):
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.trainable = False


def two_processors():
    """Show TensorFlow this machine's processor as two devices."""
    import tensorflow as tf

    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0],
        [tf.config.LogicalDeviceConfiguration()] * 2,
    )


def connect_processors():
    """Let JAX's processes exchange arrays, as newer releases do by themselves."""
    import jax

    jax.config.update("jax_cpu_collectives_implementation", "gloo")


def main(kind, images, output, *options):
    if kind == "mirrored":
        two_processors()
    if kind == "data_parallel":
        connect_processors()
    recipe = dataclasses.replace(
        training.FINE_TUNING["pets"],
        image_size=16,
        steps=10,
        learning_rate=0.01,
        learning_rate_batch=BATCH_SIZE,
        drop_path_rate=0.0,
    )
    config = keras_cvt.CvTConfig((StageConfig(16, 1, 2, 3, 4, 1, cls_token=True),))
    source = data.open_source(images, "train")
    held_out = data.open_source(images, "validation")
    with training.distribute(kind, BATCH_SIZE):
        keras.utils.set_random_seed(0)
        run = training.Run(output)
        model = keras_cvt.CvT(config, classes=2, classifier_activation=None)
        if "freeze" in options:
            freeze_batch_norm(model)
        averages = "average" in options
        training.fit(
            model,
            recipe,
            source,
            held_out,
            run,
            batch_size=BATCH_SIZE,
            use_ema=averages,
            ema_momentum=0.8 if averages else None,
        )


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), *sys.argv[4:])
