"""Kill a training run at random moments, run it to the end, and compare the result with an undisturbed one.

Children are forked from this warm process, so a run costs its training only. A kill counts when it ended a
child that had written a state of its own and had not finished training.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

Run = Callable[[Path], None]


@dataclass
class Tally:
    """What a series of trials saw: results equal or not, kills in mid-training, and those that came too late."""

    identical: int = 0
    different: int = 0
    kills: int = 0
    too_late: int = 0


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
        import traceback

        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            import sys

            sys.stderr.flush()
        os._exit(status)


def to_the_end(run: Run, output: Path) -> float:
    """Run a child until it ends; returns its seconds.

    Raises:
        RuntimeError: it failed; the message holds the end of its log.
    """
    started = time.monotonic()
    pid = fork(run, output)
    _, status = os.waitpid(pid, 0)
    if status:
        raise RuntimeError(f"child ended with status {status}:\n{Path(f'{output}.log').read_text()[-2000:]}")
    return time.monotonic() - started


def kill_once(run: Run, output: Path, window: float, rng: random.Random, tally: Tally) -> None:
    """Start a child, wait for a state that it wrote, kill it up to ``window`` seconds later."""
    before = _newest_state(output)
    pid = fork(run, output)
    while _newest_state(output) in (before, None):
        if os.waitpid(pid, os.WNOHANG)[0]:
            tally.too_late += 1
            return
        time.sleep(0.0005)
    time.sleep(rng.uniform(0, window))
    if os.waitpid(pid, os.WNOHANG)[0]:
        tally.too_late += 1
        return
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    if any(output.glob("*/model.pth.tar-*")):
        tally.too_late += 1
    else:
        tally.kills += 1


def trials(
    run: Run, folder: Path, fingerprint: Callable[[Path], str], kills: int, kills_a_run: int, seed: int
) -> Tally:
    """Repeat (kill up to ``kills_a_run`` times, then run to the end, then compare) until ``kills`` were dealt."""
    reference = folder / "reference"
    to_the_end(run, reference)
    wanted = fingerprint(reference)
    window = _span_of_states(run, folder / "timed")
    rng, tally = random.Random(seed), Tally()
    for trial in range(3 * kills):
        if tally.kills >= kills:
            break
        output = folder / f"trial{trial}"
        for _ in range(kills_a_run):
            kill_once(run, output, 0.8 * window / kills_a_run, rng, tally)
        to_the_end(run, output)
        if fingerprint(output) == wanted:
            tally.identical += 1
        else:
            tally.different += 1
    return tally


def _span_of_states(run: Run, output: Path) -> float:
    """Seconds between the first state and the end of training in an undisturbed run."""
    pid = fork(run, output)
    first = None
    while not os.waitpid(pid, os.WNOHANG)[0]:
        if first is None and _newest_state(output):
            first = time.monotonic()
        if any(output.glob("*/model.pth.tar-*")):
            break
        time.sleep(0.0005)
    span = time.monotonic() - (first or time.monotonic())
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, 0)
    return span


def _newest_state(output: Path) -> str | None:
    with contextlib.suppress(OSError):
        return max((entry.name for entry in os.scandir(output / "resume") if entry.name.endswith(".tar")), default=None)
    return None


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
