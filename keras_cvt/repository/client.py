"""Files of a Hugging Face Hub repository, downloaded by huggingface_hub."""

import contextlib
import hashlib
import importlib
import inspect
import logging
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from keras_cvt._utils import files, progress
from keras_cvt._utils.errors import CheckpointError
from keras_cvt.repository import guards, integrity, shards

logger = logging.getLogger(__name__)

# Before `org/repo`, wherever a checkpoint is named.
SCHEME = "hf://"

# The checkpoint files that a repository may hold, best first: the format that cannot
# run code, then those that hold arrays only, then pickles, which are not executed.
CHECKPOINT_FILES = (
    "model.safetensors",
    f"model.safetensors{shards.SUFFIX}",
    "tf_model.h5",
    "model.weights.h5",
    "pytorch_model.bin",
    f"pytorch_model.bin{shards.SUFFIX}",
)

# The files that describe a checkpoint, beside it.
DESCRIPTIONS = ("config.json", "preprocessor_config.json")
# What a caller does with them: it reads them, it only wants them in the cache, for a
# later call without a network, or neither.
Descriptions = Literal["needed", "cached if possible", "unneeded"]
# Seconds after which a Hub that nobody reaches is asked again, and after which it is
# given up. huggingface_hub itself goes on for 23 s, or for minutes where packets are
# lost, and logs every attempt.
_PAUSES = (1.0, 2.0)
_PATIENCE = 5.0
_REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def check_repo_id(repo_id: str) -> None:
    """Raise ValueError unless `repo_id` reads like `org/repo`."""
    if not _REPO_ID.fullmatch(repo_id) or ".." in repo_id or "--" in repo_id:
        raise ValueError(
            "Expected a model repository of the Hub as 'hf://org/repo'. "
            f"Received: {repo_id!r}"
        )


def split_revision(name: str) -> tuple[str, str | None]:
    """Split `hf://org/repo@revision`, with or without the scheme and the revision.

    Returns:
        The repository, and the revision or None.
    """
    repo_id, _, revision = name.removeprefix(SCHEME).partition("@")
    return repo_id, revision or None


def find_checkpoint(folder: Path) -> Path:
    """Return the best checkpoint file of a local folder.

    Raises:
        FileNotFoundError: If it holds none.
    """
    for name in CHECKPOINT_FILES:
        if (folder / name).is_file():
            return folder / name
    raise FileNotFoundError(
        f"Expected one of {', '.join(CHECKPOINT_FILES)} in {folder}. "
        f"Received: {sorted(os.listdir(folder))[:10]}"
    )


