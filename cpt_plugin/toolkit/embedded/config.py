"""Configuration with Dassl's keys and defaults; wrong keys and wrong types are refused by name."""

from __future__ import annotations

import ast
import math
import secrets
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from yacs.config import CfgNode

from cpt_plugin._names import nearest
from cpt_plugin._seeds import MAX_SEED
from cpt_plugin.config_identity import flatten
from cpt_plugin.errors import ConfigError
from cpt_plugin.long_tail import most_per_class
from cpt_plugin.toolkit.embedded.defaults import DEFAULTS, PACKAGE_KEYS
from cpt_plugin.toolkit.embedded.optim import DECAYS, OPTIMIZERS, WARMUPS

UNREAD_MAX_PER_CLASS = 16
SHARES_IN_WORDS = "the shares of train (above 0) and val, together below 1"


class Config(CfgNode):
    """A yacs node whose merges raise :class:`ConfigError` with the key, the place and the nearest key."""

    def merge_from_file(self, cfg_filename: str | Path) -> None:
        merge_file(self, cfg_filename)

    def merge_from_list(self, cfg_list: Sequence[Any]) -> None:
        merge_list(self, cfg_list)

    def merge_from_other_cfg(self, cfg_other: Mapping[str, Any]) -> None:
        _merge(self, flatten(cfg_other).items(), "the given configuration")


def merge_file(cfg: CfgNode, path: str | Path) -> None:
    """Merges a YAML file into any yacs node, also Dassl's.

    Raises:
        ConfigError: the file is missing or malformed, or holds an unknown key or a value of a wrong type.
    """
    _merge(cfg, flatten(_read_yaml(Path(path))).items(), str(path))


def merge_list(cfg: CfgNode, options: Sequence[Any]) -> None:
    """Merges a flat list of alternating keys and values, as given on a command line, into any yacs node.

    Raises:
        ConfigError: odd length, unknown key or a value of a wrong type.
    """
    if len(options) % 2:
        raise ConfigError(f"options come in pairs KEY VALUE, but {list(options)} has an odd number of words")
    _merge(cfg, zip(map(str, options[0::2]), options[1::2], strict=True), "the options")


def _merge(cfg: CfgNode, pairs: Iterable[tuple[str, Any]], where: str) -> None:
    if cfg.is_frozen():
        raise ConfigError(f"the configuration is frozen; {where} must be merged before freeze()")
    for key, value in pairs:
        *parents, name = key.split(".")
        node: Any = cfg
        for parent in parents:
            node = node.get(parent) if isinstance(node, CfgNode) else None
        if isinstance(node, CfgNode) and name not in node and node.is_new_allowed():
            dict.__setitem__(node, name, _decode(value))
        elif not isinstance(node, CfgNode) or name not in node:
            raise ConfigError(f"unknown key {key!r} in {where}; {_near_key(key, flatten(cfg))}")
        else:
            dict.__setitem__(node, name, _coerce(node[name], value, key, where))


def get_cfg_default() -> Config:
    """Returns a fresh configuration with the engine's defaults (Dassl's, where Dassl has the key)."""
    return Config(DEFAULTS)


def add_package_keys(cfg: CfgNode, keys: Sequence[str] = PACKAGE_KEYS) -> None:
    """Adds this package's data and checkpoint keys (or some of them), which Dassl lacks, to its configuration."""
    for key in keys:
        *parents, name = key.split(".")
        node, value = cfg, DEFAULTS
        for parent in parents:
            if parent not in node:
                node[parent] = CfgNode()
            node, value = node[parent], value[parent]
        if name not in node:
            node[name] = value[name]


def resolve_seed(cfg: Config) -> Config:
    """Returns ``cfg``, or for a negative ``SEED`` a copy with a seed drawn from the operating system."""
    if cfg.SEED >= 0:
        return cfg
    seeded = cfg.clone()
    seeded.defrost()
    seeded.SEED = secrets.randbelow(MAX_SEED + 1)
    seeded.freeze()
    return seeded


def follow_shots(cfg: Any) -> Any:
    """Returns ``cfg`` with ``DATASET.MAX_PER_CLASS`` as ``NUM_SHOTS`` has it; the same object where it was given.

    It stays 0 where all images are taken, for the size of the largest class. Without a long tail, which does not read
    it, it is 16 as in earlier versions, so that their runs are still recognised.
    """
    c = cfg.DATASET
    if c.MAX_PER_CLASS != 0:
        return cfg
    followed = cfg.clone()
    followed.defrost()
    followed.DATASET.MAX_PER_CLASS = UNREAD_MAX_PER_CLASS if c.IMBALANCE_TAU == 1 else most_per_class(c) or 0
    if cfg.is_frozen():
        followed.freeze()
    return followed


def validate(cfg: Any) -> None:
    """Checks the ranges of the values that the engine itself reads.

    Raises:
        ConfigError: naming the key, the value and what is allowed.
    """
    for key, allowed, test in _RANGES:
        value = _leaf(cfg, key)
        if not test(value):
            raise ConfigError(f"{key} must be {allowed}, not {value!r}")


def _one_of(*names: str) -> tuple[str, Any]:
    return "one of " + ", ".join(names), lambda value: value in names


def are_shares(value: Sequence[float]) -> bool:
    """Whether these can be the shares of train and val, with a rest for test."""
    return len(value) == 2 and value[0] > 0 and value[1] >= 0 and sum(value) < 1


def _is_template(value: str) -> bool:
    return value in ("", "ensemble") or value.count("{}") == 1


