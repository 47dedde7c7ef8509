"""Files of a Hugging Face Hub repository, on the local disk."""

import json
import os
import re
from pathlib import Path
from typing import Any

# Before `org/repo`, wherever a checkpoint is named.
SCHEME = "hf://"

# What a repository may hold, best first: the format that cannot run code, then the
# ones that hold arrays only, then pickles (read by a restricted reader).
CHECKPOINT_FILES = (
    "model.safetensors",
    "tf_model.h5",
    "model.weights.h5",
    "pytorch_model.bin",
)

_MAX_CONFIG_BYTES = 4 * 2**20
_REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def check_repo_id(repo_id: str) -> None:
    """Raise ValueError unless `repo_id` reads like `org/repo`."""
    if not _REPO_ID.fullmatch(repo_id) or ".." in repo_id or "--" in repo_id:
        raise ValueError(
            "Expected a model repository of the Hub as 'hf://org/repo'. "
            f"Received: {repo_id!r}"
        )


def split_revision(name: str) -> tuple[str, str | None]:
    """Return repository and revision of `org/repo@revision`, or None for the latter."""
    repo_id, _, revision = name.partition("@")
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
    repo_id: str, revision: str | None = None, force: bool = False
) -> Path:
    """Download a repository's best checkpoint file, or find it in the Hub's cache.

    huggingface_hub does the work: progress bar, cache, resumption, retries, offline
    mode (`HF_HUB_OFFLINE`) and another endpoint (`HF_ENDPOINT`).

    Args:
        repo_id: Such as `"microsoft/cvt-13"`.
        revision: Branch, tag or commit; None is the main branch.
        force: Whether to download again what the cache holds.

    Raises:
        ValueError: If `repo_id` is no repository's name.
        FileNotFoundError: If the repository or a checkpoint in it does not exist.
        OSError: If the Hub cannot be reached and nothing is cached.
    """
    unreachable = None
    for name in CHECKPOINT_FILES:
        try:
            # After a file that could not be asked for no other is downloaded in its
            # stead, but another may be cached.
            path = _download(repo_id, name, revision, force, unreachable is not None)
        except _NotCachedError as error:
            unreachable = unreachable or error
            continue
        if path is not None:
            return path
    if unreachable is not None:
        raise unreachable
    raise FileNotFoundError(
        f"The Hub repository {repo_id} holds none of {', '.join(CHECKPOINT_FILES)}."
    )


def download_optional(
    repo_id: str, name: str, revision: str | None = None
) -> Path | None:
    """Download a file that a repository may lack; None if it has none.

    The Hub's cache remembers what a repository lacks, too.

    Raises:
        OSError: As `download_checkpoint`, also where nobody can say whether the
            repository has the file.
    """
    import huggingface_hub

    try:
        return _download(repo_id, name, revision)
    except _NotCachedError:
        cached = huggingface_hub.try_to_load_from_cache(
            repo_id, name, revision=revision
        )
        if cached is huggingface_hub._CACHED_NO_EXIST:
            return None
        raise


def read_config(path: Path) -> dict[str, Any]:
    """Read a `config.json`.

    Raises:
        ValueError: If the file is no JSON object of a sane size.
    """
    if path.stat().st_size > _MAX_CONFIG_BYTES:
        raise ValueError(
            f"Expected at most {_MAX_CONFIG_BYTES} bytes. Received: {path}"
        )
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"Expected JSON in {path}: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"Expected a JSON object. Received: {path}")
    return values


class _NotCachedError(OSError):
    """The Hub cannot be asked, and its cache does not hold the file."""


def _download(repo_id, name, revision, force=False, only_cached=False):
    """Return the file's path, or None where the repository does not have it."""
    import huggingface_hub
    from huggingface_hub import errors

    check_repo_id(repo_id)
    way_out = (
        "To load a file that you have, pass its path: weights='path/to/checkpoint'."
    )
    try:
        return Path(
            huggingface_hub.hf_hub_download(
                repo_id,
                name,
                revision=revision,
                force_download=force,
                local_files_only=only_cached,
            )
        )
    except errors.LocalEntryNotFoundError as error:
        # A subclass of EntryNotFoundError: here nobody could be asked.
        raise _NotCachedError(
            f"The Hub cannot be reached (or HF_HUB_OFFLINE is set) and {name} of "
            f"{repo_id} is not in the local cache. {way_out}"
        ) from error
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
        # So huggingface_hub says that what is to be downloaded again cannot be.
        if not force:
            raise
        raise OSError(
            f"The cached checkpoint of {repo_id} is damaged, and the Hub cannot be "
            f"reached (or HF_HUB_OFFLINE is set) to download it again. {way_out}"
        ) from error
    except errors.HfHubHTTPError as error:
        status = getattr(error.response, "status_code", "unknown")
        raise OSError(
            f"The Hub answered with status {status} for {name} of {repo_id}; try "
            f"again later. {way_out}"
        ) from error
    except (OSError, RuntimeError) as error:
        raise OSError(
            f"The download of {name} of {repo_id} broke off "
            f"({type(error).__name__}); the next call resumes it. {way_out}"
        ) from error
