"""Splits of our own: whole, seeded, the same everywhere, never in the place of the published one, and said to be so."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.io import savemat

pytest.importorskip("torch", reason="the toolkit needs torch")

from cpt_plugin.data.manifest import manifest_of
from cpt_plugin.errors import ConfigError, DataError
from datasets import _own_split
from datasets._own_split import divide, number
from tests.helpers.fixtures import Fixture, make_fixture
from tests.helpers.fixtures.loading import WITH_SPLIT_FILE, build, rows

OFFICIAL = ("oxford_pets", "stanford_cars", "sun397")
"""Whose authors' lists of training and test images lie in the fixture."""


def make(name: str, root: Path) -> Fixture:
    """A fixture without the published split file."""
    fixture = make_fixture(name, root, images=10)
    (fixture.folder / manifest_of(name).split).unlink()
    return fixture


def lists(fixture: Fixture, **values: Any) -> list[list[tuple[str, int, str]]]:
    dataset = build(fixture, SPLIT="own", **values)
    return [rows(fixture, items) for items in (dataset.train_x, dataset.val, dataset.test)]


@pytest.mark.parametrize("name", WITH_SPLIT_FILE)
def test_every_image_once_with_its_published_label_and_name(tmp_path: Path, name: str) -> None:
    fixture = make(name, tmp_path)
    parts = lists(fixture)
    published = {path: (label, class_name) for part in fixture.rows.values() for path, label, class_name in part}
    found = {path: (label, class_name) for part in parts for path, label, class_name in part}
    assert found == published
    assert sum(map(len, parts)) == len(published), "no image twice"


@pytest.mark.parametrize("name", WITH_SPLIT_FILE)
def test_sizes_are_those_of_the_field(tmp_path: Path, name: str) -> None:
    fixture = make(name, tmp_path)
    sizes = [Counter(label for _, label, _ in part) for part in lists(fixture)]
    if name in OFFICIAL:  # of ten, seven for training, a fifth of them for val
        expected = (6, 1, 3)
        assert sorted(path for path, *_ in lists(fixture)[2]) == sorted(path for path, *_ in fixture.rows["test"])
    elif name == "ucf101":  # groups 1 to 7 test
        expected = (2, 1, 7)
    else:
        expected = (5, 2, 3)
    assert sizes == [dict.fromkeys(range(5), count) for count in expected]


@pytest.mark.parametrize("name", WITH_SPLIT_FILE)
def test_the_same_on_every_machine_and_another_with_another_seed(tmp_path: Path, name: str, monkeypatch: Any) -> None:
    first = make(name, tmp_path / "a")
    reference = lists(first)
    shutil.copytree(first.root, tmp_path / "b", ignore=shutil.ignore_patterns("split_own*"))
    scandir = os.scandir

    @contextmanager
    def backwards(folder: Path) -> Any:
        with scandir(folder) as entries:
            yield iter(sorted(entries, key=lambda entry: entry.name, reverse=True))

    monkeypatch.setattr(os, "scandir", backwards)
    second = Fixture(name, tmp_path / "b", tmp_path / "b" / first.folder.name, first.names, first.rows)
    assert lists(second) == reference
    assert lists(second, SPLIT_SEED=2)[0] != reference[0]


def test_this_draw_never_changes(tmp_path: Path) -> None:
    """Written down once: a change of it would silently change every result that used an own split."""
    train, val, test = lists(make("eurosat", tmp_path))
    forest = [[int(path.split("_")[1][:-4]) for path, label, _ in part if label == 1] for part in (train, val, test)]
    assert forest == FOREST


FOREST = [[3, 5, 2, 8, 1], [7, 6], [9, 10, 4]]


def test_it_has_a_file_of_its_own_and_is_read_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fixture = make_fixture("food101", tmp_path)
    published = fixture.folder / "split_zhou_Food101.json"
    before = published.read_bytes()
    with caplog.at_level(logging.WARNING):
        reference = lists(fixture)
    own = fixture.folder / "split_own_seed1_Food101.json"
    assert "NOT the published one" in caplog.text
    assert published.read_bytes() == before
    content = json.loads(own.read_text())
    assert "not published" in content["origin"]
    content["train"], content["val"] = content["val"], content["train"]
    own.write_text(json.dumps(content))
    caplog.clear()
    assert lists(fixture) == [reference[1], reference[0], reference[2]], "what is in the file counts"
    assert "NOT the published one" in caplog.text, "said by every run"
    assert build(fixture, SPLIT="own").split_label == "own split 1, incomplete"


def test_a_folder_that_cannot_be_written_keeps_it_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fixture = make("dtd", tmp_path)

    def refuse(path: Path, text: str) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(_own_split, "atomic_write_text", refuse)
    first = lists(fixture)
    assert "made anew by every run" in caplog.text
    assert lists(fixture) == first
    assert list(fixture.folder.glob("split_*")) == []


