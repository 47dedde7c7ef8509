"""Classify photos with the published CvT-13, or digits with a small CvT.

If the Hugging Face Hub is reachable, CvT-13 with its ImageNet weights classifies
photos of scikit-image. Otherwise a small CvT learns scikit-learn's digits in about a
minute. It is saved as a checkpoint in the official PyTorch layout and loaded back.
Then it classifies digits that it has not seen.

    python examples/demo.py [--output FOLDER] [--offline]
"""

import argparse
import textwrap
from pathlib import Path

import keras
import numpy as np

import keras_cvt
from keras_cvt import CvTConfig, StageConfig
from keras_cvt.checkpoints import load_checkpoint, save_checkpoint

MIN_SCORE = 0.001  # The picture leaves out lower scores.
PHOTOS = ("astronaut", "chelsea", "coffee", "rocket")
DIGITS = CvTConfig(
    stages=(
        StageConfig(32, 1, 1, 3, 1, 1),
        StageConfig(64, 2, 2, 3, 2, 1, cls_token=True),
    )
)


def classify_photos():
    """Return images, captions, top-5 classes and a title; None without weights."""
    print("Asking the Hugging Face Hub for the weights of CvT-13 ...")
    try:
        model = keras_cvt.CvT13(weights="imagenet")
    except OSError as error:
        print(f"No weights: {error}\n")
        return None
    from skimage import data

    photos = [getattr(data, name)() for name in PHOTOS]
    scores = model.predict(keras_cvt.preprocess_input(photos, model), verbose=0)
    top5 = [
        [(name, score) for _, name, score in row]
        for row in keras_cvt.decode_predictions(scores)
    ]
    return photos, PHOTOS, top5, "CvT-13, ImageNet weights"


def digits_network(**kwargs):
    # The model normalises RGB only; the caller scales images of one channel.
    return keras_cvt.CvT(
        DIGITS,
        classes=10,
        input_shape=(8, 8, 1),
        include_preprocessing=False,
        **kwargs,
    )


def classify_digits(folder):
    """Train, save, load back and classify. Returns the same as `classify_photos`."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    images = (images.reshape(-1, 8, 8, 1) / 8 - 1).astype("float32")
    x_train, x_test, y_train, y_test = train_test_split(
        images, labels, test_size=0.25, stratify=labels, random_state=0
    )
    epochs, batch_size = 20, 64
    keras.utils.set_random_seed(0)
    model = digits_network()
    steps = epochs * -(-len(x_train) // batch_size)
    model.compile(
        keras.optimizers.AdamW(keras.optimizers.schedules.CosineDecay(2e-3, steps)),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    print(f"Training {model.count_params():,} parameters on {len(x_train)} digits ...")
    model.fit(x_train, y_train, batch_size, epochs, verbose=2)

    path = folder / "digits_official_layout.safetensors"
    save_checkpoint(model, path)
    loaded = digits_network()
    report = load_checkpoint(loaded, path)
    print(f"Saved {path} and loaded its {len(report.loaded)} arrays into a new model.")
    scores = loaded.predict(x_test, verbose=0)
    accuracy = np.mean(scores.argmax(-1) == y_test)
    print(f"Accuracy on {len(x_test)} digits that it has not seen: {accuracy:.1%}")

    wrong = list(np.flatnonzero(scores.argmax(-1) != y_test)[:2])
    correct = scores.argmax(-1) == y_test
    right = [np.flatnonzero(correct & (y_test == digit))[:1] for digit in range(10)]
    shown = [*wrong, *np.concatenate(right)][:8]
    captions = [
        str(y_test[i]) if correct[i] else f"{y_test[i]}, taken for {scores[i].argmax()}"
        for i in shown
    ]
    top5 = [
        [(str(digit), scores[i, digit]) for digit in np.argsort(-scores[i])[:5]]
        for i in shown
    ]
    title = f"A small CvT on digits it has not seen ({accuracy:.1%} of them right)"
    return [x_test[i, ..., 0] for i in shown], captions, top5, title


def draw(images, captions, top5, title, path):
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    columns = min(4, len(images))
    rows = -(-len(images) // columns)
    figure, axes = plt.subplots(
        2 * rows,
        columns,
        figsize=(3.2 * columns, 4.4 * rows),
        height_ratios=[3, 2] * rows,
        squeeze=False,
    )
    figure.suptitle(title)
    for i, (image, best) in enumerate(zip(images, top5, strict=True)):
        best = [(name, score) for name, score in best if score >= MIN_SCORE]
        row, column = divmod(i, columns)
        picture, bars = axes[2 * row, column], axes[2 * row + 1, column]
        picture.imshow(image, cmap="gray", interpolation="bicubic")
        picture.set_title(captions[i], fontsize=10)
        picture.axis("off")
        names = [textwrap.shorten(name.replace("_", " "), 22) for name, _ in best]
        places = range(len(best))
        bars.barh(places, [score for _, score in best], color="#a6c8e8")
        # Names are drawn on the bars: beside them there is no space.
        for place, (name, (_, score)) in enumerate(zip(names, best, strict=True)):
            bars.text(0.02, place, f"{name}  {score:.1%}", va="center", fontsize=9)
        bars.set(xlim=(0, 1), ylim=(4.5, -0.5), xticks=[], yticks=[])
    figure.tight_layout()
    figure.savefig(path, dpi=100)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("demo_output"))
    parser.add_argument("--offline", action="store_true", help="skip the Hub")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    result = None if options.offline else classify_photos()
    images, captions, top5, title = result or classify_digits(options.output)
    path = options.output / "demo.png"
    draw(images, captions, top5, title, path)
    for best in top5:
        print("  ".join(f"{name} {score:.1%}" for name, score in best))
    print(f"\nThe picture is in {path.resolve()}")


if __name__ == "__main__":
    main()
