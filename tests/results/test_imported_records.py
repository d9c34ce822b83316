"""Imported logs as runs: base and new of the same prompts give H; marked, apart from records, dashes for the rest."""

from __future__ import annotations

import csv
import io

import pytest
from scipy.stats import hmean

from cpt_plugin.cli.main import main
from cpt_plugin.errors import RecordError
from cpt_plugin.results.imported import read_logs, to_lines
from cpt_plugin.results.imported_records import as_records, read_imported
from cpt_plugin.results.places import load_all
from cpt_plugin.results.record import save
from cpt_plugin.results.store import compressed
from cpt_plugin.results.store import to_lines as record_lines
from cpt_plugin.results.summary import build_table
from tests.helpers.dassl_logs import STEP, base_to_new, head, result, write
from tests.helpers.records import make_record

VALUES = {
    ("MaPLe", "caltech101"): {1: (97.7, 94.4), 2: (98.0, 94.0), 3: (97.9, 95.1)},
    ("MaPLe", "dtd"): {1: (80.1, 59.2), 2: (80.6, 58.0), 3: (80.4, 60.3)},
    ("CoCoOp", "caltech101"): {1: (97.9, 93.8), 2: (97.8, 93.1), 3: (98.0, 93.9)},
    ("CoCoOp", "dtd"): {1: (77.0, 56.0), 2: (76.8, 55.1), 3: (77.3, 56.4)},
}


def runs(folder):
    return as_records(read_logs(folder)[0])


@pytest.fixture
def logs(tmp_path):
    for (trainer, dataset), by_seed in VALUES.items():
        for seed, pair in by_seed.items():
            base_to_new(tmp_path, trainer, dataset, seed, *pair)
    return tmp_path / "output"


@pytest.fixture
def kept(logs, tmp_path, capsys):
    path = tmp_path / "imported.jsonl"
    assert main(["results", "import", str(logs), "-o", str(path)]) == 0
    assert "12 runs with base and new of the same prompts (H), 0 on all classes" in capsys.readouterr().out
    return path


@pytest.mark.parametrize("with_head", [True, False])
@pytest.mark.parametrize("below", ["", "output/base2new", "output"])
def test_base_and_new_of_one_training_are_one_run(tmp_path, with_head, below):
    base_to_new(tmp_path, "MaPLe", "dtd", 2, 80.1, 59.2, with_head)
    (record,), said = runs(tmp_path / below)
    assert said == []
    assert record.metrics == pytest.approx({"base": 80.1, "new": 59.2, "H": hmean([80.1, 59.2])})
    shown = (record.method, record.variant, record.dataset, record.seed, record.shots, record.toolkit)
    assert shown == ("MaPLe", "", "dtd (imported)", 2, 16, "dassl (imported)")
    assert record.backbone.name == ("ViT-B/16" if with_head else "-")


def test_lines_give_the_same_runs_and_older_lines_tell_by_their_folders(logs, tmp_path):
    found = read_logs(logs)[0]
    (tmp_path / "a.jsonl").write_text(to_lines(found))
    assert read_imported(tmp_path / "a.jsonl") == found
    (tmp_path / "a.jsonl.gz").write_bytes(compressed(to_lines(found)))
    assert read_imported(tmp_path / "a.jsonl.gz") == found
    older = '{"accuracy": %s, "experiment": "base2new/%s/dtd/shots_16/MaPLe/vit", "imported": true, "run": "seed1"}\n'
    (tmp_path / "b.jsonl").write_text(older % (80.0, "train_base") + older % (60.0, "test_new"))
    (record,), _ = as_records(read_imported(tmp_path / "b.jsonl"))
    assert record.metrics["H"] == pytest.approx(hmean([80, 60]))
    for wrong in ("[]", '{"imported": true}', older % (101, "x"), older[:30], "{}", record_lines([make_record()])):
        (tmp_path / "c.jsonl").write_text(to_lines(found[:1]) + wrong)
        with pytest.raises(RecordError, match=r"c.jsonl, line 2"):
            read_imported(tmp_path / "c.jsonl")


def test_what_gives_no_h_is_left_out_and_named(tmp_path):
    base_to_new(tmp_path, "MaPLe", "dtd", 1, 80.1, None)
    base_to_new(tmp_path, "MaPLe", "dtd", 2, None, 60.0)
    base_to_new(tmp_path, "MaPLe", "dtd", 3, 80.0, 60.0)
    elsewhere = head("output/evaluation/x", "MaPLe", "eurosat", "all", 1, model="output/imagenet/MaPLe")
    write(tmp_path, "output/evaluation/MaPLe/vit_16shots/eurosat/seed1", elsewhere, result(48.0))
    write(tmp_path, "output/somewhere/seed1", STEP, "Finish training", result(70.0))
    write(tmp_path, "output/unfinished/seed1", head("output/unfinished", "MaPLe", "dtd", "base", 1), STEP)
    base_to_new(tmp_path, "MaPLe", "dtd", 4, 80.0, 60.0)
    prompts = "output/base2new/train_base/dtd/shots_16/MaPLe/vit_b16/seed4"
    again = head("output/again/seed4", "MaPLe", "dtd", "new", 4, model=prompts)
    write(tmp_path, "output/again/seed4", again, result(61.0))
    found, said = runs(tmp_path / "output")
    assert [record.seed for record in found] == [3]
    words = "\n".join(said)
    for name, reason in (
        ("train_base/dtd/shots_16/MaPLe/vit_b16/seed1", "base without the other half"),
        ("test_new/dtd/shots_16/MaPLe/vit_b16/seed2", "new without the other half"),
        ("evaluation/MaPLe/vit_16shots/eurosat/seed1", "evaluated on all classes, not trained there"),
        ("somewhere/seed1", "neither the log nor its folders say"),
        ("unfinished/seed1", "without a result"),
        ("again/seed4", "several results for the same prompts"),
    ):
        (line,) = [line for line in said if reason in line]
        assert name in line, words


