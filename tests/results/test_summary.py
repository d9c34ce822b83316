"""Aggregation against numpy and scipy; what must not be mixed is refused by name; missing seeds, outliers."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as reference

from cpt_plugin.errors import RecordError
from cpt_plugin.results.groups import GroupAccuracy
from cpt_plugin.results.record import Backbone
from cpt_plugin.results.runs import run_of
from cpt_plugin.results.summary import Outlier, baseline_of, build_table

HITS = st.lists(st.integers(0, 10), min_size=6, max_size=6).map(tuple)


@given(hits=st.lists(HITS, min_size=2, max_size=6), baseline_hits=st.lists(HITS, min_size=2, max_size=6))
@settings(deadline=None, max_examples=100)
def test_table_is_numpy_and_scipy_over_seeds(make_record, hits, baseline_hits):
    records = [make_record("maple_cpt", seed, correct=value) for seed, value in enumerate(hits)]
    records += [make_record("maple", seed, correct=value) for seed, value in enumerate(baseline_hits)]
    table = build_table(records)

    def harmonic(value):
        base, new = 100 * sum(value) / 60, 50.0
        return reference.hmean([base, new])

    rows = {row.method: row for row in table.rows}
    grid = 10.0 * np.array(hits)
    assert rows["maple_cpt"].columns["base"].mean == pytest.approx(grid.mean(), abs=1e-9)
    assert rows["maple_cpt"].columns["base"].std == pytest.approx(grid.mean(axis=1).std(ddof=1), abs=1e-9)
    assert rows["maple_cpt"].columns["worst"].mean == pytest.approx(grid.min(axis=1).mean(), abs=1e-9)
    assert rows["maple_cpt"].columns["tail"].mean == pytest.approx(grid[:, 4:].mean(), abs=1e-9)
    gains = [harmonic(one) - harmonic(other) for one, other in zip(hits, baseline_hits, strict=False)]
    (comparison,) = table.comparisons
    assert (comparison.method, comparison.baseline) == ("maple_cpt", "maple")
    assert comparison.seeds == tuple(range(len(gains)))
    assert comparison.difference.mean == pytest.approx(np.mean(gains), abs=1e-9)
    margin = reference.sem(gains) * reference.t.ppf(0.975, len(gains) - 1)
    interval = (np.mean(gains) - margin, np.mean(gains) + margin)
    assert comparison.difference.interval == pytest.approx(interval, abs=1e-7)


@given(present=st.dictionaries(st.sampled_from(["maple", "maple_cpt"]), st.sets(st.integers(0, 5))))
@settings(deadline=None, max_examples=100)
def test_missing_seeds_are_counted_and_named(make_record, present):
    records = [make_record(method, seed) for method, seeds in present.items() for seed in seeds]
    if not records:
        with pytest.raises(RecordError, match="no records"):
            build_table(records)
        return
    for row in build_table(records, methods=["maple_cpt", "maple"], seeds=range(6)).rows:
        seeds = present.get(row.method, set())
        assert row.expected == 6
        assert set(row.by_seed) == seeds
        assert set(row.missing) == set(range(6)) - seeds
        for column in ("base", "worst", "tail"):
            summary = row.columns[column]
            assert (summary.n if summary else 0) == len(seeds)


def test_seeds_expected_are_those_of_all_methods_by_default(make_record):
    table = build_table([make_record("maple", 1), make_record("maple", 2), make_record("maple_cpt", 3)])
    assert [(row.method, row.missing) for row in table.rows] == [("maple", (3,)), ("maple_cpt", (1, 2))]
    assert table.comparisons[0].difference is None


def test_one_zero_shot_run_is_complete_unless_the_class_order_is_drawn(make_record):
    records = [make_record("zeroshot", 1), make_record("maple", 1), make_record("maple", 2)]
    assert build_table(records).rows[0].missing == ()
    drawn = [dataclasses.replace(record, class_order="random") for record in records]
    assert build_table(drawn).rows[0].missing == (2,)
    assert build_table(records[1:], methods=["zeroshot"]).rows[0].missing == (1, 2)


def test_rows_start_with_zero_shot_then_each_baseline_and_its_extensions(make_record):
    names = ["promptsrc_cpt", "maple_cpt_npt", "maple_cpt", "zeroshot", "promptsrc", "maple"]
    rows = build_table([make_record(name) for name in names]).rows
    assert [row.method for row in rows] == [
        "zeroshot", "maple", "maple_cpt", "maple_cpt_npt", "promptsrc", "promptsrc_cpt"
    ]  # fmt: skip
    first = build_table([make_record(name) for name in names], methods=["promptsrc", "coop"]).rows[:3]
    assert [row.method for row in first] == ["promptsrc", "coop", "zeroshot"]


def test_baseline_drops_the_regularizers_only(make_record):
    record = make_record("maple", method="maple_dpc_cpt_npt", regularizers=("cpt", "npt"))
    assert baseline_of(record) == "maple_dpc"
    assert baseline_of(make_record("maple")) == "maple"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"toolkit": "dassl"}, r"toolkit: embedded \(maple seed 1\), dassl \(maple seed 2\)"),
        ({"protocol": "few_shot_all"}, "protocol: base_to_new .*, few_shot_all"),
        ({"dataset": "eurosat"}, "dataset: shapes"),
        ({"tau": 0.5}, "tau: 0.25"),
        ({"shots": 4}, "shots: 16"),
        ({"class_order": "random"}, "class_order: label"),
        ({"backbone": Backbone("micro", "cd" * 32)}, "backbone: micro abababababab"),
        ({"toolkit": "dassl", "shots": 4}, "shots: 16 .*; toolkit: embedded"),
    ],
)
def test_different_experiments_never_share_a_table(make_record, changes, message):
    with pytest.raises(RecordError, match=message):
        build_table([make_record("maple", 1), make_record("maple", 2, **changes)])


def test_a_method_under_two_configurations_is_refused_naming_the_key(make_record):
    records = [make_record("maple", 1), make_record("maple", 2, config={"OPTIM.LR": 0.02})]
    with pytest.raises(RecordError, match=r"maple: seeds 1 and 2 .*: OPTIM.LR: 0.002 != 0.02: run"):
        build_table(records)


def test_seeds_of_a_second_stage_start_from_prompts_of_their_own(make_record):
    """The hash of stage one differs by seed, and nothing else need be the same for that."""
    records = [
        make_record("coop", seed, method="coop_dpc", config={"TRAINER.DPC.STAGE_ONE_HASH": str(seed)})
        for seed in (1, 2, 3)
    ]
    assert build_table(records).rows[0].columns["H"].n == 3


def test_variants_are_rows_of_their_own_compared_with_the_plain_baseline(make_record):
    records = [make_record("maple", seed) for seed in (1, 2)]
    records += [make_record("maple_cpt", seed, correct=(9,) * 6) for seed in (1, 2)]
    changed = {"variant": "CPT.WEIGHT_CC=0", "config": {"CPT.WEIGHT_CC": 0.0}}
    records += [make_record("maple_cpt", seed, correct=(8,) * 6, **changed) for seed in (1, 2)]
    table = build_table(records)
    assert [row.method for row in table.rows] == ["maple", "maple_cpt", "maple_cpt (CPT.WEIGHT_CC=0)"]
    assert [comparison.baseline for comparison in table.comparisons] == ["maple", "maple"]


def test_a_variant_s_baseline_is_the_plain_method_under_the_same_remaining_settings(make_record):
    """CPT's own settings do not count for that, whatever the plain row is called; the gains by hand from the hits."""
    fast, own = {"OPTIM.LR": 0.02}, {"CPT.WEIGHT_ETF": 0.1}
    both = {"variant": "OPTIM.LR=0.02,CPT.WEIGHT_ETF=0.1", "config": fast | own}
    records = [
        make_record("maple", 1, accuracy=(60.0, 60.0)),
        make_record("maple", 1, accuracy=(40.0, 40.0), variant="OPTIM.LR=0.02", config=fast),
        make_record("maple_cpt", 1, accuracy=(63.0, 63.0), config={"CPT.WEIGHT_ETF": 0.25}),
        make_record("maple_cpt", 1, accuracy=(64.0, 64.0), variant="CPT.WEIGHT_ETF=0.1", config=own),
        make_record("maple_cpt", 1, accuracy=(42.0, 42.0), **both),
    ]
    table = build_table(records)
    gains = {(one.method, one.baseline): one.difference.mean for one in (*table.comparisons, *table.from_unvaried)}
    assert gains == pytest.approx({
        ("maple (OPTIM.LR=0.02)", "maple"): -20,
        ("maple_cpt", "maple"): 3,
        ("maple_cpt (CPT.WEIGHT_ETF=0.1)", "maple"): 4,
        ("maple_cpt (OPTIM.LR=0.02,CPT.WEIGHT_ETF=0.1)", "maple (OPTIM.LR=0.02)"): 2,
        ("maple_cpt (CPT.WEIGHT_ETF=0.1)", "maple_cpt"): 1,
        ("maple_cpt (OPTIM.LR=0.02,CPT.WEIGHT_ETF=0.1)", "maple_cpt"): -21,
    })  # fmt: skip
    without_plain = build_table([*records[1:2], *records[4:]])
    assert [one.baseline for one in without_plain.comparisons] == ["maple (OPTIM.LR=0.02)"]
    slow = build_table([records[0], records[4]])
    assert [(one.baseline, one.other_settings) for one in slow.comparisons] == [("maple", ("OPTIM.LR: 0.02 != 0.002",))]
    assert [one.baseline for one in build_table([records[1], records[2]]).comparisons] == []


