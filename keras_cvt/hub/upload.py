"""Upload a folder to the Hub, in one commit or not at all."""

import dataclasses
import hashlib
import json
import logging
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keras_cvt._utils import files, validation
from keras_cvt.checkpoints import CheckpointError
from keras_cvt.hub import card
from keras_cvt.hub.folder import write_folder
from keras_cvt.hub.space import write_space
from keras_cvt.models import CvTModel
from keras_cvt.repository import client, integrity

logger = logging.getLogger(__name__)

# Seconds between attempts. huggingface_hub repeats some requests itself. It does not
# repeat the creation of a repository, the check of a card, or the commit.
WAITS = (1, 2, 4, 8)


@dataclass(frozen=True)
class PushReport:
    """The result of a push.

    Attributes:
        url: The page of the model.
        commit: The commit that the repository is at now.
        files: Names of the files that the push wrote or found unchanged.
        difference: Largest difference between the logits of the model and of the
            written files; None if a folder was uploaded as it was.
        space: The address of the Space that was pushed too, or None.
    """

    url: str
    commit: str
    files: tuple[str, ...]
    difference: float | None = None
    space: str | None = None


def push(
    model: CvTModel,
    repo_id: str,
    *,
    class_names: Sequence[str] | None = None,
    about: card.About | None = None,
    artefacts: str | os.PathLike | None = None,
    private: bool = True,
    token: str | None = None,
    message: str = "Push a model of keras_cvt",
    labels: Sequence[str] | None = None,
    page: bool | str | os.PathLike = False,
) -> PushReport:
    """Push a classifier: weights, configuration, card and exported files.

    All files are written and verified in a temporary folder. Then one commit uploads
    them. A push that fails leaves the repository as it was, and the next push finishes
    it. An existing card keeps everything outside the marked section. Exported files of
    an earlier push that are not in this one are removed.

    Args:
        model: A classifier of `keras_cvt` with its fine-tuned weights.
        repo_id: The repository, such as `"org/repo"`. It is created if it does not
            exist.
        class_names: The class names, in the order of the outputs. Defaults to
            `None`: `model.class_names`.
        about: Facts for the card that the model does not know. Defaults to `None`.
        artefacts: A folder of exported files to add; see `write_folder`. Defaults to
            `None`.
        private: Whether a new repository is private. Defaults to `True`.
        token: A token with the right to write. Defaults to `None`: `HF_TOKEN`, or the
            token of `hf auth login`.
        message: The commit message.
        labels: The name of `class_names` in version 0.1.0.
        page: Whether to push a static Space of the same name too, with a web page that
            classifies photos in the visitor's browser. It is exported in float32. Or
            the folder of a page of the model that `keras_cvt.deploy.export` wrote, for
            example in int8. Defaults to `False`.

    Returns:
        Where the files are, and how they compared.

    Raises:
        ValueError: If `repo_id`, the model, its class names or the existing card is
            not valid.
        ComparisonError: If the written files compute something else.
        PermissionError: If there is no token or it may not write.
        OSError: If the Hub cannot be reached or refuses the push.

    Example:
        >>> keras_cvt.hub.push(model, "me/flowers", class_names=["daisy", "rose"])
    """
    # Before any work, which a wrong name would waste.
    _check_target(repo_id)
    shared: dict[str, Any] = {
        "repo_id": repo_id,
        "class_names": labels if class_names is None else class_names,
        "about": about,
    }
    target: dict[str, Any] = {"private": private, "token": token, "message": message}
    with tempfile.TemporaryDirectory(prefix="keras_cvt-") as temporary:
        folder, space = Path(temporary, "model"), Path(temporary, "space")
        difference = write_folder(model, folder, artefacts=artefacts, **shared)
        if page is not False:
            exported = None if page is True else page
            write_space(model, space, page=exported, **shared)
            check_space(repo_id, token)
        report = upload_folder(folder, repo_id, **target)
        report = dataclasses.replace(report, difference=difference)
        if page is not False:
            shown = upload_folder(space, repo_id, repo_type="space", **target)
            report = dataclasses.replace(report, space=shown.url)
    return report


