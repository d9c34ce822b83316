"""Regularizers of other packages: by decorator, by entry point, by variable; what is of no use is told when asked."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest
import torch

from cpt_plugin import methods, regularizers
from cpt_plugin.cli.listing import lines
from cpt_plugin.errors import ConfigError
from cpt_plugin.regularizers import available, build, names
from tests.helpers.other_packages import WIDE, install

pytestmark = pytest.mark.usefixtures("registry")
Installer = Callable[..., Path]
UNUSABLE = {
    "cannot be imported: ModuleNotFoundError: No module named 'no_such_module'": ("import no_such_module", "wide"),
    "cannot be imported: SystemExit: 3": ("raise SystemExit(3)", "wide"),
    "cannot be imported: SyntaxError": ("def broken(:", "wide"),
    "it registers 'other', not 'wide'": (WIDE.replace('"wide", "WIDE"', '"other", "OTHER"'), "wide"),
    "it registers nothing, not 'wide'": ("", "wide"),
    "lacks the attribute 'paper'": (WIDE.replace('"none"', '""'), "wide"),
    "share their name or their configuration node": (WIDE.replace('"wide", "WIDE"', '"cpt", "CPT"'), "wide"),
    "cpt_plugin.regularizers has one of that name itself": (WIDE, "cpt"),
    "cpt_plugin.long_tail_losses has one of that name itself": (WIDE, "la"),
}


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Installer:
    def put(text: str, points: dict[str, str], **options: str) -> Path:
        folder = tmp_path / options.get("name", "my-losses")
        install(folder, {f"{options.pop('module', 'my_losses')}.py": text}, points, **options)
        monkeypatch.syspath_prepend(folder)
        return folder

    return put


def listed(name: str) -> str:
    (line,) = [line for line in lines() if line.split()[:2] == ["regularizer", name]]
    return line


def works() -> bool:
    (wide,) = build(["wide"], {"WIDE": {"WEIGHT": 2}})
    batch = regularizers.FeatureBatch(text=torch.eye(4), image=torch.eye(4), labels=torch.arange(4))
    return wide.compute(batch)["wide"].item() == pytest.approx(2 / 9)


def test_a_class_that_any_module_registers_is_built_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_losses.py").write_text(WIDE)
    monkeypatch.syspath_prepend(tmp_path)
    assert "wide" not in names()
    import_module("my_losses")
    assert "wide" in names()
    assert works()


@pytest.mark.parametrize("undecorated", [False, True])
def test_an_entry_point_is_known_at_once_and_imported_when_asked_for(installed: Installer, undecorated: bool) -> None:
    text = WIDE.replace("@register\n", "") if undecorated else WIDE
    installed(text, {"wide": "my_losses:Wide" if undecorated else "my_losses"})
    assert "wide" in names()
    assert methods.parse_method("maple_wide_la_cpt").name == "maple_la_cpt_wide"
    assert build(["cpt"], {})
    assert "wide" not in available()
    assert "my_losses" not in sys.modules
    assert "wide" in available(["wide"])
    assert works()
    assert listed("wide").endswith(" one simplex over all classes [paper: none] (my-losses 1.0)")


def test_a_module_that_nobody_installed_is_named_by_a_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, {"my_losses/__init__.py": "", "my_losses/wide.py": WIDE}, {})
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("CPT_REGULARIZERS", "my_losses.wide, my_losses.gone")
    assert methods.parse_method("coop_wide").parts == ("wide",)
    assert works()
    message = r"'gone' of \$CPT_REGULARIZERS \(my_losses.gone\): cannot be .*; correct that module, or take it out of"
    with pytest.raises(ConfigError, match=message):
        build(["gone"], {})


@pytest.mark.parametrize("reason", UNUSABLE)
def test_what_is_of_no_use_is_told_in_a_sentence_where_it_is_asked_for(installed: Installer, reason: str) -> None:
    text, name = UNUSABLE[reason]
    installed(text, {name: "my_losses"})
    for _ in range(2):
        assert "npt" in available()
        assert [part.name for part in build(["npt"], {})] == ["npt"]
        with pytest.raises(ConfigError) as caught:
            build([name], {})
        message = str(caught.value)
        assert message.startswith(f"regularizer {name!r} of my-losses 1.0 (my_losses): ")
        assert reason in message
        assert message.endswith("; update or uninstall my-losses 1.0")
        assert "\n" not in message
    assert f"(cannot be used: {message})" in listed(name)
    assert methods.parse_method("maple_la_cpt").loss == ("la",)


def test_a_module_serves_several_names_whatever_is_wrong_with_one_of_them(installed: Installer) -> None:
    installed(WIDE, {"wdie": "my_losses", "wide": "my_losses"})
    with pytest.raises(ConfigError, match="it registers 'wide', not 'wdie'"):
        build(["wdie"], {})
    assert works()


def test_two_packages_with_one_name_are_both_named(installed: Installer) -> None:
    installed(WIDE, {"wide": "my_losses"})
    installed(WIDE, {"wide": "theirs"}, module="theirs", name="theirs")
    with pytest.raises(ConfigError, match=r"of (my-losses|theirs) 1.0 and (my-losses|theirs) 1.0 .* several packages"):
        build(["wide"], {})


def test_an_unknown_name_is_compared_with_those_of_other_packages(installed: Installer) -> None:
    installed("", {"wide": "my_losses"})
    with pytest.raises(ConfigError, match="did you mean 'wide'"):
        build(["wdie"], {})
    with pytest.raises(ConfigError, match=r"nearest: 'maple_wide'; .*docs/extending.md"):
        methods.parse_method("maple_wdie")


def test_where_torch_is_missing_the_name_is_known_and_listed(installed: Installer) -> None:
    folder = installed(WIDE, {"wide": "my_losses"})
    code = (
        f"import sys; sys.path[:0] = [{str(methods.PACKAGE.parent)!r}, {str(folder)!r}]\n"
        "from cpt_plugin.cli import listing\n"
        "print(*listing.lines(), listing.parse_method('coop_wide').name, sep='\\n')"
    )
    done = subprocess.run([sys.executable, "-S", "-s", "-c", code], capture_output=True, text=True, check=True)
    assert "(of my-losses 1.0; described where torch is installed)" in done.stdout
    assert done.stdout.endswith("coop_wide\n")


def test_the_runner_takes_the_name_and_its_keys(installed: Installer) -> None:
    from cpt_plugin.runner.arguments import regularizer_names
    from cpt_plugin.runner.session import own_defaults

    installed(WIDE, {"wide": "my_losses"})
    assert regularizer_names("wide,cpt") == ("wide", "cpt")
    assert own_defaults()["WIDE.WEIGHT"] == 0.1
    with pytest.raises(ConfigError, match="'wid' is unknown; did you mean 'wide'"):
        regularizer_names("wid")
