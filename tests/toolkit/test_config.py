"""Configuration: refusals with the nearest key, types, hashing, ranges."""

from __future__ import annotations

import random
import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from yacs.config import CfgNode

from cpt_plugin.config_identity import NEUTRAL_KEYS, config_hash, flatten
from cpt_plugin.errors import ConfigError
from cpt_plugin.toolkit.embedded.config import (
    add_package_keys,
    follow_shots,
    get_cfg_default,
    merge_list,
    resolve_seed,
    validate,
)


def test_values_reach_their_keys_from_files_and_lists(tmp_path):
    (tmp_path / "a.yaml").write_text(
        "OPTIM:\n  LR: 0.002\n  NAME: sgd\n  STEPSIZE: [3, 5]\nINPUT:\n  SIZE: (32, 32)\n"
    )
    cfg = get_cfg_default()
    cfg.merge_from_file(str(tmp_path / "a.yaml"))
    cfg.merge_from_list(
        ["OPTIM.LR", "2e-3", "SEED", "7", "USE_CUDA", "False", "INPUT.TRANSFORMS", "('normalize',)"]
    )
    assert (cfg.OPTIM.LR, cfg.OPTIM.NAME, cfg.SEED, cfg.USE_CUDA) == (0.002, "sgd", 7, False)
    assert cfg.INPUT.SIZE == (32, 32)
    assert cfg.OPTIM.STEPSIZE == (3, 5)
    assert cfg.INPUT.TRANSFORMS == ("normalize",)


def test_defaults_are_fresh_every_time():
    get_cfg_default().INPUT.PIXEL_MEAN.append(9.0)
    assert len(get_cfg_default().INPUT.PIXEL_MEAN) == 3


def test_loader_workers_default_to_none():
    cfg = get_cfg_default()
    assert cfg.DATALOADER.NUM_WORKERS == 0
    assert cfg.DATASET.WORLD == ""
    assert cfg.TRAIN.CHECKPOINT_SECONDS == 30.0
    assert cfg.DATASET.IMBALANCE_TAU == 1.0


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (["OPTIM.LRR", "1"], ["OPTIM.LRR", "OPTIM.LR"]),
        (["optim.lr", "1"], ["optim.lr", "'OPTIM.LR'"]),
        (["LR", "1"], ["'LR'", "OPTIM.LR"]),
        (["OPTIM.MAX_EPOCH", "1.5"], ["OPTIM.MAX_EPOCH", "int", "1.5"]),
        (["OPTIM.MAX_EPOCH", "True"], ["OPTIM.MAX_EPOCH", "int"]),
        (["USE_CUDA", "1"], ["USE_CUDA", "bool"]),
        (["OPTIM.LR", "nan"], ["OPTIM.LR", "float"]),
        (["OPTIM.LR", "1e999"], ["OPTIM.LR", "finite"]),
        (["INPUT.SIZE", "32"], ["INPUT.SIZE", "tuple"]),
        (["INPUT.SIZE", "('a', 'b')"], ["INPUT.SIZE", "'a'"]),
        (["OPTIM", "sgd"], ["OPTIM", "group"]),
        (["OPTIM.LR.X", "1"], ["OPTIM.LR.X"]),
        (["OPTIM.LR"], ["OPTIM.LR", "pairs"]),
        (["OPTIM.NAME", None], ["OPTIM.NAME", "str"]),
    ],
)
def test_wrong_options_are_refused_by_name(options, parts):
    with pytest.raises(ConfigError) as caught:
        get_cfg_default().merge_from_list(options)
    for part in parts:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("OPTIM:\n  LR: 1\n  LR: 2\n", "twice"),
        ("- 1\n- 2\n", "list"),
        ("OPTIM: [", "not a valid"),
        ("OPTIM:\n", "group"),
        ("OPTIM:\n  LR: .nan\n", "finite"),
        ("? [1, 2]\n: 3\n", "bad.yaml"),
        ("!!python/object/apply:os.system ['true']\n", "not a valid"),
    ],
)
def test_wrong_files_are_refused(tmp_path, text, part):
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(ConfigError, match=part):
        get_cfg_default().merge_from_file(tmp_path / "bad.yaml")


def test_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"absent\.yaml"):
        get_cfg_default().merge_from_file(tmp_path / "absent.yaml")


def test_frozen_configuration_refuses_merges():
    cfg = get_cfg_default()
    cfg.freeze()
    with pytest.raises(ConfigError, match="frozen"):
        cfg.merge_from_list(["SEED", 1])


def test_text_keys_keep_text_that_looks_like_a_number():
    cfg = get_cfg_default()
    cfg.merge_from_list(["DATASET.ROOT", "2024", "DATASET.NAME", "'quoted'"])
    assert cfg.DATASET.ROOT == "2024"
    assert cfg.DATASET.NAME == "quoted"


def test_nearest_key_is_right_for_typos_of_one_or_two_letters():
    rng, keys, right = random.Random(0), list(flatten(get_cfg_default())), 0
    trials = 400
    for _ in range(trials):
        key = rng.choice(keys)
        letters = list(key)
        for _ in range(rng.choice([1, 2])):
            letters[rng.randrange(len(letters))] = rng.choice(string.ascii_uppercase)
        typo = "".join(letters)
        if typo in keys:
            right += 1
            continue
        with pytest.raises(ConfigError) as caught:
            get_cfg_default().merge_from_list([typo, 1])
        right += f"{key!r}?" in str(caught.value)
    assert right / trials >= 0.95


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.one_of(st.sampled_from(sorted(flatten(get_cfg_default()))), st.text(max_size=12)), max_size=4
    ),
    st.lists(
        st.one_of(st.text(max_size=12), st.integers(), st.floats(), st.none(), st.booleans()), max_size=4
    ),
)
def test_any_options_either_merge_or_raise_config_error(keys, values):
    options = [part for pair in zip(keys, values, strict=False) for part in pair]
    cfg = get_cfg_default()
    try:
        cfg.merge_from_list(options)
    except ConfigError:
        return
    assert flatten(cfg).keys() == flatten(get_cfg_default()).keys()


