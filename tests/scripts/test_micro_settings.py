"""The micro configurations hold what the selection log says was chosen, on validation images of other worlds."""

from __future__ import annotations

import json

import pytest

from cpt_plugin.cli.repository import ROOT, config_file, default_cfg
from cpt_plugin.config_identity import flatten
from cpt_plugin.worlds import parse_world
from scripts.select_micro_settings import choose

FOLDER = ROOT / "configs" / "trainers"
LOGS = [json.loads((FOLDER / name / "micro_selection.json").read_text()) for name in (".", "DPC", "IVLP", "ShallowVL")]
SCORES = {trainer: scores for log in LOGS for trainer, scores in log["trainers"].items()}
FOLDERS = {"CoOp": "CoOp", "MaPLe": "MaPLe", "IVLP": "IVLP", "ShallowVL": "ShallowVL", "CoOpDPC": "DPC"}


@pytest.mark.parametrize(("trainer", "folder"), FOLDERS.items())
def test_configuration_is_the_logged_choice(trainer, folder):
    cfg = default_cfg()
    cfg.merge_from_file(config_file("trainers", folder, "micro"))
    chosen, flat = SCORES[trainer]["chosen"], flatten(cfg)
    assert chosen == {key: flat[key] for key in chosen}
    assert {"OPTIM.LR", "OPTIM.MAX_EPOCH"} <= set(chosen)
    assert chosen == choose(SCORES[trainer]["candidates"])


@pytest.mark.parametrize("log", LOGS)
def test_selection_saw_neither_test_images_nor_the_default_classes(log):
    assert log["split"] == "val"
    assert parse_world("").class_set not in {parse_world(world).class_set for world in log["worlds"]}


def test_choice_goes_by_base_accuracy_only_among_ties():
    scored = [
        {"settings": {"OPTIM.LR": 1.0}, "H": 50.4, "runs": [{"base": 60.0}, {"base": 50.0}]},
        {"settings": {"OPTIM.LR": 2.0}, "H": 50.0, "runs": [{"base": 60.0}, {"base": 58.0}]},
        {"settings": {"OPTIM.LR": 3.0}, "H": 49.0, "runs": [{"base": 70.0}, {"base": 70.0}]},
    ]
    assert choose(scored) == {"OPTIM.LR": 2.0}
