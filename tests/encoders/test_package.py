"""CLIP's files are found without importing anything called `clip`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from cpt_plugin.encoders import _package
from cpt_plugin.errors import ConfigError


@pytest.fixture
def fresh() -> Iterator[None]:
    """Forget what was found, before and after."""
    caches = (_package.package_folder, _package.model_module, _package.tokenizer_module)
    for cached in caches:
        cached.cache_clear()
    yield
    for cached in caches:
        cached.cache_clear()


@pytest.mark.usefixtures("fresh")
def test_a_foreign_clip_folder_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fork = tmp_path / "clip"
    fork.mkdir()
    for name in ("__init__.py", "model.py", "simple_tokenizer.py"):
        (fork / name).write_text("raise RuntimeError('the fork was imported')\n")
    (fork / "bpe_simple_vocab_16e6.txt.gz").write_bytes(b"")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert "clip" not in sys.modules
    assert _package.model_module().CLIP.__name__ == "CLIP"
    assert len(_package.tokenizer_module().SimpleTokenizer().encoder) == 49408
    assert _package.package_folder() != fork
    assert "clip" not in sys.modules


@pytest.mark.usefixtures("fresh")
def test_nothing_installed_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(_package, "distribution", missing)
    with pytest.raises(ConfigError, match=r"pip install -c constraints\.txt clip-anytorch"):
        _package.model_module()


@pytest.mark.usefixtures("fresh")
def test_a_missing_dependency_of_the_tokenizer_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "simple_tokenizer.py").write_text("import a_package_that_is_not_there\n")
    monkeypatch.setattr(_package, "package_folder", lambda: tmp_path)
    with pytest.raises(ConfigError, match="install a_package_that_is_not_there"):
        _package.tokenizer_module.__wrapped__()
