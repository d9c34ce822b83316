"""ImageNet-LT, Places-LT and CIFAR-100-LT: lists, labels, tails, groups, and what is refused."""

from __future__ import annotations

import math
import pickle
import random
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cpt_plugin import toolkit
from cpt_plugin.cli.repository import default_cfg
from cpt_plugin.data.manifest import manifest_of
from cpt_plugin.errors import ConfigError, DataError
from cpt_plugin.toolkit.embedded.data import Datum
from datasets._cifar import read_pickle
from datasets._long_tailed import read_lists
from datasets.cifar100_lt import shuffled_by_class
from datasets.places_lt import PlacesLT
from tests.helpers.fixtures import make_fixture
from tests.helpers.fixtures.images import draw_image
from tests.helpers.fixtures.long_tailed import dump_as_python2
from tests.helpers.train_command import dataset_yaml, train_log

NAMES = ("imagenet_lt", "places_lt", "cifar100_lt")
LISTED = {"imagenet_lt": "imagenet/ImageNet_LT/ImageNet_LT_", "places_lt": "places365_standard/Places_LT/Places_LT_"}


def configured(name, root, **dataset):
    cfg = default_cfg()
    cfg.SEED, cfg.DATASET.ROOT, cfg.DATASET.NAME = 3, str(root), manifest_of(name).registered
    cfg.DATASET.CHECK_COUNTS = False  # five classes do not have the published figures
    for key, value in dataset.items():
        cfg.DATASET[key] = value
    return cfg


def loaded(name, root, **dataset):
    return toolkit.build_dataset(configured(name, root, **dataset))


def rows(items, root):
    return [(Path(item.impath).relative_to(root).as_posix(), item.label, item.classname) for item in items]


@pytest.mark.parametrize("name", NAMES)
def test_the_published_files_are_read_whole(tmp_path, name):
    made = make_fixture(name, tmp_path)
    data = loaded(name, tmp_path)
    for part, items in (("train", data.train_x), ("val", data.val), ("test", data.test)):
        assert sorted(rows(items, tmp_path)) == sorted(made.rows[part])
    assert tuple(data.classnames) == made.names


def test_other_figures_than_the_published_ones_stop(tmp_path):
    make_fixture("places_lt", tmp_path)
    with pytest.raises(DataError, match=r"PlacesLT is not the published data set: .*5 classes, 360 fewer than 365"):
        loaded("places_lt", tmp_path, CHECK_COUNTS=True)


@pytest.mark.parametrize("name", ["imagenet_lt", "places_lt"])
def test_the_tail_is_that_of_the_list(tmp_path, name):
    make_fixture(name, tmp_path, images=8)
    assert toolkit.DataManager(configured(name, tmp_path)).class_counts == [8, 4, 2, 1, 1]


@pytest.mark.parametrize("name", ["imagenet_lt", "places_lt"])
def test_halves_of_the_classes_can_be_asked_for(tmp_path, name):
    made = make_fixture(name, tmp_path)
    new = loaded(name, tmp_path, SUBSAMPLE_CLASSES="new")
    assert tuple(new.classnames) == made.names[3:]
    assert {item.label for item in new.test} == {0, 1}


@pytest.mark.parametrize("name", NAMES)
def test_shots_are_refused(tmp_path, name):
    make_fixture(name, tmp_path)
    with pytest.raises(ConfigError, match=r"long-tailed as it is: set DATASET\.NUM_SHOTS -1, not 16"):
        loaded(name, tmp_path, NUM_SHOTS=16)


@pytest.mark.parametrize("name", ["imagenet_lt", "places_lt"])
def test_a_second_tail_is_refused(tmp_path, name):
    make_fixture(name, tmp_path)
    with pytest.raises(ConfigError, match=r"leave DATASET\.IMBALANCE_TAU at 1, not 0\.1"):
        loaded(name, tmp_path, IMBALANCE_TAU=0.1)


