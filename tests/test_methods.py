from __future__ import annotations

import re
import string
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cpt_plugin import methods, worlds
from cpt_plugin.errors import ConfigError
from tests.helpers.repositories import LEARNERS, REGULARIZERS, make_repository

ROOT = Path(__file__).resolve().parents[1]
TRAINABLE = sorted(set(LEARNERS) - {"zeroshot"})


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    return make_repository(tmp_path_factory.mktemp("clone"))


def refusal(text, repository):
    with pytest.raises(ConfigError) as caught:
        methods.parse_method(text, repository)
    message = str(caught.value)
    assert "\n" not in message
    return message


@settings(max_examples=200, deadline=None)
@given(
    learner=st.sampled_from(TRAINABLE),
    dpc=st.booleans(),
    added=st.lists(st.sampled_from(REGULARIZERS), unique=True),
)
def test_every_combination_is_taken_apart_in_any_order_of_regularizers(repository, learner, dpc, added):
    text = "_".join([learner, *["dpc"] * dpc, *added])
    method = methods.parse_method(text, repository)
    assert (method.prompt_learner, method.dpc, method.parts) == (learner, dpc, tuple(sorted(added)))
    assert methods.parse_method(method.name, repository) == method
    assert method.trainer_name == LEARNERS[learner] + "DPC" * dpc + "".join(sorted(added)).upper()
    plain = methods.parse_method(learner + "_dpc" * dpc, repository)
    assert method.baseline == plain
    assert plain.baseline == plain
    assert method.first_stage == (methods.parse_method(learner, repository) if dpc else None)


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("dpc", "coop_dpc"),
        ("dpc_cpt", "coop_dpc_cpt"),
        ("npt", "maple_npt"),
        ("npt_cpt", "maple_cpt_npt"),
        ("dapt", "shallow_vl_dapt"),
    ],
)
def test_aliases(repository, alias, name):
    assert methods.parse_method(alias, repository) == methods.parse_method(name, repository)
    assert methods.parse_method(alias, repository).name == name


@pytest.mark.parametrize("alias", ["dpc", "dpc_cpt", "npt"])
def test_an_alias_whose_part_is_not_here_yet_is_refused(tmp_path, alias):
    message = refusal(alias, make_repository(tmp_path, dpc=False, regularizers=("cpt",)))
    assert f"'{alias}' (= {methods.ALIASES[alias]}) needs a part that is not here yet" in message
    assert "nearest: '" in message


LOSSES, ADDED, CONTROLS = ("bs", "cb", "focal", "la", "ldam"), ("cpt", "etfa", "l2anchor", "npt"), ("mix", "stop")


@settings(max_examples=200, deadline=None)
@given(
    dpc=st.booleans(),
    loss=st.lists(st.sampled_from(LOSSES), max_size=1),
    added=st.lists(st.sampled_from(ADDED), unique=True),
    controls=st.lists(st.sampled_from(CONTROLS), unique=True),
    seed=st.randoms(use_true_random=False),
)
def test_a_loss_comes_first_then_regularizers_then_controls(dpc, loss, added, controls, seed):
    """In whatever order they are given; with the real files."""
    shuffled = [*loss, *added, *controls]
    seed.shuffle(shuffled)
    method = methods.parse_method("_".join(["coop", *["dpc"] * dpc, *shuffled]), ROOT)
    assert method.parts == (*loss, *sorted(added), *sorted(controls))
    assert method.loss == tuple(loss)
    assert method.evaluation == (("mix",) if "mix" in controls else ())
    assert methods.parse_method(method.name, ROOT) == method
    assert method.trainer_name == "CoOp" + "DPC" * dpc + "".join(method.parts).upper()
    plain = methods.parse_method("coop" + "_dpc" * dpc, ROOT)
    assert method.baseline == plain
    trained = [part for part in method.parts if part != "mix"]
    expected = methods.parse_method("_".join([plain.name, *trained]), ROOT) if "mix" in controls else None
    assert method.trained == expected
    first = methods.parse_method("_".join(["coop", *loss]), ROOT) if dpc else None
    assert method.first_stage == first


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("maple_la_bs", "'la' and 'bs' each replace the cross-entropy: name one"),
        ("coop_dpc_focal_cpt_ldam", "'focal' and 'ldam' each replace the cross-entropy: name one"),
        ("coop_cpt_cptb", "'cpt' and 'cptb' are the same terms under different weights: name one"),
        ("coop_cptx_cpt", "'cpt' and 'cptx' are the same terms under different weights: name one"),
        ("maple_cptx_cptb", "'cptb' and 'cptx' are the same terms in two variants: name one"),
        ("coop_posthoc_la", "'la' and 'posthoc' take the class frequencies into account twice: name one"),
        ("coop_bs_posthoc", "'bs' and 'posthoc' take the class frequencies into account twice: name one"),
        ("coop_la_la", "names 'la' twice"),
        ("zeroshot_mix", "takes no parts"),
        ("coop_mixx", "nearest: 'coop_mix'"),
    ],
)
def test_parts_that_do_not_go_together_are_refused_on_one_line(text, reason):
    assert reason in refusal(text, ROOT)


