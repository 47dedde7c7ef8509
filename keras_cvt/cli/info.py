"""The command `info`."""

import argparse
import json

from keras_cvt import conversion
from keras_cvt._utils.tables import render
from keras_cvt.cli import loading
from keras_cvt.description import find_preprocessing
from keras_cvt.profile import profile


def run_info(options: argparse.Namespace) -> int:
    """Print the parts of a model; return the exit status."""
    if conversion.is_keras_file(options.model):
        model = loading.load_file(options.model)
        config, classes = model.cvt_config, model.classes
        # Layers in front may take images of another size and number of channels.
        _, height, width, channels = find_preprocessing(model)[1][0].shape
        if not classes:
            raise ValueError(
                "Expected a model with a head, not a backbone. "
                f"Received: {options.model}"
            )
    else:
        config, classes, channels = loading.config(options.model), 1000, 3
        height = width = None
    height, width = (options.size or own or 224 for own in (height, width))
    parts = profile(config, height, width, options.classes or classes, channels)
    total = {
        name: sum(getattr(part, name) for part in parts)
        for name in ("parameters", "statistics", "macs")
    }
    # A float32 number has four bytes.
    total["weights_bytes"] = 4 * (total["parameters"] + total["statistics"])
    if options.json:
        rows = [vars(part) for part in parts]
        print(json.dumps({"parts": rows, "total": total}, indent=2))
        return 0
    depths = {f"stage{i}": f"{s.depth} blocks" for i, s in enumerate(config.stages)}
    rows = [
        [part.name, depths.get(part.name, ""), " x ".join(map(str, part.output))]
        + [part.parameters, part.statistics, part.macs / 1e9]
        for part in parts
    ]
    rows.append(
        ["total", "", "", total["parameters"], total["statistics"], total["macs"] / 1e9]
    )
    titles = ["part", "depth", "output", "parameters", "BN statistics", "GMACs"]
    print(render(titles, rows))
    print(
        f"\nWeights: {total['weights_bytes'] / 2**20:.1f} MiB in float32. One MAC is a "
        "multiply-add in a\nconvolution, linear layer or attention product, for one "
        f"image of {height} x {width}."
    )
    return 0
