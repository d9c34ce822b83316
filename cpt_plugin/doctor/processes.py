"""Runs the questions of :mod:`probe`, each in a process of the Python that is looked at."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).resolve().parents[1]
TIMEOUT = 120.0
_POLL_SECONDS = 0.02
# With -c the current folder is the first on sys.path, as it is for `python train.py` and `python -m`.
_START = "import runpy, sys; del sys.argv[0]; runpy.run_path(sys.argv[0], run_name='__main__')"


@dataclass(frozen=True)
class Answer:
    """What a question brought back.

    Attributes:
        facts: by name; empty after a failure.
        failure: one line: the error of an import, or how the process ended; "" for none.
        module: the module that was not found, if that was the error.
    """

    facts: Mapping[str, Any] = field(default_factory=dict)
    failure: str = ""
    module: str = ""


def ask(
    python: str,
    topics: Sequence[str],
    timeout: float = TIMEOUT,
    jobs: int = 1,
    progress: Callable[[str], None] = lambda topic: None,
) -> dict[str, Answer]:
    """Answers to ``topics``, at most ``jobs`` of them in work at a time.

    Args:
        python: interpreter to look at.
        topics: names of the questions of :mod:`probe`.
        timeout: seconds after which a question is given up and its process ended.
        jobs: processes at a time.
        progress: called with each topic as its process starts.
    """
    waiting, running, answers = list(topics), list[_Process](), dict[str, Answer]()
    with tempfile.TemporaryDirectory(prefix="cpt-doctor-") as folder:
        try:
            while waiting or running:
                while waiting and len(running) < jobs:
                    progress(waiting[0])
                    running.append(_Process(python, waiting.pop(0), Path(folder)))
                for process in list(running):
                    answer = process.answer(timeout)
                    if answer is not None:
                        answers[process.topic] = answer
                        running.remove(process)
                time.sleep(_POLL_SECONDS)
        finally:
            for process in running:
                process.end()
    return {topic: answers[topic] for topic in topics}


class _Process:
    """One question on its way."""

    def __init__(self, python: str, topic: str, folder: Path) -> None:
        self.topic = topic
        self._file = folder / f"{topic}.json"
        self._errors = folder / f"{topic}.err"
        self._started = time.monotonic()
        self._process: subprocess.Popen[bytes] | None = None
        command = [python, "-c", _START, str(PACKAGE / "doctor" / "probe.py"), topic, str(self._file), str(PACKAGE)]
        try:
            with self._errors.open("wb") as errors:
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=errors,
                    start_new_session=True,
                )
        except OSError as error:
            self._refused = f"{python} cannot be started: {error.strerror}"

    def answer(self, timeout: float) -> Answer | None:
        """The answer, or None while it is not there yet."""
        if self._process is None:
            return Answer(failure=self._refused)
        if self._process.poll() is None:
            if time.monotonic() - self._started < timeout:
                return None
            self.end()
            return Answer(failure=f"no answer within {timeout:g} s")
        try:
            return Answer(**json.loads(self._file.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return Answer(failure=self._ending(self._process.returncode))

    def end(self) -> None:
        """Kill the process and all that it started."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def _ending(self, status: int) -> str:
        lines = self._errors.read_text(encoding="utf-8", errors="replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "")
        how = f"exit status {status}"
        if status < 0:
            with contextlib.suppress(ValueError):
                how = signal.Signals(-status).name
        return f"the process ended with {how}" + (f" ({last[:300]})" if last else "")
