"""`python -m cpt_plugin compare A B`: is one method better than another, and what may be claimed."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from cpt_plugin.cli.figures import FORMATS
from cpt_plugin.cli.results import put
from cpt_plugin.cli.words import Parser, parse_count, parse_seeds, typed_folder
from cpt_plugin.cli.writing import write_file
from cpt_plugin.config_identity import variant_name
from cpt_plugin.errors import ConfigError
from cpt_plugin.methods import find_repository, parse_dataset, parse_method, parse_tau
from cpt_plugin.protocols import BASE_TO_NEW, PROTOCOLS, parse_protocol
from cpt_plugin.results.compare import Comparison, Question, compare
from cpt_plugin.results.imported import MARK
from cpt_plugin.results.record import RunRecord
from cpt_plugin.results.runs import name_of

_PROG = "python -m cpt_plugin compare"
_EPILOG = f"""\
Each world (data set) counts once, by the mean over seeds of the paired difference A - B; the t-interval is over worlds.

examples:
  {_PROG} maple_cptb maple
  {_PROG} maple_cptb,maple_la maple output --metric H,tail --tau 0.06 --holm
  {_PROG} "maple_cpt (CPT.WEIGHT_CC=0)" maple_cpt --worlds shapes,shapes:colors:clean
  {_PROG} maple_cptb maple --and maple_la_cptb maple_la,maple_mix --holm

A variant is named as in tables: the method, then its KEY=VALUE pairs in parentheses."""


def build_parser() -> argparse.ArgumentParser:
    """The parser of the command."""
    parser = Parser(
        prog=_PROG,
        description="Paired differences between methods from records, and a sentence on what may be claimed.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("first", metavar="A[,A2,...]", help="the methods in question")
    parser.add_argument("second", metavar="B[,B2,...]", help="those that each of them is compared with")
    parser.add_argument("places", metavar="FOLDER", nargs="*", help="records: folders or .jsonl[.gz] (default: output)")
    parser.add_argument("--and", dest="groups", nargs=2, action="append", metavar=("A", "B"), help="compare these as "
                        "well, under the same correction; may be given several times")  # fmt: skip
    parser.add_argument("--metric", metavar="M[,M2,...]", help="H, base, new, all, mean, worst, head, mid, tail, many, "
                        "medium, few, balanced_accuracy, macro_f1, g_mean, ece, or a target's name (default: the "
                        "protocol's headline)")  # fmt: skip
    parser.add_argument("--worlds", metavar="W[,W2,...]", help="data sets expected (default: those that occur)")
    parser.add_argument("--seeds", metavar="N[,N2,...]", help="seeds expected (default: those that occur)")
    parser.add_argument("--tau", metavar="T[,T2,...]", help="imbalance ratios (default: each one that occurs)")
    parser.add_argument("--protocol", default=BASE_TO_NEW, help=f"{', '.join(PROTOCOLS)} (default: {BASE_TO_NEW})")
    correction = parser.add_mutually_exclusive_group()
    correction.add_argument("--bonferroni", metavar="N", nargs="?", const="", help="correct p-values and intervals "
                            "for N comparisons (default: those made)")  # fmt: skip
    correction.add_argument("--holm", action="store_true", help="correct the p-values by Holm's method")
    form = parser.add_mutually_exclusive_group()
    for name in ("markdown", "csv"):
        form.add_argument(f"--{name}", dest="form", action="store_const", const=name, default="terminal")
    parser.add_argument("-o", "--output", metavar="FILE", help="default: standard output")
    parser.add_argument("--figure", metavar="FILE", help="draw the intervals as well: a .png or .pdf")
    return parser


def main(words: Sequence[str]) -> int:
    """Carry out ``compare ...``; returns the exit status.

    Raises:
        ConfigError: an unknown method, data set, metric or option.
        RecordError: records that are missing, damaged, or must not be mixed.
    """
    from cpt_plugin.results.compare_text import RENDERERS
    from cpt_plugin.results.places import load_all

    given = parse(words)
    drawn = _drawn(given.figure)
    places = [typed_folder(word, word) for word in given.places or [find_repository() / "output"]]
    said: list[str] = []
    records = load_all(places, imported=said)
    print("\n".join(said), file=sys.stderr, end="\n" * bool(said))
    comparison = answer(given, records)
    put(RENDERERS[given.form](comparison), given.output)
    if drawn is not None:
        from cpt_plugin.results.figures import differences, style

        write_file(drawn, style.to_bytes(differences.draw(comparison).figure, drawn.suffix[1:]))
    return 0


def _drawn(figure: str | None) -> Path | None:
    """The file of the figure; raises ConfigError for a form that figures do not have."""
    if figure is None:
        return None
    path = typed_folder(figure, figure)
    if path.suffix[1:] not in FORMATS:
        raise ConfigError(f"--figure {figure}: figures are written as {' or '.join(f'.{form}' for form in FORMATS)}")
    return path


def parse(words: Sequence[str]) -> argparse.Namespace:
    """The words of the command; raises ConfigError for wrong ones."""
    return build_parser().parse_intermixed_args(list(words))


def answer(given: argparse.Namespace, records: Sequence[RunRecord]) -> Comparison:
    """What the words ask for, from these records; raises as :func:`main` does."""
    groups = [
        [[method_name(name, records) for name in split_names(side)] for side in group]
        for group in ((given.first, given.second), *(given.groups or ()))
    ]
    pairs = [(first, second) for some, others in groups for second in others for first in some]
    if not pairs:
        raise ConfigError("nothing to compare: name a method for A and one for B")
    question = Question(
        tuple(dict.fromkeys(pairs)),
        _words(given.metric),
        parse_protocol(given.protocol),
        tuple(dict.fromkeys(map(parse_tau, _words(given.tau)))),
        tuple(dict.fromkeys(_world(name, records) for name in split_names(given.worlds or ""))),
        parse_seeds(given.seeds),
        "holm" if given.holm else "" if given.bonferroni is None else "bonferroni",
        parse_count("--bonferroni", given.bonferroni) if given.bonferroni else 0,
    )
    return compare(records, question)


def split_names(text: str) -> list[str]:
    """Names with commas between them; those in a variant's parentheses belong to the name."""
    return [name.strip() for name in re.split(r",(?![^(]*\))", text) if name.strip()]


