"""What a network looks at: attention maps, Grad-CAM, and pictures of them.

A heat map (B, H, W) has the size of the images that enter the network. `to_photo` and
`overlay` bring it back to the photo that an image was made from.
"""

from keras_cvt.explain.attention import AttentionMaps, attention_maps, class_token_map
from keras_cvt.explain.grad_cam import grad_cam
from keras_cvt.explain.pictures import overlay, to_photo

__all__ = [
    "AttentionMaps",
    "attention_maps",
    "class_token_map",
    "grad_cam",
    "overlay",
    "to_photo",
]
