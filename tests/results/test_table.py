"""Rendered tables: the same bytes in any order and locale, within 110 columns, figures in their places."""

from __future__ import annotations

import csv
import dataclasses
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cpt_plugin.results.grid import build_grid
from cpt_plugin.results.record import Backbone, save
from cpt_plugin.results.spec import Measure, RowSpec, TableSpec
from cpt_plugin.results.summary import build_table
from cpt_plugin.results.table import render_csv, render_markdown, render_terminal
from cpt_plugin.results.text import TERMINAL_WIDTH

RENDERERS = (render_terminal, render_markdown, render_csv)
LONGEST = "shallow_vl_dpc_cpt_dapt_npt"


@pytest.fixture(scope="module")
def records(make_record):
    plain = [make_record("maple", seed, correct=(9, 8, 7, 6, 5, seed)) for seed in (1, 2, 3)]
    extended = [make_record("maple_cpt", seed, correct=(9, 8, 7, 6, 6, seed + 1)) for seed in (1, 3)]
    return [make_record("zeroshot", 1), *plain, *extended]


@given(data=st.data())
@settings(deadline=None, max_examples=50)
def test_bytes_do_not_depend_on_the_order_of_the_records(records, data):
    shuffled = data.draw(st.permutations(records))
    assert [render(shuffled) for render in RENDERERS] == [render(records) for render in RENDERERS]


def test_bytes_do_not_depend_on_hash_seed_locale_or_time_zone_and_torch_stays_out(records, tmp_path):
    for index, record in enumerate(records):
        save(record, tmp_path / f"{index}.json")
    program = (
        "import sys, pathlib\n"
        "from cpt_plugin.results import record, table\n"
        "found = [record.load(path) for path in sorted(pathlib.Path(sys.argv[1]).iterdir())]\n"
        "text = table.render_terminal(found) + table.render_markdown(found) + table.render_csv(found)\n"
        "sys.stdout.buffer.write(text.encode())\n"
        "sys.exit('torch' in sys.modules)\n"
    )
    repository = Path(__file__).parents[2]
    for variables in ({"PYTHONHASHSEED": "1", "LC_ALL": "C"}, {"PYTHONHASHSEED": "2", "TZ": "Asia/Tokyo"}):
        environment = os.environ | variables
        command = [sys.executable, "-c", program, str(tmp_path)]
        done = subprocess.run(command, cwd=repository, env=environment, capture_output=True, check=True)
        assert done.stdout.decode() == "".join(render(records) for render in RENDERERS)


def test_terminal_table_as_a_whole(records):
    expected = (
        "shapes, tau 0.25 (realized 0.25), 16 shots, classes ranked by label, base to new\n"
        "toolkit embedded, backbone micro, torch 2.13.0, on cpu; accuracy in %, "
        "mean ±std over seeds 1, 2, 3\n"
        "\n"
        "method     base         new          H            worst        seeds\n"
        "--------------------------------------------------------------------\n"
        "zeroshot    65.0 ±-      50.0 ±-      56.5 ±-      40.0 ±-     1/1\n"
        "maple       61.7 ±1.7    50.0 ±0.0    55.2 ±0.7    20.0 ±10.0  3/3\n"
        "maple_cpt   65.0 ±2.4    50.0 ±0.0    56.5 ±0.9    30.0 ±14.1  2/3\n"
        "\n"
        "method     head (2)     mid (2)      tail (2)     many (2)     medium (4)   few (0)\n"
        "-----------------------------------------------------------------------------------\n"
        "zeroshot    85.0 ±-      65.0 ±-      45.0 ±-      85.0 ±-      55.0 ±-         -\n"
        "maple       85.0 ±0.0    65.0 ±0.0    35.0 ±5.0    85.0 ±0.0    50.0 ±2.5       -\n"
        "maple_cpt   85.0 ±0.0    65.0 ±0.0    45.0 ±7.1    85.0 ±0.0    55.0 ±3.5       -\n"
        "\n"
        "method     balanced acc.  macro-F1     G-mean       ECE\n"
        "---------------------------------------------------------------\n"
        "zeroshot    65.0 ±-        69.2 ±-      62.7 ±-      12.5 ±-\n"
        "maple       61.7 ±1.7      64.7 ±2.5    55.1 ±5.0    12.5 ±0.0\n"
        "maple_cpt   65.0 ±2.4      68.6 ±3.1    61.1 ±5.0    12.5 ±0.0\n"
        "\n"
        "H, maple_cpt - maple: +1.30, 95 % t-interval [0.81, 1.78], paired over seeds 1, 3\n"
        "H, zeroshot: 56.5 (seed 1)\n"
        "H, maple: 54.5 (seed 1), 55.2 (seed 2), 55.9 (seed 3); 95 % t-interval of the mean [53.6, 56.9]\n"
        "H, maple_cpt: 55.9 (seed 1), 57.1 (seed 3); 95 % t-interval of the mean [48.5, 64.5]\n"
        "missing seeds of maple_cpt: 2\n"
        "groups are the classes trained on, by training images: head, mid, tail are thirds by rank; "
        "many has 10 or\n"
        "    more, medium 4 to 9, few up to 3; in brackets the number of classes; worst is the worst of them; "
        "balanced\n"
        "    acc., macro-F1, G-mean, ECE are over all of them\n"
    )
    assert render_terminal(records) == expected


