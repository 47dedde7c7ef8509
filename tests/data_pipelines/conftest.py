"""A photo to augment."""

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="session")
def photo():
    data = pytest.importorskip("skimage.data")
    resampling = Image.Resampling.BICUBIC
    return Image.fromarray(data.astronaut()).resize((120, 90), resampling)


@pytest.fixture(scope="session")
def pixels(photo):
    return np.asarray(photo)
