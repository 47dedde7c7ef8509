"""Show what a CvT answers about photos, where it looked, and its exported file.

If the Hugging Face Hub is reachable, CvT-13 with its ImageNet weights classifies photos
of scikit-image and scikit-learn. Otherwise a small CvT learns in about a minute which
object a scene shows, and classifies scenes that it has not seen: objects in front of
photos that are in no training scene; see `photo_scenes.py`. Then the network is
exported to a LiteRT file, which LiteRT runs on the same photos. `demo.png` shows each
photo with the heat map of its best class and the answers of both.

    python examples/demo.py [--output FOLDER] [--offline]
"""

import argparse
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
from matplotlib.figure import Figure
from photo_scenes import NAMES, PhotoScenes, load_photo
from PIL import Image

import keras_cvt
from keras_cvt import CvTConfig, StageConfig, deploy, explain
from keras_cvt.inference import classifier_of
from keras_cvt.preprocessing import EvalTransform

PHOTOS = (
    *("astronaut", "chelsea", "coffee", "rocket", "motorcycle"),
    *("china.jpg", "flower.jpg"),
)
SMALL = CvTConfig(
    stages=(
        StageConfig(32, 1, 1, 7, 4, 2),
        StageConfig(64, 2, 2, 3, 2, 1, cls_token=True),
    )
)
# Pixels: what the small network takes, and what the scenes are shown in.
SIDE, SHOWN_SIDE = 96, 288
TRAINING, TEST, EPOCHS, BATCH = 3200, 400, 7, 64
COLUMNS, ANSWERS = 4, 3
# Inches of a row of photos, and of the text above them.
ROW, HEAD = 3.6, 1.4
BLUE, ORANGE, RED = "#3b76af", "#c96f12", "#b3202a"
FILE = "model.tflite"
# The heat, at most 1, that is drawn as hottest: one token alone has more.
HOTTEST = 0.6


class Page(NamedTuple):
    """What the picture shows.

    Attributes:
        model: The network.
        photos: uint8 (H, W, 3) each.
        captions: A text for each photo, and whether the network is wrong.
        notes: Lines above the photos, the first one as the title.
    """

    model: keras_cvt.CvTModel
    photos: list[np.ndarray]
    captions: list[tuple[str, bool]]
    notes: list[str]


def imagenet_page(folder):
    """Return the page of CvT-13 on photos; None without its weights."""
    print("Asking the Hugging Face Hub for the weights of CvT-13 ...")
    try:
        model = keras_cvt.CvT13(weights="imagenet")
    except OSError as error:
        print(f"No weights: {error}\n")
        return None
    photos = [np.asarray(load_photo(name)) for name in PHOTOS]
    images = keras_cvt.preprocess_input(photos, model)
    same = compare_file(model, images, folder)
    captions = [(name.removesuffix(".jpg"), False) for name in PHOTOS]
    notes = ["CvT-13 with its ImageNet weights", same]
    return Page(model, photos, captions, notes)


