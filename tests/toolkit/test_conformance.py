"""The same cases on the embedded engine and on the released Dassl, each in a process of its own.

Dassl is found through the environment variable CPT_RELEASED_DASSL (folder of a clone) or as an importable
package; without it everything that needs it is skipped. No file of it is changed.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.toolkit import conformance_parts, conformance_runs  # noqa: F401 (their import fills CASES)
from tests.toolkit.conformance_setup import CASES, EPOCHS, TRAINERS, write_data

ROOT = Path(__file__).resolve().parents[2]
EQUAL = ("registries", "merge_order", "optimizers", "few_shot_draws", "long_tails", "transforms",
         "global_seed", "resumed_rates")  # fmt: skip


def run_cases(toolkit: str, folder: Path, *chosen: str) -> dict[str, Any]:
    result = folder / f"{toolkit}.json"
    dassl = [os.environ.get("CPT_RELEASED_DASSL", "")] if toolkit == "dassl" else []
    environment = {
        **os.environ,
        "CPT_TOOLKIT": toolkit,
        "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, dassl)]),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
    }
    worker = Path(__file__).with_name("conformance_worker.py")
    done = subprocess.run(
        [sys.executable, str(worker), str(folder), str(result), *chosen],
        env=environment, capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return json.loads(result.read_text())


def source_digest(folder: str) -> str:
    files = sorted(path for path in Path(folder).rglob("*") if path.is_file() and ".git" not in path.parts)
    return hashlib.sha256(b"".join(str(f).encode() + f.read_bytes() for f in files)).hexdigest()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("conformance")
    write_data(folder)
    return folder


@pytest.fixture(scope="module")
def embedded(data: Path) -> dict[str, Any]:
    return run_cases("embedded", data)


@pytest.fixture(scope="module")
def dassl(data: Path, embedded: dict[str, Any]) -> dict[str, Any]:
    clone = os.environ.get("CPT_RELEASED_DASSL")
    if not clone and importlib.util.find_spec("dassl") is None:
        pytest.skip("Dassl is not importable: set CPT_RELEASED_DASSL to the folder of a clone")
    before = source_digest(clone) if clone else ""
    outcomes = run_cases("dassl", data)
    assert (source_digest(clone) if clone else "") == before
    return outcomes


@pytest.mark.parametrize("name", CASES)
def test_every_case_runs_on_the_embedded_engine(name: str, embedded: dict[str, Any]) -> None:
    assert not (isinstance(embedded[name], dict) and "error" in embedded[name]), embedded[name]["error"]


@pytest.mark.parametrize("name", EQUAL)
def test_equal_outcomes(name: str, embedded: dict[str, Any], dassl: dict[str, Any]) -> None:
    assert dassl[name] == embedded[name]


def test_evaluation(embedded: dict[str, Any], dassl: dict[str, Any]) -> None:
    """Dassl's results and lines in its order; the engine has three more results, in a paragraph of their own."""
    ours, theirs = embedded["evaluator"], dassl["evaluator"]
    results = dict(ours["results"])
    more = {"balanced_accuracy", "g_mean", "ece"}
    assert [name for name in results if name not in more] == [name for name, _ in theirs["results"]]
    shared = {name: value for name, value in results.items() if name not in more}
    assert shared == pytest.approx(dict(theirs["results"]))
    assert more < results.keys()
    text, removed = re.subn(r"=> with every class counting alike.*\n\* .*\n", "", ours["text"])
    assert (text, removed) == (theirs["text"], 1)
    assert (ours["accuracy"], ours["counts"]) == (theirs["accuracy"], theirs["counts"])


def test_names(embedded: dict[str, Any], dassl: dict[str, Any]) -> None:
    theirs, ours = (set(outcome["toolkit_facts"]["names"]) for outcome in (dassl, embedded))
    assert theirs <= ours
    assert ours - theirs == {"count_num_params", "save_split"}
    assert (dassl["toolkit_facts"]["name"], embedded["toolkit_facts"]["name"]) == ("dassl", "embedded")