def upload_folder(
    folder: str | os.PathLike,
    repo_id: str,
    *,
    private: bool = True,
    token: str | None = None,
    message: str = "Push a model of keras_cvt",
    repo_type: str = "model",
) -> PushReport:
    """Upload a folder that `write_folder` or `write_space` wrote.

    The other arguments and errors are those of `push`.

    Args:
        folder: The folder.
        repo_id: See `push`.
        private: See `push`.
        token: See `push`.
        message: See `push`.
        repo_type: `"model"`, or `"space"` for a static Space, which must not exist
            or be of an earlier push. Defaults to `"model"`.

    Raises:
        CheckpointError: If a file has changed since it was verified.
    """
    _check_target(repo_id)
    validation.check_choice(("model", "space"), repo_type=repo_type)
    folder = Path(folder)
    sums = _check_written(folder)
    api = _client(repo_id, token)
    return _repeated(
        lambda: _commit(api, folder, sums, repo_id, repo_type, private, message),
        repo_id if repo_type == "model" else f"The Space {repo_id}",
    )


def check_space(repo_id: str, token: str | None = None) -> None:
    """Raise ValueError if a Space of this name is of something else.

    The arguments and errors are those of `push`, which asks before it uploads
    anything.
    """
    api = _client(repo_id, token)

    def look():
        head = _head(api, repo_id, "space")
        if head is not None:
            found, _, earlier = _existing(api, repo_id, "space", head)
            _check_space(repo_id, found, earlier)

    _repeated(look, f"The Space {repo_id}")


def _client(repo_id, token):
    from huggingface_hub import HfApi, get_token

    if not (token or get_token()):
        raise PermissionError(
            "A push needs a token with the right to write: set HF_TOKEN, run "
            f"`hf auth login`, or pass token=. Received: none for {repo_id}"
        )
    return HfApi(token=token, library_name="keras_cvt")


def _repeated(attempt, name):
    """Call `attempt` until it succeeds or an error is lasting; return its result."""
    waits = iter(WAITS)
    while True:
        try:
            return attempt()
        except Exception as error:
            problem, temporary = _explain(error, name)
            if problem is None:
                raise
            wait = next(waits, None) if temporary else None
            if wait is None:
                # Not chained: the server's answer may contain the token.
                raise problem from None
            logger.warning("%s Trying again in %s s.", problem, wait)
            time.sleep(wait)


def _check_target(repo_id):
    for kind in ("datasets", "spaces"):
        if repo_id.removeprefix(client.SCHEME).startswith(f"{kind}/"):
            raise ValueError(
                f"Expected a model repository. Received: one of the Hub's {kind}, "
                f"{repo_id!r}"
            )
    client.check_repo_id(repo_id)


def _check_written(folder):
    """Return the hashes of a folder's files, which are as `write_folder` wrote them."""
    sums = integrity.read_sums(folder / integrity.SUMS)
    found = integrity.file_names(folder)
    if set(found) != set(sums):
        raise ValueError(
            f"Expected the files that {integrity.SUMS} lists in {folder}. "
            f"Differing: {sorted(set(found) ^ set(sums))[:10]}"
        )
    changed = [n for n in found if files.sha256(folder / n) != sums[n]]
    if changed:
        raise CheckpointError(
            f"Expected the files that were verified in {folder}. Changed: {changed}"
        )
    return sums


def _commit(api, folder, sums, repo_id, repo_type, private, message):
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    is_space = repo_type == "space"
    head = _head(api, repo_id, repo_type)
    if head is None:
        if not is_space:
            _check_kind(api, repo_id)
        api.create_repo(
            repo_id,
            private=private,
            exist_ok=True,
            repo_type=repo_type,
            space_sdk="static" if is_space else None,
        )
        head = _head(api, repo_id, repo_type)
    text = (folder / "README.md").read_text(encoding="utf-8")
    found, existing, earlier = _existing(api, repo_id, repo_type, head)
    if is_space:
        _check_space(repo_id, found, earlier)
    if existing is not None:
        text = card.merge(existing.decode("utf-8", "replace"), text)
    readme = text.encode()
    sums = {**sums, "README.md": hashlib.sha256(readme).hexdigest()}
    lines = "".join(f"{digest}  {name}\n" for name, digest in sums.items())
    contents = {"README.md": readme, integrity.SUMS: lines.encode()}
    operations = [
        CommitOperationAdd(name, contents.get(name, folder / name))
        for name in (*sums, integrity.SUMS)
    ]
    operations += [
        CommitOperationDelete(name, is_folder=False)
        for name in sorted(earlier - set(sums))
    ]
    info = api.create_commit(
        repo_id,
        operations,
        commit_message=message,
        # The Hub then refuses to overwrite somebody else's commit in between.
        parent_commit=head,
        repo_type=repo_type,
    )
    url = f"{api.endpoint}/{'spaces/' if is_space else ''}{repo_id}"
    return PushReport(url, info.oid, (*sums, integrity.SUMS))


