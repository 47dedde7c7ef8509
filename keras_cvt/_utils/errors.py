"""The error class for checkpoints."""


class CheckpointError(ValueError):
    """A checkpoint cannot be read, or does not fit its model."""
