"""Classify photos with an exported ONNX file.

Needs only onnxruntime, NumPy and Pillow: neither keras_cvt nor TensorFlow. Labels,
size and crop come from the file itself.

    python examples/onnx_predict.py cvt13.onnx photo.jpg ...
"""

import argparse
import json

import onnxruntime
import photos


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("photos", nargs="+")
    parser.add_argument("--top", type=int, default=5)
    options = parser.parse_args()

    session = onnxruntime.InferenceSession(
        options.model, providers=["CPUExecutionProvider"]
    )
    properties = session.get_modelmeta().custom_metadata_map
    metadata = json.loads(properties["keras_cvt"])
    for path in options.photos:
        image = photos.load(path, metadata["input"]["eval_transform"])
        (scores,) = session.run(["outputs"], {"images": image})
        print(path)
        for label, score in photos.best(scores[0], metadata, options.top):
            print(f"  {score:6.1%}  {label}")


if __name__ == "__main__":
    main()
