"""From a model to a fast, verified file: fuse, export, verify."""

from keras_cvt.deploy.fuse import fuse

__all__ = ["fuse"]
