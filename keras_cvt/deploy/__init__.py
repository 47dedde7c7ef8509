"""From a model to a fast, verified file: fuse, export, verify, benchmark."""

from keras_cvt.deploy.benchmarking import FORMATS, benchmark
from keras_cvt.deploy.checks import ExportError
from keras_cvt.deploy.exporting import export
from keras_cvt.deploy.fastest import Fastest
from keras_cvt.deploy.fusion import fuse
from keras_cvt.deploy.measurements import Benchmark, Measurement
from keras_cvt.deploy.metadata import read as read_metadata
from keras_cvt.deploy.subprocess_export import export_in_subprocess
from keras_cvt.deploy.synthetic_images import made_up_images
from keras_cvt.deploy.verification import Verification, verify

__all__ = [
    "FORMATS",
    "Benchmark",
    "ExportError",
    "Fastest",
    "Measurement",
    "Verification",
    "benchmark",
    "export",
    "export_in_subprocess",
    "fuse",
    "made_up_images",
    "read_metadata",
    "verify",
]
