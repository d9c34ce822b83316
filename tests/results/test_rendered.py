"""Kept records render to the same bytes, whoever renders them and when; a check names every file that would change."""

from __future__ import annotations

import gzip
import importlib.metadata
import shutil
from pathlib import Path

import pytest

from cpt_plugin.cli.main import main
from cpt_plugin.errors import RecordError
from cpt_plugin.results import provenance
from cpt_plugin.results.places import load_all
from cpt_plugin.results.store import compressed, to_lines
from tests.helpers.records import make_record

ROOT = Path(__file__).parents[2]
COMMITTED = ROOT / "results" / "shapes"
WORLDS = ("shapes", "shapes:colors:clean")
MANIFEST = """\
records: [records.jsonl.gz]
tables:
  - {name: own, words: own.yaml}
  - {name: own-one_seed, words: "own.yaml --seeds 1 --taus 0.06 --datasets shapes:colors:clean", records: [more.jsonl]}
of_comparisons: "--metric H,tail"
comparisons:
  - {name: cpt, words: "maple_cpt maple --tau 0.25 --holm"}
"""
TABLE = """\
title: Two worlds
taus: [0.25]
seeds: [1, 2]
columns: [{metric: H}]
rows: [{method: maple}, {method: maple_cpt}]
shapes: [shapes, "shapes:colors:clean"]
"""
FILES = [f"tables/{stem}{suffix}" for stem in ("own", "own-one_seed") for suffix in (".md", ".csv", ".tex")]
FILES += ["comparisons/cpt.md", "comparisons/cpt.csv"]


def records(tau=0.25):
    return [
        make_record(name, seed, correct=(9, 8, 7, 6, 5, hits + seed), dataset=world, tau=tau,
                    config={"DATASET.WORLD": world}, versions={"torch": "9.8.7"})
        for name, hits in (("maple", 1), ("maple_cpt", 3))
        for world in WORLDS
        for seed in (1, 2)
    ]  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    """A rendered folder with a manifest, a table of its own and two files of records."""
    (tmp_path / "manifest.yaml").write_text(MANIFEST)
    (tmp_path / "own.yaml").write_text(TABLE)
    (tmp_path / "records.jsonl.gz").write_bytes(compressed(to_lines(records())))
    (tmp_path / "more.jsonl").write_text(to_lines(records(0.06)))
    assert main(["results", "render", str(tmp_path)]) == 0
    return tmp_path


def check(folder, capsys):
    capsys.readouterr()
    status = main(["results", "render", str(folder), "--check"])
    return status, capsys.readouterr().err.splitlines()


@pytest.mark.skipif(not COMMITTED.is_dir(), reason="results/shapes is not committed yet")
def test_the_committed_results_render_to_the_committed_bytes(capsys):
    assert check(COMMITTED, capsys) == (0, [])


def test_every_file_is_what_its_command_prints(folder, capsys):
    found = sorted(path.relative_to(folder).as_posix() for name in ("tables", "comparisons")
                   for path in (folder / name).iterdir())  # fmt: skip
    assert found == sorted(FILES)
    own, kept = str(folder / "own.yaml"), str(folder / "records.jsonl.gz")
    capsys.readouterr()
    assert main(["results", "table", own, "--records", kept, "--format", "latex"]) == 0
    assert capsys.readouterr().out == (folder / "tables" / "own.tex").read_text()
    words = ["--metric", "H,tail", "--tau", "0.25", "--holm", "--markdown"]
    assert main(["compare", "maple_cpt", "maple", kept, *words]) == 0
    assert capsys.readouterr().out == (folder / "comparisons" / "cpt.md").read_text()


def test_an_entry_has_its_own_records_seeds_ratio_and_data_sets(folder):
    text = (folder / "tables" / "own-one_seed.csv").read_text()
    assert ",0.06,shapes:colors:clean,H,1,1," in text
    assert "0.25" not in text
    assert ",0.25,shapes shapes:colors:clean,H,2,2," in (folder / "tables" / "own.csv").read_text()


def test_a_check_of_untouched_files_is_silent_and_writes_nothing(folder, capsys):
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert check(folder, capsys) == (0, [])
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_a_check_names_what_differs_is_missing_or_comes_from_nowhere(folder, capsys):
    table, other = folder / "tables" / "own.md", folder / "comparisons" / "cpt.csv"
    original = table.read_bytes()
    table.write_bytes(original.replace(b"\n", b"\r\n"))
    other.unlink()
    (folder / "tables" / "old.md").write_text("left over")
    lines = ["tables/own.md: other bytes", "comparisons/cpt.csv: missing", "tables/old.md: not from manifest.yaml"]
    assert check(folder, capsys) == (1, lines)
    assert not other.exists()
    assert main(["results", "render", str(folder)]) == 0
    assert (table.read_bytes(), other.exists()) == (original, True)
    assert check(folder, capsys) == (1, lines[2:]), "a stray file is not deleted, but stays named"


