"""Choose settings of configs/trainers/*/micro.yaml, where the file says so, on validation images, never on test images.

Trains the prompt learners, and DPC over CoOp, on other class sets in the default world's domain, scores the harmonic
mean of the accuracies on the *validation* images of base and of new classes, and writes every score and the choice to
a log beside the configurations:

    python scripts/select_micro_settings.py --trainers CoOp MaPLe --log configs/trainers/micro_selection.json
    python scripts/select_micro_settings.py --trainers IVLP --log configs/trainers/IVLP/micro_selection.json
    python scripts/select_micro_settings.py --trainers CoOpDPC --log configs/trainers/DPC/micro_selection.json

A candidate's score is the mean over worlds and imbalance ratios. Half a point is less than the sampling error of
one seed, so among scores that close the higher accuracy on base classes decides: not training is no setting.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import tempfile
from pathlib import Path
from statistics import fmean
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cpt_plugin.atomic import atomic_write_text
from cpt_plugin.cli.repository import config_file, default_cfg
from cpt_plugin.results.provenance import utc_now, versions
from cpt_plugin.results.stats import harmonic_mean

WORLDS = ("texture_shape:tint", "color_texture:tint")
TAUS = (0.25, 0.06)
GRIDS: dict[str, dict[str, tuple[Any, ...]]] = {
    "CoOp": {"OPTIM.LR": (0.002, 0.008, 0.02), "OPTIM.MAX_EPOCH": (10, 20)},
    "MaPLe": {"OPTIM.LR": (0.002, 0.005, 0.02), "OPTIM.MAX_EPOCH": (10, 20)},
    "IVLP": {"OPTIM.LR": (0.002, 0.005, 0.02), "OPTIM.MAX_EPOCH": (10, 20)},
    "ShallowVL": {"OPTIM.LR": (0.002, 0.02, 0.2), "OPTIM.MAX_EPOCH": (10, 20)},
    "CoOpDPC": {"OPTIM.LR": (0.002, 0.01, 0.05), "OPTIM.MAX_EPOCH": (10,), "TRAINER.DPC.TOP_K": (4, 8)},
}
TIE = 0.5
DPC = "DPC"


def main() -> None:
    arguments = parse()
    log: dict[str, Any] = {
        "command": f"python scripts/select_micro_settings.py --trainers {' '.join(arguments.trainers)}",
        "worlds": list(WORLDS),
        "taus": list(TAUS),
        "seed": arguments.seed,
        "split": "val",
        "created": utc_now(),
        "versions": versions(),
        "trainers": {},
    }
    for trainer in arguments.trainers:
        grid, scored = GRIDS[trainer], []
        for values in itertools.product(*grid.values()):
            settings = dict(zip(grid, values, strict=True))
            runs: list[dict[str, Any]] = [
                {"world": world, "tau": tau, **validate(trainer, settings, world, tau, arguments)}
                for world in WORLDS
                for tau in TAUS
            ]
            scored.append({"settings": settings, "H": fmean(run["H"] for run in runs), "runs": runs})
            print(f"{trainer} {settings}: H {scored[-1]['H']:.2f}", flush=True)
        log["trainers"][trainer] = {"chosen": choose(scored), "candidates": scored}
        atomic_write_text(arguments.log, json.dumps(log, indent=1) + "\n")
        print(f"{trainer}: chosen {log['trainers'][trainer]['chosen']}", flush=True)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", default="data", help="data folder (the worlds are drawn there)")
    parser.add_argument("--log", type=Path, required=True, help="JSON file of all scores and the choice")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--trainers", nargs="+", choices=GRIDS, default=list(GRIDS))
    return parser.parse_args()


def choose(scored: list[dict[str, Any]]) -> dict[str, Any]:
    """Settings with the highest H; among those within ``TIE`` of it, the one that learns the base classes best."""
    best = max(entry["H"] for entry in scored)
    near = [entry for entry in scored if entry["H"] >= best - TIE]
    return max(near, key=lambda entry: fmean(run["base"] for run in entry["runs"]))["settings"]


def validate(
    trainer: str, settings: dict[str, Any], world: str, tau: float, arguments: argparse.Namespace
) -> dict[str, float]:
    """Validation accuracy (percent) on base and new classes after training on the base classes.

    A second stage starts from its first one with the settings of that one's own yaml.
    """
    from cpt_plugin import toolkit

    with tempfile.TemporaryDirectory() as output:
        own = {
            "DATASET.ROOT": arguments.root,
            "DATASET.WORLD": world,
            "DATASET.NUM_SHOTS": 16,
            "DATASET.IMBALANCE_TAU": tau,
            "SEED": arguments.seed,
            "TEST.SPLIT": "val",
            "TRAIN.PRINT_FREQ": 10**6,
            "VERBOSE": False,
        }
        if trainer.endswith(DPC):
            first, settings = f"{output}/first", {**settings, "TRAINER.DPC.STAGE_ONE": f"{output}/first"}
            train(config(trainer.removesuffix(DPC), {**own, "OUTPUT_DIR": first}))
        own |= {"OUTPUT_DIR": f"{output}/own", **settings}
        base = train(config(trainer, own)).results["accuracy"]
        model = toolkit.build_trainer(config(trainer, {**own, "DATASET.SUBSAMPLE_CLASSES": "new"}))
        model.load_model(f"{output}/own", epoch=settings["OPTIM.MAX_EPOCH"])
        new = model.test()
    return {"base": base, "new": new, "H": harmonic_mean(base, new)}


def train(cfg: Any) -> Any:
    from cpt_plugin import toolkit

    model = toolkit.build_trainer(cfg)
    model.train()
    return model


def config(trainer: str, own: dict[str, Any]) -> Any:
    cfg = default_cfg()
    cfg.merge_from_file(config_file("datasets", "shapes"))
    cfg.merge_from_file(config_file("trainers", trainer.removesuffix(DPC), "micro"))
    if trainer.endswith(DPC):
        cfg.merge_from_file(config_file("trainers", DPC, "micro"))
    values = {"TRAINER.NAME": trainer, "DATASET.SUBSAMPLE_CLASSES": "base", **own}
    cfg.merge_from_list([part for pair in values.items() for part in pair])
    cfg.freeze()
    return cfg


if __name__ == "__main__":
    main()
