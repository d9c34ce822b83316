"""Tables over several data sets: NumPy and SciPy as oracles on fuzzed sets of records (R19)."""

from __future__ import annotations

import dataclasses
import random
from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as reference

from cpt_plugin.errors import RecordError
from cpt_plugin.results.grid import build_grid
from cpt_plugin.results.record import Backbone
from cpt_plugin.results.render import RENDERERS
from cpt_plugin.results.spec import Measure, RowSpec, TableSpec
from cpt_plugin.results.store import Failure
from tests.helpers.records import make_record

DATASETS = ("shapes", "shapes:colors:clean", "shapes:triples:clean")
TAUS = (1.0, 0.25)
SEEDS = (1, 2, 3)
NO_CC = {"CPT.WEIGHT_CC": 0}
ROWS = (
    RowSpec("zeroshot", "zeroshot"),
    RowSpec("plain", "maple", published="maple"),
    RowSpec("CPT", "maple_cpt"),
    RowSpec("no CC", "maple_cpt", NO_CC),
    RowSpec("paper only", published="coprompt"),
)
SPEC = TableSpec(
    "a table",
    ROWS,
    (Measure(metric="H"), Measure(metric="H_of_means"), Measure(metric="base", over="each"), Measure(metric="tail")),
    TAUS,
    SEEDS,
    "tau",
    DATASETS,
)
MEASURED = [row for row in ROWS if row.method]
PLACES = [(row, dataset, tau) for row in MEASURED for dataset in DATASETS for tau in TAUS]
NUMBERS = st.integers(0, 10**6)
EVENTS = ("there", "there", "there", "missing", "failed", "twice", "other config", "other images")


def run(row, dataset, tau, seed, hits=(9, 8, 7, 6, 5, 4), new_hits=(6, 5, 4), **changes):
    config = dict(changes.pop("config", {})) | ({"CPT.WEIGHT_CC": 0.0} if row.variant else {})
    config["DATASET.WORLD"] = dataset
    return make_record(
        row.method, seed, correct=hits, new_correct=new_hits, dataset=dataset, tau=tau, variant=row.variant,
        config=config, split_hash=changes.pop("split_hash", (f"{dataset} {seed}", f"{dataset} new {seed}")), **changes,
    )  # fmt: skip


def complete(**changes):
    seeds = {row.label: SEEDS[:1] if row.method == "zeroshot" else SEEDS for row in MEASURED}
    return [run(*place, seed, **changes) for place in PLACES for seed in seeds[place[0].label]]


def cells(grid):
    return {
        (row.label, column.tau, column.header): cell
        for block in grid.blocks
        for row, line in zip(grid.rows, block.cells, strict=True)
        for column, cell in zip(block.columns, line, strict=True)
    }


def record_set(number):
    """Records with their troubles, and by (row, data set, tau, seed) those that count, as base and new hits.

    Drawn from a number; one of three has hardly any trouble, so that complete cells occur as well.
    """
    draw = random.Random(number)
    events = EVENTS if number % 3 else ("there",) * 100 + EVENTS
    records, failures, good, spoiled = [], [], {}, defaultdict(set)
    for row, dataset, tau in PLACES:
        for seed in SEEDS if row.method != "zeroshot" else SEEDS[:1]:
            hits, new_hits = (tuple(draw.randint(0, 10) for _ in range(size)) for size in (6, 3))
            event = draw.choice(events)
            one = run(row, dataset, tau, seed, hits, new_hits)
            if event == "missing":
                continue
            if event == "failed":
                key = (row.method, row.variant, dataset, tau, seed, "base_to_new")
                failures.append(Failure(*key, "loss is nan", "2026-01-01"))
                continue
            if event == "other config":
                one = run(row, dataset, tau, seed, hits, new_hits, config={"OPTIM.LR": 0.5})
                spoiled["config"].add((row.label, dataset, tau, seed))
            if event == "other images":
                one = run(row, dataset, tau, seed, hits, new_hits, split_hash=("other", "images"))
                spoiled["images"].add((row.label, dataset, tau, seed))
            records.append(one)
            if event == "twice":
                records.append(dataclasses.replace(one, created="2027-01-01T00:00:00+00:00"))
                spoiled["twice"].add((row.label, dataset, tau, seed))
            good[row.label, dataset, tau, seed] = (hits, new_hits)
    return records, failures, usable(good, spoiled), spoiled


