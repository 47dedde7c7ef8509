"""ImagePreprocessing: ImageNet's mean and standard deviation, in the model."""

import keras
import numpy as np
import pytest
from reference import to_numpy

from keras_cvt.layers import ImagePreprocessing

pytestmark = pytest.mark.any_backend

PIXELS = np.random.default_rng(0).integers(0, 256, (2, 5, 6, 3), dtype=np.uint8)
NORMALISED = (PIXELS / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]


def test_it_normalises_pixels_of_0_to_255():
    outputs = to_numpy(ImagePreprocessing()(PIXELS.astype("float32")))
    np.testing.assert_allclose(outputs, NORMALISED, rtol=0, atol=1e-5)


def test_it_normalises_integer_tensors_in_the_same_way():
    outputs = ImagePreprocessing()(keras.ops.convert_to_tensor(PIXELS))
    np.testing.assert_allclose(to_numpy(outputs), NORMALISED, rtol=0, atol=1e-5)


def test_with_normalize_false_images_of_any_channels_are_unchanged():
    images = PIXELS[..., :2].astype("float32")
    outputs = ImagePreprocessing(normalize=False)(images)
    np.testing.assert_array_equal(to_numpy(outputs), images)


def test_labels_is_the_name_of_class_names_in_files_of_version_0_1_0():
    layer = ImagePreprocessing(labels=("ant", "bee"))
    assert layer.class_names == ("ant", "bee")
    assert "labels" not in layer.get_config()
