"""CvTConfig: round trips through JSON, and errors for invalid values."""

import dataclasses
import json
from pathlib import Path

import pytest

from keras_cvt.config import CVT_13, CVT_21, CVT_W24, CvTConfig, StageConfig

TRANSFORMERS_FILE = Path(__file__).parent / "data/checkpoints/hf_pt/config.json"

# Every value differs from its default and from the values beside it.
STAGE = {
    "embed_dim": 24,
    "depth": 3,
    "num_heads": 4,
    "patch_size": 5,
    "patch_stride": 3,
    "patch_padding": 2,
    "mlp_ratio": 2.5,
    "qkv_bias": False,
    "drop_rate": 0.1,
    "attention_drop_rate": 0.2,
    "drop_path_rate": 0.3,
    "cls_token": True,
    "projection": "avg",
    "kernel_size": 7,
    "padding_q": 0,
    "padding_kv": 3,
    "stride_q": 4,
    "stride_kv": 6,
    "head_dim": 5,
    "scale": "head_dim",
    "shared_kv": True,
    "embed_drop_rate": 0.4,
}
CONFIG = CvTConfig(
    stages=(StageConfig(16, 1, 1, 7, 4, 2), StageConfig(**STAGE)),
    activation="gelu",
    init="xavier",
    final_norm=False,
)


def stage(**changes):
    return StageConfig(**{**STAGE, "projection": "linear", "head_dim": None, **changes})


def test_the_test_stage_leaves_no_field_at_its_default():
    defaults = {field.name: field.default for field in dataclasses.fields(StageConfig)}
    assert set(STAGE) == set(defaults)
    assert [name for name in STAGE if STAGE[name] == defaults[name]] == []


# The published networks


@pytest.mark.parametrize(
    ("config", "embed_dims", "num_heads", "depths", "drop_path_rate"),
    [
        (CVT_13, (64, 192, 384), (1, 3, 6), (1, 2, 10), 0.1),
        (CVT_21, (64, 192, 384), (1, 3, 6), (1, 4, 16), 0.1),
        (CVT_W24, (192, 768, 1024), (3, 12, 16), (2, 2, 20), 0.3),
    ],
    ids=["CvT-13", "CvT-21", "CvT-W24"],
)
def test_a_published_network_has_the_papers_numbers(
    config, embed_dims, num_heads, depths, drop_path_rate
):
    shared = {
        "mlp_ratio": 4.0,
        "qkv_bias": True,
        "drop_rate": 0.0,
        "attention_drop_rate": 0.0,
        "projection": "dw_bn",
        "kernel_size": 3,
        "padding_q": 1,
        "padding_kv": 1,
        "stride_q": 1,
        "stride_kv": 2,
        "head_dim": None,
        "scale": "embed_dim",
        "shared_kv": False,
        "embed_drop_rate": None,
    }
    assert [dataclasses.asdict(stage) for stage in config.stages] == [
        {
            "embed_dim": embed_dims[i],
            "num_heads": num_heads[i],
            "depth": depths[i],
            "patch_size": (7, 3, 3)[i],
            "patch_stride": (4, 2, 2)[i],
            "patch_padding": (2, 1, 1)[i],
            "drop_path_rate": (0.0, 0.0, drop_path_rate)[i],
            "cls_token": i == 2,
            **shared,
        }
        for i in range(3)
    ]


@pytest.mark.parametrize("config", [CVT_13, CVT_21, CVT_W24])
def test_a_published_network_has_quick_gelu_and_truncated_normal_weights(config):
    assert (config.activation, config.init) == ("quick_gelu", "trunc_norm")


# JSON


def test_json_text_gives_the_same_config_again():
    assert CvTConfig.from_json(CONFIG.to_json()) == CONFIG


def test_a_json_file_gives_the_same_config_again(tmp_path):
    path = tmp_path / "config.json"
    CONFIG.to_json(path)
    assert CvTConfig.from_json(path) == CONFIG


def test_the_path_of_a_json_file_may_be_a_string(tmp_path):
    path = tmp_path / "config.json"
    CONFIG.to_json(path)
    assert CvTConfig.from_json(str(path)) == CONFIG


def test_to_dict_contains_only_json_types():
    values = CONFIG.to_dict()
    assert json.loads(json.dumps(values)) == values


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{not json", "Expected the configuration of a network in JSON.*Received"),
        ("{}", r"Missing: \['stages'\]"),
        ('{"stages": [], "depth": 1}', r"Unknown: \['depth'\]"),
        ('{"stages": []}', "non-empty.*Received"),
    ],
)
def test_invalid_json_text_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        CvTConfig.from_json(text)


def test_a_json_file_without_an_object_is_refused(tmp_path):
    path = tmp_path / "config.json"
    path.write_text("[1, 2]")
    with pytest.raises(ValueError, match="Expected a JSON object"):
        CvTConfig.from_json(path)


