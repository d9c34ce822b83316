"""The commands of the README on the embedded model and a small drawing of its default world.

No accuracy is asserted: what the regularizers do to it is for the tables to report.
"""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from cpt_plugin import toolkit
from cpt_plugin.cli.arguments import parse_arguments
from cpt_plugin.cli.experiment import Experiment
from cpt_plugin.cli.run import run
from cpt_plugin.results import record as records
from datasets.shapes_world import store

ROOT = Path(__file__).resolve().parents[1]
IMAGES = {"train": 16, "val": 2, "test": 4}
METHODS = ("zeroshot", "coop", "coop_cpt")


@pytest.fixture(scope="module")
def small_world():
    """Fewer images a class than the real default world, everything else as it is."""
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "IMAGES_PER_CLASS", IMAGES)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory, small_world):
    return tmp_path_factory.mktemp("end_to_end")


def arguments(folder, *words):
    return parse_arguments([*words, "--root", str(folder / "data"), "--output", str(folder / "output")])


MAIN_JOB = ("coop_cpt", "shapes", "0.25", "--seeds", "1", "--epochs", "1", "--shots", "2")


@pytest.fixture(scope="module")
def main_job(folder):
    """Exit status of the main job and what it left; its words stay the same."""
    with pytest.MonkeyPatch.context() as patch:
        lines = []
        patch.setattr("cpt_plugin.cli.run._say", lines.append)
        status = run(arguments(folder, *MAIN_JOB))
    return status, "\n".join(lines), folder / "output" / "shapes"


def test_main_job_ends_with_a_table_of_three_methods(main_job):
    status, printed, output = main_job
    assert status == 0
    rows = [line for line in printed.splitlines() if line.endswith("1/1")]
    assert [row.split()[0] for row in rows] == list(METHODS)
    assert "(finished" not in printed
    assert "shapes, tau 0.25" in printed
    for group in ("head", "mid", "tail", "many", "medium", "few"):
        assert f"{group} (" in printed
    assert f"records: {output}" in printed


def test_main_job_leaves_records_and_tables(main_job):
    _, _, output = main_job
    found = {path.parent.parent.parent.name: records.load(path) for path in output.rglob("record.json")}
    assert set(found) == set(METHODS)
    record = found["coop_cpt"]
    assert record.backbone.name == "micro"
    assert len(record.evaluations["base"].per_class) == len(record.evaluations["new"].per_class) == 24
    assert record.cluster_hash != found["coop"].cluster_hash == ""
    hashes = {tuple(e.split_hash for e in one.evaluations.values()) for one in found.values()}
    assert len(hashes) == 1
    table = (output / "tables" / "coop_cpt-tau0.25.md").read_text()
    assert all(f"| {method} " in table for method in METHODS)
    with (output / "tables" / "coop_cpt-tau0.25.csv").open() as file:
        assert {row["method"] for row in csv.DictReader(file)} >= set(METHODS)


def test_main_job_given_again_skips_everything(folder, main_job, capsys):
    _, _, output = main_job
    before = {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}
    assert run(arguments(folder, *MAIN_JOB)) == 0
    printed = capsys.readouterr().out
    assert printed.count("finished before") == 3
    assert {path: path.read_bytes() for path in output.rglob("*") if path.is_file()} == before


def test_main_job_with_another_setting_is_refused(folder, main_job, capsys):
    assert run(arguments(folder, *MAIN_JOB, "OPTIM.LR", "0.5")) == 2
    assert "OPTIM.LR" in capsys.readouterr().err


def test_zero_shot_needs_no_training(folder, capsys):
    assert run(arguments(folder, "zeroshot", "shapes", "1", "--seeds", "1")) == 0
    printed = capsys.readouterr().out
    assert [line for line in printed.splitlines() if line.startswith("zeroshot ") and line.endswith("1/1")]
    assert not list((folder / "output" / "shapes" / "zeroshot").rglob("model.pth.tar*"))


def test_maple_runs_on_another_world(folder, capsys):
    words = ("maple_cpt", "shapes:shapes:outline", "0.5", "--seeds", "0", "--epochs", "1", "--shots", "2")
    assert run(arguments(folder, *words, "--no-baseline")) == 0
    assert (folder / "output" / "shapes-shapes-outline" / "maple_cpt" / "tau0.5" / "seed0" / "record.json").is_file()
    assert "maple_cpt" in capsys.readouterr().out


def test_the_program_itself_lists_and_refuses():
    """`python -m cpt_plugin` end to end, without a run: exit status and one line of explanation."""
    done = subprocess.run(
        [sys.executable, "-m", "cpt_plugin", "run", "mapl_cpt", "shapes", "1"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "maple" in done.stderr
    assert done.stderr.count("\n") == 1


# -- behaviour on the micro model ------------------------------------------------------------------------------------


def cosine_within_clusters(text, assignment):
    """Mean cosine over pairs of classes of one cluster."""
    unit = F.normalize(text.double(), dim=1)
    same = assignment[:, None] == assignment[None, :]
    same.fill_diagonal_(False)
    return (unit @ unit.T)[same].mean().item()


def text_after(folder, method, *opts):
    """Text features of the base classes before and after a short training."""
    words = (method, "shapes", "0.25", "--seeds", "1", "--shots", "8", "--epochs", "4")
    words = (*words, "DATALOADER.TRAIN_X.BATCH_SIZE", "16", *opts)
    args = arguments(folder / method / "-".join(opts), *words)
    toolkit.set_random_seed(1)
    trainer = toolkit.build_trainer(Experiment(args.method, 1, args).config("base"))

    @torch.no_grad()
    def features():
        return trainer.model.text_encoder(trainer.model.prompt_learner.text_prompts())

    before = features()
    trainer.train()
    return before, features(), trainer


def test_printed_etf_term_separates_and_rotation_term_holds(folder):
    _, plain, _ = text_after(folder, "coop")
    start, with_etf, trainer = text_after(folder, "coop_cpt", "CPT.WEIGHT_CC", "0.0", "CPT.WEIGHT_RS", "0.0")
    assignment = trainer.hook.regularizers[0].clusters.assignment
    assert cosine_within_clusters(with_etf, assignment) < cosine_within_clusters(start, assignment)
    assert cosine_within_clusters(with_etf, assignment) < cosine_within_clusters(plain, assignment)

    _, held, _ = text_after(folder, "coop_cpt", "CPT.WEIGHT_ETF", "0.0", "CPT.WEIGHT_CC", "0.0", "CPT.WEIGHT_RS", "1.0")
    moved = [F.cosine_similarity(text, start, dim=1).mean().item() for text in (plain, held)]
    assert 1 - moved[1] < 0.5 * (1 - moved[0])