def usable(good, spoiled):
    """What is left by the rules: written here a second time, on keys instead of records."""
    kept = {key: value for key, value in good.items() if key not in spoiled["twice"]}
    for dataset in DATASETS:
        for tau in TAUS:
            for seed in SEEDS:
                here = [key for key in good if key[1:] == (dataset, tau, seed)]
                if len({key in spoiled["images"] for key in here}) == 2:
                    kept = {key: value for key, value in kept.items() if key not in here}
            for row in MEASURED:
                here = [key for key in kept if key[:3] == (row.label, dataset, tau)]
                if len({key in spoiled["config"] for key in here}) == 2:
                    kept = {key: value for key, value in kept.items() if key not in here}
    return kept


def base(value):
    return 100 * sum(value[0]) / 60


def new(value):
    return 100 * sum(value[1]) / 30


def harmonic(b, n):
    return reference.hmean([b, n]) if b and n else 0.0


def oracle(good, label, tau):
    """{column: {seed: value}} with NumPy."""
    found = defaultdict(dict)
    for seed in SEEDS:
        values = [good.get((label, dataset, tau, seed)) for dataset in DATASETS]
        for dataset, value in zip(DATASETS, values, strict=True):
            if value is not None:
                found[dataset.removeprefix("shapes:")][seed] = base(value)
        if all(values):
            found["mean of H"][seed] = np.mean([harmonic(base(v), new(v)) for v in values])
            found["H of means"][seed] = harmonic(np.mean([base(v) for v in values]), np.mean([new(v) for v in values]))
            found["mean of base"][seed] = np.mean([base(v) for v in values])
            found["mean of tail"][seed] = np.mean([10 * np.mean(v[0][4:]) for v in values])
    return found


@given(number=NUMBERS)
@settings(deadline=None, max_examples=60)
def test_cells_are_numpys_and_scipys_over_whatever_is_usable(number):
    records, failures, good, _ = record_set(number)
    found = cells(build_grid(SPEC, "shapes", records, (), failures))
    by_row = {(row.label, tau): oracle(good, row.label, tau) for row in MEASURED for tau in TAUS}
    for (label, tau, header), cell in found.items():
        if label == "paper only":
            assert (cell.by_seed, cell.expected) == ({}, 0)
            continue
        wanted = by_row[label, tau][header]
        assert cell.by_seed == pytest.approx(wanted, abs=1e-12)
        if not wanted:
            assert cell.summary is None
            continue
        values = list(wanted.values())
        assert cell.summary.mean == pytest.approx(np.mean(values), abs=1e-12)
        if len(values) > 1:
            assert cell.summary.std == pytest.approx(np.std(values, ddof=1), abs=1e-12)
            if np.std(values) > 1e-9:
                interval = reference.t.interval(0.95, len(values) - 1, np.mean(values), reference.sem(values))
                assert cell.summary.interval == pytest.approx(interval, abs=1e-9)
        if label in ("CPT", "no CC"):
            plain = by_row["plain", tau][header]
            gains = [wanted[seed] - plain[seed] for seed in SEEDS if seed in wanted and seed in plain]
            assert (cell.difference.n if cell.difference else 0) == len(gains)
            if gains:
                assert cell.difference.mean == pytest.approx(np.mean(gains), abs=1e-12)


@given(number=NUMBERS)
@settings(deadline=None, max_examples=60)
def test_nothing_incomplete_or_troubled_is_ranked_and_all_of_it_is_told(number):
    records, failures, good, spoiled = record_set(number)
    grid = build_grid(SPEC, "shapes", records, (), failures)
    found, notes = cells(grid), "\n".join(grid.notes)
    for (label, tau, header), cell in found.items():
        if label == "paper only":
            assert cell.rank == 0
            continue
        needed = SEEDS[:1] if label == "zeroshot" else SEEDS
        datasets = [d for d in DATASETS if d.removeprefix("shapes:") == header] or DATASETS
        whole = all((label, dataset, tau, seed) in good for dataset in datasets for seed in needed)
        assert cell.complete == (whole and not cell.problem)
        assert cell.rank == 0 or cell.complete
        if not cell.complete and not cell.problem:
            assert f"missing: {label}, base to new, tau {tau:g}: " in notes
    for label, dataset, _, seed in spoiled["twice"]:
        assert f"{label} has two records for seed {seed}" in notes
        assert dataset in notes
    for failure in failures:
        row = next(row for row in MEASURED if (row.method, row.variant) == (failure.method, failure.variant))
        assert f"failed: {row.label}, seed {failure.seed}, {failure.dataset}, tau {failure.tau:g}" in notes
    for tau in TAUS:
        for header in ("mean of H", "shapes"):
            whole = {k[0]: c.summary.mean for k, c in found.items() if k[1:] == (tau, header) and c.complete}
            ranked = {k[0]: c.rank for k, c in found.items() if k[1:] == (tau, header) and c.rank}
            order = sorted(set(whole.values()), reverse=True)
            wanted = {label: order.index(mean) + 1 for label, mean in whole.items() if mean in order[:2]}
            assert ranked == (wanted if len(whole) > 1 else {})


