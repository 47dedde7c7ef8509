"""Makes `files.zip` and `expected.npz` with the keras_cvt that is on PYTHONPATH.

A record of how they were made with commit 7456bd8. What loads them is
`tests/test_saved_by_0_1_0.py`.
"""

import os
import shutil
import sys
import tempfile
from pathlib import Path

os.environ["KERAS_BACKEND"] = "tensorflow"

import keras
import numpy as np

import keras_cvt
from keras_cvt import StageConfig, data, deploy, hub, training
from keras_cvt.checkpoints import save_checkpoint
from keras_cvt.preprocessing import EvalTransform

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

from image_folders import write_image  # noqa: E402

CONFIG = keras_cvt.CvTConfig(
    (
        StageConfig(8, 1, 1, 7, 4, 2),
        StageConfig(12, 2, 2, 3, 2, 1, mlp_ratio=2.0, cls_token=True),
    )
)
# transformers has no such network.
MIXED = keras_cvt.CvTConfig(
    (
        StageConfig(8, 1, 1, 4, 4, 0, projection="avg"),
        StageConfig(
            12, 1, 2, 3, 2, 1, projection="linear", qkv_bias=False, cls_token=True
        ),
    )
)
LABELS = ("ant", "bee", "crane fly")
TRANSFORM = EvalTransform((40, 48), 0.9)
IMAGES = np.random.default_rng(0).integers(0, 256, (3, 40, 48, 3), "uint8")
FLOATS = IMAGES.astype("float32")

AUGMENTATION = data.Augmentation(
    crop_scale=None, crop_padding=2, rand_augment=0, random_erasing=0, mixup=0, cutmix=0
)
RECIPE = training.Recipe(
    image_size=32,
    batch_size=4,
    epochs=4,
    learning_rate=5e-3,
    learning_rate_batch=4,
    warmup_epochs=1,
    drop_path_rate=0.0,
    augmentation=AUGMENTATION,
)
SHORT_RECIPE = training.Recipe(
    optimizer="sgd",
    image_size=32,
    batch_size=4,
    epochs=2,
    learning_rate=5e-3,
    learning_rate_batch=4,
    warmup_epochs=0,
    augmentation=AUGMENTATION,
)


def fill(model, seed=0):
    """Give every variable random values, norms' statistics too."""
    rng = np.random.default_rng(seed)
    for variable in model.variables:
        name, shape = variable.path.rpartition("/")[2], tuple(variable.shape)
        if "seed_generator" in variable.path:
            continue
        if name == "moving_variance":
            value = 0.5 + rng.random(shape)
        elif len(shape) < 2:
            value = 0.1 * rng.standard_normal(shape) + (name == "gamma")
        else:
            value = rng.standard_normal(shape) / np.sqrt(np.prod(shape[:-1]))
        variable.assign(value)


def network(config=CONFIG, **arguments):
    model = keras_cvt.CvT(config, **{"classes": 3, "name": "tiny"} | arguments)
    fill(model)
    model.eval_transform = TRANSFORM
    if arguments.get("include_top", True):
        model.labels = LABELS
    return model


def simplified():
    sizes = {"emb_dim": 8, "heads": 1, "depth": 1, "mlp_mult": 1}
    model = keras_cvt.CvTSimplified(
        classes=3, **{f"s{i}_{n}": v for i in (1, 2, 3) for n, v in sizes.items()}
    )
    fill(model)
    return model


def every_layer():
    """Return a functional model with every public layer."""
    layers = keras_cvt.layers
    size = {"height": 10, "width": 12}
    images = keras.Input((40, 48, 3))
    x = layers.ImagePreprocessing((40, 48), None, labels=LABELS)(images)
    stage = layers.ConvTransformerStage(8, 1, 1, 7, 4, 2, cls_token=True)(x)
    x = layers.ConvEmbed(8, 7, 4, 2)(x)
    x = layers.ConvProjection("dw_bn", 3)(x)
    x = keras.layers.Reshape((120, 8))(x)
    x = layers.ClassToken()(x)
    x = layers.ConvAttention(8, 2, cls_token=True)(x, **size)
    x = layers.DropPath(0.1)(x)
    x = layers.MLP(8)(x)
    x = layers.ConvTransformerBlock(8, 2, cls_token=True)(x, **size)
    model = keras.Model(images, {"tokens": x, "map": stage[0], "token": stage[1]})
    fill(model)
    return model


def save_models(expected):
    """Save models as `.keras`, and note what they compute."""
    classifier = network()
    logits = network(classifier_activation=None)
    RECIPE.compile(logits, batch_size=4, steps_per_epoch=2, jit_compile=False)
    lora = network()
    training.enable_lora(lora, 2)
    fill(lora)
    quantized = network()
    quantized.quantize("int8")
    grey = network(input_shape=(None, None, 1), include_preprocessing=False)
    backbone = network(include_top=False)
    mixed = network(MIXED, include_top=False)
    pyramid = keras.Model(mixed.input, mixed.pyramid_outputs)
    models = {
        "classifier": classifier,
        "logits": logits,
        "backbone": backbone,
        "fused": deploy.fuse(classifier),
        "fused_pyramid": deploy.fuse(pyramid),
        "quantized": quantized,
        "lora": lora,
        "simplified": simplified(),
        "grey": grey,
        "layers": every_layer(),
    }
    for name, model in models.items():
        if name == "logits":
            # So that its optimizer has something to remember.
            model.train_on_batch(FLOATS, np.eye(3, dtype="float32"))
        images = FLOATS[..., :1] / 255 if name == "grey" else FLOATS
        note(expected, name, model.predict(images, verbose=0))
        model.save(f"{name}.keras")
    expected["optimizer"] = np.array(
        [np.sum(np.abs(v)) for v in logits.optimizer.variables], "float64"
    )
    classifier.save_weights("classifier.weights.h5")
    CONFIG.to_json("config.json")
    return classifier


