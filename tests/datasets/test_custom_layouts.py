"""Folders and lists as people have them: understood, or refused with the reason and the remedy that fit."""

from __future__ import annotations

import codecs
import gzip
import os
from collections import Counter
from contextlib import nullcontext
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cpt_plugin import toolkit
from cpt_plugin.cli.repository import default_cfg
from cpt_plugin.errors import ConfigError, DataError
from datasets._custom import Row, check_parts, split_of
from tests.helpers.fixtures.custom import COUNTS, image_folder, image_list, write_list

TWO = {"a": 3, "b": 3}


def loaded(root, **dataset):
    cfg = default_cfg()
    cfg.SEED, cfg.DATASET.ROOT, cfg.DATASET.NAME = 1, str(root), "ImageList" if "LIST" in dataset else "ImageFolder"
    for key, value in ({"FOLDER": "" if "LIST" in dataset else "mine"} | dataset).items():
        cfg.DATASET[key] = value
    return toolkit.build_dataset(cfg)


def refused(root, message, error=DataError, **dataset):
    with pytest.raises(error, match=message):
        loaded(root, **dataset)


def sizes(data):
    return len(data.train_x), len(data.val), len(data.test)


# -- folders -----------------------------------------------------------------------------------------------------------


def test_what_programs_leave_is_no_class(tmp_path):
    folder = image_folder(tmp_path / "mine", TWO)
    for junk in ("__MACOSX/a", "a/@eaDir/photo 0.jpg", ".ipynb_checkpoints", "a/.ipynb_checkpoints"):
        image_folder(folder / junk, {"": 1})
    (folder / "a" / "._photo 0.jpg").write_bytes(b"\0\5\26\7")
    assert sum(sizes(loaded(tmp_path))) == 6


def test_jfif_and_pgm_files_are_images(tmp_path):
    folder = image_folder(tmp_path / "mine", {**TWO, "eel": 3})
    for image in (folder / "eel").iterdir():
        image.rename(image.with_suffix(".jfif"))
    assert loaded(tmp_path).classnames == ["a", "b", "eel"]


@pytest.mark.parametrize(("old", "new"), [(".jpg", ""), (".jpg", ".jpg?w=100"), (".jpg", ".xyz")])
def test_names_that_do_not_end_as_images_are_shown(tmp_path, old, new):
    folder = image_folder(tmp_path / "mine", TWO)
    for image in [*(folder / "b").iterdir()]:
        image.rename(str(image).replace(old, new))
    refused(tmp_path, r"no image in b; b/photo .* does not end as an image does \(\.jpg, \.png\): rename such files")


def test_a_folder_without_images_beside_the_parts_is_left_out_and_said(tmp_path, caplog):
    folder = image_folder(tmp_path / "mine", TWO, ("train", "test"))
    (folder / "annotations").mkdir()
    (folder / "annotations" / "list.txt").touch()
    (folder / "val").mkdir()
    with caplog.at_level("WARNING", "cpt_plugin"):
        assert sizes(loaded(tmp_path)) == (6, 0, 6)
    assert "annotations holds no images and is left out" in caplog.text
    assert "val is empty and left out" in caplog.text


def test_images_beside_the_parts_are_not_dropped(tmp_path):
    image_folder(tmp_path / "mine", TWO, ("train", "test", "extra"))
    refused(tmp_path, "holds extra with images beside train and test: call it after a part")


def test_two_folders_for_one_part(tmp_path):
    image_folder(tmp_path / "mine", TWO, ("train", "test", "val", "valid"))
    refused(tmp_path, "holds val and valid, which are both val: make them one")


def test_parts_that_are_missing(tmp_path):
    image_folder(tmp_path / "one" / "mine", TWO, ("train",))
    refused(tmp_path / "one", r"has train, but no folder test: .* set DATASET\.FOLDER to .*mine/train")
    assert sizes(loaded(tmp_path / "one", FOLDER="mine/train")) == (2, 2, 2)
    image_folder(tmp_path / "two" / "mine", TWO, ("test", "val"))
    refused(tmp_path / "two", "has val and test, but no folder train")


def test_images_of_a_part_in_one_folder_as_tiny_imagenet_has_them(tmp_path):
    image_folder(tmp_path / "mine", {"n01": 2, "n02": 2}, ("train",))
    image_folder(tmp_path / "mine" / "val", {"images": 4})
    refused(tmp_path, "val has one folder, images, and not one for each of the 2 classes: sort its images")