@pytest.mark.parametrize("protocol", ["cross_dataset", "domain_generalization"])
def test_targets_are_columns_and_their_mean_is_compared(make_record, protocol):
    def made(name, seed, **targets):
        return make_record(name, seed, protocol=protocol, targets=targets)

    records = [made("maple", 1, dtd=4, ucf101=6), made("maple", 2, dtd=5, ucf101=7)]
    records += [made("maple_cpt", 1, dtd=6, ucf101=6), made("maple_cpt", 2, dtd=5, ucf101=8)]
    table = build_table(records)
    assert (table.headline, table.accuracies) == ("mean", ("source", "dtd", "ucf101", "mean"))
    assert table.rows[1].columns["mean"].mean == pytest.approx(np.mean([[60, 60], [50, 80]]))
    assert table.comparisons[0].difference.mean == pytest.approx(np.mean([10, 5]))
    with pytest.raises(RecordError, match=r"evaluations: source, dtd, ucf101 .*, source, dtd "):
        build_table([*records, made("maple", 3, dtd=4)])


def test_different_images_under_one_seed_are_refused(make_record):
    for changed in (("other", "new split"), ("base split 1", "other")):
        records = [make_record("maple", 1), make_record("maple_cpt", 1, split_hash=changed)]
        with pytest.raises(RecordError, match=r"split hash of (base|new): maple and maple_cpt .* seed 1"):
            build_table(records)


