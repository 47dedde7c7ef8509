"""Classify photos with an exported LiteRT file.

Needs only ai-edge-litert, NumPy and Pillow: neither keras_cvt nor TensorFlow. Labels,
size and crop come from the file itself.

    python examples/tflite_predict.py cvt13.tflite photo.jpg ...
"""

import argparse
import json
import os
import zipfile

import photos
from ai_edge_litert.interpreter import Interpreter


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("photos", nargs="+")
    parser.add_argument("--top", type=int, default=5)
    options = parser.parse_args()

    with zipfile.ZipFile(options.model) as archive:
        metadata = json.loads(archive.read("keras_cvt.json"))
    interpreter = Interpreter(options.model, num_threads=os.cpu_count())
    classify = interpreter.get_signature_runner("serving_default")
    for path in options.photos:
        image = photos.load(path, metadata["input"]["eval_transform"])
        scores = classify(images=image)["outputs"][0]
        print(path)
        for label, score in photos.best(scores, metadata, options.top):
            print(f"  {score:6.1%}  {label}")


if __name__ == "__main__":
    main()
