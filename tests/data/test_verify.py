"""verify: every injected fault is found, by its path; a clean data set gives no report."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import shutil
import time

import pytest

from cpt_plugin.cli.main import main
from cpt_plugin.data import verify as verification
from cpt_plugin.data._examine import examine
from cpt_plugin.data._file_list import list_file
from cpt_plugin.data.manifest import Counts, manifest_of
from cpt_plugin.data.verify import verify
from cpt_plugin.errors import DataError
from tests.helpers.fixtures import fixture_names, make_fixture
from tests.helpers.fixtures.published import as_published

PINNED = ("missing", "truncated", "emptied", "flipped", "extra", "moved", "swapped")
PINNED += ("label", "part", "dropped", "added")
CLASSES = 3
BLIND = ("missing", "truncated", "emptied", "label", "name", "twice")
SPLIT = "split_zhou_EuroSAT.json"


@pytest.fixture
def published(monkeypatch):
    """``data verify`` takes a fixture for the whole published data set."""

    def be(fixture):
        monkeypatch.setattr("cpt_plugin.cli.data.manifest_of", lambda name: as_published(fixture))
        return as_published(fixture)

    return be


def change_split(folder, change):
    content = json.loads((folder / SPLIT).read_text())
    change(content)
    (folder / SPLIT).write_text(json.dumps(content))


def inject(fault, folder, rng):
    """Do one kind of damage; returns the paths (below the folder) of which verify must say the kinds."""
    images = sorted(path for path in (folder / "2750").rglob("*.jpg"))
    image, other = rng.sample(images, 2)
    here = str(image.relative_to(folder))
    part = rng.choice(("train", "val", "test"))
    index = rng.randrange(len(json.loads((folder / SPLIT).read_text())[part]))
    entry = json.loads((folder / SPLIT).read_text())[part][index]
    listed = f"2750/{entry[0]}"
    data = bytearray(image.read_bytes())
    if fault == "missing":
        image.unlink()
        return {here: "missing"}
    if fault in ("truncated", "emptied"):
        image.write_bytes(data[: 0 if fault == "emptied" else rng.randrange(len(data) // 2)])
        return {here: "damaged"}
    if fault == "flipped":
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        image.write_bytes(data)
        return {here: "damaged"}
    if fault == "extra":
        image.with_name("new.jpg").write_bytes(os.urandom(99))
        return {str(image.with_name("new.jpg").relative_to(folder)): "extra"}
    if fault == "moved":
        folders = sorted(p for p in (folder / "2750").iterdir() if p != image.parent)
        target = rng.choice(folders) / image.name
        image.rename(target)
        return {here: "missing", str(target.relative_to(folder)): "mislabelled"}
    if fault == "swapped":
        image.write_bytes(other.read_bytes())
        other.write_bytes(data)
        return {here: "mislabelled", str(other.relative_to(folder)): "mislabelled"}
    if fault == "dropped":
        change_split(folder, lambda split: split[part].pop(index))
        return {SPLIT: "damaged", listed: "missing"}
    if fault == "added":
        new = f"{entry[0][:-4]}_2.jpg"
        change_split(folder, lambda split: split[part].append([new, *entry[1:]]))
        return {SPLIT: "damaged", f"2750/{new}": "extra"}
    if fault == "part":
        others = [name for name in ("train", "val", "test") if name != part]
        change_split(folder, lambda split: split[rng.choice(others)].append(split[part].pop(index)))
        return {SPLIT: "damaged", listed: "mislabelled"}
    if fault == "twice":
        change_split(folder, lambda split: split["test" if part != "test" else "train"].append(entry))
        return {SPLIT: "damaged", listed: "mislabelled"}
    label = rng.choice([label for label in range(CLASSES) if label != entry[1]])
    wrong = [entry[0], label, entry[2]] if fault == "label" else [*entry[:2], "Another Name"]
    change_split(folder, lambda split: split[part].__setitem__(index, wrong))
    return {SPLIT: "damaged", listed: "mislabelled"}


def run_faults(tmp_path, count, kinds, pinned, seed):
    rng = random.Random(seed)
    fixture = make_fixture("eurosat", tmp_path / "clean", CLASSES, images=4)
    clean, manifest = fixture.folder, as_published(fixture)
    if pinned:
        assert verify(manifest, tmp_path / "clean").pinned
    root = tmp_path / "damaged"
    for trial in range(count):
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(clean, root / "eurosat")
        fault = kinds[trial % len(kinds)]
        wanted = inject(fault, root / "eurosat", rng)
        found = {finding.path: finding.kind for finding in verify(manifest, root).findings}
        assert found == wanted, (trial, fault)


def test_every_fault_is_found_and_nothing_else_is_said(tmp_path):
    run_faults(tmp_path, 198, PINNED, pinned=True, seed=0)


@pytest.mark.long
def test_a_thousand_faults_are_found(tmp_path):
    run_faults(tmp_path, 1000, PINNED, pinned=True, seed=1)


def test_without_a_list_everything_that_can_be_seen_is_found(tmp_path):
    run_faults(tmp_path, 60, BLIND, pinned=False, seed=2)


def test_several_faults_at_once(tmp_path):
    fixture, rng = make_fixture("eurosat", tmp_path, images=12), random.Random(3)
    folder, manifest = fixture.folder, as_published(fixture)
    verify(manifest, tmp_path)
    wanted = {}
    for fault in ("extra", "label", "flipped", "missing"):
        wanted |= inject(fault, folder, rng)
    assert {finding.path: finding.kind for finding in verify(manifest, tmp_path).findings} == wanted


@pytest.mark.parametrize("name", fixture_names())
def test_a_clean_data_set_gives_no_report(tmp_path, name):
    manifest = as_published(make_fixture(name, tmp_path))
    first, second = verify(manifest, tmp_path), verify(manifest, tmp_path)
    assert (first.findings, first.pinned) == ([], True)
    assert (second.findings, second.pinned) == ([], False)
    assert first.files == second.files > 0


@pytest.mark.parametrize("name", [name for name in fixture_names() if not manifest_of(name).split])
def test_faults_in_a_data_set_without_split_file(tmp_path, name):
    fixture = make_fixture(name, tmp_path)
    folder, manifest = fixture.folder, as_published(fixture)
    verify(manifest, tmp_path)
    rng = random.Random(name)
    others = [file for file in manifest.files[1:] if file not in manifest.lists.values()]
    places = [folder / place for place in (*manifest.images, *others)]
    images = sorted(path for place in places for path in (place, *place.rglob("*")) if path.is_file())
    gone, flipped = rng.sample(images, 2)
    gone.unlink()
    flipped.write_bytes(flipped.read_bytes()[:-1] + b"?")
    wanted = {str(gone.relative_to(folder)): "missing", str(flipped.relative_to(folder)): "damaged"}
    for file in manifest.files[:1]:
        (folder / file).write_bytes((folder / file).read_bytes() + b"\n")
        wanted[file] = "damaged"
    assert {finding.path: finding.kind for finding in verify(manifest, tmp_path).findings} == wanted


def test_faulty_data_are_never_written_down_as_right(tmp_path):
    fixture = make_fixture("eurosat", tmp_path)
    folder, manifest = fixture.folder, as_published(fixture)
    image = next((folder / "2750").rglob("*.jpg"))
    image.write_bytes(image.read_bytes()[:50])
    for _ in range(2):
        report = verify(manifest, tmp_path)
        assert [finding.kind for finding in report.findings] == ["damaged"]
        assert not report.pinned


def test_a_damaged_list_of_hashes_is_refused(tmp_path):
    fixture = make_fixture("eurosat", tmp_path)
    folder, manifest = fixture.folder, as_published(fixture)
    verify(manifest, tmp_path)
    file = list_file(folder, "eurosat")
    whole = file.read_bytes()
    rng = random.Random(5)
    for _ in range(50):
        data = bytearray(whole)
        data[rng.randrange(len(data) - 1)] ^= 1 << rng.randrange(8)
        file.write_bytes(rng.choice([data, data[: rng.randrange(len(data))]]))
        with pytest.raises(DataError, match="list of files"):
            verify(manifest, tmp_path)
    file.write_bytes(whole)
    assert verify(manifest, tmp_path).findings == []


def test_written_anew_after_a_wanted_change(tmp_path):
    fixture = make_fixture("eurosat", tmp_path)
    manifest = as_published(fixture)
    verify(manifest, tmp_path)
    images = [tmp_path / path for path, *_ in fixture.rows["train"][:2]]
    images[0].write_bytes(images[1].read_bytes() + b"x")
    assert len(verify(manifest, tmp_path).findings) == 1
    assert verify(manifest, tmp_path, anew=True).pinned
    assert verify(manifest, tmp_path).findings == []


def test_an_image_that_is_in_train_and_test_by_content_is_noted(tmp_path):
    fixture = make_fixture("eurosat", tmp_path)
    folder, manifest = fixture.folder, as_published(fixture)
    split = json.loads((folder / SPLIT).read_text())
    shutil.copy(folder / "2750" / split["train"][0][0], folder / "2750" / split["test"][0][0])
    report = verify(manifest, tmp_path)
    assert report.findings == []
    assert any("byte for byte" in note and split["test"][0][0] in note for note in report.notes)


def test_without_the_published_split_file(tmp_path):
    fixture = make_fixture("eurosat", tmp_path)
    folder, manifest = fixture.folder, as_published(fixture)
    (folder / SPLIT).unlink()
    assert [finding.path for finding in verify(manifest, tmp_path).findings] == [SPLIT]
    assert verify(manifest, tmp_path, own_split=True).pinned
    image = next((folder / "2750").rglob("*.jpg"))
    target = next(p for p in (folder / "2750").iterdir() if p != image.parent) / "moved.jpg"
    image.rename(target)
    kinds = {finding.path: finding.kind for finding in verify(manifest, tmp_path, own_split=True).findings}
    assert kinds == {
        str(image.relative_to(folder)): "missing", str(target.relative_to(folder)): "mislabelled",
    }  # fmt: skip


def test_image_folders_may_be_links(tmp_path):
    fixture = make_fixture("eurosat", tmp_path)
    folder, manifest = fixture.folder, as_published(fixture)
    (folder / "2750").rename(tmp_path / "elsewhere")
    (folder / "2750").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "Forest").rename(tmp_path / "forest")
    (tmp_path / "elsewhere" / "Forest").symlink_to(tmp_path / "forest")
    assert verify(manifest, tmp_path).pinned
    image = next((tmp_path / "forest").glob("*.jpg"))
    image.unlink()
    assert [f.path for f in verify(manifest, tmp_path).findings] == [f"2750/Forest/{image.name}"]


def test_the_command_names_the_path_and_exits_with_1(tmp_path, capsys, published):
    fixture = make_fixture("eurosat", tmp_path)
    folder = fixture.folder
    published(fixture)
    words = ["data", "verify", "eurosat", "--root", str(tmp_path)]
    assert main(words) == 0
    assert "nothing wrong" in capsys.readouterr().out
    image = next((folder / "2750").rglob("*.jpg"))
    image.unlink()
    assert main(words) == 1
    assert f"missing: {image}:" in capsys.readouterr().out
    assert main(["data", "verify", "eurosat", "--root", str(tmp_path / "nowhere")]) == 1
    assert f"missing: {tmp_path / 'nowhere' / 'eurosat' / SPLIT}" in capsys.readouterr().out


@pytest.mark.long
def test_hashing_keeps_up_with_a_disk(tmp_path):
    """R16: 300 MB a second and core; EuroSAT's files have 3.5 kB, photographs 100 kB and more."""
    for number in range(500):
        (tmp_path / f"{number}.bin").write_bytes(os.urandom(200_000))
    start = time.process_time()
    assert len(dict(examine(tmp_path, [f"{n}.bin" for n in range(500)], decode=False))) == 500
    assert 100e6 / (time.process_time() - start) > 300e6