def test_a_method_with_a_wrong_part_is_told_all_parts_by_kind():
    message, known = refusal("maple_cptb_la_mx", ROOT), methods.added_parts(ROOT)
    for kind, plural in (("loss", "losses"), ("regularizer", "regularizers"), ("control", "controls")):
        assert f"{plural} {', '.join(name for name in known if known[name] == kind)}" in message
    assert [known[name] for name in ("la", "cptx", "mix")] == ["loss", "regularizer", "control"]


def test_every_part_is_listed_with_its_paper():
    described = {part.name: part for part in methods.describe_parts(ROOT)}
    assert [described[name].kind for name in ("la", "cptx", "mix")] == ["loss", "regularizer", "control"]
    for name in methods.added_parts(ROOT):
        assert re.search(r"arXiv \d{4}\.\d{5}|ours|control|\[paper: .+\]$", described[name].description), name


def test_zeroshot_takes_no_parts(repository):
    assert methods.parse_method("zeroshot", repository).trainer_name == "ZeroshotCLIP"
    for text in ("zeroshot_cpt", "zeroshot_dpc"):
        assert "takes no parts" in refusal(text, repository)


@pytest.mark.parametrize(
    "text",
    ["", "_", "cpt", "maple_", "_maple", "maple__cpt", "maplecpt", "coop_cpt_dpc", "MaPLe", "base", "x\ny"],
)
def test_what_is_no_method_is_refused_with_all_parts(repository, text):
    message = refusal(text.replace("\n", "?"), repository)
    assert "learners coop, maple, shallow_vl, zeroshot" in message
    assert "regularizers cpt, dapt, npt" in message
    assert "[_dpc]" in message


@pytest.mark.parametrize("text", ["dpc_coop_cpt", "coop_cpt_dpc", "cpt_dpc_coop"])
def test_parts_in_a_wrong_order_are_put_right(repository, text):
    assert "nearest: 'coop_dpc_cpt'" in refusal(text, repository)


def test_a_repeated_part_is_named(repository):
    assert "'cpt' twice" in refusal("maple_cpt_npt_cpt", repository)
    assert "'dpc' twice" in refusal("maple_dpc_dpc", repository)


def test_the_nearest_name_is_right_for_nearly_all_typing_errors(repository):
    words = ["coop_cpt", "maple", "maple_cpt", "shallow_vl_dapt"]
    valid = {*words, *methods.ALIASES}
    right = total = 0
    for word in words:
        typos = {word[:i] + word[i + 1 :] for i in range(len(word))}
        typos |= {word[:i] + c + word[i:] for i in range(len(word) + 1) for c in string.ascii_lowercase[::5]}
        typos |= {word[:i] + word[i + 1] + word[i] + word[i + 2 :] for i in range(len(word) - 1)}
        for typo in sorted(typos - valid):
            try:
                methods.parse_method(typo, repository)
            except ConfigError as error:
                total += 1
                right += f"nearest: '{word}'" in str(error)
    assert total > 200
    assert right / total >= 0.95


