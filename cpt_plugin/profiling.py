"""How the time of a training epoch divides between kinds of work."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch

KINDS = ("data", "image", "text", "regularizer", "backward", "update")
"""Order in which shares are shown; ``other`` comes last."""
OTHER = "other"
PENDING = 4096
"""Moments kept before the earlier half is summed up."""


class Clock(Protocol):
    """Takes moments now and tells the seconds between two of them later."""

    def now(self) -> Any: ...

    def passed(self, moment: Any) -> bool: ...

    def wait(self, moment: Any) -> None: ...

    def seconds(self, start: Any, end: Any) -> float: ...


class HostClock:
    """Time on the host; right where work is done when the call returns."""

    def now(self) -> float:
        return time.perf_counter()

    def passed(self, moment: float) -> bool:
        return True

    def wait(self, moment: float) -> None:
        pass

    def seconds(self, start: float, end: float) -> float:
        return end - start


class CudaClock:
    """Time on the device, by events in the current stream; taking one waits for nothing."""

    def now(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def passed(self, moment: torch.cuda.Event) -> bool:
        return moment.query()

    def wait(self, moment: torch.cuda.Event) -> None:
        moment.synchronize()

    def seconds(self, start: torch.cuda.Event, end: torch.cuda.Event) -> float:
        return start.elapsed_time(end) / 1000


class Profile:
    """Seconds spent in named sections of what runs under :meth:`running`; elsewhere sections do nothing.

    A moment counts for the innermost section around it, or for ``other`` outside all sections: sections may be nested,
    and their times sum to the whole. With a :class:`CudaClock` these are times of the device, which is waited for
    once, at the end; where it idles, that counts for the section in which the host kept it waiting.
    A copy, also one by pickle, is a new profile that measures nothing.
    """

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock: Clock = clock or HostClock()
        self._open: list[str] = []
        self._moments: list[tuple[str, Any]] = []
        self.seconds: dict[str, float] = {}

    def __reduce__(self) -> tuple[type[Profile], tuple[()]]:
        return Profile, ()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Measure anew; :attr:`seconds` is complete after the end, and partial if that is an error."""
        self.seconds, self._open = {}, [OTHER]
        self._moments = [(OTHER, self._clock.now())]
        try:
            yield
            self._mark()
            self._clock.wait(self._moments[-1][1])
            self._sum_up(len(self._moments) - 1)
        finally:
            self._open, self._moments = [], []

    @contextmanager
    def section(self, name: str) -> Iterator[None]:
        """Count what runs inside, other sections excepted, for ``name``."""
        self.enter(name)
        try:
            yield
        finally:
            self.leave()

    def enter(self, name: str) -> None:
        """Begin a section; :meth:`leave` ends the one begun last."""
        if self._open:
            self._mark()
            self._open.append(name)

    def leave(self) -> None:
        """End the section begun last; does nothing if none is open."""
        if len(self._open) > 1:
            self._mark()
            self._open.pop()

    def _mark(self) -> None:
        self._moments.append((self._open[-1], self._clock.now()))
        half = PENDING // 2
        if len(self._moments) > PENDING and self._clock.passed(self._moments[half][1]):
            self._sum_up(half)

    def _sum_up(self, count: int) -> None:
        """Add up the first ``count`` spans between moments, of which each bears the name of the span before it."""
        for index in range(count):
            (_, start), (name, end) = self._moments[index : index + 2]
            self.seconds[name] = self.seconds.get(name, 0.0) + self._clock.seconds(start, end)
        del self._moments[:count]

    @property
    def total(self) -> float:
        """Seconds of the whole."""
        return sum(self.seconds.values())

    def shares(self) -> dict[str, float]:
        """Percentages in tenths that sum to 100, by the method of largest remainders; none if no time has passed.

        Kinds that did not occur are left out, ``other`` is always there.
        """
        total = self.total
        if total <= 0:
            return {}
        found = self.seconds.keys()
        names = [*(kind for kind in KINDS if kind in found), *(sorted(found - {*KINDS, OTHER})), OTHER]
        exact = {name: 1000 * self.seconds.get(name, 0.0) / total for name in names}
        tenths = {name: int(value) for name, value in exact.items()}
        by_remainder = sorted(names, key=lambda name: tenths[name] - exact[name])
        for name in by_remainder[: 1000 - sum(tenths.values())]:
            tenths[name] += 1
        return {name: value / 10 for name, value in tenths.items()}

    def __str__(self) -> str:
        """The shares in a line: ``data 4.1 % image 20.9 % ... other 3.2 %``."""
        return " ".join(f"{name} {share:.1f} %" for name, share in self.shares().items())


def profile_of(trainer: Any) -> Profile:
    """The profile that a trainer keeps as ``trainer.profile``; for any other trainer one that never measures."""
    profile = getattr(trainer, "profile", None)
    return profile if isinstance(profile, Profile) else Profile()