def test_nested_once_more(tmp_path):
    image_folder(tmp_path / "mine" / "mine", TWO)
    refused(tmp_path, r"nothing but the folder mine with the folders a, b: set DATASET\.FOLDER to .*mine/mine")
    image_folder(tmp_path / "parts" / "mine" / "deep", TWO, ("train", "test"))
    refused(tmp_path / "parts", r"with the folders test, train: set DATASET\.FOLDER to .*mine/deep")


def test_images_without_folders(tmp_path):
    image_folder(tmp_path, {"mine": 3})
    refused(tmp_path, "holds images .* but no folders of classes: .* or list all in a CSV file")


def test_nothing_at_all(tmp_path):
    (tmp_path / "mine").mkdir()
    refused(tmp_path, "mine holds no folder of a class")


@pytest.mark.parametrize("place", ["", "train"])
def test_folders_whose_names_are_not_utf8(tmp_path, place):
    folder = image_folder(tmp_path / "mine", TWO, (place, "test") if place else ("",)) / place
    os.rename(os.fsencode(folder / "a"), os.fsencode(folder) + b"/caf\xe9")
    refused(tmp_path, r"has names that are not UTF-8: caf\\xe9 .*rename them")


def test_images_whose_names_are_not_utf8_and_other_files(tmp_path, caplog):
    folder = image_folder(tmp_path / "mine", TWO)
    (folder / "a" / "x.txt").touch()
    os.rename(os.fsencode(folder / "a" / "x.txt"), os.fsencode(folder / "a") + b"/caf\xe9.txt")
    with caplog.at_level("WARNING", "cpt_plugin"):
        loaded(tmp_path)
    assert r"1 file is no image and is left out: a/caf\xe9.txt" in caplog.text
    os.rename(os.fsencode(folder / "a" / "photo 0.jpg"), os.fsencode(folder / "a") + b"/caf\xe9.jpg")
    refused(tmp_path, r"mine/a has names that are not UTF-8: caf\\xe9\.jpg")


# -- few images --------------------------------------------------------------------------------------------------------


@given(
    counts=st.dictionaries(st.sampled_from("abcdefgh"), st.integers(1, 9), min_size=2),
    shares=st.tuples(st.floats(0.05, 0.9), st.floats(0, 0.9)).filter(lambda s: sum(s) < 0.99),
    seed=st.integers(0, 3),
)
@settings(deadline=None, max_examples=100)
def test_every_class_trains_and_tests_as_far_as_it_has_images(counts, shares, seed):
    rows = [Row(f"{name}/{i}.jpg", name) for name, count in counts.items() for i in range(count)]
    divided = split_of(rows, shares, seed, Path("mine"))
    assert sorted(path for part in divided for path, _ in part) == sorted(row.path for row in rows)
    train, val, test = ({name for _, name in part} for part in divided)
    assert train == counts.keys()
    assert test == {name for name, count in counts.items() if count > 1}
    assert val == {name for name, count in counts.items() if count > 2 and shares[1] > 0}
    alone = [row for row in rows if row.label == min(counts)]
    of_all = [[image for image in part if image[1] == min(counts)] for part in divided]
    assert split_of(alone, shares, seed, Path("mine")) == of_all, "other classes do not matter"


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 2)), min_size=1, max_size=12))
@settings(deadline=None)
def test_a_given_division_is_taken_when_all_can_train_and_test(images):
    parts = [[(f"{index}.jpg", name) for index, (name, part) in enumerate(images) if part == k] for k in range(3)]
    train, _, test = (Counter(name for _, name in part) for part in parts)
    total = Counter(name for name, _ in images)
    good = all(train[name] and (test[name] or total[name] == 1) for name in total)
    with nullcontext() if good else pytest.raises(DataError, match=r"has no (train|test) image of"):
        check_parts(parts, Path("mine"))


def test_shares_are_checked_without_a_command_too(tmp_path):
    image_folder(tmp_path / "mine", TWO)
    refused(tmp_path, r"DATASET\.SHARES must be the shares", ConfigError, SHARES=(0.8, 0.2))


# -- lists -------------------------------------------------------------------------------------------------------------


def listed(tmp_path, text: str | bytes):
    if not (tmp_path / "all").exists():
        image_list(tmp_path)
    (tmp_path / "list.csv").write_bytes(text.encode() if isinstance(text, str) else text)
    return {"LIST": "list.csv"}


