"""Image folders and lists of a person's own: splits, draws, and everything that can be wrong with them."""

from __future__ import annotations

import os
import random
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cpt_plugin import toolkit
from cpt_plugin.cli.repository import default_cfg
from cpt_plugin.encoders import dataset_template
from cpt_plugin.errors import ConfigError, DataError
from cpt_plugin.toolkit.embedded.config import validate
from cpt_plugin.toolkit.embedded.image_files import opened
from cpt_plugin.toolkit.embedded.loader import read_image
from datasets import _custom
from datasets._custom import Row, split_of
from tests.helpers.fixtures.custom import COUNTS, configured, image_folder, image_list, write_list

NAMES = sorted(COUNTS)  # capitals come first
PARTS = ("train", "val", "test")


def loaded(root, kind="ImageFolder", **dataset):
    return toolkit.build_dataset(configured(root, kind, **dataset))


def items(data):
    return {part: [(i.impath, i.label, i.classname) for i in of] for part, of in zip(PARTS, parts(data), strict=True)}


def parts(data):
    return data.train_x, data.val, data.test


def make(root, kind):
    return image_folder(root / "mine") if kind == "ImageFolder" else image_list(root / "mine")


BOTH = pytest.mark.parametrize("kind", ["ImageFolder", "ImageList"])


@BOTH
def test_images_are_divided_class_by_class_and_none_is_lost(tmp_path, kind):
    make(tmp_path, kind)
    data = loaded(tmp_path, kind)
    assert data.classnames == NAMES
    for name, count in COUNTS.items():
        sizes = [sum(item.classname == name for item in part) for part in parts(data)]
        assert sizes == [round(count * 0.5), round(count * 0.2), count - round(count * 0.5) - round(count * 0.2)]
    paths = [item.impath for part in parts(data) for item in part]
    assert len(set(paths)) == len(paths) == sum(COUNTS.values())


@BOTH
def test_the_division_follows_its_own_seed_alone(tmp_path, kind):
    make(tmp_path, kind)
    first = items(loaded(tmp_path, kind))
    cfg = configured(tmp_path, kind)
    cfg.SEED = 99
    random.seed(7)
    state = random.getstate()
    assert items(toolkit.build_dataset(cfg)) == first
    assert random.getstate() == state
    assert items(loaded(tmp_path, kind, SPLIT_SEED=2)) != first


def test_split_hash_tells_divisions_apart_wherever_the_folder_lies(tmp_path):
    hashes = {}
    for place in ("here", "there"):
        image_folder(tmp_path / place / "mine")
        for seed in (1, 2):
            cfg = configured(tmp_path / place, SPLIT_SEED=seed)
            hashes[place, seed] = toolkit.DataManager(cfg).split_hash
    assert hashes["here", 1] == hashes["there", 1] != hashes["here", 2] == hashes["there", 2]


@BOTH
def test_shares_can_leave_validation_out(tmp_path, kind):
    make(tmp_path, kind)
    data = loaded(tmp_path, kind, SHARES=(0.75, 0.0))
    assert Counter(item.classname for item in data.train_x) == {n: round(c * 0.75) for n, c in COUNTS.items()}
    assert not data.val


@given(
    counts=st.dictionaries(st.sampled_from("abcdef"), st.integers(3, 12), min_size=2),
    shares=st.tuples(st.floats(0.05, 0.9), st.floats(0.05, 0.9)).filter(lambda s: sum(s) < 1),
    seed=st.integers(0, 5),
)
@settings(deadline=None, max_examples=100)
def test_every_class_is_in_every_part(counts, shares, seed):
    rows = [Row(f"{name}/{i}.jpg", name) for name, count in counts.items() for i in range(count)]
    divided = split_of(rows, shares, seed, Path("mine"))
    assert sorted(path for part in divided for path, _ in part) == sorted(row.path for row in rows)
    for part in divided:
        assert {name for _, name in part} == counts.keys()
    for name, count in counts.items():
        tested = sum(other == name for _, other in divided[2])
        assert abs(tested - count * (1 - sum(shares))) <= 2


@pytest.mark.parametrize("shares", [(0.0, 0.2), (0.8, 0.2), (0.5,), (0.5, -0.1)])
def test_impossible_shares_are_refused(shares):
    cfg = default_cfg()
    cfg.DATASET.SHARES = shares
    with pytest.raises(ConfigError, match=r"DATASET\.SHARES must be"):
        validate(cfg)


def test_folders_of_parts_are_taken_as_they_are(tmp_path):
    image_folder(tmp_path / "mine", {"a": 2, "b": 3}, PARTS)
    data = loaded(tmp_path)
    for part, of in zip(PARTS, parts(data), strict=True):
        assert Counter(item.classname for item in of) == {"a": 2, "b": 3}
        assert {Path(item.impath).parts[-3] for item in of} == {part}