def test_another_record_changes_the_files_that_it_is_in(folder, capsys):
    changed = [make_record("maple", 1, correct=(9, 9, 9, 9, 9, 9), config={"DATASET.WORLD": "shapes"}), *records()[1:]]
    (folder / "records.jsonl.gz").write_bytes(compressed(to_lines(changed)))
    status, lines = check(folder, capsys)
    assert status == 1
    assert lines == [f"{name}: other bytes" for name in FILES if "one_seed" not in name]


def test_nothing_of_the_running_process_or_of_today_is_in_the_text(folder, capsys, monkeypatch):
    """Versions come from the records; asking for those of today, for the time, or for git's state would fail here."""

    def refuse(*args, **kwargs):
        raise AssertionError("asked about the running process")

    monkeypatch.setattr(importlib.metadata, "version", refuse)
    for name in ("versions", "git_state", "utc_now"):
        monkeypatch.setattr(provenance, name, refuse)
    monkeypatch.setattr("time.time", refuse)
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    elsewhere = folder.parent / f"{folder.name}-elsewhere"
    shutil.move(folder, elsewhere)
    monkeypatch.chdir("/")
    assert check(elsewhere, capsys) == (0, [])
    assert "torch 9.8.7" in (elsewhere / "tables" / "own.md").read_text()
    for path in elsewhere.rglob("*.*"):
        assert str(folder.parent).encode() not in path.read_bytes()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("words: own.yaml}", "words: owm.yaml}", "tables, own: no table"),
        ("--holm", "--holm --markdown", "comparisons, cpt: the manifest says where the records are"),
        ("words: own.yaml}", "words: own.yaml --records more.jsonl}", "tables, own: the manifest says"),
        ("words: own.yaml}", "words: own.yaml --help}", "tables, own: words that ask for help make no table"),
        ("name: own-one_seed", "name: own", "two entries are called 'own'"),
        ("name: cpt,", "name: ../cpt,", "'../cpt' is no name of a file"),
        ("maple_cpt maple", "maple_npt maple", "comparisons, cpt: no records of 'maple_npt'"),
        ("maple_cpt maple", "maple_cpt 'maple", "cannot be taken apart: No closing quotation"),
        ("more.jsonl", "none.jsonl", "none.jsonl: cannot be read"),
        ("--metric H,tail", "--metric H,tails", "comparisons, cpt: "),
        ("\ncomparisons:", "\ncomparison:", "field comparison: is unknown"),
    ],
)
def test_a_manifest_that_cannot_be_followed_is_refused_before_anything_is_written(folder, capsys, old, new, message):
    (folder / "manifest.yaml").write_text(MANIFEST.replace(old, new))
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.*")}
    assert main(["results", "render", str(folder)]) == 2
    assert message in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.*")} == before


def test_a_folder_without_a_manifest_is_named(tmp_path, capsys):
    assert main(["results", "render", str(tmp_path)]) == 2
    assert "manifest.yaml: cannot be read (No such file or directory)" in capsys.readouterr().err


def test_export_compresses_to_the_same_bytes_and_leaves_histories_out(tmp_path):
    kept = records()
    (tmp_path / "runs.jsonl").write_text(to_lines(kept))
    words = ["results", "export", str(tmp_path / "runs.jsonl"), "-o"]
    for name in ("a.jsonl.gz", "b.jsonl.gz"):
        assert main([*words, str(tmp_path / name)]) == 0
    packed = (tmp_path / "a.jsonl.gz").read_bytes()
    assert packed == (tmp_path / "b.jsonl.gz").read_bytes()
    assert gzip.decompress(packed).decode() == to_lines(kept)
    assert packed[4:8] == bytes(4), "no time in it"
    assert to_lines(load_all([tmp_path / "a.jsonl.gz"])) == to_lines(kept)
    assert main([*words, str(tmp_path / "c.jsonl.gz"), "--without-history"]) == 0
    short = load_all([tmp_path / "c.jsonl.gz"])
    assert {record.history for record in short} == {()}
    assert sorted(record.config_hash for record in short) == sorted(record.config_hash for record in kept)
    assert {record.evaluations["base"] for record in short} == {record.evaluations["base"] for record in kept}


@pytest.mark.parametrize("damage", [lambda data: data[:-9], lambda data: b"{}", lambda data: data[:40] + b"\0" * 40])
def test_a_damaged_compressed_file_is_named(tmp_path, damage):
    (tmp_path / "runs.jsonl.gz").write_bytes(damage(compressed(to_lines(records()))))
    with pytest.raises(RecordError, match=r"runs.jsonl.gz: cannot be read"):
        load_all([tmp_path / "runs.jsonl.gz"])
