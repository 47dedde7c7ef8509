"""Models on the Hugging Face Hub: load, push and release them.

`load` reads a repository. `push` writes one: `write_folder` makes and verifies its
files, `upload_folder` commits them. `release` also converts a checkpoint first.
"""

from keras_cvt.hub.card import About, Artefact, Evaluation
from keras_cvt.hub.exports import write_artefacts
from keras_cvt.hub.folder import write_folder
from keras_cvt.hub.loading import load, load_class_names, load_labels
from keras_cvt.hub.releasing import Release, release, release_all
from keras_cvt.hub.space import write_space
from keras_cvt.hub.upload import PushReport, push, upload_folder

__all__ = [
    "About",
    "Artefact",
    "Evaluation",
    "PushReport",
    "Release",
    "load",
    "load_class_names",
    "load_labels",
    "push",
    "release",
    "release_all",
    "upload_folder",
    "write_artefacts",
    "write_folder",
    "write_space",
]