@given(hits=st.lists(st.tuples(*[st.integers(0, 10)] * 40), min_size=1, max_size=9))
@settings(deadline=None, max_examples=30)
def test_terminal_table_fits_its_width(make_record, hits):
    named = {"method": LONGEST, "regularizers": ("cpt", "dapt", "npt"), "tau": 0.06}
    runs = [make_record("maple", seed, correct=value, **named) for seed, value in enumerate(hits)]
    text = render_terminal([make_record("zeroshot", 0, correct=(10,) * 40, tau=0.06), *runs])
    assert max(map(len, text.splitlines())) <= TERMINAL_WIDTH
    assert all(line == line.rstrip() for line in text.splitlines())


def test_markdown_has_a_cell_for_every_column(records):
    grid = [line for line in render_markdown(records).splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in grid]
    assert {len(line) for line in cells} == {16}
    assert cells[0][:4] == ["method", "base", "new", "H"]
    assert cells[3] == [
        "maple", "61.7 ±1.7", "50.0 ±0.0", "55.2 ±0.7", "20.0 ±10.0", "85.0 ±0.0", "65.0 ±0.0", "35.0 ±5.0",
        "85.0 ±0.0", "50.0 ±2.5", "-", "61.7 ±1.7", "64.7 ±2.5", "55.1 ±5.0", "12.5 ±0.0", "3/3",
    ]  # fmt: skip


def test_csv_reads_back_without_loss(records):
    lines = {line["method"]: line for line in csv.DictReader(io.StringIO(render_csv(records)))}
    table = build_table(records)
    for row in table.rows:
        line = lines[row.method]
        assert (int(line["seeds"]), int(line["expected"])) == (len(row.by_seed), row.expected)
        for column, summary in row.columns.items():
            assert line[column] == ("" if summary is None else repr(summary.mean))
            spread = summary and summary.std
            assert line[f"{column}_std"] == ("" if spread is None else repr(spread))
    difference = table.comparisons[0].difference
    found = lines["maple_cpt"]
    assert (found["baseline"], found["pairs"], found["head_classes"]) == ("maple", "2", "2")
    assert [float(found[f"H_difference{end}"]) for end in ("", "_low", "_high")] == [
        difference.mean,
        *difference.interval,
    ]
    assert lines["maple"]["baseline"] == lines["maple"]["H_difference"] == ""


