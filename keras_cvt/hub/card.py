"""The model card: metadata, and a marked section that a push writes again."""

import copy
import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from keras_cvt import profile, zoo
from keras_cvt.checkpoints import transformers_format
from keras_cvt.deploy import formats
from keras_cvt.description import ModelDescription

_ASSETS = resources.files("keras_cvt") / "assets"
_TEXTS = tomllib.loads((_ASSETS / "card.toml").read_text(encoding="utf-8"))
# The section of a card that a push writes again is between these marks.
BEGIN, END = _TEXTS["begin"], _TEXTS["end"]
# Version 0.1.0 wrote other words into the begin mark.
_BEGIN = re.compile(r"<!-- keras_cvt: begin\b.*?-->")
_FRONT_MATTER = re.compile(
    r"\A(\s*---[ \t]*\r?\n)(.*?)(^---[ \t]*(?:\r?\n|\Z))", re.S | re.M
)


@dataclass(frozen=True)
class Evaluation:
    """One result of an evaluation, for the card and its `model-index`.

    Attributes:
        dataset: Name of the data set for people, such as `"ImageNet-1k"`.
        dataset_id: Its id on the Hub, such as `"imagenet-1k"`.
        metric: Name of the metric, such as `"accuracy"`.
        value: The value of the metric.
        split: The split of the data set.
        source: Who measured it, and where that can be read.
        title: Name of the metric for people. Defaults to `""`: that of `metric`.
    """

    dataset: str
    dataset_id: str
    metric: str
    value: float
    split: str = "validation"
    source: str = ""
    title: str = ""


@dataclass(frozen=True)
class About:
    """Facts for the card that the model itself does not know.

    Attributes:
        description: What the model is for, a few sentences of Markdown.
        license: Identifier of a licence in the Hub's list, such as `"apache-2.0"`.
            None stands for the licence of the base model if that is one of the
            published CvT, and otherwise for none.
        base_model: Repository of the model that it was fine-tuned from.
        converted: Whether it is that model itself, converted.
        datasets: Hub ids of the training data.
        tags: More tags of the Hub.
        evaluations: Measured results.
    """

    description: str = ""
    license: str | None = None
    base_model: str | None = None
    converted: bool = False
    datasets: Sequence[str] = ()
    tags: Sequence[str] = ()
    evaluations: Sequence[Evaluation] = ()


@dataclass(frozen=True)
class Artefact:
    """A file or folder of an exported model, and how it compared.

    Attributes:
        path: Its name in the folder.
        format: Its format, in words.
        difference: Largest difference of any output from that of the Keras model.
        milliseconds: Time for one image, or None if it was not measured.
        agreement: Share of the Keras model's answers that are the same: the top class,
            or yes or no for each output of a sigmoid.
    """

    path: str
    format: str
    difference: float | None = None
    milliseconds: float | None = None
    agreement: float | None = None


@dataclass(frozen=True)
class Row(Artefact):
    """An artefact with its size, for the table of files."""

    bytes: int = 0


def render(
    description: ModelDescription,
    *,
    repo_id: str,
    about: About,
    rows: Sequence[Row],
    reference_difference: float | None = None,
) -> str:
    """Return a new card.

    Args:
        description: The model that the card describes, a classifier.
        repo_id: The repository, such as `"org/repo"`.
        about: Facts that the model does not know.
        rows: The weights and exported files.
        reference_difference: Largest difference from the logits of a reference.
            Defaults to `None`: there was none.
    """
    sections = [
        _summary(description, about),
        _usage(description, repo_id, rows),
        _files(rows, reference_difference),
        _evaluation(about),
        _terms(about),
        _limits(description),
    ]
    title = repo_id.split("/")[-1]
    section = "\n\n".join(filter(None, sections))
    return compose(_metadata(repo_id, about), section, f"# {title}\n\n")


def compose(metadata: dict[str, Any], section: str, head: str = "") -> str:
    """Return a card of metadata, a head that stays, and the marked section.

    Raises:
        ValueError: If a text cannot be written in UTF-8.
    """
    text = f"---\n{_dump(metadata)}---\n\n{head}{BEGIN}\n\n{section}\n\n{END}\n"
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(
            "Expected text in UTF-8 in the card. "
            f"Received: {error.object[error.start - 20 : error.end]!a}"
        ) from error
    return text


def merge(existing: str, new: str) -> str:
    """Return an existing card with the marked section of a new one.

    All other text of the existing card stays, byte for byte. Metadata that it does not
    have is added. The evaluation results (`model-index`) are replaced if the new card
    has any.

    Raises:
        ValueError: If the existing card's metadata is not valid YAML, or its marks are
            damaged.
    """
    section = new[new.index(BEGIN) : new.index(END) + len(END)]
    place = _find_section(existing)
    if place is None:
        existing = existing.rstrip() + f"\n\n{section}\n"
    else:
        existing = existing[: place[0]] + section + existing[place[1] :]
    return _merge_metadata(existing, new)