@given(number=NUMBERS)
@settings(deadline=None, max_examples=30)
def test_the_order_of_the_records_does_not_matter(number):
    records, failures, _, _ = record_set(number)
    grid = build_grid(SPEC, "shapes", records, (), failures)
    random.Random(number).shuffle(records)
    assert build_grid(SPEC, "shapes", records, (), failures) == grid


def test_a_failed_run_that_was_made_good_is_no_failure():
    failure = Failure("maple", "", "shapes", 1.0, 2, "base_to_new", "killed", "2026-01-01")
    assert build_grid(SPEC, "shapes", complete(), (), [failure]).notes == ()


def test_mixed_configurations_and_images_are_named():
    records = [one for one in complete() if (one.method, one.dataset, one.tau, one.seed) != ("maple", "shapes", 1.0, 2)]
    grid = build_grid(SPEC, "shapes", [*records, run(ROWS[1], "shapes", 1.0, 2, config={"OPTIM.LR": 0.5})])
    (note,) = [note for note in grid.notes if "different configurations" in note]
    assert "plain: seeds 1 and 2 ran under different configurations: OPTIM.LR: 0.002 != 0.5" in note
    assert "(shapes, tau 1, base to new)" in note
    assert cells(grid)["plain", 1.0, "mean of H"].by_seed == {}
    assert cells(grid)["plain", 1.0, "mean of H"].problem
    assert cells(grid)["plain", 0.25, "mean of H"].complete
    grid = build_grid(SPEC, "shapes", [*records, run(ROWS[1], "shapes", 1.0, 2, split_hash=("other", "images"))])
    assert any("split hash of base" in note and "seed 2" in note for note in grid.notes)
    for label in ("plain", "CPT", "no CC"):
        assert set(cells(grid)[label, 1.0, "shapes"].by_seed) == {1, 3}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"toolkit": "dassl"}, "toolkit: embedded .*, dassl"),
        ({"backbone": Backbone("micro", "cd" * 32)}, "backbone: micro abababababab"),
        ({"shots": 4}, "shots: 16"),
        ({"class_order": "random"}, "class_order: label"),
    ],
)
def test_toolkits_backbones_shots_and_orders_never_share_a_table(changes, message):
    with pytest.raises(RecordError, match=message):
        build_grid(SPEC, "shapes", [*complete()[1:], run(*PLACES[0], 1, **changes)])


def test_records_of_other_tables_are_left_aside():
    others = [
        run(ROWS[1], "shapes:colors:rot", 1.0, 1, shots=4),
        run(ROWS[1], "shapes", 0.06, 1),
        run(ROWS[1], "shapes", 1.0, 9),
        make_record("coop", 1, tau=1.0, config={"OPTIM.LR": 7.0}),
        make_record("maple", 1, tau=1.0, protocol="cross_dataset", targets={"dtd": 3}),
        dataclasses.replace(run(ROWS[2], "shapes", 1.0, 1), variant="CPT.WEIGHT_RS=0"),
    ]
    assert build_grid(SPEC, "shapes", [*complete(), *others]) == build_grid(SPEC, "shapes", complete())


def test_zero_shot_needs_one_run_and_other_seeds_can_be_asked_for():
    grid = build_grid(SPEC, "shapes", complete(), seeds=[1])
    assert grid.seeds == (1,)
    assert all(cell.complete for key, cell in cells(grid).items() if key[0] != "paper only")
    more = [run(ROWS[0], "shapes", 1.0, seed) for seed in (2, 3)]
    found = cells(build_grid(SPEC, "shapes", [*complete(), *more]))
    assert all(cell.complete for key, cell in found.items() if key[0] == "zeroshot"), "in one data set thrice"
    none = cells(build_grid(SPEC, "shapes", []))["zeroshot", 1.0, "mean of H"]
    assert (none.by_seed, none.expected) == ({}, 1)
    grid = build_grid(SPEC, "shapes", complete(), seeds=[1, 2, 3, 4])
    assert cells(grid)["zeroshot", 1.0, "mean of H"].complete
    assert cells(grid)["plain", 1.0, "mean of H"].expected == 4
    assert "missing: plain, base to new, tau 1: seeds 4 of all 3 data sets" in grid.notes


