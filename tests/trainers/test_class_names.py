"""Every method knows which class names fit into its texts, before it has a model."""

from __future__ import annotations

import re

import pytest
import torch

from cpt_plugin.cli.repository import default_cfg, load_trainers
from cpt_plugin.encoders import check_class_texts, class_text_features
from cpt_plugin.errors import ConfigError
from cpt_plugin.toolkit import TRAINER_REGISTRY
from tests.helpers.tiny_clip import tiny_clip
from trainers._base import PromptTrainer

LEARNERS = [name for name in load_trainers().PROMPT_LEARNERS if name != "zeroshot"]
LAYING_OUT = ("cocoop", "coop", "ivlp", "maple", "promptsrc", "shallow_vl")
"""Learners that know the limit beforehand; one that somebody adds may find out when it builds its prompts."""


def configured(trainer, *options):
    cfg = default_cfg()
    cfg.TRAINER.NAME, cfg.DATASET.NAME = trainer, "ImageFolder"
    for key, value in zip(options[::2], options[1::2], strict=True):
        *nodes, leaf = key.split(".")
        node = cfg
        for name in nodes:
            node = node[name]
        node[leaf] = value
    return cfg


def trainer_of(name):
    return TRAINER_REGISTRY.get(name)


def fits(make):
    """Whether nothing is refused; a refusal names the class and the limit."""
    try:
        make()
    except ConfigError as error:
        assert re.search("cat cat cat.* tokens.*CLIP reads at most 77", str(error))  # noqa: PT017
        return False
    return True


def passes(cfg, names, trained=False):
    return fits(lambda: trainer_of(cfg.TRAINER.NAME).check_class_names(cfg, names, trained))


def builds(cfg, names, clip):
    """Whether the method's own prompts can be built."""
    trainer = object.__new__(trainer_of(cfg.TRAINER.NAME))
    trainer.cfg = cfg
    with torch.random.fork_rng():
        return fits(lambda: trainer.build_prompt_learner(clip, names))


@pytest.mark.parametrize("learner", LEARNERS)
@pytest.mark.parametrize("words", ["", "a photo of a"])
def test_the_limit_is_the_one_that_building_the_prompts_has(learner, words):
    cls = load_trainers().PROMPT_LEARNERS[learner]
    options = [f"TRAINER.{cls.config_node}.CTX_INIT", words] if "CTX_INIT" in cls.defaults else []
    depths = [key for key in cls.defaults if "DEPTH" in key]
    for key in depths:
        options += [f"TRAINER.{cls.config_node}.{key}", 2]
    cfg, clip = configured(cls.__name__, *options), tiny_clip()
    found = [passes(cfg, ["dog", "cat " * length]) for length in range(50, 76)]
    built = [builds(cfg, ["dog", "cat " * length], clip) for length in range(50, 76)]
    assert built == sorted(built, reverse=True)
    assert {*built} == {True, False}
    assert all(before or not built_then for before, built_then in zip(found, built, strict=True))
    lays_out = cls.check_class_names.__func__ is not PromptTrainer.check_class_names.__func__
    assert (found == built) if lays_out else learner not in LAYING_OUT


@pytest.mark.parametrize("template", ["a photo of a {}.", "ensemble", "{}"])
def test_texts_of_a_template_likewise(template):
    clip = tiny_clip()
    for length in (66, 68, 70, 71, 75, 76):
        names = ["dog", "cat " * length]
        checked = fits(lambda names=names: check_class_texts(names, template))
        assert checked == fits(lambda names=names: class_text_features(clip, names, template))


def test_templates_of_regularizers_hold_for_the_classes_trained_on_alone():
    names = ["dog", "cat " * 70]
    cfg = configured("CoOpCPT", "TRAINER.COOP.N_CTX", 4, "CPT.TEMPLATE", "a long drawing of a {}.")
    assert passes(cfg, names)
    assert not passes(cfg, names, trained=True)
    assert passes(configured("CoOp", "TRAINER.COOP.N_CTX", 4), names, trained=True)
    off = configured("CoOpL2ANCHOR", "TRAINER.COOP.N_CTX", 4, "L2ANCHOR.WEIGHT", 0.0, "L2ANCHOR.TEMPLATE", "a bad x {}")
    assert passes(off, names, trained=True)


def test_templates_of_controls_hold_for_every_evaluation():
    names = ["dog", "cat " * 70]
    cfg = configured("CoOpMIX", "TRAINER.COOP.N_CTX", 4, "MIX.TEMPLATE", "a long drawing of a {}.")
    assert not passes(cfg, names)
    cfg.MIX.FRACTION = 0.0
    assert passes(cfg, names)


def test_promptsrcs_sentences_hold_for_the_classes_trained_on():
    names = ["dog", "cat " * 69]
    cfg = configured("PromptSRC")
    assert passes(cfg, names)
    assert not passes(cfg, names, trained=True), "among the published ones are longer sentences"
    cfg.TRAINER.PROMPTSRC.TEMPLATES = "single"
    assert passes(cfg, names, trained=True)


@pytest.mark.parametrize("name", ["CoOp", "CoCoOpDPC", "MaPLeCPT", "ShallowVL", "IVLP", "ZeroshotCLIP"])
def test_names_of_which_nothing_is_left_are_refused(name):
    with pytest.raises(ConfigError, match=r"nothing is left of '_' \(label 1\)"):
        trainer_of(name).check_class_names(configured(name), ["dog", "_"], False)
