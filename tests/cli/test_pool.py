"""The pool with workers that do as they are told: dead ones are noticed and replaced, failures tried once more."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from cpt_plugin.cli.pool import Pool, Task

WORKER = """
import json, os, pathlib, signal, sys, time
for line in sys.stdin:
    outcomes = []
    for word, *rest in json.loads(line)["runs"]:
        mark = pathlib.Path(rest[0]) if rest else None
        first = mark is not None and not mark.exists()
        if mark is not None:
            mark.write_text(mark.read_text() + "x" if mark.exists() else "x")
        if word == "die" or (word == "die once" and first):
            os.kill(os.getpid(), signal.SIGKILL)
        if word == "half once" and first:
            sys.stdout.write('{"outcomes": [')
            sys.stdout.flush()
            os._exit(3)
        if word == "sleep":
            time.sleep(3600)
        failed = word in ("fail", "wrong") or (word == "fail once" and first)
        one = {"error": word, "final": word == "wrong"} if failed else {"status": "new", "seconds": 0.0}
        outcomes.append(one | {"pid": os.getpid(), "threads": os.environ["OMP_NUM_THREADS"]})
    print(json.dumps({"outcomes": outcomes}), flush=True)
    if word == "die after":
        os.kill(os.getpid(), signal.SIGKILL)
"""


class Reports(list):
    """What the pool said."""

    def __call__(self, task, answer, again):
        self.append((task.runs[0][0], answer, again))

    def of(self, word):
        return [(answer if isinstance(answer, str) else answer[0].get("error", "done"), again)
                for name, answer, again in self if name == word]  # fmt: skip


def pool(tmp_path, words, workers=2, reports=None):
    reports = Reports() if reports is None else reports
    tasks = [Task([[word, str(tmp_path / f"{number}")]]) for number, word in enumerate(words)]
    return Pool(tasks, workers, reports, tmp_path / "logs" / "workers.log", (sys.executable, "-c", WORKER)), reports


def test_every_task_is_done_once_by_processes_of_one_thread_each(tmp_path):
    one, reports = pool(tmp_path, [f"task {number}" for number in range(40)], workers=3)
    one.run()
    assert sorted(name for name, *_ in reports) == sorted(f"task {number}" for number in range(40))
    assert {answer[0]["threads"] for _, answer, _ in reports} == {"1"}
    assert 1 < len({answer[0]["pid"] for _, answer, _ in reports}) <= 3
    assert all(path.read_text() == "x" for path in tmp_path.iterdir() if path.is_file())


@pytest.mark.parametrize("workers", [1, 3])
def test_a_dead_worker_is_noticed_and_its_task_done_by_another(tmp_path, workers):
    one, reports = pool(tmp_path, ["die once", "a", "half once", "b"], workers)
    one.run()
    for word, how in (("die once", "was killed by signal 9"), ("half once", "ended with status 3")):
        (death, again), (done, last) = reports.of(word)
        assert how in death
        assert "workers.log" in death
        assert (again, done, last) == (True, "done", False)
    assert reports.of("a") == reports.of("b") == [("done", False)]


def test_a_worker_that_dies_between_two_tasks_is_replaced(tmp_path):
    """It has answered, so the next task costs no attempt."""
    reports = Reports()

    def report(task, answer, again):
        reports(task, answer, again)
        if task.runs[0][0] == "die after":
            one.processes[0].wait()

    one, _ = pool(tmp_path, ["die after", "task 0", "task 1"], workers=1, reports=report)
    one.run()
    assert reports.of("die after") == [("done", False)]
    assert reports.of("task 0") == reports.of("task 1") == [("done", False)]


def test_what_fails_twice_is_given_up_and_a_wrong_configuration_at_once(tmp_path):
    one, reports = pool(tmp_path, ["die", "fail", "fail once", "wrong", "a"])
    one.run()
    assert reports.of("fail") == [("fail", True), ("fail", False)]
    assert reports.of("fail once") == [("fail once", True), ("done", False)]
    assert reports.of("wrong") == [("wrong", False)]
    assert [again for _, again in reports.of("die")] == [True, False]
    assert reports.of("a") == [("done", False)]


def test_an_error_of_the_report_ends_the_pool_and_its_processes(tmp_path):
    processes = []

    def report(task, answer, again):
        processes.extend(one.processes.values())
        raise OSError("no space left")

    one, _ = pool(tmp_path, ["a", "sleep", "b"], reports=report)
    with pytest.raises(OSError, match="no space left"):
        one.run()
    assert processes
    assert all(process.poll() is not None for process in processes)


def test_no_tasks_start_no_process(tmp_path):
    one, reports = pool(tmp_path, [])
    one.run()
    assert (one.processes, reports) == ({}, [])


def test_an_interruption_ends_the_processes(tmp_path, ctrl_c_is_heard):
    one, reports = pool(tmp_path, ["sleep", "sleep"])
    processes = []

    def interrupt():
        while len(processes) < 2 or len(list(tmp_path.glob("[01]"))) < 2:  # both at work
            time.sleep(0.01)
            processes[:] = one.processes.values()
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        one.run()
    assert len(processes) == 2
    assert all(process.poll() is not None for process in processes)
    assert reports == [], "an end that was asked for is no failure"


def test_a_worker_ends_when_its_sweep_is_gone():
    """Without torch: the input ends while it waits."""
    code = "import sys; sys.modules['torch'] = None; from cpt_plugin.cli.worker import main; main()"
    root = Path(__file__).resolve().parents[2]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code], cwd=root, **pipes) as worker:
        worker.stdin.write(json.dumps({"runs": [["coop", "shapess", "1"]]}).encode() + b"\n")
        worker.stdin.flush()
        (outcome,) = json.loads(worker.stdout.readline())["outcomes"]
        assert "unknown data set 'shapess'; nearest: 'shapes'" in outcome["error"]
        assert outcome["final"]
        worker.stdin.close()
        assert worker.wait(20) == 0
