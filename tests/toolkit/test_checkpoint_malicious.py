"""Promise R6: no file, with or without a valid footer, runs code when it is loaded as a checkpoint."""

from __future__ import annotations

import os
import pickle
import random
import struct
import tracemalloc
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from cpt_plugin.errors import CheckpointError
from cpt_plugin.toolkit.embedded.checkpoint import decode, encode, latest_good, load_checkpoint, seal
from tests.helpers.malicious import (
    Call,
    archive,
    broken_programs,
    live_programs,
    torch_saved,
    write_canary,
    zip_of,
)

TRAVERSALS = [
    *("../evil/data/1", "/etc/cron.d/evil", "archive/../../evil", "archive/./data.pkl", "archive//data/1"),
    *("archive\\..\\evil", "C:/evil", "archive/a\nb", ".", "..", "/", "archive/data/"),
]


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "canary"
    yield path
    assert not path.exists()


def _remove(canary: Path) -> bool:
    """Whether the canary was there; it is gone afterwards."""
    if canary.is_dir():
        canary.rmdir()
        return True
    existed = canary.exists()
    canary.unlink(missing_ok=True)
    return existed


def _refusals(content: bytes, canary: Path) -> list[str]:
    """Messages of all ways to load ``content``, which must be refused each time without running anything."""
    messages = []
    path = canary.with_name("model.pth")
    for data, require_hash in [
        (seal(content), True),
        (seal(content), False),
        (content, False),
        (content, True),
    ]:
        path.write_bytes(data)
        with pytest.raises(CheckpointError, match=r"model\.pth") as caught:
            load_checkpoint(path, require_hash=require_hash)
        messages.append(str(caught.value))
        assert not canary.exists()
    assert "does not end in the SHA-256" in messages.pop()
    return messages


def test_every_program_is_dangerous_is_refused_by_name_and_never_runs(canary: Path) -> None:
    programs = live_programs(canary)
    for label, (program, blocked) in programs.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pickle.loads(program)
        assert _remove(canary), f"{label}: the program is a dud"
        for message in _refusals(archive(program), canary):
            assert repr(blocked)[:-1] in message, label
            assert "Nothing was executed" in message
    assert len(programs) >= 35


def test_legacy_pickles_of_any_program_are_refused_by_name(canary: Path) -> None:
    for label, (program, blocked) in live_programs(canary).items():
        for message in _refusals(program, canary):
            assert "legacy pickle" in message
            assert repr(blocked)[:-1] in message, label


def test_broken_programs_are_refused(canary: Path) -> None:
    for label, (program, reason) in broken_programs().items():
        for message in _refusals(archive(program), canary):
            assert reason in message, label


def test_files_of_torch_save_with_a_program_are_refused(canary: Path) -> None:
    state = {"state_dict": {"ctx": torch.ones(4)}, "scheduler": Call(write_canary, str(canary))}
    for options in ({}, {"_use_new_zipfile_serialization": False}, {"pickle_protocol": 4}):
        content = torch_saved(state, **options)
        torch.load(_written(canary, content), weights_only=False)
        assert _remove(canary)
        for message in _refusals(content, canary):
            assert "tests.helpers.malicious.write_canary" in message


def _written(canary: Path, content: bytes) -> Path:
    path = canary.with_name("written.pth")
    path.write_bytes(content)
    return path


def test_classes_declared_safe_elsewhere_stay_refused(canary: Path) -> None:
    content = torch_saved({"a": Call(write_canary, str(canary))})
    with torch.serialization.safe_globals([write_canary]):
        torch.load(_written(canary, content), weights_only=True)
        assert _remove(canary), "the control must run"
        assert all("write_canary" in message for message in _refusals(content, canary))


def test_live_objects_of_usual_checkpoints_are_refused_by_class(canary: Path) -> None:
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR
    successor = scheduler.__new__(scheduler)
    for message in _refusals(torch_saved({"scheduler": {"successor": successor}}), canary):
        assert "'torch.optim.lr_scheduler.CosineAnnealingLR'" in message
    for message in _refusals(torch_saved({"model": torch.nn.Linear(1, 1)}), canary):
        assert "'torch.nn.modules.linear.Linear'" in message


def test_many_blocked_names_are_counted_not_listed() -> None:
    program = b"".join(f"cmodule{i}\nname\n0".encode() for i in range(9)) + b"}."
    with pytest.raises(CheckpointError, match=r"'module4\.name' and 4 more,"):
        decode(seal(archive(program)), "x")


@pytest.mark.parametrize("name", TRAVERSALS)
def test_names_that_leave_the_archive_are_refused(name: str, canary: Path) -> None:
    content = archive(pickle.dumps({}, 2), (name, b"evil"))
    assert all("points outside the archive" in message for message in _refusals(content, canary))
    assert sorted(os.listdir(canary.parent)) == ["model.pth"]


def test_names_cut_by_a_null_byte_are_refused(canary: Path) -> None:
    content = archive(pickle.dumps({}, 2), ("archive/data/1X/../evil", b""))
    content = content.replace(b"archive/data/1X", b"archive/data/1\0")
    assert all("points outside the archive" in message for message in _refusals(content, canary))


def test_two_entries_of_one_name_are_refused(canary: Path) -> None:
    with pytest.warns(UserWarning, match="Duplicate name"):
        content = archive(pickle.dumps({}, 2), ("archive/data.pkl", live_programs(canary)["eval"][0]))
    assert all("two entries of one name" in message for message in _refusals(content, canary))


