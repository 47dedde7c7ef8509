"""Features of images: what a network computes in front of its head."""

from keras_cvt.features.extractor import feature_extractor
from keras_cvt.features.files import ImageFeatures, describe_origin, embed_files

__all__ = ["ImageFeatures", "describe_origin", "embed_files", "feature_extractor"]