def download_checkpoint(
    repo_id: str,
    revision: str | None = None,
    sha256: Mapping[str, str] | None = None,
    descriptions: Descriptions = "needed",
) -> Path:
    """Download a repository's best checkpoint file and what describes it.

    All files are of one commit. The descriptions, if there are any, lie beside the
    checkpoint. Nothing else is downloaded, and never a SavedModel or a `.keras` file.
    huggingface_hub does the work: cache, resumption, retries, offline mode
    (`HF_HUB_OFFLINE`) and another endpoint (`HF_ENDPOINT`). Progress is shown as in
    `keras_cvt._utils.progress`.

    Args:
        repo_id: Such as `"org/repo"`.
        revision: Branch, tag or commit. Defaults to `None`, the main branch.
        sha256: The hash of each checkpoint file that may be downloaded, if they are
            known; no other is. Defaults to `None`: any file, checked against the
            hashes that the repository itself records.
        descriptions: `"needed"` to download the descriptions too, `"cached if
            possible"` if that may fail, or `"unneeded"`. Defaults to `"needed"`.

    Returns:
        The local path of the checkpoint.

    Raises:
        ValueError: If `repo_id` is not a repository's name.
        CheckpointError: If a file does not match its recorded hash. What is damaged in
            the Hub's cache has been downloaded again by then.
        FileNotFoundError: If the repository or a checkpoint in it does not exist.
        ConnectionError: If the Hub cannot be reached and nothing is cached. It takes a
            few seconds to say so.
        OSError: If the download fails in any other way.
    """
    checkpoint = _download_best(repo_id, revision, sha256)
    commit = _commit(checkpoint, revision)
    found = {checkpoint.name: checkpoint}
    names = [path.name for path in shards.shard_files(checkpoint)]
    described = DESCRIPTIONS if descriptions == "needed" else ()
    if descriptions == "cached if possible":
        with contextlib.suppress(OSError):
            for name in DESCRIPTIONS:
                download_optional(repo_id, name, commit)
    for name in (*names, *described):
        path = found.get(name) or download_optional(repo_id, name, commit)
        if path is not None:
            found[name] = path
        elif name in names:
            raise FileNotFoundError(
                f"{checkpoint.name} of {repo_id} lists {name}, which is not there."
            )
    way_out = ""
    if sha256 is None:
        recorded = download_optional(repo_id, integrity.SUMS, commit)
        sha256 = integrity.read_sums(recorded)
    else:
        way_out = _at_own_risk(repo_id)
    lacking = {*sha256} & {*CHECKPOINT_FILES, *described}
    lacking -= {*found}
    if checkpoint.name in sha256:
        lacking -= {*CHECKPOINT_FILES}
    if lacking:
        raise CheckpointError(
            f"Expected the files that {integrity.SUMS} of {repo_id} lists: "
            f"{sorted(lacking)}. Received: {sorted(found)}"
        )
    for name in sorted(found.keys() & sha256.keys()):
        _check_hash(repo_id, name, commit, found[name], sha256[name], way_out)
    return checkpoint


def download_config(repo_id: str, revision: str | None = None) -> Path | None:
    """Download the `config.json` of a repository alone; return None if it has none.

    The revision and the errors are those of `download_checkpoint`.
    """
    name, _ = DESCRIPTIONS
    path = download_optional(repo_id, name, revision)
    if path is not None:
        commit = _commit(path, revision)
        sums = None
        # Offline, the file may be cached without its hash.
        with contextlib.suppress(OSError):
            sums = download_optional(repo_id, integrity.SUMS, commit)
        recorded = integrity.read_sums(sums)
        if name in recorded:
            _check_hash(repo_id, name, commit, path, recorded[name])
    return path


def _commit(path, revision):
    # huggingface_hub keeps every commit in a folder of that name.
    commit = path.parent.name
    return commit if re.fullmatch(r"[0-9a-f]{40}", commit) else revision


def _at_own_risk(repo_id):
    return (
        "This is not the file that this version of keras_cvt was made for. To load at "
        "your own risk what the main branch has now, unchecked, pass "
        f"weights='{SCHEME}{repo_id}@main'."
    )


def _check_hash(repo_id, name, commit, path, expected, way_out=""):
    digest = files.sha256(path)
    if digest != expected:
        # The Hub's cache may hold a damaged file.
        digest = files.sha256(_download(repo_id, name, commit, force=True))
    if digest != expected:
        raise CheckpointError(
            f"{name} of {repo_id} does not match its recorded SHA-256 "
            f"{expected}. Received: {digest}. {way_out}".strip()
        )


def _download_best(repo_id, revision, sha256):
    names = [name for name in CHECKPOINT_FILES if not sha256 or name in sha256]
    unreachable = None
    for name in names:
        try:
            # If one file could not be asked for, no other is downloaded instead, but
            # another may be cached.
            path = _download(repo_id, name, revision, False, unreachable is not None)
        except ConnectionError as error:
            unreachable = unreachable or error
            continue
        if path is not None:
            return path
    if unreachable is not None:
        raise unreachable
    raise FileNotFoundError(
        f"The Hub repository {repo_id} holds none of {', '.join(names)}."
    )


def download_optional(
    repo_id: str, name: str, revision: str | None = None
) -> Path | None:
    """Download a file that a repository may lack; return None if it has none.

    The Hub's cache also remembers which files a repository lacks.

    Raises:
        OSError: As `download_checkpoint`, also if nobody can say whether the
            repository has the file.
    """
    import huggingface_hub

    try:
        return _download(repo_id, name, revision)
    except ConnectionError:
        cached = huggingface_hub.try_to_load_from_cache(
            repo_id, name, revision=revision
        )
        if cached is huggingface_hub._CACHED_NO_EXIST:
            return None
        raise


