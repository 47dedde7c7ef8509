"""Where converted weights are kept."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """Return where converted weights are kept: `keras_cvt` beside Keras's files."""
    home = os.environ.get("KERAS_HOME") or Path.home() / ".keras"
    return Path(home) / "keras_cvt"
