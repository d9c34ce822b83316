"""The doctor in a real environment with two real troubles; makes it with pip (1.2 GB), so it is a long test.

Without a package index the installation fails, and the test with it.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("torch==2.13.0", "torchvision==0.28.0", "clip-anytorch==2.6.0", "yacs", "numpy", "pillow")


def run(words, folder, **settings):
    """A process that sees nothing of this environment, except how the package index is reached."""
    kept = {key: value for key, value in os.environ.items() if re.fullmatch("PATH|HOME|PIP_.*|.*_PROXY", key, re.I)}
    environment = {"HOME": str(folder), "LANG": "C.UTF-8", **kept}
    return subprocess.run(
        list(map(str, words)), cwd=ROOT, env=environment, capture_output=True, text=True, check=False, **settings
    )


@pytest.fixture
def python(tmp_path):
    """A virtual environment with torchvision as the index gives it and a setuptools without pkg_resources."""
    folder = tmp_path / "venv"
    venv.create(folder, with_pip=True, symlinks=True)
    pip = [folder / "bin" / "pip", "install", "--quiet", "--disable-pip-version-check", "--no-cache-dir"]
    for words in (PACKAGES, ("torch==2.13.0", "setuptools==84.*")):
        installed = run([*pip, *words], tmp_path, timeout=900)
        assert installed.returncode == 0, installed.stderr
    yield folder / "bin" / "python"
    shutil.rmtree(folder)


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_both_troubles_are_named_and_the_fixes_that_are_named_mend_them(python, tmp_path):
    assert run([python, "-c", "import torchvision"], tmp_path).returncode != 0, "torchvision is not broken here"
    report = run([python, "-m", "cpt_plugin", "doctor"], tmp_path)
    print(report.stdout)
    assert report.returncode == 1
    assert "Traceback" not in report.stdout + report.stderr
    lines = report.stdout.splitlines()

    vision = next(i for i, line in enumerate(lines) if line.startswith("  note  torchvision"))
    assert "operator torchvision::nms does not exist" in lines[vision]
    two_lines = "\n".join(line.strip() for line in lines[vision + 1 : vision + 3])
    mended = run([python, "-c", f"{two_lines}\nimport torchvision.transforms"], tmp_path)
    assert mended.returncode == 0, mended.stderr

    tools = next(i for i, line in enumerate(lines) if line.startswith("  FIX   setuptools"))
    assert "setuptools 84." in lines[tools]
    assert "pkg_resources" in lines[tools]
    with_clip = f"{two_lines}\nimport clip"
    assert "pkg_resources" in run([python, "-c", with_clip], tmp_path).stderr, "clip is not broken here"
    assert run(shlex.split(lines[tools + 1]), tmp_path, timeout=300).returncode == 0
    mended = run([python, "-c", with_clip], tmp_path)
    assert mended.returncode == 0, mended.stderr
    assert "FIX   setuptools" not in run([python, "-m", "cpt_plugin", "doctor"], tmp_path).stdout