def _download(repo_id, name, revision, force=False, only_cached=False):
    """Return the file's path, or None if the repository does not have it.

    A file that is damaged in the Hub's cache is downloaded again.
    """
    path = _ask(repo_id, name, revision, force, only_cached)
    if path is None or not _is_damaged(path):
        return path
    if not force:
        logger.warning("%s of %s is damaged: it is downloaded again.", name, repo_id)
        return _download(repo_id, name, revision, True, only_cached)
    raise CheckpointError(
        f"{name} of {repo_id} does not match the hash that the Hub states, even after "
        f"a second download. Received: {path}"
    )


def _is_damaged(path):
    """Compare a cached file with its hash, which huggingface_hub names it by."""
    name = path.resolve().name
    if re.fullmatch(r"[0-9a-f]{64}", name):
        return files.sha256(path) != name
    if re.fullmatch(r"[0-9a-f]{40}", name):
        # As git names it; a mirror may hash the content alone.
        header = b"blob %d\0" % path.stat().st_size
        hashes = [hashlib.sha1(start, usedforsecurity=False) for start in (header, b"")]
        with path.open("rb") as file:
            while part := file.read(2**20):
                for found in hashes:
                    found.update(part)
        return name not in [found.hexdigest() for found in hashes]
    return False


def _ask(repo_id, name, revision, force, only_cached):
    """Return the file's path, or None if the repository does not have it.

    A ConnectionError means that the Hub cannot be asked, and that its cache does not
    hold the file.
    """
    import huggingface_hub
    from huggingface_hub import errors

    check_repo_id(repo_id)
    way_out = (
        "To load a file that you have, pass its path: weights='path/to/checkpoint'."
    )
    cached = huggingface_hub.try_to_load_from_cache(repo_id, name, revision=revision)
    unreachable = None
    if not only_cached and (force or not isinstance(cached, str)):
        unreachable = _why_unreachable(repo_id, name, revision)
        only_cached = unreachable is not None
    try:
        return _hub_download(repo_id, name, revision, force, only_cached)
    except (guards.UnsafeNameError, guards.RedirectError) as error:
        raise OSError(f"{error}. {name} of {repo_id} is not downloaded.") from error
    except guards.StalledError as error:
        raise OSError(
            f"The download of {name} of {repo_id} has stalled: {error}. The next call "
            f"resumes it. {way_out}"
        ) from error
    except errors.LocalEntryNotFoundError as error:
        # A subclass of EntryNotFoundError: here nobody could be asked.
        # One traceback: that of the HTTP library says nothing about the program.
        raise ConnectionError(
            f"{unreachable or _reason(error)}, and {name} of {repo_id} is not in the "
            f"local cache. {_elsewhere(repo_id, revision)}"
        ) from None
    except errors.EntryNotFoundError:
        return None
    except errors.GatedRepoError as error:
        raise PermissionError(
            f"The Hub repository {repo_id} needs your token and its owner's consent. "
            f"{way_out}"
        ) from error
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        raise FileNotFoundError(
            f"There is no Hub repository {repo_id} with revision "
            f"{revision or 'main'}, or it is private and no token is set. {way_out}"
        ) from error
    except ValueError as error:
        # This is how huggingface_hub says that it cannot download a file again.
        if not force:
            raise
        raise OSError(
            f"The cached checkpoint of {repo_id} is damaged and has to be downloaded "
            f"again. {unreachable or _reason(error)}. {_elsewhere(repo_id, revision)}"
        ) from None
    except errors.HfHubHTTPError as error:
        status = getattr(error.response, "status_code", "unknown")
        raise OSError(
            f"The Hub answered with status {status} for {name} of {repo_id}; try "
            f"again later. {way_out}"
        ) from error
    except (OSError, RuntimeError, http_error()) as error:
        raise OSError(
            f"The download of {name} of {repo_id} broke off "
            f"({type(error).__name__}); the next call resumes it. {way_out}"
        ) from error


