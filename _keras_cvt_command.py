"""The program `keras-cvt`: the command line without `import keras_cvt`.

That import takes seconds, since it imports Keras to register the layers. This module
stands outside of the package, because Python runs a package before its modules.
"""

import importlib.util
import sys


def main() -> int:
    """Run the command line of this process; see `keras_cvt.cli.main`."""
    if "keras_cvt" not in sys.modules:
        spec = importlib.util.find_spec("keras_cvt")
        assert spec is not None
        # Its modules can be imported now. `keras_cvt.cli` runs it when Keras is needed.
        sys.modules["keras_cvt"] = importlib.util.module_from_spec(spec)
    from keras_cvt import cli

    return cli.main()