def scenes_page(folder):
    """Train a small network on scenes, test it on others, and return its page."""
    print(f"Making {TRAINING} scenes of {len(NAMES)} objects ...")
    scenes = make(PhotoScenes("train", TRAINING, SIDE))
    images = np.stack([scene.image for scene in scenes])
    labels = np.array([scene.label for scene in scenes])
    keras.utils.set_random_seed(0)
    model = keras_cvt.CvT(SMALL, classes=len(NAMES), input_shape=(SIDE, SIDE, 3))
    model.class_names = NAMES
    model.eval_transform = EvalTransform((SIDE, SIDE), None)
    steps = EPOCHS * -(-len(images) // BATCH)
    schedule = keras.optimizers.schedules.CosineDecay(
        1e-4, steps - steps // 10, warmup_target=2e-3, warmup_steps=steps // 10
    )
    model.compile(
        keras.optimizers.AdamW(schedule, weight_decay=0.05),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    print(f"Training {model.count_params():,} parameters for {EPOCHS} epochs ...")
    start = time.perf_counter()
    model.fit(images, labels, BATCH, EPOCHS, verbose=2)
    seconds = time.perf_counter() - start
    # With the optimizer's state it would be three times the size.
    model.compile()
    model.save(folder / "model.keras")

    # As photos: larger, and brought to the network's size by `preprocess_input`.
    test = make(PhotoScenes("test", TEST, SHOWN_SIDE))
    photos, labels = [s.image for s in test], np.array([s.label for s in test])
    images = keras_cvt.preprocess_input(photos, model)
    best = model.predict(images, verbose=0).argmax(-1)
    accuracy = np.mean(best == labels)
    print(f"Accuracy on {TEST} scenes that it has not seen: {accuracy:.1%}")
    heats = np.concatenate(
        [explain.grad_cam(model, images[i : i + BATCH]) for i in range(0, TEST, BATCH)]
    )
    heats = [explain.to_photo(h, (SHOWN_SIDE, SHOWN_SIDE), model) for h in heats]
    on_object, area = (
        np.mean([values[s.outline].sum() / values.sum() for values, s in found])
        for found in (
            [(heat, s) for heat, s in zip(heats, test, strict=True) if heat.any()],
            [(np.ones_like(s.outline, "float32"), s) for s in test],
        )
    )
    looked = (
        f"{on_object:.0%} of the heat lies on the object, which covers {area:.0%} of a "
        "scene."
    )
    print(looked)
    same = compare_file(model, images, folder)
    shown = choose(best, labels)
    captions = [(NAMES[labels[i]], bool(best[i] != labels[i])) for i in shown]
    (folder / "scenes").mkdir(parents=True, exist_ok=True)
    for i in shown:
        path = folder / "scenes" / f"{NAMES[labels[i]].replace(' ', '_')}.png"
        Image.fromarray(photos[i]).save(path)
    notes = [
        f"A small CvT on scenes it has not seen: {accuracy:.1%} of {TEST} are right",
        f"{model.count_params():,} parameters, trained on {TRAINING} scenes in "
        f"{seconds:.0f} seconds. No photo behind these objects is in a training scene, "
        "and the coins are others.",
        looked,
        same,
    ]
    return Page(model, [photos[i] for i in shown], captions, notes)


def make(scenes):
    """Return the scenes as a list, made in several threads."""
    with ThreadPoolExecutor() as pool:
        return list(pool.map(scenes.__getitem__, range(len(scenes))))


def choose(best, labels):
    """Return the indices of a scene of each class, at most two of them wrong."""
    wrong = {labels[i]: i for i in np.flatnonzero(best != labels)[:2]}
    chosen = []
    for label in range(len(NAMES)):
        # Of each class another one, because the photos behind them may repeat.
        right = np.flatnonzero((labels == label) & (best == label))
        index = right[label % len(right)] if len(right) else np.argmax(labels == label)
        chosen.append(wrong.get(label, index))
    return chosen


def compare_file(model, images, folder):
    """Export a network to LiteRT, run the file, and say how its answers compare."""
    path = folder / FILE
    print(f"Exporting {path} ...")
    deploy.export(model, path)
    result = deploy.verify(model, path, images)
    if not result.passed:
        raise ValueError(f"The exported file differs from its network.\n{result}")
    scores = classifier_of(model).scores(images, batch_size=BATCH)
    difference = np.abs(classifier_of(path).scores(images) - scores).max()
    text = (
        f"The exported LiteRT file, {result.size_bytes / 1e6:.1f} MB, gives the same "
        f"answer for {result.top1_agreement:.1%} of {result.images} photos, and scores "
        f"within {difference:.0e}."
    )
    print(text)
    return text


def classify(page, file):
    """Return the class names, and the scores (N, classes, 2) of network and file."""
    networks = classifier_of(page.model), classifier_of(file)
    images = keras_cvt.preprocess_input(page.photos, page.model)
    names = [entry["label"] for entry in networks[0].classes]
    scores = np.stack([network.scores(images) for network in networks], axis=-1)
    for (caption, _), row in zip(page.captions, scores[..., 0], strict=True):
        best = [f"{names[i]} {row[i]:.1%}" for i in np.argsort(-row)[:ANSWERS]]
        print(f"  {caption}: {', '.join(best)}")
    return names, scores


def draw(page, names, scores, path):
    """Write the picture of a page with what `classify` returned."""
    images = keras_cvt.preprocess_input(page.photos, page.model)
    heats = explain.grad_cam(page.model, images)
    rows = -(-len(images) // COLUMNS)
    height = ROW * rows + HEAD
    figure = Figure(figsize=(4 * COLUMNS, height))
    title, *notes = page.notes
    style = {"ha": "left", "va": "top"}
    figure.text(0.01, 1 - 0.1 / height, title, fontsize=18, weight="bold", **style)
    figure.text(0.01, 1 - 0.5 / height, "\n".join(notes), fontsize=11, **style)
    grid = figure.add_gridspec(
        *(rows, COLUMNS),
        **{"left": 0.01, "right": 0.99, "bottom": 0.01, "wspace": 0.08, "hspace": 0.12},
        top=1 - HEAD / height,
    )
    for i, photo in enumerate(page.photos):
        cell = grid[divmod(i, COLUMNS)].subgridspec(
            2, 2, height_ratios=(1.5, 1), wspace=0.02, hspace=0.02
        )
        caption, wrong = page.captions[i]
        caption += ": wrong" if wrong else ""
        # In grey, so that the colours are those of the heat.
        grey = np.repeat(photo.mean(axis=-1, keepdims=True), 3, axis=-1)
        heat = explain.overlay(0.8 * grey, heats[i], page.model, maximum=HOTTEST)
        for column, (picture, title, style) in enumerate(
            (
                (photo, caption, {"fontsize": 12, "color": RED if wrong else "black"}),
                (heat, "where it looked", {"fontsize": 9, "color": "grey"}),
            )
        ):
            axes = figure.add_subplot(cell[0, column])
            axes.imshow(picture)
            axes.set_axis_off()
            axes.set_title(title, loc="left", **style)
        draw_answers(figure.add_subplot(cell[1, :]), names, scores[i])
    figure.savefig(path, dpi=120)


def draw_answers(axes, names, scores):
    """Draw the best classes, with the scores (classes, 2) of a model and its file."""
    for place, index in enumerate(np.argsort(-scores[:, 0])[:ANSWERS]):
        name = textwrap.shorten(names[index].replace("_", " "), 26, placeholder="...")
        axes.text(0, place, name, fontsize=10, va="center")
        for i, (colour, right) in enumerate(((BLUE, 0.82), (ORANGE, 1.0))):
            score = scores[index, i]
            bar = place + 0.28 + 0.14 * i
            axes.barh(bar, score, height=0.12, color=colour)
            text = f"{score:.1%}"
            style = {"ha": "right", "va": "center", "fontsize": 10}
            axes.text(right, place, text, color=colour, **style)
    for text, colour, right in (("Keras", BLUE, 0.82), ("LiteRT", ORANGE, 1.0)):
        style = {"ha": "right", "va": "center", "fontsize": 9}
        axes.text(right, -0.55, text, color=colour, **style)
    axes.set(xlim=(0, 1), ylim=(ANSWERS - 0.45, -0.8))
    axes.set_axis_off()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("demo_output"))
    parser.add_argument("--offline", action="store_true", help="skip the Hub")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    published = None if options.offline else imagenet_page(options.output)
    page = published or scenes_page(options.output)
    path = options.output / "demo.png"
    draw(page, *classify(page, options.output / FILE), path)
    print(f"\nThe picture is in {path.resolve()}")
    if not published:
        files = f"{options.output / 'scenes'} --model {options.output / 'model.keras'}"
        print(f"Try it: keras-cvt predict {files}")


if __name__ == "__main__":
    main()
