"""Every method by name: in its record each part has its losses, and the prompts differ from the baseline's.

Here on a tiny CLIP and a tiny world, two epochs; in the long form on the embedded world, as run.sh runs it.
"""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cpt_plugin.methods import parse_method
from cpt_plugin.results import record as records
from tests.helpers.evidence import check_losses, check_prompts
from tests.helpers.tiny_world import tiny_experiment, write_world

ROOT = Path(__file__).resolve().parents[1]
METHODS = (
    "coop", "coop_cpt", "cocoop", "maple", "maple_cpt", "ivlp_cpt", "promptsrc", "promptsrc_cpt", "dpc", "dpc_cpt",
    "maple_dpc_cpt", "npt", "npt_cpt", "dapt", "coop_npt", "coop_cptb", "ivlp_cptb", "maple_la_cptb", "coop_la",
    "coop_bs", "promptsrc_focal", "cocoop_cb", "ivlp_ldam", "coop_dpc_la", "coop_l2anchor", "coop_etfa", "coop_mix",
    "maple_la_mix", "coop_cptx", "coop_posthoc", "coop_stop", "coop_dpc_mix",
)  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_world(tmp_path_factory.mktemp("world"))


@pytest.mark.parametrize("name", METHODS)
def test_every_part_works(world: Path, name: str) -> None:
    experiment = tiny_experiment(world, world / "output", name)
    record = experiment.execute().record
    baseline = None
    if experiment.method.parts:
        baseline = tiny_experiment(world, world / "output", experiment.method.baseline.name).execute().record
    check_losses(record)
    check_prompts(record, baseline, experiment.folder)


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", METHODS)
def test_every_part_works_on_the_embedded_world(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    output = tmp_path_factory.getbasetemp() / "shapes-output"
    command = [sys.executable, "-m", "cpt_plugin", "run", name, "shapes", "0.25", "--seeds", "1", "--output", output]
    environment = {**os.environ, "CPT_TOOLKIT": "embedded", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    method, files = parse_method(name), {}
    for one in (method, method.baseline):
        files[one.name] = output / "shapes" / one.name / "tau0.25" / "seed1"
    found = {one: records.load(folder / "record.json") for one, folder in files.items()}
    check_losses(found[method.name])
    baseline = found[method.baseline.name] if method.parts else None
    check_prompts(found[method.name], baseline, files[method.name])


def test_the_evidence_could_fail(world: Path) -> None:
    record = tiny_experiment(world, world / "output", "coop_cpt").execute().record
    for spoil in ({"loss_cc": float("nan")}, {"loss_cc": 0.25}):
        spoiled = dataclasses.replace(record, history=tuple({**epoch, **spoil} for epoch in record.history))
        with pytest.raises(AssertionError, match="loss_cc"):
            check_losses(spoiled)
    missing = tuple({k: v for k, v in epoch.items() if k != "loss_etf"} for epoch in record.history)
    with pytest.raises(KeyError, match="loss_etf"):
        check_losses(dataclasses.replace(record, history=missing))
    with pytest.raises(AssertionError):
        check_prompts(record, record, world)