@pytest.mark.parametrize("read", [CvTConfig.from_json, CvTConfig.from_transformers])
def test_a_file_that_is_no_text_is_refused_by_its_name(tmp_path, read):
    path = tmp_path / "model.keras"
    path.write_bytes(b"PK\x03\x04\xff\xfe")
    with pytest.raises(ValueError, match=r"in JSON.*Received: .*model\.keras$"):
        read(path)


def test_an_unknown_field_of_a_stage_is_named():
    with pytest.raises(ValueError, match=r"Unknown: \['dept'\]"):
        CvTConfig(stages=[{**STAGE, "dept": 1}])


def test_a_missing_field_of_a_stage_is_named():
    without_depth = {name: STAGE[name] for name in STAGE if name != "depth"}
    with pytest.raises(ValueError, match=r"Missing: \['depth'\]"):
        CvTConfig(stages=[without_depth])


def test_stages_may_be_dicts():
    assert CvTConfig(stages=[STAGE]) == CvTConfig(stages=(StageConfig(**STAGE),))


def test_a_config_with_dicts_as_stages_is_hashable():
    assert hash(CvTConfig(stages=[STAGE])) == hash(CvTConfig((StageConfig(**STAGE),)))


@pytest.mark.parametrize("values", [None, 5, "stages", [("stages", [])]])
def test_from_dict_refuses_what_is_not_a_dict(values):
    with pytest.raises(ValueError, match="Expected a CvTConfig or a dict.*Received"):
        CvTConfig.from_dict(values)


# transformers


def transformers_values(**changes):
    return {**json.loads(TRANSFORMERS_FILE.read_text()), **changes}


def test_transformers_config_json_becomes_a_config():
    last = {"drop_path_rate": 0.1, "cls_token": True}
    assert CvTConfig.from_transformers(TRANSFORMERS_FILE) == CvTConfig(
        stages=(
            StageConfig(16, 1, 1, 7, 4, 2),
            StageConfig(32, 2, 2, 3, 2, 1),
            StageConfig(48, 3, 3, 3, 2, 1, **last),
        ),
        activation="gelu",
    )


def test_from_json_reads_a_config_json_of_transformers():
    expected = CvTConfig.from_transformers(TRANSFORMERS_FILE)
    assert CvTConfig.from_json(TRANSFORMERS_FILE) == expected


def test_the_key_activation_of_transformers_config_is_used():
    values = transformers_values(activation="quick_gelu")
    assert CvTConfig.from_transformers(values).activation == "quick_gelu"


# Without the options that transformers does not have.
FOR_TRANSFORMERS = CvTConfig(
    stages=tuple(
        dataclasses.replace(
            stage,
            head_dim=None,
            scale="embed_dim",
            shared_kv=False,
            embed_drop_rate=None,
        )
        for stage in CONFIG.stages
    ),
    activation="gelu",
    init="xavier",
)


@pytest.mark.parametrize(
    "config", [FOR_TRANSFORMERS, CVT_13], ids=["gelu", "quick_gelu"]
)
def test_to_transformers_and_from_transformers_are_a_round_trip(config):
    values = json.loads(json.dumps(config.to_transformers()))
    assert CvTConfig.from_transformers(values) == config


def test_to_transformers_equals_a_file_that_transformers_wrote():
    ours = CvTConfig.from_transformers(TRANSFORMERS_FILE).to_transformers(
        classes=10, image_size=64
    )
    theirs = transformers_values(activation="gelu", init="trunc_norm")
    for key in (
        "dtype",
        "initializer_range",
        "layer_norm_eps",
        "transformers_version",
    ):
        del theirs[key]
    assert ours == theirs


def test_to_transformers_stores_class_names():
    names = ["ant", "bee"]
    for arguments in ({"class_names": names}, {"labels": names}):
        values = CVT_13.to_transformers(classes=2, **arguments)
        assert values["id2label"] == {"0": "ant", "1": "bee"}
        assert values["label2id"] == {"ant": 0, "bee": 1}
    assert CVT_13.to_transformers(classes=1)["id2label"] == {"0": "LABEL_0"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "vit"}, "of a CvT"),
        ({"depth": [1, 2]}, r"`depth` must be a list with one value per stage \(3\)"),
        ({"qkv_projection_method": "dw_bn"}, "`qkv_projection_method` must be a list"),
        ({"num_heads": [1, 2, 5]}, "divisible"),
        ({"embed_dim": 64}, "`embed_dim` must be a list"),
        ({"embed_dim": []}, "must be a list with one value per stage"),
        ({"embed_dim": [[1], [2], [3]]}, "`embed_dim` must be an integer"),
    ],
)
def test_an_invalid_transformers_config_is_refused(changes, message):
    with pytest.raises(ValueError, match=f"{message}.*Received"):
        CvTConfig.from_transformers(transformers_values(**changes))


