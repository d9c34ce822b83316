"""Jobs of a cluster that does as it is told: `squeue` is a script that prints a file, and jobs answer or die by name.

The launcher on a real controller and node is in test_slurm_cluster.py.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
import types

import pytest

from cpt_plugin.cli import slurm
from cpt_plugin.cli.main import main
from cpt_plugin.cli.pool import Task
from cpt_plugin.cli.reproduce_arguments import parse_reproduce
from cpt_plugin.cli.slurm import Jobs, SubmissionError
from cpt_plugin.cli.slurm_arguments import SlurmOptions
from cpt_plugin.errors import ConfigError

DONE = {"status": "new", "seconds": 0.0}


def command(folder, name, text):
    """A program in the folder, also in the place of one that is running."""
    path = folder / f"{name}.new"
    path.write_text(f"#!/bin/bash\n{text}\n")
    path.chmod(0o755)
    path.rename(folder / name)


class Cluster:
    """Jobs that run until they are asked about; then each does what the first word of its run says."""

    def __init__(self, folder):
        self.folder, self.submitted, self.most, self.states, self.reports = folder, [], 0, {}, []
        self.refuses = lambda: False
        command(folder, "squeue", f'cat "{folder}/states"')
        self.show()

    def show(self):
        (self.folder / "states").write_text("".join(f"{job} {state}\n" for job, state in self.states.items()))

    def submit(self, runs, answer):
        if self.refuses():
            raise SubmissionError("QOSMaxSubmitJobPerUserLimit")
        job, word = str(len(self.submitted) + 101), runs[0][0]
        first = word not in self.submitted
        self.submitted.append(word)
        state = {"once": word.split()[0] if first else "", "always": word.split()[0]}.get(word.split()[-1], "")
        if not state:
            answer.write_text(json.dumps({"outcomes": [DONE] * len(runs)}))
            state = "COMPLETED"
        self.states[job] = state
        if state == "forgotten":
            del self.states[job]
        self.most = max(self.most, len(self.jobs.running) + 1)
        self.show()
        return job

    def report(self, task, answer, again):
        self.reports.append((task.runs[0][0], answer if isinstance(answer, str) else "done", again))

    def sweep(self, words, workers=2):
        tasks = [Task([[word]]) for word in words]
        self.jobs = Jobs(tasks, workers, self.report, self.folder / "jobs", self.submit)
        return self.jobs


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    monkeypatch.setattr(slurm, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(slurm, "PATIENCE_SECONDS", 0.02)
    monkeypatch.setattr(slurm, "PATIENCE_COMPLETED_SECONDS", 0.2)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return Cluster(tmp_path)


def test_every_task_is_done_once_with_so_many_jobs_at_once(cluster):
    words = [f"task {number}" for number in range(7)]
    cluster.sweep(words, workers=3).run()
    assert cluster.submitted == words
    assert sorted(cluster.reports) == [(word, "done", False) for word in words]
    assert cluster.most == 3


@pytest.mark.parametrize(
    "state", ["FAILED", "TIMEOUT", "CANCELLED", "OUT_OF_MEMORY", "NODE_FAIL", "COMPLETED", "forgotten"]
)
def test_a_dead_job_is_noticed_and_submitted_once_more(cluster, state):
    cluster.sweep([f"{state} once", "a"]).run()
    assert cluster.submitted == [f"{state} once", "a", f"{state} once"]
    (_, death, again), (_, done, last) = [report for report in cluster.reports if report[0] != "a"]
    assert "job 101 ended without an answer (" in death
    assert ("squeue does not know it" if state == "forgotten" else state) in death
    assert "101_0_log.err" in death
    assert (again, done, last) == (True, "done", False)


def test_a_job_that_dies_twice_is_given_up(cluster):
    cluster.sweep(["TIMEOUT always", "a"]).run()
    assert cluster.submitted.count("TIMEOUT always") == 2
    assert [again for word, _, again in cluster.reports if word != "a"] == [True, False]


def test_an_answer_that_is_seen_late_is_no_death(cluster):
    def show_late(task_file):
        (task_file.parent / "hidden").rename(task_file)

    submit = cluster.submit

    def hide(runs, answer):
        job = submit(runs, answer)
        answer.rename(answer.parent / "hidden")
        threading.Timer(0.08, show_late, [answer]).start()
        return job

    cluster.submit = hide
    cluster.sweep(["a"]).run()
    assert cluster.reports == [("a", "done", False)]


def test_a_silent_controller_kills_no_job(cluster, capsys):
    submit = cluster.submit

    def go_silent(runs, answer):
        job = submit(runs, answer)
        command(cluster.folder, "squeue", 'echo "Unable to contact slurm controller" >&2; exit 1')
        threading.Timer(0.3, command, [cluster.folder, "squeue", f'cat "{cluster.folder}/states"']).start()
        return job

    cluster.submit = go_silent
    cluster.sweep(["FAILED once"], workers=1).run()
    assert [again for _, _, again in cluster.reports] == [True, False]
    assert capsys.readouterr().err.count("Unable to contact slurm controller") <= 2, "said once each time"


def test_a_job_that_still_runs_is_taken_over_and_one_that_has_ended_is_not(cluster):
    jobs = cluster.folder / "jobs"
    jobs.mkdir()
    for number, word in ((7, "a"), (8, "b"), (9, "another sweep's")):
        (jobs / f"{number}.json").write_text(json.dumps({"runs": [[word]], "answer": f"answer-{number}.json"}))
    cluster.states = {"7": "RUNNING", "8": "CANCELLED", "9": "PENDING", "10": "RUNNING"}
    cluster.show()
    threading.Timer(0.3, (jobs / "answer-7.json").write_text, [json.dumps({"outcomes": [DONE]})]).start()
    cluster.sweep(["a", "b", "c"], workers=3).run()
    assert cluster.submitted == ["b", "c"]
    assert sorted(cluster.reports) == [(word, "done", False) for word in "abc"]


def test_interrupted_it_names_the_jobs_that_go_on(cluster, capsys, ctrl_c_is_heard, monkeypatch):
    cluster.sweep(["RUNNING always", "PENDING always", "c"])

    def looks(seconds, sleep=time.sleep):
        if len(cluster.jobs.running) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        sleep(seconds)

    monkeypatch.setattr(slurm.time, "sleep", looks)
    with pytest.raises(KeyboardInterrupt):
        cluster.jobs.run()
    assert "to cancel them: scancel 101 102" in capsys.readouterr().err
    assert cluster.reports == []
    assert json.loads((cluster.folder / "jobs" / "102.json").read_text())["runs"] == [["PENDING always"]]


def test_a_refused_job_waits_while_others_run_and_ends_the_sweep_when_none_does(cluster):
    cluster.sweep(["a", "b", "c"], workers=3)
    cluster.refuses = lambda: len(cluster.jobs.running) >= 1
    cluster.jobs.run()
    assert cluster.submitted == ["a", "b", "c"]
    assert cluster.most == 1
    cluster.refuses = lambda: True
    with pytest.raises(SubmissionError, match="QOSMax"):
        cluster.sweep(["a"]).run()


def test_options(capsys):
    assert parse_reproduce(["ablation"]).slurm is None
    given = ["ablation", "--launcher", "slurm"]
    assert parse_reproduce(given).slurm == SlurmOptions()
    more = ["--slurm-partition", "long,short", "--slurm-time", "1-02:00:00", "--slurm-gpus", "1", "--slurm-cpus", "4"]
    extra = ["--slurm-extra", "mem=8G", "--slurm-extra", "exclusive", "--slurm-extra", "export=ALL,A=b c"]
    assert parse_reproduce([*given, *more, *extra]).slurm == SlurmOptions(
        "long,short", "1-02:00:00", 1, 4, (("mem", "8G"), ("exclusive", True), ("export", "ALL,A=b c"))
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--slurm-gpus", "1"], "--slurm-gpus goes with --launcher slurm only"),
        (["--launcher", "slurm", "--slurm-time", "soon"], "--slurm-time is 'soon'"),
        (["--launcher", "slurm", "--slurm-gpus", "0"], "--slurm-gpus is '0'"),
        (["--launcher", "slurm", "--slurm-partition", "a b"], "--slurm-partition is 'a b'"),
        (["--launcher", "slurm", "--slurm-extra", "Mem=8G"], "KEY=VALUE"),
        (["--launcher", "slurm", "--slurm-extra", "mem="], "KEY=VALUE"),
        (["--launcher", "slurm", "--slurm-extra", "comment=a\n#SBATCH --exclusive"], "KEY=VALUE"),
        (["--launcher", "ssh"], "ssh"),
    ],
)
def test_wrong_options_are_refused(given, message):
    with pytest.raises(ConfigError) as error:
        parse_reproduce(["ablation", *given])
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_without_submitit_or_slurm_one_line_says_what_to_do(tmp_path, capsys, monkeypatch):
    given = ["reproduce", "seeds", "--launcher", "slurm", "--output", str(tmp_path / "output")]
    monkeypatch.setitem(sys.modules, "submitit", None)
    assert main(given) == 2
    assert capsys.readouterr().err == (
        "error: --launcher slurm needs the package submitit: pip install 'submitit>=1.5'\n"
    )
    monkeypatch.setitem(sys.modules, "submitit", types.ModuleType("submitit"))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(given) == 2
    assert capsys.readouterr().err.startswith("error: --launcher slurm needs the command sbatch: ")


def test_submitit_makes_the_job_that_was_asked_for(tmp_path, monkeypatch):
    """Through submitit, with an `sbatch` that runs the script at once; the run has a wrong name and ends soon."""
    pytest.importorskip("submitit", reason="submitit is not installed: pip install 'submitit>=1.5'")
    from cpt_plugin.cli.repository import ROOT

    number = 'export SLURM_JOB_ID=$((100 + $(ls -d "$0".* 2>/dev/null | wc -l))); touch "$0.$SLURM_JOB_ID"'
    output = 'sed -n "s/^#SBATCH --output=//p" "$1" | sed "s/%j/$SLURM_JOB_ID/"'
    run = 'cd "$(sed -n "s/^#SBATCH --chdir=//p" "$1")"; bash "$script" >"$out" 2>&1 </dev/null & '
    lines = [number, f"out=$({output})", 'script="$0.$SLURM_JOB_ID.sh"; cp "$1" "$script"', run]
    command(tmp_path, "sbatch", "\n".join([*lines, 'echo "Submitted batch job $SLURM_JOB_ID"']))
    command(tmp_path, "squeue", "for job in {100..109}; do echo $job RUNNING; done")
    command(tmp_path, "srun", "exit 1")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(slurm, "POLL_SECONDS", 0.1)
    options = SlurmOptions("gpu", "2:00:00", 1, 3, (("mem", "8G"), ("requeue", True)))
    reports, folder = [], tmp_path / "slurm"
    submit = slurm.submitter(options, folder, ROOT)
    runs = [["coop", "shapess", "1"]]
    Jobs([Task(runs)], 2, lambda task, answer, again: reports.append((answer, again)), folder, submit).run()
    (((outcome,), again),) = reports
    assert "unknown data set 'shapess'" in outcome["error"]
    assert not again
    script = (tmp_path / "sbatch.100.sh").read_text().splitlines()
    for option in ("partition=gpu", "time=2:00:00", "gpus-per-node=1", "cpus-per-task=3", "mem=8G", "requeue"):
        assert f"#SBATCH --{option}" in script
    assert "export OMP_NUM_THREADS=3" in script
    command(tmp_path, "sbatch", 'echo "sbatch: error: invalid partition specified: gpu" >&2; exit 1')
    with pytest.raises(SubmissionError, match="invalid partition specified: gpu"):
        submit(runs, folder / "answer.json")
