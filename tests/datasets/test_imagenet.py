"""ImageNet and its variants in their published layouts: names, labels, draws, and what is refused."""

from __future__ import annotations

import random
import shutil
from collections import Counter
from pathlib import Path

import pytest

from cpt_plugin import toolkit
from cpt_plugin.cli.repository import default_cfg
from cpt_plugin.data.imagenet import imagenet_classes, subset_ids
from cpt_plugin.data.manifest import manifest_of
from cpt_plugin.errors import ConfigError, DataError
from tests.helpers.fixtures import make_fixture
from tests.helpers.fixtures.imagenet import CLASSES, IN_A, IN_R

VARIANTS = ("imagenetv2", "imagenet_sketch", "imagenet_a", "imagenet_r")
SUBSETS = ("imagenet_a", "imagenet_r")


def configured(name, root, **dataset):
    cfg = default_cfg()
    cfg.SEED, cfg.DATASET.ROOT, cfg.DATASET.NAME = 3, str(root), manifest_of(name).registered
    for key, value in dataset.items():
        cfg.DATASET[key] = value
    return cfg


def loaded(name, root, **dataset):
    return toolkit.build_dataset(configured(name, root, **dataset))


def rows(items, root):
    return [(Path(item.impath).relative_to(root).as_posix(), item.label, item.classname) for item in items]


def test_the_table_is_imagenets():
    table = imagenet_classes()
    assert len(table) == 1000
    assert list(table) == sorted(table)
    names = list(table.values())
    assert {name for name in names if names.count(name) > 1} == {"missile", "sunglasses"}
    known = {"n01440764": "tench", "n02012849": "crane bird", "n03126707": "construction crane"}
    assert {wnid: table[wnid] for wnid in known} == known
    labels = list(table)
    assert (labels.index("n02123045"), labels.index("n04152593")) == (281, 782), "ILSVRC2012's order"


@pytest.mark.parametrize("name", SUBSETS)
def test_the_subsets_have_200_classes_of_their_own_order(name):
    ids = subset_ids(name)
    assert len(set(ids)) == 200
    assert list(ids) == sorted(ids)
    assert set(ids) <= imagenet_classes().keys()


def test_figures_of_the_fixture_agree_with_the_published_lists():
    assert {wnid: imagenet_classes()[wnid] for wnid in CLASSES} == CLASSES
    assert set(IN_A) == CLASSES.keys() & set(subset_ids("imagenet_a"))
    assert set(IN_R) == CLASSES.keys() & set(subset_ids("imagenet_r"))


@pytest.mark.parametrize("name", ["imagenet", *VARIANTS])
def test_a_folder_in_the_published_layout_is_read_whole(tmp_path, name):
    made = make_fixture(name, tmp_path)
    data = loaded(name, tmp_path)
    assert rows(data.test, tmp_path) == made.rows["test"]
    assert rows(data.train_x, tmp_path) == made.rows["train"]
    assert rows(data.val, tmp_path) == made.rows["val"]
    assert tuple(data.classnames) == made.names
    assert data.num_classes == len(made.names)


def test_each_variant_has_its_own_label_of_a_class(tmp_path):
    labels = {}
    for name in ("imagenet", *VARIANTS):
        make_fixture(name, tmp_path)
        labels[name] = {item.label for item in loaded(name, tmp_path).test if item.classname == "scorpion"}
    assert labels == {
        "imagenet": {2}, "imagenetv2": {2}, "imagenet_sketch": {2}, "imagenet_a": {1}, "imagenet_r": {2},
    }  # fmt: skip


def test_folders_of_v2_are_numbers_not_texts(tmp_path):
    """As texts "10" comes before "2"; with eleven classes that would shift labels."""
    table = dict(list(imagenet_classes().items())[:11])
    folder = tmp_path / "imagenetv2"
    for label in range(11):
        image = folder / "imagenetv2-matched-frequency-format-val" / str(label) / f"{label}.jpeg"
        image.parent.mkdir(parents=True)
        image.touch()
    (folder / "classnames.txt").write_text("".join(f"{wnid} {name}\n" for wnid, name in table.items()))
    test = loaded("imagenetv2", tmp_path).test
    assert [(Path(item.impath).stem, item.classname) for item in test] == [
        (str(label), name) for label, name in enumerate(table.values())
    ]


def test_few_shot_draw_is_over_sorted_names_and_leaves_validation_whole(tmp_path):
    made = make_fixture("imagenet", tmp_path, images=7)
    data = loaded("imagenet", tmp_path, NUM_SHOTS=3)
    draw, expected = random.Random(3), []
    for label in range(5):
        expected += draw.sample(sorted(row for row in made.rows["train"] if row[1] == label), 3)
    assert rows(data.train_x, tmp_path) == expected
    assert rows(data.val, tmp_path) == rows(data.test, tmp_path) == made.rows["test"]


