"""Checkpoints of CvT: find them, read any layout, load strictly, write back.

sources -> readers -> layouts -> state_dict -> model
"""

from keras_cvt._utils.errors import CheckpointError
from keras_cvt.checkpoints.loading import load_checkpoint
from keras_cvt.checkpoints.saving import save_checkpoint
from keras_cvt.checkpoints.state_dict import LoadReport

__all__ = ["CheckpointError", "LoadReport", "load_checkpoint", "save_checkpoint"]
