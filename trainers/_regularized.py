"""The one mechanism behind CoOpCPT, MaPLeCPT and every other regularized trainer."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, ClassVar

from cpt_plugin import regularizers
from cpt_plugin.hook import CPTHook, HookHandle

LOG = logging.getLogger("cpt_plugin")


class Regularized:
    """Mixin that attaches :class:`~cpt_plugin.hook.CPTHook` for the length of a training run.

    Clusters and frozen features are derived when training starts, never stored: a checkpoint holds their hash
    only, so that evaluation on other classes loads it like any other.
    """

    regularizers: ClassVar[tuple[str, ...]] = ()
    hook: HookHandle | None = None

    def before_train(self) -> None:
        parts = regularizers.build(self.regularizers, self.cfg)  # type: ignore[attr-defined]
        self.hook = CPTHook(regularizers=parts).attach(self)
        for line in self.hook.describe():
            LOG.info(line)
        super().before_train()  # type: ignore[misc]

    def after_train(self) -> None:
        if self.hook is not None:
            self.hook.detach()
        super().after_train()  # type: ignore[misc]

    def checkpoint_extra(self) -> dict[str, Any]:
        return {**super().checkpoint_extra(), "cluster_hash": self.cluster_hash}  # type: ignore[misc]

    @property
    def cluster_hash(self) -> str:
        """Hash of the class-shaped state of the regularizers; empty before training or loading."""
        return self.hook.digest if self.hook is not None else self.loaded_extra.get("cluster_hash", "")  # type: ignore[attr-defined]


def regularized(base: type, names: Sequence[str]) -> type:
    """Subclass of a trainer whose training carries the named regularizers."""
    suffix = "".join(name.upper() for name in names)
    body = {
        "regularizers": tuple(names),
        "__doc__": f"{base.__name__} with {', '.join(names)}.",
        "__module__": base.__module__,
    }
    return type(f"{base.__name__}{suffix}", (Regularized, base), body)
