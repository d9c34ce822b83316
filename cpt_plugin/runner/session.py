"""What the runner changes in an imported Dassl: its default configuration, and what training a trainer means."""

from __future__ import annotations

import functools
import importlib
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from cpt_plugin import regularizers
from cpt_plugin.errors import ConfigError
from cpt_plugin.hook import CPTHook
from cpt_plugin.toolkit import compat
from cpt_plugin.toolkit.embedded.config import add_package_keys
from cpt_plugin.toolkit.embedded.defaults import DEFAULTS

LOG = logging.getLogger("cpt_plugin")
LONG_TAIL_KEYS = ("DATASET.IMBALANCE_TAU", "DATASET.CLASS_ORDER", "DATASET.MAX_PER_CLASS")


def own_defaults() -> dict[str, Any]:
    """Dotted keys that the runner adds to a configuration, with their default values."""
    long_tail = {key: DEFAULTS["DATASET"][key.partition(".")[2]] for key in LONG_TAIL_KEYS}
    added = {
        f"{cls.config_node}.{key}": value
        for cls in regularizers.available().values()
        for key, value in cls.defaults().items()
    }
    return long_tail | added


class Session:
    """Regularizes the outermost trainer of a process while it trains, and no other.

    names: the regularizers to add, empty for none.
    frozen_text: (K, d) frozen text features; None lets CPTHook compute them.

    Trainers that a trainer builds or trains for itself (as DPC does) are left alone. Evaluation needs no hook, so
    nothing is prepared before ``train()`` is called.
    """

    def __init__(self, names: Sequence[str], frozen_text: Tensor | None = None) -> None:
        self._names = tuple(names)
        self._frozen_text = frozen_text
        self._building = 0
        self._training = False

    def install(self) -> None:
        """Put this session into Dassl's modules; scripts that are imported later see it."""
        config, engine = importlib.import_module("dassl.config"), importlib.import_module("dassl.engine")
        config.get_cfg_default = self._extended(config.get_cfg_default)  # type: ignore[attr-defined]
        build = self._outermost(engine.build_trainer)
        for module in (engine, importlib.import_module("dassl.engine.build")):
            module.build_trainer = build  # type: ignore[attr-defined]
        engine.TrainerBase.train = self._regularized(engine.TrainerBase.train)

    def _extended(self, original: Any) -> Any:
        @functools.wraps(original)
        def get_cfg_default(*args: Any, **kwargs: Any) -> Any:
            cfg = original(*args, **kwargs)
            add_package_keys(cfg, LONG_TAIL_KEYS)
            for regularizer in regularizers.available().values():
                if regularizer.config_node not in cfg:
                    cfg[regularizer.config_node] = type(cfg)(regularizer.defaults())
            return cfg

        return get_cfg_default

    def _outermost(self, original: Any) -> Any:
        @functools.wraps(original)
        def build_trainer(cfg: Any, *args: Any, **kwargs: Any) -> Any:
            if not self._building:
                LOG.info(f"cpt_plugin: repaired for this process: {'; '.join(compat.applied_fixes()) or 'nothing'}")
                self._build_regularizers(cfg)
            self._building += 1
            try:
                trainer = original(cfg, *args, **kwargs)
            finally:
                self._building -= 1
            if not self._building:
                trainer.train = functools.partial(self._regularized(type(trainer).train), trainer)
            return trainer

        return build_trainer

    def _regularized(self, train: Any) -> Any:
        @functools.wraps(train)
        def regularized_train(trainer: Any, *args: Any, **kwargs: Any) -> Any:
            if self._building or self._training:
                return train(trainer, *args, **kwargs)
            with self._attached(trainer):
                return train(trainer, *args, **kwargs)

        return regularized_train

    @contextmanager
    def _attached(self, trainer: Any) -> Iterator[None]:
        parts = self._build_regularizers(trainer.cfg)
        handle = CPTHook(regularizers=parts, frozen_text=self._frozen_text).attach(trainer)
        if handle.active:
            names = ", ".join(regularizer.name for regularizer in handle.regularizers)
            LOG.info(f"cpt_plugin: {type(trainer).__name__} trains with {names}")
            for line in handle.describe():
                LOG.info(line)
        else:
            LOG.info(f"cpt_plugin: {type(trainer).__name__} trains without regularizer ({self._why_none()})")
        self._training = True
        try:
            yield
        finally:
            self._training = False
            handle.detach()

    def _why_none(self) -> str:
        return f"all weights of {', '.join(self._names)} are 0" if self._names else "--regularizers none"

    def _build_regularizers(self, cfg: Any) -> list[regularizers.Regularizer]:
        known = regularizers.available()
        for name in self._names:
            if known[name].config_node not in cfg:
                raise ConfigError(
                    f"the configuration has no node {known[name].config_node}: let the script start from "
                    "dassl.config.get_cfg_default(), to which the runner adds it"
                )
        parts = regularizers.build(self._names, cfg)
        for name, cls in known.items() if self._names else ():
            changed = [k for k, v in cls.defaults().items() if cfg.get(cls.config_node, {}).get(k, v) != v]
            if name not in self._names and changed:
                raise ConfigError(
                    f"{cls.config_node}.{changed[0]} is set, but {name} is not among the regularizers: give "
                    f"--regularizers {','.join([*self._names, name])} before the script, or leave the key out"
                )
        return parts
