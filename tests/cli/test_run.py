from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from cpt_plugin.cli import run as pipeline
from cpt_plugin.cli.arguments import parse_arguments
from cpt_plugin.cli.experiment import Outcome
from cpt_plugin.cli.identity import OtherRun, all_of
from cpt_plugin.cli.main import _COMMANDS, main
from cpt_plugin.errors import ConfigError, DataError, TrainingError
from tests.helpers.read_only import read_only
from tests.helpers.records import make_record

ROOT = Path(__file__).resolve().parents[2]


def arguments(tmp_path, *words):
    return parse_arguments([*words, "--output", str(tmp_path)])


def plan(tmp_path, *words):
    return [f"{method.name} {seed}" for method, seed in pipeline.plan_runs(arguments(tmp_path, *words))]


class FakeRuns:
    """Stands for the experiments: records what was asked, fails where it is told to."""

    def __init__(self, failures=(), status="new", refused=(), unread=(), undone=(), taken=()):
        self.failures = dict(failures)
        self.status = status
        self.refused = dict(refused)
        self.unread = unread
        self.undone = dict(undone)
        self.taken = dict(taken)
        self.asked = []

    def __call__(self, method, seed, arguments):
        runs = self

        class Fake:
            is_begun = False

            def reads(self, key):
                return (method.name, key) not in runs.unread

            def check(self):
                if method.name in runs.refused:
                    raise runs.refused[method.name]

            def check_data(self, seen):
                if method.name in runs.undone:
                    raise runs.undone[method.name]

            def check_folder(self):
                if (method.name, seed) in runs.taken:
                    raise runs.taken[method.name, seed]

            def execute(self):
                runs.asked.append((method.name, seed))
                if (method.name, seed) in runs.failures:
                    raise runs.failures[method.name, seed]
                record = make_record(method.name, seed, dataset=arguments.dataset, tau=arguments.tau)
                return Outcome(record, runs.status, 12.3)

        return Fake()


def test_zero_shot_runs_once_then_by_seed_the_baseline_and_the_method(tmp_path):
    assert plan(tmp_path, "maple_cpt", "shapes", "0.25", "--seeds", "5,0") == [
        "zeroshot 5",
        "maple 5",
        "maple_cpt 5",
        "maple 0",
        "maple_cpt 0",
    ]


def test_what_is_not_run_twice_or_not_wanted(tmp_path):
    assert plan(tmp_path, "coop", "shapes", "1", "--seeds", "1,2") == ["zeroshot 1", "coop 1", "coop 2"]
    assert plan(tmp_path, "zeroshot", "shapes", "1") == ["zeroshot 1"]
    assert plan(tmp_path, "zeroshot", "shapes", "1", "--no-baseline") == ["zeroshot 1"]
    assert plan(tmp_path, "coop_cpt", "shapes", "1", "--no-baseline", "--seeds", "7") == ["coop_cpt 7"]


def test_first_stage_runs_before_the_second_even_without_baselines(tmp_path):
    assert plan(tmp_path, "dpc_cpt", "shapes", "1", "--seeds", "4,5") == [
        "zeroshot 4",
        *(f"{method} {seed}" for seed in (4, 5) for method in ("coop", "coop_dpc", "coop_dpc_cpt")),
    ]
    assert plan(tmp_path, "maple_dpc", "shapes", "1", "--seeds", "1") == ["zeroshot 1", "maple 1", "maple_dpc 1"]
    assert plan(tmp_path, "dpc_cpt", "shapes", "1", "--seeds", "1", "--no-baseline") == ["coop 1", "coop_dpc_cpt 1"]


def test_zero_shot_runs_for_every_seed_when_the_class_order_is_drawn(tmp_path):
    words = ["zeroshot", "shapes", "1", "--seeds", "1,2", "DATASET.CLASS_ORDER", "random"]
    assert plan(tmp_path, *words) == ["zeroshot 1", "zeroshot 2"]


def test_wrong_settings_end_the_command_before_the_first_run(tmp_path, capsys):
    runs = FakeRuns(refused={"maple_cpt": ConfigError("CPT.WEIGHT_ETF must be a finite number >= 0, got -1.0")})
    assert pipeline.run(arguments(tmp_path, "maple_cpt", "shapes", "0.25"), runs) == 2
    assert runs.asked == []
    assert capsys.readouterr().err == "error: CPT.WEIGHT_ETF must be a finite number >= 0, got -1.0\n"


def test_a_key_that_no_run_of_the_command_reads_is_refused(tmp_path, capsys):
    words = ["maple_cpt", "shapes", "0.25", "--seeds", "1", "OPTIM.LR", "0.1", "NPT.WEIGHT_LC", "2.0"]
    unread = {(m, "NPT.WEIGHT_LC") for m in ("zeroshot", "maple", "maple_cpt")} | {("zeroshot", "OPTIM.LR")}
    runs = FakeRuns(unread=unread)
    assert pipeline.run(arguments(tmp_path, *words), runs) == 2
    assert runs.asked == []
    assert "NPT.WEIGHT_LC changes nothing: maple_cpt does not read it" in capsys.readouterr().err
    assert pipeline.run(arguments(tmp_path, *words[:-2]), runs) == 0


