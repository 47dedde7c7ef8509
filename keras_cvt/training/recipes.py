"""Training recipes, the paper's and two of this project, as data to override."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import keras

from keras_cvt._utils import validation
from keras_cvt._utils.json_fields import JsonFields
from keras_cvt.data import Augmentation
from keras_cvt.description import find_head
from keras_cvt.training.optimizers import NO_DECAY, SGD, AdamW

_OPTIMIZERS = ("adamw", "sgd")


@dataclass(frozen=True)
class Recipe(JsonFields):
    """All settings of a training but the data and the number of devices.

    `dataclasses.replace(recipe, epochs=100)` overrides. Set either `epochs` or
    `steps`, and the other to None.

    Attributes:
        optimizer: `"adamw"` or `"sgd"`. Defaults to `"adamw"`.
        image_size: Height and width of the training images, in pixels. Defaults to
            `224`.
        batch_size: Global batch size of the paper. Defaults to `2048`.
        epochs: Number of passes over the data, or None. Defaults to `300`.
        steps: Number of optimizer steps, or None. Defaults to `None`.
        learning_rate: Peak for a global batch of `learning_rate_batch` images. It
            scales with the batch size. Defaults to `0.00025`.
        learning_rate_batch: See `learning_rate`. Defaults to `256`.
        warmup_epochs: Number of epochs in which the learning rate grows linearly from
            `warmup_learning_rate`. Defaults to `5`.
        warmup_learning_rate: First learning rate, not scaled. Defaults to `1e-6`.
        final_learning_rate: Last learning rate, not scaled. Defaults to `1e-5`.
        weight_decay: Decoupled weight decay. Defaults to `0.05`.
        no_decay: Names of the variables that are not decayed. Defaults to
            `("bias", "gamma", "beta", "token")`.
        momentum: Momentum of SGD. Defaults to `0.9`.
        label_smoothing: Smoothing of the targets, in [0, 1). Defaults to `0.1`.
        drop_path_rate: Stochastic depth of the network's last stage, in [0, 1). Pass
            it to the builder; `training.fit` refuses a network with another rate.
            None allows any rate. Defaults to `0.1`.
        augmentation: A `keras_cvt.data.Augmentation`.

    Raises:
        ValueError: If a field is out of range.

    Reference:
        `experiments/imagenet/cvt/*.yaml` and `lib/config/default.py` of the official
        code; paper sections 4.1 and 4.2. The paper's text gives a learning rate of
        0.02, its files 0.002 at a batch of 2048.
    """

    optimizer: str = "adamw"
    image_size: int = 224
    batch_size: int = 2048
    epochs: int | None = 300
    steps: int | None = None
    learning_rate: float = 0.00025
    learning_rate_batch: int = 256
    warmup_epochs: float = 5
    warmup_learning_rate: float = 1e-6
    final_learning_rate: float = 1e-5
    weight_decay: float = 0.05
    no_decay: tuple[str, ...] = NO_DECAY
    momentum: float = 0.9
    label_smoothing: float = 0.1
    drop_path_rate: float | None = 0.1
    augmentation: Augmentation = Augmentation()

    def __post_init__(self):
        # As JSON gives them.
        object.__setattr__(self, "no_decay", tuple(self.no_decay))
        if isinstance(self.augmentation, Mapping):
            augmentation = Augmentation.from_dict(self.augmentation)
            object.__setattr__(self, "augmentation", augmentation)
        validation.check_choice(_OPTIMIZERS, optimizer=self.optimizer)
        validation.check_int(
            1,
            image_size=self.image_size,
            batch_size=self.batch_size,
            learning_rate_batch=self.learning_rate_batch,
        )
        if (self.epochs is None) == (self.steps is None):
            raise ValueError(
                "Set either `epochs` or `steps`, and the other to None. "
                f"Received: epochs={self.epochs!r}, steps={self.steps!r}"
            )
        length = "steps" if self.epochs is None else "epochs"
        validation.check_int(1, **{length: getattr(self, length)})
        validation.check_rate(
            label_smoothing=self.label_smoothing,
            drop_path_rate=self.drop_path_rate or 0.0,
        )
        validation.check_non_negative(
            learning_rate=self.learning_rate,
            warmup_epochs=self.warmup_epochs,
            warmup_learning_rate=self.warmup_learning_rate,
            final_learning_rate=self.final_learning_rate,
            weight_decay=self.weight_decay,
            momentum=self.momentum,
        )

    def peak_learning_rate(self, batch_size: int) -> float:
        """Return the highest learning rate for a global batch size."""
        return self.learning_rate * batch_size / self.learning_rate_batch

    def total_steps(self, steps_per_epoch: int) -> int:
        """Return the number of optimizer steps."""
        if self.epochs is None:
            return self.steps or 0
        return self.epochs * steps_per_epoch

    def total_epochs(self, steps_per_epoch: int) -> int:
        """Return the number of epochs that hold all steps."""
        return -(-self.total_steps(steps_per_epoch) // steps_per_epoch)

    def schedule(
        self, batch_size: int, steps_per_epoch: int
    ) -> keras.optimizers.schedules.LearningRateSchedule:
        """Return the learning rate by step: linear growth, then half a cosine.

        It is Keras's `CosineDecay`, which changes with each step, reaches the peak and
        ends at the final learning rate. timm's schedule, which the official code uses,
        changes with each epoch. It counts its cosine from the first warm-up epoch, and
        so never quite reaches the peak. It ends at the same learning rate.

        Args:
            batch_size: Global batch size.
            steps_per_epoch: Number of optimizer steps per epoch.

        Raises:
            ValueError: If the warm-up is longer than the training.
        """
        peak = self.peak_learning_rate(batch_size)
        total = self.total_steps(steps_per_epoch)
        warmup = round(self.warmup_epochs * steps_per_epoch)
        if warmup >= total:
            raise ValueError(
                f"The training has {total} steps, and the warm-up must be shorter: "
                "lower `warmup_epochs`. "
                f"Received: warmup_epochs={self.warmup_epochs} ({warmup} steps)"
            )
        # The peak of a small batch may be below the final learning rate.
        floor = min(self.final_learning_rate, peak) / peak if peak else 0.0
        return keras.optimizers.schedules.CosineDecay(
            min(self.warmup_learning_rate, peak) if warmup else peak,
            decay_steps=total - warmup,
            alpha=floor,
            warmup_target=peak if warmup else None,
            warmup_steps=warmup,
        )

    def build_optimizer(
        self,
        batch_size: int,
        steps_per_epoch: int,
        *,
        multipliers: Mapping[str, float] | None = None,
        **options: Any,
    ) -> keras.optimizers.Optimizer:
        """Return the recipe's optimizer.

        Args:
            batch_size: Global batch size.
            steps_per_epoch: Number of optimizer steps per epoch.
            multipliers: Factors of the learning rate; see `layer_learning_rates`.
                Defaults to `None`.
            **options: Arguments of `keras.optimizers.Optimizer`: `global_clipnorm`,
                `use_ema`, `ema_momentum`, `gradient_accumulation_steps`, ...
        """
        options |= {
            "learning_rate": self.schedule(batch_size, steps_per_epoch),
            "weight_decay": self.weight_decay,
            "no_decay": self.no_decay,
            "multipliers": multipliers,
        }
        if self.optimizer == "sgd":
            return SGD(momentum=self.momentum, **options)
        return AdamW(**options)

    def compile(
        self,
        model: keras.Model,
        batch_size: int,
        steps_per_epoch: int,
        *,
        multipliers: Mapping[str, float] | None = None,
        jit_compile: bool | str = "auto",
        **options: Any,
    ) -> None:
        """Compile a model with the recipe's optimizer and loss, and top-1 and top-5.

        Targets are one-hot, as `keras_cvt.data` gives them. The loss takes logits or
        probabilities, depending on the model's head.

        Args:
            model: A model with a classification head.
            batch_size: Global batch size.
            steps_per_epoch: Number of optimizer steps per epoch.
            multipliers: See `build_optimizer`. Defaults to `None`.
            jit_compile: Argument of `keras.Model.compile`. Defaults to `"auto"`.
            **options: See `build_optimizer`.

        Raises:
            ValueError: If the model has no head.
        """
        head, activation, _ = find_head(model)
        if head is None:
            raise ValueError(
                "Expected a model that ends in a classification head. "
                f"Received: model={model!r}"
            )
        metrics = [keras.metrics.CategoricalAccuracy(name="accuracy")]
        if head.units > 5:
            metrics.append(keras.metrics.TopKCategoricalAccuracy(5, name="top5"))
        model.compile(
            self.build_optimizer(
                batch_size, steps_per_epoch, multipliers=multipliers, **options
            ),
            keras.losses.CategoricalCrossentropy(
                from_logits=activation == "linear",
                label_smoothing=self.label_smoothing,
            ),
            metrics=metrics,
            jit_compile=jit_compile,
        )


_CVT_13 = Recipe()
_CVT_21 = Recipe(
    learning_rate=0.000125,
    learning_rate_batch=128,
    weight_decay=0.1,
    augmentation=Augmentation(repeats=3),
)

PRETRAINING: dict[str, Recipe] = {
    "cvt13": _CVT_13,
    "cvt21": _CVT_21,
    "cvtw24": dataclasses.replace(
        _CVT_21, drop_path_rate=0.3, augmentation=Augmentation()
    ),
}
"""How the paper trains each network from scratch on ImageNet-1k (section 4.1)."""

FROM_SCRATCH: dict[str, Recipe] = {
    "cifar": Recipe(
        image_size=32,
        batch_size=128,
        epochs=150,
        learning_rate=0.001,
        learning_rate_batch=128,
        warmup_epochs=10,
        augmentation=Augmentation(
            crop_scale=None,
            crop_padding=4,
            rand_augment=5,
            random_erasing=0,
            mixup=0.2,
            cutmix=0.5,
        ),
    ),
}
"""How to train a small network on small images, with fresh weights.