@pytest.mark.parametrize("text", ["1", "1.0", "0.25", "1e-3", ".06"])
def test_tau_in_range(text):
    assert methods.parse_tau(text) == float(text)


@pytest.mark.parametrize("text", ["0", "-0.1", "1.0001", "nan", "inf", "-inf", "", "a", "0,25", "1/16"])
def test_tau_out_of_range(text):
    with pytest.raises(ConfigError, match=r"\(0, 1\]"):
        methods.parse_tau(text)


def test_data_set_names(repository):
    assert methods.dataset_names(repository) == ["shapes", "dtd", "eurosat"]
    assert methods.parse_dataset("eurosat", repository) == "eurosat"
    with pytest.raises(
        ConfigError, match=r"unknown data set 'eurosatt'; nearest: 'eurosat'; possible: shapes\["
    ):
        methods.parse_dataset("eurosatt", repository)


def test_worlds_have_one_spelling_each():
    default = worlds.parse_world("")
    assert methods.parse_dataset("shapes", ROOT) == "shapes"
    assert methods.parse_dataset(f"shapes:{default.class_set}", ROOT) == "shapes"
    assert methods.parse_dataset(default.name, ROOT) == "shapes"
    names = {methods.parse_dataset(world.name, ROOT) for world in worlds.NAMED_WORLDS}
    assert len(names) == len(worlds.NAMED_WORLDS) >= 8
    for name in names:
        assert methods.parse_dataset(name, ROOT) == name


@pytest.mark.parametrize(
    "text", ["shapes:", "shapes:triple", "shapes:clean", "shapes:triples:x", "shapes:a:b:c"]
)
def test_unknown_worlds(text):
    with pytest.raises(ConfigError):
        methods.parse_dataset(text, ROOT)


def test_parts_are_described_without_importing_them(repository):
    described = {part.name: part for part in methods.describe_parts(repository)}
    assert described["coop"] == methods.Part("coop", "prompt learner", "About coop.")
    assert described["dpc"].kind == "second stage"
    assert described["npt"].description == "The npt losses."
    assert set(described) == {*LEARNERS, *REGULARIZERS, "dpc"}


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('"""Spread: all of it."""\nx = 1\n', "Spread: all of it."),
        ('class S:\n    description = "one simplex"\n', "one simplex"),
        ('class S:\n    paper, description = "none", "one simplex"\n', "one simplex [paper: none]"),
        ('"""All."""\nclass S:\n    paper: str = "S (arXiv 2101.00001)"\n', "All. [paper: S (arXiv 2101.00001)]"),
        ('"""All (arXiv 2101.00001)."""\nclass S:\n    paper = "arXiv 2101.00001"\n', "All (arXiv 2101.00001)."),
        ("x = 1\n", ""),
        ("x = 1\ny = (\n", r"(cannot be used: spread.py, line 2: '(' was never closed)"),
    ],
)
def test_a_file_without_documentation_is_described_by_what_it_has(tmp_path, text, line):
    (tmp_path / "spread.py").write_text(text)
    assert methods.first_line(tmp_path / "spread.py") == line


def test_a_learner_that_is_no_python_is_refused_by_line(tmp_path):
    repository = make_repository(tmp_path / "clone")
    (repository / "trainers" / "bad.py").write_text("x = (\n")
    assert "bad.py, line 1: '(' was never closed; correct or remove" in refusal("bad", repository)


def test_this_repository_has_the_methods_it_was_made_for():
    names = {"zeroshot": "ZeroshotCLIP", "coop": "CoOp", "maple_cpt": "MaPLeCPT", "dpc_cpt": "CoOpDPCCPT"}
    for name, trainer in names.items():
        assert methods.parse_method(name, ROOT).trainer_name == trainer


def test_a_folder_that_is_no_clone_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(methods, "PACKAGE", tmp_path / "site-packages" / "cpt_plugin")
    with pytest.raises(ConfigError, match="not in a clone"):
        methods.find_repository(tmp_path)
    clone = make_repository(tmp_path / "clone")
    assert methods.find_repository(clone / "trainers") == clone
