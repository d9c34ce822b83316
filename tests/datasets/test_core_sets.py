"""The ten data sets of the CoOp family on fixtures in their real layout: lists, draws, halves, long tail, refusals."""

from __future__ import annotations

import dataclasses
import json
import logging
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="the toolkit needs torch")

from cpt_plugin.data.manifest import ClassNames, Counts, manifest_of
from cpt_plugin.errors import DataError
from cpt_plugin.long_tail import shot_counts
from cpt_plugin.toolkit import DataManager, Datum
from datasets._check import check_published
from tests.helpers.fixtures import Fixture, fixture_names, make_fixture
from tests.helpers.fixtures.loading import CORE_SETS, WITH_SPLIT_FILE, build, config, rows
from tests.helpers.fixtures.published import as_published


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Fixture]:
    """Every data set once, in one data root, as in a CoOp data folder."""
    root = tmp_path_factory.mktemp("data")
    return {name: make_fixture(name, root, images=30) for name in CORE_SETS}


@pytest.mark.parametrize("name", CORE_SETS)
def test_the_published_lists_are_read_as_they_are(made: dict[str, Fixture], name: str) -> None:
    fixture = made[name]
    dataset = build(fixture)
    for part, items in (("train", dataset.train_x), ("val", dataset.val), ("test", dataset.test)):
        assert rows(fixture, items) == fixture.rows[part]
    assert tuple(dataset.classnames) == fixture.names


@pytest.mark.parametrize("name", CORE_SETS)
def test_fixtures_are_the_first_classes_of_the_real_ones(made: dict[str, Fixture], name: str) -> None:
    manifest = manifest_of(name)
    names = made[name].names
    assert manifest.missing(made[name].root) == ()
    assert set(names) <= set(manifest.class_names.names)
    positions = [manifest.class_names.names.index(each) for each in names]
    assert positions == sorted(positions), "labels follow the published order"


@pytest.mark.parametrize("name", CORE_SETS)
def test_the_draw_is_coops(made: dict[str, Fixture], name: str) -> None:
    fixture, dice, expected = made[name], random.Random(3), []
    for part, shots in (("train", 6), ("val", 4)):
        for label in range(5):
            expected += dice.sample([row for row in fixture.rows[part] if row[1] == label], shots)
    dataset = build(fixture, seed=3, NUM_SHOTS=6)
    assert rows(fixture, [*dataset.train_x, *dataset.val]) == expected


@pytest.mark.parametrize("name", CORE_SETS)
def test_halves(made: dict[str, Fixture], name: str) -> None:
    fixture = made[name]
    base, new = (build(fixture, NUM_SHOTS=4, SUBSAMPLE_CLASSES=half) for half in ("base", "new"))
    assert tuple(base.classnames) == fixture.names[:3]
    assert tuple(new.classnames) == fixture.names[3:]
    assert rows(fixture, new.test) == [(p, label - 3, n) for p, label, n in fixture.rows["test"] if label >= 3]
    assert Counter(item.label for item in base.train_x) == {0: 4, 1: 4, 2: 4}


@pytest.mark.parametrize("name", CORE_SETS)
def test_long_tail(made: dict[str, Fixture], name: str) -> None:
    cfg = config(made[name], NUM_SHOTS=8, MAX_PER_CLASS=8, IMBALANCE_TAU=0.25, SUBSAMPLE_CLASSES="base")
    cfg.INPUT.SIZE = (16, 16)
    manager = DataManager(cfg)
    assert manager.class_counts == shot_counts(3, 0.25, 8) == [8, 4, 2]
    batch = next(iter(manager.train_loader_x))
    assert batch["img"].shape[1:] == (3, 16, 16), "the images can be decoded"
    whole = build(made[name], NUM_SHOTS=8, SUBSAMPLE_CLASSES="base").train_x
    for label, count in enumerate([8, 4, 2]):
        mine = [item.impath for item in manager.dataset.train_x if item.label == label]
        assert mine == [item.impath for item in whole if item.label == label][:count]


def test_legacy_pickles_are_never_read(made: dict[str, Fixture]) -> None:
    folder = made["dtd"].folder / "split_fewshot"
    folder.mkdir(exist_ok=True)
    (folder / "shot_4-seed_1.pkl").write_bytes(b"not a pickle")
    assert len(build(made["dtd"], NUM_SHOTS=4).train_x) == 20


