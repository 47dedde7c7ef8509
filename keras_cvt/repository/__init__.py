"""Model repositories of the Hugging Face Hub: download and integrity.

Private: `keras_cvt.checkpoints` and `keras_cvt.hub` are what people use.
"""

from keras_cvt.repository.client import download_checkpoint

__all__ = ["download_checkpoint"]
