"""The card has valid metadata, says what people need, and keeps its owner's words."""

import hub_models
import pytest
import yaml

from keras_cvt import hub
from keras_cvt.hub import card

ABOUT = hub.About(
    description="Tells flowers.",
    base_model="microsoft/cvt-13",
    datasets=["me/flower-photos"],
    tags=["flowers"],
    evaluations=[
        hub.Evaluation("Flowers", "me/flower-photos", "accuracy", 0.93, "test", "me")
    ],
)
OWN = """---
# my own remark
license: cc-by-4.0
tags: [mine]
---

# Flowers of my garden

My words\u2026
"""


@pytest.fixture(scope="module")
def model():
    return hub_models.classifier("quick_gelu")


def new(model, about=ABOUT, **changes):
    rows = [card.Row("model.safetensors", "weights, PyTorch", 0.0, bytes=600_000)]
    description = model.description.replace(**changes)
    return card.render(description, repo_id="me/flowers", about=about, rows=rows)


def metadata(text):
    return yaml.safe_load(text.split("---\n")[1])


def test_the_metadata_is_what_the_hub_reads(model):
    from huggingface_hub import ModelCard

    text = new(model)
    values = metadata(text)
    assert values["library_name"] == "keras"
    assert values["pipeline_tag"] == "image-classification"
    assert values["license"] == "apache-2.0"
    assert values["base_model"] == "microsoft/cvt-13"
    (figure,) = ModelCard(text).data.eval_results
    assert (figure.metric_type, figure.metric_value) == ("accuracy", 0.93)


def test_a_licence_is_never_invented(model):
    text = new(model, hub.About())
    assert "license" not in metadata(text)
    assert "has not stated a licence" in text


@pytest.mark.parametrize(
    "fact",
    ["MIT", "non-commercial", "arxiv.org/abs/2103.15808", "hub.load", "QuickGELU",
     "64 x 64", "0.93", "me/flower-photos", "4 classes"],
)  # fmt: skip
def test_the_card_says_what_people_need(model, fact):
    assert fact in new(model)


def test_the_owners_words_stay_and_the_section_is_replaced(model):
    first = card.merge(OWN, new(model))
    second = card.merge(first + "More words.\n", new(model, hub.About("Other.")))
    assert second.startswith(OWN.split("---\n")[0] + "---\n# my own remark\n")
    for words in ("# Flowers of my garden\n\nMy words\u2026", "More words.\n"):
        assert words in second
    assert "Tells flowers." not in second and second.count("Other.") == 1
    values = metadata(second)
    assert values["license"] == "cc-by-4.0" and values["tags"] == ["mine"]
    assert values["library_name"] == "keras"


def test_a_card_without_metadata_gets_ours(model):
    merged = card.merge("# Flowers\n", new(model))
    assert metadata(merged)["library_name"] == "keras"
    assert "# Flowers\n" in merged


def test_merging_twice_changes_nothing(model):
    merged = card.merge(OWN, new(model))
    assert card.merge(merged, new(model)) == merged


@pytest.mark.parametrize("changed", ["", "A few words of another version."])
def test_the_section_of_another_version_is_replaced(model, changed):
    """Version 0.1.0 wrote other words into the begin mark."""
    old = card.merge(OWN, new(model)).replace(
        card.BEGIN,
        "<!-- keras_cvt: begin. A push renews what stands up to the end mark. -->"
        if not changed
        else f"<!-- keras_cvt: begin. {changed} -->",
    )
    assert card.BEGIN not in old
    merged = card.merge(old, new(model, hub.About("Other.")))
    assert "Tells flowers." not in merged and merged.count("Other.") == 1
    assert merged.count("<!-- keras_cvt: begin") == 1 and card.BEGIN in merged
    assert "My words\u2026" in merged


def test_new_results_replace_old_ones(model):
    about = hub.About(evaluations=[hub.Evaluation("F", "me/f", "accuracy", 0.5)])
    merged = card.merge(new(model), new(model, about))
    (index,) = metadata(merged)["model-index"]
    assert index["results"][0]["metrics"][0]["value"] == 0.5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("---\nlicense: [mit\n---\n", "not valid YAML.*line"),
        ("---\n- a list\n---\n", "names and values"),
        (card.BEGIN + "\ncut off", "marks are damaged"),
        (card.END + card.BEGIN, "marks are damaged"),
        (2 * (card.BEGIN + card.END), "marks are damaged"),
    ],
)
def test_a_damaged_card_is_answered_not_overwritten(model, text, message):
    with pytest.raises(ValueError, match=message):
        card.merge(text, new(model))


def test_a_class_name_cannot_break_the_card(model):
    text = new(model, class_names=("a|b", card.END, "---", "<script>"))
    assert text.count(card.END) == 1 and "<script>" not in text
