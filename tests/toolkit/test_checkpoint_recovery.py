"""The choice of the newest checkpoint that is good."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import pytest

from cpt_plugin.errors import CheckpointError
from cpt_plugin.toolkit.embedded.checkpoint import latest_good, save_checkpoint, seal
from tests.helpers.checkpoints import identical, make_unreadable, prompt_state


def test_latest_good_takes_the_newest_and_touches_nothing_when_it_is_fine(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    paths = _three_checkpoints(tmp_path)
    path, state = latest_good(paths)
    assert path == paths[0]
    assert identical(state, prompt_state(3, width=8))
    assert len(os.listdir(tmp_path)) == 3
    assert not caplog.records


def test_latest_good_moves_damaged_files_aside_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    newest, middle, oldest = _three_checkpoints(tmp_path)
    (tmp_path / f"{newest.name}.corrupt").write_bytes(b"an earlier one")
    newest.write_bytes(newest.read_bytes()[:-100])
    middle.write_bytes(b"")
    with caplog.at_level(logging.WARNING, logger="cpt_plugin"):
        path, state = latest_good(iter([str(newest), str(middle), str(oldest)]))
    assert path == oldest
    assert identical(state, prompt_state(1, width=8))
    moved = [f"{newest.name}.corrupt", f"{newest.name}.corrupt-2", f"{middle.name}.corrupt"]
    assert sorted(os.listdir(tmp_path)) == sorted([oldest.name, *moved])
    assert (tmp_path / moved[0]).read_bytes() == b"an earlier one"
    assert [record.name for record in caplog.records] == ["cpt_plugin"] * 2
    assert f"renamed to {moved[1]}" in caplog.messages[0]
    assert f"renamed to {moved[2]}" in caplog.messages[1]


def test_latest_good_passes_over_missing_and_unreadable_files_without_renaming(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    newest, middle, oldest = _three_checkpoints(tmp_path)
    make_unreadable(monkeypatch, newest)
    middle.unlink()
    assert latest_good([newest, middle, oldest])[0] == oldest
    assert sorted(os.listdir(tmp_path)) == sorted([newest.name, oldest.name])
    assert ["Permission denied" in caplog.messages[0], "no checkpoint" in caplog.messages[1]] == [True, True]


def test_latest_good_goes_on_when_the_damaged_file_cannot_be_renamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    newest, middle, _ = _three_checkpoints(tmp_path)
    newest.write_bytes(b"torn")

    def read_only(*_: Any) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "rename", read_only)
    assert latest_good([newest, middle])[0] == middle
    assert "could not be renamed" in caplog.messages[0]
    assert "Read-only file system" in caplog.messages[0]


def test_latest_good_stops_when_none_is_good(tmp_path: Path) -> None:
    newest, middle, oldest = _three_checkpoints(tmp_path)
    newest.write_bytes(b"torn")
    middle.write_bytes(seal(b"not an archive"))
    oldest.unlink()
    with pytest.raises(CheckpointError) as caught:
        latest_good([newest, middle, oldest])
    assert all(path.name in str(caught.value) for path in (newest, middle, oldest))
    assert "start again in an empty output folder" in str(caught.value)
    with pytest.raises(CheckpointError, match="No file was found"):
        latest_good([])


def _three_checkpoints(folder: Path) -> tuple[Path, Path, Path]:
    paths = tuple(folder / f"model.pth.tar-{epoch}" for epoch in (3, 2, 1))
    for path, epoch in zip(paths, (3, 2, 1), strict=True):
        save_checkpoint(prompt_state(epoch, width=8), path)
    return paths  # type: ignore[return-value]
