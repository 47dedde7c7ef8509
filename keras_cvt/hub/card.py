"""The model card: metadata, and a marked section that a push renews."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from keras_cvt import profile, zoo
from keras_cvt.models import CvTModel

BEGIN = "<!-- keras_cvt: begin. A push renews what stands up to the end mark. -->"
END = "<!-- keras_cvt: end -->"
_FRONT_MATTER = re.compile(
    r"\A(\s*---[ \t]*\r?\n)(.*?)(^---[ \t]*(?:\r?\n|\Z))", re.S | re.M
)


@dataclass(frozen=True)
class Evaluation:
    """One figure of an evaluation, for the card and its `model-index`.

    Attributes:
        dataset: Its name for people, such as `"ImageNet-1k"`.
        dataset_id: Its id on the Hub, such as `"imagenet-1k"`.
        metric: Such as `"accuracy"`.
        value: The figure.
        split: Of the data set.
        source: Who measured it, and where that can be read.
    """

    dataset: str
    dataset_id: str
    metric: str
    value: float
    split: str = "validation"
    source: str = ""


@dataclass(frozen=True)
class About:
    """What the model itself does not tell.

    Attributes:
        description: What it is for, a few sentences of Markdown.
        license: Identifier of the Hub's list, such as `"apache-2.0"`. None is the
            base model's where that is one of the published CvT, else nothing.
        base_model: Repository of what it was fine-tuned from.
        converted: Whether it is that model itself, converted.
        datasets: Hub ids of the training data.
        tags: More tags of the Hub.
        evaluations: Measured figures.
    """

    description: str = ""
    license: str | None = None
    base_model: str | None = None
    converted: bool = False
    datasets: Sequence[str] = ()
    tags: Sequence[str] = ()
    evaluations: Sequence[Evaluation] = ()


@dataclass(frozen=True)
class Row:
    """A line of the table of artefacts."""

    path: str
    format: str
    difference: float | None
    milliseconds: float | None
    bytes: int
    agreement: float | None = None


def render(
    model: CvTModel,
    *,
    repo_id: str,
    about: About,
    rows: Sequence[Row],
    transformers: bool,
    reference_difference: float | None = None,
    labels: Sequence[str] | None = None,
) -> str:
    """Return a new card.

    Args:
        model: The model that it is about.
        repo_id: Such as `"org/repo"`.
        about: What the model does not tell.
        rows: The weights and exported files.
        transformers: Whether transformers has this network.
        reference_difference: How it compared with a reference, if it did.
        labels: The classes' names, if known.
    """
    metadata = _dump(_metadata(model, repo_id, about))
    title = repo_id.split("/")[-1]
    sections = [
        _what(model, about, labels),
        _use(model, repo_id, rows, transformers),
        _artefacts(rows, reference_difference),
        _evaluation(about),
        _licence(about),
        _limits(model, transformers),
    ]
    section = "\n\n".join(filter(None, sections))
    return f"---\n{metadata}---\n\n# {title}\n\n{BEGIN}\n\n{section}\n\n{END}\n"


def merge(existing: str, new: str) -> str:
    """Return an existing card with the marked section of a new one.

    What its owner wrote stays, to the byte. Metadata that it lacks is added; the
    evaluation's figures (`model-index`) are replaced where the new card has any.

    Raises:
        ValueError: If its metadata is no valid YAML or its marks are damaged.
    """
    section = new[new.index(BEGIN) : new.index(END) + len(END)]
    begin, end = existing.find(BEGIN), existing.find(END)
    marks = existing.count(BEGIN), existing.count(END)
    if marks == (0, 0):
        existing = existing.rstrip() + f"\n\n{section}\n"
    elif marks == (1, 1) and begin < end:
        existing = existing[:begin] + section + existing[end + len(END) :]
    else:
        raise ValueError(
            "The card's marks are damaged: expected one begin mark before one end "
            f"mark. Received: {marks[0]} and {marks[1]}. Mend its README.md first"
        )
    return _merge_metadata(existing, new)


def _merge_metadata(existing, new):
    ours = _metadata_of(new)
    match = _FRONT_MATTER.match(existing)
    if not match:
        return f"---\n{_dump(ours)}---\n\n{existing.lstrip()}"
    theirs = _metadata_of(existing)
    missing = {key: value for key, value in ours.items() if key not in theirs}
    body = match[2]
    index = ours.get("model-index")
    if index is not None and theirs.get("model-index", index) != index:
        body, missing = _dump({**theirs, **missing, "model-index": index}), {}
    if missing:
        body = body.rstrip("\r\n") + "\n" if body.strip() else ""
        body += _dump(missing)
    return match[1] + body + match[3] + existing[match.end() :]


def _metadata_of(text):
    import yaml

    match = _FRONT_MATTER.match(text)
    try:
        values = yaml.safe_load(match[2]) if match else {}
    except yaml.YAMLError as error:
        place = getattr(error, "problem_mark", None)
        raise ValueError(
            "The card's metadata is no valid YAML"
            f"{f' (line {place.line + 2} of README.md)' if place else ''}; mend it "
            "first, nothing was pushed"
        ) from error
    values = {} if values is None else values
    if not isinstance(values, dict):
        raise ValueError(
            "Expected names and values as the card's metadata. "
            f"Received: {type(values).__name__}; mend it first, nothing was pushed"
        )
    return values


def _dump(values):
    import yaml

    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def _metadata(model, repo_id, about):
    from huggingface_hub import EvalResult, ModelCardData

    results = [
        EvalResult(
            task_type="image-classification",
            dataset_type=figure.dataset_id,
            dataset_name=figure.dataset,
            dataset_split=figure.split,
            metric_type=figure.metric,
            metric_value=figure.value,
        )
        for figure in about.evaluations
    ]
    data = ModelCardData(
        library_name="keras",
        pipeline_tag="image-classification",
        license=_license(about),
        base_model=about.base_model,
        datasets=list(about.datasets) or None,
        tags=["keras_cvt", "cvt", "image-classification", *about.tags],
        # The Hub takes results with a name only.
        model_name=repo_id.split("/")[-1] if results else None,
        eval_results=results or None,
    )
    return data.to_dict()


def _license(about):
    if about.license is None and about.base_model is not None:
        return zoo.LICENSE if zoo.find_repo(about.base_model) else None
    return about.license


def _what(model, about, labels):
    config = model.cvt_config
    size = " x ".join(map(str, model.eval_transform.image_size))
    classes = model.output.shape[-1]
    lines = [
        about.description,
        "A CvT (Convolutional vision Transformer, "
        "[arXiv 2103.15808](https://arxiv.org/abs/2103.15808)) for image "
        f"classification: {len(config.stages)} stages of widths "
        f"{', '.join(str(s.embed_dim) for s in config.stages)} and depths "
        f"{', '.join(str(s.depth) for s in config.stages)}, "
        f"{profile.parameters(config, classes, model.input.shape[-1]):,} parameters, "
        f"{classes} classes, images of {size}, activation `{config.activation}`.",
    ]
    if labels is not None and classes <= 20:
        lines.append(f"Classes: {', '.join(map(_plain, labels))}.")
    if about.base_model:
        how = "Converted" if about.converted else "Fine-tuned"
        page = f"https://huggingface.co/{about.base_model}"
        lines.append(f"{how} from [{about.base_model}]({page}).")
    return "\n\n".join(filter(None, lines))


def _use(model, repo_id, rows, transformers):
    parts = [
        f"""## Use

