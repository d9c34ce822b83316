"""Promise R3: a fault while saving never loses a checkpoint."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import signal
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cpt_plugin import atomic
from cpt_plugin.errors import CheckpointError
from cpt_plugin.toolkit.embedded import checkpoint
from cpt_plugin.toolkit.embedded.checkpoint import (
    decode,
    encode,
    latest_good,
    load_checkpoint,
    save_checkpoint,
)
from tests.helpers.checkpoints import identical, prompt_state

BLOCK = 4096
ERRORS = (errno.ENOSPC, errno.EIO, errno.EACCES)


class Kill(BaseException):
    """Stands for the end of the process: nothing after it has an effect."""


class FaultyOS:
    """The ``os`` module with a fault at one numbered call of open, write, fsync, replace or close."""

    def __init__(
        self, point: int, strike: Callable[[FaultyOS, str], None], unlink_fails: bool = False
    ) -> None:
        self.point, self.strike, self.unlink_fails = point, strike, unlink_fails
        self.calls: list[str] = []
        self.dead = False

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def _step(self, name: str) -> None:
        if self.dead:
            raise Kill
        self.calls.append(name)
        if len(self.calls) - 1 == self.point:
            self.strike(self, name)

    def open(self, path: Path, flags: int, mode: int = 0o777) -> int:
        self._step("open directory" if flags & os.O_DIRECTORY else "open")
        return os.open(path, flags, mode)

    def write(self, descriptor: int, data: memoryview) -> int:
        try:
            self._step("write")
        except OSError:
            os.write(descriptor, data[: len(data) // 2])  # a failed write may have reached the disk in part
            raise
        return os.write(descriptor, data)

    def fsync(self, descriptor: int) -> None:
        self._step("fsync directory" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "fsync")

    def close(self, descriptor: int) -> None:
        os.close(descriptor)
        self._step("close")

    def replace(self, source: Path, target: Path) -> None:
        self._step("replace")
        os.replace(source, target)

    def unlink(self, path: Path) -> None:
        if self.dead:
            raise Kill
        if self.unlink_fails:
            raise OSError(errno.EIO, "Input/output error")
        os.unlink(path)


def _raise_error(code: int) -> Callable[[FaultyOS, str], None]:
    def strike(_: FaultyOS, __: str) -> None:
        raise OSError(code, os.strerror(code))

    return strike


def _kill(layer: FaultyOS, _: str) -> None:
    layer.dead = True
    raise Kill


def _interrupt(_: FaultyOS, __: str) -> None:
    raise KeyboardInterrupt


def _modes() -> Iterator[tuple[Callable[[FaultyOS, str], None], bool]]:
    for code in ERRORS:
        yield _raise_error(code), False
        yield _raise_error(code), True
    yield _kill, False
    yield _interrupt, False


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(atomic, "_CHUNK_BYTES", BLOCK)


def _fault_points(size: int) -> int:
    """open, one write for each 4 KiB, fsync, close, replace, then open, fsync and close of the directory."""
    return 1 + -(-size // BLOCK) + 3 + 3


def _try_to_save(state: dict[str, Any], path: Path) -> bool:
    try:
        save_checkpoint(state, path)
    except (CheckpointError, Kill, KeyboardInterrupt):
        return False
    return True


@pytest.mark.usefixtures("small_blocks")
def test_a_thousand_faults_while_saving_lose_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    faults = failures = 0
    seen: set[str] = set()
    for epoch, width in enumerate((8, 64, 128, 192, 256, 384, 512, 640), start=1):
        old, new = prompt_state(epoch, width=width), prompt_state(epoch + 100, width=width)
        old_bytes, new_bytes = encode(old), encode(new)
        assert identical(decode(new_bytes, "new"), new)
        encoded = {old["epoch"]: old_bytes, new["epoch"]: new_bytes}
        monkeypatch.setattr(checkpoint, "encode", lambda state, _, known=encoded: known[state["epoch"]])
        for point in range(_fault_points(len(new_bytes))):
            for number, (strike, unlink_fails) in enumerate(_modes()):
                folder = tmp_path / f"{epoch}-{point}-{number}"
                folder.mkdir()
                previous = folder / "model.pth.tar-1"
                target = previous if (point + number) % 2 else folder / "model.pth.tar-2"
                previous.write_bytes(old_bytes)
                layer = FaultyOS(point, strike, unlink_fails)
                with monkeypatch.context() as patch:
                    patch.setattr(atomic, "os", layer)
                    assert not _try_to_save(new, target)
                faults += 1
                seen.add(layer.calls[point])
                with monkeypatch.context() as patch:
                    patch.setattr(atomic, "os", FaultyOS(-1, _kill))
                    failures += not _survived(old_bytes, new_bytes, previous, target, new)
    assert faults >= 1000
    assert failures == 0
    assert seen == {"open", "write", "fsync", "close", "replace", "open directory", "fsync directory"}


def _survived(old: bytes, new: bytes, previous: Path, target: Path, state: dict[str, Any]) -> bool:
    """The old checkpoint, or after the rename the new one, is there and loads; the next save succeeds."""
    allowed = {old, new} if previous == target else {old}
    if previous.read_bytes() not in allowed or (target.exists() and target.read_bytes() not in {old, new}):
        return False
    path, _ = latest_good([target, previous])
    if path.read_bytes() not in {old, new} or any(path.parent.glob("*.corrupt*")):
        return False
    save_checkpoint(state, target)
    return target.read_bytes() == new


@pytest.mark.usefixtures("small_blocks")
def test_the_number_of_fault_points_is_that_of_a_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = prompt_state(1, width=100)
    layer = FaultyOS(-1, _kill)
    with monkeypatch.context() as patch:
        patch.setattr(atomic, "os", layer)
        assert _try_to_save(state, tmp_path / "last.pth")
    assert len(layer.calls) == _fault_points(len(encode(state)))
    assert layer.calls[-4:] == ["replace", "open directory", "fsync directory", "close"]


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("code", ERRORS)
def test_an_error_removes_the_temporary_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    state = prompt_state(1, width=100)
    for point in range(_fault_points(len(encode(state))) - 3):
        with monkeypatch.context() as patch:
            patch.setattr(atomic, "os", FaultyOS(point, _raise_error(code)))
            with pytest.raises(CheckpointError, match=os.strerror(code)):
                save_checkpoint(state, tmp_path / "last.pth")
        assert os.listdir(tmp_path) == []


def _in_child(action: Callable[[], None]) -> int:
    """Run ``action`` in a forked child and return its wait status; it never comes back to pytest."""
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            action()
        os._exit(0)
    return os.waitpid(child, 0)[1]


@pytest.mark.usefixtures("small_blocks")
def test_the_end_of_the_process_at_every_point_of_a_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "last.pth"
    old, new = prompt_state(1, width=100), prompt_state(2, width=100)
    save_checkpoint(old, path)
    points = _fault_points(path.stat().st_size)
    for point in range(points):
        monkeypatch.setattr(atomic, "os", os)
        save_checkpoint(old, path)
        monkeypatch.setattr(atomic, "os", FaultyOS(point, lambda _, __: os._exit(77)))
        status = _in_child(lambda: save_checkpoint(new, path))
        assert os.waitstatus_to_exitcode(status) == 77
        is_after_rename = point > points - 4
        assert identical(load_checkpoint(path), new if is_after_rename else old)
    monkeypatch.setattr(atomic, "os", os)
    assert identical(latest_good([path])[1], new)


def test_sigkill_at_random_moments_of_a_save_loop(tmp_path: Path) -> None:
    path = tmp_path / "last.pth"
    save_checkpoint(prompt_state(0, width=64), path)
    rng = random.Random(0)
    epoch = 0
    for _ in range(15):
        child = os.fork()
        if child == 0:
            _save_for_ever(path, epoch)
        first = path.stat().st_ino
        while path.stat().st_ino == first:
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.03))
        os.kill(child, signal.SIGKILL)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        state = load_checkpoint(path)
        assert state["epoch"] > epoch
        assert identical(state, prompt_state(state["epoch"], width=64))
        epoch = state["epoch"]


def _save_for_ever(path: Path, epoch: int) -> None:
    try:
        while True:
            epoch += 1
            save_checkpoint(prompt_state(epoch, width=64), path)
    finally:
        os._exit(1)


class PowerCut(FaultyOS):
    """Keeps, for each name, all contents that a power cut at this moment could leave on the disk."""

    def __init__(self, path: Path, old: bytes, has_fsync: bool = True) -> None:
        super().__init__(-1, _kill)
        self.path, self.has_fsync = path, has_fsync
        self.pending = b""
        self.is_synced = False
        self.possible = {old}
        self.history = [self.possible]

    def write(self, descriptor: int, data: memoryview) -> int:
        self.pending, self.is_synced = self.pending + bytes(data), False
        return super().write(descriptor, data)

    def fsync(self, descriptor: int) -> None:
        super().fsync(descriptor)
        if self.has_fsync and self.calls[-1] == "fsync":
            self.is_synced = True
        elif self.has_fsync:
            self.possible = self._renamed()
            self.history.append(self.possible)

    def replace(self, source: Path, target: Path) -> None:
        super().replace(source, target)
        self.possible = self.possible | self._renamed()
        self.history.append(self.possible)

    def _renamed(self) -> set[bytes]:
        whole = self.pending
        return {whole} if self.is_synced else {whole, b"", whole[: len(whole) // 2]}


@pytest.mark.usefixtures("small_blocks")
def test_a_power_cut_leaves_the_old_file_or_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "last.pth"
    old, new = encode(prompt_state(1, width=32)), encode(prompt_state(2, width=32))
    histories = {}
    for has_fsync in (True, False):
        path.write_bytes(old)
        layer = PowerCut(path, old, has_fsync)
        with monkeypatch.context() as patch:
            patch.setattr(atomic, "os", layer)
            save_checkpoint(prompt_state(2, width=32), path)
        histories[has_fsync] = layer.history
    assert histories[True] == [{old}, {old, new}, {new}]
    assert any(b"" in contents for contents in histories[False]), "the model must find a writer without fsync"
