"""A model from the Hub: its configuration and weights, and nothing that runs."""

from keras_cvt import builders, hub_files, weights, zoo
from keras_cvt.checkpoints import CheckpointError
from keras_cvt.models import CvTModel
from keras_cvt.preprocessing.predictions import imagenet_labels


def load(repo_id: str, revision: str | None = None) -> CvTModel:
    """Return the classifier of a Hub repository, of any image size.

    Only `config.json`, the weights and their recorded hashes are read: never a
    SavedModel or a `.keras` file, which could hold code.

    Args:
        repo_id: Such as `"org/repo"`. What `keras_cvt.hub.push` wrote comes back as
            it was; any other CvT of transformers, the published ones too, as a
            classifier of RGB images of 0-255 with a softmax.
        revision: Branch, tag or commit; None is the main branch, or what is recorded
            of the published weights.

    Raises:
        ValueError: If `repo_id` is no model repository's name.
        CheckpointError: If it holds no CvT, or a file has not its recorded hash.
        FileNotFoundError: If the repository does not exist.
        OSError: If the Hub cannot be reached and nothing is cached.
    """
    checkpoint = _read(repo_id, revision)
    if checkpoint.config is None or checkpoint.classes is None:
        raise CheckpointError(
            f"Expected the configuration and weights of a classifier in {repo_id}; "
            "build another model yourself and pass weights='hf://org/repo'."
        )
    settings = checkpoint.settings
    if settings is None:
        return builders.CvT(
            checkpoint.config, weights=checkpoint, classes=checkpoint.classes
        )
    return builders.CvT(
        checkpoint.config,
        weights=checkpoint,
        classes=checkpoint.classes,
        input_shape=(None, None, checkpoint.channels),
        classifier_activation=settings.classifier_activation,
        include_preprocessing=settings.include_preprocessing,
        name=settings.name,
    )


def load_labels(repo_id: str, revision: str | None = None) -> tuple[str, ...]:
    """Return the names of a repository's classes, in the order of the outputs.

    Raises:
        ValueError: As `load`, like the errors that follow.
        OSError: If the Hub cannot be reached and nothing is cached.
    """
    if zoo.find_repo(repo_id.removeprefix(hub_files.SCHEME)):
        return tuple(imagenet_labels())
    return _read(repo_id, revision).labels


def _read(repo_id, revision):
    return weights.from_repository(repo_id.removeprefix(hub_files.SCHEME), revision)
