"""Train an object detector, RetinaNet of keras-hub on a CvT backbone.

    python examples/detect.py --output detected
    python examples/detect.py --data FOLDER --model cvt13 --weights imagenet \
        --image-size 512 512 --max-level 7 --anchor-size 4 --batch-size 8 \
        --learning-rate 1e-4

Without --data the pictures are scenes of handwritten digits; see `digit_scenes.py`.
FOLDER holds train.json and validation.json in COCO's format and the files that they
name in images/. Images are resized to --image-size, boxes with them.

CvT's maps have strides 4, 8 and 16: the levels P2, P3 and P4. RetinaNet starts from P3
and needs P5, which a fourth stage of CvT with fresh weights adds here. `--max-level`
above 5 adds P6 and P7, which RetinaNet's feature pyramid computes from its P5
(`use_p5=False`).

The program prints COCO's mean average precision (mAP), computed by pycocotools at the
original sizes, for IoU 0.5 and 0.5:0.95 and for each class. --output gets
`detector.keras`, which is loaded again and compared, `detector.tflite` (the network
without the decoding of boxes), which LiteRT runs and which is compared too, and
`detector.png`. If one of them computes something else, the program ends with status 1.
"""

import contextlib
import dataclasses
import io
import math

import dense
import keras
import numpy as np
import options as common
from detection_data import open_data

import keras_cvt
from keras_cvt._utils.optional import require
from keras_cvt._utils.tables import render

FORMAT = "xyxy"
SHOWN = 4
# Detections with a lower score are neither measured nor drawn.
MEASURED, DRAWN = 0.05, 0.5
# Probability of an object at first, as in RetinaNet's paper.
PRIOR = 0.01


def with_p5(backbone):
    """Return a backbone with a fourth stage, one block of stride 2 on the last map.

    It is a `CvTModel` too, whose `pyramid_outputs` have the level P5. A backbone that
    has it already is returned as it is.
    """
    if "P5" in backbone.pyramid_outputs:
        return backbone
    last = backbone.stages[-1].config
    stage = dataclasses.replace(
        last,
        depth=1,
        patch_size=3,
        patch_stride=2,
        patch_padding=1,
        cls_token=False,
    )
    config = backbone.cvt_config
    layer = keras_cvt.layers.ConvTransformerStage(
        **vars(stage),
        activation=config.activation,
        init=config.init,
        final_norm=config.final_norm,
        name=f"stage{len(backbone.stages)}",
    )
    return keras_cvt.CvTModel(
        backbone.input, layer(backbone.output), name=backbone.name
    )


def build(options, classes):
    """Return the detector."""
    models = require("keras_hub.models", "dense", "RetinaNet")
    layers = require("keras_hub.layers", "dense", "RetinaNet")
    network = models.RetinaNetBackbone(
        with_p5(dense.backbone(options, ("P3", "P4"))),
        min_level=3,
        max_level=options.max_level,
        use_p5=False,
        image_shape=(*options.image_size, 3),
    )
    detector = models.RetinaNetObjectDetector(
        network,
        classes,
        bounding_box_format=FORMAT,
        anchor_generator=layers.AnchorGenerator(
            FORMAT,
            min_level=3,
            max_level=options.max_level,
            num_scales=3,
            aspect_ratios=[0.5, 1.0, 2.0],
            anchor_size=options.anchor_size,
        ),
        use_prediction_head_norm=True,
        pre_logits_num_conv_layers=options.head_layers,
        prediction_decoder=layers.NonMaxSuppression(
            FORMAT, from_logits=True, confidence_threshold=MEASURED
        ),
    )
    set_first_outputs(detector)
    return detector


