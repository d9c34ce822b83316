"""Kill a run at random moments, run it to the end, and compare the result with an undisturbed one.

Children are forked from this warm process, so a run costs its own work only. Where a signal landed is read off
the folder: states and final models appear under their names only once they are whole.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

Run = Callable[[Path], None]
POLL_SECONDS = 0.0005
PHASES = ("before", "training", "after")


@dataclass
class Tally:
    """What a series of trials saw.

    Attributes:
        identical, different: results that were, or were not, those of the undisturbed run.
        before, training, after: signals that ended a child before its run's first state, between that and the
            final model, and later.
        too_late: signals that found the child gone.
    """

    identical: int = 0
    different: int = 0
    before: int = 0
    training: int = 0
    after: int = 0
    too_late: int = 0

    @property
    def kills(self) -> int:
        return self.before + self.training + self.after

    def compare(self, result: object, wanted: object) -> None:
        if result == wanted:
            self.identical += 1
        else:
            self.different += 1


def fork(run: Run, output: Path) -> int:
    """Start ``run(output)`` in a child, its output in ``<output>.log``; returns the process id."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        log = os.open(f"{output}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        run(output)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stderr.flush()
        os._exit(status)


def to_the_end(run: Run, output: Path) -> None:
    """Run a child until it ends.

    Raises:
        RuntimeError: it failed; the message holds the end of its log.
    """
    _check_status(os.waitpid(fork(run, output), 0)[1], output)


def _check_status(status: int, output: Path) -> None:
    if status:
        raise RuntimeError(f"child ended with status {status}:\n{Path(f'{output}.log').read_text()[-2000:]}")


def phase(output: Path) -> str:
    """Where a run is, as far as its folder tells: "before" its first state, in "training", or "after" it."""
    return "after" if final_models(output) else "training" if newest_step(output) else "before"


def seconds_of_phases(run: Run, output: Path) -> dict[str, float]:
    """How long an undisturbed run is in each of its phases."""
    pid, seconds, last = fork(run, output), dict.fromkeys(PHASES, 0.0), time.monotonic()
    while not (ended := os.waitpid(pid, os.WNOHANG))[0]:
        time.sleep(POLL_SECONDS)
        now = time.monotonic()
        seconds[phase(output)] += now - last
        last = now
    _check_status(ended[1], output)
    return seconds


def kill_in_phase(run: Run, output: Path, wanted: str, pause: float, tally: Tally) -> None:
    """Start a child, wait until it is in a phase or further on, and kill it after the pause, wherever it is then."""
    pid = fork(run, output)
    while PHASES.index(phase(output)) < PHASES.index(wanted):
        if os.waitpid(pid, os.WNOHANG)[0]:
            tally.too_late += 1
            return
        time.sleep(POLL_SECONDS)
    time.sleep(pause)
    _kill(pid, output, tally)


def kill_at_step(run: Run, output: Path, step: int, pause: float, tally: Tally) -> None:
    """Start a child, wait until it has written a state of ``step`` or a later one, and kill it after the pause."""
    before = newest_step(output)
    pid = fork(run, output)
    while newest_step(output) in range(max(step, before + 1)):
        if os.waitpid(pid, os.WNOHANG)[0]:
            tally.too_late += 1
            return
        time.sleep(POLL_SECONDS)
    time.sleep(pause)
    _kill(pid, output, tally)


def _kill(pid: int, output: Path, tally: Tally) -> None:
    if os.waitpid(pid, os.WNOHANG)[0]:
        tally.too_late += 1
        return
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    landed = phase(output)
    setattr(tally, landed, getattr(tally, landed) + 1)


def trials_in_training(
    run: Run, folder: Path, fingerprint: Callable[[Path], str], kills: int, kills_a_run: int, seed: int
) -> Tally:
    """Repeat (kill up to ``kills_a_run`` times in training, run to the end, compare) until ``kills`` were dealt.

    The moments are uniform over all steps but the last two, and about uniform within the step. A trial without a kill
    in training is not compared: on a machine that has become faster, a kill may come too late.
    """
    steps, seconds_a_step = _time_steps(run, folder / "reference")
    wanted = fingerprint(folder / "reference")
    rng, tally = random.Random(seed), Tally()
    for trial in range(10 * kills):
        if tally.training >= kills:
            break
        output, before = folder / f"trial{trial}", tally.training
        for step in sorted(rng.sample(range(1, steps - 1), kills_a_run)):
            if newest_step(output) < steps - 2:
                kill_at_step(run, output, step, rng.uniform(0, seconds_a_step), tally)
        to_the_end(run, output)
        if tally.training > before:
            tally.compare(fingerprint(output), wanted)
    return tally


def _time_steps(run: Run, output: Path) -> tuple[int, float]:
    """Number of the last step of an undisturbed run, and its seconds a step."""
    pid = fork(run, output)
    seen: dict[int, float] = {}
    while not (ended := os.waitpid(pid, os.WNOHANG))[0]:
        seen.setdefault(newest_step(output), time.monotonic())
        time.sleep(POLL_SECONDS)
    _check_status(ended[1], output)
    seen.pop(0, None)
    first, last = min(seen), max(seen)
    return last, (seen[last] - seen[first]) / (last - first)


def newest_step(output: Path) -> int:
    """The step of the newest state below a folder; 0 when there is none."""
    with contextlib.suppress(FileNotFoundError):
        matches = [re.fullmatch(r"state-(\d+)\.pth\.tar", name) for name in os.listdir(output / "resume")]
        return max((int(match[1]) for match in matches if match), default=0)
    return 0


def final_models(output: Path) -> list[Path]:
    """Whole models of an epoch below a folder; only that of the last epoch is ever saved here."""
    return [path for path in output.glob("*/model.pth.tar-*") if re.fullmatch(r"model\.pth\.tar-\d+", path.name)]


@contextmanager
def patched(owner: object, **values: object) -> Iterator[None]:
    """Replace attributes inside the block."""
    saved = {name: getattr(owner, name) for name in values}
    try:
        for name, value in values.items():
            setattr(owner, name, value)
        yield
    finally:
        for name, value in saved.items():
            setattr(owner, name, value)
