"""A result goes into the card and verification.json of the model's folder."""

import json
import shutil

import hub_models
import pytest
import yaml
from evaluated import spread, write_images
from hub_client import loopback

from keras_cvt import hub
from keras_cvt.checkpoints import CheckpointError
from keras_cvt.evaluation import evaluate, record
from keras_cvt.hub import card
from keras_cvt.preprocessing import EvalTransform
from keras_cvt.repository import integrity

ABOUT = hub.About(
    description="Tells flowers.",
    evaluations=[
        hub.Evaluation("flowers", "flowers", "accuracy", 12.5, "test", "somebody else"),
        hub.Evaluation("a | b", "ab", "accuracy", 50.0, "test"),
    ],
)


@pytest.fixture(scope="module")
def model():
    model = hub_models.classifier()
    spread(model)
    return model


@pytest.fixture(scope="module")
def written(model, tmp_path_factory):
    """A folder with exported files, and one of images."""
    root = tmp_path_factory.mktemp("written")
    hub.write_artefacts(
        model,
        root / "exports",
        ["onnx", "openvino", "tf_saved_model"],
        class_names=hub_models.LABELS,
    )
    hub.write_folder(
        model,
        root / "page",
        repo_id="me/flowers",
        class_names=hub_models.LABELS,
        artefacts=root / "exports",
        about=ABOUT,
    )
    write_images(root / "flowers" / "test", hub_models.LABELS, 5)
    return root


@pytest.fixture
def page(written, tmp_path):
    shutil.copytree(written / "page", tmp_path / "page")
    return tmp_path / "page"


@pytest.fixture(scope="module")
def result(model, written):
    return evaluate(model, written / "flowers", class_names=hub_models.LABELS)


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def results_of(folder):
    """Return the results that the Hub reads off the card."""
    loaded = hub_card(folder)
    return {
        (each.dataset_type, each.dataset_split, each.metric_name): each.metric_value
        for each in loaded.data.eval_results
    }


def hub_card(folder):
    from huggingface_hub import ModelCard

    return ModelCard((folder / "README.md").read_text(encoding="utf-8"))


def measured(folder):
    return json.loads((folder / "verification.json").read_text())["evaluations"]


def check_sums(folder):
    before = (folder / integrity.SUMS).read_text()
    integrity.write_sums(folder, list(integrity.read_sums(folder / integrity.SUMS)))
    assert (folder / integrity.SUMS).read_text() == before


def test_the_card_and_the_verification_get_the_result(page, result):
    record(result, page)
    rows = [
        line
        for line in (page / "README.md").read_text().splitlines()
        if line.startswith(("| flowers", "| a "))
    ]
    assert rows == [
        "| flowers | test | accuracy | 12.5 | somebody else |",
        r"| a \| b | test | accuracy | 50 | the owner of this repository |",
        f"| flowers | test | accuracy | {result.top1:g} | keras-cvt evaluate |",
    ]
    assert results_of(page) == {
        ("flowers", "test", None): 12.5,
        ("ab", "test", None): 50.0,
        ("flowers", "test", "accuracy (keras-cvt evaluate)"): result.top1,
    }
    assert hub_card(page).data.model_name == "flowers"
    (facts,) = measured(page)
    assert facts["file"] == "model.safetensors"
    assert (facts["dataset"], facts["split"]) == ("flowers", "test")
    assert (facts["top1"], facts["images"]) == (pytest.approx(result.top1), 20)
    assert facts["ece"] == pytest.approx(result.ece, abs=1e-4)
    check_sums(page)


def test_all_else_stays(page, result):
    before = contents(page)
    record(result, page)
    after = contents(page)
    changed = {name for name in after if after[name] != before.get(name)}
    assert changed == {"README.md", "verification.json", integrity.SUMS}
    assert set(after) == set(before)
    old, new = (json.loads(c["verification.json"]) for c in (before, after))
    assert {k: v for k, v in new.items() if k != "evaluations"} == old
    removed = set(before["README.md"].splitlines()) - set(
        after["README.md"].splitlines()
    )
    assert removed == set()


def test_twice_gives_the_same(page, result):
    record(result, page)
    once = contents(page)
    record(result, page)
    assert contents(page) == once


def test_results_of_other_images_are_added_and_new_ones_replace_old_ones(
    page, model, result, written
):
    record(result, page)
    other = evaluate(
        model, written / "flowers", class_names=hub_models.LABELS, dataset="Meadow"
    )
    record(other, page)
    assert [facts["dataset"] for facts in measured(page)] == ["flowers", "Meadow"]
    assert len(results_of(page)) == 4
    # The accuracy of fewer images.
    for path in (written / "flowers" / "test").rglob("*.JPEG"):
        if path.parent.name != "rose":
            target = page.parent / "flowers" / "test" / path.parent.name / path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
    new = evaluate(model, page.parent / "flowers", class_names=hub_models.LABELS)
    assert new.top1 != result.top1
    record(new, page)
    assert {facts["dataset"]: facts["images"] for facts in measured(page)} == {
        "flowers": 15,
        "Meadow": 20,
    }
    values = results_of(page)
    assert len(values) == 4
    key = ("flowers", "test", "accuracy (keras-cvt evaluate)")
    assert values[key] == round(new.top1, 2)
    check_sums(page)