def note(expected, name, outputs):
    if isinstance(outputs, dict):
        expected |= {f"{name}/{key}": value for key, value in outputs.items()}
    else:
        expected[name] = outputs


def save_checkpoints(classifier, expected):
    save_checkpoint(classifier, "official.safetensors")
    gelu = network(activation="gelu")
    expected["transformers"] = gelu.predict(FLOATS, verbose=0)
    save_checkpoint(gelu, "transformers", layout="transformers")


def save_pages(classifier, expected):
    about = hub.About(
        description="Three insects.",
        license="mit",
        datasets=("me/insects",),
        tags=("insects",),
        evaluations=(hub.Evaluation("Insects", "me/insects", "accuracy", 0.75),),
    )
    hub.write_folder(classifier, "page", repo_id="me/tiny", labels=LABELS, about=about)
    # A release, whose record lies beside its folder.
    normalised = network(MIXED, include_preprocessing=False, classifier_activation=None)
    save_checkpoint(normalised, "avg.safetensors")
    images = (FLOATS / 255 - 0.45) / 0.225
    logits = normalised.predict(images, verbose=0)
    np.savez("reference.npz", input=images, logits=logits)
    hub.release(
        "avg.safetensors",
        "me/avg",
        "page_avg",
        config=MIXED,
        reference="reference.npz",
        about=about,
        dry_run=True,
    )
    expected["page_avg"] = network(MIXED).predict(FLOATS, verbose=0)


def export_files(classifier):
    for format, name in (
        ("litert", "model.tflite"),
        ("tf_saved_model", "saved_model"),
        ("onnx", "model.onnx"),
        ("openvino", "model.xml"),
    ):
        deploy.export(classifier, f"exported/{name}", format, source_weights="made up")


class Stop(keras.callbacks.Callback):
    """Breaks off after the second epoch."""

    def on_epoch_end(self, epoch, logs=None):
        if epoch == 1:
            raise KeyboardInterrupt


class StoppedRun(training.Run):
    def callbacks(self):
        return [*super().callbacks(), Stop()]


def write_photos(root):
    seed = 0
    for split, count in (("train", 4), ("validation", 2)):
        for name in ("cat", "dog"):
            for i in range(count):
                seed += 1
                write_image(root / split / name / f"{i}.png", seed, (32, 32))


def train(folder, recipe, photos, kind=training.Run, resume=False):
    run = kind(
        folder,
        {
            "model": CONFIG.to_dict(),
            "recipe": recipe.to_dict(),
            "batch_size": 4,
            "seed": 0,
            "classes": ("cat", "dog"),
        },
        resume=resume,
    )
    keras.utils.set_random_seed(0)
    model = keras_cvt.CvT(CONFIG, classes=2, classifier_activation=None)
    # Fresh weights lose little and learn little in four epochs.
    fill(model)
    splits = [data.open_source(photos, split) for split in ("train", "validation")]
    rows = training.fit(model, recipe, *splits, run, verbose=0)
    losses = np.array([[row["loss"], row["val_loss"]] for row in rows])
    return losses, model.predict(FLOATS, verbose=0)


def save_runs(expected, scratch):
    """Train, and note the losses and what the network computes in the end."""
    photos = scratch / "photos"
    write_photos(photos)
    whole = train(scratch / "whole", RECIPE, photos)
    try:
        train("run", RECIPE, photos, StoppedRun)
    except KeyboardInterrupt:
        pass
    # The promise holds today.
    shutil.copytree("run", scratch / "resumed")
    resumed = train(scratch / "resumed", RECIPE, photos, resume=True)
    for found, of_whole in zip(resumed, whole, strict=True):
        np.testing.assert_allclose(found, of_whole, rtol=1e-5)
    for name, (losses, outputs) in {
        "run": whole,
        "run_finished": train("run_finished", SHORT_RECIPE, photos),
    }.items():
        expected |= {f"{name}/losses": losses, f"{name}/last": outputs}
    for folder in ("run", "run_finished"):
        shutil.rmtree(Path(folder) / "tensorboard", ignore_errors=True)


def main():
    expected = {"images": IMAGES}
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        files = scratch / "files"
        files.mkdir()
        # Some files name the paths that they were given.
        os.chdir(files)
        classifier = save_models(expected)
        save_checkpoints(classifier, expected)
        save_pages(classifier, expected)
        export_files(classifier)
        save_runs(expected, scratch)
        os.chdir(HERE)
        shutil.make_archive(HERE / "files", "zip", files)
    np.savez_compressed(HERE / "expected.npz", **expected)


if __name__ == "__main__":
    main()
