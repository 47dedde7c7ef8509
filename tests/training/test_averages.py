"""With averaged weights, validation and the saved models use the averages."""

from types import SimpleNamespace

import keras
import numpy as np
import pytest

import keras_cvt
from keras_cvt import StageConfig
from keras_cvt.training import AdamW, Run

pytestmark = pytest.mark.any_backend

CONFIG = keras_cvt.CvTConfig((StageConfig(8, 2, 1, 3, 4, 1, cls_token=True),))
IMAGES = np.random.default_rng(0).uniform(0, 255, (16, 8, 8, 3)).astype("float32")
TARGETS = np.eye(3, dtype="float32")[np.arange(16) % 3]
MOMENTUM = 0.8
EPOCHS = 3


def compiled(use_ema):
    """Return a network with every kind of dropout, the same each time."""
    keras.utils.set_random_seed(1)
    model = keras_cvt.CvT(
        CONFIG,
        classes=3,
        classifier_activation=None,
        input_shape=(8, 8, 3),
        drop_rate=0.3,
        attention_drop_rate=0.2,
        drop_path_rate=0.3,
    )
    model.compile(
        AdamW(0.01, use_ema=use_ema, ema_momentum=MOMENTUM),
        keras.losses.CategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def train(model, folder, epochs=EPOCHS, callbacks=()):
    run = Run(folder, resume=True)
    done = run.restore(model)
    model.fit(
        IMAGES,
        TARGETS,
        batch_size=4,
        shuffle=False,
        validation_data=(IMAGES, TARGETS),
        epochs=epochs,
        initial_epoch=done,
        callbacks=[*run.callbacks(), *callbacks],
        verbose=0,
    )
    return run


def values(variables):
    return [keras.ops.convert_to_numpy(v).copy() for v in variables]


def assert_same(a, b):
    for one, other in zip(a, b, strict=True):
        np.testing.assert_array_equal(one, other)


def assert_near(a, b):
    for one, other in zip(a, b, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)


class AveragesByHand(keras.callbacks.Callback):
    """Averages the weights that each step leaves, and keeps those of each epoch."""

    def __init__(self):
        super().__init__()
        self.average, self.by_epoch = None, []

    def on_train_batch_end(self, batch, logs=None):
        if keras.backend.backend() == "jax":
            self.model.jax_state_sync()
        weights = values(self.model.trainable_variables)
        if self.average is None:
            self.average = weights
        self.average = [
            MOMENTUM * old + (1 - MOMENTUM) * new
            for old, new in zip(self.average, weights, strict=True)
        ]

    def on_epoch_end(self, epoch, logs=None):
        self.by_epoch.append(self.average)


@pytest.fixture(scope="module", params=[False, True], ids=["raw", "averages"])
def use_ema(request):
    return request.param


@pytest.fixture(scope="module")
def trainings(tmp_path_factory):
    """Return a function that trains without a stop, once with and once without."""
    made = {}

    def whole(use_ema):
        if use_ema not in made:
            by_hand = AveragesByHand()
            model = compiled(use_ema)
            folder = tmp_path_factory.mktemp("whole")
            run = train(model, folder, callbacks=[by_hand])
            made[use_ema] = SimpleNamespace(
                history=run.history(),
                best=keras.models.load_model(run.best),
                last=keras.models.load_model(run.last),
                by_epoch=by_hand.by_epoch,
                weights=model.get_weights(),
                trained=values(model.trainable_variables),
                optimizer=values(model.optimizer.variables),
                run=run,
                model=model,
            )
        return made[use_ema]

    return whole


def test_averaging_leaves_the_training_as_it_is(trainings):
    raw, averages = (trainings(use_ema).history for use_ema in (False, True))
    assert [row["loss"] for row in averages] == [row["loss"] for row in raw]
    for a, b in zip(averages, raw, strict=True):
        assert a["val_loss"] != b["val_loss"]


def test_the_model_that_is_left_and_saved_has_the_averages(trainings):
    whole = trainings(True)
    assert_near(whole.trained, whole.by_epoch[-1])
    assert_same(whole.last.get_weights(), whole.weights)


def test_the_best_model_is_that_of_the_best_averages(trainings):
    whole = trainings(True)
    accuracies = [row["val_accuracy"] for row in whole.history]
    epoch = accuracies.index(max(accuracies))
    assert_near(values(whole.best.trainable_variables), whole.by_epoch[epoch])
    loss, accuracy = whole.best.evaluate(IMAGES, TARGETS, batch_size=4, verbose=0)
    assert loss == pytest.approx(whole.history[epoch]["val_loss"], rel=1e-5)
    assert accuracy == pytest.approx(max(accuracies))


def test_a_resumed_training_equals_a_whole_one_bit_for_bit(
    trainings, use_ema, tmp_path
):
    whole = trainings(use_ema)
    train(compiled(use_ema), tmp_path, epochs=1)
    resumed = compiled(use_ema)
    run = train(resumed, tmp_path)
    assert run.history() == whole.history
    assert_same(resumed.get_weights(), whole.weights)
    assert_same(values(resumed.optimizer.variables), whole.optimizer)
    assert_same(
        keras.models.load_model(run.best).get_weights(), whole.best.get_weights()
    )


def test_averages_of_float16_with_its_loss_scale_are_validated(tmp_path):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = compiled(use_ema=True)
    finally:
        keras.config.set_dtype_policy(before)
    assert hasattr(model.optimizer, "inner_optimizer")
    run = train(model, tmp_path, epochs=1)
    last = keras.models.load_model(run.last)
    loss, _ = last.evaluate(IMAGES, TARGETS, batch_size=4, verbose=0)
    assert loss == pytest.approx(run.history()[0]["val_loss"], rel=1e-3)


def test_a_model_with_averages_is_evaluated_saved_and_trained_again(
    trainings, tmp_path
):
    model, history = trainings(True).model, trainings(True).history
    loss, _ = model.evaluate(IMAGES, TARGETS, batch_size=4, verbose=0)
    assert loss == pytest.approx(history[-1]["val_loss"], rel=1e-5)
    model.save(tmp_path / "model.keras")
    before = model.get_weights()
    assert_same(keras.models.load_model(tmp_path / "model.keras").get_weights(), before)
    trained = model.fit(IMAGES, TARGETS, batch_size=4, verbose=0).history
    assert np.isfinite(trained["loss"]).all()
    # The head's bias, the last weight.
    assert not np.array_equal(model.get_weights()[-1], before[-1])


def test_a_resume_point_of_another_optimizer_is_refused(trainings):
    with pytest.raises(ValueError, match="another network or optimizer"):
        trainings(False).run.restore(compiled(use_ema=True))
