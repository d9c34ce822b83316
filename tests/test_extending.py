"""The files of docs/extending.md, written where they say and left as they are, make a method and a data set."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
BLOCKS = re.findall(r"```(?:python|yaml)\n# (\S+)\n(.*?)```", (ROOT / "docs" / "extending.md").read_text(), re.DOTALL)
KINDS = {"datasets/", "configs/", "trainers/", "cpt_plugin/"}


@pytest.fixture
def extended(tmp_path):
    """A copy of the repository with the files of the page."""
    clone = tmp_path / "clone"
    for name in ("cpt_plugin", "trainers", "datasets", "configs"):
        shutil.copytree(ROOT / name, clone / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path, text in BLOCKS:
        assert not (clone / path).exists()
        (clone / path).parent.mkdir(exist_ok=True)
        (clone / path).write_text(text)
    return clone


def command(clone, *words):
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHONPATH", "DATA_ROOT"))}
    done = subprocess.run(
        [sys.executable, "-m", "cpt_plugin", *map(str, words)],
        cwd=clone, env=environment | {"CPT_TOOLKIT": "embedded"},
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_the_page_has_a_file_of_every_kind():
    assert {next(kind for kind in KINDS if path.startswith(kind)) for path, _ in BLOCKS} == KINDS
    assert len(BLOCKS) == 6


def test_the_files_work_as_they_stand(extended, tmp_path):
    listed = command(extended, "list")
    for name in ("words", "spread", "sqrt", "traffic"):
        assert any(name in line.split() for line in listed.splitlines())
    images = tmp_path / "pictures" / "traffic"
    images.mkdir(parents=True)
    for label, name in enumerate(("bus", "car", "tram", "van")):
        for number in range(10):
            Image.new("RGB", (40, 40), (60 * label, 20 * number, 90)).save(images / f"{name}-{number}.png")
    said = command(
        extended, "run", "words_sqrt_spread", "traffic", "0.5", "--root", images.parent, "--backbone", "micro",
        "--epochs", "2", "--seeds", "1", "--no-baseline", "--output", tmp_path / "out",
    )  # fmt: skip
    assert "loss_spread" in (log := next((tmp_path / "out").rglob("log.txt")).read_text()), log
    assert "words_sqrt_spread" in said
    assert list((tmp_path / "out" / "traffic" / "tables").iterdir())
