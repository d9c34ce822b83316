"""Balanced weights in our trainers: fractions of the first step, what is kept and resumed, and `cpt` untouched."""

from __future__ import annotations

import pytest

from cpt_plugin import regularizers, toolkit
from cpt_plugin.errors import ConfigError
from cpt_plugin.regularizers.cptb import CPTB
from tests.helpers.checkpoints import identical
from tests.helpers.prompt_runs import fingerprint, prompt_cfg, train
from tests.trainers.problems import gradient_norms, raises_at, saved, trained_part
from trainers._base import PromptTrainer

RHO = {"etf": 0.03, "cc": 0.3, "rs": 0.3}
SETTINGS = {"CPTB.CLUSTER_SIZE": 2, "CPTB.RHO_MOMENTUM": 1.0}


def configured(folder, output, trainer, *options):
    pairs = [word for pair in SETTINGS.items() for word in pair]
    return prompt_cfg(folder, output, trainer, *pairs, *options)


@pytest.mark.parametrize("name", ["CoOp", "MaPLe", "IVLP"])
def test_fractions_of_the_first_step(folder, tmp_path, monkeypatch, name):
    """Against gradients of the cross-entropy and of each term, taken by hand just before the step."""
    found = {}
    original = PromptTrainer.forward_backward

    def looked_at(self, batch):
        if not found:
            found.update(gradient_norms(self, batch, RHO))
        return original(self, batch)

    monkeypatch.setattr(PromptTrainer, "forward_backward", looked_at)
    trainer = train(configured(folder, tmp_path, f"{name}CPTB", "OPTIM.MAX_EPOCH", 1))
    for part, rho in RHO.items():
        assert trainer.hook.factors[part] * found[part] / found["main"] == pytest.approx(rho, rel=1e-5)
    content = saved(tmp_path)
    assert content["loss_weights"] == trainer.hook.factors
    assert {f"weight_{part}" for part in RHO} <= trainer.history[-1].keys()


@pytest.mark.parametrize("momentum", [1.0, 0.5])
@pytest.mark.parametrize("step", [1, 4])
def test_interrupted_run_goes_on_with_the_same_weights(folder, tmp_path, monkeypatch, momentum, step):
    """The prompts start at the template, so that the rotation term's weight is set later than the others."""
    options = (
        "CPTB.RHO_MOMENTUM", momentum, "TRAINER.COOP.CTX_INIT", "a photo of a", "TRAINER.COOP.N_CTX", 4,
        "CPTB.TEMPLATE", "a photo of a {}.",
    )  # fmt: skip
    whole = whole_and_cut(folder, tmp_path, monkeypatch, step, *options)
    assert whole.history[0]["loss_rs"] < whole.history[1]["loss_rs"]


def whole_and_cut(folder, tmp_path, monkeypatch, step, *options):
    """A run, having checked that one interrupted before ``step`` and resumed ends as it does."""
    whole = train(configured(folder, tmp_path / "whole", "CoOpCPTB", *options))
    with monkeypatch.context() as patch:
        patch.setattr(PromptTrainer, "forward_backward", raises_at(step, PromptTrainer.forward_backward, OSError))
        with pytest.raises(OSError):
            train(configured(folder, tmp_path / "cut", "CoOpCPTB", *options))
    resumed = train(configured(folder, tmp_path / "cut", "CoOpCPTB", *options, "RESUME", tmp_path / "cut"))
    assert resumed.hook.factors == whole.hook.factors
    assert all(factor > 0 for factor in whole.hook.factors.values())
    assert fingerprint(tmp_path / "cut") == fingerprint(tmp_path / "whole")
    return whole


class Dotted(CPTB):
    """The separation alone, under a name that could be another regularizer's state."""

    def __init__(self):
        super().__init__(cluster_size=2, rho_cc=0, rho_rs=0)
        self.gradient_fractions = {"spread.text": 0.03}

    def compute(self, batch):
        return {"spread.text": super().compute(batch)["etf"]}


def test_interrupted_run_goes_on_with_the_weight_of_a_part_with_a_dot(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(regularizers, "build", lambda names, cfg: [Dotted()])
    whole = whole_and_cut(folder, tmp_path, monkeypatch, 4)
    assert whole.hook.factors.keys() == {"spread.text"}


def test_fractions_of_zero_give_the_plain_trainer(folder, tmp_path):
    none = [word for part in RHO for word in (f"CPTB.RHO_{part.upper()}", 0.0)]
    train(configured(folder, tmp_path / "plain", "MaPLe", "OPTIM.MAX_EPOCH", 1))
    trainer = train(configured(folder, tmp_path / "zero", "MaPLeCPTB", "OPTIM.MAX_EPOCH", 1, *none))
    assert not trainer.hook.active
    assert identical(trained_part(tmp_path / "plain"), trained_part(tmp_path / "zero"))
    train(configured(folder, tmp_path / "on", "MaPLeCPTB", "OPTIM.MAX_EPOCH", 1))
    assert not identical(trained_part(tmp_path / "plain"), trained_part(tmp_path / "on"))


def test_weighting_of_cpt_is_the_same_method_under_another_node(folder, tmp_path):
    train(configured(folder, tmp_path / "own", "CoOpCPTB", "OPTIM.MAX_EPOCH", 1))
    train(configured(folder, tmp_path / "cpt", "CoOpCPT", "CPT.WEIGHTING", "balanced", "OPTIM.MAX_EPOCH", 1))
    assert identical(trained_part(tmp_path / "own"), trained_part(tmp_path / "cpt"))
    train(configured(folder, tmp_path / "printed", "CoOpCPT", "OPTIM.MAX_EPOCH", 1))
    assert not identical(trained_part(tmp_path / "printed"), trained_part(tmp_path / "cpt"))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("CPTB.RHO_CC", -0.1, "CPTB.RHO_CC must be a finite number >= 0"),
        ("CPTB.RHO_MOMENTUM", 1.5, "CPTB.RHO_MOMENTUM must be a finite number >= 0 and <= 1"),
        ("CPT.WEIGHTING", "equal", "CPT.WEIGHTING must be printed or balanced"),
    ],
)
def test_settings_out_of_range(folder, tmp_path, key, value, message):
    trainer = toolkit.build_trainer(configured(folder, tmp_path, f"CoOp{key.split('.')[0]}", key, value))
    with pytest.raises(ConfigError, match=message):
        trainer.before_train()
