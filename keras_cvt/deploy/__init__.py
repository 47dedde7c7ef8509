"""From a model to a fast, verified file: fuse, export, verify, benchmark."""

from keras_cvt.deploy.benchmark import FORMATS, benchmark
from keras_cvt.deploy.export import export
from keras_cvt.deploy.fuse import fuse
from keras_cvt.deploy.measurements import Benchmark, Measurement
from keras_cvt.deploy.metadata import read as read_metadata
from keras_cvt.deploy.samples import made_up_images
from keras_cvt.deploy.verify import Verification, verify

__all__ = [
    "FORMATS",
    "Benchmark",
    "Measurement",
    "Verification",
    "benchmark",
    "export",
    "fuse",
    "made_up_images",
    "read_metadata",
    "verify",
]
