"""The command line `keras-cvt`: parses, calls, prints."""

import argparse
import json
import sys
from pathlib import Path

from keras_cvt import cli_deploy
from keras_cvt.tables import render

_IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff"}


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit status.

    0 is success, 1 that some images could not be read, an exported file failed its
    verification or an error was printed, 2 a wrong call.
    """
    options = _parser().parse_args(arguments)
    try:
        return options.command(options)
    except (ValueError, OSError, ImportError) as error:
        print(f"keras-cvt: {error}", file=sys.stderr)
        return 1


def _parser():
    parser = argparse.ArgumentParser(
        prog="keras-cvt",
        description="CvT for Keras: list, inspect, classify, convert, export, verify.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser("list", help="published networks and weights")
    command.add_argument("--json", action="store_true", help="print JSON")
    command.set_defaults(command=_list)

    command = commands.add_parser("info", help="layers, parameters and MACs of a model")
    command.add_argument("model", help=_MODEL_HELP)
    command.add_argument(
        "--size", type=_positive, default=224, help="image size in pixels"
    )
    command.add_argument(
        "--classes", type=_positive, help="default: 1000, or the file's own"
    )
    command.add_argument("--json", action="store_true", help="print JSON")
    command.set_defaults(command=_info)

    command = commands.add_parser("predict", help="classify images")
    command.add_argument("images", nargs="+", metavar="IMAGE", help="file or folder")
    command.add_argument("--model", default="cvt13", help=_MODEL_HELP)
    command.add_argument(
        "--weights",
        help="a published tag, a checkpoint or hf://org/repo (default: imagenet, or a "
        ".keras file's own)",
    )
    command.add_argument(
        "--labels", help="the classes' names: a text file, one a line, or a JSON list"
    )
    command.add_argument("--top", type=_positive, default=5, help="classes an image")
    command.add_argument("--batch-size", type=_positive, default=8)
    command.add_argument("--json", action="store_true", help="print JSON")
    command.set_defaults(command=_predict)

    command = commands.add_parser(
        "convert", help="checkpoint -> strict load -> comparison -> saved file"
    )
    command.add_argument(
        "checkpoint", nargs="?", help="file, folder, hf://org/repo or tag"
    )
    command.add_argument(
        "out",
        help=".keras, .weights.h5, .safetensors, .pth, a transformers folder, or "
        "hf://org/repo: write, verify, describe and push a whole repository",
    )
    command.add_argument(
        "--all",
        action="store_true",
        help="the seven published weights, to hf://org; goes on where it stopped",
    )
    command.add_argument(
        "--folder",
        type=Path,
        default=Path("releases"),
        help="where repositories are put together (default: releases)",
    )
    command.add_argument(
        "--dry-run", action="store_true", help="leave the repository there, unpushed"
    )
    command.add_argument(
        "--public", action="store_true", help="make new repositories public"
    )
    command.add_argument(
        "--exports",
        nargs="+",
        default=(),
        metavar="NAME",
        help="files that a repository takes along, verified: saved_model, litert, "
        "litert_float16, litert_dynamic_int8, litert_int8, onnx, openvino",
    )
    command.add_argument(
        "--representative",
        nargs="+",
        default=(),
        metavar="IMAGE",
        help="files or folders to calibrate litert_int8 and to verify the exports on",
    )
    command.add_argument("--model", help=f"{_MODEL_HELP}; default: recognised")
    command.add_argument("--activation", choices=("quick_gelu", "gelu"))
    command.add_argument(
        "--reference",
        help=".npz with `input` (B, H, W, C) and `logits` to compare with",
    )
    command.add_argument(
        "--tolerance", type=float, help="largest difference of a logit"
    )
    command.set_defaults(command=_convert)

    cli_deploy.add_commands(commands, _MODEL_HELP, _classifier, _image_paths)
    return parser


_MODEL_HELP = "cvt13, cvt21, cvtw24, a config.json or a .keras file"


def _config(name):
    from keras_cvt import zoo
    from keras_cvt.config import CvTConfig

    if name in zoo.MODELS:
        return zoo.MODELS[name]
    if not Path(name).is_file():
        raise ValueError(
            f"Expected one of {', '.join(zoo.MODELS)}, or the path of a config.json. "
            f"Received: {name}"
        )
    if name.endswith(".keras"):
        return _keras_model(name).cvt_config
    return CvTConfig.from_json(Path(name))


def _keras_model(path):
    import keras

    from keras_cvt.models import CvTModel

    model = keras.models.load_model(path)
    if not isinstance(model, CvTModel):
        raise ValueError(f"Expected a model of keras_cvt. Received: {path}")
    return model


def _classifier_file(path):
    model = _keras_model(path)
    if len(model.output.shape) != 2:
        raise ValueError(f"Expected a classifier. Received a backbone: {path}")
    return model


def _with_softmax(model):
    import keras

    if not model.get_layer("preprocessing").normalize:
        raise ValueError(
            "Images come as pixels of 0-255; this model was built with "
            "`include_preprocessing=False` and takes normalised ones."
        )
    head = model.layers[-1]
    if head.activation is not keras.activations.linear:
        return model
    with_softmax = type(head).from_config(
        {**head.get_config(), "activation": keras.activations.softmax}
    )
    outputs = with_softmax(head.input)
    with_softmax.set_weights(head.get_weights())
    return type(model)(model.input, outputs, name=model.name)


def _positive(text):
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, received {number}")
    return number


def _list(options):
    from keras_cvt import zoo

    tables = {"models": zoo.list_models(), "weights": zoo.list_weights()}
    if options.json:
        print(json.dumps({name: t.rows() for name, t in tables.items()}, indent=2))
    else:
        print("\n\n".join(map(repr, tables.values())))
    return 0


def _info(options):
    from keras_cvt.profile import profile

    config, classes = _config(options.model), options.classes or 1000
    if options.model.endswith(".keras"):
        model = _classifier_file(options.model)
        classes = options.classes or model.output.shape[-1]
    parts = profile(config, options.size, options.size, classes)
    total = {
        "parameters": sum(part.parameters for part in parts),
        "statistics": sum(part.statistics for part in parts),
        "macs": sum(part.macs for part in parts),
    }
    # Float32: four bytes a number.
    total["weights_bytes"] = 4 * (total["parameters"] + total["statistics"])
    if options.json:
        rows = [vars(part) for part in parts]
        print(json.dumps({"parts": rows, "total": total}, indent=2))
        return 0
    stages = {f"stage{i}": stage for i, stage in enumerate(config.stages)}
    rows = [
        [
            part.name,
            f"{stages[part.name].depth} blocks" if part.name in stages else "",
            " x ".join(map(str, part.output)),
            part.parameters,
            part.statistics,
            part.macs / 1e9,
        ]
        for part in parts
    ]
    rows.append(
        ["total", "", "", total["parameters"], total["statistics"], total["macs"] / 1e9]
    )
    titles = ["part", "depth", "output", "parameters", "BN statistics", "GMACs"]
    print(render(titles, rows))
    size = options.size
    print(
        f"\nWeights: {total['weights_bytes'] / 2**20:.1f} MiB in float32. One MAC is a "
        "multiply-add in a\nconvolution, linear layer or attention product, for one "
        f"image of {size} x {size}."
    )
    return 0


def _predict(options):
    from tqdm import tqdm

    paths = _image_paths(options.images)
    model, labels = _classifier(options)
    results, unreadable = [], []
    starts = range(0, len(paths), options.batch_size)
    # A bar is for waiting people: not for a single batch, nor for a pipe.
    for start in tqdm(starts, unit="batch", disable=None if len(starts) > 1 else True):
        batch = paths[start : start + options.batch_size]
        results += _classify(model, labels, batch, options.top, unreadable)
    if options.json:
        print(json.dumps(results, indent=2))
    else:
        rows = [
            [row["image"] if i == 0 else "", entry["label"], 100 * entry["score"]]
            for row in results
            for i, entry in enumerate(row["predictions"])
        ]
        if rows:
            print(render(["image", "label", "score %"], rows))
    for path, error in unreadable:
        print(f"keras-cvt: skipped {path}: {error}", file=sys.stderr)
    return 1 if unreadable else 0


def _image_paths(names):
    paths = []
    for path in map(Path, names):
        if path.is_dir():
            found = sorted(
                p for p in path.rglob("*") if p.suffix.lower() in _IMAGE_SUFFIXES
            )
            if not found:
                raise ValueError(
                    f"Expected images in the folder {path}; there are none."
                )
            paths += found
        else:
            paths.append(path)
    return paths


def _classifier(options):
    """Return the model, with a softmax, and the names of its classes."""
    from keras_cvt import builders, weights, zoo
    from keras_cvt.preprocessing.predictions import imagenet_labels

    if options.model.endswith(".keras"):
        if options.weights is not None:
            raise ValueError("A .keras file has its own weights; leave out --weights.")
        model = _with_softmax(_classifier_file(options.model))
    else:
        name = options.model if options.model in zoo.MODELS else None
        named = options.weights or "imagenet"
        checkpoint = weights.resolve(named, name)
        if checkpoint.classes is None:
            raise ValueError(f"{named} has no head to classify with.")
        model = builders.CvT(
            _config(options.model), weights=checkpoint, classes=checkpoint.classes
        )
    classes = model.output.shape[-1]
    if options.labels:
        try:
            model.labels = _read_labels(options.labels)
        except ValueError as error:
            raise ValueError(f"{error} in {options.labels}") from None
    labels = model.labels or ()
    if list(labels) == imagenet_labels():
        labels = ()  # Their wnids are shown with them.
    elif not labels and classes != 1000:
        labels = [f"class {i}" for i in range(classes)]
    return model, list(labels)


def _read_labels(path):
    text = Path(path).read_text(encoding="utf-8")
    return json.loads(text) if text.lstrip().startswith("[") else text.splitlines()


def _classify(model, labels, paths, top, unreadable):
    import numpy as np

    from keras_cvt.preprocessing import decode_predictions, preprocess_input

    readable, images = [], []
    for path in paths:
        try:
            images.append(preprocess_input(path, model)[0])
            readable.append(path)
        except (ValueError, OSError) as error:
            unreadable.append((path, error))
    if not images:
        return []
    scores = model.predict(np.stack(images), verbose=0)
    if not labels:
        decoded = [
            [{"wnid": w, "label": name, "score": score} for w, name, score in row]
            for row in decode_predictions(scores, top=top)
        ]
    else:
        best = np.argsort(-scores, axis=-1)[:, :top]
        decoded = [
            [{"label": labels[i], "score": float(row[i])} for i in order]
            for row, order in zip(scores, best, strict=True)
        ]
    return [
        {"image": str(path), "predictions": predictions}
        for path, predictions in zip(readable, decoded, strict=True)
    ]


def _convert(options):
    from keras_cvt import conversion, hub_files

    tolerance = conversion.TOLERANCE if options.tolerance is None else options.tolerance
    if options.all or options.out.startswith(hub_files.SCHEME):
        return _release(options, tolerance)
    more = (options.public, options.exports, options.representative)
    if options.dry_run or any(more):
        raise ValueError(
            "Expected hf://org/repo with --dry-run, --public, --exports and "
            f"--representative. Received: {options.out}"
        )
    if options.checkpoint is None:
        raise ValueError("Expected a checkpoint and where to save it.")
    report = conversion.convert(
        options.checkpoint,
        options.out,
        config=_config(options.model) if options.model else None,
        activation=options.activation,
        reference=options.reference,
        tolerance=tolerance,
    )
    stages = ", ".join(str(stage.embed_dim) for stage in report.config.stages)
    print(
        f"read       {options.checkpoint} ({report.layout} layout)\n"
        f"loaded     {report.entries} arrays strictly into stages of {stages}, "
        f"{report.classes} classes, {report.config.activation}"
    )
    if report.reference_difference is None:
        print("reference  none given: only the saved file was compared with the model")
    else:
        print(f"reference  largest difference {report.reference_difference:.3g}")
    print(f"saved      {options.out}, largest difference {report.saved_difference:.3g}")
    return 0


def _release(options, tolerance):
    from keras_cvt import hub, hub_files

    target = options.out.removeprefix(hub_files.SCHEME)
    how = {
        "exports": options.exports,
        "representative": _image_paths(options.representative),
        "dry_run": options.dry_run,
        "private": not options.public,
    }
    if options.all:
        if options.checkpoint is not None or "/" in target:
            raise ValueError(
                "Expected --all hf://org, and no checkpoint. "
                f"Received: {options.checkpoint or ''} {options.out}"
            )
        own = (options.model, options.activation, options.reference, options.tolerance)
        if any(value is not None for value in own):
            raise ValueError(
                "Expected --all, which takes the published weights as they are, "
                "without --model, --activation, --reference and --tolerance."
            )
        releases = hub.release_all(target, options.folder, **how)
    else:
        if options.checkpoint is None:
            raise ValueError("Expected a checkpoint before hf://org/repo, or --all.")
        release = hub.release(
            options.checkpoint,
            target,
            options.folder / target.replace("/", "--"),
            config=_config(options.model) if options.model else None,
            activation=options.activation,
            reference=options.reference,
            tolerance=tolerance,
            **how,
        )
        releases = [release]
    titles = ["checkpoint", "repository", "compared with", "difference", "written"]
    rows = [
        [
            release.checkpoint,
            release.repo_id,
            release.reference,
            *map(
                _scientific, (release.reference_difference, release.written_difference)
            ),
            release.error or release.commit or f"not pushed: {release.folder}",
        ]
        for release in releases
    ]
    print(render([*titles, "commit"], rows))
    return 1 if any(release.error for release in releases) else 0


def _scientific(number):
    return "" if number is None else f"{number:.1e}"


if __name__ == "__main__":
    sys.exit(main())
