"""Records as JSON lines, the journal of failures, and appends by several processes at once (R21)."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import random

import pytest

from cpt_plugin.atomic import append_line
from cpt_plugin.cli.main import main
from cpt_plugin.errors import RecordError
from cpt_plugin.results.places import load_all
from cpt_plugin.results.record import save
from cpt_plugin.results.store import JOURNAL, Failure, add_failure, compressed, load_failures, to_lines

PROCESSES, APPENDS = 8, 1250


def append_many(path, process, start):
    draw = random.Random(process)
    start.wait(60)
    for number in range(APPENDS):
        append_line(path, json.dumps([process, number, "x" * draw.choice((0, 10, 5000))]))


def test_appends_of_eight_processes_lose_and_tear_nothing(tmp_path):
    """10,000 lines, many longer than what the system writes at once."""
    context = multiprocessing.get_context("fork")
    start = context.Barrier(PROCESSES)
    workers = [context.Process(target=append_many, args=(tmp_path / "lines", n, start)) for n in range(PROCESSES)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    found = [json.loads(line)[:2] for line in (tmp_path / "lines").read_text().splitlines()]
    assert len(found) == PROCESSES * APPENDS == 10_000
    for process in range(PROCESSES):
        assert [number for owner, number in found if owner == process] == list(range(APPENDS)), "in its own order"
    assert [owner for owner, _ in found] != sorted(owner for owner, _ in found), "the processes did take turns"


def test_a_line_that_a_killed_process_left_unfinished_spoils_no_other(tmp_path):
    failure = Failure("maple", "", "shapes", 0.25, 1, "base_to_new", "killed", "2026-01-01T00:00:00+00:00")
    (tmp_path / JOURNAL).write_text('{"method": "ma')
    add_failure(tmp_path, failure)
    add_failure(tmp_path, failure)
    assert load_failures(tmp_path) == [failure, failure]
    assert load_failures(tmp_path / "nowhere") == []
    with pytest.raises(ValueError, match="one line"):
        append_line(tmp_path / JOURNAL, "two\nlines")


def test_export_holds_every_record_and_reads_back(make_record, tmp_path, capsys):
    records = [make_record("maple", seed) for seed in (1, 2)]
    records.append(make_record("coop_cpt", 1, protocol="cross_dataset", targets={"dtd": 4}))
    for index, record in enumerate(records):
        save(record, tmp_path / "output" / str(index) / ("record.json" if index else "record-cross_dataset.json"))
    assert main(["results", "export", str(tmp_path / "output"), "-o", str(tmp_path / "all.jsonl")]) == 0
    assert "3 records" in capsys.readouterr().out
    text = (tmp_path / "all.jsonl").read_text()
    assert sorted(load_all([tmp_path / "all.jsonl"]), key=repr) == sorted(records, key=repr)
    assert to_lines(reversed(records)) == to_lines(records) == text
    assert main(["results", "export", str(tmp_path / "output")]) == 0
    assert capsys.readouterr().out == text
    assert load_all([tmp_path / "output" / "1" / "record.json"]) == [records[1]]


def test_a_folder_is_read_by_its_runs_own_files_and_by_lines_for_the_others(make_record, tmp_path, capsys):
    own, exported = make_record("maple", 1), [make_record("coop", seed) for seed in (1, 2)]
    stale = dataclasses.replace(own, created="2020-01-01T00:00:00+00:00")
    save(own, tmp_path / "runs" / "record.json")
    save(own, tmp_path / "copied" / "record.json")
    (tmp_path / "kept.jsonl.gz").write_bytes(compressed(to_lines([*exported, stale])))
    short = [dataclasses.replace(one, history=()) for one in exported]
    (tmp_path / "lines").mkdir()
    (tmp_path / "lines" / "short.jsonl").write_text(to_lines(short))
    (tmp_path / "imported.jsonl").write_text('{"imported": true, "accuracy": 81.2}\n')
    (tmp_path / JOURNAL).write_text('{"method": "ma')  # as a killed process leaves it
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "x.jsonl").write_text("{")
    (tmp_path / "metrics.jsonl").write_text('{"loss": 1}\n')
    (tmp_path / "folder.jsonl").mkdir()
    found = load_all([tmp_path])
    assert found[0] == own
    assert sorted(one.seed for one in found[1:]) == [1, 2]
    assert all(one.history for one in found)
    assert sorted(load_all([tmp_path / "lines"]), key=repr) == sorted(short, key=repr)
    assert main(["report", str(tmp_path), "--no-figures"]) == 0
    assert "3 finished runs" in (tmp_path / "report.html").read_text(encoding="utf-8")
    (tmp_path / "empty").mkdir()
    assert main(["results", "export", str(tmp_path / "empty")]) == 2
    assert "no records there" in capsys.readouterr().err


def test_imported_figures_among_records_are_named(make_record, tmp_path):
    (tmp_path / "mixed.jsonl").write_text(to_lines([make_record()]) + '{"imported": true, "accuracy": 81.2}\n')
    with pytest.raises(RecordError, match=r"mixed.jsonl, line 2: figures imported from a log are no records"):
        load_all([tmp_path])


def test_damaged_files_of_a_folder_are_named_or_end_it(make_record, tmp_path):
    save(make_record(), tmp_path / "good" / "record.json")
    (tmp_path / "bad.jsonl").write_text("{\n")
    damaged = []
    assert len(load_all([tmp_path / "good", tmp_path], damaged)) == 2
    assert [line.split(":")[0].rpartition("/")[2] for line in damaged] == ["bad.jsonl, line 1"]
    with pytest.raises(RecordError, match=r"bad.jsonl, line 1: is not JSON"):
        load_all([tmp_path / "good", tmp_path])


def test_a_journal_with_broken_bytes_is_read_as_far_as_it_goes(tmp_path):
    failure = Failure("maple", "", "shapes", 0.25, 1, "base_to_new", "killed", "2026-01-01T00:00:00+00:00")
    (tmp_path / JOURNAL).write_bytes(b'{"method": "\xff\xfe"}\n')
    add_failure(tmp_path, failure)
    assert load_failures(tmp_path) == [failure]


@pytest.mark.parametrize("place", ["file/below.md", "folder"])
def test_what_cannot_be_written_is_named_in_one_line(make_record, tmp_path, capsys, place):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    for name in ("maple", "maple_cpt"):
        save(make_record(name), tmp_path / "runs" / name / "record.json")
    runs, to = str(tmp_path / "runs"), ["-o", str(tmp_path / place)]
    commands = (
        ["results", "table", "seeds", "--records", runs], ["results", "table", runs], ["results", "export", runs],
        ["compare", "maple_cpt", "maple", runs], ["report", runs, "--no-figures"],
    )  # fmt: skip
    for words in commands:
        assert main([*words, *to]) == 2
        (line,) = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("report: ")]
        assert line.startswith(f"error: {tmp_path / place.split('/')[0]}")
        assert "cannot be written" in line


def test_export_leaves_out_runs_that_other_places_have(make_record, tmp_path, capsys):
    runs = [make_record("maple", seed) for seed in (1, 2, 3)]
    runs += [make_record("coop", 1), make_record("maple", 1, protocol="cross_dataset", targets={"dtd": 4})]
    (tmp_path / "all.jsonl").write_text(to_lines(runs))
    (tmp_path / "first.jsonl").write_text(to_lines(runs[:1]))
    save(make_record("coop", 1), tmp_path / "second" / "record.json")
    words = ["results", "export", str(tmp_path / "all.jsonl"), "-o", str(tmp_path / "rest.jsonl")]
    known = [word for place in ("first.jsonl", "second") for word in ("--except", str(tmp_path / place))]
    assert main([*words, *known]) == 0
    assert "3 records, 2 left out that are elsewhere" in capsys.readouterr().out
    assert (tmp_path / "rest.jsonl").read_text() == to_lines([runs[1], runs[2], runs[4]])
    assert main([*words, "--except", str(tmp_path / "none")]) == 2
    assert "none" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"all.jsonl, line 2: is not JSON"),
        ('{"schema": 9}', r"all.jsonl, line 2: field schema: expected 4, found 9"),
        ('{"imported": true, "accuracy": 81.2}', "line 2: figures imported from a log are no records"),
    ],
)
def test_a_line_that_is_no_record_is_named(make_record, tmp_path, line, message):
    (tmp_path / "all.jsonl").write_text(to_lines([make_record()]) + line + "\n")
    with pytest.raises(RecordError, match=message):
        load_all([tmp_path / "all.jsonl"])


def test_what_is_not_there_is_named(tmp_path, capsys):
    assert main(["results", "export", str(tmp_path / "none")]) == 2
    assert "no such folder" in capsys.readouterr().err
    with pytest.raises(RecordError, match="cannot be read: No such file or directory: give an output folder, or"):
        load_all([tmp_path / "none.jsonl"])
    (tmp_path / "README.md").write_text("# words")
    with pytest.raises(RecordError, match=r"README.md: is neither a folder nor a .json, .jsonl or .jsonl.gz"):
        load_all([tmp_path / "README.md"])
    assert main(["results", "exprot"]) == 2
