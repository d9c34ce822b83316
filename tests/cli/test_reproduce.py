"""Tables from an empty folder: planned, swept, killed and repeated, with the same table and nothing done twice."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from cpt_plugin.cli import reproduce as module
from cpt_plugin.cli.arguments import parse_arguments
from cpt_plugin.cli.experiment import Experiment
from cpt_plugin.cli.main import main
from cpt_plugin.cli.pool import Pool
from cpt_plugin.cli.reproduce_arguments import parse_reproduce
from cpt_plugin.errors import ConfigError
from cpt_plugin.results import record as records
from cpt_plugin.results.places import load_all
from cpt_plugin.results.store import JOURNAL

ROOT = Path(__file__).resolve().parents[2]
TABLE = """\
title: "Small"
taus: [0.5]
seeds: [1, 2]
columns: [{protocol: base_to_new}]
rows:
  - {method: zeroshot}
  - {label: plain, method: coop}
  - {label: TETF, method: coop_cpt, options: {CPT.WEIGHT_CC: 0, CPT.WEIGHT_RS: 0}}
shapes: ["shapes:colors:shift"]
"""
SMALL = ("--shots", "2", "--epochs", "12", "--workers", "1")


def words(folder, *more, table=TABLE):
    (folder / "small.yaml").write_text(table)
    places = ["--root", str(folder / "data"), "--output", str(folder / "output")]
    return [str(folder / "small.yaml"), *places, *SMALL, *more]


def content(folder):
    """Every file of the runs, and the tables."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and "logs" not in path.parts}


