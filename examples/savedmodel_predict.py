"""Classify photos with an exported SavedModel.

Needs only TensorFlow. The SavedModel takes the bytes of the photos: it decodes and
resizes them itself, and returns class names.

    python examples/savedmodel_predict.py cvt13_folder photo.jpg ...

On an Intel processor with AMX it is faster, and the scores change a little, with
TF_SET_ONEDNN_FPMATH_MODE=BF16 and TF_ONEDNN_ASSUME_FROZEN_WEIGHTS=1 in the environment:
oneDNN then multiplies in bfloat16, and keeps the weights in the form that it needs.
"""

import argparse
import sys

import tensorflow as tf


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("photos", nargs="+")
    options = parser.parse_args()

    signatures = tf.saved_model.load(options.model).signatures
    if "classify_encoded" not in signatures:
        sys.exit(
            "Expected a SavedModel with the signature classify_encoded. Only "
            "classifiers of RGB images of 0-255 are exported with it."
        )
    classify = signatures["classify_encoded"]
    for path in options.photos:
        answer = classify(encoded=tf.stack([tf.io.read_file(path)]))
        print(path)
        for name, score in zip(answer["labels"][0], answer["scores"][0], strict=True):
            print(f"  {float(score):6.1%}  {name.numpy().decode()}")


if __name__ == "__main__":
    main()
