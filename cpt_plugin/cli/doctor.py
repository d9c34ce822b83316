"""`python -m cpt_plugin doctor`: what is wrong here, and how to mend it; standard library only."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict

from cpt_plugin.cli.console import with_controls
from cpt_plugin.cli.words import Parser, data_root, typed_folder
from cpt_plugin.doctor import machine, materials, packages, processes, report, toolkits
from cpt_plugin.doctor.report import NOTE, Finding
from cpt_plugin.doctor.subject import ROOT, Subject
from cpt_plugin.errors import ConfigError, CPTError

_FIRST_TOPICS = ("packages", "torch")
_TORCH_TOPICS = ("torchvision", "torchvision_repaired", "clip", "faiss", "toolkit", "determinism")
_DASSL_TOPICS = ("dassl", "dassl_repaired")
_Check = Callable[[Subject], Finding | Iterable[Finding] | None]
_CHECKS: tuple[_Check, ...] = (*packages.CHECKS, *toolkits.CHECKS, *machine.CHECKS, *materials.CHECKS)
_CHECKS_WITHOUT_PYTHON: tuple[_Check, ...] = (packages.python, *materials.CHECKS)


def build_parser(prog: str) -> argparse.ArgumentParser:
    """The parser of the command's options."""
    parser = Parser(
        prog=prog,
        usage=f"{prog} [options] [METHOD DATASET TAU ...]",
        description="Look at Python, its packages, the machine, data and weights; say what is wrong and how to mend\n"
        "it. Nothing is changed. Lines begin with ok, note (hinders no run) or FIX.\n"
        "The words of a run (METHOD DATASET TAU and its options) are looked at too: would that run begin?",
        epilog="exit status: 0 when nothing needs fixing, 1 otherwise, 2 for wrong options",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--json", action="store_true", help="everything that was found, for a bug report")
    parser.add_argument("--python", default=sys.executable, metavar="FILE", help="what to look at (default: this)")
    parser.add_argument("--root", metavar="FOLDER", help="image folders (default: $DATA_ROOT, else data)")
    parser.add_argument("--output", metavar="FOLDER", help="records and checkpoints (default: output)")
    seconds = f"patience with each import (default: {processes.TIMEOUT:g})"
    parser.add_argument("--timeout", type=float, default=processes.TIMEOUT, metavar="SECONDS", help=seconds)
    return parser


def doctor(words: Sequence[str], prog: str) -> int:
    """Carry out the command; returns its exit status.

    Raises:
        ConfigError: wrong options.
    """
    parser = build_parser(prog)
    given, command = parser.parse_known_args(list(words))
    if command and command[0].startswith("-"):
        parser.error(f"unrecognized arguments: {' '.join(command)}")
    if not given.timeout > 0:
        raise ConfigError(f"--timeout is '{given.timeout:g}', but must be a number of seconds above 0")
    subject = look(given)
    findings = diagnose(subject)
    if command:
        findings.append(materials.run_command(subject, command))
    if given.json:
        facts = {topic: asdict(answer) for topic, answer in subject.answers.items()}
        print(json.dumps(report.as_json(findings, facts), indent=2))
    else:
        terminal = sys.stdout.isatty()
        width = shutil.get_terminal_size().columns if terminal else None
        color = terminal and not os.environ.get("NO_COLOR")
        print("\n".join(report.lines(findings, width, color)), file=with_controls(sys.stdout))
    return report.exit_status(findings)


def look(given: argparse.Namespace) -> Subject:
    """Ask the probes about a Python; what imports torch only once torch is known to work."""
    python = shutil.which(given.python) or given.python
    jobs = max(1, min(4, os.cpu_count() or 1))
    try:
        answers = processes.ask(python, _FIRST_TOPICS, given.timeout, jobs, _say)
        if answers["packages"].facts and answers["torch"].facts:
            has_dassl = answers["packages"].facts["origins"]["dassl"]
            topics = _TORCH_TOPICS + (_DASSL_TOPICS if has_dassl else ())
            answers |= processes.ask(python, topics, given.timeout, jobs, _say)
    finally:
        _say("")
    return Subject(
        root=data_root(given.root, ROOT),
        output=typed_folder(given.output, ROOT / "output"),
        python=python,
        answers=answers,
        environment=dict(os.environ),
    )


def diagnose(subject: Subject) -> list[Finding]:
    """All findings; a check that fails itself is one, and does not end the others."""
    findings: list[Finding] = []
    for check in _CHECKS if subject.facts("packages") else _CHECKS_WITHOUT_PYTHON:
        try:
            found = check(subject)
            findings.extend([found] if isinstance(found, Finding) else found or ())
        except Exception as error:
            please = "" if isinstance(error, CPTError) else "; please report it"
            text = f"this could not be looked at ({type(error).__name__}: {error}){please}"
            findings.append(Finding("doctor", NOTE, check.__name__, text))
    return findings


def _say(topic: str) -> None:
    """Show on a terminal what is looked at; the empty topic clears the line."""
    if sys.stderr.isatty():
        line = f"looking at {topic} ..." if topic else ""
        print(f"\r\033[K{line}", end="", file=with_controls(sys.stderr), flush=True)
