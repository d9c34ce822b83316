"""The runner's options: what each takes, what it refuses and with which words, what CPTHook gets."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from cpt_plugin.cli.main import main
from cpt_plugin.errors import ConfigError, HookError
from cpt_plugin.hook import CPTHook
from cpt_plugin.hook.features import StepView
from cpt_plugin.runner.arguments import parse_words
from cpt_plugin.runner.options import OPTIONS, FromTrainer, options_help

GOOD = """\
import torch

def features(step):
    return step.text[0], step.image[0]

def labels(step):
    return step.inputs[1]

def broken(step):
    a = 1
    return step.text[a]

def divides(step):
    1 / 0

def two(step, more): ...

NUMBER = 3
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working folder with a script, a file of functions and a file of features."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.py").write_text("")
    (tmp_path / "mine.py").write_text(GOOD)
    torch.save(torch.eye(3), tmp_path / "good.pt")
    before = set(sys.modules)
    yield tmp_path
    for name in [name for name in sys.modules if name not in before and name.startswith("_cpt_plugin_user")]:
        del sys.modules[name]


def arguments_of_the_hook(*words: str) -> dict[str, Any]:
    return parse_words([*words, "train.py"]).hook_arguments()


def step(inputs: tuple[Any, ...] = ()) -> StepView:
    return StepView([torch.ones(3, 2)], [torch.ones(4, 2)], inputs, {}, torch.ones(4, 3))


def test_nothing_given_is_nothing_passed():
    assert arguments_of_the_hook() == {}
    assert arguments_of_the_hook("--regularizers", "none") == {}


def test_every_option_but_the_regularizers_sets_an_argument_of_its_own():
    arguments = [option.argument for option in OPTIONS.values() if option.name != "--regularizers"]
    assert len({*arguments}) == len(arguments) == len(OPTIONS) - 1
    assert all(arguments)


@pytest.mark.parametrize(
    ("words", "argument", "value"),
    [
        ("--accumulation 4", "accumulation", 4),
        ("--accumulation=1", "accumulation", 1),
        ("--forwards first", "forwards", "first"),
        ("--forwards each", "forwards", "each"),
        ("--backward first", "backward", "first"),
        ("--backward second", "backward", "second"),
        ("--backward once", "backward", "once"),
        ("--text-module encoders.0.text", "text", "encoders.0.text"),
        ("--image-module clip_model.visual", "image", "clip_model.visual"),
        ("--class-names dm.dataset.names", "class_names", FromTrainer("--class-names", "dm.dataset.names")),
        ("--counts 16,9,4", "counts", [16, 9, 4]),
    ],
)
def test_values(words, argument, value):
    assert arguments_of_the_hook(*words.split()) == {argument: value}


@pytest.mark.parametrize("name", ["frozen-text", "prototypes"])
def test_features_from_a_file(name):
    given = arguments_of_the_hook(f"--{name}", "good.pt")
    assert list(given) == [name.replace("-", "_")]
    assert torch.equal(given[name.replace("-", "_")], torch.eye(3))


@pytest.mark.parametrize(("value", "found"), [({"a": 1}, "dict"), (torch.ones(3), r"a tensor of shape \(3,\)")])
def test_a_file_of_something_else_is_refused(folder, value, found):
    torch.save(value, folder / "bad.pt")
    with pytest.raises(ConfigError, match=rf"--frozen-text bad\.pt holds {found}: save one \(K, d\) tensor"):
        arguments_of_the_hook("--frozen-text", "bad.pt")