def test_base_and_new_halves_share_nothing_and_the_draw(tmp_path):
    make_fixture("imagenet", tmp_path, images=7)
    every, base, new = (
        loaded("imagenet", tmp_path, NUM_SHOTS=3, SUBSAMPLE_CLASSES=part) for part in ("all", "base", "new")
    )
    assert (base.classnames, new.classnames) == (["goldfish", "stingray", "scorpion"], ["missile", "missile"])
    assert [i.impath for i in every.train_x] == [i.impath for i in [*base.train_x, *new.train_x]]
    assert [i.impath for i in every.test] == [i.impath for i in [*base.test, *new.test]]


def test_long_tail_over_imagenet(tmp_path):
    make_fixture("imagenet", tmp_path, images=8)
    cfg = configured("imagenet", tmp_path, NUM_SHOTS=8, IMBALANCE_TAU=0.25, MAX_PER_CLASS=8)
    assert toolkit.DataManager(cfg).class_counts == [8, 5, 4, 2, 2]  # floor(8 * 4^(-rank / 4))


@pytest.mark.parametrize("name", SUBSETS)
def test_halves_of_a_subset_are_refused(tmp_path, name):
    make_fixture(name, tmp_path)
    with pytest.raises(ConfigError, match=r"set DATASET\.SUBSAMPLE_CLASSES all"):
        loaded(name, tmp_path, SUBSAMPLE_CLASSES="new")


def test_real_dassl_gets_classes_from_test_images_that_stand_for_training_images(tmp_path, monkeypatch):
    made = make_fixture("imagenet_a", tmp_path)
    monkeypatch.setattr("datasets._imagenet.TOOLKIT", "dassl")
    data = loaded("imagenet_a", tmp_path)
    assert rows(data.train_x, tmp_path) == rows(data.test, tmp_path) == made.rows["test"]


def test_halves_of_variants_with_all_classes_are_imagenets(tmp_path):
    make_fixture("imagenet_sketch", tmp_path)
    assert loaded("imagenet_sketch", tmp_path, SUBSAMPLE_CLASSES="new").classnames == ["missile", "missile"]


@pytest.mark.parametrize("name", ["imagenet", *VARIANTS])
def test_a_missing_class_shifts_no_label_but_stops(tmp_path, name):
    made = make_fixture(name, tmp_path)
    gone = (tmp_path / made.rows["test"][0][0]).parent
    shutil.rmtree(gone)
    with pytest.raises(DataError, match=f"missing: {gone.name}; not known: none"):
        loaded(name, tmp_path)


def test_an_unknown_or_empty_class_folder_stops(tmp_path):
    made = make_fixture("imagenet_a", tmp_path)
    images = made.folder / "imagenet-a"
    (images / "n00000000").mkdir()
    with pytest.raises(DataError, match="missing: none; not known: n00000000"):
        loaded("imagenet_a", tmp_path)
    (images / "n00000000").rmdir()
    for image in (images / IN_A[0]).iterdir():
        image.unlink()
    with pytest.raises(DataError, match=f"no image for 1 classes: {IN_A[0]}"):
        loaded("imagenet_a", tmp_path)


def test_without_classnames_all_of_imagenet_is_expected(tmp_path):
    made = make_fixture("imagenet", tmp_path)
    (made.folder / "classnames.txt").unlink()
    with pytest.raises(DataError, match=r"one folder for each of 1,000 classes; missing: n01440764, .* and 992 more"):
        loaded("imagenet", tmp_path)


def test_a_variant_takes_imagenets_classnames_where_it_has_none(tmp_path):
    make_fixture("imagenet", tmp_path)
    made = make_fixture("imagenet_sketch", tmp_path)
    (made.folder / "classnames.txt").unlink()
    assert tuple(loaded("imagenet_sketch", tmp_path).classnames) == made.names


def test_other_names_are_used_and_said(tmp_path, caplog):
    made = make_fixture("imagenet", tmp_path)
    file = made.folder / "classnames.txt"
    file.write_text(file.read_text().replace("n03773504 missile", "n03773504 rocket"))
    with caplog.at_level("WARNING", "cpt_plugin"):
        data = loaded("imagenet", tmp_path)
    assert data.classnames[3] == "rocket"
    assert "other names than CLIP for 1 classes, and they are used: n03773504 'rocket' (CLIP: 'missile')" in caplog.text
    assert "lists 5 of ImageNet's 1,000 classes" in caplog.text


