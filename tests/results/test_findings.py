"""The differences that docs/findings.md prints are those of results/shapes, rounded."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

REPOSITORY = Path(__file__).parents[2]
COMMITTED = REPOSITORY / "results" / "shapes"
CELL = re.compile(r"\*{0,2}([+-]?\d+\.\d) \[(-?\d+\.\d), (-?\d+\.\d)\]\*{0,2}")
CHOSEN = "la_cptb (CPTB.RHO_RS=1)"
PARTS = {
    "TETF alone": "cpt (CPT.WEIGHT_CC=0,CPT.WEIGHT_RS=0)",
    "CC alone": "cpt (CPT.WEIGHT_ETF=0,CPT.WEIGHT_RS=0)",
    "RS alone": "cpt (CPT.WEIGHT_ETF=0,CPT.WEIGHT_CC=0)",
    "pair_mean": "cpt (CPT.ETF_REDUCTION=pair_mean)",
    "clusters of 4": "cpt (CPT.CLUSTER_SIZE=4)",
}
SHORT = {"X": CHOSEN} | PARTS
"""What a row of the findings calls it, and the part of the method's name."""


class Printed(NamedTuple):
    """A cell of a table of differences: A - B of one base in one column, below one heading."""

    heading: str
    base: str
    column: str
    first: str
    second: str
    text: str


def printed() -> list[Printed]:
    found, heading, header = [], "", []
    for line in (REPOSITORY / "docs" / "findings.md").read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            heading = line.strip("# ")
        name, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        if not line.startswith("|"):
            header = []
        elif not header:
            header = cells
        elif " - " in name and CELL.fullmatch(cells[0]):
            columns = zip(header, cells, strict=True)
            found += [Printed(heading, *column.split(maxsplit=1), *name.split(" - "), text) for column, text in columns]
    return found


def rows(file: str) -> list[dict[str, str]]:
    with (COMMITTED / file).open(encoding="utf-8") as opened:
        return list(csv.DictReader(opened))


def compared(*names: str) -> dict[tuple[str, str, str], list[float]]:
    """Mean difference, low and high by methods and metric, over all worlds."""
    found = {}
    for row in (row for name in names for row in rows(f"comparisons/{name}.csv") if not row["world"]):
        assert row["pairs"] == row["pairs_expected"], "runs are missing"
        found[row["first"], row["second"], row["metric"]] = [float(row[key]) for key in ("difference", "low", "high")]
    return found


def named(base: str, method: str) -> str:
    return base if method == "plain" else f"{base}_{SHORT.get(method, method)}"


def check(cells: list[Printed], exact: Callable[[Printed], list[float]]) -> None:
    for cell in cells:
        numbers = CELL.fullmatch(cell.text)
        assert numbers, cell
        mean, low, high = exact(cell)
        assert [float(number) for number in numbers.groups()] == pytest.approx([mean, low, high], abs=0.0501), cell
        assert cell.text.startswith("**") == (low > 0 or high < 0), f"{cell}: bold where 0 is not inside"


@pytest.mark.parametrize(
    ("heading", "base", "files", "number"),
    [(f"At {tau}", base, (f"{base}-{tau}", f"{base}-{tau}-others"), 2 * 14)
     for tau in ("0.06", "0.25") for base in ("coop", "maple", "ivlp", "coop_dpc")]
    + [("At 1", base, (f"{base}-1",), 2 * number) for base, number in (("coop", 2), ("maple", 2), ("ivlp", 1))]
    + [("Which part of CPT", "ivlp", ("mechanisms-0.06-others",), 2 * 7)],
)  # fmt: skip
def test_printed_differences_are_the_measured_ones(heading, base, files, number):
    cells = [cell for cell in printed() if cell.heading.split(" (")[0] == heading and cell.base == base]
    assert len(cells) == number
    values = compared(*files)
    check(cells, lambda cell: values[named(base, cell.first), named(base, cell.second), cell.column])


@pytest.mark.parametrize("base", ["coop", "maple", "ivlp"])
def test_printed_differences_of_transfer_are_the_measured_ones(base):
    files = {"classes": ("cross_dataset", "cross-dataset mean"), "domains": ("domain_generalization", "domains mean")}
    values = {
        (kind, f"{float(row['tau']):g}"): row
        for kind, (file, column) in files.items()
        for row in rows(f"tables/{file}.csv")
        if (row["method"], row["column"]) == (f"{base}_cpt", column)
    }

    def exact(cell: Printed) -> list[float]:
        row = values[cell.column, cell.first.removeprefix("cpt at ")]
        assert (cell.second, row["baseline"], row["problem"]) == ("plain", base, "0")
        assert row["n"] == row["expected"], "runs are missing"
        return [float(row[key]) for key in ("difference", "difference_low", "difference_high")]

    cells = [cell for cell in printed() if cell.heading.startswith("Transfer") and cell.base == base]
    assert len(cells) == 2 * 3, "other class sets and other domains at three ratios"
    check(cells, exact)


def test_printed_differences_of_the_slower_learners_are_the_measured_ones():
    cells = [cell for cell in printed() if cell.heading.startswith("The slower learners")]
    assert len(cells) == 7 * 3
    values = {tau: compared(f"slower-{tau}") for tau in ("1", "0.25", "0.06")}
    check(cells, lambda cell: values[cell.column.removeprefix("at ")][cell.first, cell.second, cell.base])


def test_every_printed_difference_is_under_a_heading_that_is_checked():
    known = ("At ", "Which part of CPT", "Transfer", "The slower learners")
    assert [cell for cell in printed() if not cell.heading.startswith(known)] == []
