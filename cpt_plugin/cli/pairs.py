"""KEY VALUE pairs among the options of a command line, in any order; standard library only."""

from __future__ import annotations

import argparse
import functools
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from cpt_plugin.cli.keys import is_engine_key

_KEY = re.compile(r"[A-Z][A-Z0-9_]*(\.[A-Z0-9_]+)+")
_NUMBER = re.compile(r"-(\d|\.\d|inf$|nan$)")


class PairParser(argparse.ArgumentParser):
    """A parser for ``[WORD ...] [KEY VALUE ...]`` with options before, between and after all of these.

    The pairs are its positional argument ``opts``; they come after as many words as it has others, or from the first
    word on that is surely a key. A pair's value is whatever follows its key (``-1``, ``--``), except an option of this
    parser: then the value is missing, and ``opts`` ends with the key. A ``--`` in another place says that no options
    follow.
    """

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """As argparse's; the words that are no options stand in order, wherever the options are."""
        words, options, pairs = _split(self, list(sys.argv[1:] if args is None else args), "opts")
        given, unknown = super().parse_known_args([*words, *options], namespace)
        given.opts = pairs
        return given, unknown


@contextmanager
def pairs_anywhere() -> Iterator[None]:
    """Inside, parsers of the field take options before, between and after their pairs, as :class:`PairParser` does.

    These are the parsers of ``argparse`` with a positional argument of ``nargs=argparse.REMAINDER`` for the pairs,
    which by themselves take everything behind the first pair for pairs, and pairs behind an option with ``nargs="+"``
    for its values. Other parsers, and words without a key, are parsed as ever.
    """
    original = argparse.ArgumentParser.parse_known_args

    @functools.wraps(original)
    def parse_known_args(
        self: argparse.ArgumentParser, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[argparse.Namespace, list[str]]:
        given_words = list(sys.argv[1:] if args is None else args)
        name = _name_of_pairs(self)
        if name is None or not any(map(is_key, given_words)):
            return original(self, args, namespace)
        words, options, pairs = _split(self, given_words, name)
        given, unknown = original(self, [*words, *options], namespace)
        setattr(given, name, pairs)
        return given, unknown

    argparse.ArgumentParser.parse_known_args = parse_known_args  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        argparse.ArgumentParser.parse_known_args = original  # type: ignore[method-assign]


def _name_of_pairs(parser: argparse.ArgumentParser) -> str | None:
    """Where a parser of the field keeps its pairs; None for one whose positional arguments are others."""
    actions = parser._get_positional_actions()
    if not actions or actions[-1].nargs != argparse.REMAINDER or any(a.nargs is not None for a in actions[:-1]):
        return None
    return actions[-1].dest


def _split(parser: argparse.ArgumentParser, words: list[str], name: str) -> tuple[list[str], list[str], list[str]]:
    """Positional words, options with their values, and the pairs, which the parser calls `name`."""
    wanted = sum(action.dest != name for action in parser._get_positional_actions())
    positional: list[str] = []
    options: list[str] = []
    pairs: list[str] = []
    lacking: list[str] = []
    only_words = False
    while words:
        word = words.pop(0)
        if not only_words and word == "--":
            only_words = True
        elif not only_words and (action := _option(parser, word)) is not None:
            options.append(word)
            for _ in range(0 if "=" in word else _number_of_values(parser, action, words)):
                options.append(words.pop(0))
        elif not only_words and _looks_like_an_option(word):
            options.append(word)
        elif len(positional) < wanted and not is_key(word):
            positional.append(word)
        elif word == name and not pairs:  # what the field calls them
            continue
        elif words and (only_words or _option(parser, words[0]) is None):
            pairs += [word, words.pop(0)]
        else:
            lacking.append(word)
    return positional, options, pairs + lacking[:1]


def _option(parser: argparse.ArgumentParser, word: str) -> argparse.Action | None:
    """The option that a word is, also one with ``=VALUE`` and, where the parser takes them, a shortened one."""
    name = word.partition("=")[0]
    known = parser._option_string_actions
    if name in known or not (parser.allow_abbrev and name.startswith("--") and len(name) > 2):
        return known.get(name)
    return next((known[full] for full in known if full.startswith(name)), None)


def _number_of_values(parser: argparse.ArgumentParser, action: argparse.Action, following: Sequence[str]) -> int:
    nargs: Any = action.nargs
    if nargs is None or isinstance(nargs, int):
        return min(1 if nargs is None else nargs, len(following))
    free = 0
    for word in following[:1] if nargs == argparse.OPTIONAL else following:
        if _option(parser, word) is not None or _looks_like_an_option(word) or word == "--" or is_key(word):
            break
        free += 1
    return free


def is_key(word: str) -> bool:
    """Whether a word is surely a configuration key: capitals with dots, or a key of the engine without."""
    return _KEY.fullmatch(word) is not None or is_engine_key(word)


def _looks_like_an_option(word: str) -> bool:
    return len(word) > 1 and word[0] == "-" and word != "--" and " " not in word and not _NUMBER.match(word)
