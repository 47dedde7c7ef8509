"""Fine-tune on a folder of images, export, push, load again and compare.

    python examples/push_fine_tuned.py --data FOLDER --repo me/my-flowers \\
        --exports saved_model litert_int8

The folder holds a folder of images for each class, or train/ and validation/ (or test/)
with such folders. A push needs a token with the right to write (HF_TOKEN, or `hf auth
login`). --dry-run writes the repository into a folder instead.
"""

import argparse
import dataclasses
import io
from pathlib import Path

import keras
import numpy as np
import options as common
import PIL.Image

import keras_cvt
from keras_cvt import data, hub, training


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True)
    common.add_validation_split(parser)
    parser.add_argument("--repo", required=True, help="org/name")
    parser.add_argument("--weights", default="imagenet")
    parser.add_argument("--model", help="config.json of the network; default: CvT-13")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--run", default="run", help="folder of the training run")
    parser.add_argument(
        "--exports", nargs="+", default=(), help="such as saved_model litert_int8 onnx"
    )
    parser.add_argument("--license", help="licence of your weights, such as apache-2.0")
    parser.add_argument("--public", action="store_true")
    parser.add_argument(
        "--dry-run", metavar="FOLDER", help="write the repository there, do not push"
    )
    options = parser.parse_args()

    share = options.validation_split
    images = data.open_source(options.data, "train", validation_split=share)
    held_out = data.open_source(
        options.data,
        "validation",
        class_names=images.class_names,
        validation_split=share,
    )
    model, accuracy = fine_tune(options, images, held_out)
    about = hub.About(
        description=f"Distinguishes {len(images.class_names)} kinds of images.",
        license=options.license,
        base_model="microsoft/cvt-13" if options.weights == "imagenet" else None,
        evaluations=[
            hub.Evaluation(
                "held-out images", "imagefolder", "accuracy", accuracy, source="owner"
            )
        ],
    )
    artefacts = None
    if options.exports:
        artefacts = Path(options.run) / "exports"
        hub.write_artefacts(
            model,
            artefacts,
            options.exports,
            source=options.repo,
            representative_images=representative(images, model),
        )
    # The model knows its class names: `training.fit` took them from the images.
    page = {"about": about, "artefacts": artefacts}
    if options.dry_run:
        difference = hub.write_folder(
            model, options.dry_run, repo_id=options.repo, **page
        )
        print(f"Verified within {difference:.1e}: {options.dry_run}")
        return
    report = hub.push(model, options.repo, private=not options.public, **page)
    print(f"Verified within {report.difference:.1e}: {report.url}")
    loaded = hub.load(options.repo, revision=report.commit)
    size = (1, *model.eval_transform.image_size, 3)
    pixels = np.random.default_rng(0).uniform(0, 255, size).astype("float32")
    outputs = [m.predict(pixels, verbose=0) for m in (model, loaded)]
    print(f"Loaded back within {np.abs(outputs[0] - outputs[1]).max():.1e}")


def representative(images, model):
    """Return up to 256 training images of all classes, as the model takes them."""
    evenly = images.examples.shard(-(-images.count // 256), 0)
    chosen = [
        PIL.Image.open(io.BytesIO(encoded)) for encoded, _ in evenly.as_numpy_iterator()
    ]
    return keras_cvt.preprocess_input(chosen, model)


def fine_tune(options, images, held_out):
    """Return the fine-tuned classifier and its accuracy on the held-out images."""
    config = keras_cvt.config.CVT_13
    if options.model:
        config = keras_cvt.CvTConfig.from_json(options.model)
    recipe = dataclasses.replace(
        training.FINE_TUNING["flowers"],
        steps=options.steps,
        image_size=options.image_size,
    )
    model = keras_cvt.CvT(
        config,
        weights={"imagenet": "cvt13/imagenet", "none": None}.get(
            options.weights, options.weights
        ),
        classes=len(images.class_names),
        classifier_activation=None,
        drop_path_rate=recipe.drop_path_rate,
    )
    run = training.Run(Path(options.run))
    history = training.fit(
        model, recipe, images, held_out, run, batch_size=options.batch_size
    )
    best = keras.models.load_model(run.best)
    # It was trained on logits. People want probabilities.
    accuracy = max(row["val_accuracy"] for row in history)
    return best.with_activation("softmax"), accuracy


if __name__ == "__main__":
    main()
