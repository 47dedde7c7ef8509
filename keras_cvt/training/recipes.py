"""The paper's training recipes as data that one can read and override."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import keras

from keras_cvt import validation
from keras_cvt.data import Augmentation
from keras_cvt.training.optimizers import NO_DECAY, SGD, AdamW

_OPTIMIZERS = ("adamw", "sgd")


@dataclass(frozen=True)
class Recipe:
    """How a CvT is trained: all of it but the data and the number of devices.

    `dataclasses.replace(recipe, epochs=100)` overrides. Either `epochs` or `steps`
    says how long.

    Attributes:
        optimizer: `"adamw"` or `"sgd"`.
        image_size: Height and width of the training images, in pixels.
        batch_size: The global batch size that the paper trains with.
        epochs: Passes over the data, or None.
        steps: Optimizer steps, or None.
        learning_rate: Peak for a global batch of `learning_rate_batch` images; it
            scales with the batch.
        learning_rate_batch: See `learning_rate`.
        warmup_epochs: Epochs of linear growth from `warmup_learning_rate`.
        warmup_learning_rate: Where the learning rate starts; not scaled.
        final_learning_rate: Where the cosine ends; not scaled.
        weight_decay: Decoupled weight decay.
        no_decay: Names of the variables that it leaves out.
        momentum: Of SGD.
        label_smoothing: In [0, 1).
        drop_path_rate: Stochastic depth of the last stage, for the builder.
        augmentation: A `keras_cvt.data.Augmentation`.

    Raises:
        ValueError: If a field is out of range.

    Reference:
        `experiments/imagenet/cvt/*.yaml` and `lib/config/default.py` of the official
        code; paper sections 4.1 and 4.2. The paper's text says 0.02 for the learning
        rate where its files give 0.002 at a batch of 2048.
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
    drop_path_rate: float = 0.1
    augmentation: Augmentation = Augmentation()

    def __post_init__(self):
        validation.check_choice(_OPTIMIZERS, optimizer=self.optimizer)
        validation.check_int(
            1,
            image_size=self.image_size,
            batch_size=self.batch_size,
            learning_rate_batch=self.learning_rate_batch,
        )
        if (self.epochs is None) == (self.steps is None):
            raise ValueError(
                "A recipe lasts either `epochs` or `steps`. "
                f"Received: epochs={self.epochs!r}, steps={self.steps!r}"
            )
        length = "steps" if self.epochs is None else "epochs"
        validation.check_int(1, **{length: getattr(self, length)})
        validation.check_rate(
            label_smoothing=self.label_smoothing, drop_path_rate=self.drop_path_rate
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
        if self.steps is not None:
            return self.steps
        return self.epochs * steps_per_epoch

    def total_epochs(self, steps_per_epoch: int) -> int:
        """Return the number of epochs that hold all steps."""
        return -(-self.total_steps(steps_per_epoch) // steps_per_epoch)

    def schedule(
        self, batch_size: int, steps_per_epoch: int
    ) -> keras.optimizers.schedules.LearningRateSchedule:
        """Return the learning rate by step: linear growth, then a half cosine.

        It is Keras's `CosineDecay`. timm's, which the official code uses, moves once
        an epoch and counts its cosine from the first warm-up epoch on, so that it
        never quite reaches the peak; this one moves each step, reaches the peak, and
        ends where timm's does.

        Args:
            batch_size: The global batch size.
            steps_per_epoch: Optimizer steps an epoch.

        Raises:
            ValueError: If warm-up lasts longer than the training.
        """
        peak = self.peak_learning_rate(batch_size)
        total = self.total_steps(steps_per_epoch)
        warmup = round(self.warmup_epochs * steps_per_epoch)
        if warmup >= total:
            raise ValueError(
                f"A warm-up of {self.warmup_epochs} epochs ({warmup} steps) does not "
                f"fit into a training of {total} steps; lower `warmup_epochs`."
            )
        # A small batch's peak may lie below the floor, which then is the floor.
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
            batch_size: The global batch size.
            steps_per_epoch: Optimizer steps an epoch.
            multipliers: Of the learning rate; see `layer_learning_rates`.
            **options: Of `keras.optimizers.Optimizer`: `global_clipnorm`, `use_ema`,
                `ema_momentum`, `gradient_accumulation_steps`, ...
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

        Labels are one-hot, as `keras_cvt.data` gives them; the loss takes logits or
        probabilities, whatever the model's head gives.

        Args:
            model: A model that ends in a classification head.
            batch_size: The global batch size.
            steps_per_epoch: Optimizer steps an epoch.
            multipliers: See `build_optimizer`.
            jit_compile: Of `keras.Model.compile`.
            **options: See `build_optimizer`.
        """
        activation = getattr(model.layers[-1], "activation", None)
        metrics = [keras.metrics.CategoricalAccuracy(name="accuracy")]
        if model.output_shape[-1] > 5:
            metrics.append(keras.metrics.TopKCategoricalAccuracy(5, name="top5"))
        model.compile(
            self.build_optimizer(
                batch_size, steps_per_epoch, multipliers=multipliers, **options
            ),
            keras.losses.CategoricalCrossentropy(
                from_logits=activation in (None, keras.activations.linear),
                label_smoothing=self.label_smoothing,
            ),
            metrics=metrics,
            jit_compile=jit_compile,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON can hold them."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return fields | {
            "no_decay": list(self.no_decay),
            "augmentation": self.augmentation.to_dict(),
        }

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "Recipe":
        """Return the recipe that `to_dict` described."""
        return cls(
            **{
                **fields,
                "no_decay": tuple(fields["no_decay"]),
                "augmentation": Augmentation.from_dict(fields["augmentation"]),
            }
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
}
"""How the paper fine-tunes, by data set (section 4.1, "Fine-tuning")."""