@pytest.mark.parametrize("name", ["imagenet_lt", "places_lt"])
@pytest.mark.parametrize(
    "change",
    [
        lambda line: line.rsplit(" ", 1)[0] + " 4",  # another class's label
        lambda line: line.rsplit(" ", 1)[0],
        lambda line: "train/never_seen/1.jpg 0",
        lambda line: "train/../../" + line,
        lambda line: "/" + line,
        lambda line: line + " more",
        lambda line: line.rsplit(" ", 1)[0] + " -1",
    ],
)
def test_a_damaged_line_is_named(tmp_path, name, change):
    make_fixture(name, tmp_path)
    path = tmp_path / f"{LISTED[name]}train.txt"
    lines = path.read_text().splitlines()
    lines[1] = change(lines[1])
    path.write_text("\n".join(lines))
    with pytest.raises(DataError, match=f"{path.name} must hold lines .* but has line 2: {re.escape(repr(lines[1]))};"):
        loaded(name, tmp_path)


@pytest.mark.parametrize("name", ["imagenet_lt", "places_lt"])
def test_a_missing_list_or_image_is_named(tmp_path, name):
    made = make_fixture(name, tmp_path)
    (tmp_path / made.rows["train"][0][0]).unlink()
    with pytest.raises(DataError, match=f"1 of the .* not found: .*{re.escape(Path(made.rows['train'][0][0]).name)}"):
        loaded(name, tmp_path)
    (tmp_path / f"{LISTED[name]}val.txt").unlink()
    with pytest.raises(DataError, match=r"cannot read the list .*_val\.txt"):
        loaded(name, tmp_path)


def test_a_published_folder_with_a_dash_is_a_class_of_places(tmp_path):
    label = manifest_of("places_lt").class_names.names.index("apartment building outdoor")
    path = tmp_path / "places365_standard" / "Places_LT" / "Places_LT_train.txt"
    path.parent.mkdir(parents=True)
    for part in ("train", "val", "test"):
        (path.parent / f"Places_LT_{part}.txt").write_text(f"train/apartment_building-outdoor/1.jpg {label}\n")
    draw_image(tmp_path / "places365_standard" / "train" / "apartment_building-outdoor" / "1.jpg", 0, 0)
    train = PlacesLT.read(PlacesLT.__new__(PlacesLT), tmp_path)[0]
    assert [(item.label, item.classname) for item in train] == [(8, "apartment building outdoor")]


def test_an_empty_list_is_refused(tmp_path):
    (tmp_path / "list.txt").touch()
    with pytest.raises(DataError, match="has none"):
        read_lists([tmp_path / "list.txt"], tmp_path, {}.get)


# -- CIFAR-100-LT ------------------------------------------------------------------------------------------------------


def test_yaml_of_cifar_is_the_published_tail():
    """Ratio 100 over 100 classes: 500 down to 5 images, 10,847 in all (Cao et al., 2019, and later tables)."""
    from cpt_plugin.long_tail import shot_counts

    cfg = default_cfg()
    cfg.merge_from_file(dataset_yaml("cifar100_lt"))
    counts = shot_counts(100, cfg.DATASET.IMBALANCE_TAU, cfg.DATASET.MAX_PER_CLASS)
    assert counts == [math.floor(500 * 100 ** (-k / 99) + 1e-9) for k in range(100)]
    assert (counts[0], counts[-1], sum(counts)) == (500, 5, 10847)


def test_pixels_are_those_of_the_batches(tmp_path):
    made = make_fixture("cifar100_lt", tmp_path)
    data = loaded("cifar100_lt", tmp_path)
    batch = pickle.loads((made.folder / "test").read_bytes(), encoding="bytes")
    for item in data.test:
        index = int(Path(item.impath).stem)
        assert batch[b"fine_labels"][index] == item.label
        red = batch[b"data"][index].reshape(3, 32, 32)
        assert (np.asarray(Image.open(item.impath)) == red.transpose(1, 2, 0)).all()


def test_the_tail_of_cifar_is_a_nested_prefix_of_a_fixed_order(tmp_path):
    make_fixture("cifar100_lt", tmp_path, images=8)
    kept = {}
    for tau in (1.0, 0.5, 0.125):
        manager = toolkit.DataManager(configured("cifar100_lt", tmp_path, IMBALANCE_TAU=tau, MAX_PER_CLASS=8))
        kept[tau] = [item.impath for item in manager.dataset.train_x]
    assert Counter(Path(path).parent.name for path in kept[0.125]) == {"0": 8, "1": 4, "2": 2, "3": 1, "4": 1}
    assert set(kept[0.125]) < set(kept[0.5]) < set(kept[1.0])
    other = configured("cifar100_lt", tmp_path, IMBALANCE_TAU=0.125, MAX_PER_CLASS=8)
    other.SEED = 99
    assert [item.impath for item in toolkit.DataManager(other).dataset.train_x] == kept[0.125]
    other.DATASET.SPLIT_SEED = 2
    assert [item.impath for item in toolkit.DataManager(other).dataset.train_x] != kept[0.125]


