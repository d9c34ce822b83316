"""The embedded data set behind the toolkit's interface: draw, halves, worlds."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the toolkit needs torch")

from cpt_plugin.errors import ConfigError
from cpt_plugin.toolkit import DATASET_REGISTRY, get_cfg_default
from cpt_plugin.toolkit.embedded.data import split_hash
from cpt_plugin.worlds import parse_world
from datasets.shapes import Shapes
from datasets.shapes_world import store
from datasets.shapes_world.class_sets import class_set


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data folder, with pools small enough to be quick."""
    folder = tmp_path_factory.mktemp("data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "IMAGES_PER_CLASS", {"train": 6, "val": 5, "test": 2})
        for world in ("colors:clean", ""):
            store.ensure_world(folder, parse_world(world))
    return folder


def build(
    root: Path, shots: int = 4, half: str = "all", seed: int = 1, world: str = "colors:clean"
) -> Shapes:
    cfg = get_cfg_default()
    cfg.defrost()
    cfg.SEED = seed
    cfg.DATASET.ROOT, cfg.DATASET.NAME, cfg.DATASET.WORLD = str(root), "Shapes", world
    cfg.DATASET.NUM_SHOTS, cfg.DATASET.SUBSAMPLE_CLASSES = shots, half
    return DATASET_REGISTRY.get("Shapes")(cfg)


def test_shots_classes_and_names(root: Path) -> None:
    dataset = build(root)
    names = [spec.name for spec in class_set("colors")]
    assert dataset.classnames == names
    assert Counter(item.label for item in dataset.train_x) == dict.fromkeys(range(12), 4)
    assert Counter(item.label for item in dataset.val) == dict.fromkeys(range(12), 4)
    assert len(dataset.test) == 24
    for item in [*dataset.train_x, *dataset.val, *dataset.test]:
        assert item.classname == names[item.label]
        assert Path(item.impath).parent.name == names[item.label].replace(" ", "_")


def test_the_draw_is_that_of_random_random_class_after_class_train_then_val(root: Path) -> None:
    dataset = build(root, shots=3, seed=5)
    folder = root / "shapes" / "colors-clean"
    dice, expected = random.Random(5), []
    for part, pool in (("train", 6), ("val", 5)):
        for spec in class_set("colors"):
            files = [folder / part / spec.name.replace(" ", "_") / f"{i:03d}.png" for i in range(pool)]
            expected.append(dice.sample(files, 3))
    drawn = [Path(item.impath) for item in [*dataset.train_x, *dataset.val]]
    assert drawn == [path for chosen in expected for path in chosen]


def test_halves_are_disjoint_relabeled_and_drawn_before_the_choice(root: Path) -> None:
    whole, base, new = (build(root, half=half) for half in ("all", "base", "new"))
    assert base.classnames + new.classnames == whole.classnames
    assert sorted({item.label for item in new.test}) == list(range(6))
    chosen = {item.impath for item in whole.train_x}
    assert chosen == {item.impath for item in [*base.train_x, *new.train_x]}


def test_seeds_differ_and_no_shots_keep_the_pool(root: Path) -> None:
    first, second = ([item.impath for item in build(root, seed=seed).train_x] for seed in (1, 2))
    assert first != second
    assert len(build(root, shots=-1).train_x) == 72


def test_the_default_world_has_enough_classes(root: Path) -> None:
    dataset = build(root, half="base", world="")
    assert dataset.num_classes >= 20
    assert parse_world("").folder in dataset.dataset_dir


def test_other_pixels_under_the_same_names_are_another_split(root: Path) -> None:
    dataset = build(root)
    before = split_hash(dataset, root)
    assert dataset.content_hash == store.content_hash(Path(dataset.dataset_dir))
    dataset.content_hash = "other pixels"
    assert split_hash(dataset, root) != before


def test_another_split_is_refused(root: Path) -> None:
    cfg = get_cfg_default()
    cfg.DATASET.ROOT, cfg.DATASET.SPLIT = str(root), "own"
    with pytest.raises(ConfigError, match="leave it at published"):
        Shapes(cfg)


def test_an_unknown_world_is_refused(root: Path) -> None:
    with pytest.raises(ConfigError, match="nearest: 'colors'"):
        build(root, world="colrs")