def test_transformers_config_without_depth_is_refused():
    values = transformers_values()
    del values["depth"]
    with pytest.raises(ValueError, match=r"Missing: \['depth'\]"):
        CvTConfig.from_transformers(values)


# Values


BAD_VALUES = [
    ("embed_dim", 0),
    ("embed_dim", 24.0),
    ("depth", 0),
    ("depth", True),
    ("num_heads", 0),
    ("num_heads", 5),
    ("patch_size", 0),
    ("patch_stride", 0),
    ("patch_padding", -1),
    ("mlp_ratio", 0),
    ("mlp_ratio", "4"),
    ("mlp_ratio", float("inf")),
    ("qkv_bias", 1),
    ("cls_token", None),
    ("drop_rate", 1.0),
    ("drop_rate", float("nan")),
    ("attention_drop_rate", -0.1),
    ("drop_path_rate", "0.1"),
    ("projection", "conv"),
    ("kernel_size", 0),
    ("padding_q", -1),
    ("padding_kv", -1),
    ("stride_q", 0),
    ("stride_kv", 0),
    ("head_dim", 0),
    ("scale", "sqrt"),
    ("shared_kv", 1),
    ("embed_drop_rate", 1.0),
]


@pytest.mark.parametrize(("name", "value"), BAD_VALUES)
def test_a_bad_value_is_named_and_shown(name, value):
    with pytest.raises(ValueError, match=f"`{name}`.*Received: .*{name}={value!r}"):
        stage(**{name: value})


@pytest.mark.parametrize(
    "changes",
    [
        {"stride_q": 2, "padding_q": 1},
        {"stride_q": 1, "padding_q": 0},
        {"stride_q": 1, "padding_q": 1, "kernel_size": 4},
    ],
)
def test_a_convolved_query_must_keep_height_and_width(changes):
    with pytest.raises(ValueError, match="residual.*Received: stride_q="):
        stage(**{"projection": "dw_bn", "kernel_size": 3, **changes})


@pytest.mark.parametrize("projection", ["avg", "linear"])
def test_a_query_that_is_not_convolved_may_have_any_stride(projection):
    assert stage(projection=projection, stride_q=2).stride_q == 2


def test_average_pooling_refuses_windows_of_padding_only():
    with pytest.raises(ValueError, match="Received: padding=3, kernel_size=5"):
        stage(projection="avg", kernel_size=5, padding_kv=3)


@pytest.mark.parametrize("stages", [(), None, 3, "stage", STAGE])
def test_stages_must_be_a_non_empty_sequence(stages):
    with pytest.raises(ValueError, match="non-empty sequence.*Received"):
        CvTConfig(stages=stages)


def test_a_stage_of_another_type_is_refused():
    with pytest.raises(ValueError, match="Expected a StageConfig.*Received: 64"):
        CvTConfig(stages=(64,))


@pytest.mark.parametrize(
    ("name", "value"), [("activation", "relu"), ("init", "he_normal")]
)
def test_an_unknown_choice_raises_an_error_with_the_valid_ones(name, value):
    with pytest.raises(ValueError, match=f"`{name}`.*one of.*Received: {name}"):
        CvTConfig(stages=[STAGE], **{name: value})


@pytest.mark.parametrize("config", [CONFIG, CONFIG.stages[0]])
def test_a_config_cannot_be_changed(config):
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.depth = 2


# Overrides


def rates(config, name):
    return [getattr(stage, name) for stage in config.stages]


@pytest.mark.parametrize("name", ["drop_rate", "attention_drop_rate"])
def test_dropout_overrides_act_on_every_stage(name):
    assert rates(CVT_13.with_overrides(**{name: 0.5}), name) == [0.5, 0.5, 0.5]


def test_a_drop_path_override_acts_on_the_last_stage_only():
    changed = CVT_13.with_overrides(drop_path_rate=0.5)
    assert rates(changed, "drop_path_rate") == [0.0, 0.0, 0.5]


def test_an_activation_override_replaces_the_activation():
    assert CVT_13.with_overrides(activation="gelu").activation == "gelu"


def test_an_override_of_0_is_applied():
    changed = CVT_13.with_overrides(drop_path_rate=0.0)
    assert changed.stages[-1].drop_path_rate == 0.0


def test_no_override_changes_nothing():
    assert CONFIG.with_overrides() == CONFIG


def test_overrides_do_not_change_the_original():
    before = CVT_13.to_dict()
    CVT_13.with_overrides(drop_rate=0.5, drop_path_rate=0.5)
    assert CVT_13.to_dict() == before


def test_a_bad_override_is_refused():
    with pytest.raises(ValueError, match="Received: drop_path_rate=1.5"):
        CVT_13.with_overrides(drop_path_rate=1.5)
