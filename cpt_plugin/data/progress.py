"""How far something is: a bar with the time left on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any

LINE_SECONDS = 10.0


def say(text: str) -> None:
    """One line for the person who waits, on standard error."""
    print(text, file=sys.stderr, flush=True)


def readable(count: float) -> str:
    """Bytes as people write them, in powers of 1000: ``94.3 MB``."""
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" or count >= 100 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


class Progress:
    """Counts up to ``total`` (0: not known) from ``initial``, in bytes or in things called ``unit``.

    Used as a context manager; :meth:`to` says where it is now.
    """

    def __init__(self, title: str, total: int = 0, initial: int = 0, unit: str = "B") -> None:
        self._title, self._total, self._unit = title, total, unit
        self._initial = self._done = initial
        self._start = self._last = time.monotonic()
        self._bar: Any = None

    def __enter__(self) -> Progress:
        if sys.stderr.isatty():
            try:
                from tqdm import tqdm
            except ModuleNotFoundError:
                return self
            scale = self._unit == "B"
            self._bar = tqdm(
                total=self._total or None,
                initial=self._initial,
                desc=self._title,
                unit=self._unit if scale else f" {self._unit}",
                unit_scale=scale,
                dynamic_ncols=True,
                leave=False,
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    def to(self, done: int) -> None:
        """Say that ``done`` of the total are behind us."""
        if self._bar is not None:
            self._bar.update(done - self._done)
        self._done = done
        now = time.monotonic()
        if self._bar is None and now - self._last >= LINE_SECONDS:
            self._last = now
            say(self._line(now))

    def _line(self, now: float) -> str:
        rate = (self._done - self._initial) / max(now - self._start, 1e-9)
        done = self._amount(self._done)
        if not self._total:
            return f"  {self._title}: {done}, {self._amount(rate)}/s"
        left = f", about {(self._total - self._done) / rate:.0f} s left" if rate > 0 else ""
        share = 100 * self._done / self._total
        return f"  {self._title}: {done} of {self._amount(self._total)} ({share:.0f} %), {self._amount(rate)}/s{left}"

    def _amount(self, count: float) -> str:
        return readable(count) if self._unit == "B" else f"{count:.0f} {self._unit}"