def _find_section(text):
    """Return where the marked section begins and ends, or None if there is none."""
    begins = [match.start() for match in _BEGIN.finditer(text)]
    ends = [match.end() for match in re.finditer(re.escape(END), text)]
    if not begins and not ends:
        return None
    if len(begins) == len(ends) == 1 and begins[0] < ends[0]:
        return begins[0], ends[0]
    raise ValueError(
        "The card's marks are damaged: expected one begin mark before one end "
        f"mark. Received: {len(begins)} and {len(ends)}. Fix its README.md first"
    )


def add_evaluations(existing: str, evaluations: Sequence[Evaluation], name: str) -> str:
    """Return an existing card with more results, in its table and its `model-index`.

    A result replaces the one of the same data set, split, metric and source (in
    `model-index`: and title). All others stay.

    Args:
        existing: The card.
        evaluations: The results.
        name: What `model-index` calls the model if it has no name yet.

    Raises:
        ValueError: If the existing card's metadata is not valid YAML, its marks are
            damaged or missing, or its `model-index` is not one.
    """
    place = _find_section(existing)
    if place is None:
        raise ValueError(
            "Expected a card with the marks of keras_cvt. Received: a README.md "
            "without them"
        )
    begin, end = place
    section = _add_rows(existing[begin:end], list(map(_row, evaluations)))
    text = existing[:begin] + section + existing[end:]
    values = _metadata_of(text)
    index = _merge_index(values.get("model-index"), _index(name, evaluations))
    if index == values.get("model-index"):
        return text
    front = _dump({**values, "model-index": index})
    match = _FRONT_MATTER.match(text)
    if not match:
        return f"---\n{front}---\n\n{text.lstrip()}"
    return match[1] + front + match[3] + text[match.end() :]


def _add_rows(section, rows):
    """Return the marked section with these rows in its table of results."""
    table = fill("evaluation", rows="")
    before, found, after = section.partition(table)
    if not found:
        # In front of what a new card has behind the table.
        terms = section.find(fill("terms").strip())
        place = section.rindex(END) if terms < 0 else terms
        before, after = section[:place], f"\n{section[place:]}"
    lines = after.split("\n")
    count = next(i for i, line in enumerate(lines) if not line.startswith("|"))
    kept = {_cells(line)[:3] + _cells(line)[4:]: line for line in lines[:count]}
    kept |= {_cells(row)[:3] + _cells(row)[4:]: row for row in rows}
    return before + table + "\n".join([*kept.values(), *lines[count:]])


def _cells(row):
    # A bar inside a cell is escaped.
    return tuple(cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1])


def _merge_index(existing, new):
    """Return the `model-index` of a card with the results of another one."""
    if existing is None:
        return new
    index = copy.deepcopy(existing)
    try:
        results = index[0].setdefault("results", [])
        for result in new[0]["results"]:
            same = [r for r in results if _key(r) == _key(result)]
            if not same:
                results.append(result)
                continue
            metrics = same[0]["metrics"]
            for metric in result["metrics"]:
                name = [metric.get(field) for field in ("type", "name")]
                for old in metrics:
                    if [old.get(field) for field in ("type", "name")] == name:
                        old["value"] = metric["value"]
                        break
                else:
                    metrics.append(metric)
    except (TypeError, KeyError, IndexError, AttributeError) as error:
        raise ValueError(
            "Expected a `model-index` as the Hub reads it in the card's metadata; fix "
            f"it first. Received: {existing!r:.200}"
        ) from error
    return index


def _key(result):
    """Return what tells one data set of a `model-index` from another."""
    dataset = result["dataset"]
    fields = ("type", "config", "split", "revision")
    return result["task"]["type"], *(dataset.get(field) for field in fields)


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
            "The card's metadata is not valid YAML"
            f"{f' (line {place.line + 2} of README.md)' if place else ''}; fix it "
            "first, nothing was pushed"
        ) from error
    values = {} if values is None else values
    if not isinstance(values, dict):
        raise ValueError(
            "Expected names and values as the card's metadata. "
            f"Received: {type(values).__name__}; fix it first, nothing was pushed"
        )
    return values


def _dump(values):
    import yaml

    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def _results(evaluations):
    from huggingface_hub import EvalResult

    return [
        EvalResult(
            task_type="image-classification",
            dataset_type=figure.dataset_id,
            dataset_name=figure.dataset,
            dataset_split=figure.split or None,
            metric_type=figure.metric,
            metric_value=figure.value,
            metric_name=figure.title or None,
        )
        for figure in evaluations
    ]


def _index(name, evaluations):
    """Return results as a `model-index`."""
    from huggingface_hub import ModelCardData

    data = ModelCardData(model_name=name, eval_results=_results(evaluations))
    return data.to_dict()["model-index"]


