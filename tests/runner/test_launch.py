"""The runner's command line, its refusals, and what a script sees; without Dassl."""

from __future__ import annotations

import importlib.util
import io
import os
import subprocess
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from cpt_plugin.cli.main import main
from cpt_plugin.errors import ConfigError, HookError
from cpt_plugin.runner import launch, session
from cpt_plugin.runner.arguments import fit_own_keys, is_script, parse_words
from cpt_plugin.runner.options import OPTIONS
from cpt_plugin.runner.session import own_defaults
from cpt_plugin.toolkit import old_checkpoints
from cpt_plugin.toolkit.embedded import logs

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty ``train.py`` in the working folder; what the runner does to the process is undone."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "argv", list(sys.argv))
    (tmp_path / "train.py").write_text("")
    return tmp_path / "train.py"


# -- arguments -----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("script")
def test_words_of_the_script_stay_as_they_are():
    theirs = ["--root", "data", "--regularizers", "theirs", "--help", "CPT.WEIGHT_ETF", "1"]
    arguments = parse_words(["train.py", *theirs])
    assert (arguments.script, list(arguments.words)) == ("train.py", theirs)
    assert (arguments.regularizers, arguments.options) == (("cpt",), {})


@pytest.mark.usefixtures("script")
@pytest.mark.parametrize("words", [["--regularizers", "none"], ["--regularizers=none"]])
def test_options_of_the_runner(words):
    arguments = parse_words([*words, "--accumulation", "2", "train.py", "--seed", "1"])
    assert arguments.regularizers == ()
    assert arguments.options == {"--accumulation": 2}
    assert arguments.words == ("--seed", "1")


@pytest.mark.usefixtures("script")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--regularizer", "cpt", "train.py"], "unknown option '--regularizer' .* nearest: '--regularizers'"),
        (["--regularizers"], "--regularizers needs a value, and after it the script"),
        (["--regularizers", "cpt"], "no script is given"),
        (["--regularizers", "ctp", "train.py"], "'ctp' is unknown; did you mean 'cpt'"),
        (["--regularizers", "cpt,none", "train.py"], "'none' is unknown"),
        (["--regularizers", "", "train.py"], "'' is unknown"),
        (["--regularizers", "cpt,cpt", "train.py"], "names 'cpt' twice"),
        (
            ["trane.py", "--seed", "1"],
            r"there is no script trane\.py in /.*: run this in the folder.*; did you mean train\.py\?",
        ),
        (["--regularizers", "train.py", "--seed", "1"], r"'--seed' .* --regularizers took train\.py for its value"),
        (["--features", "--labels", "f.py:g", "train.py"], "--features needs a value"),
        (["--frozen-text", "missing.pt", "train.py"], r"--frozen-text missing\.pt cannot be read"),
    ],
)
def test_refusals_are_one_line_and_status_2(words, message, capsys):
    assert main(words) == 2
    line = capsys.readouterr().err
    assert line.startswith("error: ")
    assert line.count("\n") == 1
    with pytest.raises(ConfigError, match=message):
        launch.launch(words)


@pytest.mark.usefixtures("script")
def test_which_first_words_mean_a_script():
    (Path("tool")).write_text("")
    assert all(is_script(word) for word in ("train.py", "../train.py", "missing.py", "tool", "--frozen-text"))
    assert not any(is_script(word) for word in ("run", "list", "rnu", "missing"))


def test_help_names_the_runner(capsys):
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert "train.py <its usual arguments> CPT.WEIGHT_ETF 0.25 DATASET.IMBALANCE_TAU 0.25" in text
    for option in OPTIONS.values():
        assert f"  {option.name} {option.metavar}" in text
        assert option.line.split("(default")[0].split()[-1] in text


def test_a_wrong_command_is_still_a_wrong_command(capsys):
    assert main(["rnu"]) == 2
    assert "unknown command 'rnu'; nearest: 'run'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "fitted"),
    [
        (["--x", "1", "CPT.WEIGHT_ETF", "1"], ["--x", "1", "CPT.WEIGHT_ETF", "1.0"]),
        (["CPT.WEIGHT_ETF", "2.5e-1"], ["CPT.WEIGHT_ETF", "0.25"]),
        (["CPT.NUM_CLUSTERS", "3", "OPTIM.LR", "1"], ["CPT.NUM_CLUSTERS", "3", "OPTIM.LR", "1"]),
        (["DATASET.IMBALANCE_TAU", "1", "DATASET.NUM_SHOTS", "4"],
         ["DATASET.IMBALANCE_TAU", "1.0", "DATASET.NUM_SHOTS", "4"]),
        (["--output-dir", "CPT.d/x"], ["--output-dir", "CPT.d/x"]),
    ],
)  # fmt: skip
def test_whole_numbers_of_our_keys(words, fitted):
    assert fit_own_keys(words, own_defaults()) == fitted


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["CPT.WEIGHT_EFT", "1"], "unknown key CPT.WEIGHT_EFT; did you mean 'CPT.WEIGHT_ETF'"),
        (["CPT.WEIGHT_ETF"], "CPT.WEIGHT_ETF has no value"),
        (["CPT.WEIGHT_ETF", "much"], "CPT.WEIGHT_ETF is 'much', but must be a number"),
    ],
)
def test_our_keys_are_checked_before_the_script_runs(words, message):
    with pytest.raises(ConfigError, match=message):
        fit_own_keys(words, own_defaults())


