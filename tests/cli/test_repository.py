"""Files of trainers/ that cannot be imported are named with their line, not shown as a traceback."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from cpt_plugin.cli import repository
from cpt_plugin.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\nraise ValueError('boom')\n", r"trainers/__init__\.py, line 2: ValueError: boom; correct or remove"),
        ("x = (\n", r"trainers/__init__\.py, line 1: SyntaxError"),
        ("import no_such_module\n", r"trainers/__init__\.py, line 1: No module named 'no_such_module'; install"),
    ],
)
def test_a_broken_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, message: str) -> None:
    for name in ("datasets", "trainers"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("")
    (tmp_path / "trainers" / "__init__.py").write_text(text)
    monkeypatch.setattr(repository, "ROOT", tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    loaded = [name for name in sys.modules if name.split(".")[0] in ("datasets", "trainers")]
    saved = {name: sys.modules.pop(name) for name in loaded}
    try:
        with pytest.raises(ConfigError, match=message):
            repository.load_trainers()
    finally:
        for name in ("datasets", "trainers"):
            sys.modules.pop(name, None)
        sys.modules.update(saved)
