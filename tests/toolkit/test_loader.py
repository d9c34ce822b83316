"""Loading: bits independent of workers, unreadable images, long tails, the data manager."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from cpt_plugin.errors import DataError
from cpt_plugin.long_tail import shot_counts
from cpt_plugin.toolkit import embedded as engine
from cpt_plugin.toolkit.embedded.loader import DatasetWrapper, batches
from cpt_plugin.toolkit.embedded.sampling import SampleKey
from cpt_plugin.toolkit.embedded.transforms import build_transform
from tests.toolkit.small import CLASSES, small_cfg, write_images


def manager(root, tmp_path, *options):
    return engine.DataManager(small_cfg(root, tmp_path, *options))


def bits(loader, epoch=0, start=0):
    return [(b["index"].tolist(), b["img"].numpy().tobytes()) for b in batches(loader, epoch, start)]


def test_batch_has_dassls_entries(image_root, tmp_path):
    batch = next(batches(manager(image_root, tmp_path).train_loader_x))
    assert batch["img"].shape == (6, 3, 8, 8)
    assert batch["label"].dtype == batch["domain"].dtype == batch["index"].dtype == torch.int64
    assert all(name.endswith(".png") for name in batch["impath"])
    names = [path.rsplit("/", 1)[1].split("_")[0] for path in batch["impath"]]
    assert [CLASSES.index(name) for name in names] == batch["label"].tolist()


def test_bits_do_not_depend_on_workers(image_root, tmp_path):
    reference = None
    for workers in (0, 1, 2):
        dm = manager(image_root, tmp_path, "DATALOADER.NUM_WORKERS", workers)
        seen = [bits(dm.train_loader_x, epoch) for epoch in (0, 1)] + [bits(dm.test_loader)]
        reference = reference or seen
        assert seen == reference
    assert reference[0] != reference[1]


def test_bits_depend_on_the_seed_but_test_images_do_not(image_root, tmp_path):
    first, second = (manager(image_root, tmp_path, "SEED", seed) for seed in (1, 2))
    assert bits(first.train_loader_x) != bits(second.train_loader_x)
    assert bits(first.test_loader) == bits(second.test_loader)


def test_each_index_and_epoch_draws_its_own_augmentation(image_root, tmp_path):
    cfg = small_cfg(image_root, tmp_path)
    item = manager(image_root, tmp_path).dataset.train_x[0]
    same = DatasetWrapper(cfg, [item] * 12, build_transform(cfg), is_train=True)
    views = {
        same[SampleKey(index, epoch)]["img"].numpy().tobytes() for index in range(12) for epoch in (0, 1)
    }
    assert len(views) > 20
    assert torch.equal(same[SampleKey(3, 1)]["img"], same[SampleKey(3, 1)]["img"])


def test_start_skips_batches_and_nothing_else(image_root, tmp_path):
    loader = manager(image_root, tmp_path).train_loader_x
    whole = bits(loader, epoch=2)
    assert bits(loader, epoch=2, start=3) == whole[3:]
    assert bits(loader, epoch=2) == whole
    assert len(whole) == len(loader) == 32 // 6


def test_start_also_works_on_foreign_loaders():
    assert list(batches([1, 2, 3, 4], start=2)) == [3, 4]


def test_loading_leaves_the_global_streams_alone(image_root, tmp_path):
    dm = manager(image_root, tmp_path)
    engine.set_random_seed(4)
    expected = random.random(), np.random.rand(), torch.rand(())  # noqa: NPY002
    engine.set_random_seed(4)
    bits(dm.train_loader_x)
    assert (random.random(), np.random.rand(), torch.rand(())) == expected  # noqa: NPY002


def test_several_views_and_the_plain_image(image_root, tmp_path):
    dm = manager(image_root, tmp_path, "DATALOADER.K_TRANSFORMS", 2, "DATALOADER.RETURN_IMG0", True)
    batch = next(batches(dm.train_loader_x))
    first, second = batch["img"]
    assert first.shape == second.shape == batch["img0"].shape
    assert not torch.equal(first, second)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("damage", [b"no image", b""])
def test_unreadable_image_stops_with_path_and_index(tmp_path, workers, damage):
    write_images(tmp_path)
    path = tmp_path / "small" / "train" / "bee_3.png"
    dm = manager(tmp_path, tmp_path, "DATALOADER.NUM_WORKERS", workers)
    path.write_bytes(damage)
    with pytest.raises(DataError) as caught:
        bits(dm.train_loader_x)
    assert str(path) in str(caught.value)
    assert "item 11 of the training data" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_truncated_image_is_not_read_as_a_whole_one(tmp_path):
    write_images(tmp_path)
    path = tmp_path / "small" / "test" / "cat_0.png"
    path.write_bytes(path.read_bytes()[:150])
    with pytest.raises(DataError, match=r"cat_0\.png"):
        bits(manager(tmp_path, tmp_path).test_loader)


def test_long_tail_is_applied_and_counted(image_root, tmp_path):
    options = ("DATASET.IMBALANCE_TAU", 0.25, "DATASET.MAX_PER_CLASS", 8)
    dm = manager(image_root, tmp_path, *options)
    assert dm.class_counts == shot_counts(4, 0.25, 8) == [8, 5, 3, 2]
    assert dm.long_tail.realized_tau == 0.25
    assert len(dm.test_loader.dataset) == 12
    balanced = manager(image_root, tmp_path)
    assert balanced.long_tail is None
    assert balanced.class_counts == [8, 8, 8, 8]
    kept, full = ({item.impath for item in m.dataset.train_x} for m in (dm, balanced))
    assert kept < full
    assert dm.split_hash != balanced.split_hash


@pytest.mark.parametrize(
    ("options", "largest"),
    [
        (("DATASET.NUM_SHOTS", 8), 8),
        (("DATASET.NUM_SHOTS", 4), 4),
        (("DATASET.NUM_SHOTS", 4, "DATASET.MAX_PER_CLASS", 8), 8),
        ((), 8),
        (("DATASET.NUM_SHOTS", 0), 8),
    ],
)
def test_the_largest_class_follows_the_shots_unless_given(image_root, tmp_path, options, largest):
    """The data have 8 images a class, all of which NUM_SHOTS below 1 takes."""
    dm = manager(image_root, tmp_path, "DATASET.IMBALANCE_TAU", 0.25, *options)
    assert dm.class_counts == shot_counts(4, 0.25, largest)
    assert dm.long_tail.realized_tau == dm.class_counts[-1] / largest


def test_split_hash_follows_the_chosen_classes(image_root, tmp_path):
    hashes = {
        manager(image_root, tmp_path, "DATASET.SUBSAMPLE_CLASSES", s).split_hash
        for s in ("all", "base", "new")
    }
    assert len(hashes) == 3
    assert manager(image_root, tmp_path).split_hash in hashes


def test_small_training_set_keeps_its_incomplete_batch(image_root, tmp_path):
    dm = manager(image_root, tmp_path, "DATALOADER.TRAIN_X.BATCH_SIZE", 100)
    assert [len(batch["label"]) for batch in batches(dm.train_loader_x)] == [32]


def test_own_transform_and_wrapper_are_used(image_root, tmp_path):
    class Wrapper:
        def __init__(self, cfg, data_source, transform=None, is_train=False):
            self.items, self.transform = data_source, transform

        def __len__(self):
            return len(self.items)

        def __getitem__(self, key):
            return {"value": self.transform(self.items[key].label)}

    dm = engine.DataManager(
        small_cfg(image_root, tmp_path), lambda label: label + 10, lambda label: label, Wrapper
    )
    assert min(v for b in batches(dm.train_loader_x) for v in b["value"].tolist()) >= 10


def test_a_wrapper_that_draws_by_itself_draws_on(image_root, tmp_path):
    class Drawing(DatasetWrapper):
        def image(self, index):
            drawn.append(random.random())
            return super().image(index)

    drawn = []
    cfg = small_cfg(image_root, tmp_path)
    for _ in batches(engine.DataManager(cfg, dataset_wrapper=Drawing).train_loader_x):
        pass
    assert len(set(drawn)) == len(drawn) > 6
