"""The published weights: what the Hub holds, and what they answer."""

import http.client
import io
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from keras_cvt import zoo
from keras_cvt.diagnostics.findings import Finding

_TOPIC = "published weights"
# The photo takes 173 kB.
_MOST_BYTES = 10 * 2**20
_SECONDS = 30.0


@dataclass(frozen=True)
class KnownLogits:
    """What published weights answer on a public photo.

    Attributes:
        weights: Their full name.
        activation: What the answer was computed with.
        url: Address of the photo.
        logits: The first of the 1000 logits.
        tolerance: Largest difference. Decoders of JPEG differ by one level in some
            pixels.
    """

    weights: str
    activation: str
    url: str
    logits: tuple[float, ...]
    tolerance: float


# Of the integration test of transformers, whose CvT computes exact GELU:
# `tests/models/cvt/test_modeling_cvt.py`.
KNOWN = KnownLogits(
    weights="cvt13/imagenet",
    activation="gelu",
    url="http://images.cocodataset.org/val2017/000000039769.jpg",
    logits=(0.9285, 0.9015, -0.3150),
    tolerance=2e-3,
)


def check_repositories() -> Iterator[Finding]:
    """Compare the files on the Hub with the recorded commits and hashes.

    Nothing but the hashes is downloaded.

    Yields:
        A finding for each published repository. A hash that differs from the recorded
        one is a problem, and so is a Hub that cannot be asked.
    """
    for record in zoo.WEIGHTS:
        try:
            yield _check_repository(record)
        except ConnectionError as error:
            advice = f"{error} Look at the network, HF_ENDPOINT and HF_HUB_OFFLINE."
            value = "the Hub cannot be asked"
            yield Finding(_TOPIC, record.name, value, "problem", advice)
            return
        except OSError as error:
            yield Finding(_TOPIC, record.name, "not compared", "problem", str(error))


def _check_repository(record):
    from keras_cvt.repository import listing

    known = record.files
    commit, hashes = listing.checkpoint_hashes(record.repo, known.revision)
    at = f"{record.repo} at {commit[:12]}"
    if not known.sha256:
        found = ", ".join(f"{name} {digest}" for name, digest in hashes.items())
        advice = f"Downloads are not checked. The Hub has: {found or 'no hashes'}."
        return Finding(_TOPIC, record.name, f"{at}: not recorded", "note", advice)
    wrong = [
        f"{name} is {hashes.get(name, 'not there')}, expected {digest}"
        for name, digest in known.sha256.items()
        if hashes.get(name) != digest
    ]
    if wrong:
        value = f"{at}: {len(wrong)} of {len(known.sha256)} files differ"
        return Finding(_TOPIC, record.name, value, "problem", "; ".join(wrong) + ".")
    names = ", ".join(known.sha256)
    return Finding(_TOPIC, record.name, f"{at}: {names} as recorded")


def check_known_logits(photo: Path | None = None) -> Finding:
    """Compute the published CvT-13 on a public photo and compare its known logits.

    Args:
        photo: COCO's image 000000039769, if you have it. Defaults to `None`: it is
            downloaded.

    Returns:
        A problem if a logit differs by more than 2e-3, or if the weights or the photo
        cannot be had.
    """
    import numpy as np

    from keras_cvt.builders import CvT
    from keras_cvt.preprocessing import pil, preprocess_input

    name = f"logits of {KNOWN.weights}"
    record = zoo.find(KNOWN.weights)
    try:
        source = _fetch(KNOWN.url) if photo is None else photo.read_bytes()
        model = CvT(
            zoo.MODELS[record.model],
            weights=record.name,
            activation=KNOWN.activation,
            classifier_activation=None,
        )
        image = preprocess_input(pil.read_rgb(io.BytesIO(source)), model)
    # What can go wrong with files from elsewhere.
    except (OSError, ValueError) as error:
        return Finding(_TOPIC, name, "not computed", "problem", str(error))
    found = model.predict(image, verbose=0)[0, : len(KNOWN.logits)]
    difference = float(np.abs(found - np.array(KNOWN.logits)).max())
    if difference <= KNOWN.tolerance:
        return Finding(_TOPIC, name, f"differ by at most {difference:.1e}")
    return Finding(
        _TOPIC,
        name,
        f"differ by {difference:.1e}",
        "problem",
        f"Expected {list(KNOWN.logits)} with {KNOWN.activation}. "
        f"Received: {np.round(found, 4).tolist()}",
    )


def _fetch(url):
    try:
        with urllib.request.urlopen(url, timeout=_SECONDS) as answer:
            content = answer.read(_MOST_BYTES + 1)
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise OSError(
            f"The photo {url} cannot be downloaded ({error}). Pass it with --photo."
        ) from error
    if len(content) > _MOST_BYTES:
        raise ValueError(f"Expected at most {_MOST_BYTES} bytes. Received: {url}")
    return content
