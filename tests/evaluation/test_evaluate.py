"""`evaluate` gives the accuracy of the model on the images of a folder or data set."""

import dataclasses
import json

import keras
import numpy as np
import pytest
from evaluated import NAMES, accuracies, network, scores_of, write_images, write_real
from PIL import Image

import keras_cvt
from keras_cvt import deploy, zoo
from keras_cvt.cli import arguments
from keras_cvt.evaluation import BENCHMARKS, benchmarks, evaluate, images
from keras_cvt.inference import classifier_of
from keras_cvt.preprocessing import EvalTransform

LABELS = np.repeat(np.arange(8), 6)


@pytest.fixture(scope="module")
def model():
    return network()


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """The folder of 8 classes, and the paths of its 48 images in order."""
    root = tmp_path_factory.mktemp("photos") / "animals"
    return root, write_images(root)


@pytest.fixture(scope="module")
def result(model, photos):
    return evaluate(model, photos[0], batch_size=5)


def test_the_accuracy_is_that_of_keras_and_scikit_learn(model, photos, result):
    from sklearn.metrics import accuracy_score, confusion_matrix

    root, paths = photos
    scores = scores_of(model, paths)
    best = scores.argmax(axis=1)
    assert 2 < len(set(best)) and 0 < (best == LABELS).mean() < 1
    compiled = network()
    compiled.compile(loss="categorical_crossentropy", metrics=["accuracy"])
    inputs = keras_cvt.preprocess_input(paths, model)
    keras_top1 = compiled.evaluate(inputs, np.eye(8)[LABELS], verbose=0)[1]
    assert result.top1 == pytest.approx(100 * keras_top1, abs=1e-4)
    assert result.top1 == pytest.approx(100 * accuracy_score(LABELS, best))
    assert result.top5 == pytest.approx(accuracies(scores, LABELS)[1])
    np.testing.assert_array_equal(
        result.metrics.confusion_matrix(), confusion_matrix(LABELS, best)
    )
    confidence = scores.max(axis=1)
    assert result.metrics.confidence == pytest.approx(100 * confidence.mean(), 1e-5)
    assert (result.count, result.left_out) == (48, 0)
    assert result.images_per_second > 0


@pytest.mark.any_backend
@pytest.mark.parametrize("activation", [None, "sigmoid"])
@pytest.mark.parametrize("batch_size", [1, 48, 64])
def test_logits_sigmoids_and_batches_of_any_size(photos, activation, batch_size):
    root, paths = photos
    own = network(activation=activation)
    found = evaluate(own, root, batch_size=batch_size)
    scores = scores_of(own, paths)
    assert (found.top1, found.top5) == pytest.approx(accuracies(scores, LABELS))
    if activation is None:
        scores = np.asarray(keras.ops.softmax(scores))
    else:
        assert scores.max() <= 1
    confidence = 100 * scores.max(axis=1).mean()
    assert found.metrics.confidence == pytest.approx(confidence, 1e-4)


@pytest.mark.parametrize("name", ["m.tflite", "m.onnx", "m.xml", "m"])
def test_an_exported_file_gives_the_models_result(
    model, photos, result, tmp_path, name
):
    deploy.export(model, tmp_path / name)
    found = evaluate(tmp_path / name, photos[0], batch_size=7, threads=1)
    assert found.metrics.per_class() == result.metrics.per_class()
    assert found.metrics.mistakes() == result.metrics.mistakes()
    assert found.ece == pytest.approx(result.ece, abs=1e-3)
    assert found.transform == model.eval_transform
    assert str(found).startswith(f"cvt ({found.origin['format']}) on animals: 48")


def test_a_keras_file_and_a_classifier_give_the_models_result(
    model, photos, result, tmp_path
):
    model.save(tmp_path / "own.keras")
    for same in (tmp_path / "own.keras", classifier_of(model)):
        found = evaluate(same, photos[0])
        assert found.metrics.per_class() == result.metrics.per_class()


def test_some_of_the_classes_are_evaluated_among_all(model, photos, tmp_path):
    paths = [path for path in photos[1] if path.parent.name in ("bee", "hen")]
    for path in paths:
        (tmp_path / path.parent.name).mkdir(exist_ok=True)
        (tmp_path / path.parent.name / path.name).symlink_to(path)
    found = evaluate(model, tmp_path)
    scores = scores_of(model, paths)
    labels = [1] * 6 + [7] * 6
    assert found.count == 12
    assert (found.top1, found.top5) == pytest.approx(accuracies(scores, labels))
    seen = {row.name: row.images for row in found.classes}
    assert {name for name, count in seen.items() if count} == {"bee", "hen"}
    # Other classes are answers.
    best = {NAMES[i] for i in scores.argmax(axis=1)}
    assert set(seen) == best | {"bee", "hen"}
    assert {pair.predicted for pair in found.confusions} - {"bee", "hen"}


