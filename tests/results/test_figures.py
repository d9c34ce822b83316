"""Figures say what records say: numbers read back from the drawn objects, empty groups, seeds that lack."""

from __future__ import annotations

import builtins
import dataclasses
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

from cpt_plugin.cli.main import main
from cpt_plugin.errors import ConfigError
from cpt_plugin.results.figures.collapse import rank_correlation
from cpt_plugin.results.figures.group import group_records
from cpt_plugin.results.figures.registry import FEATURES, KINDS, draw, parse_kinds
from cpt_plugin.results.figures.style import COLORS, WIDTH, finish, look, new_figure, to_bytes
from cpt_plugin.results.groups import LONG_TAILED_BANDS
from cpt_plugin.results.record import save
from tests.helpers.records import make_record

pytest.importorskip("matplotlib")
ROOT = Path(__file__).parents[2]
PNG, PDF = b"\x89PNG", b"%PDF"
FROM_RECORDS = [name for name, kind in KINDS.items() if kind.material != FEATURES]


def history(seed, *parts):
    return tuple(
        {"loss": 2.0 / epoch + seed, "lcd_cos": 0.5 / epoch, "mid_cos": 0.3 * seed / epoch}
        | {part: 10.0 * number * epoch + seed for number, part in enumerate(parts, 1)}
        for epoch in (1, 2, 3)
    )


def records():
    """Zero-shot, a plain method with two seeds and CPT on it with one; classes 16 .. 4 images, so none is few."""
    found = [make_record("zeroshot", 1, history=())]
    for seed in (1, 2):
        found.append(make_record("maple", seed, correct=(9, 8, 7, 6, 5, 4 - seed), history=history(seed)))
    found.append(make_record("maple_cpt", 1, correct=(10, 9, 8, 7, 6, 5), history=history(1, "loss_reg", "loss_etf")))
    return found


def one(kind, material=None, seeds=()):
    groups, refused = group_records(records() if material is None else material, seeds)
    assert not refused
    drawings = draw(kind, groups)
    assert len(drawings) == 1
    return drawings[0]


def texts(figure):
    from matplotlib.text import Text

    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def test_each_kind_of_figure_has_a_file_and_a_description():
    folder = ROOT / "cpt_plugin" / "results" / "figures"
    assert all((folder / f"{name}.py").is_file() and kind.description for name, kind in KINDS.items())


def test_long_notes_stay_within_the_figure():
    note = "made differently, tau 0.25: maple_la by torch 2.13.0+cpu, commit 6e1373a536 and torch 2.11.0; "
    with look():
        figure, _ = new_figure(1, 1, 2.0)
        figure = finish(figure, "notes", "Notes", [3 * note, 40 * "commit 06a8 "]).figure
        figure.canvas.draw()
        box = figure._supxlabel.get_window_extent()
    assert 0 <= box.x0 < box.x1 <= WIDTH * figure.dpi


def test_bars_are_the_means_of_the_classes_most_images_first():
    figure = one("classes").figure
    panel = figure.axes[0]
    assert panel.get_title(loc="left") == "maple"
    bars = sorted((bar.get_x() + bar.get_width() / 2, bar.get_height()) for bar in panel.patches)
    assert np.ravel(bars) == pytest.approx([0, 90, 1, 80, 2, 70, 3, 60, 4, 50, 5, 25])
    names = [label.get_text() for label in figure.axes[-1].get_xticklabels()]
    assert names[0] == "base 0 (16)"
    assert names[-1] == "base 5 (4)"
    dashes = next(line for line in panel.lines if line.get_marker() == "_" and line.get_label() == "zero-shot")
    assert list(dashes.get_ydata()) == [90, 80, 70, 60, 50, 40]


