"""What the runner takes before the script: one table, from which parsing, help and CPTHook's arguments come."""

from __future__ import annotations

import keyword
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cpt_plugin._names import hint
from cpt_plugin.errors import ConfigError
from cpt_plugin.runner.functions import FunctionPlace, split_place

NONE = "none"
_INDENT, _WIDTH = 27, 110


def _unchanged(name: str, value: Any) -> Any:
    return value


@dataclass(frozen=True)
class Option:
    """One option of the runner.

    name, metavar, line: as the help shows them.
    read: (name, text) -> value, at once, without torch or the script's packages; raises ConfigError.
    load: (name, value) -> what CPTHook takes, when the process is prepared and before the script runs; the same.
    argument: the keyword of CPTHook that it sets; "" for none.
    """

    name: str
    metavar: str
    line: str
    read: Callable[[str, str], Any]
    load: Callable[[str, Any], Any] = _unchanged
    argument: str = ""


@dataclass(frozen=True)
class FromTrainer:
    """A value that only a built trainer has: ``trainer.<path>``."""

    name: str
    path: str

    def of(self, trainer: Any) -> Any:
        """The attribute of ``trainer``; raises ConfigError, naming the first part of the path that is missing."""
        value, so_far = trainer, type(trainer).__name__
        for part in self.path.split("."):
            try:
                value = getattr(value, part)
            except AttributeError:
                near = hint(part, [key for key in dir(value) if not key.startswith("__")], cutoff=0.5)
                suggestion = f"; {near}" if near.startswith("did you mean") else ""
                raise ConfigError(f"{self.name} {self.path}: {so_far} has no attribute {part!r}{suggestion}") from None
            so_far = f"{so_far}.{part}"
        return value

    def names_of(self, trainer: Any) -> list[str]:
        """The attribute as a list of names; raises ConfigError where it holds anything else."""
        found = self.of(trainer)
        if isinstance(found, Mapping | str) or not hasattr(found, "__iter__"):
            raise ConfigError(f"{self.name} {self.path} is a {type(found).__name__}: name a list of the K class names")
        names = list(found)
        wrong = next((value for value in names if not isinstance(value, str)), None)
        if wrong is not None or not names:
            holds = "is empty" if not names else f"holds a {type(wrong).__name__}"
            raise ConfigError(f"{self.name} {self.path} {holds}: name a list of the K class names")
        return names


def _text(name: str, text: str) -> str:
    return text


def _file(name: str, text: str) -> Path:
    path = Path(text)
    if not path.is_file():
        raise ConfigError(f"{name} {text} cannot be read (no such file in {Path.cwd()}): give a file")
    return path


def _place(name: str, text: str) -> FunctionPlace:
    return split_place(name, text)


def _path(name: str, text: str) -> str:
    if not all((part.isidentifier() and not keyword.iskeyword(part)) or part.isdecimal() for part in text.split(".")):
        raise ConfigError(f"{name} {text!r}: give names with dots between them, e.g. model.prompt_learner")
    return text


def _attribute(name: str, text: str) -> FromTrainer:
    return FromTrainer(name, _path(name, text).removeprefix("trainer."))


def _whole_number(name: str, text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", text) or int(text) < 1:
        raise ConfigError(f"{name} is {text!r}, but must be a whole number of at least 1")
    return int(text)


def _whole_numbers(name: str, text: str) -> list[int]:
    words = [word.strip() for word in text.split(",")]
    wrong = next((word for word in words if not re.fullmatch(r"[0-9]{1,9}", word)), None)
    if wrong is not None:
        raise ConfigError(f"{name} {text!r}: {wrong!r} is no whole number; give one for each class, e.g. 16,9,4")
    return [int(word) for word in words]


def _choice(*possible: str) -> Callable[[str, str], str]:
    def read(name: str, text: str) -> str:
        if text not in possible:
            raise ConfigError(f"{name} is {text!r}, but must be {' or '.join(possible)}")
        return text

    return read


def _tensor(name: str, path: Path) -> Any:
    from cpt_plugin.runner.files import read_features

    return read_features(name, path)


def _function(name: str, place: FunctionPlace) -> Any:
    return place.load()


OPTIONS: Mapping[str, Option] = {
    option.name: option
    for option in (
        Option(
            "--regularizers",
            "NAMES",
            "what to add, e.g. cpt or cpt,npt (default: cpt); none: only the repairs that Dassl needs on current "
            "PyTorch, and the long tail",
            _text,
        ),
        Option(
            "--frozen-text",
            "FILE",
            "(K, d) features of the class names, saved with torch.save, where the trainer's CLIP cannot be loaded to "
            "compute them",
            _file,
            _tensor,
            "frozen_text",
        ),
        Option(
            "--prototypes",
            "FILE",
            "(K, d) means over each class of frozen CLIP's unit image features, saved likewise",
            _file,
            _tensor,
            "prototypes",
        ),
        Option(
            "--counts",
            "N,N,...",
            "training images of each class, where the trainer's data set does not say",
            _whole_numbers,
            argument="counts",
        ),
        Option(
            "--class-names",
            "ATTRIBUTE",
            "where the trainer has its K class names, e.g. model.prompt_learner.classnames (default: "
            "dm.dataset.classnames)",
            _attribute,
            argument="class_names",
        ),
        Option(
            "--text-module",
            "PATH",
            "the module of trainer.model that gives the text features (default: text_encoder)",
            _path,
            argument="text",
        ),
        Option(
            "--image-module",
            "PATH",
            "the module of trainer.model that gives the image features (default: image_encoder)",
            _path,
            argument="image",
        ),
        Option(
            "--features",
            "FILE.py:function",
            "a function of a training step that returns its (text, image) features, where those modules give something "
            "else",
            _place,
            _function,
            "features",
        ),
        Option(
            "--labels",
            "FILE.py:function",
            "a function of a training step that returns its (B,) labels, where they are not found",
            _place,
            _function,
            "labels",
        ),
        Option(
            "--accumulation",
            "N",
            "what the trainer divides its loss by, if it accumulates gradients over N steps",
            _whole_number,
            argument="accumulation",
        ),
        Option(
            "--forwards",
            "first",
            "regularize the first forward of a training step only (default: each)",
            _choice("each", "first"),
            argument="forwards",
        ),
        Option(
            "--backward",
            "first|second",
            "regularize with the first backward pass, or the second, where a trainer has several (default: once)",
            _choice("once", "first", "second"),
            argument="backward",
        ),
    )
}
"""The runner's options by name, in the order of the help."""


def options_help() -> str:
    """The help's paragraph about the options that stand before the script."""
    paragraphs = []
    for option in OPTIONS.values():
        head = f"  {option.name} {option.metavar}"
        lines = textwrap.wrap(option.line, _WIDTH - _INDENT)
        first = f"{head:<{_INDENT}}{lines[0]}" if len(head) < _INDENT else f"{head}\n{' ' * _INDENT}{lines[0]}"
        paragraphs.append("\n".join([first, *(" " * _INDENT + line for line in lines[1:])]))
    return "\n".join(paragraphs)


def given_behind(words: Sequence[str]) -> str:
    """The first of the runner's options among the words behind a script; "" without one."""
    return next((name for word in words if (name := word.partition("=")[0]) in OPTIONS), "")