class Killer(Pool):
    """Kills its worker as soon as a run has a state to go on from."""

    folder: Path
    killed: list[int]

    def run(self) -> None:
        threading.Thread(target=self.kill, daemon=True).start()
        super().run()

    def kill(self) -> None:
        while not any(self.folder.rglob("resume/state-*.tar")):
            time.sleep(0.005)
        process = self.processes[0]
        os.kill(process.pid, signal.SIGKILL)
        self.killed.append(process.pid)


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A sweep whose worker was killed in the middle of its first training: (folder, status, what was printed)."""
    folder = tmp_path_factory.mktemp("sweep")
    lines: list[str] = []
    Killer.folder, Killer.killed = folder / "output", []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "Pool", Killer)
        patch.setattr(module, "_say", lines.append)
        status = module.reproduce(parse_reproduce(words(folder)))
    return folder, status, "\n".join(lines)


def copied(swept, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(swept[0], folder)
    return folder


def test_sweep_from_an_empty_folder_ends_with_a_table(swept):
    folder, status, printed = swept
    assert status == 0
    assert "5 runs: 5 to do" in printed
    assert "time: unknown" in printed
    rows = {line.split("  ")[0]: line for line in printed.splitlines() if "±" in line}
    assert {"zeroshot", "plain", "TETF"} <= set(rows)
    assert not any("(" in rows[label] for label in ("zeroshot", "plain", "TETF")), "all complete"
    assert "H, tau 0.5, TETF - plain:" in printed
    for suffix in (".md", ".csv", ".tex"):
        assert (folder / "output" / "tables" / f"small-shapes{suffix}").is_file()
    assert {(one.method, one.variant, one.seed) for one in load_all([folder / "output"])} == {
        ("zeroshot", "", 1),
        *((method, variant, seed) for seed in (1, 2) for method, variant in (
            ("coop", ""), ("coop_cpt", "CPT.WEIGHT_CC=0,CPT.WEIGHT_RS=0"))),
    }  # fmt: skip


def test_killed_worker_is_noticed_and_its_run_goes_on_to_the_same_end(swept):
    folder, _, printed = swept
    assert len(Killer.killed) == 1
    assert "trying again: coop shapes:colors:shift 0.5 --protocol base_to_new --seeds 1" in printed
    assert "was killed by signal 9" in printed
    line = next(line for line in printed.splitlines() if line.startswith("[") and "coop shapes" in line)
    seed_one = [line for line in printed.splitlines() if line.startswith("[") and "] coop shapes" in line]
    assert sum("resumed" in line for line in seed_one) == 1, line
    assert not (folder / "output" / JOURNAL).exists(), "it did not fail in the end"
    undisturbed = ["coop", "shapes:colors:shift", "0.5", "--shots", "2", "--epochs", "12", "--seeds", "1"]
    args = parse_arguments([*undisturbed, "--root", str(folder / "data"), "--output", str(folder / "other")])
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in the workers: sums over two threads are rounded in another way
    try:
        wanted = Experiment(args.method, 1, args).execute().record
    finally:
        torch.set_num_threads(threads)
    found = records.load(folder / "output/shapes-colors-shift/coop/tau0.5/seed1/record.json")
    for field in ("evaluations", "prompts_hash", "losses", "history", "config"):
        assert getattr(found, field) == getattr(wanted, field)


def test_repeated_it_does_nothing_and_writes_the_same_table(swept, tmp_path, capsys, monkeypatch):
    folder = copied(swept, tmp_path)
    output = folder / "output"
    before = content(output)
    monkeypatch.setattr(module, "Pool", None)
    assert main(["reproduce", *words(folder)]) == 0
    assert "5 runs: 5 done" in capsys.readouterr().out
    assert content(output) == before


def test_dry_run_lists_what_is_there_and_tells_the_time_from_earlier_records(swept, tmp_path, capsys, monkeypatch):
    folder = copied(swept, tmp_path)
    gone = folder / "output/shapes-colors-shift/coop/tau0.5/seed2"
    kept = records.load(gone.parent / "seed1/record.json")
    records.save(dataclasses.replace(kept, timings={"total": 600.0}), gone.parent / "seed1/record.json")
    shutil.rmtree(gone)
    before = content(folder)
    monkeypatch.setattr(module, "Pool", None)
    assert main(["reproduce", *words(folder), "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "5 runs: 4 done, 1 to do" in printed
    assert "  done     zeroshot shapes:colors:shift 0.5 --protocol base_to_new --seeds 1 --no-baseline" in printed
    assert "  to do    coop shapes:colors:shift 0.5 --protocol base_to_new --seeds 2 --no-baseline" in printed
    assert "--variant CPT.WEIGHT_CC 0 CPT.WEIGHT_RS 0" in printed
    assert "time: about 10 min with 1 workers, from earlier records" in printed
    assert content(folder) == before


def test_runs_with_other_settings_are_refused_by_name_and_not_in_the_way(swept, tmp_path, capsys):
    folder = copied(swept, tmp_path)
    given = words(folder)
    given[given.index("12")] = "13"
    assert main(["reproduce", *given]) == 1
    printed = capsys.readouterr()
    assert "5 runs: 1 done, 4 blocked" in printed.out
    assert printed.err.count("OPTIM.MAX_EPOCH: 12 != 13") == 4
    assert "cannot run: coop shapes:colors:shift" in printed.err


def test_begun_runs_of_other_settings_are_told_before_the_others_run(swept, tmp_path, capsys, monkeypatch):
    """Also in the folder of a first stage; what can run, runs."""
    folder = copied(swept, tmp_path)
    for method in ("coop", "coop_cpt", "zeroshot"):
        for record in (folder / "output").glob(f"*/{method}/**/seed1/record.json"):
            record.unlink()
    asked = []

    class Looking(Pool):
        def run(self):
            asked.extend(task.runs[0][0] for task in self._waiting)
            asked.append(capsys.readouterr().err)

    monkeypatch.setattr(module, "Pool", Looking)
    given = words(folder, table=TABLE.replace("method: coop}", "method: coop_dpc}"))
    given[given.index("12")] = "13"
    (folder / "output/shapes-colors-shift/zeroshot/tau0.5/seed1/run.json").unlink()
    assert main(["reproduce", *given, "--seeds", "1"]) == 1
    *ran, told = asked
    assert ran == ["zeroshot"]
    place = folder / "output/shapes-colors-shift"
    assert f"{place}/coop/tau0.5/seed1 holds another run" in told, "the first stage of coop_dpc"
    assert f"{place}/coop_cpt/tau0.5/CPT.WEIGHT_CC=0,CPT.WEIGHT_RS=0/seed1 holds another run" in told
    assert told.count("cannot run: ") == 2 == capsys.readouterr().err.count("cannot run: ")


def test_a_copied_run_counts_for_no_other_seed(swept, tmp_path, capsys, monkeypatch):
    folder = copied(swept, tmp_path)
    place = folder / "output/shapes-colors-shift/coop/tau0.5"
    shutil.rmtree(place / "seed2")
    shutil.copytree(place / "seed1", place / "seed2")
    monkeypatch.setattr(module, "Pool", None)
    assert main(["reproduce", *words(folder)]) == 1
    printed = capsys.readouterr()
    assert "5 runs: 4 done, 1 blocked" in printed.out
    assert "seed2/record.json is the record of another run (there != wanted): seed 1 != 2; delete" in printed.err
    assert "missing: plain, base to new, tau 0.5: shapes:colors:shift (seeds 2)" in printed.out


@pytest.mark.parametrize("name", ["tables", "logs"])
def test_a_file_in_the_way_is_named_before_anything_runs(tmp_path, capsys, monkeypatch, name):
    monkeypatch.setattr(module, "Pool", None)
    (tmp_path / "output").mkdir()
    (tmp_path / "output" / name).write_text("")
    assert main(["reproduce", *words(tmp_path)]) == 2
    assert f"error: {tmp_path / 'output' / name} cannot be written (File exists)" in capsys.readouterr().err


def test_an_option_that_is_true_has_one_name_in_a_table_and_in_its_runs(tmp_path):
    table = TABLE.replace("{CPT.WEIGHT_CC: 0, CPT.WEIGHT_RS: 0}", "{TRAINER.COOP.CSC: true}")
    args = parse_reproduce(words(tmp_path, table=table))
    spec = module.load_spec(args.table, ROOT)
    runs = [run.experiment for run in module.plan_runs(spec, args)]
    assert {run.variant for run in runs if run.method.name == "coop_cpt"} == {spec.rows[2].variant}
    assert spec.rows[2].variant == "TRAINER.COOP.CSC=True"


def test_damaged_record_is_named_and_the_table_made_without_it(swept, tmp_path, capsys, monkeypatch):
    folder = copied(swept, tmp_path)
    path = folder / "output/shapes-colors-shift/coop/tau0.5/seed2/record.json"
    path.write_text("{")
    monkeypatch.setattr(module, "Pool", None)
    assert main(["reproduce", *words(folder)]) == 1
    printed = capsys.readouterr()
    assert f"damaged record: {path}" in printed.err
    assert "missing: plain, base to new, tau 0.5: shapes:colors:shift (seeds 2)" in printed.out


def test_failed_runs_are_tried_twice_listed_and_told_in_the_table(tmp_path, capsys, monkeypatch):
    class Failing(Pool):
        """Every answer is a failure."""

        def _ask(self, number, task):
            return [{"error": "loss is nan at step 7", "final": False} for _ in task.runs]

    monkeypatch.setattr(module, "Pool", Failing)
    assert main(["reproduce", *words(tmp_path)]) == 1
    printed = capsys.readouterr()
    assert printed.out.count("\ntrying again: ") == 5
    assert printed.err.count("failed: ") == 5
    assert "loss is nan at step 7" in printed.err
    assert "failed: plain, seed 2, shapes:colors:shift, tau 0.5, base to new: loss is nan at step 7" in printed.out
    assert "- (0/2)" in printed.out


def test_photographs_that_are_not_there_block_their_runs(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(module, "Pool", None)
    table = TABLE + "real: [eurosat]\n"
    assert main(["reproduce", *words(tmp_path, "--world", "real", table=table)]) == 1
    printed = capsys.readouterr()
    assert "5 blocked" in printed.out
    assert "no records yet" in printed.out
    assert "cannot run: zeroshot eurosat 0.5 --protocol base_to_new --seeds 1 and 4 more: 'eurosat'" in printed.err


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("NPT.WEIGHT_LC: 1", "row 'TETF': NPT.WEIGHT_LC changes nothing, coop_cpt does not read it"),
        ("CPT.WEIGHT_CC: -1", "CPT.WEIGHT_CC must be a finite number"),
        ("CPT.WEIGHT_CCC: 1", "did you mean 'CPT.WEIGHT_CC'"),
    ],
)
def test_options_of_a_row_are_looked_at_before_anything_runs(tmp_path, capsys, option, message):
    table = TABLE.replace("CPT.WEIGHT_CC: 0", option)
    assert main(["reproduce", *words(tmp_path, table=table)]) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.err.count("\n") == 1


def test_evaluations_that_share_a_training_are_one_task(tmp_path, monkeypatch):
    seen = []

    class Looking(Pool):
        def run(self):
            seen.extend(self._waiting)

    monkeypatch.setattr(module, "Pool", Looking)
    table = TABLE.replace("{protocol: base_to_new}", "{protocol: cross_dataset}, {protocol: domain_generalization}")
    module.reproduce(parse_reproduce(words(tmp_path, table=table)))
    assert len(seen) == 5
    assert [[run[4] for run in task.runs] for task in seen] == [["cross_dataset", "domain_generalization"]] * 5


def test_a_reader_that_leaves_early_gets_no_traceback(tmp_path):
    command = [sys.executable, "-m", "cpt_plugin", "reproduce", "cpt_main", "--dry-run", "--output", str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as sweep:
        assert "runs: " in sweep.stdout.readline()
        sweep.stdout.close()
        assert sweep.stderr.read() == ""
        assert sweep.wait() == 141


def test_arguments_are_checked_before_anything_is_set_up(tmp_path):
    script = ["bash", str(ROOT / "scripts" / "reproduce.sh")]
    for given, message in (
        (["ablaton"], "nearest: 'ablation'"),
        ([], "TABLE"),
        (["ablation", "--taus", "2"], "(0, 1]"),
        (["ablation", "--workers", "0"], "--workers is '0'"),
    ):
        done = subprocess.run([*script, *given], cwd=tmp_path, capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (2, "")
        assert message in done.stderr
        assert done.stderr.count("\n") == 1
    done = subprocess.run([*script, "--help"], capture_output=True, text=True)
    assert done.returncode == 0
    assert "cluster_size" in done.stdout
    with pytest.raises(ConfigError, match="world"):
        parse_reproduce(["ablation", "--world", "mars"])


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_killed_command_given_again_ends_with_the_table_of_an_undisturbed_one(tmp_path):
    """The command itself, with `kill -9` at the whole sweep; finished runs are not touched, no worker stays behind."""
    environment = {**os.environ, "CPT_TOOLKIT": "embedded", "PYTHON": sys.executable}
    tables = {}
    for name, kills in (("calm", 0), ("killed", 3)):
        command = ["bash", str(ROOT / "scripts" / "reproduce.sh"), str(tmp_path / "small.yaml"), "--epochs", "8",
                   "--seeds", "1,2", "--root", str(tmp_path / "data"), "--output", str(tmp_path / name)]  # fmt: skip
        words(tmp_path)
        landed = 0
        for _ in range(kills):
            states = set((tmp_path / name).rglob("resume/state-*.tar"))
            with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as sweep:
                while not set((tmp_path / name).rglob("resume/state-*.tar")) - states and sweep.poll() is None:
                    time.sleep(0.01)
                landed += sweep.poll() is None
                sweep.kill()
        assert landed == kills, "every kill came in the middle of a training"
        finished = {path: path.stat().st_mtime_ns for path in (tmp_path / name).rglob("record*.json")}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert {path: path.stat().st_mtime_ns for path in finished} == finished
        tables[name] = content(tmp_path / name / "tables")
    assert [*map(bytes, tables["calm"].values())] == [*map(bytes, tables["killed"].values())]


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_two_sweeps_at_once_share_the_work_and_end_with_the_same_table(tmp_path):
    environment = {**os.environ, "CPT_TOOLKIT": "embedded"}
    command = [sys.executable, "-m", "cpt_plugin", "reproduce", *words(tmp_path)]
    sweeps = [
        subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    printed = [sweep.communicate()[0] for sweep in sweeps]
    assert [sweep.returncode for sweep in sweeps] == [0, 0]
    tables = [text[text.index("\nSmall\n") :] for text in printed]
    assert tables[0] == tables[1]
    assert len(load_all([tmp_path / "output"])) == 5
    done = [line.rpartition(", ")[2] for text in printed for line in text.splitlines() if line.startswith("[")]
    assert sum(word.startswith("new") for word in done) == 5
    assert sum(word.startswith("finished before") for word in done) == len(done) - 5
