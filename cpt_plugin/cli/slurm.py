"""Runs of a sweep as jobs of a Slurm cluster: submitted through submitit, watched with `squeue`.

The folder of the jobs is shared by the machine that submits and the nodes. ``<job>.json`` says which runs a job does
and in which file it will write how they ended: its answer. A job that has ended without an answer has died.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cpt_plugin.atomic import atomic_write_json
from cpt_plugin.cli.console import attended
from cpt_plugin.cli.pool import Report, Task
from cpt_plugin.cli.slurm_arguments import SlurmOptions
from cpt_plugin.cli.worker import do
from cpt_plugin.errors import ConfigError, CPTError

Submit = Callable[[list[list[str]], Path], str]
"""Submits a job: the runs, as the words of their commands, and the file of its answer. Returns its id."""
REMEDY = "pip install 'submitit>=1.5'"
ENDED = {
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "REVOKED",
    "TIMEOUT",
}  # fmt: skip
"""States after which a job does nothing any more; one that `squeue` has forgotten has ended as well."""
POLL_SECONDS = 5.0
PATIENCE_SECONDS, PATIENCE_COMPLETED_SECONDS = 10.0, 60.0
"""How long an answer may stay unseen after the end of its job: a network file system shows it late."""


class SubmissionError(CPTError):
    """The cluster takes no such job, or not now."""


@dataclass
class Job:
    """A submitted job; ``ended``: when it was first seen to have ended without an answer."""

    task: Task
    answer: Path
    ended: float | None = None


def serve(runs: list[list[str]], answer: str) -> None:
    """What a job does: the runs one after the other, then its answer; canceled, it ends at once, to be resumed."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def work() -> int:
        atomic_write_json(answer, {"outcomes": [do(words) for words in runs]})
        return 0

    attended(work)


def submitter(options: SlurmOptions, folder: Path, repository: Path) -> Submit:
    """What submits jobs that work in ``repository`` and leave their logs and answers in ``folder``.

    Raises:
        ConfigError: submitit is not installed, or this machine has no Slurm.
    """
    try:
        import submitit
    except ImportError as error:
        raise ConfigError(f"--launcher slurm needs the package submitit: {REMEDY}") from error
    if absent := [name for name in ("sbatch", "srun", "squeue") if shutil.which(name) is None]:
        raise ConfigError(f"--launcher slurm needs the command {absent[0]}: call this where jobs can be submitted")
    executor = submitit.SlurmExecutor(folder)
    executor.update_parameters(
        job_name="cpt-plugin",
        partition=options.partition or None,
        time=options.time or None,
        gpus_per_node=options.gpus or None,
        cpus_per_task=options.cpus,
        setup=[f"export OMP_NUM_THREADS={options.cpus}"],
        use_srun=False,
        additional_parameters={"chdir": str(repository), "no-requeue": True, **dict(options.extra)},
    )

    def submit(runs: list[list[str]], answer: Path) -> str:
        try:
            return str(executor.submit(serve, runs, str(answer)).job_id)
        except (submitit.core.utils.FailedJobError, submitit.core.utils.FailedSubmissionError) as error:
            raise SubmissionError(f"sbatch refuses a job: {str(error).strip()[-400:]}") from error

    return submit


class Jobs:
    """Jobs that do tasks until all are done or have failed twice, ``workers`` queued or running at once.

    A job of an earlier sweep on the same folder that is still queued or running is taken over, not submitted again.
    """

    def __init__(self, tasks: Sequence[Task], workers: int, report: Report, folder: Path, submit: Submit) -> None:
        self._waiting = deque(tasks)
        self._workers, self._report, self._folder, self._submit = workers, report, folder, submit
        self._silent = False
        self.running: dict[str, Job] = {}

    def run(self) -> None:
        """Do all tasks; when this is interrupted the jobs go on, and how to cancel them is said.

        Raises:
            SubmissionError: the cluster refuses a job while none is queued or running.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        try:
            self._take_over()
            while self._waiting or self.running:
                self._fill()
                time.sleep(POLL_SECONDS)
                self._look()
        finally:
            if self.running:
                ids = " ".join(self.running)
                print(
                    f"\njobs that are still queued or running: {ids}; they go on, and the same command finds them "
                    f"again; to cancel them: scancel {ids}",
                    file=sys.stderr,
                )

    def _take_over(self) -> None:
        alive = {job for job, state in (self._states() or {}).items() if state not in ENDED}
        for job in sorted(alive & {path.stem for path in self._folder.glob("*.json")}):
            note = json.loads((self._folder / f"{job}.json").read_text(encoding="utf-8"))
            for task in [task for task in self._waiting if task.runs == note["runs"]]:
                self._waiting.remove(task)
                task.attempts += 1
                self.running[job] = Job(task, self._folder / note["answer"])

    def _fill(self) -> None:
        """Submit as many as may be there at once; one that is refused is submitted later, when others have ended."""
        while self._waiting and len(self.running) < self._workers:
            task, answer = self._waiting[0], self._folder / f"answer-{uuid.uuid4().hex}.json"
            try:
                job = self._submit(task.runs, answer)
            except SubmissionError:
                if not self.running:
                    raise
                return
            self._waiting.popleft()
            task.attempts += 1
            self.running[job] = Job(task, answer)
            atomic_write_json(self._folder / f"{job}.json", {"runs": task.runs, "answer": answer.name})

    def _look(self) -> None:
        states = self._states()
        os.scandir(self._folder).close()  # so that a network file system looks again
        for number, job in list(self.running.items()):
            answer = self._answer(number, job, states)
            if answer is None:
                continue
            del self.running[number]
            if again := job.task.is_to_repeat(answer):
                self._waiting.append(job.task)
            self._report(job.task, answer, again)

    def _answer(self, number: str, job: Job, states: dict[str, str] | None) -> list[dict[str, Any]] | str | None:
        """Outcomes of a job's runs, or what it died of; None while that is not known."""
        if job.answer.is_file():
            outcomes: list[dict[str, Any]] = json.loads(job.answer.read_text(encoding="utf-8"))["outcomes"]
            return outcomes
        if states is None:
            return None
        state = states.get(number)
        if state is not None and state not in ENDED:
            job.ended = None
            return None
        job.ended = job.ended or time.monotonic()
        patience = PATIENCE_COMPLETED_SECONDS if state == "COMPLETED" else PATIENCE_SECONDS
        if time.monotonic() - job.ended < patience:
            return None
        log = self._folder / f"{number}_0_log.err"
        return f"job {number} ended without an answer ({state or 'squeue does not know it'}); its log: {log}"

    def _states(self) -> dict[str, str] | None:
        """State of every job of this user that Slurm still knows; None when it gives no answer."""
        command = ["squeue", "--noheader", "--states=all", f"--user={os.getuid()}", "--format=%i %T"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
            silence = done.stderr.strip() if done.returncode else ""
        except subprocess.TimeoutExpired:
            silence = "no answer within 120 s"
        if silence and not self._silent:
            print(f"squeue does not tell how the jobs are ({silence}): asking again", file=sys.stderr)
        self._silent = bool(silence)
        return None if silence else dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
