"""The command `compare`: names, variants, groups under one correction, wrong words, its figure's file."""

from __future__ import annotations

import csv
import io

import pytest

from cpt_plugin.cli.compare import method_name, split_names
from cpt_plugin.cli.main import main
from cpt_plugin.errors import ConfigError
from cpt_plugin.results.store import to_lines
from tests.helpers.comparisons import SEEDS, WORLDS, run, with_gains

GAIN = [[9, 12, 9], [10, 9, 9], [8, 9, 12], [9, 9, 9], [7, 10, 9], [9, 9, 12]]


def test_methods_are_named_as_in_tables():
    assert split_names("maple_cpt (A.B=1,C=2), maple") == ["maple_cpt (A.B=1,C=2)", "maple"]
    assert method_name("dpc_cpt", []) == "coop_dpc_cpt"
    variant = method_name("maple_cpt(CPT.WEIGHT_CC=0.0, OPTIM.LR=1e-3)", [])
    assert variant == "maple_cpt (CPT.WEIGHT_CC=0,OPTIM.LR=0.001)"
    assert method_name("own_method", [run("own_method", WORLDS[0], 1)]) == "own_method"
    for wrong in ("maple (x)", "maple) (", "mapel"):
        with pytest.raises(ConfigError):
            method_name(wrong, [])


def test_the_command_compares_a_variant_with_the_plain_method(tmp_path, capsys):
    variant = {"variant": "CPT.WEIGHT_CC=0", "config": {"CPT.WEIGHT_CC": 0.0}}
    records = with_gains(GAIN, first="maple_cpt")
    records += [run("maple_cpt", one.dataset, one.seed, new_hits=(5,) * 9, **variant) for one in records[::2]]
    (tmp_path / "records.jsonl").write_text(to_lines(records))
    words = ["maple_cpt (CPT.WEIGHT_CC=0.0)", "maple_cpt", str(tmp_path / "records.jsonl"), "--metric", "new"]
    assert main(["compare", *words, "--bonferroni", "--markdown"]) == 0
    printed = capsys.readouterr().out
    assert "maple_cpt (CPT.WEIGHT_CC=0) is below maple_cpt in new at tau 0.25 by" in printed
    assert main(["compare", *words, "--bonferroni", "3", "--csv", "-o", str(tmp_path / "new" / "c.csv")]) == 0
    (overall, *_) = csv.DictReader(io.StringIO((tmp_path / "new" / "c.csv").read_text()))
    assert (overall["correction"], overall["comparisons"], overall["verdict"]) == ("bonferroni", "3", "below")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["maple", "maple"], "compared with itself"),
        (["maple_cptb", "maple,coop"], "no records of 'coop'"),
        ([",", "maple"], "nothing to compare"),
        (["maple_cptb", "maple", "--and", "maple"], "expected 2 arguments"),
        (["maple_dapt", "maple"], "no records of 'maple_dapt'"),
        (["maple_cptb", "maple", "--metric", "tial"], "nearest: 'tail'"),
        (["maple_cptb", "maple", "--metric", "H_of_means"], "no metric 'H_of_means' in each world"),
        (["maple_cptb", "maple", "--worlds", "shapes:colour"], "shapes:colour"),
        (["maple_cptb", "maple", "--tau", "2"], "tau is '2'"),
        (["maple_cptb", "maple", "--protocol", "base"], "nearest: 'base_to_new'"),
        (["maple_cptb", "maple", "--bonferroni", "0"], "--bonferroni is '0'"),
        (["maple_cptb", "maple", "--bonferroni", "2", "--holm"], "not allowed with"),
    ],
)
def test_wrong_input_is_one_line_without_a_traceback(words, message, tmp_path, capsys):
    (tmp_path / "r.jsonl").write_text(to_lines(with_gains(GAIN)))
    try:
        status = main(["compare", *words[:2], str(tmp_path / "r.jsonl"), *words[2:]])
    except SystemExit as stop:
        status = stop.code
    assert status == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_one_correction_over_several_second_methods_and_groups(tmp_path):
    """Three contrasts by name; each difference from the two accuracies, and Holm over all at once."""
    levels = {"maple": (0, 0, 0, 0, 0, 0), "maple_cptb": (1, 2, 1, 2, 2, 1), "maple_la": (3, 2, 2, 3, 2, 2),
              "maple_mix": (4, 4, 5, 5, 4, 5)}  # fmt: skip
    hits = {name: [(*(5,) * 8, 5 + more) for more in own] for name, own in levels.items()}
    records = [
        run(name, world, seed, new_hits=hits[name][at])
        for name in levels for at, world in enumerate(WORLDS) for seed in SEEDS
    ]  # fmt: skip
    (tmp_path / "r.jsonl").write_text(to_lines(records))
    output = tmp_path / "out.csv"
    words = ["maple_cptb", "maple", str(tmp_path / "r.jsonl"), "--and", "maple_mix", "maple_la,maple_cptb"]
    words += ["--and", "maple_cptb", "maple", "--metric", "new", "--holm", "--csv", "-o", str(output)]
    assert main(["compare", *words]) == 0
    rows = [row for row in csv.DictReader(output.read_text().splitlines()) if row["world"] == ""]
    assert [(row["first"], row["second"]) for row in rows] == [
        ("maple_cptb", "maple"), ("maple_mix", "maple_la"), ("maple_mix", "maple_cptb"),
    ]  # fmt: skip
    for row in rows:
        means = [sum(map(sum, hits[row[side]])) / len(WORLDS) for side in ("first", "second")]
        assert float(row["difference"]) == pytest.approx((means[0] - means[1]) * 100 / 90)
    ordered = sorted(float(row["p"]) for row in rows)
    expected, highest = [], 0.0
    for left, p in zip((3, 2, 1), ordered, strict=True):
        highest = max(highest, min(1.0, left * p))
        expected.append(highest)
    assert sorted(float(row["p_adjusted"]) for row in rows) == pytest.approx(expected)
