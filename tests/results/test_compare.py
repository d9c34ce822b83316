"""Paired comparisons: NumPy and SciPy as oracles on fuzzed sets of records, sentences, refusals, order of records."""

from __future__ import annotations

import csv
import dataclasses
import io
import random
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as reference

from cpt_plugin.errors import ConfigError, RecordError
from cpt_plugin.results.compare import Question, compare
from cpt_plugin.results.compare_text import RENDERERS, render_csv, render_terminal, sentence
from cpt_plugin.results.contrast import ALPHA, CLAIM_WORLDS
from cpt_plugin.results.record import Backbone, GitState
from tests.helpers.comparisons import SEEDS, WORLDS, run, with_gains

METHODS = ("maple", "maple_cptb", "maple_la")


def only(records, **changes):
    """The one comparison of a question about new classes."""
    question = Question(**{"pairs": (("maple_cptb", "maple"),), "metrics": ("new",)} | changes)
    (found,) = compare(records, question).contrasts
    return found


@given(number=st.integers(0, 10**6), worlds=st.integers(1, 6))
@settings(deadline=None, max_examples=60)
def test_differences_are_numpys_and_scipys(number, worlds):
    draw = random.Random(number)
    hits = {
        (method, world, seed): ([draw.randint(1, 10) for _ in range(6)], [draw.randint(1, 10) for _ in range(3)])
        for method in METHODS for world in WORLDS[:worlds] for seed in SEEDS
        if draw.random() < 0.85 or (seed == 1 and world == WORLDS[0])
    }  # fmt: skip
    records = [run(*key, tuple(base), tuple(new)) for key, (base, new) in hits.items()]
    draw.shuffle(records)
    found = compare(records, Question(tuple((name, "maple") for name in METHODS[1:]), ("H", "tail"), correction="holm"))
    assert len(found.contrasts) == 4

    def value(method, world, seed, metric):
        base, new = hits[method, world, seed]
        # the two rarest of six classes are the tail
        return reference.hmean([np.mean(base), np.mean(new)]) * 10 if metric == "H" else np.mean(base[-2:]) * 10

    for one in found.contrasts:
        by_world = [
            [value(one.first, world, seed, one.metric) - value("maple", world, seed, one.metric) for seed in SEEDS
             if (one.first, world, seed) in hits and ("maple", world, seed) in hits]
            for world in WORLDS[:worlds]
        ]  # fmt: skip
        paired = [values for values in by_world if values]
        assert (len(one.paired), one.pairs) == (len(paired), sum(map(len, paired)))
        units = [np.mean(values) for values in paired] if len(paired) > 1 else paired[0]
        assert one.difference.mean == pytest.approx(np.mean(units), abs=1e-9)
        assert one.means[0] - one.means[1] == pytest.approx(np.mean(units), abs=1e-9)
        errors = [(np.array(values) - np.mean(values)) ** 2 for values in paired]
        degrees = sum(len(values) - 1 for values in paired)
        if degrees:
            assert one.within == pytest.approx(np.sqrt(np.concatenate(errors).sum() / degrees), abs=1e-9)
        if len(units) > 1 and np.std(units) > 1e-6:
            oracle = reference.ttest_1samp(units, 0)
            assert one.p == pytest.approx(oracle.pvalue, abs=1e-9)
            assert one.difference.interval == pytest.approx(tuple(oracle.confidence_interval(0.95)), rel=1e-8, abs=1e-8)
            excludes = one.difference.interval[0] > 0 or one.difference.interval[1] < 0
            assert excludes == (one.p < ALPHA)
    render_terminal(found)


GAIN = [[9, 12, 9], [10, 9, 9], [8, 9, 12], [9, 9, 9], [7, 10, 9], [9, 9, 12]]
MIXED = [[9, -9, 0], [-9, 9, 3], [3, 3, 3], [-6, 0, 3], [9, 9, 9], [-9, -3, -9]]