_RANGES: list[tuple[str, str, Any]] = [
    ("SEED", f"at most {MAX_SEED}", lambda v: v <= MAX_SEED),
    ("INPUT.SIZE", "two positive integers", lambda v: len(v) == 2 and all(n > 0 for n in v)),
    ("INPUT.INTERPOLATION", *_one_of("bilinear", "bicubic", "nearest")),
    ("DATASET.SPLIT", *_one_of("published", "own")),
    ("DATASET.SPLIT_SEED", "at least 0", lambda v: v >= 0),
    ("DATASET.SHARES", SHARES_IN_WORDS, are_shares),
    ("DATASET.TEMPLATE", "a sentence with {} once for the class name, ensemble, or empty", _is_template),
    ("DATASET.SUBSAMPLE_CLASSES", *_one_of("all", "base", "new")),
    ("DATASET.IMBALANCE_TAU", "in (0, 1]", lambda v: 0 < v <= 1),
    ("DATASET.CLASS_ORDER", *_one_of("label", "random")),
    ("DATASET.MAX_PER_CLASS", "at least 1, or 0 to follow DATASET.NUM_SHOTS", lambda v: v >= 0),
    ("FEATURE_CACHE.VIEWS", "at least 1", lambda v: v >= 1),
    ("FEATURE_CACHE.MAX_GIB", "at least 0", lambda v: v >= 0),
    ("IMAGE_CACHE.MAX_GIB", "at least 0", lambda v: v >= 0),
    ("MODEL.BACKBONE.UNKNOWN_WORDS", *_one_of("refuse", "zero")),
    ("MODEL.TEXT_MEMORY_GIB", "above 0", lambda v: v > 0),
    ("DATALOADER.NUM_WORKERS", "at least 0", lambda v: v >= 0),
    ("DATALOADER.K_TRANSFORMS", "at least 1", lambda v: v >= 1),
    ("DATALOADER.TRAIN_X.BATCH_SIZE", "at least 1", lambda v: v >= 1),
    ("DATALOADER.TEST.BATCH_SIZE", "at least 1", lambda v: v >= 1),
    ("OPTIM.NAME", *_one_of(*OPTIMIZERS)),
    ("OPTIM.LR", "at least 0", lambda v: v >= 0),
    ("OPTIM.LR_SCHEDULER", *_one_of(*DECAYS)),
    ("OPTIM.WARMUP_TYPE", *_one_of(*WARMUPS)),
    ("OPTIM.MAX_EPOCH", "at least 0", lambda v: v >= 0),
    ("TRAIN.PRINT_FREQ", "at least 1", lambda v: v >= 1),
    ("TEST.SPLIT", *_one_of("test", "val")),
    ("TEST.FINAL_MODEL", *_one_of("last_step", "best_val")),
]


def _leaf(cfg: Any, key: str) -> Any:
    for part in key.split("."):
        cfg = cfg[part]
    return cfg


class _StrictLoader(yaml.SafeLoader):
    """Refuses a mapping that gives the same key twice, which YAML itself would ignore."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        repeated = [key for position, key in enumerate(keys) if key in keys[:position]]
        if repeated:
            raise ConfigError(f"the key {repeated[0]!r} is given twice ({node.start_mark})")
        return super().construct_mapping(node, deep)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _StrictLoader)
    except OSError as error:
        raise ConfigError(f"cannot read the configuration file {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError, TypeError, ValueError) as error:
        raise ConfigError(f"{path} is not a valid configuration: {' '.join(str(error).split())}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"{path} must hold keys and values, not a {type(content).__name__}")
    return content


def _near_key(key: str, known: Iterable[str]) -> str:
    names = list(known)
    last = key.upper().rsplit(".", 1)[-1]
    same_end = (name for name in names if name.rsplit(".", 1)[-1] == last)
    near = nearest(key, names, cutoff=0.6) or next(same_end, "")
    return f"did you mean {near!r}?" if near else "see get_cfg_default() for the known keys"


def _decode(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return value


def _coerce(current: Any, value: Any, key: str, where: str) -> Any:
    if isinstance(current, CfgNode):
        raise ConfigError(f"{key} in {where} is a group of keys and cannot be set to {value!r}")
    decoded = _decode(value)
    if isinstance(current, str) and isinstance(value, str) and not isinstance(decoded, str):
        decoded = value
    if isinstance(current, float) and type(decoded) is int:
        decoded = float(decoded)
    if isinstance(current, (list, tuple)) and isinstance(decoded, (list, tuple)):
        decoded = type(current)(decoded)
        _check_elements(current, decoded, key, where)
    if current is not None and type(decoded) is not type(current):
        raise ConfigError(
            f"{key} in {where} must be of type {type(current).__name__} (like {current!r}), not {value!r}"
        )
    if any(isinstance(number, float) and not math.isfinite(number) for number in _elements(decoded)):
        raise ConfigError(f"{key} in {where} must be finite, not {value!r}")
    return decoded


def _elements(value: Any) -> Sequence[Any]:
    return value if isinstance(value, (list, tuple)) else (value,)


def _check_elements(current: Sequence[Any], value: Sequence[Any], key: str, where: str) -> None:
    if not current:
        return
    allowed = (int, float) if isinstance(current[0], float) else (type(current[0]),)
    wrong = [item for item in value if type(item) not in allowed]
    if wrong:
        raise ConfigError(f"{key} in {where} must hold values like {current[0]!r}, not {wrong[0]!r}")
