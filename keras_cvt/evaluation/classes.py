"""The classes of labelled images among those of a classifier."""

import collections
from collections.abc import Sequence

from keras_cvt.data.folders import first_few
from keras_cvt.inference import Classifier


def match_classes(names: Sequence[str], classifier: Classifier) -> list[int]:
    """Return the index in a classifier's scores of each class of a data set.

    - A class is found by its name, and for ImageNet also by its WordNet id. There may
      be fewer classes than the classifier has.
    - The numbers 0 to 999 are the classes of ImageNet in their order, as the folders of
      ImageNet-V2 are named.
    - If a classifier does not know the names of its classes, the data set must have as
      many, in the order of the scores, as they were in training.

    Args:
        names: Names of the classes, such as those of folders.
        classifier: The classifier.

    Raises:
        ValueError: If the classes do not match, or two are one class of the classifier.
    """
    classes = classifier.classes
    is_imagenet = "wnid" in classes[0]
    numbers = [int(n) if n.isascii() and n.isdigit() else -1 for n in names]
    index_of = {each["label"]: index for index, each in enumerate(classes)}
    known = all(name in index_of for name in names)
    if is_imagenet and not known and sorted(numbers) == list(range(len(classes))):
        return numbers
    if not known and not _has_names(classifier) and len(names) == len(classes):
        return list(range(len(classes)))
    # Of "crane" and "maillot" ImageNet has two each.
    counts = collections.Counter(each["label"] for each in classes)
    doubled = [name for name in names if counts[name] > 1]
    if doubled:
        raise ValueError(
            "Expected names that stand for one class of the model each"
            + (", or WordNet ids" if is_imagenet else "")
            + f". Received: {first_few(doubled)}, of which there are several"
        )
    if is_imagenet:
        index_of |= {each["wnid"]: index for index, each in enumerate(classes)}
    unknown = [name for name in names if name not in index_of]
    if unknown:
        raise ValueError(_mismatch(names, unknown, classifier))
    found = [index_of[name] for name in names]
    twice = [i for i, times in collections.Counter(found).items() if times > 1]
    if twice:
        same = [n for n, i in zip(names, found, strict=True) if i == twice[0]]
        raise ValueError(
            "Expected each class once. Received: "
            f"{' and '.join(same)}, which are one class of the model"
        )
    return found


def unique_names(classifier: Classifier) -> tuple[str, ...]:
    """Return a name for each class that no other class has."""
    counts = collections.Counter(each["label"] for each in classifier.classes)
    return tuple(
        each["label"]
        if counts[each["label"]] == 1
        else f"{each['label']} ({each.get('wnid', index)})"
        for index, each in enumerate(classifier.classes)
    )


def _has_names(classifier):
    given = [each["label"] for each in classifier.classes]
    return given != [f"class {index}" for index in range(len(given))]


def _mismatch(names, unknown, classifier):
    count = len(classifier.classes)
    if not _has_names(classifier):
        return (
            f"Expected images of all {count} classes of the model, which does not know "
            f"their names; class names may be given. Received: {len(names)} classes: "
            f"{first_few(names)}"
        )
    own = first_few([each["label"] for each in classifier.classes])
    kinds = " or WordNet ids" if "wnid" in classifier.classes[0] else ""
    return (
        f"Expected classes with names{kinds} of the model's {count} classes: {own}. "
        f"Received: {first_few(unknown)}"
    )