def test_bars_stand_at_ranks_where_the_class_order_is_drawn_by_seed():
    orders = {1: (16, 12, 9, 6, 5, 4), 2: (12, 4, 5, 6, 9, 16)}
    both = [make_record("coop", seed, class_order="random", counts=counts) for seed, counts in orders.items()]
    figure = one("classes", both).figure
    assert next(label.get_text() for label in figure.axes[0].get_xticklabels()) == "n = 16"


def test_bars_stand_by_the_images_of_the_data_not_by_the_label():
    record = make_record("coop", tau=1.0, counts=(2, 4, 6, 10, 16, 20))
    figure = one("classes", [record]).figure
    names = [label.get_text() for label in figure.axes[-1].get_xticklabels()]
    assert names == ["base 5 (20)", "base 4 (16)", "base 3 (10)", "base 2 (6)", "base 1 (4)", "base 0 (2)"]
    assert any("from 20 training images (left) to 2 (right)" in text for text in texts(figure))


def test_seeds_with_other_images_show_the_span_of_their_counts():
    both = [make_record("coop", seed, tau=1.0, counts=counts) for seed, counts in
            {1: (9, 9, 8, 7, 6, 5), 2: (9, 8, 8, 7, 6, 4)}.items()]  # fmt: skip
    names = [label.get_text() for label in one("classes", both).figure.axes[-1].get_xticklabels()]
    assert names == ["base 0 (9)", "base 1 (8-9)", "base 2 (8)", "base 3 (7)", "base 4 (6)", "base 5 (4-5)"]


@pytest.mark.parametrize("kind", ["classes", "groups"])
def test_counts_that_only_the_schedule_tells_are_said_to_be_so(kind):
    figure = one(kind, [make_record("coop", counts_from="schedule"), make_record("maple")]).figure
    assert any("BY SCHEDULE, not read from the data: coop seed 1" in " ".join(text.split()) for text in texts(figure))


def test_bands_of_the_data_set_are_those_of_the_caption():
    record = make_record("coop", tau=1.0, counts=(500, 200, 100, 50, 19, 5), bands=LONG_TAILED_BANDS)
    figure = one("groups", [record]).figure
    assert any("many has 101 or more, medium 20 to 100, few up to 19" in " ".join(t.split()) for t in texts(figure))


def test_many_methods_share_out_over_figures_and_none_is_lost():
    names = [f"{name}{added}" for name in ("maple", "coop", "ivlp") for added in ("", "_cpt", "_npt")]
    groups, _ = group_records([make_record(name) for name in names])
    shown = [axes.get_title(loc="left") for drawing in draw("classes", groups) for axes in drawing.figure.axes]
    assert sorted(shown) == sorted(names)


def test_runs_on_all_images_have_a_group_of_their_own_beside_those_of_tau_1():
    config = {"DATASET.NUM_SHOTS": -1}
    both = [make_record("coop", tau=1.0), make_record("coop", tau=1.0, shots=-1, config=config)]
    groups, refused = group_records(both)
    assert not refused
    assert sorted(group.title for group in groups) == [
        "shapes, natural, base to new", "shapes, tau 1, base to new",
    ]  # fmt: skip
    assert len({drawing.stem for drawing in draw("classes", groups)}) == 2


def test_marks_of_groups_are_the_tables_means_and_an_empty_group_is_named():
    figure = one("groups").figure
    for axes, names in zip(figure.axes, (("head", "mid", "tail"), ("many", "medium")), strict=True):
        for name, container in zip(names, axes.containers, strict=False):
            drawn = list(container.lines[0].get_xdata())
            wanted = [np.mean([r.groups[name].accuracy for r in records() if r.method == method])
                      for method in ("zeroshot", "maple", "maple_cpt")]  # fmt: skip
            assert drawn == pytest.approx(wanted)
    assert "few (0)" in texts(figure)
    assert list(figure.axes[1].containers[2].lines[0].get_xdata()) == []