# -- Dassl and files -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", [None, ModuleSpec("dassl", None, origin=None)])
def test_without_dassl_the_remedy_is_named(monkeypatch, spec):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    with pytest.raises(ConfigError, match=r"PYTHONPATH, or run `pip install -e \. --no-build-isolation --no-deps`"):
        launch.require_dassl()


def test_a_command_without_dassl_ends_with_one_line(tmp_path):
    (tmp_path / "train.py").write_text("import dassl")
    code = (
        "import sys, importlib.util as util; find = util.find_spec\n"
        "util.find_spec = lambda name, *more: None if name == 'dassl' else find(name, *more)\n"
        "from cpt_plugin.cli.main import main; sys.exit(main(['train.py', '--seed', '1']))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CPT_TOOLKIT": "embedded"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: Dassl is not importable: clone https://github.com/KaiyangZhou/Dassl.pytorch")
    assert done.stderr.count("\n") == 1


# -- the process of the script -------------------------------------------------------------------------------


def test_the_path_is_that_of_python_script(script, monkeypatch):
    other = script.parent / "elsewhere"
    monkeypatch.setattr(sys, "path", ["put there by python -m", str(ROOT), str(other), str(ROOT / "tests" / "..")])
    launch.enter_folder_of("train.py")
    assert sys.path == [str(script.parent), str(other)]


def test_an_installed_package_stays_on_the_path(script, monkeypatch):
    """Also where somebody else has installed a package ``trainers`` beside it."""
    site = script.parent / "site-packages"
    for name in ("cpt_plugin", "trainers", "cpt_plugin-0.1.dist-info"):
        (site / name).mkdir(parents=True)
    monkeypatch.setattr(sys, "path", ["", str(site)])
    launch.enter_folder_of("train.py")
    assert sys.path == [str(script.parent), str(site)]


def test_packages_without_init_are_found_before_those_of_any_checkout(tmp_path):
    """Another checkout on the path, and parts of this package that are imported later."""
    other, theirs = tmp_path / "checkout", tmp_path / "theirs"
    for folder in (other / "cpt_plugin", other / "trainers", other / "datasets", theirs / "trainers"):
        folder.mkdir(parents=True)
        if folder.parent == other:
            (folder / "__init__.py").write_text("raise RuntimeError('of a checkout')")
    (theirs / "trainers" / "mine.py").write_text("NAME = 'theirs'")
    (theirs / "train.py").write_text(
        "import importlib.util, sys, trainers.mine\n"
        "print(trainers.mine.NAME, importlib.util.find_spec('datasets') is None)\n"
        "assert 'cpt_plugin.doctor' not in sys.modules\n"
        "import cpt_plugin.doctor\n"
        "print(cpt_plugin.doctor.__name__)\n"
    )
    code = (
        "import sys; from cpt_plugin.runner import launch\n"
        "launch._prepare = lambda arguments: {}\n"
        "sys.exit(launch.launch(['train.py']))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(other)])}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=theirs, env=environment, capture_output=True, text=True, timeout=120
    )
    assert (done.stdout, done.stderr) == ("theirs True\ncpt_plugin.doctor\n", "")


@pytest.fixture
def without_dassl(monkeypatch: pytest.MonkeyPatch) -> None:
    """The launch of a script as it is, its arguments passed on, nothing of Dassl touched."""

    def prepare(arguments):
        sys.argv = [arguments.script, *arguments.words]
        return arguments.hook_arguments()

    monkeypatch.setattr(launch, "_prepare", prepare)


@pytest.mark.usefixtures("without_dassl")
def test_the_script_runs_as_main_with_its_own_arguments_and_packages(script, capfd):
    (script.parent / "trainers").mkdir()
    (script.parent / "trainers" / "__init__.py").write_text("MINE = 'theirs'")
    script.write_text(
        "import sys, trainers\n"
        "if __name__ == '__main__': print(__file__, sys.argv, trainers.MINE, 'datasets' in sys.modules)"
    )
    before = {name: sys.modules.pop(name, None) for name in ("trainers", "datasets")}
    try:
        assert launch.launch(["train.py", "--seed", "1"]) == 0
    finally:
        sys.modules.pop("trainers", None)
        sys.modules.update({name: module for name, module in before.items() if module is not None})
    assert capfd.readouterr().out == "train.py ['train.py', '--seed', '1'] theirs False\n"


@pytest.mark.usefixtures("without_dassl")
def test_an_error_of_the_script_comes_out_as_without_the_runner(script, capfd):
    script.write_text("def f():\n    raise KeyError('theirs')\nf()\n")
    assert launch.launch(["train.py"]) == 1
    ours = capfd.readouterr().err
    alone = subprocess.run([sys.executable, "train.py"], cwd=script.parent, capture_output=True, text=True)
    assert alone.stderr.replace(f"{script.parent}/", "") == ours
    assert "cpt_plugin" not in ours


@pytest.mark.usefixtures("without_dassl")
def test_the_script_chooses_its_exit_status(script):
    script.write_text("import sys; sys.exit(5)")
    with pytest.raises(SystemExit) as stopped:
        launch.launch(["train.py"])
    assert stopped.value.code == 5


@pytest.mark.usefixtures("without_dassl")
@pytest.mark.parametrize(("words", "note"), [(["--features=f.py:g"], True), (["--theirs"], False)])
def test_an_option_of_the_runner_behind_the_script_is_pointed_out(script, words, note, capfd):
    script.write_text("import argparse; argparse.ArgumentParser().parse_args()")
    with pytest.raises(SystemExit) as stopped:
        launch.launch(["train.py", *words])
    last = capfd.readouterr().err.splitlines()[-1]
    assert stopped.value.code == 2
    assert (last == "note: --features is an option of the runner: give it before train.py") == note


@pytest.mark.usefixtures("without_dassl")
@pytest.mark.parametrize(
    ("message", "told"),
    [
        ("Give CPTHook(counts=[...]).", "Give CPTHook(counts=[...]). (in the runner --counts N,N,...)"),
        ("Give CPTHook(labels=f), in the runner --labels F.", "Give CPTHook(labels=f), in the runner --labels F."),
        ("features= returned (3, 4).", "features= returned (3, 4). (--features mine.py:f (line 2) was used)"),
        ("The features are accumulation.", "The features are accumulation."),
    ],
)
def test_remedies_of_the_hook_are_told_as_options_of_the_runner(script, message, told, capfd):
    (script.parent / "mine.py").write_text("\ndef f(step): ...")
    script.write_text(f"from cpt_plugin.errors import HookError\nraise HookError({message!r})")
    assert main(["--features", "mine.py:f", "train.py"]) == 2
    assert capfd.readouterr().err == f"error: {told}\n"


@pytest.mark.usefixtures("without_dassl")
def test_a_script_prints_what_it_likes_as_far_as_the_terminal_can_show_it(script, monkeypatch):
    script.write_text("import sys; old, sys.stdout = sys.stdout, None; old.write('\\x1b[32m7 ±2\\r'); old.close()")
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", terminal)
    assert main(["train.py"]) == 0
    assert terminal.buffer.getvalue() == b"\x1b[32m7+-2\r"


@pytest.mark.usefixtures("script")
def test_the_scripts_words_keep_their_order(monkeypatch):
    monkeypatch.setattr(launch, "require_dassl", lambda: None)
    monkeypatch.setattr(launch.os, "environ", dict(os.environ))
    monkeypatch.setattr(old_checkpoints, "install", lambda: None)
    monkeypatch.setattr(logs, "setup_logger", lambda: None)
    monkeypatch.setattr(session.Session, "install", lambda self: None)
    words = ["--seed", "1", "CPT.WEIGHT_ETF", "1", "--eval-only", "OPTIM.LR", "-1"]
    launch._prepare(parse_words(["train.py", *words]))
    assert sys.argv == ["train.py", "--seed", "1", "CPT.WEIGHT_ETF", "1.0", "--eval-only", "OPTIM.LR", "-1"]


FIELD = """
import argparse
parser = argparse.ArgumentParser()
parser.add_argument("--root", default="")
parser.add_argument("--source-domains", nargs="+")
parser.add_argument("opts", default=None, nargs=argparse.REMAINDER)
given = parser.parse_args()
print(given.root, given.source_domains, given.opts)
"""


@pytest.mark.usefixtures("without_dassl")
@pytest.mark.parametrize(
    "words",
    [
        "--root d DATASET.NUM_SHOTS 4 --source-domains a b",
        "--source-domains a b --root d DATASET.NUM_SHOTS 4",
        "--root d --source-domains a b DATASET.NUM_SHOTS 4",
    ],
)
def test_the_parser_of_the_script_loses_no_pair(words, script, capfd):
    script.write_text(FIELD)
    assert launch.launch(["train.py", *words.split()]) == 0
    assert capfd.readouterr().out == "d ['a', 'b'] ['DATASET.NUM_SHOTS', '4']\n"


@pytest.mark.usefixtures("without_dassl")
@pytest.mark.parametrize(
    "around",
    ["raise HookError('why')", "try:\n    raise HookError('why')\nexcept:\n    raise Exception('it failed')"],
)
def test_our_errors_are_one_line_even_where_a_script_replaces_them(script, around, capfd):
    script.write_text(f"from cpt_plugin.errors import HookError\n{around}\n")
    assert main(["train.py"]) == 2
    assert capfd.readouterr().err == "error: why\n"


def test_own_error_ends_in_a_circle():
    first, second = ValueError("a"), ValueError("b")
    first.__context__, second.__context__ = second, first
    assert launch.own_error(first) is None
    second.__cause__ = HookError("c")
    assert isinstance(launch.own_error(first), HookError)