def test_a_gain_over_enough_worlds_may_be_claimed():
    one = only(with_gains(GAIN))
    gains = [np.mean(row) / 90 * 100 for row in GAIN]
    low, high = reference.ttest_1samp(gains, 0).confidence_interval()
    assert (one.verdict, len(one.paired)) == ("above", CLAIM_WORLDS)
    assert sentence(one).startswith(
        f"maple_cptb is above maple in new at tau 0.25 by {np.mean(gains):.2f} points [{low:.2f}, {high:.2f}] over "
        "6 worlds x 3 seeds (95 % t-interval over worlds, p <0.0001): this may be claimed for worlds like these"
    )
    assert "Provisional" not in sentence(one)


def test_a_loss_is_below_and_its_interval_is_that_of_the_gain_turned_round():
    up = sentence(only(with_gains(GAIN)))
    down = sentence(only(with_gains(GAIN), pairs=(("maple", "maple_cptb"),)))
    assert down == up.replace("maple_cptb is above maple in", "maple is below maple_cptb in")


def test_no_difference_shown_is_neither_gain_nor_equality():
    one = only(with_gains(MIXED))
    assert one.verdict == "not shown"
    assert "maple_cptb is not shown to differ from maple in new" in sentence(one)
    assert "neither a gain nor equality may be claimed" in sentence(one)


def test_few_worlds_are_exploratory_however_small_p_is():
    one = only(with_gains(GAIN[:5]))
    assert one.p < 0.001
    assert one.verdict == "exploratory"
    assert sentence(one).startswith("Only exploratory, 5 worlds: maple_cptb is above maple")
    assert "may be claimed" not in sentence(one)


def test_one_world_says_nothing_beyond_itself():
    one = only(with_gains([[9, 12, 10]]))
    assert one.verdict == "one world"
    assert one.difference.n == 3
    assert one.p == pytest.approx(reference.ttest_1samp([9, 12, 10], 0).pvalue, abs=1e-12)
    assert f"on {WORLDS[0]} by 11.48 points" in sentence(one)
    assert "over 3 seeds (95 % t-interval over seeds" in sentence(one)
    assert "nothing can be claimed beyond this world" in sentence(one)


def test_one_pair_has_no_interval():
    one = only(with_gains([[9]], seeds=(1,)))
    assert (one.p, one.p_adjusted, one.difference.interval, one.within) == (None, None, None, None)
    assert "is +10.00 points in one pair: no interval, and nothing can be claimed" in sentence(one)


@pytest.mark.parametrize("gain", [0, 9])
def test_the_same_difference_everywhere_is_no_evidence(gain):
    one = only(with_gains([[gain] * 3] * 6))
    assert (one.verdict, one.p) == ("not shown", None)
    assert f"the difference is {gain * 10 / 9:+.2f} points in every world" in sentence(one)


def test_rounding_is_no_spread():
    """One image more of 90 in each world, from other levels: the differences differ in their last bits only."""
    records = []
    for level, world in enumerate(WORLDS, 1):
        records.append(run("maple", world, 1, new_hits=(level,) * 9))
        records.append(run("maple_cptb", world, 1, new_hits=(level,) * 8 + (level + 1,)))
    one = only(records)
    assert one.difference.std > 0
    assert (one.p, one.verdict) == (None, "not shown")


def test_nothing_is_said_without_pairs():
    records = [run("maple", WORLDS[0], 1), run("maple_cptb", WORLDS[0], 2)]
    one = only(records)
    assert (one.verdict, one.difference, one.pairs, one.expected) == ("nothing", None, 0, 2)
    assert sentence(one).startswith("Nothing to compare: no world has a seed with both")
    assert all(render(compare(records, Question((("maple_cptb", "maple"),)))) for render in RENDERERS.values())