@pytest.mark.parametrize(
    ("name", "lists_of_authors"), [("oxford_pets", ("annotations",)), ("sun397", ("Training_01.txt",))]
)
def test_without_the_authors_lists_the_images_alone_serve(
    tmp_path: Path, name: str, lists_of_authors: tuple[str, ...]
) -> None:
    fixture = make(name, tmp_path)
    for each in lists_of_authors:
        path = fixture.folder / each
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    parts = lists(fixture)
    assert [len(part) for part in parts] == [25, 10, 15]
    names = {path: class_name for part in fixture.rows.values() for path, _, class_name in part}
    assert all(names[path] == class_name for part in parts for path, _, class_name in part)


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("stanford_cars", "devkit/cars_meta.mat"),
        ("stanford_cars", "cars_test_annos_withlabels.mat"),
        ("oxford_flowers", "imagelabels.mat"),
        ("oxford_flowers", "cat_to_name.json"),
    ],
)
def test_a_list_without_which_nothing_tells_the_class_is_asked_for(tmp_path: Path, name: str, file: str) -> None:
    fixture = make(name, tmp_path)
    path = fixture.folder / file
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(DataError, match="damaged"):
        lists(fixture)
    path.unlink()
    with pytest.raises(DataError, match="is not there; get it from http"):
        lists(fixture)
    assert list(fixture.folder.glob("split_own*")) == [], "nothing half made is left"


def test_an_image_that_an_official_list_names_must_be_there(tmp_path: Path) -> None:
    fixture = make("stanford_cars", tmp_path)
    (tmp_path / fixture.rows["test"][0][0]).unlink()
    with pytest.raises(DataError, match="1 of the 50 images"):
        lists(fixture)


def test_no_images_at_all(tmp_path: Path) -> None:
    fixture = make("eurosat", tmp_path)
    shutil.rmtree(fixture.folder / "2750")
    with pytest.raises(DataError, match=r"cannot read the folder .*2750: No such file"):
        lists(fixture)
    (fixture.folder / "2750").mkdir()
    with pytest.raises(DataError, match="no images"):
        lists(fixture)


def test_aircraft_needs_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="come with its images"):
        build(make_fixture("fgvc_aircraft", tmp_path), SPLIT="own")


def test_images_behind_links_count_and_links_that_lead_nowhere_stop(tmp_path: Path) -> None:
    fixture = make("eurosat", tmp_path / "data")
    whole = lists(fixture, CHECK_COUNTS=False)
    folder = next(path for path in sorted((fixture.folder / "2750").iterdir()) if path.is_dir())
    folder.rename(tmp_path / folder.name)
    folder.symlink_to(tmp_path / folder.name)
    for file in fixture.folder.glob("split_own_*"):
        file.unlink()
    assert lists(fixture, CHECK_COUNTS=False) == whole

    (folder / "gone.jpg").symlink_to(tmp_path / "gone")
    for file in fixture.folder.glob("split_own_*"):
        file.unlink()
    with pytest.raises(DataError, match=r"no file: gone\.jpg"):
        lists(fixture)


def test_other_files_are_no_images(tmp_path: Path) -> None:
    fixture = make("oxford_pets", tmp_path)
    (fixture.folder / "images" / "Abyssinian_100.mat").touch()  # the real archive has a few
    (fixture.folder / "images" / "._beagle_1.jpg").touch()
    shutil.rmtree(fixture.folder / "annotations")
    assert sum(map(len, lists(fixture))) == 50


@given(
    sizes=st.dictionaries(st.text("abc", min_size=1, max_size=3), st.integers(1, 40), min_size=1, max_size=5),
    seed=st.integers(0, 10**6),
)
def test_divide(sizes: dict[str, int], seed: int) -> None:
    images = [(f"{name}/{i}.jpg", name) for name, count in sizes.items() for i in range(count)]
    parts = divide(images, (0.5, 0.2), seed)
    assert divide(images[::-1], (0.5, 0.2), seed) == parts
    assert sorted(image for part in parts for image in part) == sorted(images)
    for name, count in sizes.items():
        train, val, test = (sum(each == name for _, each in part) for part in parts)
        assert (train > 0, val > 0, test > 0) == (True, count > 1, count > 2)
        assert max(abs(train - count * 0.5), abs(val - count * 0.2), abs(test - count * 0.3)) <= 1.5
        assert count < 6 or (train, val) == (round(count / 2), round(count / 5))
    alone = divide([image for image in images if image[1] == images[0][1]], (0.5, 0.2), seed)
    assert [[i for i in part if i[1] == images[0][1]] for part in parts] == alone, "other classes do not matter"


def test_labels_follow_the_published_order_and_strangers_come_last() -> None:
    parts = [[("1", "zebra"), ("2", "ant")], [("3", "bee")], [("4", "cat")]]
    numbered = number(parts, ["cat", "ant", "unseen", "zebra"])
    assert numbered == {"train": [("1", 2, "zebra"), ("2", 1, "ant")], "val": [("3", 3, "bee")],
                        "test": [("4", 0, "cat")]}  # fmt: skip


