"""What docs/extending.md says works as it stands: files in this repository, and a package of one's own."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from PIL import Image

from cpt_plugin.cli.pool import Pool, Task
from tests.helpers.other_packages import install

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "extending.md").read_text()
BLOCKS = re.findall(r"```(?:python|yaml)\n# (\S+)\n(.*?)```", PAGE, re.DOTALL)
PROJECT = tomllib.loads(re.search(r"```toml\n# pyproject.toml\n(.*?)```", PAGE, re.DOTALL)[1])["project"]
KINDS = {"datasets/", "configs/", "trainers/", "cpt_plugin/"}


@pytest.fixture
def clone(tmp_path):
    """A copy of the repository without the files of the page, should somebody have put them there."""
    copy = tmp_path / "clone"
    for name in ("cpt_plugin", "trainers", "datasets", "configs"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path, _ in BLOCKS:
        (copy / path).unlink(missing_ok=True)
    return copy


@pytest.fixture
def extended(clone):
    """A copy of the repository with the files of the page."""
    for path, text in BLOCKS:
        (clone / path).parent.mkdir(exist_ok=True)
        (clone / path).write_text(text)
    return clone


def command(clone, *words, **variables):
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHONPATH", "DATA_ROOT"))}
    done = subprocess.run(
        [sys.executable, "-m", "cpt_plugin", *map(str, words)],
        cwd=clone, env=environment | {"CPT_TOOLKIT": "embedded"} | {key: str(v) for key, v in variables.items()},
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def draw(folder, sign):
    """Ten images of each of four classes, called CLASS, the sign, NUMBER.png."""
    for label, name in enumerate(("bus", "car", "tram", "van")):
        for number in range(10):
            path = Path(f"{folder}/{name}{sign}{number}.png")
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (40, 40), (60 * label, 20 * number, 90)).save(path)


def test_the_page_has_a_file_of_every_kind():
    assert {next(kind for kind in KINDS if path.startswith(kind)) for path, _ in BLOCKS} == KINDS
    assert len(BLOCKS) == 6


def test_the_files_work_as_they_stand(extended, tmp_path):
    listed = [line.split(maxsplit=2) for line in command(extended, "list").splitlines()]
    assert ["prompt", "learner", "words          Learned words before the class name."] in listed
    assert ["regularizer", "spread", "one simplex over all classes [paper: none]"] in listed
    assert ["loss", "sqrt", "cross-entropy weighted by 1 / count^power [paper: none]"] in listed
    assert ["traffic", "Images", "called CLASS-NUMBER.png in one folder."] in listed
    images = tmp_path / "pictures" / "traffic"
    draw(images, "-")
    said = command(
        extended, "run", "words_sqrt_spread", "traffic", "0.5", "--root", images.parent, "--backbone", "micro",
        "--epochs", "2", "--seeds", "1", "--no-baseline", "--output", tmp_path / "out",
    )  # fmt: skip
    assert "loss_spread" in (log := next((tmp_path / "out").rglob("log.txt")).read_text()), log
    assert "words_sqrt_spread" in said
    assert list((tmp_path / "out" / "traffic" / "tables").iterdir())


@pytest.fixture
def package(tmp_path):
    """The package of the page's last section, as an installer leaves it."""
    folder = tmp_path / "site-packages"
    files = {f"my_losses/{Path(path).name}": text for path, text in BLOCKS if path.startswith("cpt_plugin/")}
    ((group, points),) = PROJECT["entry-points"].items()
    install(folder, {"my_losses/__init__.py": "", **files}, points, name=PROJECT["name"], group=group)
    return folder


GO_THROUGH_ALL = (
    "tests/test_numbers.py",
    "tests/test_methods.py::test_a_method_with_a_wrong_part_is_told_all_parts_by_kind",
    "tests/test_methods.py::test_every_part_is_listed_with_its_paper",
    "tests/regularizers/test_discovery.py",
    "tests/long_tail_losses/test_long_tail_losses.py::test_every_loss_is_named_like_its_file_and_described",
    "tests/trainers/test_registry.py",
    "tests/trainers/test_class_names.py::test_the_limit_is_the_one_that_building_the_prompts_has",
    "tests/trainers/test_dpc.py::test_every_learner_that_trains_has_a_second_stage",
    "tests/cli/test_arguments.py::test_every_manifest_has_a_configuration",
)
"""Tests that go through all parts, learners or data sets there are: nothing that is added may break them."""


def test_the_files_leave_the_suite_green(extended):
    for name in ("tests", "docs"):
        shutil.copytree(ROOT / name, extended / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", extended)
    environment = {**os.environ, "PYTHONPATH": str(extended), "CPT_TOOLKIT": "embedded"}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *GO_THROUGH_ALL]
    done = subprocess.run(command, cwd=extended, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:]


def test_train_py_knows_the_package_by_the_name_of_a_trainer(clone, package):
    shutil.copy(ROOT / "train.py", clone)
    command = [sys.executable, "train.py", "--trainer", "CoOpSPREAD", "--backbone", "micro", "SPREAD.WEIGHT"]
    environment = {**os.environ, "PYTHONPATH": str(package), "CPT_TOOLKIT": "embedded"}
    wrong = "SPREAD.WEIGHT in the options must be of type float"
    for weight, said in (("much", wrong), ("0.2", "no data set is named")):
        done = subprocess.run([*command, weight], cwd=clone, env=environment, capture_output=True, text=True)
        assert (done.returncode, said in done.stderr) == (2, True), done.stderr


def test_the_package_works_as_it_stands_in_workers_too(clone, package, tmp_path, monkeypatch):
    (line,) = [line for line in command(clone, "list", PYTHONPATH=package).splitlines() if " spread " in line]
    assert line.endswith("one simplex over all classes [paper: none] (my-losses 1.0)")
    draw(images := tmp_path / "pictures", "/")
    words = ["coop_spread", str(images), "natural", "--backbone", "micro", "--seeds", "1", "--epochs", "1"]
    words += ["--no-baseline", "--output", str(tmp_path / "out"), "SPREAD.WEIGHT", "0.2"]
    answers = []
    monkeypatch.setenv("PYTHONPATH", f"{package}{os.pathsep}{clone}")
    task = Task([["coop", *words[1:]], words])
    Pool([task], 1, lambda task, answer, again: answers.append(answer), tmp_path / "log", folder=clone).run()
    assert [outcome.get("status") for outcome in answers[-1]] == ["new", "new"], answers
    out = tmp_path / "out" / "pictures"
    plain, spread = (next((out / name).rglob("log.txt")).read_text() for name in ("coop", "coop_spread"))
    assert "loss_spread" in spread
    assert "loss_spread" not in plain