def test_the_majority_decides_which_entry_contradicts(tmp_path):
    items = [verification._Item(f"2750/A/{k}.jpg", "train", 0, "a") for k in range(9)]
    items += [verification._Item(f"2750/B/{k}.jpg", "train", 1, "b") for k in range(9)]
    assert verification._contradictions(items, SPLIT) == []
    wrong = verification._Item("2750/A/x.jpg", "test", 1, "b")
    found = verification._contradictions([*items, wrong], SPLIT)
    assert [(finding.kind, finding.path) for finding in found] == [("mislabelled", "2750/A/x.jpg")]
    assert "holds 'a'" in found[0].detail




def test_a_split_that_comes_after_the_images_is_looked_at_for_the_first_time(tmp_path):
    fixture = make_fixture("eurosat", tmp_path, CLASSES)
    folder, manifest = fixture.folder, as_published(fixture)
    content = (folder / SPLIT).read_bytes()
    (folder / SPLIT).unlink()
    assert verify(manifest, tmp_path, own_split=True).pinned

    (folder / SPLIT).write_bytes(content)
    change_split(folder, lambda split: split["train"].append(split["test"][0]))
    assert {finding.kind for finding in verify(manifest, tmp_path).findings} == {"damaged", "mislabelled"}
    (folder / SPLIT).write_bytes(content)
    report = verify(manifest, tmp_path)
    assert (report.findings, report.pinned) == ([], True)

    change_split(folder, lambda split: split["train"].pop())
    assert {finding.kind for finding in verify(manifest, tmp_path).findings} == {"damaged", "missing"}