@pytest.mark.parametrize("name", WITH_SPLIT_FILE)
def test_a_missing_split_file_is_explained(tmp_path: Path, name: str) -> None:
    fixture = make_fixture(name, tmp_path, images=3)
    split = fixture.folder / manifest_of(name).split
    split.unlink()
    with pytest.raises(DataError) as caught:
        build(fixture)
    message = str(caught.value)
    assert str(split) in message
    assert "https://drive.google.com/file/d/" in message
    assert "DATASET.SPLIT own" in message


def test_a_split_file_that_is_not_the_published_one_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    fixture = make_fixture("eurosat", tmp_path)
    assert build(fixture).split_label == "other split, incomplete"
    assert "is not the published split" in caplog.text
    caplog.clear()
    monkeypatch.setattr("datasets._split.registered_manifest", lambda registered: as_published(fixture))
    assert build(fixture).split_label == ""
    assert caplog.text == ""


def rewritten(content: dict[str, Any]) -> dict[str, bytes]:
    """The same split, written otherwise."""
    text = json.dumps(content, indent=4, separators=(",", ": "))
    return {
        "a newline at the end": f"{text}\n".encode(),
        "one line": json.dumps(content).encode(),
        "CRLF": text.replace("\n", "\r\n").encode(),
        "a byte order mark": b"\xef\xbb\xbf" + text.encode(),
        "characters as they are": json.dumps(content, ensure_ascii=False, indent=1).encode(),
        "another order of parts": json.dumps(dict(reversed(content.items()))).encode(),
    }


@pytest.mark.parametrize("way", list(rewritten({})))
def test_a_split_written_in_other_white_space_is_the_published_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    fixture = make_fixture("eurosat", tmp_path)
    published = as_published(fixture)
    monkeypatch.setattr("datasets._split.registered_manifest", lambda registered: published)
    file = fixture.folder / published.split
    content = json.loads(file.read_text())
    file.write_bytes(rewritten(content)[way])
    assert build(fixture).split_label == ""
    for change in ("order", "label"):
        changed = json.loads(json.dumps(content))
        if change == "order":
            changed["train"].reverse()
        else:
            changed["train"][0][1], changed["train"][0][2] = changed["train"][-1][1:]
        file.write_bytes(rewritten(changed)[way])
        assert build(fixture).split_label == "other split", change


@pytest.mark.parametrize("name", fixture_names())
def test_a_set_with_fewer_images_than_published_is_called_incomplete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    fixture = make_fixture(name, tmp_path)
    whole = as_published(fixture)
    for module in ("_split", "_long_tailed", "_imagenet", "imagenet", "cifar100_lt"):
        for function in ("registered_manifest", "manifest_of"):
            monkeypatch.setattr(f"datasets.{module}.{function}", lambda name: whole, raising=False)
    assert build(fixture).split_label == ""
    assert "incomplete" not in caplog.text
    part = "test" if whole.test_only else "train"
    more = dataclasses.replace(whole.counts, verified=False, **{part: len(fixture.rows[part]) + 1})
    whole = dataclasses.replace(whole, counts=more)
    for check in (False, True):
        assert build(fixture, CHECK_COUNTS=check).split_label == "incomplete"
    assert f"{len(fixture.rows[part])} of {len(fixture.rows[part]) + 1} {part} images" in caplog.text
    if whole.own_split and name != "ucf101":
        assert build(fixture, SPLIT="own").split_label == "own split 1, incomplete"


@pytest.mark.parametrize(
    ("part", "keep", "complaint"),
    [
        ("test", lambda label: False, "EuroSAT has no test images"),
        ("train", lambda label: False, "EuroSAT has no train images"),
        ("train", lambda label: label != 0, "no train image of 'Annual Crop Land'"),
        ("test", lambda label: label < 3, "no test image of 'Highway or Road', 'Industrial Buildings'"),
        ("train", lambda label: label < 3, "no train image of 'Highway or Road', 'Industrial Buildings'"),
    ],
)
def test_a_part_or_class_without_images_is_refused_at_load(
    tmp_path: Path, part: str, keep: Callable[[int], bool], complaint: str
) -> None:
    fixture = make_fixture("eurosat", tmp_path)
    file = fixture.folder / manifest_of("eurosat").split
    content = json.loads(file.read_text())
    content[part] = [row for row in content[part] if keep(row[1])]
    file.write_text(json.dumps(content))
    for half in ("all", "base", "new"):
        with pytest.raises(DataError, match=complaint):
            build(fixture, SUBSAMPLE_CLASSES=half)


