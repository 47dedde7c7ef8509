"""A pushed model comes back, in every program that people use."""

import time
from pathlib import Path

import golden
import hub_models
import keras
import numpy as np
import pytest
from hub_client import loopback, run

import keras_cvt
from keras_cvt import hub
from keras_cvt._utils import files
from keras_cvt.checkpoints import load_checkpoint
from keras_cvt.repository import integrity

REPO = "me/flowers"
# Each load has an empty cache of its own.
USE = """
import sys
sys.path.insert(0, {tests!r})
import hub_models, keras_cvt, numpy as np
from huggingface_hub import constants

outputs = []
for i, load in enumerate({loads!r}):
    constants.HF_HUB_CACHE = {out!r} + str(i)
    outputs.append(hub_models.outputs(eval(load)))
np.save({out!r}, outputs)
"""
TRANSFORMERS = """
import sys
sys.path.insert(0, {tests!r})
import hub_models, numpy as np, torch
from transformers import AutoModelForImageClassification
from keras_cvt.layers.preprocessing import IMAGENET_MEAN, IMAGENET_STD

model = AutoModelForImageClassification.from_pretrained("me/flowers").eval()
{replace}
assert model.config.id2label[3] == "oak"
x = (hub_models.images() / 255 - IMAGENET_MEAN) / IMAGENET_STD
with torch.inference_mode():
    outputs = model(torch.tensor(x.transpose(0, 3, 1, 2), dtype=torch.float32))
np.save({out!r}, outputs.logits.numpy())
"""


@pytest.fixture(scope="module", params=["gelu", "quick_gelu"])
def pushed(request, tmp_path_factory):
    """A server that a model was pushed to, and the model."""
    model = hub_models.classifier(request.param)
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("pushed")
        with loopback(folder, patch) as server:
            report = hub.push(model, REPO, class_names=hub_models.LABELS)
            yield server, model, report


def in_new_process(code, server, tmp_path, **arguments):
    out = str(tmp_path / "out.npy")
    tests = str(Path(__file__).parents[1])
    run(code.format(tests=tests, out=out, **arguments), server, tmp_path)
    return np.load(out)


LOADS = (
    """keras_cvt.CvT(
        hub_models.config({activation!r}), weights="hf://me/flowers", classes=4
    )""",
    'keras_cvt.hub.load("me/flowers")',
    'keras_cvt.hub.load("me/flowers", revision={commit!r})',
    'keras_cvt.hub.load("hf://me/flowers@{commit}")',
)


def test_a_clean_process_loads_the_same_model(pushed, tmp_path):
    server, model, report = pushed
    activation = model.cvt_config.activation
    loads = [x.format(activation=activation, commit=report.commit) for x in LOADS]
    outputs = in_new_process(USE, server, tmp_path, loads=loads)
    expected = hub_models.outputs(model)
    for load, found in zip(loads, outputs, strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6, err_msg=load)


def test_transformers_opens_the_same_repository(pushed, tmp_path):
    pytest.importorskip("transformers")
    server, model, _ = pushed
    readme = server.repos[REPO]["README.md"].decode()
    replace = ""
    if model.cvt_config.activation == "quick_gelu":
        # As the card tells people to.
        replace = readme.split("outputs differ.\n\n```python\n")[1].split("```")[0]
    else:
        assert "QuickGELU" not in readme
    outputs = in_new_process(TRANSFORMERS, server, tmp_path, replace=replace)
    expected = hub_models.logits(model, hub_models.images())
    np.testing.assert_allclose(outputs, expected, rtol=0, atol=1e-4)


def test_the_repository_is_complete_private_and_made_in_one_commit(pushed):
    server, _, report = pushed
    assert server.private[REPO]
    assert len(server.history[REPO]) == 2  # the Hub's own, and ours
    assert report.commit == server.head(REPO)
    assert set(server.repos[REPO]) == {*report.files, ".gitattributes"}


def test_every_file_has_its_recorded_hash(pushed, tmp_path):
    server, _, report = pushed
    for name, data in server.repos[REPO].items():
        (tmp_path / name).write_bytes(data)
    sums = integrity.read_sums(tmp_path / integrity.SUMS)
    assert set(sums) == set(report.files) - {integrity.SUMS}
    for name, digest in sums.items():
        assert files.sha256(tmp_path / name) == digest