def test_notes_on_single_seeds_missing_baselines_outliers_and_settings(make_record):
    one = [make_record("maple", 1, correct=(9,) * 6), make_record("maple_cpt", 1, config={"OPTIM.LR": 0.1})]
    runs = [*one, make_record("coop_cpt", 1)]
    text = render_markdown(runs, ["coop"], seeds=[1, 2])
    assert "- H, maple_cpt - maple: -7.76, no interval from one seed, paired over seeds 1\n" in text
    assert "- maple_cpt and maple also differ in OPTIM.LR: 0.1 != 0.002\n" in text
    assert "- H, coop_cpt - coop: no seed in common\n" in text
    assert "coop_cpt - coop" not in render_markdown(runs, seeds=[1, 2]), "coop is not wanted"
    assert "- missing seeds of maple: 2\n" in text
    far = [make_record("maple", seed, correct=(9 - seed,) * 6) for seed in (1, 2, 3)]
    assert "check: maple, seed 3: base 60.0 is 10.0 points below the median 70.0\n" in render_terminal(far)
    assert "check: maple, seed 1: base 80.0 is 10.0 points above the median 70.0\n" in render_terminal(far)


@pytest.mark.parametrize(
    ("dataset", "backbone", "means_nothing"),
    [("eurosat", "micro", True), ("eurosat (own split 1)", "micro", True), ("eurosat", "ViT-B/16", False),
     ("shapes", "micro", False), ("shapes:triples:tint", "micro", False)],
)  # fmt: skip
def test_a_rehearsal_of_the_micro_model_on_photographs_is_said_in_every_form(
    make_record, dataset, backbone, means_nothing
):
    record = dataclasses.replace(make_record("coop", 1, dataset=dataset), backbone=Backbone(backbone, "0" * 64))
    for render in RENDERERS:
        assert ("ACCURACIES MEAN NOTHING here" in render([record])) is means_nothing
    (line,) = csv.DictReader(io.StringIO(render_csv([record])))
    assert bool(line["note"]) is means_nothing


def test_group_sizes_and_ratios_that_vary_over_seeds_show_their_range(make_record):
    first = make_record("maple", 1, class_order="random", realized_tau=0.25)
    second = make_record("maple", 2, class_order="random", realized_tau=0.5, correct=(9,) * 7)
    text = render_markdown([first, second])
    assert "tau 0.25 (realized 0.25 to 0.5)" in text
    assert "head (2-3)" in text


def test_a_difference_that_rounds_to_nothing_has_no_minus_sign(make_record):
    runs = [make_record("maple", seed, accuracy=(65.0, 50.0)) for seed in (1, 2)]
    runs += [make_record("maple_cpt", seed, accuracy=(65.0, 49.999)) for seed in (1, 2)]
    text = render_terminal(runs)
    assert "H, maple_cpt - maple: +0.00, 95 % t-interval [0.00, 0.00]" in text


def test_groups_that_only_the_schedule_tells_are_said_to_be_so(records, make_record):
    older = make_record("maple", 2, counts_from="schedule")
    for render in (render_terminal, render_markdown):
        assert "BY SCHEDULE" not in render(records)
        assert "groups BY SCHEDULE for maple seed 2" in render([*records[:2], older])


def test_older_records_show_only_the_metrics_that_they_know(make_record):
    record = make_record("maple")
    trained = dataclasses.replace(record.trained, predicted=None, ece=None)
    older = dataclasses.replace(record, evaluations=record.evaluations | {"base": trained})
    assert build_table([older]).by_class == ("balanced_accuracy", "g_mean")
    both = build_table([older, make_record("maple_cpt")])
    assert both.by_class == ("balanced_accuracy", "macro_f1", "g_mean", "ece")
    assert both.rows[0].columns["ece"] is None


def test_a_small_calibration_error_is_the_better_one(make_record):
    found = {}
    for name, ece in (("maple", 3.0), ("maple_cpt", 9.0)):
        record = make_record(name)
        trained = dataclasses.replace(record.trained, ece=ece)
        found[name] = dataclasses.replace(record, evaluations=record.evaluations | {"base": trained})
    spec = TableSpec(
        "t", (RowSpec("maple", "maple"), RowSpec("maple_cpt", "maple_cpt")), (Measure(metric="ece"),), (0.25,), (1,)
    )
    [block] = build_grid(spec, "shapes", found.values()).blocks
    assert [cells[0].rank for cells in block.cells] == [1, 2]
