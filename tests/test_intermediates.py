"""`CvTModel.intermediates`: tensors of the inside as outputs."""

import keras
import numpy as np
import pytest
from explain.small import STAGES, images, network
from reference import to_numpy

from keras_cvt import deploy
from keras_cvt.layers import StageIntermediates

pytestmark = pytest.mark.any_backend


@pytest.mark.parametrize("name", STAGES)
def test_every_name_has_the_shape_that_the_graph_says(name):
    model = network(name)
    names = model.intermediate_names
    inside = model.intermediates(names)
    found = to_numpy(inside(images()))
    assert sorted(found) == sorted(names)
    for key, tensor in inside.output.items():
        shape = found[key].shape
        assert len(shape) == len(tensor.shape), key
        sides = zip(shape, tensor.shape, strict=True)
        assert all(want in (None, have) for have, want in sides), key
    fixed = network(name, input_shape=(40, 56, 3)).intermediates(names)
    for key, tensor in fixed.output.items():
        assert (2, *tensor.shape[1:]) == found[key].shape, key
    np.testing.assert_allclose(found["head"], to_numpy(model(images())), atol=1e-6)


def test_the_tensors_are_those_of_the_layers():
    model = network()
    names = ["stage0", "stage1/embed", "stage1/blocks/0", "stage1/blocks/1", "norm"]
    found = model.intermediates(names)(images())
    stage = model.stages[1]
    np.testing.assert_allclose(
        to_numpy(stage.patch_embed(found["stage0"])),
        to_numpy(found["stage1/embed"]),
        atol=1e-5,
    )
    second = stage.blocks.blocks[1](found["stage1/blocks/0"], height=5, width=7)
    np.testing.assert_allclose(
        to_numpy(second), to_numpy(found["stage1/blocks/1"]), atol=1e-5
    )


def test_they_are_saved_and_loaded(tmp_path):
    model = network()
    inside = model.intermediates(["stage1/blocks/2/attention", "stage0/embed", "head"])
    expected = inside.predict(images(), verbose=0)
    inside.save(tmp_path / "inside.keras")
    loaded = keras.models.load_model(tmp_path / "inside.keras")
    for name, array in loaded.predict(images(), verbose=0).items():
        np.testing.assert_allclose(array, expected[name], atol=1e-6)


def test_they_share_the_weights_and_train():
    model = network()
    inside = model.intermediates(["stage1/blocks/0", "stage0"])
    before = to_numpy(model(images()))
    inside.compile("sgd", {name: "mse" for name in inside.output})
    targets = {name: 0 * x for name, x in inside.predict(images(), verbose=0).items()}
    inside.fit(images(), targets, verbose=0)
    assert np.abs(to_numpy(model(images())) - before).max() > 1e-4


def test_stages_that_are_not_needed_are_not_computed():
    inside = network().intermediates(["stage0/blocks/0"])
    assert [layer.name for layer in inside.layers][1:] == ["preprocessing", "stage0"]


@pytest.mark.parametrize(
    "names", [[], "stage0", ["stage9"], ["stage1/blocks/3"], ["stage0", "block"], None]
)
def test_unknown_names_are_refused_with_those_that_there_are(names):
    with pytest.raises(ValueError, match=r"preprocessing, stage0/embed.*Received"):
        network().intermediates(names)


def test_a_fused_network_has_no_inside():
    model = network()
    fused = deploy.fuse(model)
    assert fused.intermediate_names == [
        *("preprocessing", "stage0", "stage1", "norm", "head")
    ]
    assert to_numpy(fused.intermediates(["norm"])(images())["norm"]).shape == (2, 8)
    with pytest.raises(ValueError, match="A fused network has no names inside"):
        fused.intermediates(["stage1/embed"])
    with pytest.raises(ValueError, match="without intermediate tensors"):
        deploy.fuse(model.intermediates(["stage1/embed", "head"]))
    with pytest.raises(ValueError, match="none, as it is fused"):
        StageIntermediates(fused.stages[0], ["embed"])
