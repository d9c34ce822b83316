"""A local pool of worker processes: a worker that dies is noticed, replaced, and its task given to another once."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

WORKER = (sys.executable, "-m", "cpt_plugin.cli.worker")
ATTEMPTS = 2
_POLL_SECONDS = 0.05


@dataclass
class Task:
    """Runs that one worker does in this order, as the words of their commands; how often they were tried so far."""

    runs: list[list[str]]
    attempts: int = 0

    def is_to_repeat(self, answer: list[dict[str, Any]] | str) -> bool:
        """Whether its last attempt failed, in a way that another one may mend, and another one is left."""
        failed = isinstance(answer, str) or any("error" in one and not one["final"] for one in answer)
        return failed and self.attempts < ATTEMPTS


Report = Callable[[Task, list[dict[str, Any]] | str, bool], None]
"""Called, by one thread at a time, with a task and the outcomes of its runs (see ``cli.worker``), or a text saying what
happened to the worker; and with whether the task will be tried again."""


class Pool:
    """Processes that serve tasks until all are done or have failed twice."""

    def __init__(
        self,
        tasks: Sequence[Task],
        workers: int,
        report: Report,
        log: Path,
        command: Sequence[str] = WORKER,
        folder: Path | None = None,
    ) -> None:
        self._waiting, self._open = deque(tasks), len(tasks)
        self._report, self._log, self._command, self._folder = report, log, command, folder
        self._change = threading.Condition()
        self._stopped = False
        self._error: BaseException | None = None
        self.processes: dict[int, subprocess.Popen[str]] = {}
        self._threads = [
            threading.Thread(target=self._serve, args=(number,), daemon=True)
            for number in range(min(workers, len(tasks)))
        ]

    def run(self) -> None:
        """Do all tasks; an interruption ends the processes, whose runs can be resumed, and is passed on.

        So is an error of ``report``.
        """
        for thread in self._threads:
            thread.start()
        try:
            while not self._stopped and any(thread.is_alive() for thread in self._threads):
                time.sleep(_POLL_SECONDS)
        finally:
            with self._change:
                self._stopped = True
                self._change.notify_all()
            for process in list(self.processes.values()):
                process.kill()
                process.wait()
        if self._error is not None:
            raise self._error

    def _serve(self, number: int) -> None:
        try:
            self._work(number)
        except BaseException as error:
            with self._change:
                self._error, self._stopped = error, True
                self._change.notify_all()

    def _work(self, number: int) -> None:
        while (task := self._take()) is not None:
            task.attempts += 1
            answer = self._ask(number, task)
            with self._change:
                if self._stopped:
                    return
                if again := task.is_to_repeat(answer):
                    self._waiting.append(task)
                else:
                    self._open -= 1
                self._report(task, answer, again)
                self._change.notify_all()

    def _take(self) -> Task | None:
        """The next task; waits while others are at work whose tasks may come back."""
        with self._change:
            while not self._waiting and self._open and not self._stopped:
                self._change.wait()
            return self._waiting.popleft() if self._waiting and not self._stopped else None

    def _ask(self, number: int, task: Task) -> list[dict[str, Any]] | str:
        """Outcomes of the runs, or what the worker died of."""
        process = self.processes.get(number)
        if process is None or process.poll() is not None:  # it may have died after its last answer
            process = self._start(number)
        if process is None or process.stdin is None or process.stdout is None:
            return "stopped"
        try:
            process.stdin.write(json.dumps({"runs": task.runs}) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except OSError:
            line = ""
        if line.endswith("\n"):
            outcomes: list[dict[str, Any]] = json.loads(line)["outcomes"]
            return outcomes
        del self.processes[number]
        with contextlib.suppress(OSError):  # what a dead worker has not read is flushed again
            process.stdin.close()
        code = process.wait()
        how = f"was killed by signal {-code}" if code < 0 else f"ended with status {code}"
        return f"the worker process {process.pid} {how}; its log: {self._log}"

    def _start(self, number: int) -> subprocess.Popen[str] | None:
        """A new process, in a session of its own, so that an interruption reaches this process alone."""
        self._log.parent.mkdir(parents=True, exist_ok=True)
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        with self._change, self._log.open("a") as log:
            if self._stopped:
                return None
            self.processes[number] = subprocess.Popen(
                self._command, cwd=self._folder, env=environment, text=True, start_new_session=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
            )  # fmt: skip
            return self.processes[number]
