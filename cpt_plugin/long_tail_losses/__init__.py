"""Long-tail losses: what a prompt learner minimizes in place of the cross-entropy.

One file each, found by its name as regularizers are (:mod:`cpt_plugin.regularizers`), or an entry point in the group
`cpt_plugin.long_tail_losses`; a method takes one at most. A
loss sees the logits, so it works in this repository's trainers only: a foreign trainer computes its own loss, of which
a hook sees the gradient and nothing else. DPC's second stage has a loss of its own over pairs of images and texts;
there the long-tail loss trains the first stage. PromptSRC's further terms are added to it as to the cross-entropy.
"""

from __future__ import annotations

from cpt_plugin.long_tail_losses.base import REGISTRY, LogitBatch, LongTailLoss, checked_loss, register

__all__ = ["REGISTRY", "LogitBatch", "LongTailLoss", "available", "build", "checked_loss", "names", "register"]

available = REGISTRY.available
build = REGISTRY.build
names = REGISTRY.names

available()
