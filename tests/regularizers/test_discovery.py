"""The registry: discovery by file, building from a configuration, and the ten-line guide."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from pkgutil import ModuleInfo, iter_modules
from textwrap import dedent
from zipfile import ZipFile

import pytest
import torch

from cpt_plugin import parts, regularizers
from cpt_plugin.errors import ConfigError
from cpt_plugin.regularizers import REGISTRY, FeatureBatch, available, build

GUIDE = dedent(regularizers.__doc__.split("::\n")[1].split("\nAdd `prepare`")[0])
# under a name of its own: somebody may have put the guide's file into the folder, as docs/extending.md says
GUIDE = GUIDE.replace("spread", "wide").replace("Spread", "Wide").replace("SPREAD", "WIDE")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder whose files are discovered as if they lay beside cpt.py; the registry is restored."""
    before, modules = dict(REGISTRY), set(sys.modules)
    monkeypatch.setattr(regularizers, "__path__", [*regularizers.__path__, str(tmp_path)])
    yield tmp_path
    REGISTRY.clear()
    REGISTRY.update(before)
    for name in set(sys.modules) - modules:
        if name.startswith("cpt_plugin.regularizers."):
            delattr(regularizers, name.rpartition(".")[2])
            del sys.modules[name]


def test_the_guide_of_the_docstring_works_without_any_other_edit(folder: Path) -> None:
    assert "wide" not in available()
    (folder / "wide.py").write_text(GUIDE)
    assert list(available()) == sorted([*available()])
    assert available()["wide"].defaults() == {"WEIGHT": 0.1}
    wide, cpt = build(["wide", "cpt"], {"WIDE": {"WEIGHT": 2}})[::-1]
    assert (cpt.name, wide.name) == ("cpt", "wide")
    wide.prepare(torch.eye(4), list("abcd"))
    batch = FeatureBatch(text=torch.eye(4), image=torch.eye(4), labels=torch.arange(4))
    assert wide.active
    assert wide.compute(batch)["wide"].item() == pytest.approx(2 / 9)
    assert (wide.digest(), wide.describe()) == ("", [])
    assert not build(["wide"], {"WIDE": {"WEIGHT": 0.0}})[0].active


@pytest.fixture
def searches(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """One entry for every time that folders were searched for files; none of them gets a ``__pycache__`` meanwhile."""
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    found: list[str] = []

    def searched(path: list[str]) -> Iterator[ModuleInfo]:
        found.append(path[-1])
        return iter_modules(path)

    monkeypatch.setattr(parts, "iter_modules", searched)
    return found


def test_a_new_file_is_seen_and_nothing_is_searched_without_a_change(folder: Path, searches: list[str]) -> None:
    available()
    available()
    assert len(searches) == 1
    (folder / "wide.py").write_text(GUIDE)
    os.utime(folder, ns=(0, 1))
    assert "wide" in available()
    available()
    assert len(searches) == 2


def test_another_folder_of_the_same_age_is_searched(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (other := folder / "other").mkdir()
    (other / "wide.py").write_text(GUIDE)
    for place in (folder, other):
        os.utime(place, ns=(0, 1))
    assert "wide" not in available()
    monkeypatch.setattr(regularizers, "__path__", [*regularizers.__path__[:-1], str(other)])
    assert "wide" in available()


def test_a_package_in_a_zip_beside_a_missing_folder_is_searched_every_time(
    folder: Path, searches: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = folder / "more.zip"
    with ZipFile(archive, "w") as packed:
        packed.writestr("inside/wide.py", GUIDE)
    more = [f"{archive}/inside", str(folder / "none")]
    monkeypatch.setattr(regularizers, "__path__", [*regularizers.__path__, *more])
    assert "wide" in available()
    available()
    assert len(searches) == 2


@pytest.mark.parametrize(
    ("stem", "change", "message"),
    [
        ("other", ("", ""), "must register one regularizer, 'other'; found 'wide'"),
        ("wide", ("@register", ""), "must register one regularizer, 'wide'; found none"),
        ("wide", ('"wide", "WIDE"', '"cpt", "WIDE"'), "share their name or their configuration node"),
        (
            "wide",
            ('"wide", "WIDE"', '"wide", "CPT"'),
            "share their name or their configuration node 'CPT'",
        ),
        ("wide", ('"wide", "WIDE", "none"', '"wide", "WIDE", ""'), "lacks the attribute 'paper'"),
        ("wide", ("weight: float = 0.1", "weight: float"), "give setting 'weight' a default"),
    ],
)
def test_a_file_that_breaks_the_rules_is_named(
    folder: Path, stem: str, change: tuple[str, str], message: str
) -> None:
    (folder / f"{stem}.py").write_text(GUIDE.replace(*change) if change[0] else GUIDE)
    with pytest.raises(ConfigError, match=message):
        available()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import no_such_module", "regularizers/oops.py cannot be imported: ModuleNotFoundError: .*no_such_module"),
        ("def broken(:", "regularizers/oops.py cannot be imported: SyntaxError"),
    ],
)
def test_a_file_that_cannot_be_imported_is_named(folder: Path, text: str, message: str) -> None:
    (folder / "oops.py").write_text(text)
    with pytest.raises(ConfigError, match=message):
        available()


def test_a_file_that_defines_two_is_named_with_both(folder: Path) -> None:
    other = GUIDE[GUIDE.index("@register") :].replace('"wide", "WIDE"', '"wider", "WIDER"')
    (folder / "wide.py").write_text(f"{GUIDE}\n{other}")
    with pytest.raises(ConfigError, match=r"wide\.py must register one regularizer, 'wide'; found .*'wider'"):
        available()


def test_private_files_are_not_discovered(folder: Path) -> None:
    (folder / "_draft.py").write_text("raise AssertionError")
    assert "_draft" not in available()


def test_every_regularizer_is_named_like_its_file_and_fully_described() -> None:
    stems = {p.stem for p in Path(regularizers.__file__).parent.glob("*.py") if not p.stem.startswith("_")}
    assert set(available()) == stems - {"base"}
    for name, cls in available().items():
        assert cls.name == name
        assert cls.paper
        assert "\n" not in cls.description
        assert all(key.isupper() for key in cls.defaults())
        default = cls.from_config({})
        assert isinstance(default, cls)


def test_build_refuses_unknown_and_repeated_names() -> None:
    with pytest.raises(ConfigError, match="unknown regularizer 'ctp'; did you mean 'cpt'"):
        build(["ctp"], {})
    with pytest.raises(ConfigError, match=r"unknown regularizer 'zzzzzz'; known: cpt"):
        build(["zzzzzz"], {})
    with pytest.raises(ConfigError, match="'cpt' is given 2 times"):
        build(["cpt", "cpt"], {})
    assert build([], {}) == []