def test_every_seed_is_a_mark_and_a_missing_one_is_said():
    figure = one("seeds", seeds=(1, 2, 3)).figure
    [axes] = figure.axes
    marks = {line.get_label(): sorted(line.get_xdata()) for line in axes.lines if line.get_label().startswith("maple")}
    assert marks["maple"] == pytest.approx(sorted(r.metrics["H"] for r in records() if r.method == "maple"))
    assert marks["maple_cpt"] == pytest.approx([records()[-1].metrics["H"]])
    assert any(text.endswith("(1/3; seeds 2, 3 missing)") for text in texts(figure))
    assert any("missing: maple_cpt, seeds 2, 3" in text for text in texts(figure))


def test_spread_is_one_standard_deviation_with_ddof_one():
    [axes] = one("seeds").figure.axes
    [bars] = [container.lines[2][0] for container in axes.containers if container.lines[2]]
    widths = [right[0] - left[0] for left, right in bars.get_segments()]
    spread = np.std([r.metrics["H"] for r in records() if r.method == "maple"], ddof=1)
    assert widths == pytest.approx([2 * spread])


def test_degrees_stand_against_base_and_new_accuracy():
    figure = one("collapse").figure
    panels = figure.axes
    assert [axes.get_ylabel() for axes in panels] == ["base (%)", "", "new (%)", ""]
    maple = next(line for line in panels[1].lines if line.get_label() == "maple")
    assert list(maple.get_xdata()) == pytest.approx([0.1, 0.2])
    assert list(maple.get_ydata()) == pytest.approx([r.metrics["base"] for r in records() if r.method == "maple"])
    assert any("no degrees recorded: zeroshot" in text for text in texts(figure))


def test_rank_correlation_against_scipy():
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(0)
    for _ in range(20):
        xs, ys = rng.integers(0, 6, 12).tolist(), rng.integers(0, 6, 12).tolist()
        assert rank_correlation(xs, ys) == pytest.approx(stats.spearmanr(xs, ys).statistic)
    assert rank_correlation([1, 2], [1, 2]) is None
    assert rank_correlation([1, 1, 1], [1, 2, 3]) is None


def test_loss_parts_are_means_over_seeds_by_epoch_and_lacking_gradients_are_said():
    figure = one("training").figure
    plain, cpt = figure.axes[:2]
    [line] = plain.lines
    assert list(line.get_xdata()) == [1, 2, 3]
    assert list(line.get_ydata()) == pytest.approx([2.0 / epoch + 1.5 for epoch in (1, 2, 3)])
    assert [line.get_label() for line in cpt.lines] == ["loss", "loss_etf", "loss_reg"]
    assert any("gradient norms were not recorded" in text for text in texts(figure))


def test_gradient_norms_are_drawn_where_they_are_recorded():
    recorded = [make_record("maple", 1, history=history(1, "grad_ce", "grad_etf"))]
    drawings = draw("training", group_records(recorded)[0])
    assert [drawing.stem.split("_")[0] for drawing in drawings] == ["training-loss", "training-grad"]
    assert [line.get_label() for line in drawings[1].figure.axes[0].lines] == ["grad_ce", "grad_etf"]
    assert "not recorded" not in drawings[0].caption


def weight_records(values):
    """A plain run and variants of one weight, and one that changes two settings."""
    found = []
    for weight, hits in values.items():
        config = {"CPT.WEIGHT_ETF": weight, "CPT.WEIGHT_CC": 0.15}
        variant = "" if weight == 0.25 else f"CPT.WEIGHT_ETF={weight:g}"
        found.append(make_record("maple_cpt", 1, correct=(hits,), new_correct=(hits,), config=config, variant=variant))
    two = {"CPT.WEIGHT_ETF": 9.0, "CPT.WEIGHT_CC": 9.0}
    return [*found, make_record("maple_cpt", 1, config=two, variant="both")]