@pytest.mark.parametrize(
    ("folder", "split", "expected"),
    [
        ("set/validation", None, ("set", "validation", "validation")),
        ("set/test", None, ("set", "test", "test")),
        ("set/train", "train", ("set", "train", "train")),
        ("plain", None, ("plain", "", "")),
    ],
)
def test_folders_of_splits_and_of_classes(model, tmp_path, folder, split, expected):
    write_images(tmp_path / folder, NAMES[:2], 2)
    root = tmp_path / folder.split("/")[0]
    found = evaluate(model, root, split)
    assert (found.dataset, found.split) == expected[:2]
    # The folder of the split itself.
    direct = evaluate(model, tmp_path / folder)
    assert (direct.dataset, direct.split) == (expected[0], expected[2])
    assert direct.count == found.count == 4


def test_training_images_are_not_taken_for_the_validation(model, tmp_path):
    write_images(tmp_path / "train", NAMES[:2], 1)
    with pytest.raises(ValueError, match="'validation' or 'val' or 'valid' or 'test'"):
        evaluate(model, tmp_path)


def test_what_cannot_be_read_is_left_out_and_told(model, photos, tmp_path):
    paths = write_images(tmp_path, NAMES, 2)
    paths[3].write_bytes(paths[3].read_bytes()[:300])
    paths[9].write_bytes(b"no image")
    calls = []
    found = evaluate(
        model, tmp_path, batch_size=4, progress=lambda *call: calls.append(call)
    )
    good = [path for i, path in enumerate(paths) if i not in (3, 9)]
    labels = [i // 2 for i in range(16) if i not in (3, 9)]
    assert (found.count, found.unreadable, found.left_out) == (14, 2, 2)
    assert found.top1 == pytest.approx(accuracies(scores_of(model, good), labels)[0])
    assert "14 images, 2 left out (2 cannot be read)" in str(found)
    assert [done for done, _, _ in calls] == [0, 4, 8, 12, 16]
    told = [name for _, _, failed in calls for name, _ in failed]
    assert told == [str(paths[3]), str(paths[9])]


def test_without_a_readable_image_there_is_no_result(model, tmp_path):
    for path in write_images(tmp_path, NAMES[:2], 1):
        path.write_bytes(b"no image")
    with pytest.raises(ValueError, match="Received: 2 images of .*, 2 that cannot"):
        evaluate(model, tmp_path)


# Reassessed labels


def test_any_reassessed_label_is_right_and_images_without_one_do_not_count(
    model, photos, tmp_path
):
    root, paths = photos
    ranking = np.argsort(-scores_of(model, paths))
    # Two right labels for 12 images, none for one, one for the others.
    right = [[int(r[0]), int(r[7])] for r in ranking[:12]] + [[]]
    right += [[int(r[4])] for r in ranking[13:30]]
    right += [[int(r[7])] for r in ranking[30:]]
    found = evaluate(model, root, real_labels=write_real(tmp_path / "real.json", right))
    assert (found.count, found.unlabelled, found.unreadable) == (47, 1, 0)
    assert found.top1 == pytest.approx(100 * 12 / 47)
    assert found.top5 == pytest.approx(100 * 29 / 47)
    assert (found.benchmark, found.dataset) == ("imagenet_real", "ImageNet ReaL")
    # The rows are still those of the folders.
    assert [row.images for row in found.classes] == [6, 6, 5, 6, 6, 6, 6, 6]
    assert found.published_top1 is None


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"a": 1}, "list of lists"),
        ([[0], 1], "list of lists"),
        ([[0]] * 47, "00000047. Received: .*ILSVRC2012_val_00000048"),
        ([[8]] * 48, "model's 8 classes .*Received: 8"),
    ],
)
def test_other_reassessed_labels_are_refused(model, photos, tmp_path, labels, message):
    path = write_real(tmp_path / "real.json", labels)
    with pytest.raises(ValueError, match=message):
        evaluate(model, photos[0], real_labels=path)


@pytest.mark.parametrize("benchmark", ["imagenet", "imagenet_v2"])
def test_reassessed_labels_are_of_their_own_benchmark(
    model, photos, tmp_path, benchmark
):
    path = write_real(tmp_path / "real.json", [[0]])
    with pytest.raises(ValueError, match=f"imagenet_real.*Received.*'{benchmark}'"):
        evaluate(model, photos[0], real_labels=path, benchmark=benchmark)
    with pytest.raises(ValueError, match="real_labels=None"):
        evaluate(model, photos[0], benchmark="imagenet_real")