def test_a_split_made_before_all_images_were_there_is_said_to_be_outdated(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fixture = make("eurosat", tmp_path)
    image = next((fixture.folder / "2750").rglob("*.jpg"))
    image.rename(tmp_path / "later.jpg")
    partial = lists(fixture, CHECK_COUNTS=False)
    assert lists(fixture, CHECK_COUNTS=False) == partial
    assert "would give another split" not in caplog.text
    (tmp_path / "later.jpg").rename(image)
    assert lists(fixture, CHECK_COUNTS=False) == partial
    assert "would give another split" in caplog.text


def test_frames_without_a_video_group_are_refused(tmp_path: Path) -> None:
    """The official split goes by groups; without them all frames would train, and none test."""
    fixture = make("ucf101", tmp_path)
    frames = sorted((fixture.folder / "UCF-101-midframes").rglob("*.jpg"))
    frames[0].rename(frames[0].with_name("frame_1.jpg"))
    with pytest.raises(DataError, match=r"1 of 50 frames .* have no video group .*frame_1\.jpg.*custom-data"):
        lists(fixture)
    for index, path in enumerate(frames[1:]):
        path.rename(path.with_name(f"frame_{index + 2}.jpg"))
    with pytest.raises(DataError, match="50 of 50 frames"):
        lists(fixture)
    assert list(fixture.folder.glob("split_own*")) == []


@pytest.mark.parametrize("groups", [range(1, 8), range(8, 18)])
def test_official_lists_that_leave_a_part_empty_are_refused(tmp_path: Path, groups: range) -> None:
    fixture = make("ucf101", tmp_path)
    part = "train" if groups[0] == 1 else "test"
    for path in (fixture.folder / "UCF-101-midframes").rglob("*.jpg"):
        number = int(path.name.partition("_g")[2][:2])
        group = groups[number % len(groups)]
        path.rename(path.with_name(path.name.replace(f"_g{number:02d}_c01", f"_g{group:02d}_c{number + 20}")))
    with pytest.raises(DataError, match=f"no {part} images"):
        lists(fixture)
    assert list(fixture.folder.glob("split_own*")) == []


@pytest.mark.parametrize(
    ("name", "stray", "complaint"),
    [
        ("oxford_pets", "images/holiday.jpg", "not named after its breed"),
        ("oxford_pets", "images/_12.jpg", "not named after its breed"),
        ("sun397", "SUN397/a/sun_x.jpg", "not in LETTER/PLACE/"),
        ("eurosat", "2750/stray.jpg", "lies in no class folder"),
        ("food101", "images/stray.jpg", "lies in no class folder"),
        ("ucf101", "UCF-101-midframes/v_Archery_g01_c01.jpg", "lies in no class folder"),
        ("dtd", "images/tmp/one.jpg", "no test image of 'tmp'"),
    ],
)
def test_an_image_whose_class_its_path_does_not_tell_is_named(
    tmp_path: Path, name: str, stray: str, complaint: str
) -> None:
    fixture = make(name, tmp_path)
    for lists_of_authors in ("annotations", "Training_01.txt"):
        path = fixture.folder / lists_of_authors
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    (fixture.folder / stray).parent.mkdir(exist_ok=True)
    shutil.copy(tmp_path / fixture.rows["train"][0][0], fixture.folder / stray)
    with pytest.raises(DataError, match=complaint):
        lists(fixture)


def test_comments_in_official_lists_are_passed_over(tmp_path: Path) -> None:
    fixture = make("oxford_pets", tmp_path)
    file = fixture.folder / "annotations" / "test.txt"
    file.write_bytes(b"\xef\xbb\xbf#Image CLASS-ID SPECIES BREED ID\r\n" + file.read_bytes().replace(b"\n", b"\r\n"))
    assert sum(map(len, lists(fixture))) == 50


def test_a_list_of_test_cars_without_labels_is_told_from_a_damaged_one(tmp_path: Path) -> None:
    fixture = make("stanford_cars", tmp_path)
    fields = [(name, object) for name in ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "fname")]
    entries = np.array([[(1, 1, 30, 18, "00001.jpg"), (1, 1, 30, 18, "00002.jpg")]], dtype=fields)
    savemat(fixture.folder / "cars_test_annos_withlabels.mat", {"annotations": entries})
    with pytest.raises(DataError, match=r"has no classes: it is a list without labels, such as .*cars_test_annos\.mat"):
        lists(fixture)


def test_a_folder_without_images_says_what_it_holds(tmp_path: Path) -> None:
    fixture = make("ucf101", tmp_path)
    for path in (fixture.folder / "UCF-101-midframes").rglob("*.jpg"):
        path.rename(path.with_suffix(".avi"))
    with pytest.raises(DataError, match=r"no images below .*; there are 50 \.avi files"):
        lists(fixture)
