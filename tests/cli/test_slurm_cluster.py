"""Sweeps on a real Slurm controller and node, started on the loopback interface by scripts/slurm_loopback.sh."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cpt_plugin.results.places import load_all
from cpt_plugin.results.store import JOURNAL

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "slurm_loopback.sh"
TABLE = """\
title: "Small"
taus: [0.5]
seeds: [1, 2]
columns: [{protocol: base_to_new}]
rows:
  - {method: zeroshot}
  - {label: plain, method: coop}
  - {label: TETF, method: coop_cpt, options: {CPT.WEIGHT_CC: 0, CPT.WEIGHT_RS: 0}}
"""
WORLD = 'shapes: ["shapes:colors:shift"]\n'
ENVIRONMENT = {**os.environ, "CPT_TOOLKIT": "embedded", "OMP_NUM_THREADS": "1"}
SWEEP = (sys.executable, "-m", "cpt_plugin", "reproduce")
SLURM = ("--launcher", "slurm")


def lacking():
    """Why there can be no cluster here, or nothing."""
    for program in ("munged", "slurmctld", "slurmd", "sbatch"):
        if shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is None:
            return f"no {program}: apt-get install slurmctld slurmd slurm-client munge"
    if importlib.util.find_spec("submitit") is None:
        return "submitit is not installed: pip install 'submitit>=1.5'"
    return "" if os.geteuid() == 0 else "Slurm's node daemon needs root"


pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(900),
    pytest.mark.skipif(bool(lacking()), reason=lacking()),
]


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """The environment of a user of the cluster."""
    folder = tmp_path_factory.mktemp("cluster")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    given = {**ENVIRONMENT, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin", "PORT": str(port)}
    try:
        done = subprocess.run(["bash", SCRIPT, "start", folder], env=given, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        yield {**given, "SLURM_CONF": f"{folder}/slurm.conf"}
    finally:
        subprocess.run(["bash", SCRIPT, "stop", folder], env=given, check=True, timeout=120)


def words(folder, output, *more, table=TABLE + WORLD):
    """A sweep with trainings long enough to be killed in their middle."""
    (folder / "small.yaml").write_text(table)
    places = ["--root", str(folder / "data"), "--output", str(folder / output)]
    return [*SWEEP, str(folder / "small.yaml"), *places, "--shots", "2", "--epochs", "150", *more]


@contextlib.contextmanager
def sweeping(command, environment):
    """A sweep that is running; killed at the end when it still is."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=ROOT, env=environment, text=True, **pipes) as sweep:
        try:
            yield sweep
        finally:
            sweep.kill()


def jobs(environment):
    """State of every job that the controller knows."""
    command = ["squeue", "--noheader", "--states=all", "--format=%i %T"]
    text = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    return dict(line.split() for line in text.splitlines())


def in_training(output, environment, sweep):
    """The job that trains a run which has a state to go on from; waits for one."""
    while sweep.poll() is None:
        for state in output.rglob("resume/state-*.tar"):
            run = state.parents[1]
            if not (run / "record.json").exists():
                for job, how in jobs(environment).items():
                    note = output / "logs" / "slurm" / f"{job}.json"
                    if how == "RUNNING" and note.exists() and belongs(json.loads(note.read_text())["runs"], run):
                        return job, run
        time.sleep(0.01)
    raise AssertionError(f"it ended before anything could be killed: {sweep.communicate()}")


def belongs(runs, run):
    """Whether runs are those of a folder ``<method>/tau.../[variant/]seed<seed>``."""
    (only,) = runs
    return f"seed{only[only.index('--seeds') + 1]}" == run.name and only[0] in run.parts


