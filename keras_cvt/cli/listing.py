"""The command `list`, which needs no Keras."""

import argparse
import json

from keras_cvt import zoo


def run_list(options: argparse.Namespace) -> int:
    """List the published networks and weights; return the exit status."""
    models, weights = zoo.list_models(), zoo.list_weights()
    if options.json:
        rows = {"models": models.rows(), "weights": weights.rows()}
        print(json.dumps(rows, indent=2))
    else:
        print(f"{models}\n\n{weights}")
    return 0
