"""Find the images of a folder that look most like some photos, or test the features.

    python examples/similar_images.py query.jpg --images FOLDER --output similar.png
    python examples/similar_images.py query.jpg --images features.npz
    python examples/similar_images.py --probe --images FOLDER --model run/best.keras

`features.npz` is what `keras-cvt embed` wrote with the same model; it saves the time to
embed the folder again. Images are compared by the cosine of the angle between their
features, at most 1.

`--probe` is a quick test of a network on images of other classes. FOLDER holds train/
and test/ (or validation/, val/) with a folder of images for each class. The network is
not trained: a logistic regression (linear probe) and the nearest neighbours of train/
classify the features of test/.
"""

import argparse
import itertools
from pathlib import Path

import numpy as np
import options as common
from PIL import Image

from keras_cvt._utils import plots
from keras_cvt._utils.optional import require
from keras_cvt.cli import arguments, image_files, loading
from keras_cvt.data import folders
from keras_cvt.features import ImageFeatures, describe_origin, embed_files
from keras_cvt.features.extractor import feature_extractor

NEIGHBOURS = 20  # that vote in --probe


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "queries", nargs="*", metavar="QUERY", help="image files or folders"
    )
    parser.add_argument(
        "--images", required=True, help="a folder of images, or features.npz"
    )
    arguments.add_features(parser)
    arguments.add_number(parser, "--top", "similar images for each query", 5)
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("similar.png"),
        help="picture to draw (default: %(default)s)",
    )
    parser.add_argument(
        "--probe", action="store_true", help="classify the folder's test images"
    )
    return parser.parse_args()


def embed(model, paths, options, **classes):
    """Return the features of image files, and list those that cannot be read."""
    found, unreadable = embed_files(
        model, paths, batch_size=options.batch_size, **classes
    )
    image_files.print_skipped(unreadable)
    return found


def embed_folder(model, options):
    """Return the features of the images to search in."""
    if not options.images.endswith(".npz"):
        return embed(model, image_files.list_paths([options.images]), options)
    found = ImageFeatures.load(options.images)
    own = describe_origin(feature_extractor(model))
    different = [name for name in own if own[name] != found.metadata.get(name)]
    if different:
        raise ValueError(
            f"Expected --model and --weights that made {options.images}. They differ "
            f"in {', '.join(different)}. Received: model {own['model']} with weights "
            f"{own['weights']}; the file is of {found.metadata.get('model')} with "
            f"{found.metadata.get('weights')}"
        )
    return found


def unit(features):
    """Return rows of length 1, whose products are cosines."""
    lengths = np.linalg.norm(features, axis=-1, keepdims=True)
    return features / np.maximum(lengths, np.finfo("float32").tiny)


def nearest(query, path, images, top):
    """Return the (similarity, path) pairs of the images most like a query.

    Args:
        query: Features of the query, (C,).
        path: Path of the query, which is not its own neighbour.
        images: Features of the other images.
        top: Number of pairs.
    """
    similarities = unit(images.features) @ unit(query)
    order = np.argsort(-similarities, kind="stable")
    others = (i for i in order if images.paths[i].resolve() != path.resolve())
    best = itertools.islice(others, top)
    return [(float(similarities[i]), images.paths[i]) for i in best]


def draw(rows, path):
    """Draw each query with its neighbours.

    Args:
        rows: List of (path of the query, pairs of `nearest`).
        path: Path of the picture.
    """
    columns = 1 + max(len(found) for _, found in rows)
    figure = plots.new_figure(
        figsize=(1.9 * columns, 2.2 * len(rows)), layout="constrained"
    )
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for row, (query, found) in zip(axes, rows, strict=True):
        shown = [("query", query), *((f"{s:.3f}", image) for s, image in found)]
        for axis in row:
            axis.axis("off")
        for axis, (title, image) in zip(row, shown, strict=False):
            axis.set_title(title, fontsize=10)
            try:
                with Image.open(image) as opened:
                    opened.thumbnail((256, 256))
                    axis.imshow(opened.convert("RGB"))
            except OSError:  # the file moved after it was embedded
                axis.set_title(f"{title}\ncannot be read", fontsize=10)
    plots.save_png(figure, path)


def search(model, options):
    """Print and draw the nearest images of each query."""
    queries = embed(model, image_files.list_paths(options.queries), options)
    images = embed_folder(model, options)
    rows = []
    for query, path in zip(queries.features, queries.paths, strict=True):
        rows.append((path, nearest(query, path, images, options.top)))
        print(folders.printable(path))
        for similarity, image in rows[-1][1]:
            print(f"  {similarity:.3f}  {folders.printable(image)}")
    draw(rows, options.output)
    print(f"The picture is in {folders.printable(options.output)}")


def probe(model, options):
    """Print the accuracies of two simple classifiers of the features."""
    root = Path(options.images)
    splits = [
        folders.find_images(folders.find_split(root, split))
        for split in ("train", "validation")
    ]
    names = tuple(splits[0])
    unknown = [name for name in splits[1] if name not in names]
    if unknown or len(names) < 2:
        raise ValueError(
            "Expected at least two classes in train/, and no others in test/. "
            f"Received: {folders.first_few(names)} and {folders.first_few(unknown)}"
        )
    train, test = (
        embed(
            model,
            [path for found in classes.values() for path in found],
            options,
            labels=[names.index(n) for n, found in classes.items() for _ in found],
            class_names=names,
        )
        for classes in splits
    )
    print(
        f"{len(train.paths):,} training and {len(test.paths):,} test images of "
        f"{len(names)} classes, {train.features.shape[1]:,} features"
    )
    for name, classifier in classifiers(len(train.paths)).items():
        classifier.fit(train.features, train.labels)
        accuracy = classifier.score(test.features, test.labels)
        print(f"{name}: {accuracy:.2%} of the test images")


def classifiers(count):
    """Return the classifiers of scikit-learn by name, for `count` training images."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    k = min(NEIGHBOURS, count)
    return {
        "Linear probe": make_pipeline(
            StandardScaler(), LogisticRegression(max_iter=1000)
        ),
        f"kNN (k={k}, cosine)": KNeighborsClassifier(k, metric="cosine"),
    }


def main():
    options = parse_arguments()
    if options.probe == bool(options.queries):
        raise ValueError("Expected either query images or --probe.")
    # Checked first, because the images take minutes.
    if options.probe:
        if not Path(options.images).is_dir():
            raise ValueError(
                "Expected --images FOLDER with train/ and test/ for --probe. "
                f"Received: {options.images}"
            )
        require("sklearn", "demo", "--probe")
        probe(loading.network(options), options)
        return
    if options.output.suffix != ".png":
        raise ValueError(f"Expected --output FILE.png. Received: {options.output}")
    require("matplotlib.figure", "train", "The picture")
    search(loading.network(options), options)


if __name__ == "__main__":
    common.run(main)
