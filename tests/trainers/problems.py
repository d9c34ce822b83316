"""What several tests of trainers need: an overfit problem, and prompts away from their start."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cpt_plugin import toolkit
from cpt_plugin.encoders import FrozenCLIP
from cpt_plugin.regularizers import FeatureBatch, build
from trainers._prompted import PromptedCLIP, PromptLearner

TRAINABLE = (
    "CoOp", "CoOpCPT", "MaPLe", "MaPLeCPT", "CoCoOp", "CoCoOpCPT", "IVLP", "ShallowVL", "PromptSRC", "PromptSRCCPT",
    "CoOpDPC", "MaPLeDPCCPT",
)  # fmt: skip


def losses_of_overfitting(
    clip: FrozenCLIP, learner: PromptLearner, classes: int, steps: int = 40
) -> tuple[float, float]:
    """Cross-entropy of one noise image a class before and after ``steps`` of Adam."""
    model = PromptedCLIP(clip, learner)
    images = torch.randn(classes, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    optimizer = torch.optim.Adam(learner.parameters(), lr=0.02)
    values = []
    for _ in range(steps):
        loss = F.cross_entropy(model(images), torch.arange(classes))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(loss.item())
    return values[0], values[-1]


def perturb(learner: nn.Module, scale: float = 0.05, seed: int = 9) -> None:
    """Move all prompts off their start, where the rotation term's sign would be rounding noise."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in learner.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
            parameter += scale * noise.to(parameter.device)


def gradient_norms(trainer: Any, batch: dict[str, Any], parts: Iterable[str]) -> dict[str, float]:
    """Lengths of the gradients of the cross-entropy, "main", and of CPT's unweighted parts on this batch, by hand."""
    image, label = trainer.parse_batch_train(batch)
    learner = trainer.model.prompt_learner
    f = F.normalize(trainer.model.image_encoder(image, learner.image_prompts()), dim=-1)
    g = trainer.model.text_features(f)
    (terms,) = build(["cpt"], {"CPT": {f"WEIGHT_{part.upper()}": 1 for part in parts} | {"CLUSTER_SIZE": 2}})
    terms.prepare(trainer.frozen_text_features(), trainer.dm.dataset.classnames)
    losses = terms.compute(FeatureBatch(g, f, label))
    losses["main"] = F.cross_entropy(trainer.model.logit_scale * f @ g.t(), label)
    found = {}
    for name, loss in losses.items():
        gradients = torch.autograd.grad(loss, list(learner.parameters()), retain_graph=True, allow_unused=True)
        found[name] = torch.cat([x.flatten() for x in gradients if x is not None]).double().norm().item()
    return found


def saved(output: Path) -> dict[str, Any]:
    """The final checkpoint of a run, without the time it took."""
    (path,) = output.glob("*/model.pth.tar-*[0-9]")
    content = toolkit.load_checkpoint(str(path))
    assert content.pop("elapsed") > 0
    return content


def trained_part(output: Path) -> dict[str, Any]:
    """Prompts, optimizer and scheduler of the final checkpoint, without what names the run."""
    content = saved(output)
    return {key: content[key] for key in ("state_dict", "optimizer", "scheduler", "epoch")}


def text_features(trainer: Any) -> Tensor:
    """(K, d) features of the learned class prompts, for one and the same image where they depend on it."""
    model = trainer.model
    with torch.no_grad():
        image = F.normalize(torch.ones(1, trainer.clip.embed_dim), dim=1)
        features = model.text_encoder(model.prompt_learner.text_prompts(image))
    return features.flatten(end_dim=-2)


def raises_at(step: int, original: Callable[..., Any], error: type[BaseException]) -> Callable[..., Any]:
    """A ``forward_backward`` that raises before global step ``step``, as an interruption would."""

    def forward_backward(self: Any, batch: Any) -> Any:
        if self.epoch * self.num_batches + self.batch_idx == step:
            raise error
        return original(self, batch)

    return forward_backward
