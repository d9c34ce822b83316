"""Versions, code state and time that go into a record."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime, timedelta

import pytest

import cpt_plugin
from cpt_plugin.results.provenance import git_state, utc_now, versions
from cpt_plugin.results.record import GitState


def git(folder, *arguments):
    identity = ("-c", "user.name=test", "-c", "user.email=test@example.org")
    done = subprocess.run(
        ["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def test_versions_name_what_is_installed_only():
    found = versions(["pytest", "a-library-nobody-has"])
    assert found["pytest"] == pytest.__version__
    assert found["cpt_plugin"] == cpt_plugin.__version__
    assert set(found) == {"python", "cpt_plugin", "pytest"}


def test_git_state_follows_tracked_files(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert git_state(tmp_path) == GitState(None, None)
    git(tmp_path, "init", "-q")
    assert git_state(tmp_path) == GitState(None, None)
    (tmp_path / "code.py").write_text("1")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "first")
    (tmp_path / "untracked").write_text("")
    assert git_state(tmp_path) == GitState(git(tmp_path, "rev-parse", "HEAD"), False)
    (tmp_path / "code.py").write_text("2")
    assert git_state(tmp_path).dirty is True


def test_git_state_without_git(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_state(tmp_path) == GitState(None, None)


def test_time_is_utc():
    stamp = datetime.fromisoformat(utc_now())
    assert stamp.utcoffset() == timedelta(0)
    assert abs(datetime.now(UTC) - stamp) < timedelta(seconds=5)
