"""Classify photos with an exported LiteRT file.

Needs only ai-edge-litert, NumPy and Pillow, not keras_cvt or TensorFlow. The class
names, the image size and the crop come from the file itself.

    python examples/tflite_predict.py cvt13.tflite photo.jpg ...
"""

import json
import os
import zipfile

import photos
from ai_edge_litert.interpreter import Interpreter


def open_file(path):
    with zipfile.ZipFile(path) as archive:
        metadata = json.loads(archive.read("keras_cvt.json"))
    interpreter = Interpreter(path, num_threads=os.cpu_count())
    run = interpreter.get_signature_runner("serving_default")
    return metadata, lambda images: run(images=images)["outputs"]


if __name__ == "__main__":
    photos.classify(__doc__.splitlines()[0], open_file)