Keras (TensorFlow, JAX or PyTorch), with `pip install keras_cvt`:

```python
import keras_cvt

model = keras_cvt.hub.load("{repo_id}")
images = keras_cvt.preprocess_input(["photo.jpg"], model)
scores = model.predict(images)  # in the order of keras_cvt.hub.load_labels(...)
```"""
    ]
    for kind, text in _USES.items():
        # One file of each kind shows how.
        paths = [row.path for row in rows if row.format.split(",")[0] == kind]
        if paths:
            parts.append(text.format(path=paths[0], repo_id=repo_id, size=_size(model)))
    if transformers:
        parts.append(_PYTORCH.format(repo_id=repo_id))
        if model.cvt_config.activation != "gelu":
            parts.append(_QUICK_GELU)
    return "\n\n".join(parts)


def _size(model):
    return ", ".join(map(str, model.eval_transform.image_size))


_USES = {
    "SavedModel": """TensorFlow Serving, `{path}` as version 1:

```sh
docker run -p 8501:8501 -e MODEL_NAME=cvt \\
  -v "$PWD/{path}:/models/cvt/1" tensorflow/serving
```""",
    "LiteRT": """LiteRT, `{path}`, an image of 0-255 a call, float32 (1, {size}, 3):

```python
from ai_edge_litert.interpreter import Interpreter

run = Interpreter("{path}").get_signature_runner()
scores = run(images=images)["outputs"]
```""",
    "ONNX": """ONNX Runtime, `{path}`, images of 0-255, float32 (N, {size}, 3):