def body():
    rows = [(f"all/{label}_{index}.png", name) for label, (name, n) in enumerate(COUNTS.items()) for index in range(n)]
    return "".join(f"{path},{name}\n" for path, name in rows)


@pytest.mark.parametrize(
    "text",
    [
        "Path,LABEL\n" + body(),
        "\ufeffpath, label\r\n" + body().replace("\n", "\r\n").replace(",", ", "),
        "\ufeff\ufeffpath,label\n" + body(),
        "path,label\n\n" + body() + ",\n , \n",
        ("path,label\n" + body()).replace("\n", "\r"),
        'path,label\n' + body().replace(",dog", ', "dog"'),
        "path,label\n" + body().replace("all/", "./all/"),
    ],
)
def test_lists_as_programs_write_them_are_understood(tmp_path, text):
    data = loaded(tmp_path, **listed(tmp_path, text))
    assert data.classnames == sorted(COUNTS)
    assert sum(sizes(data)) == sum(COUNTS.values())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (body(), "its first line is an image already: write a line path,label above it"),
        (",path,label\n", r"column 1 has no name \(pandas writes its index so\): save it with index=False"),
        ("Unnamed: 0,path,label\n", "save it with index=False"),
        ("filename,class\n", "call 'path' what is called 'filename'; call 'label' what is called 'class'"),
        ("# path,label\n", "take the # away"),
        ("# made by me\npath,label\n", "its first line is a comment: remove it"),
        ("path,label,width\n", "remove 'width'"),
        ("path\tlabel\n", "are separated by tabs"),
        ("path,label\n", "has no line below its header"),
        ("", r"has the columns \(none\)"),
        (gzip.compress(b"path,label\n", mtime=0), "it is compressed"),
        (b"PK\x03\x04rest", "it is an Excel workbook"),
        ("path,label\n".encode("utf-16"), "it is UTF-16"),
        ("path,label\n".encode("utf-16-le"), "it is UTF-16"),
        (codecs.BOM_UTF16_BE + "path,label\n".encode("utf-16-be"), "it is UTF-16"),
        (b"path,label\nall/0_0.png,caf\xe9\n", r"line 2 is not UTF-8 \(byte 0xe9\)"),
        ('path,label\nall/0_0.png,"cat\n', "cannot read the list .*: line"),
    ],
)
def test_other_files_and_columns_are_told_apart(tmp_path, text, message):
    refused(tmp_path, message, **listed(tmp_path, text))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (r"all\0_0.png,a", r"is written with backslashes: write 'all/0_0\.png'"),
        ("{root}/all/0_0.png,a", r"is absolute: write 'all/0_0\.png', the path from"),
        ("/home/me/data/all/0_0.png,a", r"is absolute: write 'all/0_0\.png'"),
        ("data/all/0_0.png,a", r"there is no file .*: write 'all/0_0\.png'"),
        ("/elsewhere/9_9.png,a", "'/elsewhere/9_9.png' leaves the folder"),
        ("../{name}/all/0_0.png,a", "leaves the folder"),
        ("all/0_0.png,y\0ak", "a line break or a control character"),
        ('all/0_0.png,"y\nak"', "a line break or a control character"),
    ],
)
def test_lines_get_the_hint_that_fits(tmp_path, line, message):
    line = line.replace("{root}", str(tmp_path)).replace("{name}", tmp_path.name)
    refused(tmp_path, f"1 line of .* is wrong: line .: .*{message}", **listed(tmp_path, f"path,label\n{line}\n"))


@pytest.mark.parametrize(
    ("words", "message"),
    [(("train", "", "test"), "the split is empty: give every line"), (("train", "dev", "test"), "'dev' is none of")],
)
def test_splits_that_are_none(tmp_path, words, message):
    image_folder(tmp_path / "mine", TWO)
    rows = [(f"mine/{name}/photo {i}.jpg", name, word) for name in "ab" for i, word in enumerate(words)]
    write_list(tmp_path / "list.csv", rows, ("path", "label", "split"))
    refused(tmp_path, f"2 lines of .* are wrong: line 3: the split .*{message}|{message}", LIST="list.csv")


def test_splits_in_capitals(tmp_path):
    image_folder(tmp_path / "mine", TWO)
    rows = [(f"mine/{n}/photo {i}.jpg", n, word) for n in "ab" for i, word in enumerate(("Train", "VAL", "Test"))]
    write_list(tmp_path / "list.csv", rows, ("path", "label", "split"))
    assert sizes(loaded(tmp_path, LIST="list.csv")) == (2, 2, 2)
