"""Prepare photos for an exported CvT and print its best classes.

Needs only NumPy and Pillow.
"""

import argparse
import sys

import numpy as np
from PIL import Image


def load(path, transform):
    """Return a photo as float32 (1, height, width, 3) of 0-255, resized and cropped.

    `transform` is `input.eval_transform` of the file's metadata.
    """
    height, width = transform["image_size"]
    ratio = transform["crop_ratio"]
    image = Image.open(path)
    if image.mode.startswith("I;16"):
        # Pillow keeps the upper 8 bits of colours, but clips grey values at 255.
        image = Image.fromarray((np.asarray(image) >> 8).astype("uint8"))
    elif image.mode in ("I", "F"):
        sys.exit(f"Expected 8 or 16 bits per channel, not 32. Received: {path}")
    image = image.convert("RGB")
    if ratio is None:
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    else:
        cover_height, cover_width = int(height / ratio), int(width / ratio)
        new_height = max(cover_height, cover_width * image.height // image.width)
        new_width = max(cover_width, cover_height * image.width // image.height)
        if new_height * new_width > 2**26:
            sys.exit(f"The image is too narrow to resize. Received: {path}")
        image = image.resize((new_width, new_height), Image.Resampling.BICUBIC)
        top, left = round((new_height - height) / 2), round((new_width - width) / 2)
        image = image.crop((left, top, left + width, top + height))
    return np.asarray(image, "float32")[None]


def best(scores, metadata, top):
    """Return the best (class name, probability) pairs of one image's outputs."""
    if metadata["outputs"] == "logits" and len(scores) == 1:
        scores = 1 / (1 + np.exp(-scores))
    elif metadata["outputs"] == "logits":
        scores = np.exp(scores - scores.max())
        scores = scores / scores.sum()
    # Files of version 0.1.0 call them labels.
    names = metadata.get("class_names", metadata.get("labels"))
    names = names or [f"class {i}" for i in range(len(scores))]
    return [(names[i], float(scores[i])) for i in np.argsort(-scores)[:top]]


def check(metadata):
    """Stop unless the file classifies RGB images of 0-255."""
    images, outputs = metadata["input"], metadata["outputs"]
    # A softmax over one output is always 1.
    one = metadata.get("activation") == "softmax" and metadata.get("classes") == 1
    if outputs not in ("probabilities", "logits") or one:
        sys.exit(f"Expected a classifier. The file's outputs are {outputs}.")
    if images["range"] != [0, 255] or images["channels"] != 3:
        sys.exit(
            "Expected a file that takes RGB images of 0-255. This one takes "
            f"{images['channels']} channels, range {images['range']}."
        )


def classify(description, open_file):
    """Classify the photos on the command line, and print the best classes.

    `open_file` returns a file's metadata and a function from images to outputs.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("model")
    parser.add_argument("photos", nargs="+")
    parser.add_argument("--top", type=int, default=5)
    options = parser.parse_args()
    metadata, run = open_file(options.model)
    check(metadata)
    for path in options.photos:
        image = load(path, metadata["input"]["eval_transform"])
        print(path)
        for name, score in best(run(image)[0], metadata, options.top):
            print(f"  {score:6.1%}  {name}")
