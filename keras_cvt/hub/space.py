"""A static Space of the Hub: a web page that classifies photos with a model."""

import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from keras_cvt import deploy
from keras_cvt._utils import files
from keras_cvt.deploy import formats
from keras_cvt.hub import card, exports
from keras_cvt.models import CvTModel
from keras_cvt.repository import integrity

# Browsers compute in several threads only on a page that these headers isolate.
_HEADERS = {
    "cross-origin-embedder-policy": "require-corp",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "cross-origin",
}


def write_space(
    model: CvTModel,
    folder: str | os.PathLike,
    *,
    repo_id: str,
    page: str | os.PathLike | None = None,
    class_names: Sequence[str] | None = None,
    about: card.About | None = None,
) -> None:
    """Write and verify the files of a Space for `upload_folder(repo_type="space")`.

    Args:
        model: A classifier of photos, on the TensorFlow backend.
        folder: Where to write. A Space that an earlier call wrote there is replaced.
        repo_id: The repository of the model, which the Space links to.
        page: A web page of the model that `keras_cvt.deploy.export` wrote. Defaults to
            `None`: it is exported now, in float32.
        class_names: The class names of that page, in the order of the outputs. Defaults
            to `None`: `model.class_names`.
        about: Facts that the model does not know. Defaults to `None`.

    Raises:
        ComparisonError: If the page computes something else than the model.
        FileExistsError: If the folder holds anything that no earlier call wrote.
        ValueError: If the model is no classifier of photos, `page` is no web page, or
            the Keras backend cannot export.
        ImportError: If a converter or the runtime is missing.

    Example:
        >>> keras_cvt.hub.write_space(model, "space", repo_id="me/flowers")
        >>> keras_cvt.hub.upload_folder("space", "me/flowers", repo_type="space")
    """
    folder = Path(folder)
    record = formats.page()
    if folder.exists() and not record.recognises(folder) and any(folder.iterdir()):
        raise FileExistsError(
            "Expected an empty folder, or one that an earlier call wrote. "
            f"Received: folder={str(folder)!r}"
        )
    if page is not None and not record.recognises(Path(page)):
        raise ValueError(
            f"Expected a {record.title} that keras_cvt.deploy.export wrote. "
            f"Received: page={os.fspath(page)!r}"
        )
    with files.staged(folder) as written:
        if page is not None:
            shutil.copytree(page, written)
        else:
            _export(model, written, class_names)
        exports.verify(model, written, None)
        readme = written / "README.md"
        readme.write_text(_readme(repo_id, about or card.About()), encoding="utf-8")
        integrity.write_sums(written, integrity.file_names(written))


def _export(model, path, class_names):
    with tempfile.TemporaryDirectory(prefix="keras_cvt-") as temporary:
        model_file = Path(temporary) / "model.keras"
        model.save(model_file)
        deploy.export_in_subprocess(
            model_file,
            path,
            formats.page().name,
            class_names=None if class_names is None else list(class_names),
        )


def _readme(repo_id, about):
    metadata = {
        "title": repo_id.split("/")[-1],
        "sdk": "static",
        "app_file": "index.html",
        "models": [repo_id],
        "custom_headers": _HEADERS,
    }
    licence = card.find_license(about)
    if licence is not None:
        metadata["license"] = licence
    return card.compose(metadata, card.fill("space", repo_id=repo_id))
