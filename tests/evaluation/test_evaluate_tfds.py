"""`evaluate` on data sets of TensorFlow Datasets."""

import io

import pytest
from evaluated import accuracies, network, picture, scores_of, write_real

from keras_cvt.evaluation import BENCHMARKS, evaluate

tfds = pytest.importorskip("tensorflow_datasets")


@pytest.fixture(scope="module")
def model():
    return network()


class Animals(tfds.core.GeneratorBasedBuilder):
    """The first four classes, with ImageNet's file names; some labels are missing."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = [
        tfds.core.BuilderConfig(name=name) for name in ("good", "unlabelled", "plain")
    ]

    def _info(self):
        features = {
            "image": tfds.features.Image(encoding_format="jpeg"),
            "label": tfds.features.ClassLabel(names=["bee", "ant", "dog", "cat"]),
            "file_name": tfds.features.Text(),
        }
        if self.builder_config.name == "plain":
            del features["file_name"]
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features)
        )

    def _split_generators(self, dl_manager):
        return {"test": self._generate_examples()}

    def _generate_examples(self):
        for i in range(20):
            example = {"image": io.BytesIO(animal(i)), "label": i % 4}
            if self.builder_config.name == "unlabelled":
                example["label"] = -1
            if self.builder_config.name != "plain":
                example["file_name"] = f"ILSVRC2012_val_{i + 1:08d}.JPEG"
            yield i, example


def animal(seed):
    content = io.BytesIO()
    picture(seed, (25, 18)).save(content, "JPEG", quality=95)
    return content.getvalue()


@pytest.fixture(scope="module")
def animals(tmp_path_factory):
    """The folder that holds the prepared data sets."""
    root = tmp_path_factory.mktemp("tensorflow_datasets")
    for config in Animals.BUILDER_CONFIGS:
        Animals(config=config.name, data_dir=root).download_and_prepare()
    return root


@pytest.mark.parametrize("by_name", [True, False])
def test_a_data_set_is_read_with_its_labels(model, animals, tmp_path, by_name):
    source = "animals/good" if by_name else animals / "animals/good/1.0.0"
    found = evaluate(model, source, data_dir=animals, batch_size=8)
    paths, labels = [], []
    for i in range(20):
        paths.append(tmp_path / f"{i}.jpg")
        paths[-1].write_bytes(animal(i))
        labels.append([1, 0, 3, 2][i % 4])
    expected = accuracies(scores_of(model, paths), labels)
    assert (found.top1, found.top5) == pytest.approx(expected)
    assert (found.dataset, found.split) == ("animals/good", "test")
    part = evaluate(model, source, "test[:50%]", data_dir=animals)
    assert (part.count, part.split) == (10, "test[:50%]")


def test_reassessed_labels_are_found_by_the_data_sets_file_names(
    model, animals, tmp_path
):
    paths = []
    for i in range(20):
        paths.append(tmp_path / f"{i}.jpg")
        paths[-1].write_bytes(animal(i))
    best = scores_of(model, paths).argmax(axis=1)
    right = [[int(best[i])] if i % 3 else [] for i in range(10)]
    right += [[(int(best[i]) + 1) % 8] for i in range(10, 20)]
    real = write_real(tmp_path / "real.json", right)
    found = evaluate(model, "animals/good", data_dir=animals, real_labels=real)
    assert (found.count, found.unlabelled) == (16, 4)
    assert found.top1 == pytest.approx(100 * 6 / 16)
    with pytest.raises(ValueError, match="data set with file names.*animals/plain"):
        evaluate(model, "animals/plain", data_dir=animals, real_labels=real)


def test_a_data_set_without_labels_is_refused(model, animals):
    with pytest.raises(ValueError, match="labels of 0-3. Received: label -1 of test"):
        evaluate(model, "animals/unlabelled", data_dir=animals)


def test_the_names_in_tensorflow_datasets_exist():
    for record in BENCHMARKS.values():
        if record.source:
            builder = tfds.builder_cls(record.source.split("/")[0])
            configs = [config.name for config in builder.BUILDER_CONFIGS]
            assert set(record.source.split("/")[1:]) <= set(configs)