def test_a_table_without_runs_says_what_there_is_instead():
    assert "no records yet" in build_grid(SPEC, "shapes", []).subtitle
    other_seeds = build_grid(SPEC, "shapes", complete(), seeds=[8]).subtitle
    assert other_seeds.startswith("no records of these seeds, but of 1, 2, 3 (--seeds); ")
    spec = dataclasses.replace(SPEC, taus=(0.5,))
    words = build_grid(spec, "shapes", complete()).subtitle
    assert words.startswith(f"no records of these runs; the {len(complete())} that there are have tau 1, 0.25 and are ")


def test_zero_shot_under_another_seed_in_each_data_set_is_one_value():
    """It trains nothing, so any seed is the same run."""
    others = [one for one in complete() if one.method != "zeroshot"]
    runs = {dataset: run(ROWS[0], dataset, 1.0, seed) for dataset, seed in zip(DATASETS, SEEDS, strict=True)}
    cell = cells(build_grid(SPEC, "shapes", [*others, *runs.values()]))["zeroshot", 1.0, "mean of H"]
    assert cell.complete
    assert list(cell.by_seed.values()) == [pytest.approx(np.mean([one.metrics["H"] for one in runs.values()]))]


def test_records_of_another_division_of_the_data_are_left_out_and_named():
    others = [run(ROWS[1], "shapes (own split 1)", 1.0, seed) for seed in SEEDS]
    grid = build_grid(SPEC, "shapes", [*complete(), *others])
    note = "left out: records of 'shapes (own split 1)', which is not the division of the data that tables show"
    assert note in grid.notes
    assert cells(grid) == cells(build_grid(SPEC, "shapes", complete()))


@pytest.mark.parametrize(
    ("absent", "where"),
    [
        ({(dataset, 2) for dataset in DATASETS}, "seeds 2 of all 3 data sets"),
        ({("shapes", 2), ("shapes:colors:clean", 2)}, "shapes, shapes:colors:clean (seeds 2)"),
        ({("shapes", 2), ("shapes:colors:clean", 3)}, "shapes (seeds 2); shapes:colors:clean (seeds 3)"),
        ({("shapes", 2), ("shapes", 3)}, "shapes (seeds 2, 3)"),
    ],
)
def test_missing_runs_are_named_by_seed_and_data_set(absent, where):
    kept = [one for one in complete() if one.method != "maple" or (one.dataset, one.seed) not in absent]
    notes = [note for note in build_grid(SPEC, "shapes", kept).notes if note.startswith("missing: plain, base to new")]
    assert notes
    assert all(note.endswith(f": {where}") for note in notes)


def test_published_figures_stand_beside_and_are_never_ranked():
    found = cells(build_grid(SPEC, "shapes", complete()))
    assert found["plain", 1.0, "mean of H"].published.value == 78.25
    assert found["paper only", 0.25, "mean of H"].published.value == 72.24
    assert found["paper only", 1.0, "mean of H"].rank == 0
    assert found["plain", 1.0, "shapes"].published is None
    assert found["CPT", 1.0, "mean of H"].published is None, "no figure is guessed for another method"


def test_settings_that_differ_between_data_sets_or_from_the_baseline_are_told():
    def changed(one):
        differs = one.method == "maple_cpt" and one.dataset == DATASETS[1]
        row = next(row for row in MEASURED if (row.method, row.variant) == (one.method, one.variant))
        extra = {"config": {"OPTIM.MAX_EPOCH": 50}} if differs else {}
        return run(row, one.dataset, one.tau, one.seed, **extra)

    notes = build_grid(SPEC, "shapes", [changed(one) for one in complete()]).notes
    line = "CPT: settings differ between shapes and shapes:colors:clean: OPTIM.MAX_EPOCH: (not set) != 50"
    assert line in notes
    assert "CPT and plain also differ in OPTIM.MAX_EPOCH: 50 != (not set)" in notes


def test_a_seed_far_off_the_others_is_flagged():
    records = [one for one in complete() if (one.method, one.tau, one.seed) != ("maple", 1.0, 3)]
    records += [run(ROWS[1], dataset, 1.0, 3, hits=(1,) * 6) for dataset in DATASETS]
    notes = build_grid(SPEC, "shapes", records).notes
    assert "check: plain, seed 3: mean of base, tau 1 10.0 is 55.0 points below the median 65.0" in notes