def test_duplicate_and_unexpected_seeds_are_refused(make_record):
    with pytest.raises(RecordError, match="maple has two records for seed 1"):
        build_table([make_record("maple", 1), make_record("maple", 1)])
    with pytest.raises(RecordError, match=r"seed 4, not among \[1, 2\]"):
        build_table([make_record("maple", 4)], seeds=[1, 2])


def test_settings_that_differ_from_the_baseline_besides_the_regularizer_are_told(make_record):
    own = {"CPT.WEIGHT_ETF": 0.25, "OPTIM.MAX_EPOCH": 50}
    records = [make_record("maple_cpt", config=own), make_record("maple", config={"OPTIM.MAX_EPOCH": 5})]
    assert build_table(records).comparisons[0].other_settings == ("OPTIM.MAX_EPOCH: 50 != 5",)


def test_a_seed_far_off_the_median_is_flagged_and_one_at_the_limit_is_not(make_record):
    def records(last):
        accuracies = [(70.0, 60.0), (71.0, 60.0), (70.0, last)]
        return [make_record("maple", seed, accuracy=value) for seed, value in enumerate(accuracies, 1)]

    assert build_table(records(55.0)).outliers == ()
    assert build_table(records(54.9)).outliers == (Outlier("maple", 3, "new", 54.9, 60.0),)


def test_a_group_that_is_empty_for_one_seed_has_no_mean(make_record):
    complete = make_record("maple", 1)
    groups = complete.groups | {"tail": GroupAccuracy(0, None)}
    row = build_table([complete, make_record("maple", 2, groups=groups)]).rows[0]
    assert row.columns["tail"] is None
    assert row.columns["head"].n == 2


def test_runs_on_all_images_are_not_those_of_tau_1(make_record):
    drawn = make_record("coop", tau=1.0)
    natural = make_record("coop", tau=1.0, shots=-1, config={"DATASET.NUM_SHOTS": -1})
    assert run_of(drawn) != run_of(natural)
    with pytest.raises(RecordError, match=r"shots: 16 shots .*, all images"):
        build_table([drawn, natural])