def test_log_records_are_not_switched_off(embedded: dict[str, Any], dassl: dict[str, Any]) -> None:
    """Released Dassl switches off all warnings of the process when it is imported."""
    assert dassl["toolkit_facts"]["logging switched off up to"] == 0
    assert embedded["toolkit_facts"]["logging switched off up to"] == 0


def test_default_configuration(embedded: dict[str, Any], dassl: dict[str, Any]) -> None:
    """Every key of the engine exists on Dassl with the same value; only the number of workers is our own."""
    ours, theirs = embedded["default_keys"], dassl["default_keys"]
    assert ours.keys() <= theirs.keys()
    different = {key: (ours[key], theirs[key]) for key in ours if ours[key] != theirs[key]}
    assert different == {"DATALOADER.NUM_WORKERS": (0, 4)}


def test_merge_order(embedded: dict[str, Any]) -> None:
    """Data set's file, method's file, arguments, options: the later one wins; bad options are refused."""
    plain, given, refused = embedded["merge_order"]
    assert plain[:3] == [0.02, 1, EPOCHS]
    assert given[0] == 1.0
    assert given[3] == "RN101"
    assert [text.split()[0] for text in refused] == ["unknown", "OPTIM.LR", "options"]


def test_learning_rates(embedded: dict[str, Any], dassl: dict[str, Any]) -> None:
    ours, theirs = embedded["learning_rates"], dassl["learning_rates"]
    assert ours.keys() == theirs.keys()
    for setting, rates in ours.items():
        assert rates == pytest.approx(theirs[setting], rel=1e-12), setting


def test_learning_rates_of_coop(embedded: dict[str, Any]) -> None:
    """One epoch at 1e-5, then 0.002 (1 + cos(pi k / T)) / 2 for k = 0, 1, ..."""
    for epochs in (5, 20):
        setting = {
            "LR_SCHEDULER": "cosine", "WARMUP_EPOCH": 1, "WARMUP_TYPE": "constant", "MAX_EPOCH": epochs,
            "WARMUP_RECOUNT": True,
        }  # fmt: skip
        cosine = [0.001 * (1 + math.cos(math.pi * k / epochs)) for k in range(epochs - 1)]
        rates = embedded["learning_rates"][json.dumps(setting)]
        assert rates == pytest.approx([1e-5, *cosine], rel=1e-12)


def test_few_shot_lists_are_those_of_a_seeded_dassl(dassl: dict[str, Any], embedded: dict[str, Any]) -> None:
    draws = dassl["few_shot_draws"]
    for seed in (0, 1, 2):
        assert embedded["few_shot_draws"][f"all, seed {seed}"][:2] == draws[f"toolkit, seed {seed}"]
    assert draws["all, seed 0"] != draws["all, seed 1"]


def test_zero_shot(embedded: dict[str, Any], dassl: dict[str, Any]) -> None:
    ours, theirs = embedded["zero_shot"], dassl["zero_shot"]
    for which in ("base", "new"):
        assert ours[f"{which} logits"] == theirs[f"{which} logits"]
        assert ours[f"{which} False"] == ours[f"{which} True"] == theirs[f"{which} False"]
        assert theirs[f"{which} False"] == theirs[f"{which} True"]
        assert len(ours[f"{which} False"]) == 1
        assert float(ours[f"{which} False"][0][2]) == pytest.approx(ours[f"{which} logits"][0], abs=0.06)


def test_records_of_the_main_job(embedded: dict[str, Any], dassl: dict[str, Any]) -> None:
    """Same images, same clusters, same zero-shot accuracy of the micro model; only the toolkit's name differs."""
    ours, theirs = embedded["records"], dassl["records"]
    for method in ("zeroshot", "coop_cpt", "coop", "coop_posthoc"):
        assert theirs[method] == {**ours[method], "toolkit": "dassl"}
    assert ours["zeroshot"]["accuracy"][0] > 20
    assert {"loss", "loss_cc", "loss_etf", "loss_rs"} <= set(ours["coop_cpt"]["losses"])
    assert all(ours["coop_cpt"]["hashes"])


