"""Rendered grids: the same bytes for the same records (R20), figures in their places, LaTeX that compiles."""

from __future__ import annotations

import csv
import io
import os
import random
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from cpt_plugin.cli.main import main
from cpt_plugin.results.grid import build_grid
from cpt_plugin.results.record import save
from cpt_plugin.results.render import RENDERERS, render_csv, render_latex, render_markdown, render_terminal
from cpt_plugin.results.spec import RowSpec, load_spec, table_names
from cpt_plugin.results.store import Failure, add_failure, to_lines
from cpt_plugin.results.text import TERMINAL_WIDTH
from tests.helpers.records import make_record

ROOT = Path(__file__).parents[2]
TABLE = """\
title: "Two worlds"
taus: [0.25]
seeds: [1, 2]
columns:
  - {metric: H}
  - {metric: base, over: each}
rows:
  - {method: zeroshot}
  - {method: maple}
  - {label: CPT_1, method: maple_cpt, published: cpt}
  - {label: CoPrompt, published: coprompt}
shapes: [shapes, "shapes:colors:clean"]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A table's yaml, and an output folder with the records for it; a run failed."""
    place = tmp_path_factory.mktemp("render")
    (place / "own.yaml").write_text(TABLE)
    for record in records():
        name = f"{record.dataset.replace(':', '-')}-{record.method}-{record.seed}"
        save(record, place / "output" / name / "record.json")
    key = ("maple_cpt", "", "shapes:colors:clean", 0.25, 2, "base_to_new")
    add_failure(place / "output", Failure(*key, "loss is nan", "2026-01-01T00:00:00+00:00"))
    return place


def records():
    found = []
    for number, dataset in enumerate(("shapes", "shapes:colors:clean")):
        for seed in (1, 2):
            hits = (9, 8, 7, 6, 5, 4 - seed - number)
            common = {"dataset": dataset, "config": {"DATASET.WORLD": dataset}}
            found.append(make_record("maple", seed, correct=hits, **common))
            if (number, seed) != (1, 2):
                found.append(make_record("maple_cpt", seed, correct=(9, *hits[1:5], 6), **common))
        found.append(make_record("zeroshot", 1, **common))
    return found


def grid(folder, shuffled=None):
    made = records()
    if shuffled is not None:
        random.Random(shuffled).shuffle(made)
    return build_grid(load_spec(str(folder / "own.yaml"), ROOT), "shapes", made)


def test_bytes_do_not_depend_on_the_order_of_the_records(folder):
    for number in range(5):
        for render in RENDERERS.values():
            assert render(grid(folder, number)) == render(grid(folder))


def test_bytes_do_not_depend_on_file_order_hash_seed_locale_or_time_zone(folder, tmp_path):
    """Through the command, from files in two orders; torch is not loaded."""
    made = records()
    (tmp_path / "a.jsonl").write_text(to_lines(made[:3]))
    (tmp_path / "b.jsonl").write_text(to_lines(made[3:]))
    program = (
        "import sys; from cpt_plugin.cli.main import main; main(sys.argv[1:]); sys.exit('torch' in sys.modules)"
    )
    for form, render in RENDERERS.items():
        found = []
        for order, variables in (
            ("ab", {"PYTHONHASHSEED": "1", "LC_ALL": "C"}),
            ("ba", {"PYTHONHASHSEED": "2", "TZ": "Asia/Tokyo", "LC_ALL": "C.UTF-8"}),
        ):
            output = tmp_path / f"{order}.{form}"
            words = [part for name in order for part in ("--records", tmp_path / f"{name}.jsonl")]
            command = [sys.executable, "-c", program, "results", "table", folder / "own.yaml", *words]
            command += ["--format", form, "-o", output]
            subprocess.run(command, cwd=ROOT, env=os.environ | variables, check=True)
            found.append(output.read_bytes().decode())
        assert found == [render(grid(folder))] * 2


