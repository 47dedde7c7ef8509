"""Measure what quantization costs a trained network: agreement and accuracy.

A small CvT learns scikit-learn's digits, each training image in several rotations and
shifts. Its LiteRT files then classify held-out digits, also rotated and shifted. The
table compares the quantizations of `keras_cvt.deploy.export` with others.

    python benchmarks/quantization.py --output benchmarks/RESULTS.md
"""

import argparse
import datetime
import tempfile
from pathlib import Path

import keras
import numpy as np
import reports

import keras_cvt
from keras_cvt import CvTConfig, StageConfig
from keras_cvt.deploy import export, formats, fuse, tensorflow_graphs

CONFIG = CvTConfig(
    stages=(
        StageConfig(32, 1, 1, 3, 1, 1),
        StageConfig(64, 4, 2, 3, 2, 1, cls_token=True),
    )
)
COPIES = 6
CHOICES = {
    "float32": None,
    "float16": "float16",
    "`dynamic_int8`": "dynamic_int8",
    "`int8`": "int8",
}


def digits(seed):
    """Return augmented digits (B, 8, 8, 1), training and held-out, and labels."""
    from scipy import ndimage
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    images = images.reshape(-1, 8, 8) / 8 - 1
    parts = train_test_split(
        images, labels, test_size=0.25, stratify=labels, random_state=seed
    )
    rng = np.random.default_rng(seed)

    def augment(image):
        image = ndimage.rotate(
            image, rng.uniform(-12, 12), reshape=False, order=1, cval=-1
        )
        return ndimage.shift(image, rng.uniform(-0.6, 0.6, 2), order=1, cval=-1)

    train, test = (
        np.stack([augment(image) for image in np.repeat(part, COPIES, axis=0)])
        for part in parts[:2]
    )
    train_labels, test_labels = (np.repeat(part, COPIES) for part in parts[2:])
    as_images = [x[..., None].astype("float32") for x in (train, test)]
    return *as_images, train_labels, test_labels


def learned(train, labels, epochs, seed):
    keras.utils.set_random_seed(seed)
    model = keras_cvt.CvT(
        CONFIG,
        classes=10,
        input_shape=(8, 8, 1),
        include_preprocessing=False,
        classifier_activation=None,
    )
    steps = epochs * -(-len(train) // 64)
    model.compile(
        keras.optimizers.AdamW(keras.optimizers.schedules.CosineDecay(2e-3, steps)),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    model.fit(train, labels, 64, epochs, verbose=2)
    return model


def converter_full_int8(model, path, images):
    """Write what TensorFlow's converter calls full integer quantization."""
    import tensorflow as tf

    with tempfile.TemporaryDirectory() as folder:
        shape = (1, *images.shape[1:])
        tensorflow_graphs.save(model, folder, shape, constants=False)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: ([i[None]] for i in images)
        path.write_bytes(converter.convert())


def weights_only(model, path, images):
    """Write 8-bit weights for computations in float32."""
    from ai_edge_quantizer import quantizer, recipe

    source = path.with_name("float32.tflite")
    export(model, source)
    job = quantizer.Quantizer(str(source), recipe.weight_only_wi8_afp32())
    path.unlink()  # It does not overwrite files.
    job.quantize().export_model(str(path))


OTHERS = {
    "converter, static int8": converter_full_int8,
    "ai-edge-quantizer, weights only": weights_only,
}


def rows(args):
    train, test, train_labels, labels = digits(args.seed)
    model = learned(train, train_labels, args.epochs, args.seed)
    expected = model.predict(test, verbose=0)
    best = expected.argmax(-1)
    accuracy = np.mean(best == labels)
    representative = train[:: max(1, len(train) // 300)]

    def row(name, logits, size):
        own_best = logits.argmax(-1)
        cosine = np.sum(logits * expected, -1)
        cosine /= np.linalg.norm(logits, axis=-1) * np.linalg.norm(expected, axis=-1)
        drop = accuracy - np.mean(own_best == labels)
        return (
            name,
            f"{np.mean(own_best == best):.2%}",
            f"{100 * np.mean(own_best == labels):.2f}",
            f"{100 * drop:+.2f}",
            f"{cosine.mean():.5f}",
            f"{cosine.min():.4f}",
            size,
        )

    yield row(f"Keras, {len(test)} images", expected, "")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.tflite"
        fused = fuse(model)
        for name, quantization in CHOICES.items():
            images = representative if quantization == "int8" else None
            export(model, path, "litert", quantization, representative_images=images)
            (logits,) = formats.open_file(path, args.threads).run(test)
            yield row(name, logits, f"{path.stat().st_size / 1024:.0f}")
        for name, write in OTHERS.items():
            write(fused, path, representative)
            (logits,) = formats.open_file(path, args.threads).run(test)
            yield row(name, logits, f"{path.stat().st_size / 1024:.0f}")
    model.quantize("int8")
    yield row('Keras `model.quantize("int8")`', model.predict(test, verbose=0), "")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, help="file to append the report to")
    args = parser.parse_args()
    versions = reports.versions(("keras", "ai-edge-quantizer", "ai-edge-litert"))
    header = (
        "LiteRT file",
        "top-1 agreement",
        "accuracy %",
        "drop, points",
        "cosine, mean",
        "smallest",
        "KiB",
    )
    lines = [
        f"## Quantization of a network that has learned ({datetime.date.today()})",
        "",
        f"`{reports.command_line()}`, {versions}",
        "",
        *reports.table(header, rows(args)),
    ]
    text = "\n".join(lines) + "\n"
    reports.keep(text, args.output)


if __name__ == "__main__":
    main()
