"""Every data set of the CoOp family through a whole run: train on base classes, test both halves, write the record."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from cpt_plugin.cli.experiment import Experiment
from cpt_plugin.data.manifest import manifest_of
from cpt_plugin.methods import parse_method
from cpt_plugin.results.table import render_csv, render_terminal
from tests.helpers.evidence import check_losses
from tests.helpers.fixtures import Fixture, make_fixture
from tests.helpers.fixtures.loading import CORE_SETS
from tests.helpers.tiny_world import tiny_arguments

SHOTS = 4


def experiment(fixture: Fixture, output: Path, method: str, *opts: str) -> Experiment:
    """Two epochs on a fixture with a tiny CLIP and the data set's own yaml."""
    name = manifest_of(fixture.name).registered
    arguments = tiny_arguments(
        fixture.root, output, method, "DATASET.NAME", name, "DATASET.CHECK_COUNTS", "False", *opts, tau=0.25
    )
    changed: dict[str, Any] = {"dataset": fixture.name, "shots": SHOTS, "epochs": 2}
    return Experiment(parse_method(method), 1, dataclasses.replace(arguments, **changed))


@pytest.mark.parametrize("name", CORE_SETS)
def test_train_and_evaluate(tmp_path: Path, name: str) -> None:
    fixture = make_fixture(name, tmp_path, images=9)
    run = experiment(fixture, tmp_path / "output", "coop_cpt")
    record = run.execute().record
    check_losses(record)
    label = "incomplete" if name == "fgvc_aircraft" else "other split, incomplete"
    assert record.dataset == f"{name} ({label})", "a fixture's is another"
    tested = Counter(label for _, label, _ in fixture.rows["test"])
    both = [*record.evaluations["base"].per_class, *record.evaluations["new"].per_class]
    assert [each.name for each in both] == list(fixture.names)
    assert [each.total for each in both] == [tested[label] for label in range(5)]
    assert record.realized_tau == 0.25
    assert record.config["DATASET.SPLIT"] == "published"
    assert "no template of its own" not in (run.folder / "log.txt").read_text()


def test_records_and_tables_say_that_the_split_is_not_the_published_one(tmp_path: Path) -> None:
    fixture = make_fixture("eurosat", tmp_path, images=9)
    run = experiment(fixture, tmp_path / "output", "zeroshot", "DATASET.SPLIT", "own", "DATASET.SPLIT_SEED", "7")
    record = run.execute().record
    assert record.config["DATASET.SPLIT"] == "own"
    assert "NOT the published one" in (run.folder / "log.txt").read_text()
    for table in (render_terminal([record]), render_csv([record])):
        assert "eurosat (own split 7, incomplete)" in table
