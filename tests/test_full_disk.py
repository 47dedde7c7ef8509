"""A disk without room: one OSError, the earlier file stays, nothing is left."""

import contextlib
import sys

import keras
import pytest

import keras_cvt
from keras_cvt import StageConfig, conversion, deploy
from keras_cvt.checkpoints import save_checkpoint

resource = pytest.importorskip("resource", reason="POSIX only")
pytestmark = [
    pytest.mark.skipif(
        keras.backend.backend() != "tensorflow", reason="exports need TensorFlow"
    ),
    pytest.mark.skipif(sys.platform == "darwin", reason="Linux's limit of file sizes"),
]


@pytest.fixture(scope="module")
def model():
    stages = (StageConfig(96, 2, 1, 7, 4, 2, cls_token=True),)
    config = keras_cvt.CvTConfig(stages, activation="gelu")
    return keras_cvt.CvT(config, classes=3, input_shape=(32, 32, 3))


@contextlib.contextmanager
def no_room(size=100_000):
    """Let no file grow beyond a size, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def write(model, path):
    if path.suffix in (".safetensors", ".pth"):
        save_checkpoint(model, path)
    elif path.suffix == ".weights":
        save_checkpoint(model, path.with_suffix(""), layout="transformers")
    else:
        deploy.export(model, path)


@pytest.mark.parametrize(
    "name", ["m.safetensors", "m.pth", "m.weights", "m", "m.tflite", "m.onnx", "m.xml"]
)
def test_an_earlier_file_stays(model, tmp_path, name):
    path = tmp_path / name
    earlier = tmp_path / (path.stem if path.suffix == ".weights" else name)
    is_folder = not earlier.suffix
    if is_folder:
        earlier.mkdir()
        # What an earlier export of a SavedModel left, and any file of a user.
        (earlier / "saved_model.pb").write_text("earlier")
    else:
        earlier.write_text("earlier")
    with no_room(), pytest.raises(OSError, match="arge|space"):
        write(model, path)
    assert list(tmp_path.iterdir()) == [earlier]
    kept = earlier / "saved_model.pb" if is_folder else earlier
    assert kept.read_text() == "earlier"


# Not .weights.h5: under this limit, the HDF5 library crashes. A disk that is really
# full gives an OSError (benchmarks/faults.py).
@pytest.mark.parametrize("name", ["folder", "m.keras"])
def test_a_conversion_leaves_nothing(model, tmp_path, name):
    source, out = tmp_path / "source", tmp_path / "out"
    save_checkpoint(model, source, layout="transformers")
    out.mkdir()
    with no_room(), pytest.raises(OSError, match="arge|space"):
        conversion.convert(source, out / name)
    assert list(out.iterdir()) == []
