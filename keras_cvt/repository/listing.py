"""What the Hub says of a repository's files, without a download."""

from keras_cvt.repository import client

# Of a single request.
_SECONDS = 10.0


def checkpoint_hashes(
    repo_id: str, revision: str | None = None
) -> tuple[str, dict[str, str]]:
    """Ask the Hub for a repository's commit and the hashes of its checkpoint files.

    Args:
        repo_id: Such as `"org/repo"`.
        revision: Branch, tag or commit. Defaults to `None`, the main branch.

    Returns:
        The commit, and name of each checkpoint file -> SHA-256. Files that are no
        large files on the Hub have none.

    Raises:
        PermissionError: If the repository is gated.
        FileNotFoundError: If there is no such repository or revision.
        ConnectionError: If the Hub cannot be reached.
        OSError: If it answers with an error.
    """
    from huggingface_hub import HfApi, errors

    client.check_repo_id(repo_id)
    try:
        info = HfApi().model_info(
            repo_id, revision=revision, files_metadata=True, timeout=_SECONDS
        )
    except errors.GatedRepoError as error:
        raise PermissionError(
            f"The Hub repository {repo_id} needs your token and its owner's consent."
        ) from error
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        raise FileNotFoundError(
            f"There is no Hub repository {repo_id} with revision {revision or 'main'}."
        ) from error
    except errors.HfHubHTTPError as error:
        status = getattr(error.response, "status_code", "unknown")
        raise OSError(
            f"The Hub answered with status {status} for {repo_id}; try again later."
        ) from error
    except (OSError, RuntimeError, client.http_error()) as error:
        raise ConnectionError(
            f"The Hub cannot be asked for {repo_id} ({type(error).__name__})."
        ) from error
    hashes = {
        file.rfilename: file.lfs.sha256
        for file in info.siblings or ()
        if file.rfilename in client.CHECKPOINT_FILES and file.lfs is not None
    }
    return str(info.sha), hashes