@pytest.mark.parametrize("trainer", TRAINERS)
def test_training_log(trainer: str, embedded: dict[str, Any], dassl: dict[str, Any]) -> None:
    """The same lines, apart from losses and times; with CPT its parts stand in every one of them."""
    ours, theirs = embedded["training"][trainer], dassl["training"][trainer]
    assert ours["lines"] == theirs["lines"]
    assert len(ours["lines"]) > EPOCHS
    parts = ["loss_etf", "loss_cc", "loss_rs"] if trainer.endswith("CPT") else []
    for _, names, finite, _ in ours["lines"]:
        assert finite
        assert names[:2] == ["loss", "acc"]
        assert set(parts) <= set(names)
        assert bool(parts) == any(name.startswith("loss_") for name in names)
    assert ours["said"] == theirs["said"] == [True] * 4
    assert [len(block) for block in ours["result"]] == [len(block) for block in theirs["result"]] == [5]


@pytest.mark.parametrize("trainer", TRAINERS)
def test_checkpoints(trainer: str, embedded: dict[str, Any], dassl: dict[str, Any]) -> None:
    """The same files, contents and prompts; both loaded with ``weights_only=True`` in the worker."""
    ours, theirs = embedded["training"][trainer]["checkpoint"], dassl["training"][trainer]["checkpoint"]
    assert ours == theirs
    assert ours["epoch"] == EPOCHS
    folder = "MultiModalPromptLearner" if trainer.startswith("MaPLe") else "prompt_learner"
    names = ["checkpoint", *(f"model.pth.tar-{epoch}" for epoch in range(1, EPOCHS + 1))]
    assert ours["files"] == [f"{folder}/{name}" for name in names]
    assert ours["pointer"] == f"model.pth.tar-{EPOCHS}\n"


@pytest.mark.parametrize("trainer", TRAINERS)
@pytest.mark.parametrize("toolkit", ["embedded", "dassl"])
def test_base_to_new_from_a_checkpoint(trainer: str, toolkit: str, request: pytest.FixtureRequest) -> None:
    """Base classes come out as after training; new ones are evaluated on their own images."""
    outcome = request.getfixturevalue(toolkit)["training"][trainer]
    assert outcome["evaluated"]["base"] == outcome["result"]
    (new,) = outcome["evaluated"]["new"]
    assert new[0] == "18"


@pytest.mark.parametrize("toolkit", ["embedded", "dassl"])
def test_rates_after_resume(toolkit: str, request: pytest.FixtureRequest) -> None:
    outcome = request.getfixturevalue(toolkit)["resumed_rates"]
    assert outcome["before"] + outcome["after"] == outcome["whole"]
    assert {epoch for epoch, _ in outcome["before"]} == {1, 2}
    assert len({rate for _, rate in outcome["after"]}) == 3


def test_a_scheduler_stored_by_released_dassl(dassl: dict[str, Any]) -> None:
    outcome = dassl["legacy_scheduler"]
    assert outcome["resumed"] == pytest.approx(outcome["whole"][3:], rel=1e-12)
    assert "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD" in outcome["refused"]


def test_checkpoints_of_the_other_toolkit(data: Path, embedded: dict[str, Any], dassl: dict[str, Any]) -> None:
    """Each toolkit evaluates a model that the other one has saved, with the other one's result."""
    assert dassl["other_toolkits_checkpoint"] == embedded["training"]["MaPLe"]["evaluated"]["base"]
    again = run_cases("embedded", data, "other_toolkits_checkpoint")
    assert again["other_toolkits_checkpoint"] == dassl["training"]["MaPLe"]["evaluated"]["base"]