def test_the_order_within_a_class_is_private():
    items = [Datum.of_present_file(str(i), i % 3, "x") for i in range(60)]
    random.seed(0)
    state = random.getstate()
    first, second = shuffled_by_class(items, 1), shuffled_by_class(items, 1)
    assert first == second
    assert random.getstate() == state
    assert [item.label for item in first] == [0] * 20 + [1] * 20 + [2] * 20
    assert {item.impath for item in first} == {str(i) for i in range(60)}
    assert first != sorted(first, key=lambda item: (item.label, int(item.impath)))


def test_images_are_written_once_and_whole(tmp_path, monkeypatch):
    made = make_fixture("cifar100_lt", tmp_path)
    calls = []

    def failing(self, path, **options):
        calls.append(path)
        raise OSError(28, "No space left on device", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(Image.Image, "save", failing)
        with pytest.raises(DataError, match="No space left on device"):
            loaded("cifar100_lt", tmp_path)
    assert calls
    assert sorted(path.name for path in made.folder.iterdir()) == ["meta", "test", "train"], "nothing half-made is left"
    loaded("cifar100_lt", tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(Image.Image, "save", failing)
        loaded("cifar100_lt", tmp_path)
    next((made.folder / "png" / "train" / "0").iterdir()).unlink()
    with pytest.raises(DataError, match=r"has 29 of 30 images: delete .*png, it is made again"):
        loaded("cifar100_lt", tmp_path)


class Evil:
    def __reduce__(self):
        return exec, ("raise SystemExit('ran')",)


@pytest.mark.parametrize("file", ["train", "test", "meta"])
def test_nothing_in_a_pickle_is_run(tmp_path, file):
    made = make_fixture("cifar100_lt", tmp_path)
    (made.folder / file).write_bytes(pickle.dumps({b"data": Evil()}, protocol=2))
    with pytest.raises(DataError, match=r"it wants .*exec, which no array needs"):
        loaded("cifar100_lt", tmp_path)


def test_arrays_that_python_2_wrote_are_read(tmp_path):
    array = np.arange(256, dtype=np.uint8).reshape(4, 64)
    dump_as_python2(tmp_path / "x", {b"data": array, b"labels": [1, 2], b"names": [b"oak_tree"]})
    content = read_pickle(tmp_path / "x")
    assert (content["data"] == array).all()
    assert (content["labels"], content["names"]) == ([1, 2], ["oak_tree"])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "no file of CIFAR-100"),
        (b"\x80\x02]q\x00.", "holds no dictionary"),
        (pickle.dumps({"data": np.zeros((2, 3), np.uint8), "fine_labels": [0, 1]}, 2), "no images with labels"),
        (pickle.dumps({"data": np.zeros((1, 3072), np.uint8), "fine_labels": [7]}, 2), "no images with labels"),
    ],
)
def test_damaged_batches_are_refused(tmp_path, content, reason):
    made = make_fixture("cifar100_lt", tmp_path)
    (made.folder / "train").write_bytes(content)
    with pytest.raises(DataError, match=reason):
        loaded("cifar100_lt", tmp_path)
    assert not (made.folder / "png").exists()


# -- runs --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_train_and_evaluate_with_groups(tmp_path, name):
    torch.set_num_threads(1)
    make_fixture(name, tmp_path, images=24)
    log = train_log(dataset_yaml(name), tmp_path, tmp_path / "out", "CoOpCPT", "DATASET.CHECK_COUNTS", "False")
    counts = (24, 24, 24, 15, 5) if name == "cifar100_lt" else (24, 12, 6, 3, 1)  # min(24, 500 * 0.01^(k / 4))
    medium = sum(20 <= count <= 100 for count in counts)
    assert re.search(rf"\* medium: \d+\.\d% \({medium} classes; 20 to 100\)", log)
    assert "* many: - (0 classes; 101 training images or more)" in log
    assert re.search(r"\* head: \d+\.\d% \(2 classes; a third of the classes by training images\)", log)
    assert re.search(r"\* worst class: \d+\.\d% \(", log)
    assert "* total: 10" in log
