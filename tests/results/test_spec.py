"""Tables of configs/tables: every one can be read, and nonsense in one is refused with its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from cpt_plugin.errors import ConfigError
from cpt_plugin.methods import parse_method
from cpt_plugin.protocols import DATASETS_11
from cpt_plugin.results.spec import WORLDS, blocks, load_spec, table_names

ROOT = Path(__file__).parents[2]
NAMES = {
    "cpt_main", "per_dataset", "cross_dataset", "domain_generalization", "ablation", "cluster_size", "seeds", "weights",
    "controls", "candidates", "mechanisms",
}  # fmt: skip


def written(folder, **changes):
    values = {"title": "t", "rows": [{"method": "maple"}], "columns": [{}], "taus": [0.25]} | changes
    (folder / "own.yaml").write_text("\n".join(f"{key}: {value}" for key, value in values.items()))
    return str(folder / "own.yaml")


def test_every_table_is_there_and_can_be_read():
    assert set(table_names(ROOT)) == NAMES
    for name in NAMES:
        spec = load_spec(name, ROOT)
        for world in WORLDS:
            headers = [[column.header for column in columns] for _, columns in blocks(spec, world)]
            assert all(len(set(line)) == len(line) for line in headers), "no two columns of a block alike"
        for row in spec.rows:
            parts = parse_method(row.method).parts if row.method else ()
            assert all(key.split(".")[0].lower() in parts for key in row.options or {}), "what the row reads"


def test_main_table_has_cpts_data_sets_at_cpts_ratios():
    spec = load_spec("cpt_main", ROOT)
    assert spec.real == DATASETS_11
    assert spec.taus == (1, 0.25, 0.06)
    assert len(spec.shapes) >= 8
    assert {"coprompt", "dekg", "cpt", "promptsrc_dpc"} <= {row.published for row in spec.rows}
    assert [heading for heading, _ in blocks(spec, "real")] == ["tau 1", "tau 0.25", "tau 0.06"]


def test_columns_of_transfer_protocols_are_the_targets_and_their_mean():
    (_, columns), *_ = blocks(load_spec("cross_dataset", ROOT), "real")
    assert [column.metric for column in columns] == ["source", *DATASETS_11[1:], "mean"]
    assert columns[1].published == ("imagenet", "caltech101")
    (_, columns), *_ = blocks(load_spec("domain_generalization", ROOT), "shapes")
    assert {column.datasets for column in columns} == {("shapes",)}
    assert [column.metric for column in columns][-1] == "mean"


def test_each_and_seed_add_columns_before_the_average(tmp_path):
    path = written(tmp_path, columns="[{over: each}, {metric: base, over: seed}]", shapes="[shapes, 'shapes:colors']")
    ((heading, columns),) = blocks(load_spec(path, ROOT), "shapes")
    assert heading == "tau 0.25"
    assert [column.header for column in columns] == [
        "shapes", "colors:clean", "mean of H", "seed 1", "seed 2", "seed 3", "mean of base"
    ]  # fmt: skip
    assert [column.seed for column in columns] == [None, None, None, 1, 2, 3, None]


def test_variants_and_labels(tmp_path):
    rows = "[{method: npt}, {method: maple_cpt, label: half, options: {CPT.WEIGHT_ETF: 0.50, CPT.WEIGHT_CC: 0}}]"
    alias, half = load_spec(written(tmp_path, rows=rows), ROOT).rows
    assert (alias.method, alias.label, alias.variant, alias.published) == ("maple_npt", "npt", "", "maple_npt")
    assert (half.variant, half.published) == ("CPT.WEIGHT_ETF=0.5,CPT.WEIGHT_CC=0", "")
    assert half.pairs == ("CPT.WEIGHT_ETF", "0.5", "CPT.WEIGHT_CC", "0")


def test_what_is_named_twice_counts_once(tmp_path):
    names = "['shapes:triples:tint', shapes, shapes:colors, 'shapes:colors:clean']"
    spec = load_spec(written(tmp_path, shapes=names, real="[dtd, dtd]", taus="[1, 0.5, 1.0]", seeds="[2, 2]"), ROOT)
    assert spec.shapes == ("shapes", "shapes:colors:clean")
    assert (spec.real, spec.taus, spec.seeds) == (("dtd",), (1.0, 0.5), (2,))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rows": "[{method: mapel}]"}, "own.yaml: unknown method 'mapel'; nearest: 'maple'"),
        ({"rows": "[{label: x}]"}, "own.yaml: a row needs a method"),
        ({"rows": "[{method: maple}, {method: maple}]"}, "two rows are called 'maple'"),
        ({"rows": "[{method: maple_cpt, baseline: mapel}]"}, "there is no row 'mapel'"),
        ({"rows": "[]"}, "must not be empty"),
        ({"rows": "[{methods: maple}]"}, r"field rows\[0\].methods: is unknown"),
        ({"columns": "[{protocol: cross}]"}, "nearest: 'cross_dataset'"),
        ({"columns": "[{metric: mean}]"}, "base_to_new has no metric 'mean'; possible: base, new, H"),
        ({"columns": "[{over: all}]"}, "over is 'all'"),
        ({"taus": "[0]"}, r"tau is '0.0', but must be a number in \(0, 1\]"),
        ({"taus": "[0.3333333]"}, "tau is '0.3333333', but must have six digits at most: write 0.333333"),
        ({"rows": "[{method: maple, baseline: maple}]"}, "row 'maple' is its own baseline"),
        ({"rows": "[{method: maple, published: mapel}]"}, "nothing published under the name 'mapel'; nearest: 'maple'"),
        ({"rows": "[{method: maple_cpt, options: {CPT.WEIGHT_CC: null}}]"}, "CPT.WEIGHT_CC is None: give a number"),
        ({"seeds": "[1, -1]"}, "seed -1 is not in 0..4294967295"),
        ({"blocks": "rows"}, "blocks is 'rows'"),
        ({"shapes": "[shapes:colours]"}, "nearest: 'colors'"),
        ({"seeds": "1"}, "field seeds: expected an array"),
        ({"title": "[unclosed"}, "own.yaml: "),
    ],
)
def test_nonsense_is_refused_with_its_file_on_one_line(tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message) as error:
        load_spec(written(tmp_path, **changes), ROOT)
    assert "\n" not in str(error.value)


def test_unknown_table_names_the_nearest():
    with pytest.raises(ConfigError, match="no table 'ablaton'; nearest: 'ablation'; possible: ablation, candidates, "):
        load_spec("ablaton", ROOT)


def test_columns_without_data_sets_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"no data sets for base_to_new of real: add real: \[...\]"):
        blocks(load_spec(written(tmp_path), ROOT), "real")