def test_reassessed_labels_are_numbers_of_imagenets_classes(photos, tmp_path):
    path = write_real(tmp_path / "real.json", [[0]])
    names = [*NAMES, *(f"other {i}" for i in range(1000 - len(NAMES)))]
    with pytest.raises(ValueError, match="classes are ImageNet's.*begin with"):
        evaluate(
            network(None, classes=1000),
            photos[0],
            real_labels=path,
            class_names=names,
        )


# Published accuracies


def published(monkeypatch, model, **changes):
    """Let the model be published weights, with an accuracy on these images."""
    record = dataclasses.replace(
        zoo.WEIGHTS[0], eval_transform=model.eval_transform, **changes
    )
    monkeypatch.setattr(zoo, "WEIGHTS", (record, *zoo.WEIGHTS[1:]))
    own = network()
    own.source_weights = record.name
    return own


def test_the_published_accuracy_stands_beside_the_result(
    monkeypatch, model, photos, result
):
    own = published(monkeypatch, model, top1=result.top1 + 0.09, top5=50.0)
    found = evaluate(own, photos[0], benchmark="imagenet")
    assert found.difference == pytest.approx(-0.09) and found.agrees
    assert (found.dataset, found.dataset_id) == ("ImageNet-1k", "imagenet-1k")
    assert "-0.09 points, they agree within 0.1." in str(found)
    assert "Published top-5 50.00 %" in str(found)

    own = published(monkeypatch, model, imagenet_v2_top1=result.top1 - 0.2)
    found = evaluate(own, photos[0], benchmark="imagenet_v2")
    assert not found.agrees
    assert "+0.20 points, they DO NOT agree within 0.1." in str(found)
    assert found.published_top5 == zoo.WEIGHTS[0].imagenet_v2_top5


def test_an_exported_file_of_published_weights_is_compared_too(
    monkeypatch, model, photos, result, tmp_path
):
    own = published(monkeypatch, model, top1=result.top1)
    deploy.export(own, tmp_path / "m.onnx")
    assert evaluate(tmp_path / "m.onnx", photos[0], benchmark="imagenet").agrees


def test_other_images_and_other_weights_have_no_published_accuracy(
    monkeypatch, model, photos
):
    own = published(monkeypatch, model)
    assert evaluate(own, photos[0]).agrees is None
    own.source_weights = f"fine-tuned from {own.source_weights}"
    assert evaluate(own, photos[0], benchmark="imagenet").agrees is None
    own = published(monkeypatch, model)
    own.eval_transform = EvalTransform((16, 16), None)
    found = evaluate(own, photos[0], benchmark="imagenet")
    assert found.published_top1 is None
    assert "There is no published figure" in str(found)


def test_a_given_accuracy_is_compared_with(model, photos, result):
    found = evaluate(model, photos[0], published=round(result.top1, 2) + 0.1)
    assert found.agrees and found.published_top5 is None
    assert not evaluate(model, photos[0], published=result.top1 + 0.11).agrees
    with pytest.raises(ValueError, match="a percentage. Received: published=814"):
        evaluate(model, photos[0], published=814)


@pytest.mark.parametrize(
    ("name", "split", "expected"),
    [
        ("imagenet2012/5.1.0", "validation", "imagenet"),
        ("imagenet_v2/matched-frequency/3.0.0", "test", "imagenet_v2"),
        ("imagenet_v2/threshold-0.7/3.0.0", "test", None),
        ("imagenet2012/5.1.0", "train", None),
        ("imagenet2012/5.1.0", "validation[:10%]", None),
        ("imagenet2012_subset/1pct/5.0.0", "validation", None),
        ("cifar10/3.0.2", "test", None),
    ],
)
def test_data_sets_with_published_accuracies_are_known_by_name(name, split, expected):
    assert benchmarks.find_benchmark(name, split) == expected


def test_the_command_line_has_the_same_benchmarks():
    assert tuple(BENCHMARKS) == arguments.BENCHMARKS


def test_weights_of_the_hub_are_known_as_published():
    own = network(None, classes=8)
    record = zoo.WEIGHTS[0]
    own.eval_transform = record.eval_transform
    own.source_weights = record.name
    assert benchmarks.find_weights(classifier_of(own)) == record
    unknown = ("imagenet", "run/best.keras", "hf://me/cvt-13", None)
    for source in (*unknown, f"hf://{record.repo}@main"):
        own.source_weights = source
        assert benchmarks.find_weights(classifier_of(own)) is None


# The result


