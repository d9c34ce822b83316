"""Options before, between and after KEY VALUE pairs, in every command that takes pairs."""

from __future__ import annotations

import argparse

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import train
from cpt_plugin.cli import compare, data, doctor, report
from cpt_plugin.cli.arguments import build_parser, parse_arguments
from cpt_plugin.cli.pairs import pairs_anywhere
from cpt_plugin.cli.reproduce_arguments import build_parser as reproduce_parser
from cpt_plugin.errors import ConfigError

KEYS = ("OPTIM.LR", "CPT.WEIGHT_ETF", "DATASET.SUBSAMPLE_CLASSES", "SEED", "TRAINER.COOP.CTX_INIT")
VALUES = ("0.1", "-1", "-1e-3", "-.5", "--", "-", "-x", "a photo of a", "-- quoted --", "base", "OPTIM.LR", "", "opts")
RUN, TRAIN = build_parser(), train.parser()
RUN_OPTIONS = (
    ["--seeds", "4,0"], ["--shots=8"], ["--no-baseline"], ["--output", "/x"], ["--variant"], ["--epochs", "3"],
)  # fmt: skip
TRAIN_OPTIONS = (
    ["--root", "data"], ["--eval-only"], ["--model-dir=output/x"], ["--load-epoch", "20"], ["--seed", "1"],
    ["--resume"], ["--config-file", "a.yaml"], ["--config-file", "b.yaml"], ["--transforms", "flip", "normalize"],
)  # fmt: skip


def pairs(values=VALUES):
    drawn = st.lists(st.tuples(st.sampled_from(KEYS), st.sampled_from(values)), max_size=4)
    return drawn.map(lambda some: [*map(list, some)])


def some_of(options):
    return st.lists(st.sampled_from(options), unique_by=tuple, max_size=4)


def joined(parts):
    return [word for part in parts for word in part]


def interleaved(draw, *lines):
    """The words of all lists in one line; those of one list stay in order, and what belongs together stays so."""
    lines, words = [list(line) for line in lines], []
    while lines := [line for line in lines if line]:
        words += draw(st.sampled_from(lines)).pop(0)
    return words


@settings(max_examples=60)
@given(st.data(), pairs(), some_of(RUN_OPTIONS))
def test_run_takes_options_anywhere(source, given_pairs, options):
    names = [["coop"], ["shapes"], ["0.25"]]
    straight = RUN.parse_args(joined([*options, *names, *given_pairs]))
    mixed = RUN.parse_args(interleaved(source.draw, options, [*names, *given_pairs]))
    assert mixed == straight
    assert (mixed.method, mixed.dataset, mixed.tau) == ("coop", "shapes", "0.25")
    assert mixed.opts == joined(given_pairs)


@settings(max_examples=60)
@given(st.data(), pairs(), some_of(TRAIN_OPTIONS))
def test_train_takes_options_anywhere(source, given_pairs, options):
    straight = TRAIN.parse_args(joined([*options, *given_pairs]))
    assert TRAIN.parse_args(interleaved(source.draw, options, given_pairs)) == straight
    assert straight.opts == joined(given_pairs)


@pytest.mark.parametrize("separator", [[], ["--"], ["opts"]])
def test_words_of_other_programs_between_options_and_pairs(separator):
    words = ["--seed", "1", *separator, "OPTIM.LR", "-1", "DATASET.NAME", "--", "CPT.WEIGHT_ETF", "0.1"]
    assert TRAIN.parse_args(words).opts == words[2 + len(separator) :]


def test_the_two_steps_of_the_readme():
    first = ["--root", "data", "--output-dir", "output/demo", "OPTIM.LR", "0.1", "DATASET.SUBSAMPLE_CLASSES", "base"]
    load = ["--eval-only", "--model-dir", "output/demo", "--load-epoch", "20", "DATASET.SUBSAMPLE_CLASSES", "new"]
    asked = TRAIN.parse_args([*first, *load])
    assert (asked.root, asked.eval_only, asked.model_dir, asked.load_epoch) == ("data", True, "output/demo", 20)
    assert asked.opts == [*first[4:], *load[-2:]]


def test_shortened_options_are_options_where_the_field_takes_them():
    asked = TRAIN.parse_args(["OPTIM.LR", "0.1", "--eval", "--dataset-config", "x.yaml"])
    assert (asked.eval_only, asked.dataset_config_file, asked.opts) == (True, "x.yaml", ["OPTIM.LR", "0.1"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["OPTIM.LR", "--seeds", "1", "OPTIM.WEIGHT_DECAY", "0.1"], "OPTIM.LR has no value"),
        (["OPTIM.LR", "0.1", "--seed", "1"], "unknown option '--seed'; nearest: '--seeds'"),
        (["-0.1", "OPTIM.LR"], "'-0.1' is no configuration key"),
        (["OPTIM.LR", "0.1", "CPT.WEIGHT_ETF"], "CPT.WEIGHT_ETF has no value"),
    ],
)
def test_what_is_still_wrong(words, message):
    with pytest.raises(ConfigError, match=message):
        parse_arguments(["coop_cpt", "shapes", "1", *words])