def test_targets_and_an_evaluation_that_is_not_there():
    spec = TableSpec("t", (RowSpec("maple", "maple"),), (Measure("cross_dataset", over="each"),), (1.0,), (1, 2))
    targets = {f"shapes:{name}:clean": 5 for name in ("texture_shape", "color_shape", "color_texture", "shapes")}
    whole = targets | {"shapes:colors:clean": 10}
    shared = {"tau": 1.0, "protocol": "cross_dataset"}
    made = [make_record("maple", seed, targets=one, **shared) for seed, one in ((1, whole), (2, targets))]
    grid = build_grid(spec, "shapes", made)
    found = cells(grid)
    assert found["maple", 1.0, "colors:clean"].by_seed == {1: 100.0}
    assert found["maple", 1.0, "colors:clean"].problem
    assert any("colors:clean: no such value for seeds 2" in note for note in grid.notes)
    assert found["maple", 1.0, "source"].complete
    assert build_grid(spec, "shapes", made[:1], [1]).blocks[0].cells[0][-1].summary.mean == pytest.approx(60.0)


def test_runs_whose_accuracies_mean_nothing_are_in_no_mean_over_data_sets():
    """The micro model on photographs beside drawn worlds; alone, the table is shown and says so in every form."""
    spec = dataclasses.replace(SPEC, rows=ROWS[:3], taus=(1.0,), shapes=(*DATASETS[:2], "eurosat", "dtd (own split 1)"))
    records = [run(row, data, 1.0, seed) for row in ROWS[:3] for data in spec.shapes for seed in (1, 2)]
    drawn = [record for record in records if record.dataset.startswith("shapes")]
    grid, wanted = (build_grid(spec, "shapes", some, (1, 2)) for some in (records, drawn))
    assert grid.blocks == wanted.blocks
    (note,) = [note for note in grid.notes if "mean nothing" in note]
    assert "eurosat (maple: 2, maple_cpt: 2, zeroshot: 2)" in note
    assert "the micro model knows neither real images" in note
    assert not any("mean nothing" in note for note in wanted.notes)
    photos = dataclasses.replace(spec, shapes=("eurosat",))
    alone = build_grid(photos, "shapes", records, (1, 2))
    assert all(cell.by_seed for cell in cells(alone).values())
    for form, renderer in RENDERERS.items():
        assert "ACCURACIES MEAN NOTHING here" in renderer(alone), form
        assert "ACCURACIES MEAN NOTHING here" not in renderer(grid), form
    vit = [dataclasses.replace(one, backbone=Backbone("ViT-B/16", "0" * 64)) for one in records]
    mixed, only = (build_grid(photos, "shapes", some, (1, 2)) for some in ([*records, *vit], vit))
    assert mixed.blocks == only.blocks


def test_a_row_s_baseline_is_the_plain_method_with_most_of_its_options():
    fast = {"OPTIM.LR": 0.02}
    rows = (
        RowSpec("plain", "maple"),
        RowSpec("plain fast", "maple", fast),
        RowSpec("CPT", "maple_cpt"),
        RowSpec("no CC", "maple_cpt", NO_CC),
        RowSpec("no CC, fast", "maple_cpt", NO_CC | fast),
        RowSpec("CPT slow", "maple_cpt", {"OPTIM.LR": 0.0002}),
    )
    spec = dataclasses.replace(SPEC, rows=rows, columns=(Measure(metric="H"),), taus=(1.0,), shapes=DATASETS[:1])
    records = [
        run(row, "shapes", 1.0, 1, (at,) * 6, (at,) * 3, config={"OPTIM.LR": 0.002} | (row.options or {}))
        for at, row in enumerate(rows, 1)
    ]
    grid = build_grid(spec, "shapes", records, (1,))
    assert grid.baselines == {
        "plain fast": "plain", "CPT": "plain", "no CC": "plain", "no CC, fast": "plain fast", "CPT slow": "plain"
    }  # fmt: skip
    gains = {label: cell.difference.mean for (label, *_), cell in cells(grid).items() if cell.difference}
    assert gains == pytest.approx({"plain fast": 10, "CPT": 20, "no CC": 30, "no CC, fast": 30, "CPT slow": 50})
    assert [note for note in grid.notes if "also differ" in note] == [
        "CPT slow and plain also differ in OPTIM.LR: 0.0002 != 0.002"
    ]