def set_first_outputs(detector):
    """Let the heads start as in RetinaNet's paper, section 4.1.

    keras-hub 0.32 gives the bias of the prior to the head for the boxes, which then
    starts from boxes of a hundredth of the anchors' size.
    """
    prior = -math.log((1 - PRIOR) / PRIOR)
    small = keras.initializers.RandomNormal(stddev=0.01)
    for head, bias in ((detector.box_head, 0), (detector.classification_head, prior)):
        last = head.prediction_layer
        last.kernel.assign(small(last.kernel.shape))
        last.bias.assign(keras.ops.full(last.bias.shape, bias))


def train(detector, options, images):
    detector.compile(
        dense.optimizer(options, len(images)),
        # As in torchvision. The default, Huber's, hardly sees small deviations.
        box_loss=keras.losses.MeanAbsoluteError(reduction="sum"),
    )
    detector.fit(
        dense.batches(images, options.batch_size, options.seed),
        epochs=options.epochs,
        shuffle=False,  # The batches are.
        verbose=2,
    )


def detect(detector, images, batch_size):
    """Return the boxes, scores and labels of each image, the best first.

    Args:
        detector: The detector.
        images: An array (N, H, W, 3).
        batch_size: Number of images per step. keras-hub 0.32 decodes boxes for one
            batch size only, so that the last batch is filled up.
    """
    filled = np.arange(-(-len(images) // batch_size) * batch_size) % len(images)
    found = detector.predict(images[filled], batch_size, verbose=0)
    return [
        (found["boxes"][i, :n], found["confidence"][i, :n], found["labels"][i, :n])
        for i, n in enumerate(found["num_detections"][: len(images)])
    ]


def evaluate(detector, options, images):
    """Print COCO's mean average precision, and return it for 0.5 and 0.5:0.95."""
    truth, found, detections = [], [], []
    batches = dense.batches(images, options.batch_size)
    for batch, _ in batches.as_numpy_iterator():
        detections += detect(detector, batch, options.batch_size)
    for index, (boxes, scores, labels) in enumerate(detections):
        height, width = np.divide(images.original_size(index), images.size)
        scale = (width, height, width, height)
        _, true_boxes, true_labels = images.example(index)
        for box, label in zip(true_boxes * scale, true_labels, strict=True):
            truth.append(record_of(index, box, label, id=len(truth) + 1))
        for box, label in images.crowds(index):
            truth.append(record_of(index, box, label, id=len(truth) + 1, iscrowd=1))
        for box, score, label in zip(boxes * scale, scores, labels, strict=True):
            found.append(record_of(index, box, label, score=float(score)))
    precision = average_precision(truth, found, len(images), images.names)
    rows = [
        (name, *(None if np.isnan(p) else float(100 * p) for p in each))
        for name, each in zip(images.names, precision, strict=True)
    ]
    print(render(("class", "AP50 %", "AP %"), rows))
    half, mean = np.nanmean(precision, axis=0)
    print(
        f"mAP {half:.2%} at IoU 0.5 and {mean:.2%} at IoU 0.5:0.95 on {len(images)} "
        "validation images"
    )
    return half


def record_of(index, box, label, **others):
    """Return a box as an annotation or a result in COCO's format."""
    left, top, right, bottom = map(float, box)
    return {
        "image_id": index,
        "category_id": int(label),
        "bbox": [left, top, right - left, bottom - top],
        "area": (right - left) * (bottom - top),
        "iscrowd": 0,
        **others,
    }


def average_precision(truth, found, images, names):
    """Return pycocotools' average precision, (classes, 2): IoU 0.5 and 0.5:0.95.

    It is NaN for a class of which there is no box.
    """
    if not found:
        labels = {record["category_id"] for record in truth}
        absent = [label not in labels for label in range(len(names))]
        return np.where(np.array(absent)[:, None], np.nan, np.zeros((len(names), 2)))
    coco = require("pycocotools.coco", "dense", "The mean average precision")
    cocoeval = require("pycocotools.cocoeval", "dense", "The mean average precision")
    with contextlib.redirect_stdout(io.StringIO()):
        expected = coco.COCO()
        expected.dataset = {
            "info": {},
            "images": [{"id": index} for index in range(images)],
            "categories": [
                {"id": label, "name": name} for label, name in enumerate(names)
            ],
            "annotations": truth,
        }
        expected.createIndex()
        evaluation = cocoeval.COCOeval(expected, expected.loadRes(found), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
    # (IoU, recall, class, area, number): all areas, 100 detections. -1 where there is
    # no box.
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    precision = np.where(precision < 0, np.nan, precision).mean(1)
    return np.stack([precision[0], precision.mean(0)], axis=-1)


def draw(images, detections, title, path):
    """Write a picture of the first images with the true and the detected boxes."""
    palette = dense.colours(len(images.names))
    columns = []
    for index, (boxes, scores, labels) in enumerate(detections[:SHOWN]):
        image, true_boxes, true_labels = images.example(index)
        sure = scores >= DRAWN
        for edges, classes, marks in (
            (true_boxes, true_labels, None),
            (boxes[sure], labels[sure], scores[sure]),
        ):
            texts = [images.names[label] for label in classes]
            if marks is not None:
                texts = [f"{t} {m:.0%}" for t, m in zip(texts, marks, strict=True)]
            shown = edges, [palette[label] for label in classes], texts
            columns.append(lambda axes, i=image, s=shown: draw_boxes(axes, i, *s))
    rows = [columns[start : start + 4] for start in range(0, len(columns), 4)]
    dense.draw(rows, ("truth", title) * (len(rows[0]) // 2), path)


def draw_boxes(axes, image, boxes, colours, texts):
    patches = require("matplotlib.patches", "dense", "A picture")
    axes.imshow(image)
    for (left, top, right, bottom), colour, text in zip(
        boxes, colours, texts, strict=True
    ):
        axes.add_patch(
            patches.Rectangle(
                (left, top),
                right - left,
                bottom - top,
                fill=False,
                edgecolor=colour,
                linewidth=2,
            )
        )
        axes.text(
            left,
            top,
            text,
            va="bottom",
            fontsize=9,
            color="white",
            bbox={"facecolor": colour, "edgecolor": "none", "pad": 1},
        )


def main():
    parser = dense.parser(
        "Train RetinaNet on a CvT backbone.",
        output="detected",
        data="folder with train.json, validation.json and images/, in COCO's format "
        "(default: scenes of digits)",
        epochs=8,
        batch_size=8,
        learning_rate=1e-3,
    )
    parser.add_argument(
        "--max-level",
        type=int,
        default=5,
        choices=(5, 6, 7),
        help="coarsest level; 7 in the paper, for larger images (default: %(default)s)",
    )
    parser.add_argument(
        "--anchor-size",
        type=float,
        default=3.0,
        help="size of each level's smallest anchors, in strides of the level; 4 in the "
        "paper, for larger objects (default: %(default)s)",
    )
    parser.add_argument(
        "--head-layers",
        type=int,
        default=2,
        help="convolutions in each head before the last one; 4 in the paper (default: "
        "%(default)s)",
    )
    options = parser.parse_args()
    dense.check(options, multiple=2**options.max_level)
    require("pycocotools", "dense", "The mean average precision")
    images, held_out = open_data(options)
    print(
        f"{len(images)} training and {len(held_out)} validation images of "
        f"{len(images.names)} classes"
    )
    keras.utils.set_random_seed(options.seed)
    detector = build(options, len(images.names))
    train(detector, options, images)
    half = evaluate(detector, options, held_out)
    pixels = dense.first_images(held_out)
    picture = options.output / "detector.png"
    found = detect(detector, pixels, options.batch_size)
    draw(held_out, found, f"detected (mAP50 {half:.1%})", picture)
    print(f"Picture: {picture}")
    expected = dense.outputs_of(detector, pixels)
    path = options.output / "detector"
    dense.save_and_compare(detector, path, pixels, expected, logits="cls_logits")


if __name__ == "__main__":
    common.run(main)