def test_terminal_table_as_a_whole(folder):
    assert render_terminal(grid(folder)) == (
        "Two worlds\n"
        "16 shots, classes ranked by label; toolkit embedded, backbone micro, torch 2.13.0, on cpu; accuracy in %, "
        "mean\n"
        "    ±std over seeds 1, 2, n/expected where incomplete\n"
        "\n"
        "tau 0.25\n"
        "          mean of H      published  shapes        colors:clean   mean of base\n"
        "------------------------------------------------------------------------------\n"
        "zeroshot  56.5 ±- **                65.0 ±- *     65.0 ±- **     65.0 ±- **\n"
        "maple     55.2 ±0.5 *    71.38?     62.5 ±1.2     60.8 ±1.2 *    61.7 ±1.2 *\n"
        "CPT_1     57.7 ±- (1/2)  73.58?     68.3 ±0.0 **  68.3 ±- (1/2)  68.3 ±- (1/2)\n"
        "CoPrompt                 72.24?\n"
        "\n"
        "mean of H, tau 0.25, CPT_1 - maple: +2.19, no interval from one seed, paired over seeds 1\n"
        "shapes, tau 0.25, CPT_1 - maple: +5.83, 95 % t-interval [-4.76, 16.42], paired over seeds 1, 2\n"
        "colors:clean, tau 0.25, CPT_1 - maple: +6.67, no interval from one seed, paired over seeds 1\n"
        "mean of base, tau 0.25, CPT_1 - maple: +5.83, no interval from one seed, paired over seeds 1\n"
        "missing: CPT_1, base to new, tau 0.25: shapes:colors:clean (seeds 2)\n"
        "** best, * second best of the complete cells; !: some runs are not used, see above\n"
        "published: printed by others, of the eleven photo data sets, not of what was measured here, never ranked or\n"
        "    averaged with ours; + computed from published base and new accuracies; ? not verified\n"
        "published, source C1: public note on the CPT paper (CVPR 2026, arXiv 2605.11939)\n"
    )


def test_terminal_tables_fit_their_width():
    for name in ("cross_dataset", "per_dataset", "weights"):
        made = [make_record("maple", seed, tau=0.25) for seed in (1, 2)]
        text = render_terminal(build_grid(load_spec(name, ROOT), "shapes", made))
        assert max(map(len, text.splitlines())) <= TERMINAL_WIDTH
        assert all(line == line.rstrip() for line in text.splitlines())


def test_markdown_marks_the_best_and_lists_every_cell(folder):
    text = render_markdown(grid(folder))
    assert "| maple | *55.2 ±0.5* | 71.38? | 62.5 ±1.2 | *60.8 ±1.2* | *61.7 ±1.2* |" in text
    assert "| CPT_1 | 57.7 ±- (1/2) | 73.58? | **68.3 ±0.0** | 68.3 ±- (1/2) | 68.3 ±- (1/2) |" in text
    assert "- missing: CPT_1, base to new, tau 0.25: shapes:colors:clean (seeds 2)\n" in text
    details = text[text.index("## Every cell") :]
    assert "| maple, tau 0.25 | shapes | 2/2 | 62.50 | 1.18 | [51.91, 73.09] | 1: 63.33, 2: 61.67 |" in details
    assert "| CPT_1, tau 0.25 | colors:clean | 1/2 | 68.33 | - | - | 1: 68.33 |" in details
    for table in text.split("\n\n"):
        widths = {line.count("|") for line in table.splitlines() if line.startswith("|")}
        assert len(widths) <= 1


def test_csv_reads_back_without_loss(folder):
    made = grid(folder)
    lines = {(line["row"], line["column"]): line for line in csv.DictReader(io.StringIO(render_csv(made)))}
    (block,) = made.blocks
    assert len(lines) == len(made.rows) * len(block.columns)
    for row, cells in zip(made.rows, block.cells, strict=True):
        for column, cell in zip(block.columns, cells, strict=True):
            line = lines[row.label, column.header]
            assert (int(line["n"]), int(line["expected"])) == (len(cell.by_seed), cell.expected)
            by_seed = dict(pair.split(":") for pair in line["by_seed"].split())
            assert {int(seed): float(value) for seed, value in by_seed.items()} == cell.by_seed
            assert line["mean"] == (repr(cell.summary.mean) if cell.summary else "")
            assert line["difference"] == (repr(cell.difference.mean) if cell.difference else "")
    line = lines["CPT_1", "mean of H"]
    assert (line["published"], line["published_source"], line["published_verified"]) == ("73.58", "C1", "0")
    assert (line["baseline"], line["pairs"], line["rank"], line["datasets"]) == (
        "maple", "1", "", "shapes shapes:colors:clean"
    )  # fmt: skip


