"""Learning on small images: keras_cvt beside transformers' PyTorch CvT.

It trains one small network on a folder of 32 x 32 images, such as CIFAR-10's, for
several seeds, and prints accuracy and time. The official PyTorch code reaches 54.8 % on
10,000 training and 2,000 test images of CIFAR-10. The protocol is the same: AdamW, one
cycle of the learning rate with a peak of 1e-3, weight decay 0.05 on every parameter,
batch 128, flips, no drop path, 10 epochs.

    python benchmarks/learning.py --data FOLDER --seeds 0 1 2 --transformers
"""

import argparse
import dataclasses
import os
import tempfile
import time
from pathlib import Path

PEAK = 1e-3
BATCH_SIZE = 128


def ours(args, seed):
    """Train keras_cvt; return the test accuracy and loss."""
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    import keras

    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(args.threads)
        tf.config.threading.set_inter_op_parallelism_threads(args.threads)
    import keras_cvt
    from keras_cvt import StageConfig, data, training

    config = keras_cvt.CvTConfig(
        (
            StageConfig(32, 1, 1, 3, 2, 1),
            StageConfig(64, 1, 2, 3, 2, 1),
            StageConfig(128, 4, 4, 3, 2, 1, cls_token=True),
        )
    )
    flips = data.Augmentation(
        crop_scale=None, rand_augment=0, random_erasing=0, mixup=0, cutmix=0
    )
    recipe = training.Recipe(
        image_size=32,
        epochs=args.epochs,
        learning_rate=PEAK,
        learning_rate_batch=BATCH_SIZE,
        warmup_epochs=0.1 * args.epochs,
        warmup_learning_rate=PEAK / 25,
        final_learning_rate=PEAK / 25 / 1e4,
        weight_decay=0.05,
        no_decay=(),
        label_smoothing=0.0,
        drop_path_rate=0.0,
        augmentation=flips,
    )
    if args.recipe:
        recipe = dataclasses.replace(
            recipe,
            no_decay=training.Recipe().no_decay,
            label_smoothing=0.1,
            drop_path_rate=0.1,
            augmentation=data.Augmentation(
                crop_scale=None, crop_padding=4, rand_augment=5, mixup=0.2, cutmix=0.5
            ),
        )
    keras.utils.set_random_seed(seed)
    model = keras_cvt.CvT(
        config,
        classes=10,
        classifier_activation=None,
        drop_path_rate=recipe.drop_path_rate,
    )
    train = data.open_source(args.data, "train", check_images=False)
    test = data.open_source(args.data, "test", check_images=False)
    with tempfile.TemporaryDirectory() as folder:
        rows = training.fit(
            model,
            recipe,
            train,
            test,
            training.Run(Path(folder) / "run"),
            batch_size=BATCH_SIZE,
            seed=seed,
            cache=True,
            verbose=2,
        )
    return rows[-1]["val_accuracy"], rows[-1]["val_loss"]


def theirs(args, seed):
    """Train transformers' CvT the same way; return the test accuracy and loss."""
    import numpy as np
    import torch
    from PIL import Image
    from transformers import CvtConfig, CvtForImageClassification

    torch.set_num_threads(args.threads)
    torch.manual_seed(seed)
    # transformers cannot build a second stage with one block, because it indexes the
    # rates of drop path by stage. So build two blocks and delete one.
    config = CvtConfig(
        embed_dim=[32, 64, 128],
        num_heads=[1, 2, 4],
        depth=[1, 2, 4],
        patch_sizes=[3, 3, 3],
        patch_stride=[2, 2, 2],
        patch_padding=[1, 1, 1],
        drop_path_rate=[0.0, 0.0, 0.0],
        num_labels=10,
    )
    model = CvtForImageClassification(config)
    del model.cvt.encoder.stages[1].layers[1]

    def load(split):
        images, labels = [], []
        for label, folder in enumerate(sorted((Path(args.data) / split).iterdir())):
            for file in sorted(folder.iterdir()):
                images.append(np.asarray(Image.open(file).convert("RGB")))
                labels.append(label)
        pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255
        mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
        std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
        return (pixels - mean) / std, torch.tensor(labels)

    images, labels = load("train")
    test_images, test_labels = load("test")
    steps = len(images) // BATCH_SIZE
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, PEAK, total_steps=steps * args.epochs, pct_start=0.1
    )
    loss_of = torch.nn.CrossEntropyLoss()
    for epoch in range(args.epochs):
        model.train()
        order = torch.randperm(len(images))
        for step in range(steps):
            rows = order[step * BATCH_SIZE : (step + 1) * BATCH_SIZE]
            batch = images[rows]
            flipped = torch.rand(len(batch)) < 0.5
            batch[flipped] = batch[flipped].flip(-1)
            loss = loss_of(model(batch).logits, labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        model.eval()
        with torch.inference_mode():
            logits = torch.cat([model(b).logits for b in test_images.split(BATCH_SIZE)])
        accuracy = (logits.argmax(-1) == test_labels).float().mean().item()
        print(f"epoch {epoch + 1}: {accuracy:.4f}", flush=True)
    return accuracy, loss_of(logits, test_labels).item()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="folder with train/ and test/")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--transformers", action="store_true", help="train transformers' CvT too"
    )
    parser.add_argument(
        "--recipe", action="store_true", help="use augmentation and drop path"
    )
    args = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", str(args.threads))
    # Otherwise the first contender would wait for the disk.
    for file in Path(args.data).rglob("*.*"):
        file.read_bytes()
    for seed in args.seeds:
        for name, train in (("keras_cvt", ours), ("transformers", theirs)):
            if train is theirs and not args.transformers:
                continue
            start = time.perf_counter()
            accuracy, loss = train(args, seed)
            print(
                f"| {name} | seed {seed} | {args.epochs} epochs | {accuracy:.2%} | "
                f"{loss:.3f} | {time.perf_counter() - start:.0f} s |",
                flush=True,
            )


if __name__ == "__main__":
    main()
