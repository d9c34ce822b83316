from __future__ import annotations

import errno
import json
import os
import stat
from pathlib import Path

import pytest

from cpt_plugin import atomic
from cpt_plugin.atomic import atomic_write, atomic_write_json, atomic_write_text, temporary_sibling


@pytest.mark.parametrize("size", [0, 1, 4096, (1 << 20) - 1, 1 << 20, (1 << 20) + 1])
def test_bytes_arrive_whole_and_no_temporary_file_stays(tmp_path: Path, size: int) -> None:
    data = os.urandom(size)
    atomic_write(tmp_path / "file", data)
    assert (tmp_path / "file").read_bytes() == data
    assert os.listdir(tmp_path) == ["file"]


def test_short_writes_of_the_system_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(atomic.os, "write", lambda descriptor, data: real(descriptor, data[:7]))
    atomic_write(tmp_path / "file", bytes(range(100)))
    assert (tmp_path / "file").read_bytes() == bytes(range(100))


def test_an_existing_file_is_replaced_also_by_a_shorter_one(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"a long old version")
    atomic_write(str(path), b"new")
    assert path.read_bytes() == b"new"


def test_a_leftover_of_a_killed_process_with_the_same_id_is_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "file"
    temporary_sibling(path).write_bytes(b"torn and longer than the new version")
    atomic_write(path, b"new")
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["file"]


def test_new_files_have_the_permissions_that_the_umask_asks_for(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        atomic_write(tmp_path / "file", b"x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640


def test_a_failure_is_raised_and_leaves_only_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        atomic_write(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize(
    ("code", "is_error"),
    [(errno.EINVAL, False), (errno.ENOTSUP, False), (errno.EIO, True), (errno.EACCES, True)],
)
def test_only_a_file_system_without_directory_fsync_is_excused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, is_error: bool
) -> None:
    real = os.fsync

    def no_directories(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(code, os.strerror(code))
        real(descriptor)

    monkeypatch.setattr(atomic.os, "fsync", no_directories)
    if is_error:
        with pytest.raises(OSError, match=os.strerror(code)):
            atomic_write(tmp_path / "file", b"new")
    else:
        atomic_write(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"new"


def test_missing_folder_is_an_oserror(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        atomic_write(tmp_path / "absent" / "file", b"x")


def test_text_is_utf8_with_line_ends_as_given(tmp_path: Path) -> None:
    atomic_write_text(tmp_path / "file", "Schüler\r\n日本\n")
    assert (tmp_path / "file").read_bytes() == "Schüler\r\n日本\n".encode()


def test_json_is_sorted_readable_and_ends_in_a_newline(tmp_path: Path) -> None:
    value = {"b": [1, 2.5, None, True], "a": {"x": "ü"}}
    atomic_write_json(tmp_path / "file", value)
    text = (tmp_path / "file").read_text(encoding="utf-8")
    assert json.loads(text) == value
    assert text.endswith("}\n")
    assert text.index('"a"') < text.index('"b"')


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {"x": object()}, {1, 2}])
def test_what_is_not_json_is_refused_before_the_old_file_is_touched(tmp_path: Path, value: object) -> None:
    path = tmp_path / "file"
    path.write_text("{}")
    with pytest.raises((TypeError, ValueError)):
        atomic_write_json(path, value)
    assert path.read_text() == "{}"
    assert os.listdir(tmp_path) == ["file"]