def test_validation_may_be_missing(tmp_path):
    image_folder(tmp_path / "mine", {"a": 2, "b": 3}, ("train", "test"))
    assert loaded(tmp_path).val == []


def test_a_class_may_be_called_train(tmp_path):
    image_folder(tmp_path / "mine", {"train": 4, "plane": 4})
    assert loaded(tmp_path).classnames == ["plane", "train"]


def test_a_list_with_a_split_is_taken_as_it_is(tmp_path):
    image_folder(tmp_path / "mine", {"a": 3, "b": 3})
    rows = [(f"{name}/photo {i}.jpg", name, part) for name in "ba" for i, part in enumerate(PARTS)]
    write_list(tmp_path / "mine" / "labels.csv", rows, ("path", "label", "split"))
    data = loaded(tmp_path, "ImageList")
    for i, of in enumerate(parts(data)):
        assert {(Path(item.impath).name, item.classname) for item in of} == {(f"photo {i}.jpg", n) for n in "ab"}


def test_paths_of_a_list_count_from_a_given_folder(tmp_path):
    image_list(tmp_path / "mine")
    (tmp_path / "mine" / "labels.csv").rename(tmp_path / "labels.csv")
    assert len(loaded(tmp_path, "ImageList", LIST="labels.csv", FOLDER=str(tmp_path / "mine")).train_x) == 15


@BOTH
def test_shots_halves_and_tail(tmp_path, kind):
    make(tmp_path, kind)
    base = loaded(tmp_path, kind, NUM_SHOTS=2, SUBSAMPLE_CLASSES="base")
    assert base.classnames == NAMES[:2]
    assert Counter(item.label for item in base.train_x) == {0: 2, 1: 2}
    cfg = configured(tmp_path, kind, NUM_SHOTS=3, IMBALANCE_TAU=0.25, MAX_PER_CLASS=3)
    assert toolkit.DataManager(cfg).class_counts == [3, 1, 1, 1]  # floor(3 * 4^(-rank / 3)), at least 1


def test_other_files_are_left_out_and_counted(tmp_path, caplog):
    folder = image_folder(tmp_path / "mine")
    (folder / "notes.txt").touch()
    (folder / "dog" / "notes.txt").touch()
    (folder / "dog" / ".hidden.jpg").touch()
    with caplog.at_level("WARNING", "cpt_plugin"):
        data = loaded(tmp_path)
    assert "2 files are no images and are left out: notes.txt, dog/notes.txt" in caplog.text
    assert sum(len(part) for part in parts(data)) == sum(COUNTS.values())


# -- what can be wrong -------------------------------------------------------------------------------------------------


def refused(root, message, kind="ImageFolder", error=DataError, **dataset):
    with pytest.raises(error, match=message):
        loaded(root, kind, **dataset)


@pytest.mark.parametrize(("kind", "key"), [("ImageFolder", "FOLDER"), ("ImageList", "LIST")])
def test_what_to_read_must_be_given_and_exist(tmp_path, kind, key):
    refused(tmp_path, f"needs DATASET.{key}", kind, ConfigError, **{key: ""})
    refused(tmp_path, r"cannot read the (folder|list) .*mine", kind)


def test_empty_and_nested_folders(tmp_path):
    folder = image_folder(tmp_path / "mine", {"a": 4, "b": 4})
    (folder / "c").mkdir()
    refused(tmp_path, "has no image in c; add images, or remove the empty folders")
    (folder / "c").rmdir()
    (folder / "a" / "deeper").mkdir()
    refused(tmp_path, r"a holds folders \(deeper\), but the images of a class lie directly")


@pytest.mark.parametrize(
    "names", [("train", "valid", "test"), ("Train", "VAL", "Test"), ("training", "validation", "testing")]
)
def test_parts_by_other_names_are_understood(tmp_path, names):
    image_folder(tmp_path / "mine", {"a": 2, "b": 2}, names)
    for name, part in zip(names, parts(loaded(tmp_path)), strict=True):
        assert {Path(item.impath).parts[-3] for item in part} == {name}


def test_a_folder_without_test_images(tmp_path):
    image_folder(tmp_path / "mine", {"a": 2, "b": 2}, ("train", "val"))
    refused(tmp_path, "has train and val, but no folder test")


def test_images_outside_class_folders(tmp_path):
    folder = image_folder(tmp_path / "mine", {"a": 4, "b": 4})
    (folder / "a" / "photo 0.jpg").rename(folder / "loose.jpg")
    refused(tmp_path, "images outside class folders: loose.jpg")