def test_missing_and_unpaired_runs_are_left_out_and_named():
    records = with_gains(GAIN)
    kept = [
        one for one in records
        if (one.method, one.dataset, one.seed) != ("maple", WORLDS[1], 2)
        and (one.method, one.dataset) != ("maple_cptb", WORLDS[2])
    ]  # fmt: skip
    question = Question((("maple_cptb", "maple"),), ("new",), worlds=(*WORLDS, "shapes"), seeds=(1, 2, 3, 4))
    found = compare(kept, question)
    (one,) = found.contrasts
    assert (one.pairs, one.expected, len(one.paired), len(one.worlds)) == (14, 28, 5, 7)
    assert "5 worlds, 14 pairs" in sentence(one)
    assert "Provisional: 14/28 pairs, 5/7 worlds." in sentence(one)
    text = render_terminal(found)
    assert re.search(rf"{WORLDS[1]} .*\(2/4\)", text)
    assert re.search(rf"{WORLDS[2]} +- \(0/4\)", text)
    assert f"left out, unpaired: maple_cptb without maple, tau 0.25: {WORLDS[1]} (seeds 2)" in found.notes
    assert f"left out, unpaired: maple without maple_cptb, tau 0.25: {WORLDS[2]} (seeds 1, 2, 3)" in found.notes
    (missing,) = [note for note in found.notes if note.startswith("missing: maple_cptb and maple")]
    assert "shapes (all seeds)" in missing
    assert f"{WORLDS[0]} (seeds 4)" in missing


def test_each_world_counts_once_however_many_seeds_it_has():
    records = with_gains([[9, 9, 9], [0, 0, 0]])
    records = [one for one in records if one.dataset == WORLDS[0] or one.seed == 1]
    assert only(records).difference.mean == pytest.approx(5.0)


def test_zero_shot_of_one_seed_pairs_with_all():
    records = with_gains(GAIN, second="coop") + [run("zeroshot", world, 1) for world in WORLDS]
    one = only(records, pairs=(("maple_cptb", "zeroshot"),))
    assert (one.pairs, one.expected) == (18, 18)


def test_a_value_that_is_not_there_is_named():
    groups = {name: dataclasses.replace(group, accuracy=None)
              for name, group in run("maple", WORLDS[0], 1).groups.items()}  # fmt: skip
    records = with_gains(GAIN)
    records[0] = dataclasses.replace(records[0], groups=groups)
    found = compare(records, Question((("maple_cptb", "maple"),), ("tail", "new")))
    assert [one.pairs for one in found.contrasts] == [17, 18]
    note = f"left out, no such value: maple_cptb - maple, tail, tau 0.25: {WORLDS[0]}, seed 1"
    assert note in found.notes


def test_settings_that_differ_are_named():
    records = with_gains(GAIN)
    records = [
        dataclasses.replace(one, config=one.config | {"OPTIM.LR": 0.1}) if one.method == "maple_cptb" else one
        for one in records
    ]
    records = [
        dataclasses.replace(one, config=one.config | {"OPTIM.NAME": "adam"}) if one.dataset == WORLDS[5] else one
        for one in records
    ]
    notes = compare(records, Question((("maple_cptb", "maple"),))).notes
    assert "maple_cptb and maple also differ in OPTIM.LR: 0.1 != 0.002" in notes
    assert f'maple: settings differ between {WORLDS[0]} and {WORLDS[5]}: OPTIM.NAME: "sgd" != "adam"' in notes


