"""Prepare photos for an exported CvT and print its best classes.

Needs only NumPy and Pillow.
"""

import argparse

import numpy as np
from PIL import Image


def load(path, transform):
    """Return a photo as float32 (1, height, width, 3) of 0-255, resized and cropped.

    `transform` is `input.eval_transform` of the file's metadata.
    """
    height, width = transform["image_size"]
    ratio = transform["crop_ratio"]
    image = Image.open(path).convert("RGB")
    if ratio is None:
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    else:
        cover_height, cover_width = int(height / ratio), int(width / ratio)
        new_height = max(cover_height, cover_width * image.height // image.width)
        new_width = max(cover_width, cover_height * image.width // image.height)
        image = image.resize((new_width, new_height), Image.Resampling.BICUBIC)
        top, left = round((new_height - height) / 2), round((new_width - width) / 2)
        image = image.crop((left, top, left + width, top + height))
    return np.asarray(image, "float32")[None]


def best(scores, metadata, top):
    """Return the best (class name, probability) pairs of one image's outputs."""
    if metadata["outputs"] == "logits":
        scores = np.exp(scores - scores.max())
        scores = scores / scores.sum()
    # Files of version 0.1.0 call them labels.
    names = metadata.get("class_names", metadata.get("labels"))
    names = names or [f"class {i}" for i in range(len(scores))]
    return [(names[i], float(scores[i])) for i in np.argsort(-scores)[:top]]


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
    for path in options.photos:
        image = load(path, metadata["input"]["eval_transform"])
        print(path)
        for name, score in best(run(image)[0], metadata, options.top):
            print(f"  {score:6.1%}  {name}")