def test_curves_of_a_weight_hold_the_plain_run_and_each_single_change_in_order():
    figure = one("sensitivity", weight_records({1.0: 6, 0.25: 8, 0.02: 7, 0.0: 5})).figure
    [axes] = [axes for axes in figure.axes if axes.get_xlabel()]
    assert axes.get_xlabel() == "CPT.WEIGHT_ETF"
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "0.02", "0.25", "1"]
    curve = axes.containers[0].lines[0]
    assert list(curve.get_xdata()) == [0, 1, 2, 3]
    assert list(curve.get_ydata()) == pytest.approx([50, 70, 80, 60])
    ring = next(line for line in axes.lines if line.get_markerfacecolor() == "none")
    assert (ring.get_xdata()[0], ring.get_ydata()[0]) == pytest.approx((2, 80))


def test_notes_stand_below_in_small_letters_unless_they_are_left_out():
    backend_agg = pytest.importorskip("matplotlib.backends.backend_agg")
    figure = one("seeds").figure
    with_notes, without, again = (to_bytes(figure, "png", 40, notes=notes) for notes in (True, False, True))
    assert with_notes == again != without
    below = next(text for text in figure.texts if text.get_text() == figure.get_supxlabel())
    assert (below.get_position()[0], below.get_ha(), below.get_fontsize()) == (0.01, "left", 6.5)
    canvas = backend_agg.FigureCanvasAgg(figure)
    assert below.get_window_extent(canvas.get_renderer()).x1 < figure.get_window_extent().width


def test_figures_say_where_accuracies_mean_nothing_and_keep_it_apart():
    material = weight_records({0.25: 8, 1.0: 7})
    photos = [dataclasses.replace(record, dataset="eurosat") for record in material]
    drawing = one("sensitivity", [*material, *photos])
    assert "eurosat" not in {line.get_label() for axes in drawing.figure.axes for line in axes.containers}
    assert "left out, accuracies mean nothing there: eurosat" in " ".join(texts(drawing.figure))
    for kind in ("sensitivity", "seeds", "groups", "classes"):
        assert "ACCURACIES MEAN NOTHING here" in " ".join(texts(one(kind, photos).figure)), kind


def test_without_variants_there_is_no_sensitivity():
    assert draw("sensitivity", group_records(records())[0]) == []


@pytest.mark.parametrize("kind", FROM_RECORDS)
def test_one_run_alone_can_be_drawn_with_title_and_labels(kind):
    material = weight_records({0.25: 8, 1.0: 7}) if kind == "sensitivity" else [records()[1]]
    drawing = one(kind, material)
    assert "tau 0.25, base to new" in drawing.figure.get_suptitle()
    assert any(axes.get_xlabel() or axes.get_ylabel() for axes in drawing.figure.axes)
    assert drawing.caption.startswith(drawing.figure.get_suptitle().replace("\n", " "))


@pytest.mark.parametrize("protocol", ["few_shot_all", "cross_dataset"])
def test_other_protocols_are_drawn_with_their_own_headline(protocol):
    targets = {"shapes:colors:clean": 5, "shapes:shapes:clean": 7} if protocol == "cross_dataset" else None
    run = make_record("maple", 1, protocol=protocol, targets=targets, history=history(1))
    for kind in ("classes", "groups", "seeds", "collapse", "training"):
        one(kind, [run])
    label = one("seeds", [run]).figure.axes[0].get_xlabel()
    assert label == ("mean (%)" if targets else "all (%)")


@pytest.mark.parametrize(("kind", "form"), [*((kind, "png") for kind in FROM_RECORDS), ("classes", "pdf")])
def test_the_same_records_give_the_same_bytes_in_any_order(kind, form):
    material = weight_records({0.25: 8, 1.0: 7}) if kind == "sensitivity" else records()
    first, second = (to_bytes(one(kind, given).figure, form, 40) for given in (material, material[::-1]))
    assert first.startswith({"png": PNG, "pdf": PDF}[form])
    assert first == second
    assert b"CreationDate" not in first


