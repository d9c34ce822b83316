"""Folders and files that the process may not read are named in one line."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RIGHTS = "-dac_override,-dac_read_search"
WITHOUT = ["setpriv", "--bounding-set", RIGHTS, "--inh-caps", RIGHTS] if os.geteuid() == 0 else []
YAML = 'DATASET:\n  NAME: "ImageFolder"\n  FOLDER: "mine"\n'

pytestmark = pytest.mark.skipif(
    bool(WITHOUT) and shutil.which("setpriv") is None, reason="root reads everything, and setpriv is not there"
)


def run(module, *words):
    return subprocess.run(
        [*WITHOUT, sys.executable, "-m", module, *map(str, words)],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


@pytest.fixture
def locked(tmp_path):
    """A data folder that is locked itself, one with a locked data set, and a locked yaml."""
    for name in ("whole", "part/eurosat", "open/mine"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "mine.yaml").write_text(YAML)
    (tmp_path / "locked.yaml").write_text(YAML)
    places = [tmp_path / "whole", tmp_path / "part" / "eurosat", tmp_path / "locked.yaml"]
    for place in places:
        place.chmod(0)
    yield tmp_path
    for place in places:
        place.chmod(0o700)


def test_what_may_not_be_read_is_named_in_one_line(locked):
    check = "cpt_plugin.cli.arguments"
    for module, words, named in (
        (check, ["coop", locked / "mine.yaml", "1", "--root", locked / "whole"], locked / "whole"),
        (check, ["coop", "eurosat", "1", "--root", locked / "part"], locked / "part" / "eurosat"),
        (check, ["coop", locked / "locked.yaml", "1", "--root", locked / "open"], locked / "locked.yaml"),
        ("cpt_plugin", ["data", "list", "--root", locked / "whole"], locked / "whole"),
        ("cpt_plugin", ["data", "verify", "eurosat", "--root", locked / "part"], locked / "part" / "eurosat"),
    ):
        done = run(module, *words)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
        assert done.stderr.startswith("error: ")
        assert str(named) in done.stderr
    listed = run("cpt_plugin", "data", "list", "--root", locked / "part")
    assert listed.returncode == 0
    assert next(line for line in listed.stdout.splitlines() if "eurosat" in line).split()[1] == "unreadable"


def test_train_py_names_it_as_well(locked):
    data, model = ROOT / "configs" / "datasets" / "eurosat.yaml", ROOT / "configs" / "trainers" / "CoOp" / "micro.yaml"
    words = ["train.py", "--trainer", "CoOp", "--backbone", "micro", "--root", locked / "part", "--config-file", model]
    done = subprocess.run(
        [*WITHOUT, sys.executable, *map(str, [*words, "--dataset-config-file", data])],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"train.py: {locked / 'part' / 'eurosat'}")
    assert last.lower().endswith("permission denied; see the permissions")