def _metadata(repo_id, about) -> dict[str, Any]:
    from huggingface_hub import ModelCardData

    results = _results(about.evaluations)
    data = ModelCardData(
        library_name="keras",
        pipeline_tag="image-classification",
        license=find_license(about),
        base_model=about.base_model,
        datasets=list(about.datasets) or None,
        tags=["keras_cvt", "cvt", "image-classification", *about.tags],
        # The Hub takes results only with a name.
        model_name=repo_id.split("/")[-1] if results else None,
        eval_results=results or None,
    )
    return data.to_dict()


def find_license(about: About) -> str | None:
    """Return the licence of the weights, or None if it is not known."""
    if about.license is None and about.base_model is not None:
        return zoo.LICENSE if zoo.find_repo(about.base_model) else None
    return about.license


def fill(name: str, /, **facts: Any) -> str:
    """Return one of the texts of `card.toml`, with its fields filled in."""
    return _TEXTS[name].format(**facts)


def _summary(description, about):
    config, classes = description.config, description.classes
    summary = fill(
        "summary",
        stages=len(config.stages),
        widths=", ".join(str(stage.embed_dim) for stage in config.stages),
        depths=", ".join(str(stage.depth) for stage in config.stages),
        parameters=profile.parameters(config, classes, description.channels),
        classes=classes,
        size=" x ".join(map(str, description.eval_transform.image_size)),
        activation=config.activation,
    )
    lines = [about.description, summary]
    answers = f"{description.answers}_{description.outputs}"
    if answers in _TEXTS:
        lines.append(fill(answers))
    if description.class_names is not None and classes <= 20:
        lines.append(f"Classes: {', '.join(map(_plain, description.class_names))}.")
    if about.base_model:
        how = "Converted" if about.converted else "Fine-tuned"
        lines.append(fill("origin", how=how, repo=about.base_model))
    return "\n\n".join(filter(None, lines))


def _usage(description, repo_id, rows):
    pixels = description.value_range is not None
    facts = {
        "size": ", ".join(map(str, description.eval_transform.image_size)),
        "values": "0-255" if pixels else "normalised values",
        "channels": description.channels,
    }
    parts = [fill("keras" if pixels else "keras_prepared", repo_id=repo_id, **facts)]
    for exported in formats.FORMATS.values():
        # One file of each format shows how.
        paths = [r.path for r in rows if r.format.split(",")[0] == exported.title]
        if paths and exported.usage:
            parts.append(exported.usage.format(path=paths[0], **facts))
    if not transformers_format.obstacles(description.config):
        parts.append(fill("pytorch", repo_id=repo_id))
        if description.config.activation != "gelu":
            parts.append(fill("quick_gelu"))
    return "\n\n".join(parts)


def _files(rows, reference_difference):
    lines = []
    for row in rows:
        speed = "" if row.milliseconds is None else f"{row.milliseconds:.1f}"
        agrees = "not compared" if row.difference is None else f"{row.difference:.1e}"
        share = "" if row.agreement is None else f"{row.agreement:.1%}"
        lines.append(
            f"| `{_plain(row.path)}` | {_plain(row.format)} | {row.bytes / 1e6:.1f} | "
            f"{speed} | {agrees} | {share} |"
        )
    parts = [fill("files", rows="\n".join(lines))]
    if reference_difference is not None:
        parts.append(fill("reference", difference=reference_difference))
    return "\n".join(parts)


def _evaluation(about):
    rows = list(map(_row, about.evaluations))
    return fill("evaluation", rows="\n".join(rows)) if rows else ""


def _row(evaluation):
    """Return a row of the table of results."""
    e = evaluation
    return (
        f"| {_plain(e.dataset)} | {_plain(e.split)} | {_plain(e.metric)} | "
        f"{e.value:g} | {_plain(e.source) or 'the owner of this repository'} |"
    )


def _terms(about):
    licence = find_license(about)
    lines = [fill("terms")]
    if about.datasets:
        lines.append(fill("datasets", names=", ".join(map(_plain, about.datasets))))
    lines.append(fill("licence" if licence else "no_licence", name=licence))
    lines.append(fill("code_licence"))
    if about.base_model and zoo.find_repo(about.base_model):
        lines.append(fill("published", licence=zoo.LICENSE))
    return "\n".join(lines)


def _limits(description):
    names = ["limits"]
    if description.classes == 1000:
        names.append("limit_22k")
    if transformers_format.obstacles(description.config):
        names.append("limit_transformers")
    elif description.config.activation != "gelu":
        names.append("limit_quick_gelu")
    names.append(f"limit_{description.answers}")
    return "\n".join(map(fill, names))


def _plain(text):
    """Keep text inside its table cell, and free of marks."""
    text = " ".join(str(text).split())
    return text.replace("|", "\\|").replace("<", "&lt;")