def test_class_names_and_transform_come_along(pushed, monkeypatch, tmp_path):
    from huggingface_hub import constants

    server, model, _ = pushed
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    loaded = hub.load(REPO)
    assert loaded.class_names == tuple(hub_models.LABELS)
    # The model that was pushed is not changed.
    assert model.class_names is None
    assert loaded.eval_transform == model.eval_transform
    assert loaded.cvt_config == model.cvt_config
    assert loaded.name == "tiny"
    assert load_checkpoint(loaded, f"hf://{REPO}").missing == ()


@pytest.mark.parametrize(
    "load", [hub.load_class_names, hub.load_labels], ids=["now", "in version 0.1.0"]
)
def test_class_names_are_loaded_without_the_weights(
    pushed, monkeypatch, tmp_path, load
):
    from huggingface_hub import constants

    server, _, report = pushed
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    # The weights cannot be downloaded at all.
    monkeypatch.setitem(server.status, "model.safetensors", 503)
    for name in (REPO, f"hf://{REPO}", f"{REPO}@{report.commit}"):
        assert load(name) == tuple(hub_models.LABELS)
    assert load(REPO, revision=report.commit) == tuple(hub_models.LABELS)
    downloaded = {path.name for path in tmp_path.rglob("snapshots/*/*")}
    assert downloaded == {"config.json", "SHA256SUMS"}


def test_class_names_of_a_repository_without_any_are_none(tmp_path, monkeypatch):
    with loopback(tmp_path, monkeypatch) as server:
        server.repos[REPO] = {"README.md": b"# Nothing else"}
        assert hub.load_class_names(REPO) is None
        with pytest.raises(FileNotFoundError, match="me/nothing"):
            hub.load_class_names("me/nothing")


def test_a_model_pushed_again_unchanged_makes_no_commit(pushed):
    server, model, report = pushed
    again = hub.push(model, REPO, labels=hub_models.LABELS)
    assert again.commit == report.commit
    # Now the model itself knows the names.
    model.class_names = hub_models.LABELS
    try:
        assert hub.push(model, REPO).commit == report.commit
    finally:
        model.class_names = None


def test_a_network_unknown_to_transformers_is_not_offered_to_it(tmp_path, monkeypatch):
    model = keras_cvt.CvTSimplified(
        classes=4, s1_emb_dim=8, s2_emb_dim=8, s3_emb_dim=8, s3_depth=1
    )
    with loopback(tmp_path, monkeypatch) as server:
        hub.push(model, REPO)
        assert b'"model_type": "keras_cvt"' in server.repos[REPO]["config.json"]
        loaded = hub.load(REPO)
    assert loaded.cvt_config == model.cvt_config
    found, expected = map(hub_models.outputs, (loaded, model))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_exported_files_are_pushed_and_removed_by_a_push_without_them(
    tmp_path, monkeypatch
):
    exported = tmp_path / "exported"
    (exported / "saved_model" / "variables").mkdir(parents=True)
    (exported / "saved_model" / "saved_model.pb").write_bytes(b"graph")
    (exported / "saved_model" / "variables" / "variables.index").write_bytes(b"index")
    (exported / "model_int8.tflite").write_bytes(b"flat")
    (exported / "artefacts.json").write_text(
        '[{"path": "model_int8.tflite", "format": "LiteRT, int8", "difference": 0.03,'
        ' "milliseconds": 12.5, "agreement": 0.99}]'
    )
    model = hub_models.classifier()
    with loopback(tmp_path, monkeypatch) as server:
        hub.push(model, REPO, artefacts=exported)
        files = server.repos[REPO]
        assert files["saved_model/variables/variables.index"] == b"index"
        assert "artefacts.json" not in files
        readme = files["README.md"].decode()
        assert (
            "| `model_int8.tflite` | LiteRT, int8 | 0.0 | 12.5 | 3.0e-02 | 99.0% |"
            in readme
        )
        assert "| `saved_model` | SavedModel | 0.0 |  | not compared |  |" in readme
        assert 'Interpreter("model_int8.tflite")' in readme
        files["notes.txt"] = b"the owner's own"
        hub.push(model, REPO)
        files = server.repos[REPO]
        assert not [name for name in files if "saved_model" in name or "tflite" in name]
        assert files["notes.txt"] == b"the owner's own"