def _head(api, repo_id, repo_type):
    from huggingface_hub import errors

    try:
        return api.repo_info(repo_id, repo_type=repo_type).sha
    except errors.RepositoryNotFoundError:
        # Or the token is wrong; then the creation of the repository fails.
        return None


def _check_kind(api, repo_id):
    for kind in ("dataset", "space"):
        if api.repo_exists(repo_id, repo_type=kind):
            raise ValueError(
                f"Expected a model repository. Received: {repo_id}, which is a {kind} "
                "on the Hub; choose another name"
            )


def _check_space(repo_id, found, earlier):
    """Raise ValueError for a Space that somebody made for something else."""
    # What a new one holds already.
    others = sorted(found - earlier - {".gitattributes", "README.md", integrity.SUMS})
    if others and not earlier:
        raise ValueError(
            "Expected no Space of that name, or one of an earlier push. Received: "
            f"{repo_id}, a Space with {others[:5]}"
        )


def _existing(api, repo_id, repo_type, head):
    """Return the names of all files, the card or None, and an earlier push's names."""
    where = {"revision": head, "repo_type": repo_type}
    found = set(api.list_repo_files(repo_id, **where))
    with tempfile.TemporaryDirectory(prefix="keras_cvt-") as folder:
        for name in found & {"README.md", integrity.SUMS}:
            api.hf_hub_download(repo_id, name, local_dir=folder, **where)
        readme, sums = Path(folder, "README.md"), Path(folder, integrity.SUMS)
        # Read as bytes, so that line ends stay.
        existing = readme.read_bytes() if readme.is_file() else None
        earlier = integrity.read_sums(sums if sums.is_file() else None)
    return found, existing, found & set(earlier)


# Status -> error, explanation, and whether another attempt may succeed.
_CONFLICT = (OSError, "somebody else is changing it. Run the push again.", True)
_STATUSES = {
    401: (PermissionError, "the Hub does not accept the token.", False),
    403: (PermissionError, "the token is not allowed to write there.", False),
    404: (FileNotFoundError, "the Hub finds neither it nor its owner.", False),
    409: _CONFLICT,
    412: _CONFLICT,
}


def _explain(error, repo_id):
    """Return a clear error for a failure of the Hub, or None for any other.

    The second value is whether another attempt may succeed.
    """
    from huggingface_hub import errors

    # huggingface_hub wraps the errors of an upload.
    while isinstance(error, RuntimeError) and error.__cause__ is not None:
        error = error.__cause__
    start = f"{repo_id} was not pushed"
    if isinstance(error, errors.OfflineModeIsEnabled):
        return OSError(f"{start}: HF_HUB_OFFLINE is set."), False
    if isinstance(error, errors.HfHubHTTPError):
        status = getattr(error.response, "status_code", None)
        temporary = status == 429 or (status or 500) >= 500
        other = (OSError, f"the Hub answered with status {status}.", temporary)
        kind, text, temporary = _STATUSES.get(status, other)
        return kind(f"{start} and has not changed: {text}"), temporary
    no_answer = (json.JSONDecodeError, errors.LocalEntryNotFoundError)
    if isinstance(error, (client.http_error(), *no_answer)):
        text = "the connection to the Hub broke off or cannot be made"
        name = type(error).__name__
        return ConnectionError(f"{start}: {text} ({name}). Run the push again."), True
    return None, False
