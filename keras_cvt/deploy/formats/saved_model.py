"""SavedModel, TensorFlow's own format. It needs no other package."""

import functools
import json
from pathlib import Path

import keras

from keras_cvt._utils.optional import tf
from keras_cvt.deploy import tensorflow_graphs
from keras_cvt.deploy.file_format import METADATA, ExportOptions, FileFormat, Runtime
from keras_cvt.preprocessing import decoding
from keras_cvt.preprocessing.tensors import transform_tensor

# SavedModel reserves this folder for files of other programs.
_METADATA_FILE = f"assets.extra/{METADATA}.json"


def write(network: keras.Model, path: Path, options: ExportOptions) -> None:
    """Write a SavedModel.

    A classifier that takes photos also gets the signature `classify_encoded`. It takes
    `encoded`, JPEG or PNG files as strings (B,), and returns `labels`, class names
    (B, top), and `scores` (B, top), best first. Pixels are those of `preprocess_input`.
    Other bytes, and images that it refuses for their size, fail with InvalidArgument.
    """
    description, classify = options.description, None
    if description.is_classifier and description.takes_photos:
        classify = functools.partial(_classify, description, options.top)
    tensorflow_graphs.save(network, path, options.shape, classify=classify)
    file = path / _METADATA_FILE
    file.parent.mkdir()
    file.write_text(json.dumps(options.metadata, indent=2), encoding="utf-8")


def _classify(description, top, encoded, network):
    def decode(file):
        pixels = decoding.decode(file, others=decoding.refuse)
        return transform_tensor(pixels, description.eval_transform)

    names = description.class_names or tuple(map(str, range(description.classes)))
    images = tf.map_fn(decode, encoded, fn_output_signature="float32")
    (scores,) = network(images)
    if description.score_activation is not None:
        scores = getattr(tf.nn, description.score_activation)(scores)
    scores, best = tf.math.top_k(scores, min(top, len(names)))
    return {"labels": tf.gather(tf.constant(names), best), "scores": scores}


def open_file(path: Path, threads: int) -> Runtime:
    """Open a SavedModel. TensorFlow's number of threads stays what it is."""
    loaded = tf.saved_model.load(str(path))
    signature = loaded.signatures["serving_default"]
    names = sorted(signature.structured_outputs)
    (spec,) = signature.structured_input_signature[1].values()

    def call(images):
        # `loaded` owns the signature's resources.
        outputs = loaded.signatures["serving_default"](images=tf.constant(images))
        return [outputs[name].numpy() for name in names]

    return Runtime(FORMAT.name, spec.shape[0], call)


def read_metadata(path: Path) -> str:
    """Return the metadata's JSON text."""
    return (path / _METADATA_FILE).read_text(encoding="utf-8")


FORMAT = FileFormat(
    name="tf_saved_model",
    title="SavedModel",
    write=write,
    open=open_file,
    read_metadata=read_metadata,
    suffix="",
    marker="saved_model.pb",
    stem="saved_model",
    aliases=("saved_model",),
    usage="""TensorFlow Serving, `{path}` as version 1:

```sh
docker run -p 8501:8501 -e MODEL_NAME=cvt \\
  -v "$PWD/{path}:/models/cvt/1" tensorflow/serving
```

On an Intel processor with AMX, `-e TF_SET_ONEDNN_FPMATH_MODE=BF16
-e TF_ONEDNN_ASSUME_FROZEN_WEIGHTS=1` computes products in bfloat16, which is faster and
changes the scores a little. Restart the server for another version:
the first weights of a process stay in use.""",
)
