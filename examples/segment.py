"""Train a semantic segmentation, DeepLabV3+ of keras-hub on a CvT backbone.

    python examples/segment.py --output segmented
    python examples/segment.py --data FOLDER --model cvt13 --weights imagenet \
        --image-size 512 512 --batch-size 8 --learning-rate 1e-4

Without --data the pictures are scenes of handwritten digits; see `digit_scenes.py`.
FOLDER holds train/ and validation/ (or val/, test/), each with images/ and masks/. The
mask of images/a.jpg is masks/a.png, of the same size. Its grey value or palette index
is the class; 255 is ignored. If there is a classes.txt in FOLDER, it names the classes,
one a line, class 0 first. Images and masks are resized to --image-size.

The network takes the level P4 (stride 16) into the spatial pyramid pooling and P2
(stride 4) as low-level features. The program prints the intersection over union (IoU)
of each class and their mean (mIoU) on the validation images. --output gets
`segmenter.keras`, which is loaded again and compared, `segmenter.tflite`, which LiteRT
runs and which is compared too, and `segmenter.png`. If one of them computes something
else, the program ends with status 1.
"""

import dense
import keras
import numpy as np
import options as common
from digit_scenes import NAMES
from PIL import Image

from keras_cvt._utils.optional import require
from keras_cvt._utils.tables import render
from keras_cvt.data.folders import find_split, first_few, list_images

IGNORED = 255
SHOWN = 4
# Dilation rates of the paper, for a map of 32 x 32.
RATES = (6, 12, 18)


class Scenes:
    """Images and masks of digit scenes."""

    names = ("background", *NAMES)

    def __init__(self, scenes):
        self.scenes = scenes

    def __len__(self):
        return len(self.scenes)

    def __getitem__(self, index):
        return self.scenes[index].image, self.scenes[index].mask


class Folder:
    """Images and masks of one split of a folder, which are checked first.

    Args:
        folder: The folder with images/ and masks/.
        size: (height, width) to which they are resized.
        names: The names of the classes, or None for those of the masks by number.

    Raises:
        ValueError: If a mask is missing, is no mask, has another size than its image,
            or has a class that is not in `names`.
    """

    def __init__(self, folder, size, names=None):
        for part in ("images", "masks"):
            if not (folder / part).is_dir():
                raise ValueError(
                    f"Expected folders images and masks in {folder}. Received: no "
                    f"{part}"
                )
        images, _ = list_images(folder / "images")
        if not images:
            raise ValueError(f"Expected images in {folder / 'images'}. Received: none")
        self.size = size
        self.pairs = [(image, mask_path(folder, image)) for image in images]
        missing = [str(mask) for _, mask in self.pairs if not mask.is_file()]
        if missing:
            raise ValueError(
                f"Expected a mask for each of the {len(images)} images in "
                f"{folder / 'images'}. Received: no {first_few(missing)}"
            )
        largest = max(self._check(*pair, names) for pair in self.pairs)
        self.names = names or tuple(map(str, range(largest + 1)))

    def _check(self, image, mask, names):
        """Return the largest class of a mask."""
        classes = read_mask(mask)
        size = dense.image_size(image)
        if classes.shape != size:
            raise ValueError(
                f"Expected a mask of the size of its image, {size[1]} x {size[0]}. "
                f"Received: {classes.shape[1]} x {classes.shape[0]}, {mask}"
            )
        largest = max(set(np.unique(classes).tolist()) - {IGNORED}, default=0)
        if names and largest >= len(names):
            raise ValueError(
                f"Expected classes from 0 to {len(names) - 1}, or {IGNORED} to ignore "
                f"a pixel. Received: {largest} in {mask}"
            )
        return largest

    def __len__(self):
        return len(self.pairs)

    def __getitem__(self, index):
        image, mask = self.pairs[index]
        resized = Image.fromarray(read_mask(mask)).resize(
            self.size[::-1], Image.Resampling.NEAREST
        )
        return dense.read_image(image, self.size), np.asarray(resized)


def mask_path(folder, image):
    """Return where the mask of an image belongs."""
    return (
        folder
        / "masks"
        / (folder / image).relative_to(folder / "images").with_suffix(".png")
    )


def read_mask(path):
    """Return the classes of a mask, uint8 (H, W)."""
    try:
        with Image.open(path) as mask:
            if mask.mode in ("L", "P"):
                return np.asarray(mask)
            received = f"a picture of mode {mask.mode}"
    except OSError as error:
        received = str(error)
    raise ValueError(
        "Expected a mask of 8 bits, grey or with a palette. "
        f"Received: {received}, {path}"
    )