def test_a_download_that_is_cut_half_way_is_complete_in_the_end(
    pushed, tmp_path, monkeypatch
):
    from huggingface_hub import constants

    server, model, _ = pushed
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    weights = server.repos[REPO]["model.safetensors"]
    server.cut_after["model.safetensors"] = len(weights) // 2
    try:
        loaded = hub.load(REPO)
    except OSError as error:
        assert "next call resumes" in str(error)
        loaded = hub.load(REPO)
    for ours, theirs in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_folder_written_again_holds_only_new_files(tmp_path):
    exported = tmp_path / "exported"
    exported.mkdir()
    (exported / "model.tflite").write_bytes(b"flat")
    model, folder = hub_models.classifier(), tmp_path / "folder"
    hub.write_folder(model, folder, repo_id=REPO, artefacts=exported)
    assert (folder / "model.tflite").is_file()
    (folder / ".writing-killed").mkdir()
    (folder / ".writing-killed" / "model.weights.h5").write_bytes(b"half")
    hub.write_folder(model, folder, repo_id=REPO)
    left = {path.name for path in folder.rglob("*")}
    assert left == {*integrity.read_sums(folder / integrity.SUMS), integrity.SUMS}


@pytest.mark.parametrize("name", ["README.md", ".env", "SHA256SUMS"])
def test_a_folder_with_other_files_stays_as_it_is(tmp_path, name):
    content = "0" * 64 + "  notes.txt\n"
    (tmp_path / name).write_text(content)
    with pytest.raises(FileExistsError, match=name):
        hub.write_folder(hub_models.classifier(), tmp_path, repo_id=REPO)
    assert (tmp_path / name).read_text() == content
    assert len(list(tmp_path.iterdir())) == 1


def test_a_foreign_file_in_a_written_folder_is_neither_published_nor_lost(tmp_path):
    model = hub_models.classifier()
    hub.write_folder(model, tmp_path, repo_id=REPO)
    before = (tmp_path / "README.md").read_bytes()
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="notes.txt"):
        hub.write_folder(model, tmp_path, repo_id=REPO)
    assert (tmp_path / "README.md").read_bytes() == before
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_the_files_of_a_killed_call_are_replaced(tmp_path, monkeypatch):
    def killed(*_):
        raise OSError

    model = hub_models.classifier()
    with monkeypatch.context() as patch:
        patch.setattr(integrity, "write_sums", killed)
        with pytest.raises(OSError):
            hub.write_folder(model, tmp_path, repo_id=REPO)
    assert (tmp_path / "README.md").is_file()
    hub.write_folder(model, tmp_path, repo_id=REPO)
    assert not list(tmp_path.glob(".writing-*"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda model: model.quantize("int8"), "quantized"),
        (lambda model: keras_cvt.training.enable_lora(model, 2), "LoRA"),
    ],
    ids=["int8", "LoRA"],
)
def test_a_model_that_no_checkpoint_can_hold_is_not_pushed(tmp_path, change, message):
    model = hub_models.classifier()
    change(model)
    with pytest.raises(ValueError, match=message):
        hub.write_folder(model, tmp_path, repo_id=REPO)


def backbone(model):
    return keras_cvt.CvT(model.cvt_config, include_top=False)


def regression(model):
    model = model.with_activation(None)
    model.output_kind = "regression"
    return model


def unusual_activation(model):
    return model.with_activation("tanh")


@pytest.mark.parametrize("change", [backbone, regression, unusual_activation])
def test_only_a_classifier_is_pushed(tmp_path, change):
    with pytest.raises(ValueError, match="ends in its head"):
        hub.write_folder(change(hub_models.classifier()), tmp_path, repo_id=REPO)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("activation", ["sigmoid", None])
def test_another_activation_of_the_head_comes_back(tmp_path, monkeypatch, activation):
    model = hub_models.classifier().with_activation(activation)
    with loopback(tmp_path, monkeypatch):
        hub.push(model, REPO)
        loaded = hub.load(REPO)
    assert loaded.description.activation == model.description.activation
    assert loaded.output_kind == model.output_kind
    found, expected = map(hub_models.outputs, (loaded, model))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "float32"])
def test_a_model_of_any_precision_is_pushed(tmp_path, dtype):
    """The program that pushes may have another precision than the model."""
    keras.config.set_dtype_policy(dtype)
    try:
        model = hub_models.classifier()
    finally:
        keras.config.set_dtype_policy("float32")
    assert hub.write_folder(model, tmp_path, repo_id=REPO) == 0
    assert keras.config.dtype_policy().name == "float32"


def with_new_head(model):
    head = keras.layers.Dense(3, activation="softmax", name="flowers")
    return keras_cvt.CvTModel(model.input, head(model.layers[-2].output), name="new")


