"""Images with boxes: COCO's JSON, or scenes of handwritten digits."""

import json
import operator

import dense
import numpy as np
from digit_scenes import MOST_DIGITS, NAMES

# Pixels by which a box may reach beyond its image.
ROUNDING = 1.0


class Detections:
    """Images with their boxes and labels, resized and padded for training.

    Args:
        names: The names of the classes.
        size: (height, width) of the images.
        most: Largest number of boxes in an image.
    """

    def __init__(self, names, size, most):
        self.names = names
        self.size = size
        self.most = max(1, most)

    def __getitem__(self, index):
        image, boxes, labels = self.example(index)
        target = {
            "boxes": np.full((self.most, 4), -1, "float32"),
            "labels": np.full(self.most, -1, "int32"),
        }
        target["boxes"][: len(boxes)] = boxes
        target["labels"][: len(labels)] = labels
        return image, target


class Scenes(Detections):
    """Digit scenes."""

    def __init__(self, scenes):
        super().__init__(NAMES, scenes.size, MOST_DIGITS)
        self.scenes = scenes

    def __len__(self):
        return len(self.scenes)

    def example(self, index):
        image, _, boxes, labels = self.scenes[index]
        return image, boxes, labels

    def original_size(self, index):
        return self.size

    def crowds(self, index):
        return []


class Coco(Detections):
    """Images of a JSON file in COCO's format, which is checked first.

    Boxes without an area are left out. Boxes of crowds are not trained on, and what is
    found in them does not count in the evaluation, as in COCO's.

    Args:
        folder: The folder with images/ and the JSON file.
        split: The JSON file's name without its suffix.
        size: (height, width) to which images are resized.
        names: The classes' names that are expected, or None for the file's own.

    Raises:
        ValueError: If the file is not in COCO's format, a category or an image of a
            box is unknown, or a box is not inside its image.
    """

    def __init__(self, folder, split, size, names=None):
        path = folder / f"{split}.json"
        content = read_json(path)
        categories = sorted(
            records(content, "categories", path), key=operator.itemgetter("id")
        )
        own = tuple(record["name"] for record in categories)
        if names is not None and own != names:
            raise ValueError(
                f"Expected the categories of the training images, {', '.join(names)}. "
                f"Received: {', '.join(own)} in {path}"
            )
        label_of = {record["id"]: label for label, record in enumerate(categories)}
        images = records(content, "images", path)
        self.files = [folder / "images" / record["file_name"] for record in images]
        self.sizes = [dense.image_size(file) for file in self.files]
        index_of = {record["id"]: index for index, record in enumerate(images)}
        self.boxes = [[] for _ in images]
        self.labels = [[] for _ in images]
        self.crowd_boxes = [[] for _ in images]
        for record in records(content, "annotations", path, empty=True):
            index = index_of.get(record["image_id"])
            label = label_of.get(record["category_id"])
            if index is None or label is None:
                kind, known = "image_id", index_of
                if index is not None:
                    kind, known = "category_id", label_of
                raise ValueError(
                    f"Expected an annotation's {kind} to be one of the {len(known)} in "
                    f"{path}. Received: {record[kind]!r}"
                )
            box = self._box(record["bbox"], index)
            if box is not None and record.get("iscrowd"):
                self.crowd_boxes[index].append((box, label))
            elif box is not None:
                self.boxes[index].append(box)
                self.labels[index].append(label)
        if not any(self.boxes):
            raise ValueError(
                f"Expected boxes that are not of crowds. Received: none in {path}"
            )
        super().__init__(own, size, max(map(len, self.boxes)))

    def _box(self, bbox, index):
        """Return a box as its edges, or None if it has no area."""
        height, width = self.sizes[index]
        limit = np.array((width, height, width, height))
        edges = np.array(bbox, "float64")
        valid = edges.shape == (4,)
        if valid:
            edges[2:] += edges[:2]
            valid = np.all((edges >= -ROUNDING) & (edges <= limit + ROUNDING))
        if not valid:
            raise ValueError(
                f"Expected boxes [left, top, width, height] inside of the image, "
                f"{width} x {height}. Received: {bbox} in {self.files[index]}"
            )
        edges = np.clip(edges, 0, limit)
        return edges if edges[2] > edges[0] and edges[3] > edges[1] else None

    def __len__(self):
        return len(self.files)

    def example(self, index):
        height, width = np.divide(self.size, self.sizes[index])
        boxes = np.array(self.boxes[index], "float32").reshape(-1, 4)
        boxes *= np.array((width, height, width, height), "float32")
        image = dense.read_image(self.files[index], self.size)
        return image, boxes, self.labels[index]

    def original_size(self, index):
        return self.sizes[index]

    def crowds(self, index):
        return self.crowd_boxes[index]


def read_json(path):
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(
            f"Expected train.json, validation.json and images/ in {path.parent}. "
            f"Received: no {path.name}"
        ) from None
    except ValueError as error:
        raise ValueError(f"Expected JSON. Received: {error} in {path}") from None


FIELDS = {
    "categories": ("id", "name"),
    "images": ("id", "file_name"),
    "annotations": ("image_id", "category_id", "bbox"),
}


def records(content, key, path, empty=False):
    """Return one of the lists of COCO's format.

    Raises:
        ValueError: If it is missing or empty, or if an entry lacks a field.
    """
    found = content.get(key) if isinstance(content, dict) else None
    if not isinstance(found, list) or not (found or empty):
        raise ValueError(
            f"Expected COCO's format, with a list {key!r} in {path}. Received: "
            f"{'an empty list' if found == [] else type(found).__name__}"
        )
    for record in found:
        missing = [name for name in FIELDS[key] if name not in record]
        if missing:
            raise ValueError(
                f"Expected {', '.join(FIELDS[key])} in each of {key!r} in {path}. "
                f"Received: {record} without {', '.join(missing)}"
            )
    return found


def open_data(options):
    """Return the training and the validation images of the command line."""
    if options.data is None:
        return [Scenes(scenes) for scenes in dense.digits(options)]
    size = tuple(options.image_size)
    train = Coco(options.data, "train", size)
    return train, Coco(options.data, "validation", size, train.names)