def method_name(text: str, records: Iterable[RunRecord]) -> str:
    """A method's name in the form of tables; foreign methods count where records have them.

    Raises ConfigError for one that neither the records nor this package know.
    """
    if text in {name_of(record) for record in records}:
        return text
    match = re.fullmatch(r"([^()\s]+)\s*(?:\((.*)\))?", text)
    if match is None:
        raise ConfigError(f"'{text}' is no method: give METHOD, or \"METHOD (KEY=VALUE,...)\" for a variant")
    method, options = match[1], match[2]
    if method not in {record.method for record in records}:
        method = parse_method(method).name
    if not options:
        return method
    pairs = [pair.partition("=") for pair in re.split(r",\s*(?=[A-Z][\w.]*=)", options.strip())]
    if wrong := [key for key, sign, _ in pairs if not sign]:
        raise ConfigError(f"'{text}': '{wrong[0]}' is no KEY=VALUE pair")
    return f"{method} ({variant_name({key.strip(): value.strip() for key, _, value in pairs})})"


def _words(text: str | None) -> tuple[str, ...]:
    return tuple(dict.fromkeys(word.strip() for word in (text or "").split(",") if word.strip()))


def _world(text: str, records: Iterable[RunRecord]) -> str:
    """A data set as records name it: some stand for an own file or split, which only the records know."""
    there = {record.dataset for record in records}
    return next((name for name in (text, f"{text} ({MARK})") if name in there), None) or parse_dataset(text)