def processes_of(job):
    """Processes of a job, by what stands in their environment, the youngest last."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if f"SLURM_JOB_ID={job}".encode() in (place / "environ").read_bytes().split(b"\0"):
                found.append(int(place.name))
    return sorted(found)


def cancel(job, environment):
    subprocess.run(["scancel", job], env=environment, check=True)


def kill(job, environment):
    os.kill(processes_of(job)[-1], signal.SIGKILL)


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """The tables of an undisturbed sweep in local processes."""
    folder = tmp_path_factory.mktemp("local")
    subprocess.run(words(folder, "output"), cwd=ROOT, env=ENVIRONMENT, check=True, stdout=subprocess.DEVNULL)
    return files(folder / "output" / "tables")


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize(("end", "state"), [(cancel, "CANCELLED"), (kill, "FAILED")])
def test_a_job_that_dies_is_resumed_and_the_table_is_that_of_local_processes(tmp_path, environment, tables, end, state):
    output = tmp_path / "out put"
    with sweeping(words(tmp_path, "out put", *SLURM), environment) as sweep:
        job, _ = in_training(output, environment, sweep)
        end(job, environment)
        printed, errors = sweep.communicate()
    assert sweep.returncode == 0, errors
    (again,) = [line for line in printed.splitlines() if line.startswith("trying again")]
    assert f"job {job} ended without an answer ({state})" in again
    assert sum(", resumed;" in line for line in printed.splitlines()) == 1
    assert files(output / "tables") == tables
    assert len(load_all([output])) == 5
    assert not (output / JOURNAL).exists()


def test_interrupted_the_jobs_go_on_and_the_same_command_takes_them_over(
    tmp_path, environment, tables, ctrl_c_is_heard
):
    output = tmp_path / "output"
    with sweeping(words(tmp_path, "output", *SLURM), environment) as sweep:
        in_training(output, environment, sweep)
        sweep.send_signal(signal.SIGINT)
        errors = sweep.communicate()[1]
    assert sweep.returncode == 130
    left = re.search(r"to cancel them: scancel ([0-9 ]+)\n", errors)[1].split()
    assert left
    before = jobs(environment)
    done = subprocess.run(words(tmp_path, "output", *SLURM), cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert files(output / "tables") == tables
    submitted = len(jobs(environment).keys() - before.keys())
    assert submitted == 5 - len(before.keys() & {path.stem for path in (output / "logs" / "slurm").glob("*.json")})


def test_two_sweeps_on_one_folder_end_with_the_same_table_and_one_record_a_run(tmp_path, environment, tables):
    output = tmp_path / "output"
    command = words(tmp_path, "output", *SLURM)
    with sweeping(command, environment) as one, sweeping(command, environment) as other:
        printed = [sweep.communicate()[0] for sweep in (one, other)]
    assert (one.returncode, other.returncode) == (0, 0)
    assert files(output / "tables") == tables
    assert len(load_all([output])) == 5
    assert not [path for path in output.rglob("*") if ".tmp-" in path.name or ".corrupt" in path.name]
    assert len({text[text.index("\nSmall\n") :] for text in printed}) == 1
    answers = [json.loads(path.read_text())["outcomes"] for path in (output / "logs" / "slurm").glob("answer-*.json")]
    statuses = [outcome["status"] for outcomes in answers for outcome in outcomes]
    assert statuses.count("new") == 5
    assert set(statuses) <= {"new", "finished before"}


def test_a_run_whose_jobs_always_die_is_listed_as_failed(tmp_path, environment):
    output = tmp_path / "output"
    command = words(tmp_path, "output", *SLURM, "--seeds", "1", table=TABLE[: TABLE.index("  - {label: TETF")] + WORLD)
    killed = []
    with sweeping(command, environment) as sweep:
        while len(killed) < 2:
            job, _ = in_training(output, environment, sweep)
            kill(job, environment)
            killed.append(job)
            while jobs(environment)[job] != "FAILED":
                time.sleep(0.05)
        printed, errors = sweep.communicate()
    assert sweep.returncode == 1
    assert printed.count("trying again: coop ") == 1
    assert f"job {killed[1]} ended without an answer (FAILED)" in errors
    assert errors.count("failed: coop ") == 1
    assert (output / JOURNAL).exists()
    assert [one.method for one in load_all([output])] == ["zeroshot"]
