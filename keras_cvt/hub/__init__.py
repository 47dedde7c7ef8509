"""Models on the Hugging Face Hub: a folder, its card, push and load."""

from keras_cvt.hub.card import About, Evaluation
from keras_cvt.hub.exports import write_artefacts
from keras_cvt.hub.folder import write_folder
from keras_cvt.hub.loading import load, load_labels
from keras_cvt.hub.releasing import Release, release, release_all
from keras_cvt.hub.upload import PushReport, push, upload_folder

__all__ = [
    "About",
    "Evaluation",
    "PushReport",
    "Release",
    "load",
    "load_labels",
    "push",
    "release",
    "release_all",
    "upload_folder",
    "write_artefacts",
    "write_folder",
]
