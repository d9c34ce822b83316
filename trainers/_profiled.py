"""The profile of every training epoch: the time that data, encoders, regularizer and gradients take."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from cpt_plugin.encoders import ImageEncoder, TextEncoder
from cpt_plugin.profiling import CudaClock, HostClock, Profile
from cpt_plugin.toolkit.embedded.logs import FILE_ONLY

LOG = logging.getLogger("cpt_plugin")


class TimedLoader:
    """A data loader whose batches are counted, and waiting for them is section ``data`` of a profile."""

    def __init__(self, loader: Any, profile: Profile) -> None:
        self.loader, self.profile, self.given = loader, profile, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        with self.profile.section("data"):
            batches = iter(self.loader)
        end = object()
        while True:
            with self.profile.section("data"):
                batch = next(batches, end)
            if batch is end:
                return
            self.given += 1
            yield batch


class Profiled:
    """Mixin of trainers that logs, after every epoch or the rest of one that was resumed, where its time went.

    The line goes to log.txt only.

    ``data``: waiting for the loader, making the step's batch of what it gives, and bringing it to the device.
    ``image``, ``text``: forward passes of all encoders that are, or are in, modules among the trainer's attributes.
    ``regularizer``: forward only. ``backward``: gradients of everything. ``update``: clearing and checking gradients,
    and the optimizer. ``other``: what remains, among it making the prompts, the losses, logging, and saving states.
    Evaluation follows an epoch and is not in its profile.
    """

    device: torch.device
    epoch: int
    max_epoch: int
    train_loader_x: Any

    @cached_property
    def profile(self) -> Profile:
        """Measures the running epoch; after its end it holds that epoch's times."""
        return Profile(CudaClock() if self.device.type == "cuda" else HostClock())

    def run_epoch(self) -> None:
        with self._timed_loader() as loader, self._timed_encoders(), self.profile.running():
            super().run_epoch()  # type: ignore[misc]
        LOG.info(
            f"profile of epoch {self.epoch + 1}/{self.max_epoch}: {self.profile.total:.1f} s in {loader.given} steps: "
            f"{self.profile}",
            extra=FILE_ONLY,
        )

    @contextmanager
    def _timed_loader(self) -> Iterator[TimedLoader]:
        loader = self.train_loader_x
        self.train_loader_x = TimedLoader(loader, self.profile)
        try:
            yield self.train_loader_x
        finally:
            self.train_loader_x = loader

    @contextmanager
    def _timed_encoders(self) -> Iterator[None]:
        owned = [value for value in vars(self).values() if isinstance(value, nn.Module)]
        with ExitStack() as stack:
            for encoder in {module for owner in owned for module in owner.modules()}:
                if isinstance(encoder, (ImageEncoder, TextEncoder)):
                    kind = "image" if isinstance(encoder, ImageEncoder) else "text"
                    before = encoder.register_forward_pre_hook(lambda *_, kind=kind: self.profile.enter(kind))
                    after = encoder.register_forward_hook(lambda *_: self.profile.leave(), always_call=True)
                    stack.callback(before.remove)
                    stack.callback(after.remove)
            yield

    def model_backward_and_update(self, loss: Tensor, names: Any = None) -> None:
        with self.profile.section("update"):
            super().model_backward_and_update(loss, names)  # type: ignore[misc]

    def model_backward(self, loss: Tensor) -> None:
        with self.profile.section("backward"):
            super().model_backward(loss)  # type: ignore[misc]
