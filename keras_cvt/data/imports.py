"""TensorFlow and TensorFlow Datasets, or the command that installs them."""

from types import ModuleType

_INSTALL = "pip install keras_cvt[tensorflow]"


def tensorflow() -> ModuleType:
    """Return TensorFlow.

    Raises:
        ImportError: If it is not installed.
    """
    try:
        import tensorflow
    except ImportError as error:
        raise ImportError(
            f"`keras_cvt.data` reads images with TensorFlow, on every Keras backend: "
            f"{_INSTALL}"
        ) from error
    return tensorflow


def tensorflow_datasets() -> ModuleType:
    """Return TensorFlow Datasets.

    Raises:
        ImportError: If it is not installed.
    """
    try:
        import tensorflow_datasets
    except ImportError as error:
        raise ImportError(
            "This is no folder of images, and data sets need TensorFlow Datasets: "
            f"{_INSTALL}"
        ) from error
    return tensorflow_datasets
