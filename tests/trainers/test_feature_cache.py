"""Training and testing on image features computed beforehand: the same numbers, and no image encoded twice."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from cpt_plugin import toolkit
from cpt_plugin.errors import ConfigError, DataError
from cpt_plugin.toolkit.embedded import loader
from cpt_plugin.toolkit.embedded.rng import rng_state
from tests.helpers.checkpoints import identical
from tests.helpers.prompt_runs import prompt_cfg
from trainers import _feature_cache
from trainers._feature_cache import FeatureDataset

EPOCHS = 2
SHORT = ("OPTIM.MAX_EPOCH", EPOCHS, "TRAIN.CHECKPOINT_SECONDS", 1000.0)
AUGMENTED = ("INPUT.TRANSFORMS", ("random_resized_crop", "random_flip", "normalize"))


def on(cache: Path, views: int = EPOCHS, *more: Any) -> tuple[Any, ...]:
    return ("FEATURE_CACHE.ENABLED", True, "FEATURE_CACHE.VIEWS", views, "FEATURE_CACHE.DIR", str(cache), *more)


def build(folder: Path, output: Path, name: str, *options: Any) -> Any:
    toolkit.set_random_seed(1)
    return toolkit.build_trainer(prompt_cfg(folder, output, name, *SHORT, *AUGMENTED, *options))


def images_encoded(trainer: Any) -> list[int]:
    """Filled with the number of images of each run of the image tower."""
    seen: list[int] = []
    tower = trainer.clip.model.visual
    tower.conv1.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    return seen


def trained(trainer: Any) -> dict[str, torch.Tensor]:
    learner = trainer.model.prompt_learner
    return {name: value.detach().clone() for name, value in learner.named_parameters()}


@pytest.mark.parametrize("name", ["CoOp", "CoCoOp", "CoOpCPT", "CoOpNPT"])
def test_with_a_view_an_epoch_training_is_the_plain_one(folder: Path, tmp_path: Path, name: str) -> None:
    results = []
    for case, options in {"plain": (), "cached": on(tmp_path / "cache")}.items():
        trainer = build(folder, tmp_path / case, name, *options)
        trainer.train()
        results.append((trained(trainer), trainer.history, trainer.results, rng_state()))
    (plain, history, result, state), (cached, cached_history, cached_result, cached_state) = results
    for key in plain:
        torch.testing.assert_close(cached[key], plain[key], rtol=1e-4, atol=1e-6)
    for one, other in zip(history, cached_history, strict=True):
        assert one == pytest.approx(other, rel=1e-3, abs=1e-4)
    assert cached_result == result
    assert identical(cached_state, state), "nothing is drawn"


def test_one_view_is_another_run_where_images_are_augmented(folder: Path, tmp_path: Path) -> None:
    prompts = []
    for views in (EPOCHS, 1):
        trainer = build(folder, tmp_path / str(views), "CoOp", *on(tmp_path / "cache", views))
        trainer.train()
        prompts.append(trained(trainer)["ctx"])
    assert (prompts[0] - prompts[1]).abs().max() > 1e-6


@pytest.mark.parametrize("name", ["CoOp", "ZeroshotCLIP"])
def test_evaluation_is_the_plain_one_bit_for_bit(folder: Path, tmp_path: Path, name: str) -> None:
    plain = build(folder, tmp_path / "plain", name)
    cached = build(folder, tmp_path / "cached", name, *on(tmp_path / "cache"))
    for own, other in zip(cached.test_loader, plain.test_loader, strict=True):
        assert own["img"].ndim == 2
        assert torch.equal(own["label"], other["label"])
        assert torch.equal(*(t.model_inference(b["img"]) for t, b in ((cached, own), (plain, other))))
    assert cached.test() == plain.test()


def test_the_second_run_encodes_no_image(folder: Path, tmp_path: Path) -> None:
    first = build(folder, tmp_path / "1", "CoOp", *on(tmp_path / "cache"))
    seen = images_encoded(first)
    first.train()
    items = EPOCHS * len(first.dm.dataset.train_x) + len(first.dm.dataset.test)
    assert sum(seen) == items, "every image once a view"
    assert len(list((tmp_path / "cache").iterdir())) == EPOCHS + 1
    second = build(folder, tmp_path / "2", "CoOp", *on(tmp_path / "cache"))
    seen = images_encoded(second)
    second.train()
    assert seen == []
    assert identical(trained(second), trained(first))


def test_damaged_entries_are_computed_again(folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = build(folder, tmp_path / "1", "CoOp", *on(tmp_path / "cache"))
    first.train()
    for path in (tmp_path / "cache").iterdir():
        path.write_bytes(path.read_bytes()[:-1])
    second = build(folder, tmp_path / "2", "CoOp", *on(tmp_path / "cache"))
    second.train()
    assert caplog.text.count("is damaged") == EPOCHS + 1
    assert identical(trained(second), trained(first))


def test_no_room_is_no_failure(folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    trainer = build(folder, tmp_path / "1", "CoOp", *on(tmp_path / "cache", EPOCHS, "FEATURE_CACHE.MAX_GIB", 0.0))
    trainer.train()
    assert "are not kept" in caplog.text
    assert not (tmp_path / "cache").exists()


def keys(folder: Path, output: Path, *options: Any, name: str = "CoOp") -> dict[str, str]:
    trainer = build(folder, output, name, *on(output / "cache"), *options)
    train, test = trainer.train_loader_x.dataset, trainer.test_loader.dataset
    assert isinstance(train, FeatureDataset)
    return {"train 0": train._key(0), "train 1": train._key(1), "test": test._key(0)}


def test_keys_tell_apart_all_that_features_depend_on(folder: Path, tmp_path: Path) -> None:
    base = keys(folder, tmp_path / "a")
    assert keys(folder, tmp_path / "b") == base
    assert len(set(base.values())) == 3
    assert keys(folder, tmp_path / "c", "OPTIM.LR", 0.1, name="CoOpCPT") == base, "and by nothing else"
    for change in (("SEED", 2), ("INPUT.RRCROP_SCALE", (0.5, 1.0)), ("INPUT.INTERPOLATION", "nearest")):
        other = keys(folder, tmp_path / change[0], *change)
        assert not set(other.values()) & {base["train 0"], base["train 1"]}
        assert (other["test"] == base["test"]) == (change[0] == "SEED"), "test images are the same for every seed"
    trainer = build(folder, tmp_path / "d", "CoOp", *on(tmp_path / "cache"))
    test = trainer.test_loader.dataset
    path = Path(test.data_source[0].impath)
    before = path.stat()
    try:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
        assert test._key(0) != base["test"]
    finally:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert test._key(0) == base["test"]
    object.__setattr__(trainer.clip, "digest", "other weights")
    assert test._key(0) != base["test"]


def test_dpc_trains_on_features(folder: Path, tmp_path: Path) -> None:
    trainer = build(folder, tmp_path / "run", "CoOpDPC", *on(tmp_path / "cache"))
    seen = images_encoded(trainer)
    trainer.train()
    items = EPOCHS * len(trainer.dm.dataset.train_x) + len(trainer.dm.dataset.test)
    assert sum(seen) == items, "negatives are drawn from the same views"


@pytest.mark.parametrize("name", ["MaPLe", "IVLP", "PromptSRC", "ShallowVL", "MaPLeDPC"])
def test_visual_prompts_refuse_the_cache(folder: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=rf"FEATURE_CACHE.ENABLED: {name} trains what its image encoder computes"):
        build(folder, tmp_path, name, *on(tmp_path / "cache"))


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_cannot_be_read_is_named(folder: Path, tmp_path: Path, workers: int) -> None:
    options = on(tmp_path / "cache", 1, "DATALOADER.NUM_WORKERS", workers)
    trainer = build(folder, tmp_path / "run", "CoOp", *options)
    path = Path(trainer.dm.dataset.train_x[2].impath)
    good = path.read_bytes()
    try:
        path.write_bytes(b"no image")
        with pytest.raises(DataError, match=r"^cannot read the image .*\(item 2 of the training data\)$"):
            trainer.train()
        path.unlink()
        with pytest.raises(DataError, match=f"cannot read the image {path}: No such file"):
            trainer.train_loader_x.dataset.view(0)
    finally:
        trainer.close()
        path.write_bytes(good)


@pytest.mark.parametrize("node", ["FEATURE_CACHE", "IMAGE_CACHE"])
def test_dassl_which_would_ignore_a_cache_refuses_it(
    folder: Path, tmp_path: Path, node: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_feature_cache, "NAME", "dassl")
    with pytest.raises(ConfigError, match=f"{node}.ENABLED needs the embedded engine"):
        build(folder, tmp_path, "CoOp", f"{node}.ENABLED", True)


def test_both_caches_decode_every_image_once_for_all_views(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    read = loader.read_image
    monkeypatch.setattr(loader, "read_image", lambda path, upright: seen.append(path) or read(path, upright))
    images = ("IMAGE_CACHE.ENABLED", True, "IMAGE_CACHE.DIR", str(tmp_path / "images"))
    both = build(folder, tmp_path / "both", "CoOp", *on(tmp_path / "cache"), *images)
    both.train()
    assert len(seen) == len(set(seen)) == len(both.dm.dataset.train_x) + len(both.dm.dataset.test)
    one = build(folder, tmp_path / "one", "CoOp", *on(tmp_path / "cache"))
    one.train()
    assert identical(trained(both), trained(one))
    assert one.hashed_config() == both.hashed_config()


def test_without_a_view_there_is_nothing_to_read(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"FEATURE_CACHE.VIEWS must be at least 1"):
        build(folder, tmp_path, "CoOp", *on(tmp_path / "cache", 0))


def test_the_number_of_views_is_part_of_what_a_run_is(folder: Path, tmp_path: Path) -> None:
    one, two = (build(folder, tmp_path / str(v), "CoOp", *on(tmp_path, v)).hashed_config() for v in (1, 2))
    assert {key for key in one if one[key] != two[key]} == {"FEATURE_CACHE.VIEWS"}
