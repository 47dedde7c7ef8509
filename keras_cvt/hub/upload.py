"""A folder to the Hub, in one commit or none."""

import hashlib
import json
import logging
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from keras_cvt import files, hub_files, repository
from keras_cvt.checkpoints import CheckpointError
from keras_cvt.hub import card
from keras_cvt.hub.folder import write_folder
from keras_cvt.models import CvTModel

logger = logging.getLogger(__name__)

# Seconds between tries. huggingface_hub itself repeats some requests, but not the
# creation of a repository, the check of a card, nor the commit.
WAITS = (1, 2, 4, 8)


@dataclass(frozen=True)
class PushReport:
    """What a push did.

    Attributes:
        url: The model's page.
        commit: The commit that the repository is at now.
        files: Names of the files that belong to it.
        difference: Largest difference of what was written, loaded again; None
            where a folder was uploaded as it was.
    """

    url: str
    commit: str
    files: tuple[str, ...]
    difference: float | None = None


def push(
    model: CvTModel,
    repo_id: str,
    *,
    labels: Sequence[str] | None = None,
    about: card.About | None = None,
    artefacts: str | os.PathLike | None = None,
    private: bool = True,
    token: str | None = None,
    message: str = "Push a model of keras_cvt",
) -> PushReport:
    """Push a classifier: weights, configuration, card and exported files.

    Everything is written and verified in a temporary folder first, and then
    committed at once: a push that fails leaves the repository as it was, and
    running it again finishes it. An existing card is kept but for our marked
    section; exported files of an earlier push that are not in this one are removed.

    Args:
        model: A classifier of `keras_cvt`, with its fine-tuned weights.
        repo_id: Such as `"org/repo"`; made if it does not exist.
        labels: The classes' names, in the order of the outputs; None means
            `model.labels`.
        about: What the card says: see `keras_cvt.hub.About`.
        artefacts: A folder of exported files to take along; see `write_folder`.
        private: Whether a repository that is made is private.
        token: With the right to write; None is `HF_TOKEN` or `hf auth login`'s.
        message: Of the commit.

    Returns:
        Where it went and how it compared.

    Raises:
        ValueError: If `repo_id`, the model, its labels or the existing card is not
            usable.
        ComparisonError: If what was written computes something else.
        PermissionError: If there is no token or it may not write.
        OSError: If the Hub cannot be reached or refuses.

    Example:
        >>> keras_cvt.hub.push(model, "me/flowers", labels=["daisy", "rose"])
    """
    # First, so that a wrong name costs no work.
    _check_target(repo_id)
    with tempfile.TemporaryDirectory(prefix="keras_cvt-") as folder:
        difference = write_folder(
            model,
            folder,
            repo_id=repo_id,
            labels=labels,
            about=about,
            artefacts=artefacts,
        )
        report = upload_folder(
            folder, repo_id, private=private, token=token, message=message
        )
    return PushReport(report.url, report.commit, report.files, difference)


def upload_folder(
    folder: str | os.PathLike,
    repo_id: str,
    *,
    private: bool = True,
    token: str | None = None,
    message: str = "Push a model of keras_cvt",
) -> PushReport:
    """Commit what `write_folder` wrote; see `push`.

    Raises:
        CheckpointError: If a file is not the one that was verified.
    """
    from huggingface_hub import HfApi, get_token

    _check_target(repo_id)
    folder = Path(folder)
    _check_written(folder)
    if not (token or get_token()):
        raise PermissionError(
            "A push needs a token with the right to write: set HF_TOKEN, run "
            f"`hf auth login`, or pass token=. Received: none for {repo_id}"
        )
    api = HfApi(token=token, library_name="keras_cvt")
    for wait in (*WAITS, None):
        try:
            return _commit(api, folder, repo_id, private, message)
        except Exception as error:
            problem = _explain(error, repo_id)
            if problem is None:
                raise
            if wait is None or not problem.passing:
                # Not chained: what a server answers may repeat a token.
                raise problem.error from None
            logger.warning("%s Trying again in %s s.", problem.error, wait)
            time.sleep(wait)


def _check_target(repo_id):
    for kind in ("datasets", "spaces"):
        if repo_id.removeprefix(hub_files.SCHEME).startswith(f"{kind}/"):
            raise ValueError(
                f"Expected a model repository. Received: one of the Hub's {kind}, "
                f"{repo_id!r}"
            )
    hub_files.check_repo_id(repo_id)


def _check_written(folder):
    sums = repository.read_sums(folder / repository.SUMS)
    found = repository.names(folder)
    if set(found) != set(sums):
        raise ValueError(
            f"Expected the files that {repository.SUMS} lists in {folder}. "
            f"Differing: {sorted(set(found) ^ set(sums))[:10]}"
        )
    changed = [n for n in found if files.sha256(folder / n) != sums[n]]
    if changed:
        raise CheckpointError(
            f"Expected the files that were verified in {folder}. Changed: {changed}"
        )