def test_a_class_with_too_few_images_for_all_parts_trains_first_then_tests(tmp_path, caplog):
    image_folder(tmp_path / "mine", {"a": 4, "b": 2, "c": 1})
    with caplog.at_level("WARNING", "cpt_plugin"):
        data = loaded(tmp_path)
    found = [Counter(item.classname for item in part) for part in parts(data)]
    assert found == [{"a": 2, "b": 1, "c": 1}, {"a": 1}, {"a": 1, "b": 1}]
    assert data.classnames == ["a", "b", "c"]
    assert data.untested == {"c"}
    assert "two images only of 'b': one trains, one tests, none validates" in caplog.text
    assert "one image only of 'c': it trains, and the class has no test image" in caplog.text


@pytest.mark.parametrize("part", ["train", "test"])
def test_a_class_that_a_given_part_lacks(tmp_path, part):
    folder = image_folder(tmp_path / "mine", {"a": 2, "b": 2}, ("train", "test"))
    for image in (folder / part / "b").iterdir():
        image.unlink()
    (folder / part / "b").rmdir()
    refused(tmp_path, f"has no {part} image of 'b'")


@pytest.mark.parametrize("twin", ["red barn", "Red_Barn", "red__barn"])
def test_classes_that_read_the_same(tmp_path, twin):
    image_folder(tmp_path / "mine", {"red_barn": 4, twin: 4, "cat": 4})
    refused(tmp_path, "which read the same: rename or merge them")


def test_one_class_is_not_enough(tmp_path):
    image_folder(tmp_path / "mine", {"a": 4})
    refused(tmp_path, "has one class: at least two are needed")


@BOTH
def test_unreadable_images_are_counted_and_named(tmp_path, kind):
    make(tmp_path, kind)
    images = sorted((tmp_path / "mine").rglob("*.[jp][pn]g"))
    for image, content in zip(images, (b"", b"no image", b"<html>", b"\x89PNG\r\n\x1a\n"), strict=False):
        image.write_bytes(content)
    refused(tmp_path, rf"4 of {len(images)} images in .* cannot be read: .* and 1 more; restore or remove", kind)


def test_links_inside_are_followed_and_those_that_leave_refused(tmp_path):
    folder = image_folder(tmp_path / "mine", {"a": 4, "b": 4})
    (folder / "a" / "again.jpg").symlink_to(folder / "a" / "photo 0.jpg")
    assert sum(len(part) for part in parts(loaded(tmp_path))) == 9
    outside = image_folder(tmp_path / "other", {"c": 4})
    (folder / "a" / "away.jpg").symlink_to(outside / "c" / "photo 0.jpg")
    (folder / "c").symlink_to(outside / "c")
    refused(tmp_path, r"5 of 14 images are links that leave .*mine: a/away\.jpg -> .*other/c/photo 0\.jpg, c/photo 0")
    (folder / "a" / "away.jpg").unlink()
    (folder / "c").unlink()
    (tmp_path / "link").symlink_to(folder)
    assert len(loaded(tmp_path, FOLDER="link").classnames) == 2, "the folder itself may be a link"


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (("path", "class"), r"has the columns path, class, but must have path, .* call 'label' what is called 'class'"),
        (("path", "label", "splitt"), r"did you mean 'split' by 'splitt'\?"),
        (("path",), "has the columns path, but must have"),
        (("path;label",), r"the columns of .* are separated by semicolons, but must be by commas"),
        (("path", "label", "label"), "has the columns path, label, label"),
        ((), r"has the columns \(none\)"),
    ],
)
def test_other_columns(tmp_path, columns, message):
    write_list(tmp_path / "mine" / "labels.csv", [], columns)
    refused(tmp_path, message, "ImageList")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("all/0_0.png", "line 32: not as many cells as columns"),
        ("all/0_0.png,cat,more", "line 32: not as many cells as columns"),
        (",cat", "line 32: no path"),
        ("all/0_0.png,", "line 32: no label"),
        ("all/9_9.png,cat", "line 32: there is no file"),
        ("../labels.csv,cat", "line 32: '../labels.csv' leaves the folder"),
        ("/etc/passwd,cat", "line 32: '/etc/passwd' leaves the folder"),
        ("all/0_0.png,red_barn", "line 32: 'all/0_0.png' stands in line 2 already; correct"),
        ("all/0_0.png,cat", "line 32: 'all/0_0.png' stands in line 2 already, with the label 'red_barn'"),
        ('all/0_0.png,"cat', "cannot read the list"),
        ("all/\xff.png,cat", "line 32|cannot read the list"),
    ],
)
def test_wrong_lines_are_named_by_number(tmp_path, line, message):
    file = image_list(tmp_path / "mine")
    with file.open("a", encoding="latin1") as stream:
        stream.write(f"{line}\n")
    refused(tmp_path, message, "ImageList")