def test_another_process_with_another_taste_gives_the_same_bytes(tmp_path):
    code = (
        "import sys; sys.path.insert(0, '.'); from tests.results.test_figures import *\n"
        "import matplotlib; matplotlib.rcParams['font.size'] = 20\n"
        "sys.stdout.buffer.write(to_bytes(one('seeds').figure, 'png', 60))"
    )
    changed = {"TZ": "Asia/Tokyo", "LC_ALL": "C", "PYTHONHASHSEED": "5", "MPLCONFIGDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True,
                          env=os.environ | changed)  # fmt: skip
    assert done.stdout == to_bytes(one("seeds").figure, "png", 60)


def test_colors_can_be_told_apart_by_the_color_blind():
    """The palette is a part of Okabe and Ito's, and no two of its colors are equal in red-green blindness."""
    published = {"#000000", "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7"}
    assert {*COLORS} < published
    assert len({*COLORS}) == len(COLORS)


def test_long_and_strange_names_break_nothing():
    strange = [dataclasses.replace(r, dataset="a$b_$\\frac " + "x" * 90, variant="$^" * 80) for r in records()[1:]]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for kind in ("classes", "groups", "seeds", "collapse", "training"):
            to_bytes(one(kind, strange).figure, "png", 40)


def test_mixed_records_are_refused_by_place_and_the_others_drawn(tmp_path, capsys):
    mixed = [make_record("coop", 1, tau=1.0), make_record("coop", 2, tau=1.0, shots=4)]
    for number, record in enumerate([*records(), *mixed]):
        save(record, tmp_path / str(number) / "record.json")
    assert main(["results", "figures", str(tmp_path), "--kind", "seeds", "--format", "png"]) == 1
    said = capsys.readouterr()
    assert "not drawn: shapes, tau 1, base to new: records of one table differ in shots" in said.err
    assert [path.name for path in (tmp_path / "figures").iterdir()] == ["seeds_shapes_0.25_base_to_new.png"]


def test_the_command_writes_both_forms(tmp_path, capsys):
    for record in records():
        save(record, tmp_path / "output" / record.method / f"seed{record.seed}" / "record.json")
    assert main(["results", "figures", str(tmp_path / "output"), "-o", str(tmp_path / "drawn"), "--kind",
                 "seeds,sensitivity,training"]) == 0  # fmt: skip
    names = {path.name for path in (tmp_path / "drawn").iterdir()}
    stems = {"seeds", "training-loss"}
    assert names == {f"{stem}_shapes_0.25_base_to_new.{form}" for stem in stems for form in ("png", "pdf")}
    assert "sensitivity: nothing to draw" in capsys.readouterr().out


def test_wrong_words_are_named(tmp_path, capsys):
    with pytest.raises(ConfigError, match="unknown kind of figure 'seed'; nearest: 'seeds'"):
        parse_kinds(["seed"])
    assert parse_kinds(["all"]) == list(KINDS)
    assert parse_kinds([]) == FROM_RECORDS
    assert main(["results", "figures", str(tmp_path), "--format", "gif"]) == 2
    assert "not as 'gif'" in capsys.readouterr().err
    assert main(["results", "figures", str(tmp_path)]) == 2
    assert "no records there" in capsys.readouterr().err


def test_without_matplotlib_the_remedy_is_named(monkeypatch):
    original = builtins.__import__

    def importing(name, *rest, **named):
        if name.partition(".")[0] == "matplotlib":
            raise ImportError("No module named 'matplotlib'")
        return original(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", importing)
    with pytest.raises(ConfigError, match=r"figures need matplotlib.*pip install 'matplotlib"):
        draw("seeds", group_records(records())[0])


def test_nothing_of_the_results_loads_matplotlib_before_it_draws():
    code = "import sys, cpt_plugin.cli.results, cpt_plugin.results.report.build; print('matplotlib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