def test_latex_has_booktabs_rules_and_escapes(folder):
    text = render_latex(grid(folder))
    body = [line for line in text.splitlines() if not line.startswith("%")]
    assert body[:3] == [
        r"\begin{tabular}{lrrrrr}", r"\toprule", r" & mean of H & published & shapes & colors:clean & mean of base \\"
    ]  # fmt: skip
    cells = [r"CPT\_1", r"57.7 $\pm$- (1/2)", "73.58?", r"\textbf{68.3 $\pm$0.0}", *[r"68.3 $\pm$- (1/2)"] * 2]
    assert " & ".join(cells) + r" \\" in body
    assert any(r"\underline{55.2 $\pm$0.5}" in line for line in body)
    assert body[-2:] == [r"\bottomrule", r"\end{tabular}"]
    assert not re.search(r"(?<!\\)[&%_#](?! )", "\n".join(line.replace(" & ", " ") for line in body[2:-2]))


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex on this machine")
def test_latex_of_every_table_compiles(folder, tmp_path):
    """In one document; one table has labels with every sign that means something to TeX."""
    label = "'[CPT] 50 % #1 a_b {c} $d ~e^f <g> |h| \\i & τ → Δ'"
    (tmp_path / "signs.yaml").write_text(TABLE.replace("CPT_1", label))
    names = [str(folder / "own.yaml"), str(tmp_path / "signs.yaml"), *table_names(ROOT)]
    made = {name: build_grid(load_spec(name, ROOT), "shapes", records()) for name in names}
    tables = "\n\n".join(render_latex(one) for one in made.values())
    text = r"\documentclass{article}\usepackage{booktabs}\begin{document}" + f"\n{tables}" + r"\end{document}"
    (tmp_path / "tables.tex").write_text(text)
    subprocess.run(["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "tables.tex"], cwd=tmp_path, check=True)
    log = (tmp_path / "tables.log").read_text(errors="replace")
    assert "Output written on tables.pdf" in log
    assert "Missing character" not in log


def test_a_label_that_begins_like_an_argument_of_a_line_break_is_text():
    label = "*[a] ~^\\\\ <b>"
    spec = replace(load_spec("weights", ROOT), rows=(RowSpec(label, "maple"),))
    assert r"{*}{[}a] \textasciitilde{}\textasciicircum{}\textbackslash{}\textbackslash{} $<$b$>$ & " in render_latex(
        build_grid(spec, "shapes", [])
    )


def test_a_bar_in_a_label_splits_no_cell_of_markdown():
    spec = replace(load_spec("weights", ROOT), rows=(RowSpec("a|b", "maple"),))
    lines = render_markdown(build_grid(spec, "shapes", [])).split("## Every cell")[0].splitlines()
    bars = {len(re.findall(r"(?<!\\)\|", line)) for line in lines if line.startswith("|")}
    assert len(bars) == 1
    assert any(line.startswith(r"| a\|b | ") for line in lines)


def test_words_that_say_nothing_or_twice_the_same(folder, capsys):
    words = ["results", "table", str(folder / "own.yaml"), "--records", str(folder / "output")]
    assert main([*words, "--seeds", ""]) == 2
    assert "--seeds '': '' is no whole number" in capsys.readouterr().err
    assert main([*words, "--seeds", "1" * 5000]) == 2
    assert "is no whole number" in capsys.readouterr().err
    assert main([*words, "--taus", "0.25"]) == 0
    once = capsys.readouterr().out
    assert main([*words, "--taus", "0.25,0.250"]) == 0
    assert capsys.readouterr().out == once


def test_command_tells_failed_runs_of_the_journal(folder, capsys):
    words = ["results", "table", str(folder / "own.yaml"), "--records", str(folder / "output")]
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert "failed: CPT_1, seed 2, shapes:colors:clean, tau 0.25, base to new: loss is nan" in printed
    assert main([*words, "--seeds", "1"]) == 0
    assert "failed" not in capsys.readouterr().out


def test_command_makes_a_table_for_each_data_set_of_a_folder(folder, capsys):
    assert main(["results", "table", str(folder / "output")]) == 0
    printed = capsys.readouterr().out
    assert printed.count("16 shots, classes ranked by label, base to new") == 2
    assert "shapes:colors:clean, tau 0.25" in printed
    assert main(["results", "table", str(folder / "output"), "--format", "csv"]) == 0
    lines = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert {line["dataset"] for line in lines} == {"shapes", "shapes:colors:clean"}
    assert all(None not in line and None not in line.values() for line in lines), "one header for all"
    assert main(["results", "table", str(folder / "output"), "--format", "latex"]) == 2
    assert "not as latex" in capsys.readouterr().err
    assert main(["results", "table", "ablaton"]) == 2
    assert "nearest: 'ablation'" in capsys.readouterr().err
