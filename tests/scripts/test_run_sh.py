"""scripts/run.sh: every command has its own help, for which nothing is set up; a wrong one is told the right one."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cpt_plugin.cli.words import COMMANDS
from tests.helpers.other_packages import install

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = (ROOT / "scripts" / "run.sh").read_text()


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """A Python without any package, as a fresh machine has."""
    python = tmp_path_factory.mktemp("bin") / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -S -s "$@"\n')
    python.chmod(0o755)
    return python


def run_sh(bare, *words, repository=ROOT, **more):
    variables = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "CPT_"))}
    command = ["bash", str(repository / "scripts" / "run.sh"), *words]
    return subprocess.run(
        command, env=variables | {"PYTHON": str(bare)} | more, capture_output=True, text=True, timeout=60, check=False
    )


def test_run_sh_knows_every_command():
    verbs = re.search(r"^    ((?:\w+ \| )+\w+)\)$", SCRIPT, re.MULTILINE)[1].split(" | ")
    assert sorted(verbs) == sorted(COMMANDS)


USAGE = {
    "run": "usage: scripts/run.sh METHOD DATASET TAU",
    "reproduce": "usage: scripts/reproduce.sh TABLE",
    "figures": "usage: python -m cpt_plugin results figures",
    "data": "usage: python -m cpt_plugin data list | get NAME",
}


@pytest.mark.parametrize("verb", COMMANDS)
def test_every_command_has_its_own_help(bare, verb):
    done = run_sh(bare, verb, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(USAGE.get(verb, f"usage: python -m cpt_plugin {verb}"))


@pytest.mark.parametrize(
    ("words", "usage"),
    [
        ("--help", USAGE["run"]),
        ("help", USAGE["run"]),
        ("coop shapes 1 OPTIM.LR 0.1 -h", USAGE["run"]),
        ("help compare", "usage: python -m cpt_plugin compare"),
        ("results table --help", "usage: python -m cpt_plugin results table"),
        ("figures output --kind tsne -h", USAGE["figures"]),
        ("--version", "cpt-plugin "),
    ],
)
def test_help_in_other_places(bare, words, usage):
    done = run_sh(bare, *words.split())
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(usage)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("figurs output", "'figurs' is no command; nearest: 'figures'"),
        ("features --help", "'features' is no command; nearest: 'figures'"),
        ("reslts table ablation", "'reslts' is no command; nearest: 'results'"),
        ("dapt", "error: three words are needed, METHOD DATASET TAU"),
        ("maple_cptt shapes 1", "error: unknown method 'maple_cptt'; nearest: 'maple_cpt'"),
    ],
)
def test_a_command_that_is_none(bare, words, message):
    done = run_sh(bare, *words.split())
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert ("no command" in done.stderr) == ("no command" in message)
    assert done.stderr.count("\n") == 1


def test_a_part_of_an_installed_package_is_known_before_anything_is_set_up(bare, tmp_path):
    install(tmp_path, {}, {"wide": "my_losses.wide"})
    known = run_sh(bare, "maple_wide", "shapes", "2", PYTHONPATH=str(tmp_path))
    assert (known.returncode, known.stderr[:14]) == (2, "error: tau is ")
    unknown = run_sh(bare, "maple_wide", "shapes", "2")
    assert "unknown method 'maple_wide'" in unknown.stderr
    assert unknown.stderr.rstrip().endswith("(more from other packages: docs/extending.md)")
    assert unknown.stderr.count("\n") == 1


def test_a_part_is_known_that_is_installed_in_the_environment_to_be_used(bare, tmp_path):
    repository = tmp_path / "clone"
    for name in ("scripts", "cpt_plugin", "trainers", "configs"):
        shutil.copytree(ROOT / name, repository / name, ignore=shutil.ignore_patterns("__pycache__", "assets"))
    shutil.copy(ROOT / "setup.py", repository)
    install(packages := repository / ".venv" / "packages", {}, {"wide": "my_losses.wide"})
    (repository / ".venv" / "pyvenv.cfg").write_text("home = /usr/bin\n")
    python = repository / ".venv" / "bin" / "python"
    python.parent.mkdir()
    python.write_text(f'#!/bin/sh\nPYTHONPATH={packages} exec {bare} "$@"\n')
    python.chmod(0o755)
    done = run_sh(bare, "maple_wide", "shapes", "2", repository=repository)
    assert done.stderr.startswith("error: tau is "), done.stderr
    listed = run_sh(bare, "list", repository=repository)
    assert "wide           (of my-losses 1.0; described where torch is installed)" in listed.stdout, listed.stderr