def test_the_result_is_printed_as_a_table_of_the_worst_classes(result):
    text = result.describe(3)
    assert f"Top-1 {result.top1:.2f} %, top-5 {result.top5:.2f} %" in text
    assert f"(ECE, 15 bins) {result.ece:.2f} %" in text
    assert "3 worst classes, the worst first:" in text
    assert "All classes, the worst first:" in str(result)
    worst = result.worst_classes(3)
    assert [row.top1 for row in worst] == sorted(row.top1 for row in result.classes)[:3]
    last = text.splitlines()[-3:]
    for row, line in zip(worst, last, strict=True):
        assert line.startswith(row.name) and f"{row.top1:.2f}" in line
        pairs = [pair for pair in result.confusions if pair.label == row.name]
        assert f"{pairs[0].predicted} {pairs[0].images}" in line


def test_json_holds_every_class_and_comes_back(result):
    values = json.loads(json.dumps(result.to_dict()))
    assert values["top1"] == result.top1 and values["ece"] == result.ece
    rows = {row["name"]: row for row in values["classes"]}
    assert set(rows) == set(NAMES)
    assert rows["cat"]["images"] == 6
    assert sum(pair["images"] for pair in values["confusions"]) == round(
        48 * (1 - result.top1 / 100)
    )
    assert values["transform"] == {"image_size": [16, 16], "crop_ratio": 0.8}
    assert len(values["calibration"]) == 15
    assert len(values["origin"]["weights_sha256"]) == 64


def test_a_plot_is_a_picture_of_the_result(result, tmp_path):
    result.plot(tmp_path / "new" / "plot.png")
    with Image.open(tmp_path / "new" / "plot.png") as picture:
        assert picture.format == "PNG" and picture.width > 1000
        assert len(picture.convert("RGB").getcolors(10**6)) > 50


def test_each_class_has_its_bar_even_if_names_begin_alike(result):
    from matplotlib.figure import Figure

    names = [f"a name of more than thirty letters, number {i}" for i in range(8)]
    axes = Figure().subplots()
    dataclasses.replace(result, class_names=tuple(names))._draw_classes(axes)
    assert len({bar.get_y() for bar in axes.patches}) == 8


def test_a_plot_of_a_thousand_classes_shows_a_curve(photos, tmp_path):
    names = [*NAMES, *(f"class of a long name, number {i}" for i in range(992))]
    found = evaluate(network(names), photos[0])
    found.plot(tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 10_000


def test_classes_of_one_name_are_told_apart_by_wordnet_id(photos):
    found = evaluate(classifier_of(network(None, classes=1000)), write_cranes(photos))
    assert [row.name for row in found.classes if row.images] == [
        "crane (n02012849)",
        "crane (n03126707)",
    ]


def write_cranes(photos):
    root = photos[0].parent / "cranes"
    write_images(root, ("n02012849", "n03126707"), 1)
    return root


# Refusals


def test_one_output_is_refused(photos):
    with pytest.raises(
        ValueError, match="at least two classes. Received: .*one output"
    ):
        evaluate(network(None, classes=1, activation="sigmoid"), photos[0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size=0"),
        ({"bins": 0}, "bins=0"),
        ({"benchmark": "cifar"}, "'imagenet', 'imagenet_v2', 'imagenet_real'"),
        ({"split": "val2"}, "Expected a folder 'val2'"),
        ({"class_names": ["a"]}, "Expected 8 class names"),
    ],
)
def test_wrong_arguments_are_refused(model, photos, arguments, message):
    with pytest.raises(ValueError, match=message):
        evaluate(model, photos[0], **arguments)


def test_a_classifier_has_its_names_already(model, photos):
    with pytest.raises(ValueError, match="pass them to `classifier_of`"):
        evaluate(classifier_of(model), photos[0], class_names=NAMES)


def test_a_source_that_does_not_exist_is_refused(model, photos):
    with pytest.raises(FileNotFoundError, match="neither a folder nor a data set"):
        evaluate(model, photos[0] / "missing")
    with pytest.raises(ValueError, match="Expected a folder, not a file"):
        evaluate(model, photos[1][0])


def test_images_are_read_while_they_are_needed(model, photos, monkeypatch):
    """At most three batches are in memory, however many images there are."""
    opened = images.open_images(photos[0], None, None, False)
    taken = 0

    def counting():
        nonlocal taken
        for item in opened.read():
            taken += 1
            yield item

    counted = dataclasses.replace(opened, read=counting)
    monkeypatch.setattr(
        "keras_cvt.evaluation.evaluating.open_images", lambda *_, **__: counted
    )
    ahead = []
    evaluate(
        model,
        photos[0],
        batch_size=4,
        progress=lambda done, *_: ahead.append(taken - done),
    )
    assert max(ahead) <= 3 * 4 and taken == 48
