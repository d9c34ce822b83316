"""What is looked at, with what the probes brought back, and the commands that mend it."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cpt_plugin.doctor.processes import PACKAGE, Answer

ROOT = PACKAGE.parent
BOOTSTRAP = ROOT / "scripts" / "bootstrap.py"
RUN = ROOT / "scripts" / "run.sh"
OWN_PYTHON = ROOT / ".venv" / "bin" / "python"
PINS = ROOT / "constraints.txt"


@dataclass(frozen=True)
class Subject:
    """One Python on this machine, and the folders that its runs use.

    Attributes:
        root: data sets lie below it.
        output: records and checkpoints go below it.
        python: the interpreter.
        answers: of the probes, by topic.
        environment: variables that the runs see.
    """

    root: Path
    output: Path
    python: str = sys.executable
    answers: Mapping[str, Answer] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)

    def answer(self, topic: str) -> Answer:
        """The answer to a topic; a failure where it was not asked."""
        return self.answers.get(topic, Answer(failure="not looked at"))

    def facts(self, topic: str) -> Mapping[str, Any]:
        """Facts of a topic; empty when it failed."""
        return self.answer(topic).facts

    @property
    def versions(self) -> Mapping[str, str]:
        """Versions of the installed distributions, from their metadata."""
        return self.facts("packages").get("versions", {})

    def version_of(self, *names: str) -> str:
        """`NAME VERSION` of the first of these distributions that is installed; "" for none."""
        return next((f"{name} {self.versions[name]}" for name in names if name in self.versions), "")

    def pip(self, *requirements: str) -> str:
        """A command that installs into this Python, and leaves its torch as it is unless torch is asked for."""
        torch = self.versions.get("torch", "").split("+")[0]
        hold: list[str] = []
        if torch and not any(re.match("torch[=><]", word) for word in requirements):
            hold = [f"torch=={torch}"]
        elif PINS.is_file() and not any(word.startswith("torch==") for word in requirements):
            hold = ["-c", str(PINS)]
        return shlex.join([self.python, "-m", "pip", "install", *hold, *requirements])

    def pin(self, name: str) -> str:
        """`NAME==VERSION` from constraints.txt, or NAME alone outside a clone of the repository."""
        lines = PINS.read_text(encoding="utf-8").splitlines() if PINS.is_file() else []
        return next((line for line in lines if line.startswith(f"{name}==")), name)