def test_a_file_that_is_no_tensor_at_all_is_refused():
    with pytest.raises(ConfigError, match=r"--frozen-text mine\.py cannot be read \(.*\): save one tensor"):
        arguments_of_the_hook("--frozen-text", "mine.py")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--accumulation two", "--accumulation is 'two', but must be a whole number of at least 1"),
        ("--accumulation 0", "--accumulation is '0', but must be"),
        ("--accumulation 1.5", "--accumulation is '1.5', but must be"),
        ("--accumulation -2", "--accumulation is '-2', but must be"),
        ("--forwards last", "--forwards is 'last', but must be each or first"),
        ("--backward twice", "--backward is 'twice', but must be once or first or second"),
        ("--counts 3,x", "--counts '3,x': 'x' is no whole number"),
        ("--text-module model/text", "--text-module 'model/text': give names with dots between them"),
        ("--image-module a..b", "--image-module 'a..b': give names"),
        ("--class-names model.", "--class-names 'model.': give names"),
        ("--features mine.py", r"--features 'mine.py': write FILE.py:function, e.g."),
        ("--features mine.py:", r"--features 'mine.py:': write FILE.py:function"),
        ("--features other.py:features", r"--features other.py:features: there is no file other.py in /"),
        ("--labels mine.py:a.b", r"--labels 'mine.py:a.b': write FILE.py:function"),
        ("--frozen-text none.pt", r"--frozen-text none.pt cannot be read \(no such file in /"),
    ],
)
def test_refusals_before_anything_is_imported(words, message, capsys):
    with pytest.raises(ConfigError, match=message):
        parse_words([*words.split(), "train.py"])
    assert main([*words.split(), "train.py"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


# -- functions -----------------------------------------------------------------------------------------------


def test_functions_of_one_file_share_a_module_of_a_private_name(folder):
    (folder / "mine.py").write_text("RUNS = []\nRUNS.append(1)\ndef f(step): return RUNS\ndef g(step): return RUNS\n")
    given = arguments_of_the_hook("--features", "mine.py:f", "--labels", "mine.py:g")
    assert given["features"](step()) is given["labels"](step())
    assert given["features"](step()) == [1]
    assert "mine" not in sys.modules


def test_a_function_gets_the_step_and_its_result_is_passed_on():
    given = arguments_of_the_hook("--features", "mine.py:features", "--labels", "mine.py:labels")
    now = step(inputs=("images", "labels"))
    text, image = given["features"](now)
    assert text is now.text[0]
    assert image is now.image[0]
    assert given["labels"](now) == "labels"
    assert repr(given["features"]) == "--features mine.py:features (line 3)"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("featurs", r"--features mine\.py:featurs: mine\.py has no 'featurs'; did you mean 'features'\?"),
        ("NUMBER", r"--features mine\.py:NUMBER is a int: name a function of one argument"),
        ("two", r"--features mine\.py:two must take one argument, the training step \(missing .* 'more'\)"),
    ],
)
def test_what_is_no_function_of_a_step_is_refused(name, message):
    with pytest.raises(ConfigError, match=message):
        arguments_of_the_hook("--features", f"mine.py:{name}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a = 1\nimport nothing_of_this_name\n", "line 2: ModuleNotFoundError: No module named 'nothing_of_this_name'"),
        ("def f(step):\n    return (\n", "line 2: SyntaxError: '\\(' was never closed"),
        ("def g():\n    raise ValueError('why')\n\ng()\n", "line 2: ValueError: why"),
        ("\n\nraise SystemExit\n", "line 3: SystemExit$"),
    ],
)
def test_a_file_that_fails_is_named_with_its_line(folder, text, message):
    (folder / "bad.py").write_text(text)
    for _ in range(2):  # the failed module is not kept
        with pytest.raises(ConfigError, match=rf"--labels bad\.py:f: bad\.py cannot be imported, {message}") as error:
            arguments_of_the_hook("--labels", "bad.py:f")
        assert "\n" not in str(error.value)


def test_a_file_without_the_ending_of_python_is_refused(folder):
    (folder / "bad.txt").write_text("")
    with pytest.raises(ConfigError, match=r"bad\.txt is no Python file: its name must end with \.py"):
        arguments_of_the_hook("--labels", "bad.txt:f")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("broken", r"--features mine\.py:broken failed in line 11: IndexError: list index out of range\. "
         r"What it was given: step\.text = \[\(3, 2\)\], step\.image = \[\(4, 2\)\]"),
        ("divides", r"failed in line 14: ZeroDivisionError"),
    ],
)  # fmt: skip
def test_a_function_that_fails_is_named_with_its_line(name, message):
    function = arguments_of_the_hook("--features", f"mine.py:{name}")["features"]
    with pytest.raises(HookError, match=message) as error:
        function(step())
    assert "\n" not in str(error.value)


def test_our_own_errors_pass_through_a_function(folder):
    (folder / "ours.py").write_text("from cpt_plugin.errors import HookError\ndef f(step): raise HookError('as it is')")
    with pytest.raises(HookError, match=r"^as it is$"):
        arguments_of_the_hook("--features", "ours.py:f")["features"](step())


def test_the_help_shows_every_option_in_lines_that_fit():
    text = options_help()
    assert max(map(len, text.splitlines())) <= 110
    assert [line.split()[0] for line in text.splitlines() if line.startswith("  --")] == list(OPTIONS)


@pytest.mark.parametrize(
    "words",
    [
        "--accumulation 2", "--forwards first", "--backward second", "--text-module a.b", "--image-module c",
        "--features mine.py:features --labels mine.py:labels", "--counts 3,2", "--frozen-text good.pt",
        "--prototypes good.pt",
    ],
)  # fmt: skip
def test_the_hook_knows_every_argument(words):
    CPTHook(regularizers=[], **arguments_of_the_hook(*words.split()))
