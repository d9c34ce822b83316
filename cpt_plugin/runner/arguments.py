"""What stands before the script on the runner's command line, and our own keys among what stands behind it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cpt_plugin._names import hint, nearest
from cpt_plugin.errors import ConfigError
from cpt_plugin.runner.options import NONE, OPTIONS

DASSL_NEEDS = "yacs gdown tabulate tqdm scipy scikit-learn tensorboard ftfy regex"


@dataclass(frozen=True)
class RunnerArguments:
    """One call of the runner: the script as typed, its own words untouched, the parts to add to its training.

    options: what was given before the script, by the name of the option, as :attr:`Option.read` returned it.
    """

    script: str
    words: tuple[str, ...]
    regularizers: tuple[str, ...]
    options: Mapping[str, Any]

    def hook_arguments(self) -> dict[str, Any]:
        """Arguments of CPTHook by keyword, only those that were given; raises ConfigError for what cannot be loaded.

        To be called when the process is prepared: the user's functions may import the packages of the script.
        """
        given = ((OPTIONS[name], value) for name, value in self.options.items())
        return {option.argument: option.load(option.name, value) for option, value in given if option.argument}


def is_script(word: str) -> bool:
    """Whether the first word of a command line means the runner rather than a command of this package."""
    return word.startswith("-") or word.endswith(".py") or Path(word).is_file()


def parse_words(words: Sequence[str]) -> RunnerArguments:
    """Split a command line into the runner's options, the script, and the script's words.

    Raises:
        ConfigError: an unknown option, one without a value or with an impossible one, no script, or a script that is
            not there.
    """
    rest, texts = list(words), {"--regularizers": "cpt"}
    while rest and rest[0].startswith("-"):
        name, equals, value = rest.pop(0).partition("=")
        if name not in OPTIONS:
            raise ConfigError(_unknown(name, texts))
        if not equals and (not rest or rest[0].startswith("--")):
            raise ConfigError(f"{name} needs a value, and after it the script, e.g. {name} ... train.py")
        texts[name] = value if equals else rest.pop(0)
    options = {name: OPTIONS[name].read(name, text) for name, text in texts.items()}
    regularizers = regularizer_names(options.pop("--regularizers"))
    if not rest:
        raise ConfigError("no script is given: name the train.py to run, after the runner's own options")
    script, *theirs = rest
    if not Path(script).is_file():
        raise ConfigError(
            f"there is no script {script} in {Path.cwd()}: run this in the folder of the repository, or give its path"
            f"{_similar_file(script)}"
        )
    return RunnerArguments(script, tuple(theirs), regularizers, options)


def _unknown(name: str, texts: Mapping[str, str]) -> str:
    taken = [f"{option} took {text} for its value; " for option, text in texts.items() if text.endswith(".py")]
    return (
        f"unknown option '{name}' before the script; nearest: '{nearest(name, OPTIONS)}'; {''.join(taken)}possible: "
        f"{', '.join(OPTIONS)} (python -m cpt_plugin --help); the script's own options stand behind it"
    )


def _similar_file(script: str) -> str:
    folder = Path(script).parent
    files = [path.name for path in folder.glob("*.py")] if folder.is_dir() else []
    near = nearest(Path(script).name, files, cutoff=0.6)
    return f"; did you mean {folder / near}?" if near else ""


def regularizer_names(text: str) -> tuple[str, ...]:
    """Names from ``cpt,npt``; ``none`` is no regularizer.

    Raises:
        ConfigError: a name is unknown or given twice.
    """
    from cpt_plugin import long_tail_losses
    from cpt_plugin.regularizers import REGISTRY, available

    if text == NONE:
        return ()
    names = tuple(part.strip() for part in text.split(","))
    known = available(names)
    for name in names:
        if name in long_tail_losses.available():
            raise ConfigError(
                f"--regularizers {text!r}: {name!r} replaces the cross-entropy, which the script computes itself, out "
                "of reach of a hook; change it there (cpt_plugin.functional has the loss), or use this repository's "
                "trainers"
            )
        if name not in known:
            raise ConfigError(f"--regularizers {text!r}: {name!r} is unknown; {hint(name, [*REGISTRY.names(), NONE])}")
        if names.count(name) > 1:
            raise ConfigError(f"--regularizers {text!r} names {name!r} twice: once is enough")
    return names


def fit_own_keys(words: Sequence[str], defaults: Mapping[str, Any]) -> list[str]:
    """The script's words, with whole numbers written as decimals (``1`` as ``1.0``) behind our keys that take those.

    ``yacs``, which reads them, takes a whole number for a mistake there. Words that are no key of ``defaults`` (dotted
    key -> default value) stay as they are, unless they belong to one of its nodes of ours.

    Raises:
        ConfigError: an unknown key of one of our nodes, or one whose value is missing or no number.
    """
    fitted = list(words)
    nodes = {key.partition(".")[0] for key in defaults} - {"DATASET"}
    for index, word in enumerate(words):
        if word not in defaults:
            if re.fullmatch(r"[A-Z0-9_]+\.[A-Z0-9_.]+", word) and word.partition(".")[0] in nodes:
                raise ConfigError(f"unknown key {word}; {hint(word, defaults)}")
            continue
        if index + 1 == len(words):
            raise ConfigError(f"{word} has no value: keys and values come in pairs")
        if isinstance(defaults[word], float):
            fitted[index + 1] = _decimal(word, words[index + 1])
    return fitted


def _decimal(key: str, value: str) -> str:
    try:
        return repr(float(value))
    except ValueError:
        raise ConfigError(f"{key} is {value!r}, but must be a number") from None