def test_new_of_other_prompts_is_no_partner(tmp_path):
    base_to_new(tmp_path, "MaPLe", "dtd", 1, 80.0, None)
    place = "output/base2new/test_new/dtd/shots_16/MaPLe/vit_b16/seed1"
    write(tmp_path, place, head(place, "MaPLe", "dtd", "new", 1, model="elsewhere/seed1"), result(60.0))
    assert runs(tmp_path)[0] == []


def test_trainings_on_all_classes_and_what_sets_them_apart(tmp_path):
    for shots in (4, 16):
        for context in ("nctx4", "nctx16"):
            for dataset in ("dtd", "eurosat"):
                place = f"output/{dataset}/CoOp/vit_b16_{shots}shots/{context}/seed1"
                lines = (head(place, "CoOp", dataset, "all", 1, shots), STEP, "Finish training", result(60.0 + shots))
                write(tmp_path, place, *lines)
    found, said = runs(tmp_path)
    assert said == []
    assert {(one.variant, one.protocol, one.metrics["all"]) for one in found} == {
        (f"output/{context}", "few_shot_all", 60.0 + shots) for context in ("nctx4", "nctx16") for shots in (4, 16)
    }
    (tmp_path / "i.jsonl").write_text(to_lines(read_logs(tmp_path)[0]))
    assert main(["results", "table", str(tmp_path / "i.jsonl")]) == 0
    assert main(["report", str(tmp_path), "--no-figures"]) == 0
    page = (tmp_path / "report.html").read_text()
    assert page.count("dtd (imported), tau -, few shot all, 4 shots") >= 2


def test_tables_are_marked_and_hold_dashes_for_what_logs_do_not_tell(kept, capsys):
    assert main(["results", "table", str(kept)]) == 0
    text = capsys.readouterr().out
    assert "caltech101 (imported), tau - (realized -), 16 shots, classes ranked by -, base to new" in text
    assert "toolkit dassl (imported), backbone ViT-B/16, torch -, on -" in text
    assert "imported from logs: accuracies as printed there, to 0.1" in text
    assert "head (-)" in text
    assert main(["results", "table", str(kept), "--format", "csv"]) == 0
    lines = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert len(lines) == 4
    for line in lines:
        values = VALUES[line["method"], line["dataset"].removesuffix(" (imported)")].values()
        mean = sum(hmean(pair) for pair in values) / 3
        assert float(line["H"]) == pytest.approx(mean)
        assert (line["tau"], line["worst"], line["head"], line["head_classes"], line["seeds"]) == ("", "", "", "", "3")
        assert "imported from logs" in line["note"]


def test_comparisons_pair_by_data_set_and_seed(kept, capsys):
    assert main(["compare", "MaPLe", "CoCoOp", str(kept), "--csv"]) == 0
    overall, *worlds = csv.DictReader(io.StringIO(capsys.readouterr().out))
    gains = {
        dataset: [hmean(VALUES["MaPLe", dataset][s]) - hmean(VALUES["CoCoOp", dataset][s]) for s in (1, 2, 3)]
        for dataset in ("caltech101", "dtd")
    }
    assert {line["world"]: float(line["difference"]) for line in worlds} == pytest.approx(
        {f"{dataset} (imported)": sum(values) / 3 for dataset, values in gains.items()}
    )
    assert float(overall["difference"]) == pytest.approx(sum(map(sum, gains.values())) / 6)
    assert main(["compare", "MaPLe", "CoCoOp", str(kept), "--worlds", "dtd"]) == 0
    text = capsys.readouterr().out
    assert "imported from logs" in text
    assert "at tau -" in text


def test_logs_are_never_mixed_with_records(kept, tmp_path, capsys):
    output = tmp_path / "ours"
    ours = [make_record("maple", seed, dataset="dtd", tau=1.0) for seed in (1, 2, 3)]
    for record in ours:
        save(record, output / f"seed{record.seed}" / "record.json")
    (output / "imported.jsonl").write_bytes(kept.read_bytes())
    assert load_all([output]) == ours, "unless they are asked for"
    both = load_all([output], imported=[])
    assert len(both) == 3 + 12
    with pytest.raises(RecordError, match=r"toolkit: .*dassl \(imported\)"):
        build_table([*ours, *(one for one in both if one.dataset == "dtd (imported)")])
    assert main(["results", "table", str(output)]) == 0
    text = capsys.readouterr().out
    assert text.count("toolkit embedded") == 1
    assert text.count("toolkit dassl (imported)") == 2
    assert main(["results", "export", str(output), "-o", str(tmp_path / "out.jsonl")]) == 0
    assert len(load_all([tmp_path / "out.jsonl"])) == 3
    assert main(["compare", "MaPLe", "maple", str(output)]) == 2
    assert main(["report", str(output), "--no-figures"]) == 0
    page = (output / "report.html").read_text()
    assert "dtd (imported), tau -, base to new" in page
    assert "12 of them imported from logs" in page