def test_all_runs_give_headings_a_table_and_files(tmp_path, capsys):
    runs = FakeRuns()
    args = arguments(tmp_path, "maple_cpt", "shapes", "0.25")
    assert pipeline.run(args, runs) == 0
    assert len(runs.asked) == 7
    printed = capsys.readouterr()
    assert printed.err == ""
    assert "[3/7] maple_cpt shapes tau 0.25 seed 1 ..." in printed.out
    assert "[3/7] maple_cpt base 65.0  new 50.0  H 56.5  (12 s)" in printed.out
    assert "3/3" in printed.out
    tables = tmp_path / "shapes" / "tables"
    assert "maple_cpt" in (tables / "maple_cpt-tau0.25.md").read_text()
    assert (tables / "maple_cpt-tau0.25.csv").read_text().startswith("dataset,tau,")


def test_a_run_that_was_finished_before_is_said_to_be(tmp_path, capsys):
    args = arguments(tmp_path, "coop", "shapes", "1", "--seeds", "1")
    assert pipeline.run(args, FakeRuns(status="finished before")) == 0
    assert "(12 s, finished before)" in capsys.readouterr().out


def test_a_failed_run_is_told_and_the_others_go_on(tmp_path, capsys):
    runs = FakeRuns({("maple_cpt", 2): TrainingError("loss is nan at step 7")})
    assert pipeline.run(arguments(tmp_path, "maple_cpt", "shapes", "0.25"), runs) == 1
    assert len(runs.asked) == 7
    printed = capsys.readouterr()
    assert "error: loss is nan at step 7" in printed.err
    assert "6 of 7 runs are finished" in printed.err
    row = next(line for line in printed.out.splitlines() if line.startswith("maple_cpt  "))
    assert row.endswith("2/3")


def test_when_every_run_fails_there_is_no_table(tmp_path, capsys):
    runs = FakeRuns({("zeroshot", 1): TrainingError("no")})
    assert pipeline.run(arguments(tmp_path, "zeroshot", "shapes", "1"), runs) == 1
    assert not (tmp_path / "shapes" / "tables").exists()
    assert "0 of 1 runs are finished" in capsys.readouterr().err


@pytest.mark.parametrize("fault", [ConfigError("unknown key OPTIM.LRR"), DataError("labels.csv, line 3: no label")])
def test_a_wrong_configuration_or_a_fault_of_the_data_is_told_once(tmp_path, capsys, fault):
    assert pipeline.run(arguments(tmp_path, "coop", "shapes", "1"), FakeRuns()) == 0
    tables = {path: path.read_bytes() for path in (tmp_path / "shapes" / "tables").iterdir()}
    runs = FakeRuns({("coop", seed): fault for seed in (1, 2, 3)})
    capsys.readouterr()
    assert pipeline.run(arguments(tmp_path, "coop", "shapes", "1"), runs) == 2
    assert runs.asked == [("zeroshot", 1), ("coop", 1)]
    printed = capsys.readouterr()
    assert printed.err == f"error: {fault}\n"
    assert "±" not in printed.out, "no table to bury the error"
    assert {path: path.read_bytes() for path in (tmp_path / "shapes" / "tables").iterdir()} == tables


def test_folders_with_other_runs_are_all_named_before_the_first_run_and_before_any_download(tmp_path, capsys):
    changed = {"maple": ["OPTIM.LR: 0.1 != 0.2"]}
    changed["maple_cpt"] = [*changed["maple"], "CPT.WEIGHT_ETF: 0.25 != 0.1"]
    other = {
        (method, seed): OtherRun(tmp_path / method / f"seed{seed}", lines, True)
        for method, lines in changed.items()
        for seed in (1, 3)
    }
    other["zeroshot", 1] = ConfigError(f"{tmp_path}/run.json is damaged: delete the folder.")
    runs, supplied = FakeRuns(taken=other), []
    args = arguments(tmp_path, "maple_cpt", "shapes", "0.25")
    assert pipeline.run(args, runs, lambda: supplied.append(1)) == 2
    assert (runs.asked, supplied) == ([], [])
    assert capsys.readouterr().err == (
        "error: 4 folders hold other runs than wanted (there != now): "
        f"{tmp_path}/maple/seed1, {tmp_path}/maple/seed3: OPTIM.LR: 0.1 != 0.2; "
        f"{tmp_path}/maple_cpt/seed1, {tmp_path}/maple_cpt/seed3: OPTIM.LR: 0.1 != 0.2; CPT.WEIGHT_ETF: 0.25 != 0.1. "
        "Add --variant (a folder of their own for these settings), or give another --output, or delete what is named. "
        f"{tmp_path}/run.json is damaged: delete the folder.\n"
    )


def test_variant_is_no_remedy_where_it_helps_only_some(tmp_path):
    errors = [OtherRun(tmp_path / "a", ["CPT.M: 1 != 2"], True), OtherRun(tmp_path / "b", ["toolkit: x != y"], False)]
    assert "--variant" not in str(all_of(errors))
    assert str(all_of(errors[:1])) == str(errors[0])


