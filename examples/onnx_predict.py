"""Classify photos with an exported ONNX file.

Needs only onnxruntime, NumPy and Pillow, not keras_cvt or TensorFlow. The class
names, the image size and the crop come from the file itself.

    python examples/onnx_predict.py cvt13.onnx photo.jpg ...
"""

import json

import onnxruntime
import photos


def open_file(path):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    metadata = json.loads(session.get_modelmeta().custom_metadata_map["keras_cvt"])
    return metadata, lambda images: session.run(["outputs"], {"images": images})[0]


if __name__ == "__main__":
    photos.classify(__doc__.splitlines()[0], open_file)