def test_dump_and_load_give_the_same_configuration(tmp_path):
    cfg = get_cfg_default()
    cfg.merge_from_list(["OPTIM.LR", 0.1, "INPUT.TRANSFORMS", "('normalize', 'random_flip')"])
    (tmp_path / "dump.yaml").write_text(cfg.dump())
    loaded = get_cfg_default()
    loaded.merge_from_file(tmp_path / "dump.yaml")
    assert flatten(loaded) == flatten(cfg)


def test_nodes_that_trainers_add_are_merged_and_checked():
    cfg = get_cfg_default()
    cfg.TRAINER.COOP = CfgNode({"N_CTX": 16})
    cfg.merge_from_list(["TRAINER.COOP.N_CTX", "4"])
    assert cfg.TRAINER.COOP.N_CTX == 4
    with pytest.raises(ConfigError, match=r"TRAINER\.COOP\.N_CTX"):
        cfg.merge_from_list(["TRAINER.COOP.N_CTZ", "4"])


def test_hash_changes_with_every_key_that_changes_results_and_with_no_other():
    reference = config_hash(get_cfg_default())
    for key, value in flatten(get_cfg_default()).items():
        cfg = get_cfg_default()
        node = cfg
        *parents, name = key.split(".")
        for parent in parents:
            node = node[parent]
        node[name] = f"{value}x"
        assert (config_hash(cfg) == reference) == (key in NEUTRAL_KEYS), key
    of_the_engine = {key for key in NEUTRAL_KEYS if not key.startswith("TRAINER.")}
    assert set(flatten(get_cfg_default())) >= of_the_engine


def test_hash_is_the_same_for_lists_and_tuples():
    first, second = get_cfg_default(), get_cfg_default()
    first.INPUT.SIZE, second.INPUT.SIZE = (32, 32), [32, 32]
    assert config_hash(first) == config_hash(second)


def test_negative_seed_is_replaced_in_a_copy():
    cfg = get_cfg_default()
    cfg.freeze()
    seeded = resolve_seed(cfg)
    assert cfg.SEED == -1
    assert 0 <= seeded.SEED < 2**32
    assert resolve_seed(seeded) is seeded
    assert len({resolve_seed(cfg).SEED for _ in range(5)}) > 1


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("DATASET.IMBALANCE_TAU", 0.0),
        ("DATASET.IMBALANCE_TAU", 1.1),
        ("OPTIM.LR_SCHEDULER", "cosin"),
        ("OPTIM.WARMUP_TYPE", "none"),
        ("DATASET.SUBSAMPLE_CLASSES", "old"),
        ("DATASET.SPLIT", "mine"),
        ("DATASET.SPLIT_SEED", -1),
        ("TRAIN.PRINT_FREQ", 0),
        ("SEED", 2**32),
        ("OPTIM.NAME", "sdg"),
        ("TEST.FINAL_MODEL", "best"),
        ("INPUT.SIZE", (3,)),
        ("DATALOADER.TRAIN_X.BATCH_SIZE", 0),
    ],
)
def test_values_out_of_range_are_named(key, value):
    cfg = get_cfg_default()
    validate(cfg)
    cfg.merge_from_list([key, value])
    with pytest.raises(ConfigError, match=key.replace(".", r"\.")):
        validate(cfg)


@pytest.mark.parametrize(
    ("tau", "shots", "given", "expected"),
    [(0.25, 8, 0, 8), (0.25, 16, 0, 16), (0.25, -1, 0, 0), (1.0, 8, 0, 16), (1.0, -1, 0, 16), (0.25, 8, 16, 16)],
)
def test_images_of_the_largest_class_follow_the_shots_in_the_configuration(tau, shots, given, expected):
    """Without a long tail the key is not read; its value of earlier versions keeps the hash of their runs."""
    cfg = get_cfg_default()
    cfg.merge_from_list(
        ["DATASET.IMBALANCE_TAU", tau, "DATASET.NUM_SHOTS", shots, "DATASET.MAX_PER_CLASS", given]
    )
    cfg.freeze()
    followed = follow_shots(cfg)
    assert expected == followed.DATASET.MAX_PER_CLASS
    assert followed.is_frozen()
    other = {key for key, value in flatten(followed).items() if value != flatten(cfg)[key]}
    assert other <= {"DATASET.MAX_PER_CLASS"}
    assert given == cfg.DATASET.MAX_PER_CLASS


def test_package_keys_are_added_to_a_foreign_configuration_without_overwriting():
    foreign = CfgNode(
        {"DATASET": {"NAME": "x", "IMBALANCE_TAU": 0.5}, "TRAIN": {}, "MODEL": {"BACKBONE": {}}}
    )
    add_package_keys(foreign)
    assert foreign.DATASET.IMBALANCE_TAU == 0.5
    assert foreign.DATASET.MAX_PER_CLASS == 0
    assert foreign.TRAIN.CHECKPOINT_SECONDS == 30.0
    merge_list(foreign, ["DATASET.IMBALANCE_TAU", "0.25"])
    assert foreign.DATASET.IMBALANCE_TAU == 0.25