@pytest.mark.parametrize(
    ("line", "reason"),
    [("n99999999 thing", "n99999999"), ("n01443537 goldfish", "line 6"), ("n01440764", "line 6"), ("tench", "'tench'")],
)
def test_a_damaged_list_of_names_is_refused(tmp_path, line, reason):
    made = make_fixture("imagenet", tmp_path)
    with (made.folder / "classnames.txt").open("a") as file:
        file.write(f"{line}\n")
    with pytest.raises(DataError, match=f"classnames.txt must hold .*{reason}"):
        loaded("imagenet", tmp_path)


def test_pickles_of_coop_are_never_opened(tmp_path):
    made = make_fixture("imagenet", tmp_path)
    (made.folder / "preprocessed.pkl").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    (made.folder / "split_fewshot").mkdir()
    (made.folder / "split_fewshot" / "shot_3-seed_3.pkl").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    assert len(loaded("imagenet", tmp_path, NUM_SHOTS=3).train_x) == 15


@pytest.mark.parametrize(("key", "value"), [("FINAL_MODEL", "best_val"), ("SPLIT", "val")])
@pytest.mark.parametrize("part", ["all", "base", "new"])
def test_what_validates_is_left_of_the_training_images(tmp_path, key, value, part, caplog):
    """8 images a class, 3 drawn: of the 5 that are left as many validate; the draw itself is the same."""
    make_fixture("imagenet", tmp_path, images=8)
    cfg = configured("imagenet", tmp_path, NUM_SHOTS=3, SUBSAMPLE_CLASSES=part)
    plain = toolkit.build_dataset(cfg)
    cfg.TEST[key] = value
    with caplog.at_level("INFO", "cpt_plugin"):
        chosen, again = toolkit.build_dataset(cfg), toolkit.build_dataset(cfg)
    assert rows(chosen.train_x, tmp_path) == rows(plain.train_x, tmp_path)
    assert rows(chosen.test, tmp_path) == rows(plain.test, tmp_path)
    assert chosen.lab2cname == plain.lab2cname
    val = rows(chosen.val, tmp_path)
    assert val == rows(again.val, tmp_path)
    assert Counter(label for _, label, _ in val) == dict.fromkeys(range(plain.num_classes), 3)
    assert all(chosen.lab2cname[label] == name and "/train/" in path for path, label, name in val)
    assert not {*val} & {*rows(plain.train_x, tmp_path)}
    assert f"{len(val)} training images that the few-shot draw leaves" in caplog.text


def test_validation_takes_four_a_class_at_most_and_what_is_left(tmp_path):
    make_fixture("imagenet", tmp_path, images=8)
    cfg = configured("imagenet", tmp_path)
    cfg.TEST.FINAL_MODEL = "best_val"
    for shots, left in ((1, 1), (4, 4), (6, 2), (8, 0), (-1, 0)):
        cfg.DATASET.NUM_SHOTS = shots
        assert len(toolkit.build_dataset(cfg).val) == 5 * left


@pytest.mark.parametrize("way", ["BOM", "CRLF", "tab", "several spaces"])
def test_how_the_lines_of_classnames_are_written_does_not_matter(tmp_path, way):
    made = make_fixture("imagenet", tmp_path)
    file = made.folder / "classnames.txt"
    data = file.read_bytes()
    changed = {
        "BOM": b"\xef\xbb\xbf" + data,
        "CRLF": data.replace(b"\n", b"\r\n"),
        "tab": b"".join(line.replace(b" ", b"\t", 1) for line in data.splitlines(keepends=True)),
        "several spaces": b"".join(line.replace(b" ", b"   ", 1) for line in data.splitlines(keepends=True)),
    }
    file.write_bytes(changed[way])
    assert tuple(loaded("imagenet", tmp_path).classnames) == made.names


def unsorted(folder):
    for image in list(folder.rglob("*.JPEG")):
        image.rename(folder / image.name)
    for path in list(folder.iterdir()):
        if path.is_dir():
            path.rmdir()


def archives(folder):
    for path in list(folder.iterdir()):
        shutil.rmtree(path)
        path.with_suffix(".tar").touch()


def capitals(folder):
    for path in list(folder.iterdir()):
        path.rename(path.with_name(f"{path.name}.aside")).rename(path.with_name(path.name.upper()))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (unsorted, r"30 images lie in it directly: sort them"),
        (archives, r"5 archives lie in it \(n01443537\.tar, .*\): unpack each"),
        (capitals, r"the names differ in capital letters: rename the folders"),
    ],
)
def test_what_is_wrong_with_the_class_folders_is_said(tmp_path, change, said):
    folder = make_fixture("imagenet", tmp_path).folder / "images" / "train"
    change(folder)
    with pytest.raises(DataError, match=rf"{folder} must hold one folder for each of 5 classes.*{said}"):
        loaded("imagenet", tmp_path)