@pytest.mark.parametrize(
    ("entries", "count"),
    [
        ([("archive/version", b"3")], 0),
        ([("data.pkl", pickle.dumps({}, 2))], 0),
        ([("a/b/data.pkl", pickle.dumps({}, 2))], 0),
        ([("a/data.pkl", pickle.dumps({}, 2)), ("b/data.pkl", pickle.dumps({}, 2))], 2),
    ],
)
def test_archives_without_exactly_one_program_are_refused(
    entries: list[tuple[str, bytes]], count: int, canary: Path
) -> None:
    for message in _refusals(zip_of(entries), canary):
        assert message.endswith(f"exactly one data.pkl, this one {count}. Check that the path is right.")


def test_torchscript_programs_are_refused(canary: Path) -> None:
    class Doubled(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * x

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(Doubled(), torch.ones(2)), str(canary.with_name("script.pt")))
    real = canary.with_name("script.pt").read_bytes()
    plain, evil = pickle.dumps({}, 2), live_programs(canary)["os.system protocol 2"][0]
    disguised = [
        archive(plain, ("archive/constants.pkl", evil)),
        archive(plain, ("archive/code/__torch__.py", b"import os")),
        archive(evil, ("archive/constants.pkl", plain), ("archive/code/__torch__.py", b"")),
    ]
    for content in [real, *disguised]:
        assert all("it is a TorchScript program" in message for message in _refusals(content, canary))


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_compressed_bombs_are_refused_without_being_unpacked(compression: int, canary: Path) -> None:
    bomb = archive(pickle.dumps({}, 2), ("archive/data/1", bytes(8 << 20)), compression=compression)
    assert len(bomb) < 1 << 16
    tracemalloc.start()
    messages = _refusals(bomb, canary)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert all("zip bomb" in message for message in messages)
    assert peak < 1 << 20


def test_a_compressed_program_is_refused(canary: Path) -> None:
    content = archive(live_programs(canary)["eval"][0], compression=zipfile.ZIP_DEFLATED)
    assert all("never compresses" in message for message in _refusals(content, canary))


def _directory_changed(content: bytes, name: bytes, offset: int, value: bytes) -> bytes:
    """``content`` with ``value`` at ``offset`` of the directory entry of ``name``."""
    start = content.rindex(b"PK\x01\x02", 0, content.rindex(name)) + offset
    return content[:start] + value + content[start + len(value) :]


def test_entries_that_declare_more_than_the_file_holds_are_refused(canary: Path) -> None:
    sizes = struct.pack("<II", 0x7FFFFFFF, 0x7FFFFFFF)
    content = _directory_changed(archive(pickle.dumps({}, 2)), b"archive/data/0", 20, sizes)
    assert all("2147483" in message and "zip bomb" in message for message in _refusals(content, canary))


def test_entries_that_share_their_bytes_are_refused(canary: Path) -> None:
    entries = [(f"archive/data/{i}", b"") for i in range(1, 20)]
    content = archive(pickle.dumps({}, 2), ("archive/data/99", bytes(4096)), *entries)
    for name, _ in entries:
        content = _directory_changed(content, name.encode(), 20, struct.pack("<II", 4096, 4096))
    assert all("zip bomb" in message for message in _refusals(content, canary))


def test_encrypted_entries_are_refused(canary: Path) -> None:
    content = _directory_changed(archive(pickle.dumps({}, 2)), b"archive/data.pkl", 8, b"\x01\x00")
    assert all("cannot be read" in message for message in _refusals(content, canary))


@pytest.mark.parametrize(
    "content", [b"", b"PK", b"\x89PNG\r\n", b"MZ\x90", b"ustar" * 200, b"{}", b"PK\x05\x06" + bytes(18)]
)
def test_files_of_other_kinds_are_refused(content: bytes, canary: Path) -> None:
    assert all("not a zip archive" in message for message in _refusals(content, canary))


def test_benign_legacy_files_are_refused_too(canary: Path) -> None:
    content = torch_saved({"ctx": torch.ones(4)}, _use_new_zipfile_serialization=False)
    assert all("legacy pickle" in message for message in _refusals(content, canary))


def test_random_damage_under_a_valid_footer_is_an_error_or_plain_data(canary: Path) -> None:
    """An attacker can sign anything: 2,000 mutations of the program and the directory never crash or run."""
    rng = random.Random(0)
    whole = encode({"a": torch.ones(2), "b": [1, "x"], "c": {"d": 1.5}})[:-48]
    program = whole.index(b"PK\x03\x04"), whole.index(b"archive/.format_version")
    outcomes = {"refused": 0, "read": 0}
    for _ in range(2000):
        changed = bytearray(whole)
        for _ in range(rng.randrange(1, 4)):
            changed[rng.randrange(*program)] = rng.randrange(256)
        try:
            state = decode(seal(bytes(changed)), "x")
        except CheckpointError:
            outcomes["refused"] += 1
        else:
            assert isinstance(state, dict)
            outcomes["read"] += 1
    assert outcomes["refused"] >= 200


def test_a_hostile_newest_file_is_quarantined_and_the_previous_one_taken(canary: Path) -> None:
    newest, previous = canary.with_name("model-2.pth"), canary.with_name("model-1.pth")
    newest.write_bytes(seal(archive(live_programs(canary)["eval"][0])))
    previous.write_bytes(encode({"epoch": 1}))
    assert latest_good([newest, previous]) == (previous, {"epoch": 1})
    assert not canary.exists()
    assert not newest.exists()
