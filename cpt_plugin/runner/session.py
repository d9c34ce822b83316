"""What the runner changes in an imported Dassl: its default configuration, and what training a trainer means."""

from __future__ import annotations

import functools
import importlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from cpt_plugin import regularizers
from cpt_plugin.errors import ConfigError
from cpt_plugin.hook import CPTHook, HookHandle
from cpt_plugin.runner.options import FromTrainer
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
    arguments: further arguments of CPTHook by keyword; a :class:`FromTrainer` is looked up in the trainer.

    Trainers that a trainer builds or trains for itself (as DPC does) are left alone. Evaluation needs no hook, so
    nothing is prepared before ``train()`` is called.
    """

    def __init__(self, names: Sequence[str], arguments: Mapping[str, Any] | None = None) -> None:
        self._names = tuple(names)
        self._arguments = dict(arguments or {})
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
                trainer.train = self._regularized_method(trainer)
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

    def _regularized_method(self, trainer: Any) -> Any:
        """``trainer.train``, its class's or one that the trainer has put in its place, regularized."""
        own = vars(trainer).get("train")
        if own is None:
            return functools.partial(self._regularized(type(trainer).train), trainer)
        return functools.partial(self._regularized(lambda _, *args, **kwargs: own(*args, **kwargs)), trainer)

    @contextmanager
    def _attached(self, trainer: Any) -> Iterator[None]:
        parts = self._build_regularizers(trainer.cfg)
        handle = CPTHook(regularizers=parts, **self._arguments_for(trainer)).attach(trainer)
        self._training = True
        try:
            self._log(trainer, handle)
            yield
        finally:
            self._training = False
            handle.detach()

    def _arguments_for(self, trainer: Any) -> dict[str, Any]:
        return {
            name: value.names_of(trainer) if isinstance(value, FromTrainer) else value
            for name, value in self._arguments.items()
        }

    def _log(self, trainer: Any, handle: HookHandle) -> None:
        if not handle.active:
            LOG.info(f"cpt_plugin: {type(trainer).__name__} trains without regularizer ({self._why_none()})")
            return
        names = ", ".join(regularizer.name for regularizer in handle.regularizers)
        LOG.info(f"cpt_plugin: {type(trainer).__name__} trains with {names}")
        for line in handle.describe():
            LOG.info(line)

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