def test_help_is_help_behind_a_key(capsys):
    with pytest.raises(SystemExit) as stop:
        parse_arguments(["coop", "shapes", "1", "OPTIM.LR", "--help"])
    assert stop.value.code == 0
    assert "examples:" in capsys.readouterr().out


COMMANDS = {
    "data": (data._parser(), [["get"], ["eurosat"]], [["--root", "x"], ["--own-split"], ["--keep-archives"]]),
    "report": (report.build_parser(), [["output"]], [["-o", "x"], ["--seeds", "1,2"], ["--no-figures"]]),
    "compare": (compare.build_parser(), [["a"], ["b"], ["x"], ["y"]], [["--metric", "H"], ["--holm"], ["--tau", "1"]]),
    "reproduce": (reproduce_parser(), [["ablation"]], [["--seeds", "1"], ["--dry-run"], ["--taus", "1"]]),
    "doctor": (doctor.build_parser("doctor"), [], [["--json"], ["--root", "x"], ["--timeout", "3"]]),
}


@pytest.mark.parametrize("name", COMMANDS)
@settings(max_examples=20)
@given(source=st.data())
def test_other_commands_take_options_anywhere(name, source):
    parser, names, options = COMMANDS[name]
    words = interleaved(source.draw, source.draw(st.permutations(options)), names)
    assert parser.parse_intermixed_args(words) == parser.parse_intermixed_args(joined([*names, *options]))


def foreign_parser():
    """As the training scripts of the field have it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--root", default="")
    parser.add_argument("--seed", type=int, default=-1)
    parser.add_argument("--eval-only", action="store_true")
    parser.add_argument("--source-domains", nargs="+")
    parser.add_argument("--transforms", nargs="*")
    parser.add_argument("opts", default=None, nargs=argparse.REMAINDER)
    return parser


FOREIGN_OPTIONS = (
    ["--root", "x"], ["--seed", "1"], ["--eval-only"], ["--root=y"],
    ["--source-domains", "a", "b"], ["--transforms"], ["--transforms", "flip"],
)  # fmt: skip


@pytest.mark.parametrize(
    "words",
    [
        "--root d DATASET.NUM_SHOTS 4 --source-domains a b",
        "--source-domains a b DATASET.NUM_SHOTS 4 --root d",
        "DATASET.NUM_SHOTS 4 --source-domains a b --root d",
        "--root d --source-domains a b DATASET.NUM_SHOTS 4",
    ],
)
def test_no_option_of_a_foreign_script_swallows_pairs(words):
    with pairs_anywhere():
        given = foreign_parser().parse_args(words.split())
    assert (given.root, given.source_domains, given.opts) == ("d", ["a", "b"], ["DATASET.NUM_SHOTS", "4"])


@settings(max_examples=60)
@given(st.data(), pairs(("1", "-1", "--", "x")), some_of(FOREIGN_OPTIONS))
def test_a_foreign_script_takes_options_anywhere(source, given_pairs, options):
    straight = foreign_parser().parse_args(joined(options))
    straight.opts = joined(given_pairs)
    with pairs_anywhere():
        assert foreign_parser().parse_args(interleaved(source.draw, options, given_pairs)) == straight


def test_words_of_a_foreign_script_in_its_own_order_are_parsed_as_ever():
    usual = ["--root", "x", "--eval-only", "OPTIM.LR", "-1", "TRAINER.X", "--y"]
    alone = foreign_parser().parse_args(usual)
    with pairs_anywhere():
        assert foreign_parser().parse_args(usual) == alone


@pytest.mark.parametrize("nargs", ["*", "+", None])
def test_other_parsers_parse_keys_as_ever(nargs):
    parser = argparse.ArgumentParser()
    parser.add_argument("--keys", nargs="+")
    parser.add_argument("words", nargs=nargs)
    words = ["here", "--keys", "OPTIM.LR", "SEED"]
    alone = parser.parse_args(words)
    with pairs_anywhere():
        assert parser.parse_args(words) == alone
    assert alone.keys == ["OPTIM.LR", "SEED"]


def test_argparse_is_as_before_afterwards():
    before = argparse.ArgumentParser.parse_known_args
    with pytest.raises(ZeroDivisionError), pairs_anywhere():
        raise ZeroDivisionError
    assert argparse.ArgumentParser.parse_known_args is before