def open_data(options):
    """Return the training and the validation pairs of the command line."""
    if options.data is None:
        return [Scenes(scenes) for scenes in dense.digits(options)]
    folders = [find_split(options.data, split) for split in ("train", "validation")]
    size = tuple(options.image_size)
    listed = options.data / "classes.txt"
    names = None
    if listed.is_file():
        names = tuple(listed.read_text(encoding="utf-8").split("\n"))
        names = tuple(name.strip() for name in names if name.strip())
    train = Folder(folders[0], size, names)
    return train, Folder(folders[1], size, train.names)


def build(options, classes):
    """Return the segmenter. Its outputs are logits (B, H, W, classes)."""
    hub = require("keras_hub.models", "dense", "DeepLabV3")
    side = min(options.image_size) // 16
    network = hub.DeepLabV3Backbone(
        dense.backbone(options, ("P2", "P4")),
        spatial_pyramid_pooling_key="P4",
        low_level_feature_key="P2",
        upsampling_size=4,
        dilation_rates=[max(1, round(rate * side / 32)) for rate in RATES],
        image_shape=(*options.image_size, 3),
    )
    segmenter = hub.DeepLabV3ImageSegmenter(network, classes)
    dense.set_norm_momentum(segmenter)
    return segmenter


def train(segmenter, options, pairs):
    segmenter.compile(
        dense.optimizer(options, len(pairs)),
        keras.losses.SparseCategoricalCrossentropy(
            from_logits=True, ignore_class=IGNORED
        ),
        metrics=[],
    )
    segmenter.fit(
        dense.batches(pairs, options.batch_size, options.seed),
        epochs=options.epochs,
        shuffle=False,  # The batches are.
        verbose=2,
    )


def evaluate(segmenter, options, pairs):
    """Print the IoU of each class, and return the mIoU."""
    names = pairs.names
    metric = keras.metrics.MeanIoU(
        len(names), ignore_class=IGNORED, sparse_y_pred=False
    )
    batches = dense.batches(pairs, options.batch_size)
    for images, masks in batches.as_numpy_iterator():
        metric.update_state(masks, segmenter.predict_on_batch(images))
    mean = float(metric.result())
    # Rows are the truth, columns the prediction.
    counts = keras.ops.convert_to_numpy(metric.total_cm)
    truth, right = counts.sum(1), np.diag(counts)
    either = truth + counts.sum(0) - right
    rows = [
        (name, float(100 * right[i] / either[i]) if either[i] else None)
        for i, name in enumerate(names)
    ]
    print(render(("class", "IoU %"), rows))
    most = int(truth.argmax())
    constant = truth[most] / truth.sum() / np.count_nonzero(truth)
    print(
        f"mIoU {mean:.2%} on {len(pairs)} validation images "
        f"(always {names[most]!r}: {constant:.2%})"
    )
    return mean


def draw(pairs, logits, title, path):
    """Write a picture of the first images with the true and the predicted classes."""
    palette = dense.colours(len(pairs.names) - 1)
    rows, present = [], set()
    for index, found in enumerate(logits[:SHOWN].argmax(-1)):
        image, mask = pairs[index]
        columns = [image, *(overlay(image, m, palette) for m in (mask, found))]
        rows.append([lambda axes, c=c: axes.imshow(c) for c in columns])
        present |= set(np.unique(mask).tolist()) | set(np.unique(found).tolist())
    legend = [
        (name, palette[index])
        for index, name in enumerate(pairs.names[1:])
        if index + 1 in present
    ]
    dense.draw(rows, ("image", "truth", title), path, legend)


def overlay(image, mask, palette):
    """Return a pale image with the classes from 1 on in colour, RGB from 0 to 1."""
    grey = image.mean(-1, keepdims=True) / 255 * 0.5 + 0.5
    result = np.repeat(grey, 3, axis=-1)
    for index, colour in enumerate(palette):
        result[mask == index + 1] = colour
    return result


def main():
    parser = dense.parser(
        "Train DeepLabV3+ on a CvT backbone.",
        output="segmented",
        data="folder with train/ and validation/, each with images/ and masks/ "
        "(default: scenes of digits)",
        epochs=8,
        batch_size=16,
        learning_rate=1e-3,
    )
    options = parser.parse_args()
    dense.check(options, multiple=16)
    pairs, held_out = open_data(options)
    print(
        f"{len(pairs)} training and {len(held_out)} validation images of "
        f"{len(pairs.names)} classes"
    )
    keras.utils.set_random_seed(options.seed)
    segmenter = build(options, len(pairs.names))
    train(segmenter, options, pairs)
    mean = evaluate(segmenter, options, held_out)
    images = dense.first_images(held_out)
    expected = dense.outputs_of(segmenter, images)
    picture = options.output / "segmenter.png"
    title = f"prediction (mIoU {mean:.1%})"
    draw(held_out, expected[dense.OUTPUT], title, picture)
    print(f"Picture: {picture}")
    dense.save_and_compare(segmenter, options.output / "segmenter", images, expected)


if __name__ == "__main__":
    common.run(main)