def test_a_table_that_cannot_be_written_is_printed_all_the_same(tmp_path, capsys):
    args = arguments(tmp_path, "coop", "shapes", "1")
    (tmp_path / "shapes").mkdir()
    (tmp_path / "shapes" / "tables").write_text("")
    assert pipeline.run(args, FakeRuns(status="finished before")) == 2
    printed = capsys.readouterr()
    assert "±" in printed.out
    assert printed.err.startswith(f"error: {tmp_path}/shapes/tables cannot be written (File exists)")
    (tmp_path / "shapes" / "tables").unlink()
    assert pipeline.run(args, FakeRuns()) == 0
    whole = capsys.readouterr().out
    with read_only(tmp_path):
        assert pipeline.run(args, FakeRuns()) == 0
    printed = capsys.readouterr()
    assert printed.out == whole
    assert "not written again, the same is there: " in printed.err
    with read_only(tmp_path):
        assert pipeline.run(arguments(tmp_path, "coop", "shapes", "1", "--seeds", "1"), FakeRuns()) == 2
    printed = capsys.readouterr()
    assert "±" in printed.out
    assert "(Read-only file system)" in printed.err


def test_the_table_is_written_before_it_is_printed(tmp_path, monkeypatch):
    """Whoever reads may leave, or be unable to show a sign of it."""

    def say(text):
        if "±" in text:
            raise BrokenPipeError

    monkeypatch.setattr(pipeline, "_say", say)
    with pytest.raises(BrokenPipeError):
        pipeline.run(arguments(tmp_path, "coop", "shapes", "1"), FakeRuns())
    assert {path.suffix for path in (tmp_path / "shapes" / "tables").iterdir()} == {".md", ".csv"}


def test_an_interruption_keeps_what_is_finished_and_says_how_to_go_on(tmp_path, capsys):
    runs = FakeRuns({("coop", 2): KeyboardInterrupt()})
    assert pipeline.run(arguments(tmp_path, "coop", "shapes", "1"), runs) == 130
    assert runs.asked[-1] == ("coop", 2)
    printed = capsys.readouterr()
    assert "the same command does the rest" in printed.err
    assert "1/3" in printed.out


def test_main_without_words_explains_itself(capsys):
    assert main([]) == 0
    assert "run METHOD DATASET TAU" in capsys.readouterr().out


def test_an_interruption_of_any_command_is_one_line(capsys, monkeypatch):
    def interrupted(words):
        raise KeyboardInterrupt

    monkeypatch.setitem(_COMMANDS, "doctor", interrupted)
    assert main(["doctor"]) == 130
    assert capsys.readouterr().err == "\ninterrupted\n"


def test_main_names_the_nearest_command(capsys):
    assert main(["rum"]) == 2
    assert "nearest: 'run'" in capsys.readouterr().err
    assert main(["list", "all"]) == 2


def test_list_names_parts_data_sets_and_worlds_without_torch():
    code = "import sys; sys.modules['torch'] = None; from cpt_plugin.cli.main import main; main(['list'])"
    done = subprocess.run(
        [sys.executable, "-S", "-s", "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    for name in ("maple", "coop", "zeroshot", "cpt", "eurosat"):
        assert any(name in line.split() for line in done.stdout.splitlines())
    assert sum(line.startswith("  shapes:") for line in done.stdout.splitlines()) >= 8


@pytest.mark.parametrize("words", [["nope", "shapes", "1"], ["coop", "shapes", "2"], []])
def test_run_sh_refuses_before_it_sets_anything_up(words, tmp_path):
    done = subprocess.run(
        ["bash", str(ROOT / "scripts" / "run.sh"), *words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: ")


def test_run_sh_helps_and_lists():
    for word, expected in (("--help", "examples:"), ("list", "prompt learner")):
        done = subprocess.run(
            ["bash", str(ROOT / "scripts" / "run.sh"), word], capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert expected in done.stdout


def test_run_sh_passes_every_command_on(tmp_path):
    script = ROOT / "scripts" / "run.sh"
    patterns = re.findall(r"(?m)^    ([a-z |]+)\)$", script.read_text())
    assert {word for pattern in patterns for word in pattern.split(" | ")} == {*_COMMANDS}
    environment = os.environ | {"PYTHON": sys.executable}
    for words, expected in (
        (["data", "list", "--root", str(tmp_path)], "eurosat"),
        (["results", "--help"], "usage: python -m cpt_plugin results"),
        (["report", "--help"], "usage: python -m cpt_plugin report"),
        (["reproduce", "--help"], "bash scripts/reproduce.sh ablation"),
        (["run", "--help"], "bash scripts/run.sh maple_cpt shapes 0.25"),
    ):
        done = subprocess.run(
            ["bash", str(script), *words], capture_output=True, text=True, check=False, env=environment
        )
        assert done.returncode == 0, done.stderr
        assert expected in done.stdout


def test_a_python_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setenv("PYTHON", "/nowhere/python3")
    for script in ("run.sh", "test.sh"):
        done = subprocess.run(
            ["bash", str(ROOT / "scripts" / script)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 2
        assert "PYTHON=/nowhere/python3" in done.stderr
