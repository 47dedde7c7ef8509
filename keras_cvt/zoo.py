"""The published weights: one record each.

The Hub repositories belong to the organisation `microsoft`.
"""

from dataclasses import dataclass

from keras_cvt.preprocessing import EvalTransform

_CROP_224 = EvalTransform((224, 224), 0.875)
_SQUASH_384 = EvalTransform((384, 384), None)


@dataclass(frozen=True)
class WeightsRecord:
    """One set of published weights.

    Attributes:
        model: `"cvt13"`, `"cvt21"` or `"cvtw24"`.
        tag: What `weights=` calls them.
        repo: Repository on the Hugging Face Hub.
        eval_transform: How images were made when they were evaluated.
        top1: ImageNet-1k accuracy in percent, measured by third parties.
        top5: The same, of the best five.
        imagenet_v2_top1: ImageNet-V2 accuracy in percent.
    """

    model: str
    tag: str
    repo: str
    eval_transform: EvalTransform
    top1: float
    top5: float
    imagenet_v2_top1: float

    @property
    def name(self) -> str:
        """Model and tag, such as `"cvt13/imagenet"`."""
        return f"{self.model}/{self.tag}"


WEIGHTS = (
    WeightsRecord(
        "cvt13", "imagenet", "microsoft/cvt-13", _CROP_224, 81.59, 95.72, 69.81
    ),
    WeightsRecord(
        "cvt13", "imagenet_384", "microsoft/cvt-13-384", _SQUASH_384, 83.0, 96.36, 71.31
    ),
    WeightsRecord(
        "cvt13",
        "imagenet22k_384",
        "microsoft/cvt-13-384-22k",
        _SQUASH_384,
        83.26,
        97.09,
        71.76,
    ),
    WeightsRecord(
        "cvt21", "imagenet", "microsoft/cvt-21", _CROP_224, 82.52, 96.06, 71.18
    ),
    WeightsRecord(
        "cvt21",
        "imagenet_384",
        "microsoft/cvt-21-384",
        _SQUASH_384,
        83.27,
        96.16,
        71.61,
    ),
    WeightsRecord(
        "cvt21",
        "imagenet22k_384",
        "microsoft/cvt-21-384-22k",
        _SQUASH_384,
        84.91,
        97.62,
        74.97,
    ),
    WeightsRecord(
        "cvtw24",
        "imagenet22k_384",
        "microsoft/cvt-w24-384-22k",
        _SQUASH_384,
        87.58,
        98.47,
        78.15,
    ),
)

# The only weights of CvT-W24 answer to the usual tag as well.
_ALIASES = {"cvtw24/imagenet": "cvtw24/imagenet22k_384"}


def eval_transform(name: str) -> EvalTransform:
    """Return how images are made for the weights called `name`.

    Args:
        name: A full name such as `"cvtw24/imagenet"`, or a bare tag. The bare
            `"imagenet"` means 224 pixels; CvT-W24 needs its full name.

    Raises:
        ValueError: If there are no such weights; the valid names are listed.
    """
    full_name = _ALIASES.get(name, name)
    for record in WEIGHTS:
        if full_name in (record.name, record.tag):
            return record.eval_transform
    valid = [*dict.fromkeys(r.tag for r in WEIGHTS), *(r.name for r in WEIGHTS)]
    raise ValueError(
        f"There are no weights of that name; valid are {[*valid, *_ALIASES]}. "
        f"Received: {name!r}"
    )
