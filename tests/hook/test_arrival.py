"""What a gradient on logits says of the loss behind it, against losses written out."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from cpt_plugin.hook.accumulation import accumulation_settings
from cpt_plugin.hook.arrival import cross_entropy_probe


def arrived(loss, rows=5, classes=4, seed=0, dtype=torch.float64):
    """(logits, gradient of ``loss(logits, labels)`` on them, labels)."""
    generator = torch.Generator().manual_seed(seed)
    logits = (3 * torch.randn(rows, classes, generator=generator, dtype=torch.float64)).to(dtype).requires_grad_()
    labels = torch.randint(classes, (rows,), generator=generator)
    (gradient,) = torch.autograd.grad(loss(logits, labels), logits)
    return logits.detach(), gradient, labels


def probe(loss, tolerance=1e-9, labels=None, **sizes):
    logits, gradient, known = arrived(loss, **sizes)
    return cross_entropy_probe(logits, gradient, tolerance, known if labels is None else labels).tolist()


@settings(deadline=None, max_examples=60)
@given(
    weight=st.floats(1e-3, 1e5), rows=st.integers(1, 40), classes=st.integers(3, 30), seed=st.integers(0, 1000)
)
def test_the_weight_of_a_mean_cross_entropy(weight, rows, classes, seed):
    found, alike, telling, other = probe(
        lambda z, y: weight * F.cross_entropy(z, y), rows=rows, classes=classes, seed=seed, tolerance=1e-7
    )
    assert found == pytest.approx(weight, rel=1e-6)
    assert (alike, other) == (1, 0)
    assert 1 <= telling <= rows


def test_class_weights_and_ignored_rows():
    given = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    found, alike, _, _ = probe(lambda z, y: 0.5 * F.cross_entropy(z, y, given))
    assert (found, alike) == (pytest.approx(0.5), 0)
    ignored = probe(lambda z, y: F.cross_entropy(z, torch.where(y == y[0], -100, y)), rows=9)
    assert (ignored[0], ignored[1], ignored[3]) == (pytest.approx(1), 0, 0)


@pytest.mark.parametrize(
    "loss",
    [
        lambda z, y: F.cross_entropy(z, y, label_smoothing=0.1),
        lambda z, y: F.cross_entropy(z / 2, y),
        lambda z, y: F.cross_entropy(z + torch.tensor([0.0, 1.0, 2.0, 0.5], dtype=z.dtype), y),
        lambda z, y: F.binary_cross_entropy_with_logits(z, F.one_hot(y, z.shape[1]).to(z)),
        lambda z, y: F.kl_div(z.log_softmax(1), torch.softmax(z.detach().roll(1, 0), 1), reduction="batchmean"),
        lambda z, y: z.square().mean(),
        lambda z, y: F.cross_entropy(z, y) + 0.1 * z.square().mean(),
        lambda z, y: -F.cross_entropy(z, y),
        lambda z, y: z.sum() * torch.inf,
        lambda z, y: 0 * z.sum(),
    ],
)
def test_other_losses_have_no_weight(loss):
    assert torch.tensor(probe(loss)[0]).isnan()


@pytest.mark.parametrize(("rows", "known"), [(1, False), (2, False), (8, True)])
def test_with_two_classes_three_rows_must_agree(rows, known):
    found = probe(lambda z, y: 0.25 * F.cross_entropy(z, y), rows=rows, classes=2)[0]
    assert found == pytest.approx(0.25) if known else torch.tensor(found).isnan()


def test_other_labels_are_seen():
    _, _, labels = arrived(F.cross_entropy)
    assert probe(F.cross_entropy, labels=labels)[3] == 0
    assert probe(F.cross_entropy, labels=(labels + 1) % 4)[3] == 1
    assert probe(lambda z, y: F.cross_entropy(z, (y + 1) % 4))[3] == 1


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 3e-2)])
def test_lower_precision(dtype, tolerance):
    found = probe(lambda z, y: 0.5 * F.cross_entropy(z.float(), y), dtype=dtype, tolerance=tolerance)[0]
    assert found == pytest.approx(0.5, rel=tolerance)


class Config(dict):
    __getattr__ = dict.__getitem__


class Accumulating:
    accum_steps = 4
    iters_to_accumulate = property(lambda self: 8)
    broken_accumulation = property(lambda self: 1 / 0)

    def __init__(self):
        self.cfg = Config(TRAIN=Config(ACCUMULATION=2, EPOCHS=4), ACCUM="no", ACCUMULATE=True)
        self.accumulation = 1


def test_settings_that_speak_of_accumulation():
    assert dict(accumulation_settings(Accumulating())) == {
        "trainer.accum_steps": 4, "trainer.iters_to_accumulate": 8, "cfg.TRAIN.ACCUMULATION": 2
    }  # fmt: skip
    assert dict(accumulation_settings(object())) == {}
