"""Parts that reach nothing that is trained are named at the first step, for any trainer with a hook."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from cpt_plugin.errors import HookError
from cpt_plugin.hook import CPTHook
from cpt_plugin.hook.balance import reaches
from cpt_plugin.regularizers import build
from tests.hook.toy_trainers import TRAINERS, CoOpTrainer, MaPLeModel, MaPLeTrainer, make_batch


class VisualModel(MaPLeModel):
    """Only the visual prompt is learned; the text encoder runs on fixed prompts with gradients on."""

    def __init__(self) -> None:
        super().__init__()
        self.context.requires_grad_(False)


class EmptyTextModel(MaPLeModel):
    """A text prompt of no tokens: its features require a gradient, which reaches nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.context.requires_grad_(False)
        self.nothing = torch.nn.Parameter(self.context.new_zeros(0))

    def encode(self, image: Tensor) -> tuple[Tensor, Tensor]:
        return self.text_encoder(self.names + self.context + self.nothing.sum()), self.image_encoder(image, self.visual)


class VisualTrainer(MaPLeTrainer):
    model_class = VisualModel


class EmptyTextTrainer(MaPLeTrainer):
    model_class = EmptyTextModel


WARNED = "Without a gradient, step 1"


def stepped(trainer: Any, *names: str, **settings: Any) -> Any:
    cfg = {name.upper(): {"CLUSTER_SIZE": 3, **settings} if name == "cpt" else settings for name in names}
    handle = CPTHook(regularizers=build(list(names), cfg)).attach(trainer)
    for _ in range(3):
        trainer.forward_backward(make_batch())
    return handle


@pytest.mark.parametrize("trainer_class", [VisualTrainer, EmptyTextTrainer])
def test_parts_on_texts_that_nobody_trains_are_named_once(trainer_class, caplog):
    handle = stepped(trainer_class(), "cpt")
    assert handle.parts_without_gradient == ("etf", "rs")
    warnings = [record.message for record in caplog.records if WARNED in record.message]
    assert len(warnings) == 1
    assert "etf of cpt, rs of cpt. Nothing that" in warnings[0]
    handle.detach()
    assert handle.parts_without_gradient == ("etf", "rs")


@pytest.mark.parametrize("weighting", ["printed", "balanced"])
def test_balanced_or_not(weighting):
    handle = stepped(VisualTrainer(), "cpt", WEIGHTING=weighting)
    assert handle.parts_without_gradient == ("etf", "rs")


@pytest.mark.parametrize("trainer_class", TRAINERS)
def test_parts_that_are_trained_are_not_named(trainer_class, caplog):
    assert stepped(trainer_class(), "cpt").parts_without_gradient == ()
    assert WARNED not in caplog.text


def test_a_part_on_images_that_nobody_trains():
    """CoOp trains texts alone: NPT's second part pulls texts, so both of its parts have a gradient."""
    assert stepped(CoOpTrainer(), "npt").parts_without_gradient == ()
    assert stepped(VisualTrainer(), "npt").parts_without_gradient == ("lc",)


def test_clusters_of_one_class_have_no_etf_to_form(caplog):
    handle = stepped(MaPLeTrainer(), "cpt", CLUSTER_SIZE=1)
    assert handle.parts_without_gradient == ("etf",)
    assert "etf of cpt. Nothing" in caplog.text
    assert "form clusters of more than one class with a larger CPT.CLUSTER_SIZE, or set its weight to 0" in caplog.text
    assert "train prompts" not in caplog.text


def test_too_many_clusters_are_to_be_fewer(caplog):
    handle = stepped(MaPLeTrainer(), "cpt", NUM_CLUSTERS=6)
    assert handle.parts_without_gradient == ("etf",)
    assert "with a smaller CPT.NUM_CLUSTERS, or set its weight to 0" in caplog.text


def test_each_reason_has_its_own_remedy(caplog):
    handle = stepped(VisualTrainer(), "cpt", CLUSTER_SIZE=1)
    assert handle.parts_without_gradient == ("etf", "rs")
    etf, rs = [record.message for record in caplog.records if WARNED in record.message]
    for warning, part, told in ((etf, "etf", "CPT.CLUSTER_SIZE"), (rs, "rs", "train prompts")):
        assert f"{part} of cpt. Nothing" in warning
        assert [words for words in ("CPT.CLUSTER_SIZE", "train prompts") if words in warning] == [told]


def test_nothing_to_regularize_in_clusters_of_one_class():
    with pytest.raises(HookError, match=r"no gradient flows back from the parts etf .* a larger CPT\.CLUSTER_SIZE\.$"):
        stepped(VisualTrainer(), "cpt", CLUSTER_SIZE=1, WEIGHT_CC=0.0, WEIGHT_RS=0.0)


def test_an_inactive_hook_has_no_such_parts():
    zero = build(["cpt"], {"CPT": {"WEIGHT_ETF": 0.0, "WEIGHT_CC": 0.0, "WEIGHT_RS": 0.0}})
    assert CPTHook(regularizers=zero).attach(MaPLeTrainer()).parts_without_gradient == ()


def test_the_graph_is_read_not_run(monkeypatch):
    """No gradient is computed or left, and later steps do not look again."""
    looked = []
    monkeypatch.setattr("cpt_plugin.hook.step.reaches", lambda *args: looked.append(1) or reaches(*args))
    stepped(MaPLeTrainer(), "cpt")
    assert len(looked) == 3, "once for each of the three parts"


def test_reaches():
    a, b, other = (torch.nn.Parameter(torch.ones(2)) for _ in range(3))
    value = (a * 2).sum() + (b * b).mean()
    assert reaches(value, [a])
    assert reaches(value, [other, b])
    assert not reaches(value, [other])
    assert not reaches(value.detach(), [a, b])
    assert reaches(a, [a])
    assert not reaches(torch.ones(2).sum(), [a])
    assert a.grad is None


def test_what_checkpointing_hides_is_not_called_untrained():
    layer = torch.nn.Linear(2, 2)
    start = torch.ones(2, requires_grad=True)
    hidden = checkpoint(layer, start, use_reentrant=True)
    assert reaches(hidden.sum(), list(layer.parameters()))
    assert reaches(checkpoint(layer, start, use_reentrant=False).sum(), list(layer.parameters()))
