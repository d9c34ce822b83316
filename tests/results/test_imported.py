"""Logs of Dassl's family: the accuracy that counts, unfinished runs, and that nothing of it becomes a record."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy import stats as reference

from cpt_plugin.cli.main import main
from cpt_plugin.errors import RecordError
from cpt_plugin.results.imported import describe, read_logs, to_lines
from cpt_plugin.results.places import load_all

STEP = "epoch [2/2] batch [5/5] time 0.6 (0.6) data 0.0 (0.0) loss 2.33 (2.30) acc 6.2 (6.2) lr 2.0000e-03 eta 0:00:03"


def result(accuracy):
    return f"=> result\n* total: 2,465\n* correct: 2,300\n* accuracy: {accuracy}%\n* error: 6.7%\n* macro_f1: 92.0%"


def write(folder, *lines):
    folder.mkdir(parents=True)
    (folder / "log.txt").write_text("\n".join(lines) + "\n")


def accuracies(folder):
    return {(run.experiment, run.run): run.accuracy for run in read_logs(folder)[0]}


def test_last_accuracy_after_the_end_of_training_counts(tmp_path):
    validated = (STEP, result("50.0"), STEP, "Finish training", "Deploy the last-epoch model")
    write(tmp_path / "coop" / "seed1", *validated, result("93.3"), "* average: 10.0%", "Elapsed: 0:01:00")
    write(tmp_path / "coop" / "seed2", *validated, result("11.1"), result("94.25"))
    write(tmp_path / "coop" / "seed3", STEP, result("50.0"), STEP)
    write(tmp_path / "coop" / "seed4", *validated)
    write(tmp_path / "new" / "seed1", "Evaluate on the *test* set", result("60.0"))
    write(tmp_path / "old" / "seed1", STEP, "Finished training", result("70.0"))
    assert accuracies(tmp_path) == {
        ("coop", "seed1"): 93.3,
        ("coop", "seed2"): 94.2,
        ("coop", "seed3"): None,
        ("coop", "seed4"): None,
        ("new", "seed1"): 60.0,
        ("old", "seed1"): 70.0,
    }


def test_unfinished_runs_are_named_and_lower_n_and_the_spread_is_scipys(tmp_path):
    values = [81.2, 79.9, 80.4]
    for seed, value in enumerate(values):
        write(tmp_path / "maple" / f"seed{seed}", STEP, "Finish training", result(value))
    write(tmp_path / "maple" / "seed9", STEP)
    low, high = reference.t.interval(0.95, 2, np.mean(values), reference.sem(values))
    (line,) = describe(read_logs(tmp_path)[0]).splitlines()
    assert line == (
        f"maple: 3/4 runs (imported), accuracy {np.mean(values):.1f} ±{np.std(values, ddof=1):.1f}, "
        f"95 % t-interval [{low:.1f}, {high:.1f}]; without a result: seed9"
    )


def test_command_writes_marked_lines_which_no_table_takes_for_records(tmp_path, capsys):
    write(tmp_path / "logs" / "maple" / "seed1", STEP, "Finish training", result("80.0"))
    own = tmp_path / "logs" / "ours" / "seed1"
    write(own, STEP, "Finish training", result("70.0"))
    write(own / "new", result("60.0"))
    (own / "run.json").write_text("{}")
    output = tmp_path / "imported.jsonl"
    assert main(["results", "import", str(tmp_path / "logs"), "-o", str(output)]) == 0
    printed = capsys.readouterr().out
    assert "maple: 1/1 runs (imported), accuracy 80.0\n" in printed
    assert "2 logs are of this package's own runs" in printed
    (line,) = output.read_text().splitlines()
    assert json.loads(line) == {"imported": True, "experiment": "maple", "run": "seed1", "accuracy": 80.0}
    with pytest.raises(RecordError, match="imported from a log are no records"):
        load_all([output])


def test_a_folder_given_as_the_run_itself(tmp_path):
    write(tmp_path / "coop" / "seed1", "Finish training", STEP, "Finish training", result("80.0"))
    assert accuracies(tmp_path / "coop" / "seed1") == {("coop", "seed1"): 80.0}
    assert to_lines([]) == ""


def test_a_folder_without_logs_is_refused(tmp_path):
    with pytest.raises(RecordError, match=r"no log\.txt below it"):
        read_logs(tmp_path)
