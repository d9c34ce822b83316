"""The differences that docs/findings.md prints are those of results/shapes/comparisons, rounded."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import NamedTuple

import pytest

REPOSITORY = Path(__file__).parents[2]
CHOSEN = "la_cptb (CPTB.RHO_RS=1)"
HEADING = re.compile(r"### At (0\.\d+)")
CELL = re.compile(r"\*{0,2}([+-]?\d+\.\d) \[(-?\d+\.\d), (-?\d+\.\d)\]\*{0,2}")


class Printed(NamedTuple):
    """A cell of a table of differences: A - B of one base in one metric."""

    tau: str
    base: str
    metric: str
    first: str
    second: str
    text: str


def printed() -> list[Printed]:
    found, tau, header = [], "", []
    for line in (REPOSITORY / "docs" / "findings.md").read_text(encoding="utf-8").splitlines():
        if heading := HEADING.match(line):
            tau = heading[1]
        name, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        if not line.startswith("|"):
            header = []
        elif not header:
            header = cells
        elif tau and " - " in name:
            columns = zip(header, cells, strict=True)
            found += [Printed(tau, *column.split(), *name.split(" - "), text) for column, text in columns]
    return found


def measured(tau: str, base: str) -> dict[tuple[str, str, str], list[float]]:
    """Mean difference, low and high by methods and metric, over all worlds."""
    found = {}
    for name in (f"{base}-{tau}", f"{base}-{tau}-others"):
        with (REPOSITORY / "results" / "shapes" / "comparisons" / f"{name}.csv").open(encoding="utf-8") as file:
            rows = [row for row in csv.DictReader(file) if not row["world"]]
        assert all(row["pairs"] == row["pairs_expected"] for row in rows), "runs are missing"
        for row in rows:
            key = row["first"], row["second"], row["metric"]
            found[key] = [float(row[column]) for column in ("difference", "low", "high")]
    return found


def named(base: str, method: str) -> str:
    return base if method == "plain" else f"{base}_{CHOSEN if method == 'X' else method}"


@pytest.mark.parametrize("tau", ["0.06", "0.25"])
@pytest.mark.parametrize("base", ["coop", "maple", "ivlp", "coop_dpc"])
def test_printed_differences_are_the_measured_ones(tau, base):
    cells = [cell for cell in printed() if (cell.tau, cell.base) == (tau, base)]
    assert len(cells) == 2 * 14, "H and tail of fourteen comparisons"
    values = measured(tau, base)
    for cell in cells:
        numbers = CELL.fullmatch(cell.text)
        assert numbers, cell
        exact = values[named(base, cell.first), named(base, cell.second), cell.metric]
        assert [float(number) for number in numbers.groups()] == pytest.approx(exact, abs=0.0501), cell
        assert cell.text.startswith("**") == (exact[1] > 0 or exact[2] < 0), f"{cell}: bold where 0 is not inside"