def test_many_wrong_lines_are_counted(tmp_path):
    write_list(tmp_path / "mine" / "labels.csv", [(f"{i}.jpg", "a") for i in range(5)])
    refused(tmp_path, r"5 lines of .* are wrong: line 2: .* line 4: .* and 2 more", "ImageList")


def test_an_unknown_split_is_named(tmp_path):
    image_folder(tmp_path / "mine", {"a": 1})
    write_list(tmp_path / "mine" / "labels.csv", [("a/photo 0.jpg", "a", "valid")], ("path", "label", "split"))
    refused(tmp_path, "line 2: the split 'valid' is none of train, val, test: write val", "ImageList")


def test_numbers_as_labels_are_said_to_be_names(tmp_path, caplog):
    image_folder(tmp_path / "mine", {"0": 3, "1": 3})
    write_list(tmp_path / "mine" / "labels.csv", [(f"{n}/photo {i}.jpg", n) for n in "01" for i in range(3)])
    with caplog.at_level("WARNING", "cpt_plugin"):
        assert loaded(tmp_path, "ImageList").classnames == ["0", "1"]
    assert "2 of 2 class names are numbers, which CLIP cannot read as words: 0, 1;" in caplog.text


def test_a_byte_order_mark_and_spaces_do_no_harm(tmp_path):
    file = image_list(tmp_path / "mine")
    file.write_text("﻿" + re.sub(r"(?m),", " , ", file.read_text().replace("path,label", "path_label")).replace(
        "path_label", "path,label"), encoding="utf-8")  # fmt: skip
    assert loaded(tmp_path, "ImageList").classnames == NAMES


# -- template ----------------------------------------------------------------------------------------------------------


def test_template_of_a_yaml_goes_before_that_of_the_data_set():
    cfg = default_cfg()
    cfg.DATASET.NAME = "EuroSAT"
    assert dataset_template(cfg) == "a centered satellite photo of {}."
    cfg.DATASET.TEMPLATE = "an aerial view of {}."
    assert dataset_template(cfg) == "an aerial view of {}."
    assert dataset_template(None) == "a photo of a {}."


@pytest.mark.parametrize("template", ["no braces", "{} and {}"])
def test_a_template_without_meaning_is_refused(template):
    cfg = default_cfg()
    cfg.DATASET.TEMPLATE = template
    with pytest.raises(ConfigError, match=r"DATASET\.TEMPLATE must be a sentence with \{\} once"):
        validate(cfg)


@BOTH
def test_gray_values_of_16_bits_are_refused_because_they_would_turn_white(tmp_path, kind):
    make(tmp_path, kind)
    image = next(path for path in sorted((tmp_path / "mine").rglob("*")) if path.suffix in (".jpg", ".png"))
    Image.fromarray(np.full((8, 8), 40_000, np.uint16)).save(image, "PNG")
    refused(tmp_path, r"more than 8 bits \(Pillow's mode I;16\)", kind)
    with pytest.raises(DataError, match="more than 8 bits"):
        read_image(str(image))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr"])
def test_other_kinds_of_pixels_are_read(tmp_path, mode):
    file = tmp_path / ("x.tif" if mode in ("CMYK", "YCbCr") else "x.png")
    Image.new(mode, (8, 8)).save(file)
    assert read_image(str(file)).mode == "RGB"


def test_accents_written_in_two_ways_read_the_same(tmp_path):
    image_folder(tmp_path / "mine", {"caf\u00e9": 4, "cafe\u0301": 4})
    refused(tmp_path, "which read the same: rename or merge them")


def test_what_is_neither_file_nor_folder_stops(tmp_path):
    os.mkfifo(image_folder(tmp_path / "mine") / "dog" / "pipe.jpg")
    refused(tmp_path, r"what is no file: pipe\.jpg")


@BOTH
def test_every_data_manager_of_a_process_shares_one_look_at_the_images(tmp_path, kind, monkeypatch):
    make(tmp_path, kind)
    looks = []
    monkeypatch.setattr(_custom, "opened", lambda path: looks.append(path) or opened(path))
    first, again = loaded(tmp_path, kind), loaded(tmp_path, kind)
    assert len(looks) == len(set(looks)) == sum(COUNTS.values())
    assert items(first) == items(again)
    changed, refused = sorted(looks)[:2]
    Image.new("RGB", (9, 7)).save(changed)
    os.utime(changed, (1, 1))
    loaded(tmp_path, kind)
    assert looks[sum(COUNTS.values()) :] == [changed]
    Path(refused).write_bytes(b"no image")
    for _ in range(2):
        with pytest.raises(DataError, match=r"1 of .* images in .* cannot be read"):
            loaded(tmp_path, kind)
