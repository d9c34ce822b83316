"""Archives: unpacked whole, or refused and nothing left behind."""

from __future__ import annotations

import io
import os
import signal
import stat
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from cpt_plugin.data import unpack as unpacking
from cpt_plugin.data.manifest import UNFINISHED, manifest_of
from cpt_plugin.data.unpack import unpack
from cpt_plugin.errors import DataError

FILES = {"2750/Forest/Forest_1.jpg": b"tree" * 999, "2750/River/River_1.jpg": b"water" * 99, "2750/notes.txt": b""}


def pack(path, files):
    """An archive of the kind that its name says."""
    if path.name.endswith(".zip"):
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in files.items():
                archive.writestr(name, data)
        return path
    with tarfile.open(path, "w:gz" if path.name.endswith("gz") else "w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def content(folder):
    """Relative path -> bytes of every file that is not hidden."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(".")
    }


def nothing_in(folder):
    return content(folder) == {} and not list(folder.glob(".unpacking-*g")) and not (folder / UNFINISHED).exists()


@pytest.fixture(params=["a.zip", "a.tar", "a.tar.gz", "a.tgz"])
def archive(request, tmp_path):
    return pack(tmp_path / request.param, FILES)


def test_every_kind_is_unpacked_beside_what_is_there(archive, tmp_path):
    folder = tmp_path / "eurosat"
    folder.mkdir()
    (folder / "split.json").write_bytes(b"{}")
    unpack(archive, folder)
    assert content(folder) == {**FILES, "split.json": b"{}"}


def test_unpacking_again_changes_nothing(archive, tmp_path):
    for _ in range(2):
        unpack(archive, tmp_path / "x", ["2750"])
        assert content(tmp_path / "x") == FILES


@pytest.mark.parametrize(
    ("packed", "holds", "gives"),
    [
        (["dtd/images/a.jpg", "dtd/labels/b.txt"], ["images", "labels"], ["images/a.jpg", "labels/b.txt"]),
        (["cars/cars_train/a.jpg", "cars/split.json", "cars/shots/a.pkl"], ["cars_train"], ["cars_train/a.jpg"]),
        (["fgvc-2013b/README", "fgvc-2013b/data/images/1.jpg", "fgvc-2013b/data/v.txt"], ["images", "v.txt"],
         ["images/1.jpg", "v.txt"]),
        (["sketch/n01/a.jpg", "sketch/n02/b.jpg"], [""], ["n01/a.jpg", "n02/b.jpg"]),
        (["n01/a.jpg", "n02/b.jpg"], [""], ["n01/a.jpg", "n02/b.jpg"]),
        (["images/a.jpg", "__MACOSX/images/._a.jpg", "images/.DS_Store"], ["images"], ["images/a.jpg"]),
    ],
)
def test_outer_folders_of_the_archive_are_dropped(tmp_path, packed, holds, gives):
    for name in ("a.zip", "a.tgz"):
        unpack(pack(tmp_path / name, dict.fromkeys(packed, b"x")), tmp_path / name[2:], holds)
        assert sorted(content(tmp_path / name[2:])) == gives


def test_archives_within_an_archive_are_unpacked_where_they_hold_what_is_wanted(tmp_path):
    inner = pack(tmp_path / "images.tar.gz", {"images/a.jpg": b"1"}).read_bytes()
    other = pack(tmp_path / "labels.tar", {"labels/b.txt": b"2"}).read_bytes()
    packed = {"caltech/images.tar.gz": inner, "caltech/labels.tar": other, "caltech/show.m": b"3"}
    unpack(pack(tmp_path / "caltech.zip", packed), tmp_path / "x", ["images"])
    assert content(tmp_path / "x") == {"images/a.jpg": b"1"}
    unpack(pack(tmp_path / "caltech.zip", packed), tmp_path / "y", ["images.tar.gz"])
    assert content(tmp_path / "y") == {"images.tar.gz": inner}


def test_what_is_not_wanted_replaces_nothing(tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "split.json").write_bytes(b"mine")
    unpack(pack(tmp_path / "a.zip", {"images/a.jpg": b"1", "split.json": b"other"}), tmp_path / "x", ["images"])
    assert content(tmp_path / "x") == {"images/a.jpg": b"1", "split.json": b"mine"}


def test_another_archive_is_refused(archive, tmp_path):
    with pytest.raises(DataError, match="does not hold images: is it the right file"):
        unpack(archive, tmp_path / "x", ["images"])
    assert nothing_in(tmp_path / "x")


@pytest.mark.parametrize("name", ["/etc/passwd", "../outside", "a/../../outside", "a\\..\\outside"])
@pytest.mark.parametrize("suffix", [".zip", ".tar.gz"])
def test_names_that_lead_outside_are_refused(tmp_path, name, suffix):
    archive = pack(tmp_path / f"a{suffix}", {"fine.txt": b"1", name: b"evil"})
    with pytest.raises(DataError, match="outside its folder"):
        unpack(archive, tmp_path / "deep" / "x")
    assert nothing_in(tmp_path / "deep" / "x")
    assert sorted(p.name for p in tmp_path.iterdir()) == [archive.name, "deep"]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_in_a_tar_are_refused(tmp_path, kind):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        member = tarfile.TarInfo("thing")
        member.type, member.linkname = kind, "fine.txt"
        archive.addfile(member)
    with pytest.raises(DataError, match="link or a device"):
        unpack(tmp_path / "a.tar", tmp_path / "x")
    assert nothing_in(tmp_path / "x")


@pytest.mark.parametrize("target", ["/etc/passwd", "../../secret"])
def test_hard_links_that_lead_outside_are_refused(tmp_path, target):
    (tmp_path / "secret").write_text("mine")
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        member = tarfile.TarInfo("thing")
        member.type, member.linkname = tarfile.LNKTYPE, target
        archive.addfile(member)
    with pytest.raises(DataError, match="outside its folder"):
        unpack(tmp_path / "a.tar", tmp_path / "x")
    assert nothing_in(tmp_path / "x")


def test_a_link_in_a_zip_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        entry = zipfile.ZipInfo("thing")
        entry.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(entry, "/etc/passwd")
    with pytest.raises(DataError, match="link or a device"):
        unpack(tmp_path / "a.zip", tmp_path / "x")
    assert nothing_in(tmp_path / "x")


def test_every_truncation_is_found(archive, tmp_path):
    whole = archive.read_bytes()
    for size in [*range(0, len(whole) - 1, max(1, len(whole) // 25)), len(whole) - 1]:
        archive.write_bytes(whole[:size])
        if archive.suffix == ".tar" and len(whole[:size].rstrip(b"\0")) == len(whole.rstrip(b"\0")):
            continue  # only zeros of the padding were lost
        with pytest.raises(DataError):
            unpack(archive, tmp_path / "x", ["2750"])
        assert nothing_in(tmp_path / "x"), size


@pytest.mark.parametrize("name", ["a.zip", "a.tgz"])
def test_damaged_content_is_found(tmp_path, name):
    """Where the archive has checksums: a changed byte in the middle of the compressed photograph."""
    archive = pack(tmp_path / name, {"2750/a.jpg": os.urandom(5000)})
    data = bytearray(archive.read_bytes())
    data[len(data) // 2] ^= 1
    archive.write_bytes(data)
    with pytest.raises(DataError, match="damaged"):
        unpack(archive, tmp_path / "x", ["2750"])
    assert nothing_in(tmp_path / "x")


@pytest.mark.parametrize("name", ["a.zip", "a.tar.gz"])
def test_an_archive_that_explodes_is_refused(tmp_path, monkeypatch, name):
    monkeypatch.setattr(unpacking, "FREE_BYTES", 1000)
    archive = pack(tmp_path / name, {"zeros": bytes(3_000_000)})
    with pytest.raises(DataError, match="many times its size"):
        unpack(archive, tmp_path / "x")
    assert nothing_in(tmp_path / "x")


def test_too_small_a_disk_is_told_before(archive, tmp_path, monkeypatch):
    monkeypatch.setattr(unpacking.shutil, "disk_usage", lambda _: type("", (), {"free": 10})())
    with pytest.raises(DataError, match="make room"):
        unpack(archive, tmp_path / "x", ["2750"])
    assert nothing_in(tmp_path / "x")


def test_a_folder_half_moved_in_counts_as_missing_until_it_is_done_again(tmp_path, monkeypatch):
    root, manifest = tmp_path, manifest_of("eurosat")
    archive = pack(tmp_path / "EuroSAT.zip", FILES)
    (root / "eurosat").mkdir()
    (root / "eurosat" / manifest.split).write_text("{}")
    monkeypatch.setattr(unpacking, "_merge", lambda source, target: target.mkdir() or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        unpack(archive, root / "eurosat", ["2750"])
    (root / "eurosat" / "2750" / "Forest").mkdir()
    assert manifest.missing(root) == ("eurosat/2750",)
    monkeypatch.undo()
    unpack(archive, root / "eurosat", ["2750"])
    assert manifest.missing(root) == ()


KILLED = """
import os, signal, sys, zipfile
from pathlib import Path
from cpt_plugin.data import unpack
calls = {"ZipFile.open": (zipfile.ZipFile, "open"), "sync": (os, "sync"), "rename": (os, "replace")}
(owner, name), left = calls[sys.argv[3]], int(sys.argv[4])
original = getattr(owner, name)
def counted(*args, **options):
    global left
    left -= 1
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*args, **options)
setattr(owner, name, counted)
unpack.unpack(Path(sys.argv[1]), Path(sys.argv[2]), ["2750"])
"""


def test_a_killed_unpacking_is_never_taken_for_whole(tmp_path):
    files = {f"2750/{k % 10}/{k}.jpg": b"x" * 500 for k in range(300)}
    archive = pack(tmp_path / "EuroSAT.zip", files)
    root = Path(__file__).resolve().parents[2]
    manifest, folder = manifest_of("eurosat"), tmp_path / "eurosat"
    folder.mkdir()
    (folder / manifest.split).write_text("{}")
    for call, time in (("ZipFile.open", 1), ("ZipFile.open", 200), ("sync", 1), ("rename", 1)):
        done = subprocess.run([sys.executable, "-c", KILLED, archive, folder, call, str(time)], cwd=root)
        assert done.returncode == -signal.SIGKILL
        assert manifest.missing(tmp_path)
        assert not (folder / "2750").exists() or (folder / UNFINISHED).exists()
    unpack(archive, folder, ["2750"])
    assert len(content(folder / "2750")) == 300


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_damage_inside_a_zip_of_any_packing_is_an_error_of_ours(tmp_path, method):
    """Or, where it does not touch the content (LZMA's version, room for its dictionary, end mark), the whole file."""
    content, refused = bytes(range(256)) * 20, 0
    with zipfile.ZipFile(tmp_path / "a.zip", "w", method) as archive:
        archive.writestr("a.bin", content)
    data = bytearray((tmp_path / "a.zip").read_bytes())
    positions = range(35, data.index(b"PK\x01\x02"), 7)
    for position in positions:
        (tmp_path / "a.zip").write_bytes(data[:position] + bytes([data[position] ^ 0xFF]) + data[position + 1 :])
        out = tmp_path / f"out{position}"
        try:
            unpack(tmp_path / "a.zip", out)
        except DataError:
            refused += 1
            assert nothing_in(out)
        else:
            assert (out / "a.bin").read_bytes() == content
    assert refused > 0.8 * len(positions)


def test_a_link_to_a_file_that_the_tar_does_not_hold_is_an_error_of_ours(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        member = tarfile.TarInfo("link.jpg")
        member.type, member.linkname = tarfile.LNKTYPE, "nothing.jpg"
        archive.addfile(member)
    with pytest.raises(DataError, match="damaged"):
        unpack(tmp_path / "a.tar", tmp_path / "out")
    assert nothing_in(tmp_path / "out")