def _commit(api, folder, repo_id, private, message):
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    head = _head(api, repo_id)
    if head is None:
        _check_kind(api, repo_id)
        api.create_repo(repo_id, private=private, exist_ok=True)
        head = _head(api, repo_id)
    text = (folder / "README.md").read_text(encoding="utf-8")
    existing, earlier = _existing(api, repo_id, head)
    if existing is not None:
        text = card.merge(existing, text)
    sums = repository.read_sums(folder / repository.SUMS)
    contents = {"README.md": text.encode()}
    contents[repository.SUMS] = _sums(sums, contents["README.md"])
    operations = [
        CommitOperationAdd(name, contents.get(name, folder / name))
        for name in (*sums, repository.SUMS)
    ]
    operations += [
        CommitOperationDelete(name, is_folder=False)
        for name in sorted(earlier - set(sums))
    ]
    info = api.create_commit(
        repo_id,
        operations,
        commit_message=message,
        # Somebody else's commit in between is seen, not overwritten.
        parent_commit=head,
    )
    url = f"{api.endpoint}/{repo_id}"
    return PushReport(url, info.oid, (*sums, repository.SUMS))


def _sums(sums, readme):
    sums = {**sums, "README.md": hashlib.sha256(readme).hexdigest()}
    return "".join(f"{digest}  {name}\n" for name, digest in sums.items()).encode()


def _head(api, repo_id):
    from huggingface_hub import errors

    try:
        return api.model_info(repo_id).sha
    except errors.RepositoryNotFoundError:
        # Or the token is wrong, which making the repository then shows.
        return None


def _check_kind(api, repo_id):
    for kind in ("dataset", "space"):
        if api.repo_exists(repo_id, repo_type=kind):
            raise ValueError(
                f"Expected a model repository. Received: {repo_id}, which is a {kind} "
                "on the Hub; choose another name"
            )


def _existing(api, repo_id, head):
    """Return the card, or None, and what an earlier push of ours put there."""
    files = set(api.list_repo_files(repo_id, revision=head))
    with tempfile.TemporaryDirectory(prefix="keras_cvt-") as folder:

        def read(name):
            return Path(
                api.hf_hub_download(repo_id, name, revision=head, local_dir=folder)
            )

        existing = None
        if "README.md" in files:
            # As bytes: line ends stay what they are.
            existing = read("README.md").read_bytes().decode("utf-8", "replace")
        earlier = set()
        if repository.SUMS in files:
            earlier = set(repository.read_sums(read(repository.SUMS))) & files
    return existing, earlier


@dataclass(frozen=True)
class _Problem:
    error: Exception
    passing: bool  # whether it may be gone at the next try


def _explain(error, repo_id):
    """Return one clear sentence about a failure of the Hub, or None for any other."""
    from huggingface_hub import errors

    # huggingface_hub wraps what went wrong in an upload.
    cause = error
    while isinstance(cause, RuntimeError) and cause.__cause__ is not None:
        cause = cause.__cause__
    if isinstance(cause, errors.OfflineModeIsEnabled):
        return _Problem(
            OSError(f"{repo_id} was not pushed: HF_HUB_OFFLINE is set."), False
        )
    if isinstance(cause, errors.HfHubHTTPError):
        status = getattr(cause.response, "status_code", None)
        return _of_status(status, repo_id)
    # The base of its errors is the HTTP library's, whose name changes with releases.
    broken_connection = errors.HfHubHTTPError.__mro__[1]
    no_answer = (json.JSONDecodeError, errors.LocalEntryNotFoundError)
    if isinstance(cause, (broken_connection, *no_answer)):
        return _Problem(
            ConnectionError(
                f"{repo_id} was not pushed: the connection to the Hub broke off or "
                f"cannot be made ({type(cause).__name__}); run the push again."
            ),
            True,
        )
    return None


def _of_status(status, repo_id):
    start = f"{repo_id} was not pushed, nothing there has changed:"
    if status == 401:
        return _Problem(
            PermissionError(f"{start} the Hub does not accept the token."), False
        )
    if status == 403:
        return _Problem(
            PermissionError(f"{start} the token has no right to write there."), False
        )
    if status == 404:
        return _Problem(
            FileNotFoundError(f"{start} the Hub does not find it or its owner."), False
        )
    if status in (409, 412):
        return _Problem(
            OSError(f"{start} somebody else is changing it; run the push again."), True
        )
    passing = status == 429 or (status or 500) >= 500
    return _Problem(OSError(f"{start} the Hub answered with status {status}."), passing)