def _hub_download(repo_id, name, revision, force, only_cached):
    """Call huggingface_hub, and once more if the server hangs up.

    A server may close a kept connection while the next request is on its way. A file
    that is half downloaded is resumed. If nobody answers the first question (HEAD) of
    the second call either, the file in the Hub's cache will do, as it does where the
    Hub cannot be reached.
    """
    import huggingface_hub
    from huggingface_hub import errors

    def download(only_cached):
        with guards.guarded():
            return Path(
                huggingface_hub.hf_hub_download(
                    repo_id,
                    name,
                    revision=revision,
                    force_download=force,
                    local_files_only=only_cached,
                    **_progress_bar(),
                )
            )

    http = _http_library()
    hang_ups = (http.RemoteProtocolError, http.ReadError, http.WriteError)
    with contextlib.suppress(*hang_ups):
        return download(only_cached)
    try:
        return download(only_cached)
    except hang_ups as error:
        if force or error.request.method != "HEAD":
            raise
        try:
            return download(only_cached=True)
        except errors.LocalEntryNotFoundError as missing:
            raise missing from error


def _http_library():
    """Return huggingface_hub's HTTP library: httpx, or its successor."""
    return importlib.import_module(http_error().__module__.split(".")[0])


def http_error() -> type[Exception]:
    """Return the base of huggingface_hub's errors of a connection.

    It belongs to its HTTP library, whose name changes with releases.
    """
    from huggingface_hub import errors

    base: type[Exception] = errors.HfHubHTTPError.__mro__[1]
    return base


def _reason(error):
    """Say why the Hub gave no file, by what huggingface_hub's error was raised from."""
    cause = error.__cause__
    status = getattr(getattr(cause, "response", None), "status_code", None)
    if status is not None:
        return f"The Hub answers with status {status}"
    broken = type(cause).__name__
    if broken in ("TooManyRedirects", "UnsupportedProtocol", "InvalidURL"):
        return f"The Hub redirects to nowhere ({broken})"
    if broken == "OfflineModeIsEnabled":
        return "The Hub cannot be reached (HF_HUB_OFFLINE is set)"
    return f"The Hub cannot be reached ({broken})"


def _elsewhere(repo_id, revision):
    """Say what to do without the Hub."""
    from huggingface_hub import constants

    return (
        "Try again with a network (HF_ENDPOINT names a mirror), or bring a file of "
        f"{constants.ENDPOINT}/{repo_id}/tree/{revision or 'main'} and pass its path: "
        "weights='path/to/checkpoint'."
    )


def _why_unreachable(repo_id, name, revision):
    """Ask the Hub about a file, and say why nobody answers; None if it answers."""
    import huggingface_hub
    from huggingface_hub import constants

    http = _http_library()
    reason, started = "", time.monotonic()
    for pause in (*_PAUSES, None):
        try:
            with guards.guarded():
                url = huggingface_hub.hf_hub_url(repo_id, name, revision=revision)
                huggingface_hub.get_hf_file_metadata(url)
        except (http.ConnectError, http.TimeoutException, http.ProxyError) as error:
            text = f"{type(error).__name__}: {error}".removesuffix(": ")
            reason = f"The Hub cannot be reached ({constants.ENDPOINT}, {text})"
        except Exception:
            # An answer of any kind: the download says what is wrong.
            return None
        else:
            return None
        if pause is None or time.monotonic() - started > _PATIENCE:
            break
        time.sleep(pause)
    return reason


def _progress_bar():
    """Return an argument for `hf_hub_download`, which shows nothing in files."""
    import huggingface_hub
    from huggingface_hub.utils import tqdm

    class Bar(progress.LinesInFiles, tqdm):
        pass

    known = inspect.signature(huggingface_hub.hf_hub_download).parameters
    # The first releases of version 1 do not take it.
    return {"tqdm_class": Bar} if "tqdm_class" in known else {}