def with_softmax_layer(model):
    model = model.with_activation(None)
    softmax = keras.layers.Softmax()(model.output)
    return keras_cvt.CvTModel(model.input, softmax, name="new")


def of_fixed_size(model):
    return keras_cvt.CvT(model.cvt_config, classes=4, input_shape=(32, 48, 3))


def of_grey_images(model):
    shape = (None, None, 1)
    return keras_cvt.CvT(
        model.cvt_config, classes=4, input_shape=shape, include_preprocessing=False
    )


@pytest.mark.parametrize(
    "change", [with_new_head, with_softmax_layer, of_fixed_size, of_grey_images]
)
def test_a_changed_model_comes_back(tmp_path, monkeypatch, change):
    model = change(hub_models.classifier())
    with loopback(tmp_path, monkeypatch):
        hub.push(model, REPO)
        loaded = hub.load(REPO)
    height, width = (side or 64 for side in model.description.image_size)
    x = np.random.default_rng(0).uniform(0, 255, (2, height, width, model.channels))
    found, expected = (hub_models.outputs(m, x) for m in (loaded, model))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def with_layer_in_front(layer):
    inputs = keras.Input((64, 64, 3))
    model = keras_cvt.CvT(hub_models.config(), classes=4, input_tensor=layer(inputs))
    golden.fill(model)
    return model


def test_a_model_with_augmentation_in_front_is_pushed(tmp_path):
    model = with_layer_in_front(keras.layers.RandomFlip())
    assert hub.write_folder(model, tmp_path, repo_id=REPO) <= 1e-4


def test_a_model_that_computes_in_front_of_the_network_is_refused(tmp_path):
    """The repository cannot hold the layer, so that the outputs would be wrong."""
    hub.write_folder(hub_models.classifier(), tmp_path, repo_id=REPO)
    earlier = {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()}
    model = with_layer_in_front(keras.layers.Rescaling(2.0, name="doubled"))
    with pytest.raises(ValueError, match=r"with \['doubled'\]"):
        hub.write_folder(model, tmp_path, repo_id=REPO)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == earlier


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The files that a push of a quick_gelu network uploads."""
    folder = tmp_path_factory.mktemp("page")
    hub.write_folder(hub_models.classifier("quick_gelu"), folder, repo_id=REPO)
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture
def flowers(page, tmp_path, monkeypatch):
    """A server with the files of a pushed quick_gelu network."""
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    with loopback(tmp_path, monkeypatch, {REPO: dict(page)}) as server:
        yield server


def load_weights():
    return keras_cvt.CvT(hub_models.config(), weights=f"hf://{REPO}", classes=4)


@pytest.mark.parametrize(
    "name", ["config.json", "preprocessor_config.json", "SHA256SUMS"]
)
def test_a_description_that_cannot_be_downloaded_is_not_taken_for_missing(
    flowers, name
):
    for status in (403, 429, 503):
        flowers.status[name] = status
        for load in (load_weights, lambda: hub.load(REPO)):
            with pytest.raises(OSError, match=name):
                load()
    del flowers.status[name]
    assert load_weights().cvt_config.activation == "quick_gelu"


def test_a_file_cached_by_load_checkpoint_has_its_description_offline(
    flowers, monkeypatch
):
    from huggingface_hub import constants

    load_checkpoint(hub_models.classifier("quick_gelu"), f"hf://{REPO}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert load_weights().cvt_config.activation == "quick_gelu"


def test_load_checkpoint_needs_no_description(flowers):
    flowers.status["config.json"] = 503
    model = hub_models.classifier("quick_gelu")
    assert load_checkpoint(model, f"hf://{REPO}").missing == ()


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_recorded_file_that_is_gone_is_an_error(flowers, name):
    files = flowers.repos[REPO]
    del files[name]
    if name != "config.json":
        # An unrecorded file replaces it, and the other recorded one is gone too.
        files["tf_model.h5"] = files.pop("model.weights.h5")
    for load in (load_weights, lambda: hub.load(REPO)):
        with pytest.raises(ValueError, match=f"SHA256SUMS.*{name}"):
            load()


@pytest.mark.parametrize("argument", ["class_names", "labels"])
@pytest.mark.parametrize("names", [["a", "b"], "abcd"])
def test_every_class_needs_a_name(tmp_path, argument, names):
    with pytest.raises(ValueError, match="Expected 4 class names"):
        hub.write_folder(
            hub_models.classifier(), tmp_path, repo_id=REPO, **{argument: names}
        )