@pytest.mark.parametrize("name", ["model.onnx", "openvino/model.xml", "saved_model"])
def test_an_exported_file_of_the_folder_has_a_result_of_its_own(
    page, result, written, name
):
    record(result, page)
    record(evaluate(page / name, written / "flowers"), page)
    assert [facts["file"] for facts in measured(page)] == ["model.safetensors", name]
    source = f"keras-cvt evaluate, {name}"
    values = results_of(page)
    assert ("flowers", "test", f"accuracy ({source})") in values
    assert ("flowers", "test", "accuracy (keras-cvt evaluate)") in values
    assert f"| {source} |" in (page / "README.md").read_text()
    check_sums(page)


def test_a_card_without_results_is_as_if_it_had_been_written_with_them(
    model, result, tmp_path
):
    hub.write_folder(model, tmp_path / "page", repo_id="me/flowers")
    record(result, tmp_path / "page")
    source = "keras-cvt evaluate"
    row = hub.Evaluation(
        *("flowers", "flowers", "accuracy", round(result.top1, 2), "test", source),
        title=f"accuracy ({source})",
    )
    hub.write_folder(
        model,
        tmp_path / "with",
        repo_id="me/flowers",
        about=hub.About(evaluations=[row]),
    )
    ours, theirs = (
        (tmp_path / name / "README.md").read_text() for name in ("page", "with")
    )
    assert ours.split("---\n")[2:] == theirs.split("---\n")[2:]
    ours, theirs = (yaml.safe_load(text.split("---\n")[1]) for text in (ours, theirs))
    assert ours == theirs


def test_the_folder_can_be_pushed_and_a_pushed_card_gets_the_result(
    page, result, tmp_path, monkeypatch
):
    with loopback(tmp_path / "caches", monkeypatch) as server:
        hub.upload_folder(page, "me/flowers")
        record(result, page)
        hub.upload_folder(page, "me/flowers")
        pushed = server.repos["me/flowers"]
    assert b"keras-cvt evaluate" in pushed["README.md"]
    assert b"evaluations" in pushed["verification.json"]


def test_an_edited_card_keeps_its_words(page, result):
    path = page / "README.md"
    words = "\n# Own words\n\nMine\u2026 | a | b |\n"
    path.write_text(path.read_text(encoding="utf-8") + words, encoding="utf-8")
    record(result, page)
    assert path.read_text(encoding="utf-8").endswith(words)
    assert len(results_of(page)) == 3
    check_sums(page)


def test_an_interrupted_call_is_finished_by_the_next(page, result, monkeypatch):
    expected = page.parent / "expected"
    shutil.copytree(page, expected)
    record(result, expected)

    from keras_cvt._utils import files

    real = files.os.replace
    for moved in range(3):
        calls = []

        def interrupted(source, target, moved=moved, calls=calls):
            # Of those only that go to the page itself.
            if target.parent == page:
                calls.append(target)
                if len(calls) > moved:
                    raise KeyboardInterrupt
            real(source, target)

        with monkeypatch.context() as patch:
            patch.setattr(files.os, "replace", interrupted)
            with pytest.raises(KeyboardInterrupt):
                record(result, page)
    record(result, page)
    assert contents(page) == contents(expected)


def other_bias(model):
    model.get_layer("head").bias.assign([1.0, 0.0, 0.0, 0.0])


def other_transform(model):
    model.eval_transform = EvalTransform((64, 64), 0.875)


@pytest.mark.parametrize(
    ("activation", "change"),
    [("gelu", other_bias), ("gelu", other_transform), ("quick_gelu", spread)],
)
def test_the_result_of_another_model_is_refused(page, written, activation, change):
    before = contents(page)
    other = hub_models.classifier(activation)
    spread(other)
    change(other)
    if activation == "quick_gelu":
        other.set_weights(other_weights())
    found = evaluate(other, written / "flowers", class_names=hub_models.LABELS)
    with pytest.raises(ValueError, match="result of the model in .*which is another"):
        record(found, page)
    assert contents(page) == before


def other_weights():
    """The weights of the page, which another activation makes another model."""
    model = hub_models.classifier()
    spread(model)
    return model.get_weights()


def test_the_result_of_an_exported_file_of_elsewhere_is_refused(page, written):
    found = evaluate(page / "model.onnx", written / "flowers")
    found.origin["files_sha256"]["model.onnx"] = "0" * 64
    with pytest.raises(ValueError, match="exported file in it"):
        record(found, page)


def test_changed_weights_are_refused(page, result):
    with (page / "model.weights.h5").open("ab") as file:
        file.write(b"0")
    with pytest.raises(CheckpointError, match=r"Changed: \['model.weights.h5'\]"):
        record(result, page)


def test_another_folder_is_refused(result, tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no folder"):
        record(result, tmp_path / "missing")
    with pytest.raises(ValueError, match="`keras_cvt.hub.write_folder` wrote"):
        record(result, tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (card.END, "", "marks are damaged"),
        ("model-index:", "model-index: 3\nother:", "Expected a `model-index`"),
        ("---\n", "---\na: [b\n", "not valid YAML"),
    ],
)
def test_a_damaged_card_is_answered_and_nothing_is_written(
    page, result, old, new, message
):
    path = page / "README.md"
    path.write_text(path.read_text().replace(old, new, 1))
    before = contents(page)
    with pytest.raises(ValueError, match=message):
        record(result, page)
    assert contents(page) == before


def test_a_card_without_marks_is_refused(page, result):
    (page / "README.md").write_text("# Mine\n")
    with pytest.raises(ValueError, match="card with the marks of keras_cvt"):
        record(result, page)
