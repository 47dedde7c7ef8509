"""Load a model from the Hub: its configuration and weights, never any code."""

from keras_cvt import conversion, zoo
from keras_cvt.checkpoints import CheckpointError, sources, transformers_format
from keras_cvt.models import CvTModel
from keras_cvt.preprocessing.predictions import imagenet_class_names
from keras_cvt.repository import client


def load(repo_id: str, revision: str | None = None) -> CvTModel:
    """Load the classifier of a Hub repository.

    Only `config.json`, the weights and their recorded hashes are read. A SavedModel or
    a `.keras` file could hold code and is never opened.

    Args:
        repo_id: `"org/repo"` or `"hf://org/repo"`, also with `@revision`.
        revision: Branch, tag or commit, if `repo_id` does not name it. Defaults to
            `None`: the main branch, or the recorded commit of published weights.

    Returns:
        The model, for images of any size. A model that `keras_cvt.hub.push` wrote is
        what it was. Any other CvT of transformers takes RGB images of 0-255 and ends
        in what its `problem_type` says: a softmax, a sigmoid, or, for regression and
        for a single output, nothing.

    Raises:
        ValueError: If `repo_id` is not the name of a model repository, or two
            revisions are given.
        CheckpointError: If the repository does not hold a CvT, or a file does not
            match its recorded hash.
        FileNotFoundError: If the repository does not exist.
        OSError: If the Hub cannot be reached and nothing is cached.

    Example:
        >>> model = keras_cvt.hub.load("microsoft/cvt-13")
    """
    name, revision = _split(repo_id, revision)
    address = client.SCHEME + "@".join(filter(None, (name, revision)))
    return build(sources.resolve(address))


def build(checkpoint: sources.Checkpoint) -> CvTModel:
    """Build the classifier that a repository or its folder describes.

    Raises:
        CheckpointError: If there is no configuration or no head.
    """
    if checkpoint.config is None or checkpoint.classes is None:
        raise CheckpointError(
            "Expected the configuration and weights of a classifier. For any other "
            "model, build it and pass weights=. "
            f"Received: {checkpoint.source}"
        )
    return conversion.build(checkpoint, checkpoint.config)


def load_class_names(
    repo_id: str, revision: str | None = None
) -> tuple[str, ...] | None:
    """Return the class names of a Hub repository without loading its weights.

    Only `config.json` and its recorded hash are read: the number of classes of the
    weights is not compared.

    Args:
        repo_id: As for `load`.
        revision: As for `load`.

    Returns:
        The names in the order of the outputs, or None if the repository has none.

    Raises:
        ValueError: As `load`.
        CheckpointError: If `config.json` does not match its recorded hash.
        FileNotFoundError: If the repository does not exist.
        OSError: If the Hub cannot be reached and nothing is cached.

    Example:
        >>> keras_cvt.hub.load_class_names("microsoft/cvt-13")[0]
        'tench'
    """
    name, revision = _split(repo_id, revision)
    if zoo.find_repo(name) is not None:
        return tuple(imagenet_class_names())
    path = client.download_config(name, revision)
    if path is None:
        return None
    json_config = transformers_format.read_json(path)
    names = json_config.get("id2label")
    classes = len(names) if isinstance(names, dict) else None
    return transformers_format.read_class_names(json_config, classes, name)


def load_labels(repo_id: str, revision: str | None = None) -> tuple[str, ...]:
    """Return `load_class_names` under its name of version 0.1.0, or () for None."""
    return load_class_names(repo_id, revision) or ()


def _split(repo_id, revision):
    name, own = client.split_revision(repo_id)
    if own is not None and revision is not None:
        raise ValueError(
            "Expected one revision, in `repo_id` or in `revision`. "
            f"Received: repo_id={repo_id!r}, revision={revision!r}"
        )
    return name, own or revision
