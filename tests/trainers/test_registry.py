"""Names of trainers, their regularized variants, and their configuration nodes."""

from __future__ import annotations

import pytest

from cpt_plugin import regularizers, toolkit
from cpt_plugin.cli.repository import default_cfg
from cpt_plugin.errors import ConfigError
from trainers import PROMPT_LEARNERS, register_named, trainer_name
from trainers._parts import available_parts, parts_of
from trainers._registry import prompt_learner


def test_every_learner_is_registered_with_every_regularizer():
    for name, cls in PROMPT_LEARNERS.items():
        assert toolkit.TRAINER_REGISTRY.get(trainer_name(name)) is cls
        for regularizer in regularizers.available() if cls.trainable else ():
            assert toolkit.TRAINER_REGISTRY.get(f"{cls.__name__}{regularizer.upper()}").regularizers == (regularizer,)


def test_names_of_the_methods():
    assert trainer_name("coop") == "CoOp"
    assert trainer_name("maple", ("cpt",)) == "MaPLeCPT"
    assert trainer_name("zeroshot") == "ZeroshotCLIP"
    assert trainer_name("maple", ("cpt",), dpc=True) == "MaPLeDPCCPT"


def test_zero_shot_takes_no_regularizer():
    with pytest.raises(ConfigError, match="trains nothing"):
        trainer_name("zeroshot", ("cpt",))
    with pytest.raises(ConfigError, match="takes no second stage"):
        trainer_name("zeroshot", dpc=True)


def test_unknown_learner_names_those_that_exist():
    with pytest.raises(ConfigError, match=r"coop, .*maple"):
        trainer_name("cop")


def test_a_name_is_claimed_once():
    with pytest.raises(ConfigError, match="'coop'"):
        prompt_learner("coop")(type("Other", (), {}))
    assert PROMPT_LEARNERS["coop"].__name__ == "CoOp"


def test_configuration_has_the_nodes_of_trainers_and_regularizers():
    cfg, other = default_cfg(), default_cfg()
    assert cfg.TRAINER.COOP.CLASS_TOKEN_POSITION == "end"
    assert cfg.TRAINER.MAPLE.PROMPT_DEPTH == 9
    assert (cfg.CPT.WEIGHT_ETF, cfg.CPT.WEIGHT_CC, cfg.CPT.WEIGHT_RS) == (0.25, 0.15, 0.1)
    cfg.TRAINER.COOP.N_CTX = 1
    assert other.TRAINER.COOP.N_CTX == 16


def test_names_of_several_parts_are_registered_on_demand():
    for name in ("CoOpDPCLACPTBMIX", "IVLPFOCALETFASTOP"):
        register_named(name)
        assert toolkit.TRAINER_REGISTRY.get(name).__name__ == name
    with pytest.raises(ConfigError, match="another order, MaPLeLACPTB"):
        register_named("MaPLeCPTBLA")
    register_named("CoOpNONSENSE")
    with pytest.raises(ConfigError, match="'la' and 'bs' each replace the cross-entropy"):
        register_named("CoOpLABS")


def test_every_part_is_registered_alone():
    for part in available_parts():
        own = toolkit.TRAINER_REGISTRY.get(f"CoOpDPC{part.upper()}")
        assert parts_of(own) == (part,)
        assert own.reads(f"{part.upper()}.X")
        assert not toolkit.TRAINER_REGISTRY.get("CoOpDPC").reads(f"{part.upper()}.X")
