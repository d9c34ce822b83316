"""Nothing is chosen on test images, whatever they are called."""

from __future__ import annotations

import shutil
from typing import Any

import pytest

from cpt_plugin.errors import ConfigError
from cpt_plugin.toolkit import embedded as engine
from cpt_plugin.toolkit.embedded.data import Datum
from cpt_plugin.toolkit.embedded.selection import require_validation
from tests.toolkit.small import SmallShapes, SmallTrainer, small_cfg


@engine.DATASET_REGISTRY.register()
class ValidatedOnTest(SmallShapes):
    def __init__(self, cfg: Any) -> None:
        super().__init__(cfg)
        engine.DatasetBase.__init__(self, train_x=self.train_x, val=self.test, test=self.test)


BEST = ("TEST.FINAL_MODEL", "best_val")
MESSAGE = r"needs validation images, but 12 of the 12 that ValidatedOnTest has are test images .*last_step"


@pytest.mark.parametrize("option", [BEST, ("TEST.SPLIT", "val")])
def test_test_images_do_not_choose(image_root, tmp_path, option):
    trainer = SmallTrainer(small_cfg(image_root, tmp_path, "DATASET.NAME", "ValidatedOnTest", *option))
    with pytest.raises(ConfigError, match=" ".join(option) + " " + MESSAGE):
        trainer.train()
    assert not list(tmp_path.rglob("*.pth.tar*"))
    with pytest.raises(ConfigError, match=MESSAGE):
        trainer.test("val")


def test_they_may_be_tested(image_root, tmp_path):
    options = ("DATASET.NAME", "ValidatedOnTest", "OPTIM.MAX_EPOCH", 1)
    SmallTrainer(small_cfg(image_root, tmp_path / "plain", *options)).train()
    SmallTrainer(small_cfg(image_root, tmp_path / "untested", *options, *BEST, "TEST.NO_TEST", True)).train()


@pytest.fixture
def images(image_root, tmp_path):
    """Copies of ten images: the first six to test on, the others to validate on."""
    paths = sorted((image_root / "small" / "train").iterdir())[:10]
    for path in paths:
        shutil.copy(path, tmp_path / path.name)
    items = [Datum(str(tmp_path / path.name), classname="a") for path in paths]
    return items[:6], items[6:], tmp_path


def checked(val, test):
    require_validation(val, test, "Mine", "stop")


def copied(item, folder, how):
    path = folder / f"again-{item.impath.rpartition('/')[2]}"
    how(item.impath, path)
    return Datum(str(path), classname="a")


def link(source, path):
    path.symlink_to(source)


def test_other_images_are_fine(images, caplog):
    test, val, _ = images
    checked(val, test)
    assert caplog.text == ""


def test_one_test_image_among_them_is_refused(images):
    test, val, _ = images
    with pytest.raises(ConfigError, match="stop needs validation images, but 1 of the 5 that Mine has are test images"):
        checked([*val, test[2]], test)


@pytest.mark.parametrize("how", [shutil.copy, link])
def test_copies_and_links_are_refused_from_half_on_and_warned_of_below(images, how, caplog):
    test, val, folder = images
    again = [copied(item, folder, how) for item in test[:4]]
    with pytest.raises(ConfigError, match="4 of the 8 that Mine has are test images"):
        checked([*val, *again], test)
    checked([*val, *again[:3]], test)
    assert "3 of the 7 validation images of Mine are copies of test images" in caplog.text


def test_none_are_refused(images):
    with pytest.raises(ConfigError, match="stop needs validation images, and Mine has none"):
        checked([], images[0])
