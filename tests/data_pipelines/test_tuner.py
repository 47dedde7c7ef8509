"""Keras's loops read pipelines of every kind without tf.data's tuner."""

import copy

import keras
import numpy as np
import pytest

import keras_cvt
from keras_cvt import StageConfig
from keras_cvt._utils import pipelines

tf = pytest.importorskip("tensorflow")
if keras.backend.backend() != "tensorflow":
    pytest.skip("other backends have no tf.data loop", allow_module_level=True)


def dataset(enabled=None):
    batches = tf.data.Dataset.from_tensor_slices((IMAGES, LABELS)).batch(2)
    options = tf.data.Options()
    options.deterministic = False
    if enabled is not None:
        options.autotune.enabled = enabled
    return batches.with_options(options)


IMAGES = np.zeros((4, 8, 8, 3), "float32")
LABELS = np.zeros(4, "int32")


@pytest.mark.parametrize("enabled", [True, False])
def test_what_the_user_asks_for_is_kept(enabled):
    options = pipelines.untuned(dataset(enabled)).options()
    assert options.autotune.enabled is enabled
    assert options.autotune.initial_parallelism is None


def test_otherwise_the_tuner_is_off_and_maps_run_on_all_cores():
    options = pipelines.untuned(dataset()).options()
    assert options.autotune.enabled is False
    assert options.autotune.initial_parallelism > 0
    assert options.deterministic is False


@pytest.fixture
def model():
    stage = StageConfig(8, 1, 1, 3, 4, 1)
    config = keras_cvt.CvTConfig(stages=(stage,))
    model = keras_cvt.CvT(config, classes=2, input_shape=(8, 8, 3))
    model.compile("sgd", "sparse_categorical_crossentropy")
    return model


def test_the_strategy_can_be_copied(model):
    assert copy.copy(model.distribute_strategy).num_replicas_in_sync == 1


def loops(kind):
    arrays = {"x": IMAGES, "y": LABELS, "batch_size": 2}
    batches = {"x": dataset()}
    given = {"arrays": arrays, "a data set": batches}[kind]
    check = (IMAGES, LABELS) if kind == "arrays" else dataset()
    inputs = {"x": given["x"] if kind == "arrays" else dataset()}
    return {
        "fit": {**given, "validation_data": check, "verbose": 0},
        "evaluate": {**given, "verbose": 0},
        "predict": {**inputs, "verbose": 0},
    }


@pytest.mark.parametrize("kind", ["arrays", "a data set"])
@pytest.mark.parametrize("loop", ["fit", "evaluate", "predict"])
def test_no_loop_reads_a_tuned_pipeline(model, monkeypatch, loop, kind):
    read = []
    iterate = tf.data.Dataset.__iter__

    def spy(self):
        read.append(self.options().autotune.enabled)
        return iterate(self)

    for cls in {type(pipelines.untuned(dataset())), *tf.data.Dataset.__subclasses__()}:
        monkeypatch.setattr(cls, "__iter__", spy, raising=False)
    getattr(model, loop)(**loops(kind)[loop])
    assert read and not any(enabled is not False for enabled in read)


def test_a_strategy_keeps_everything_else(model):
    strategy = model.distribute_strategy
    assert strategy.num_replicas_in_sync == 1
    with strategy.scope():
        assert tf.distribute.has_strategy() is False