def test_runs_made_by_other_code_are_named():
    records = with_gains(GAIN)
    assert not [note for note in compare(records, Question((("maple_cptb", "maple"),))).notes if "made" in note]
    other = {"versions": {"torch": "9.9"}, "git": GitState("0123456789abcdef", True)}
    records = [dataclasses.replace(r, **other) if r.method == "maple" else r for r in records]
    (note,) = (n for n in compare(records, Question((("maple_cptb", "maple"),), ("new", "H"))).notes if "made" in n)
    assert note.endswith("maple by torch 9.9, commit 0123456789 with changed files")
    assert note.startswith("made differently, tau 0.25: maple_cptb by torch ")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"toolkit": "dassl"}, "toolkit"),
        ({"backbone": Backbone("ViT-B/16", "cd" * 32)}, "backbone"),
        ({"class_order": "random"}, "class_order"),
        ({"shots": 8}, "shots"),
        ({"config": {"OPTIM.LR": 0.5}}, "different configurations"),
        ({"split_hash": ("other", "images")}, "saw different images"),
    ],
)
def test_what_must_not_be_mixed_is_refused(changes, message):
    records = [one for one in with_gains(GAIN) if (one.method, one.dataset, one.seed) != ("maple", WORLDS[3], 2)]
    with pytest.raises(RecordError, match=message):
        compare([*records, run("maple", WORLDS[3], 2, **changes)], Question((("maple_cptb", "maple"),)))


def test_a_seed_twice_is_refused():
    records = with_gains(GAIN)
    with pytest.raises(RecordError, match="two records for seed 1"):
        compare([*records, records[0]], Question((("maple_cptb", "maple"),)))


def test_other_targets_in_one_world_are_refused():
    records = [
        run("maple", WORLDS[0], 1, protocol="cross_dataset", targets={"a": 5, "b": 6}),
        run("maple_cptb", WORLDS[0], 1, protocol="cross_dataset", targets={"a": 5}),
    ]
    with pytest.raises(RecordError, match="evaluations"):
        compare(records, Question((("maple_cptb", "maple"),), protocol="cross_dataset"))


def test_targets_of_a_transfer_are_metrics():
    records = [
        run(method, WORLDS[0], 1, protocol="cross_dataset", targets={"a": 5 + up, "b": 6})
        for up, method in enumerate(("maple", "maple_cptb"))
    ]
    found = compare(records, Question((("maple_cptb", "maple"),), ("a", "mean"), protocol="cross_dataset"))
    assert [one.difference.mean for one in found.contrasts] == [10.0, 5.0]


def test_others_records_do_not_disturb():
    records = with_gains(GAIN)
    others = [run("coop", WORLDS[0], 1, toolkit="dassl"), run("maple", WORLDS[0], 1, protocol="few_shot_all")]
    assert only(records) == only([*others, *records])


def test_each_tau_is_a_comparison_of_its_own():
    records = with_gains(GAIN) + with_gains(MIXED, tau=0.06)
    question = Question((("maple_cptb", "maple"),), ("new",))
    found = compare(records, question).contrasts
    assert [(one.tau, one.verdict) for one in found] == [(0.25, "above"), (0.06, "not shown")]
    assert only(records, taus=(0.06,)).difference == found[1].difference


def test_several_comparisons_without_correction_are_qualified():
    found = compare(with_gains(GAIN), Question((("maple_cptb", "maple"),), ("new", "H")))
    assert sentence(found.contrasts[0]).endswith("if this was the one comparison planned.")
    assert "2 comparisons, not corrected" in render_terminal(found)


def many(correction, count=0):
    """Three methods against one, of which one is well, one just, and one not above it."""
    just = [[9, 0, 9], [0, 9, 0], [9, 0, 3], [0, 0, 9], [0, 0, -3], [9, 9, 9]]
    parts = [("maple_cptb", GAIN), ("maple_la", just), ("maple_cpt", MIXED)]
    unique = {(r.method, r.dataset, r.seed): r for name, gains in parts for r in with_gains(gains, first=name)}
    names = tuple(name for name, _ in parts)
    pairs = tuple((name, "maple") for name in names)
    return compare(unique.values(), Question(pairs, ("new",), correction=correction, count=count))


