"""Every known layout is translated to the official keys and shapes."""

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


def test_transformers_and_tfcvt_files_of_one_model_give_the_same_state_dict(
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


def test_to_transformers_restores_every_name(transformers_state):
    official, _ = layouts.to_official(transformers_state)
    names = {layouts.to_transformers(key) for key in official}
    assert names == {k for k in transformers_state if "num_batches" not in k}


def test_the_names_of_another_model_are_refused():
    with pytest.raises(ValueError, match="Expected a CvT checkpoint"):
        layouts.to_official({"layer1.0.conv1.weight": np.zeros((4, 4, 3, 3))})


def test_widths_and_depths_are_read_from_a_state_dict(transformers_state):
    official, _ = layouts.to_official(transformers_state)
    assert layouts.dims_and_depths(official) == ([16, 32, 48], [1, 2, 3])
    assert layouts.dims_and_depths({layouts.HEAD_KERNEL: np.zeros((4, 4))}) == ([], [])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("head/head/kernel:0", "head.weight"),
        ("stage1/stage1/blocks/0/norm1/gamma:0", "stage1.blocks.0.norm1.weight"),
        # Names of Keras's convolutions are not part of the key.
        ("m/stage0/patch_embed/proj/conv2d_11/bias:0", "stage0.patch_embed.proj.bias"),
        ("stage2/stage2/cls_token:0", "stage2.cls_token"),
        # An unknown name keeps its parts.
        ("other/kernel:0", "other.weight"),
    ],
)
def test_the_name_of_a_keras_2_model_is_removed_from_its_variables(name, expected):
    state, layout = layouts.to_official(
        {name: np.zeros(3, "float32"), "stage0/stage0/cls_token:0": np.zeros(1)}
    )
    assert layout == "cvt_tensorflow"
    assert expected in state


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        # An odd number of rows cannot be split into keys and values.
        ("layers.0.2.layers.0.0.to_kv.net.2.weight", (3, 4, 1, 1)),
        # A linear layer cannot have a larger kernel.
        ("layers.0.2.layers.0.0.to_out.0.weight", (3, 4, 5, 5)),
    ],
)
def test_impossible_shapes_are_left_to_the_strict_load(name, shape):
    state, layout = layouts.to_official({name: np.zeros(shape, "float32")})
    assert layout == "vit_pytorch"
    assert sum(array.size for array in state.values()) == np.prod(shape)