def test_a_folder_that_cannot_be_written_is_checked_all_the_same(tmp_path, monkeypatch, capsys, published):
    def refuse(file, rows):
        raise OSError(30, "Read-only file system", str(file))

    fixture = make_fixture("eurosat", tmp_path, CLASSES)
    folder = fixture.folder
    published(fixture)
    monkeypatch.setattr(verification, "write_list", refuse)
    assert main(["data", "verify", "eurosat", "--root", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert f"{folder} cannot be written (Read-only file system)" in said
    assert "checked for the first time, nothing wrong" in said
    assert not list_file(folder, "eurosat").exists()


def test_a_changed_image_is_found_although_the_split_is_new(tmp_path):
    fixture = make_fixture("eurosat", tmp_path, CLASSES)
    folder, manifest = fixture.folder, as_published(fixture)
    (folder / SPLIT).rename(tmp_path / SPLIT)
    verify(manifest, tmp_path, own_split=True)
    (tmp_path / SPLIT).rename(folder / SPLIT)
    image = next((folder / "2750").rglob("*.jpg"))
    image.write_bytes(image.read_bytes() + b"x")
    report = verify(manifest, tmp_path)
    assert [(finding.kind, finding.path) for finding in report.findings] == [
        ("damaged", str(image.relative_to(folder)))
    ]
    assert not report.pinned


@pytest.mark.parametrize(
    "content", ["[]", "[" * 100_000, '{"train": 5}', '{"train": [["/etc/hosts", 0, "a"]], "val": [], "test": []}',
                '{"train": [["../../x.jpg", 0, "a"]], "val": [], "test": []}',
                '{"train": [["x.jpg", 1e999, "a"]], "val": [], "test": []}'],
)  # fmt: skip
def test_a_split_file_that_means_nothing_or_leads_outside_is_damaged(tmp_path, content):
    fixture = make_fixture("eurosat", tmp_path, CLASSES)
    folder, manifest = fixture.folder, as_published(fixture)
    (folder / SPLIT).write_text(content)
    report = verify(manifest, tmp_path)
    assert [(finding.kind, finding.path) for finding in report.findings] == [("damaged", SPLIT)]
    assert not report.pinned


def test_classes_behind_links_are_looked_at_and_a_link_to_itself_ends(tmp_path):
    fixture = make_fixture("imagenet_a", tmp_path)
    folder, manifest = fixture.folder / "imagenet-a", as_published(fixture)
    whole = verify(manifest, tmp_path, anew=True).files
    one = next(path for path in sorted(folder.iterdir()) if path.is_dir())
    one.rename(tmp_path / one.name)
    one.symlink_to(tmp_path / one.name)
    (folder / "back").symlink_to(folder)
    assert verify(manifest, tmp_path, anew=True).files == whole
    image = next((tmp_path / one.name).iterdir())
    image.write_bytes(image.read_bytes()[:20])
    assert {finding.kind for finding in verify(manifest, tmp_path).findings} == {"damaged"}


# What is published outranks what was here at the first look


def wrong_copy(folder):
    """The split file with one entry changed; returns the right bytes."""
    right = (folder / SPLIT).read_bytes()
    change_split(folder, lambda split: split["train"].append(split["test"].pop()))
    return right


def test_a_wrong_copy_of_a_published_file_is_never_taken_for_right(tmp_path):
    fixture = make_fixture("eurosat", tmp_path, CLASSES)
    manifest = as_published(fixture)
    wrong_copy(fixture.folder)
    for _ in range(2):
        report = verify(manifest, tmp_path)
        assert [(finding.kind, finding.path) for finding in report.findings] == [("damaged", SPLIT)]
        assert "is not the published file" in report.findings[0].detail
        assert "10 train images, 1 more than 9; 5 test images, 1 fewer than 6" in report.findings[0].detail
        assert not report.pinned


def test_the_published_file_is_right_although_a_list_of_before_has_a_wrong_one(tmp_path):
    fixture = make_fixture("eurosat", tmp_path, CLASSES)
    manifest = as_published(fixture)
    right = wrong_copy(fixture.folder)
    unpinned = tuple(dataclasses.replace(source, sha256="") for source in manifest.sources)
    blessed = dataclasses.replace(manifest, sources=unpinned, counts=Counts(classes=CLASSES))
    assert verify(blessed, tmp_path).pinned, "as an earlier version did"
    assert {(f.kind, f.path) for f in verify(manifest, tmp_path).findings} == {("damaged", SPLIT)}

    (fixture.folder / SPLIT).write_bytes(right)
    report = verify(manifest, tmp_path)
    assert report.findings == []
    assert any("corrected" in note for note in report.notes)
    assert verify(manifest, tmp_path).notes == []
    image = next((fixture.folder / "2750").rglob("*.jpg"))
    image.write_bytes(image.read_bytes() + b"x")
    found = [(f.kind, f.path) for f in verify(manifest, tmp_path).findings]
    assert found == [("damaged", str(image.relative_to(fixture.folder)))], "the list still tells changed images"


def test_a_split_in_other_white_space_is_the_published_one(tmp_path):
    fixture = make_fixture("eurosat", tmp_path, CLASSES)
    manifest = as_published(fixture)
    for again in (b"\n", b"\n\n"):
        (fixture.folder / SPLIT).write_bytes((fixture.folder / SPLIT).read_bytes() + again)
        assert verify(manifest, tmp_path).findings == []


def test_pinned_lists_outrank_too(tmp_path):
    fixture = make_fixture("imagenet_lt", tmp_path)
    manifest = as_published(fixture)
    file = "ImageNet_LT/ImageNet_LT_val.txt"
    right = (fixture.folder / file).read_bytes()
    (fixture.folder / file).write_bytes(right + b"\n")
    assert [(f.kind, f.path) for f in verify(manifest, tmp_path).findings] == [("damaged", file)]
    (fixture.folder / file).write_bytes(right)
    assert verify(manifest, tmp_path).pinned


@pytest.mark.parametrize("name", fixture_names())
def test_a_part_of_a_data_set_is_not_said_to_be_right(tmp_path, name, capsys):
    """Against the figures that are really published: 30 images are not ImageNet."""
    make_fixture(name, tmp_path)
    for _ in range(2):
        assert main(["data", "verify", name, "--root", str(tmp_path)]) == 1
        assert "nothing wrong" not in capsys.readouterr().out


@pytest.mark.parametrize("name", ["imagenet", "imagenet_a", "imagenet_lt", "fgvc_aircraft", "places_lt"])
def test_missing_images_are_seen_at_the_first_look(tmp_path, name):
    fixture = make_fixture(name, tmp_path)
    manifest = as_published(fixture)
    image = tmp_path / fixture.rows["test"][0][0]
    image.unlink()
    (finding,) = verify(manifest, tmp_path).findings
    assert finding.kind == "missing"
    part = manifest.parts.get("test")
    assert finding.path == (part if part else image.relative_to(fixture.folder).as_posix())
    if part:
        assert f"{len(fixture.rows['test']) - 1} of {len(fixture.rows['test'])} images in" in finding.detail


def test_too_few_images_for_an_own_split_are_seen(tmp_path):
    fixture = make_fixture("eurosat", tmp_path)
    manifest = as_published(fixture)
    (tmp_path / fixture.rows["test"][0][0]).unlink()
    (finding,) = verify(manifest, tmp_path, own_split=True).findings
    assert (finding.kind, finding.path) == ("missing", "2750")
    assert "29 of 30 images" in finding.detail


@pytest.mark.parametrize("line", ["/etc/passwd 0", "../x.jpg 0", "train/n01443537/a.JPEG"])
def test_a_list_that_means_nothing_is_damaged(tmp_path, line):
    fixture = make_fixture("imagenet_lt", tmp_path)
    file = "ImageNet_LT/ImageNet_LT_train.txt"
    (fixture.folder / file).write_text(f"{line}\n")
    manifest = dataclasses.replace(as_published(fixture), sources=())
    assert ("damaged", file) in [(f.kind, f.path) for f in verify(manifest, tmp_path).findings]
