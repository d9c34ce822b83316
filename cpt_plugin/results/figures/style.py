"""How all figures look, and how they become files: colors for the color-blind, marks for print in grey, fixed bytes."""

from __future__ import annotations

import io
import math
import pickle
import re
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle, islice
from typing import TYPE_CHECKING, Any

from cpt_plugin.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

REMEDY = "pip install 'matplotlib>=3.8' 'scikit-learn>=1.4'"
WIDTH = 7.0
"""Inches: two columns of a paper."""
BLACK, GREY = "#000000", "#8C8C8C"
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", BLACK)
"""Okabe and Ito, without the yellow that vanishes on white."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
LINES = ("-", "--", "-.", ":")
_SETTINGS: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "figure.titlesize": 9,
    "figure.constrained_layout.use": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.3,
    "lines.markersize": 4.5,
    "legend.frameon": False,
    "pdf.fonttype": 42,
    "text.parse_math": False,
}
_LONGEST_LABEL, _TITLE_LENGTH, _NOTE_LENGTH = 34, 95, 124
_NOTES = "notes"
_WITHOUT_DATES: dict[str, dict[str, None]] = {
    "png": {"Software": None},
    "pdf": {"Creator": None, "Producer": None, "CreationDate": None},
}


@dataclass(frozen=True, eq=False)
class Drawing:
    """A figure, the stem of its file, and what it shows in words, what is missing included."""

    stem: str
    caption: str
    figure: Figure


@contextmanager
def look() -> Iterator[None]:
    """matplotlib's defaults and what is set here, whatever a person has configured; put back afterwards.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise ConfigError(f"figures need matplotlib ({error}): {REMEDY}") from error
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_SETTINGS)  # type: ignore[arg-type]
        yield


def new_figure(rows: int, columns: int, height: float, **layout: Any) -> tuple[Figure, list[list[Axes]]]:
    """A figure of rows x columns panels, ``height`` inches high and two columns wide."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height))
    axes = figure.subplots(rows, columns, squeeze=False, **layout)
    return figure, [list(row) for row in axes]


def finish(figure: Figure, stem: str, title: str, notes: Sequence[str]) -> Drawing:
    """Put a title above a figure and notes below it, in lines that fit; both are its caption too."""
    figure.suptitle("\n".join(textwrap.wrap(title, _TITLE_LENGTH)), fontsize=9)
    lines = [line for note in notes for line in textwrap.wrap(note, _NOTE_LENGTH)]
    figure.supxlabel("\n".join(lines), x=0.01, ha="left", fontsize=6.5, color="#333333", gid=_NOTES)
    return Drawing(stem, " ".join(line if line.endswith(".") else f"{line}." for line in [title, *notes]), figure)


def to_bytes(figure: Figure, form: str, dpi: int = 200, notes: bool = True) -> bytes:
    """A figure as ``png`` or ``pdf``: no dates, so the same figure gives the same bytes, however often it is written.

    A copy is drawn, since its layout moves the panels. notes: whether those below it are part of the picture.
    """
    stream, figure = io.BytesIO(), pickle.loads(pickle.dumps(figure))
    for below in figure.findobj(lambda artist: artist.get_gid() == _NOTES):
        below.set_visible(notes)
        below.set_in_layout(notes)
    with look():
        figure.savefig(stream, format=form, dpi=dpi, metadata=_WITHOUT_DATES[form])
    return stream.getvalue()


def panels_beside(count: int) -> int:
    """How many of so many panels stand beside each other: at most three, and four in a square."""
    return 2 if count == 4 else min(3, count)


def label(name: str) -> str:
    """A name that fits beside an axis or into a legend."""
    return name if len(name) <= _LONGEST_LABEL else f"{name[: _LONGEST_LABEL - 1]}…"


def stem_of(*parts: object) -> str:
    """The parts as one file name."""
    return re.sub(r"[^\w.+=,-]+", "-", "_".join(str(part) for part in parts))


def looks(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Color, marker and line style of each name; no two alike up to 63 names, and markers tell them apart in grey."""
    together = zip(cycle(COLORS), cycle(MARKERS), cycle(LINES), strict=False)
    return {
        name: {"color": color, "marker": marker, "linestyle": line}
        for name, (color, marker, line) in zip(names, islice(together, len(names)), strict=True)
    }


def percent_limits(values: Sequence[float], step: float = 5.0) -> tuple[float, float]:
    """Limits of an axis around percentages, on whole steps, within 0 and 100 (and a little for marks at the edge)."""
    low, high = min(values, default=0.0), max(values, default=100.0)
    low, high = step * math.floor((low - 1) / step), step * math.ceil((high + 1) / step)
    return max(low, -2.0), min(high, 102.0)
