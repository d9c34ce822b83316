"""KEY VALUE pairs among the options of a command line, in any order; standard library only."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
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
        words, options, pairs = self._split(list(sys.argv[1:] if args is None else args))
        given, unknown = super().parse_known_args([*words, *options], namespace)
        given.opts = pairs
        return given, unknown

    def _split(self, words: list[str]) -> tuple[list[str], list[str], list[str]]:
        wanted = sum(action.dest != "opts" for action in self._get_positional_actions())
        positional: list[str] = []
        options: list[str] = []
        pairs: list[str] = []
        lacking: list[str] = []
        only_words = False
        while words:
            word = words.pop(0)
            if not only_words and word == "--":
                only_words = True
            elif not only_words and (action := self._option(word)) is not None:
                options.append(word)
                for _ in range(0 if "=" in word else self._number_of_values(action, words)):
                    options.append(words.pop(0))
            elif not only_words and _looks_like_an_option(word):
                options.append(word)
            elif len(positional) < wanted and not is_key(word):
                positional.append(word)
            elif word == "opts" and not pairs:  # what the field calls them
                continue
            elif words and (only_words or self._option(words[0]) is None):
                pairs += [word, words.pop(0)]
            else:
                lacking.append(word)
        return positional, options, pairs + lacking[:1]

    def _option(self, word: str) -> argparse.Action | None:
        """The option that a word is, also one with ``=VALUE`` and, where the parser takes them, a shortened one."""
        name = word.partition("=")[0]
        known = self._option_string_actions
        if name in known or not (self.allow_abbrev and name.startswith("--") and len(name) > 2):
            return known.get(name)
        return next((known[full] for full in known if full.startswith(name)), None)

    def _number_of_values(self, action: argparse.Action, following: Sequence[str]) -> int:
        nargs: Any = action.nargs
        if nargs is None or isinstance(nargs, int):
            return min(1 if nargs is None else nargs, len(following))
        free = 0
        for word in following[:1] if nargs == argparse.OPTIONAL else following:
            if self._option(word) is not None or _looks_like_an_option(word) or word == "--" or is_key(word):
                break
            free += 1
        return free


def is_key(word: str) -> bool:
    """Whether a word is surely a configuration key: capitals with dots, or a key of the engine without."""
    return _KEY.fullmatch(word) is not None or is_engine_key(word)


def pairs_last(words: Sequence[str]) -> list[str]:
    """The words of a script of the field, whose parser takes everything from the first pair on for pairs.

    Where options stand behind a pair, all pairs are moved to the end; otherwise nothing is changed.
    """
    pairs: list[str] = []
    others: list[str] = []
    rest = list(words)
    out_of_order = False
    while rest:
        word = rest.pop(0)
        if is_key(word) and rest:
            pairs += [word, rest.pop(0)]
        else:
            out_of_order |= bool(pairs) and _looks_like_an_option(word)
            others.append(word)
    return [*others, *pairs] if out_of_order else list(words)


def _looks_like_an_option(word: str) -> bool:
    return len(word) > 1 and word[0] == "-" and word != "--" and " " not in word and not _NUMBER.match(word)
