"""A trainer that differentiates what its model returned one by one (ProMetaR) gets None where it would without a hook.

The regularizer depends on all parameters; it does not put zeros there.
"""

from __future__ import annotations

import pytest
import torch

from cpt_plugin import CPTLoss
from cpt_plugin.hook.attach import attach_loss
from cpt_plugin.hook.balance import GradientBalance, Target, Weighted

OFF = {"weight_etf": 0.0, "weight_cc": 0.0, "weight_rs": 0.0}


@pytest.mark.parametrize("weight", OFF)
@pytest.mark.parametrize("balanced", [False, True])
def test_a_tensor_that_does_not_depend_on_a_parameter_has_no_gradient(weight: str, balanced: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    text, image, frozen = (torch.randn(n, 8, generator=generator) for n in (6, 4, 6))
    text.requires_grad_()
    image.requires_grad_()
    loss = CPTLoss(frozen, [f"class {i}" for i in range(6)], **{**OFF, weight: 1.0}, cluster_size=3)
    total, _ = loss(image=image * 1, text=text * 1, labels=torch.tensor([0, 1, 2, 3]))
    if balanced:
        balance = GradientBalance(torch.nn.Module())
        balance.want("part", Target(1.0))
        balance.load_state_dict({"part": [1.0, 1.0]})
        total = Weighted.apply(total, balance, "part")
    plain = (image * text[:4]).sum(), text * 2, image * 2
    (main, of_text, of_image), attachment = attach_loss(plain, total, lambda o, g, like: torch.ones_like(like), only=1)

    def gradients(output: torch.Tensor) -> list[torch.Tensor | None]:
        return list(torch.autograd.grad(output.sum(), [text, image], retain_graph=True, allow_unused=True))

    first = gradients(main)
    expected = torch.autograd.grad(plain[0] + total, [text, image], retain_graph=True)
    assert all(torch.equal(a, b) for a, b in zip(first, expected, strict=True))
    assert attachment.done
    assert gradients(of_text)[1] is None
    assert gradients(of_image)[0] is None