def test_correction_takes_a_claim_back():
    plain, p = many("").contrasts, [one.p for one in many("").contrasts]
    assert p[0] < p[1] < ALPHA < 2 * p[1] < p[2]
    assert [one.verdict for one in plain] == ["above", "above", "not shown"]
    held, bonferroni = many("holm").contrasts, many("bonferroni", 7).contrasts
    assert [one.p_adjusted for one in held] == pytest.approx([3 * p[0], 2 * p[1], p[2]])
    assert [one.p_adjusted for one in bonferroni] == pytest.approx([min(1, 7 * value) for value in p])
    assert [one.verdict for one in held] == [one.verdict for one in bonferroni] == ["above", "not shown", "not shown"]
    assert "by Holm for 3 comparisons" in sentence(held[1])
    assert "not corrected" in sentence(held[1])
    assert "99.29 % t-interval over worlds; " in sentence(bonferroni[1])
    for one in bonferroni:
        means = [world.difference.mean for world in one.worlds]
        oracle = reference.ttest_1samp(means, 0).confidence_interval(1 - 0.05 / 7)
        assert one.difference.interval == pytest.approx(tuple(oracle))


def test_a_count_below_the_comparisons_made_is_refused():
    with pytest.raises(ConfigError, match="3 comparisons are made"):
        many("bonferroni", 2)


@given(seed=st.integers(0, 10**6))
@settings(deadline=None, max_examples=10)
def test_the_bytes_do_not_depend_on_the_order_of_records(seed):
    records = with_gains(GAIN) + with_gains(MIXED, tau=0.06)
    question = Question((("maple_cptb", "maple"),), ("new", "H", "tail"), correction="holm")
    expected = [render(compare(records, question)) for render in RENDERERS.values()]
    random.Random(seed).shuffle(records)
    assert [render(compare(records, question)) for render in RENDERERS.values()] == expected


def test_worlds_that_share_something_are_said_not_to_be_independent():
    assert "not independent" not in render_terminal(compare(with_gains(GAIN), Question((("maple_cptb", "maple"),))))
    records = [
        dataclasses.replace(one, dataset="shapes:triples:warp") if one.dataset == WORLDS[0] else one
        for one in with_gains(GAIN)
    ]
    text = render_terminal(compare(records, Question((("maple_cptb", "maple"),))))
    assert "6 drawn worlds of 5 class sets and 6 domains" in text


def test_csv_gives_the_figures_back():
    found = compare(with_gains(GAIN), Question((("maple_cptb", "maple"),), ("new",)))
    overall, *worlds = csv.DictReader(io.StringIO(render_csv(found)))
    (one,) = found.contrasts
    assert (overall["world"], [row["world"] for row in worlds]) == ("", list(WORLDS))
    assert (float(overall["low"]), float(overall["high"])) == one.difference.interval
    assert np.mean([float(row["difference"]) for row in worlds]) == pytest.approx(float(overall["difference"]))
    assert overall["claim"] == sentence(one)


def test_runs_whose_accuracies_mean_nothing_are_left_out_and_said():
    """A huge difference of the micro model on photographs would turn the verdict round."""
    gains = [[1, 2, 1], [2, 1, 1], [1, 1, 2], [1, 1, 1], [2, 1, 1], [1, 2, 2]]
    records = with_gains(gains)
    photos = [
        run(method, world, seed, new_hits=(hits,) * 9)
        for method, hits in (("maple_cptb", 0), ("maple", 9))
        for world in ("eurosat", "dtd (own split 1)")
        for seed in SEEDS
    ]  # fmt: skip
    question = Question((("maple_cptb", "maple"),), ("new",))
    found, wanted = compare([*photos, *records], question), compare(records, question)
    assert found.contrasts == wanted.contrasts
    (note,) = found.notes
    assert "dtd (own split 1) (maple: 3, maple_cptb: 3); eurosat (maple: 3, maple_cptb: 3)" in note
    assert "the micro model knows neither real images nor their names" in note
    assert note in render_terminal(found).replace("\n    ", " ")
    with pytest.raises(RecordError, match=r"no records of 'maple_cptb'.*accuracies mean nothing"):
        compare(photos, question)
    vit = [dataclasses.replace(one, backbone=Backbone("ViT-B/16", "0" * 64)) for one in photos]
    assert compare([*photos, *vit], question).contrasts == compare(vit, question).contrasts
