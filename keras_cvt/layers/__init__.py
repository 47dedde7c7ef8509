"""The layers of CvT. Each of them works in any Keras model."""

from keras_cvt.layers.attention import ConvAttention
from keras_cvt.layers.block import ConvTransformerBlock
from keras_cvt.layers.class_token import ClassToken
from keras_cvt.layers.conv_embed import ConvEmbed
from keras_cvt.layers.conv_projection import ConvProjection
from keras_cvt.layers.drop_path import DropPath
from keras_cvt.layers.mlp import MLP
from keras_cvt.layers.preprocessing import ImagePreprocessing
from keras_cvt.layers.stage import ConvTransformerStage
from keras_cvt.layers.stage_intermediates import StageIntermediates

__all__ = [
    "MLP",
    "ClassToken",
    "ConvAttention",
    "ConvEmbed",
    "ConvProjection",
    "ConvTransformerBlock",
    "ConvTransformerStage",
    "DropPath",
    "ImagePreprocessing",
    "StageIntermediates",
]