```python
import onnxruntime

session = onnxruntime.InferenceSession("{path}")
(scores,) = session.run(["outputs"], {{"images": images}})
```""",
}

_PYTORCH = """PyTorch, with transformers:

```python
from transformers import AutoModelForImageClassification

model = AutoModelForImageClassification.from_pretrained("{repo_id}")
```"""

_QUICK_GELU = """transformers runs CvT with the exact GELU, this model is QuickGELU:
without this replacement its outputs differ.

```python
from transformers.activations import QuickGELUActivation
from transformers.models.cvt.modeling_cvt import CvtIntermediate

for module in model.modules():
    if isinstance(module, CvtIntermediate):
        module.activation = QuickGELUActivation()
```"""


def _artefacts(rows, reference_difference):
    lines = [
        "## Files",
        "",
        "| file | what | MB | ms an image | largest difference from the Keras model | "
        "same best class |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for row in rows:
        speed = "" if row.milliseconds is None else f"{row.milliseconds:.1f}"
        agrees = "not compared" if row.difference is None else f"{row.difference:.1e}"
        share = "" if row.agreement is None else f"{row.agreement:.1%}"
        lines.append(
            f"| `{_plain(row.path)}` | {_plain(row.format)} | {row.bytes / 1e6:.1f} | "
            f"{speed} | {agrees} | {share} |"
        )
    lines += ["", "`SHA256SUMS` holds the hash of every file."]
    if reference_difference is not None:
        lines.append(
            "The Keras model's logits differ from the reference implementation's by "
            f"at most {reference_difference:.1e}."
        )
    return "\n".join(lines)


def _evaluation(about):
    if not about.evaluations:
        return ""
    lines = [
        "## Evaluation",
        "",
        "| data set | split | metric | value | source |",
        "|---|---|---|---:|---|",
    ]
    lines += [
        f"| {_plain(e.dataset)} | {_plain(e.split)} | {_plain(e.metric)} | "
        f"{e.value:g} | {_plain(e.source) or 'the owner of this repository'} |"
        for e in about.evaluations
    ]
    return "\n".join(lines)


def _licence(about):
    published = about.base_model and zoo.find_repo(about.base_model)
    lines = ["## Training data and licence", ""]
    if about.datasets:
        lines.append(f"Trained on {', '.join(map(_plain, about.datasets))}.")
    licence = _license(about)
    lines.append(
        f"These weights: {licence}."
        if licence
        else "The owner of this repository has not stated a licence for these weights."
    )
    lines.append(
        "The architecture's official code is MIT, Copyright (c) Microsoft Corporation."
    )
    if published:
        lines.append(
            f"The weights that they come from are tagged {zoo.LICENSE} on the Hub and "
            "were trained on ImageNet, whose terms allow non-commercial research only."
        )
    return "\n".join(lines)


def _limits(model, transformers):
    lines = ["## Limits", ""]
    if model.output.shape[-1] == 1000:
        lines.append(
            "- The heads of 22,000 classes were never released: 22k in a name means "
            "pre-training on ImageNet-22k."
        )
    if not transformers:
        lines.append("- transformers has no such network and cannot open this model.")
    elif model.cvt_config.activation != "gelu":
        lines.append(
            "- transformers runs CvT with the exact GELU; see above for QuickGELU."
        )
    lines.append(
        "- The classes are all it knows: any other image gets one of them, sometimes "
        "with a high score."
    )
    return "\n".join(lines)


def _plain(text):
    """Keep a table's cell one cell, and the marks where they are."""
    text = " ".join(str(text).split())
    return text.replace("|", "\\|").replace("<", "&lt;")