The paper has no such training; these settings are this project's, and
`benchmarks/RESULTS.md` has what they reach. `"cifar"` is for 32 x 32 images, with the
network of `examples/small_images.json`. The augmentation is weaker than the paper's: it
moves images by up to 4 pixels instead of cropping parts of them.
"""

_FINE_TUNING = Recipe(
    optimizer="sgd",
    image_size=384,
    batch_size=512,
    epochs=None,
    steps=20_000,
    learning_rate=0.003,
    learning_rate_batch=512,
    warmup_epochs=0,
    final_learning_rate=0.0,
    weight_decay=0.0,
    label_smoothing=0.0,
    augmentation=Augmentation(
        crop_scale=(0.08, 1.0), rand_augment=0, random_erasing=0, mixup=0, cutmix=0
    ),
)

FINE_TUNING: dict[str, Recipe] = {
    "imagenet": _FINE_TUNING,
    "cifar": dataclasses.replace(_FINE_TUNING, steps=10_000),
    "pets": dataclasses.replace(_FINE_TUNING, steps=500),
    "flowers": dataclasses.replace(_FINE_TUNING, steps=500),
    "photos": Recipe(
        batch_size=32,
        epochs=30,
        learning_rate=0.0001,
        learning_rate_batch=32,
        warmup_epochs=2,
        final_learning_rate=1e-6,
        augmentation=Augmentation(
            crop_scale=(0.35, 1.0), rand_augment=5, random_erasing=0, mixup=0, cutmix=0
        ),
    ),
}
"""How to fine-tune published weights.

All but `"photos"` are the paper's, by data set (section 4.1, "Fine-tuning"): 384 x 384
pixels, SGD, 500 to 20,000 steps of 512 images.

`"photos"` is this project's, for a few hundred to some thousand photos of one's own:
224 x 224 pixels, AdamW, 30 epochs in batches of 32. The settings are those usual for
vision transformers on little data: a low learning rate, so that the pretrained weights
change little, a short warm-up for the fresh head, crops that keep most of the photo, no
mixing of photos. They have not been tuned with published weights.
"""