@pytest.mark.parametrize("ending", [".JPG", ".tif", ".avi"])
def test_files_of_the_same_names_but_another_kind_are_told(tmp_path: Path, ending: str) -> None:
    fixture = make_fixture("eurosat", tmp_path)
    for path in (fixture.folder / "2750").rglob("*.jpg"):
        path.rename(path.with_suffix(ending))
    with pytest.raises(DataError, match=rf"There is AnnualCrop_1\{ending} instead"):
        build(fixture)


def test_missing_images_are_counted(tmp_path: Path) -> None:
    fixture = make_fixture("eurosat", tmp_path)
    gone = [tmp_path / path for path, *_ in fixture.rows["train"][:4]]
    for path in gone:
        path.unlink()
    with pytest.raises(DataError, match=r"4 of the 30 images") as caught:
        build(fixture)
    assert all(str(path) in str(caught.value) for path in gone[:3])
    assert str(gone[3]) not in str(caught.value)


def test_aircraft_lists_must_agree(tmp_path: Path) -> None:
    fixture = make_fixture("fgvc_aircraft", tmp_path, images=3)
    variants = fixture.folder / "variants.txt"
    variants.write_text(variants.read_text().replace("737-200\n", ""))
    with pytest.raises(DataError, match=r"names '737-200', which variants\.txt does not"):
        build(fixture)
    variants.unlink()
    with pytest.raises(DataError, match=r"variants\.txt is not there; get it from https://www\.robots"):
        build(fixture)


def whole(fixture: Fixture) -> Fixture:
    """The fixture's split file rewritten so that verified figures hold: every image named often enough."""
    manifest = manifest_of(fixture.name)
    path = fixture.folder / manifest.split
    content = json.loads(path.read_text())
    image = content["train"][0][0]
    for part in ("train", "val", "test"):
        size = getattr(manifest.counts, part)
        names = manifest.class_names.names
        content[part] = [[image, i % len(names), names[i % len(names)]] for i in range(size)]
    path.write_text(json.dumps(content))
    return fixture


def test_verified_figures_must_hold(tmp_path: Path) -> None:
    fixture = whole(make_fixture("dtd", tmp_path, images=3))
    assert len(build(fixture, CHECK_COUNTS=True).test) == 1692
    path = fixture.folder / manifest_of("dtd").split
    content = json.loads(path.read_text())
    del content["test"][-5:]
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"1687 test images, 5 fewer than 1692.*CHECK_COUNTS False"):
        build(fixture, CHECK_COUNTS=True)
    assert len(build(fixture, CHECK_COUNTS=False).test) == 1687


@pytest.mark.parametrize(
    ("rename", "complaint"),
    [
        ({"banded": "stripy"}, r"1 class names missing \('banded'\), 1 unknown class names \('stripy'\)"),
        ({"banded": "blotchy", "blotchy": "banded"}, "another order, from label 0"),
    ],
)
def test_verified_names_must_hold(tmp_path: Path, rename: dict[str, str], complaint: str) -> None:
    fixture = whole(make_fixture("dtd", tmp_path, images=3))
    path = fixture.folder / manifest_of("dtd").split
    content = json.loads(path.read_text())
    for part in content.values():
        for row in part:
            row[2] = rename.get(row[2], row[2])
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=complaint):
        build(fixture, CHECK_COUNTS=True)


def test_unverified_figures_warn_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    fixture = whole(make_fixture("dtd", tmp_path, images=3))
    manifest = manifest_of("dtd")
    doubtful = dataclasses.replace(manifest.counts, val=1121, verified=False, source="hearsay")
    unsure = dataclasses.replace(manifest, counts=doubtful, sources=())
    monkeypatch.setattr("datasets._split.registered_manifest", lambda registered: unsure)
    with caplog.at_level(logging.WARNING):
        build(fixture, CHECK_COUNTS=True)
    (record,) = caplog.records
    assert "1128 val images, 7 more than 1121" in record.message
    assert "not verified (hearsay)" in record.message


def test_a_deliberate_subset_says_so(made: dict[str, Fixture]) -> None:
    with pytest.raises(DataError, match=r"5 classes, 5 fewer than 10.*CHECK_COUNTS False"):
        build(made["eurosat"], CHECK_COUNTS=True)


def test_a_missing_second_class_of_one_name_is_counted() -> None:
    manifest = dataclasses.replace(
        manifest_of("dtd"),
        counts=Counts(classes=3, verified=True),
        class_names=ClassNames(names=("missile", "tench", "missile"), verified=True),
    )
    items = [Datum.of_present_file("x.jpg", label, name) for label, name in enumerate(("missile", "tench"))]
    with pytest.raises(DataError, match="2 classes, 1 fewer than 3"):
        check_published(manifest, (items, [], []), sizes=False)
