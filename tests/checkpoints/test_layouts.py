"""Every layout that users hold maps to the official keys and shapes."""

import h5py
import numpy as np
import pytest
from golden import FOLDER
from safetensors.numpy import load_file

from keras_cvt.checkpoints import layouts

CHECKPOINTS = FOLDER.parent / "checkpoints"


def read_h5(path):
    arrays = {}

    def visit(name, item):
        if isinstance(item, h5py.Dataset):
            arrays[name] = item[()]

    with h5py.File(path) as file:
        file.visititems(visit)
    return arrays


@pytest.fixture(scope="module")
def transformers_state():
    return load_file(CHECKPOINTS / "hf_pt" / "model.safetensors")


def test_transformers_and_tfcvt_files_of_one_model_give_one_state_dict(
    transformers_state,
):
    torch_state, torch_layout = layouts.to_official(transformers_state)
    tf_file = CHECKPOINTS / "hf_tf" / "tf_model.h5"
    tf_state, tf_layout = layouts.to_official(read_h5(tf_file))
    assert (torch_layout, tf_layout) == ("transformers", "transformers_tf")
    assert set(torch_state) == set(tf_state)
    for key, array in torch_state.items():
        np.testing.assert_array_equal(tf_state[key], array, err_msg=key)


def test_cvt_tensorflow_gives_the_same_keys_and_shapes(transformers_state):
    expected, _ = layouts.to_official(transformers_state)
    state, layout = layouts.to_official(read_h5(CHECKPOINTS / "cvt_tensorflow.h5"))
    assert layout == "cvt_tensorflow"
    shapes = {key: array.shape for key, array in state.items()}
    assert shapes == {key: array.shape for key, array in expected.items()}


def test_the_way_back_to_transformers_names_every_entry(transformers_state):
    official, _ = layouts.to_official(transformers_state)
    names = {layouts.to_transformers(key) for key in official}
    assert names == {k for k in transformers_state if "num_batches" not in k}


def test_another_models_names_are_refused():
    with pytest.raises(ValueError, match="Expected a CvT checkpoint"):
        layouts.to_official({"layer1.0.conv1.weight": np.zeros((4, 4, 3, 3))})
