"""The configuration of one run, assembled from files and arguments, and the part of it that the run reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cpt_plugin.cli.arguments import RunArguments
from cpt_plugin.cli.repository import ROOT, config_file, default_cfg, load_trainers
from cpt_plugin.config_identity import hashed_part
from cpt_plugin.methods import DPC, Method, is_embedded
from cpt_plugin.protocols import Task

FALLBACK_BACKBONE = "vit_b16"
MICRO_BACKBONE = "micro"


def assemble(method: Method, seed: int, arguments: RunArguments, folder: Path, task: Task, training: bool) -> Any:
    """Configuration of a run's training, or of one of its other evaluations, not yet frozen.

    Merged in this order: defaults, yaml of the data set, yaml of the trainer, for a second stage that of DPC, the
    command's arguments, its ``KEY VALUE`` pairs. Pairs that this method does not read (another method's node, a
    learning rate for zero-shot) are checked, then left out, so that baselines are shared between commands; the
    others hold for both stages of a method with DPC.

    Raises:
        ConfigError: an unknown key, or a value of a wrong type.
    """
    from cpt_plugin.toolkit.embedded.config import merge_file, merge_list

    cfg = default_cfg()
    dataset, _, world = task.dataset.partition(":")
    merge_file(cfg, config_file("datasets", dataset))
    for folder_name in _trainer_folders(method):
        merge_file(cfg, config_file("trainers", folder_name, _stem(folder_name, arguments)))
    own: dict[str, Any] = {
        "SEED": seed,
        "OUTPUT_DIR": str(folder if training else folder / task.folder),
        "DATASET.ROOT": str(arguments.root),
        "DATASET.NUM_SHOTS": arguments.shots,
        "DATASET.MAX_PER_CLASS": arguments.shots,
        "DATASET.IMBALANCE_TAU": arguments.tau,
        "DATASET.SUBSAMPLE_CLASSES": task.classes,
        "MODEL.BACKBONE.NAME": arguments.backbone,
        "TRAINER.NAME": _trainer_name(method),
        "VERBOSE": False,
    }
    if is_embedded(task.dataset):
        own["DATASET.WORLD"] = world
    if arguments.epochs is not None:
        own["OPTIM.MAX_EPOCH"] = arguments.epochs
    merge_list(cfg.clone(), arguments.opts)
    pairs = [*own.items(), *zip(arguments.opts[::2], arguments.opts[1::2], strict=True)]
    merge_list(cfg, [part for key, value in pairs if reads(method, key) for part in (key, value)])
    return cfg


def reads(method: Method, key: str) -> bool:
    """Whether a method's result can depend on a configuration key."""
    return bool(_trainer_class(method).reads(key))


def check_settings(method: Method, cfg: Any) -> None:
    """Look at the values that a method reads, as far as can be told without data and weights.

    Raises:
        ConfigError: a value out of range, or settings that contradict each other; the key is named.
    """
    from cpt_plugin import regularizers
    from cpt_plugin.toolkit.embedded.config import validate

    validate(cfg)
    trainer = _trainer_class(method)
    trainer.__new__(trainer).check_cfg(cfg)
    regularizers.build(method.regularizers, cfg)


def identity_of(method: Method, cfg: Any) -> dict[str, Any]:
    """The flat configuration that decides a run's result: keys that the method reads, paths and talk left out."""
    return {key: value for key, value in hashed_part(cfg).items() if reads(method, key)}


def _trainer_class(method: Method) -> Any:
    from cpt_plugin.toolkit import TRAINER_REGISTRY

    return TRAINER_REGISTRY.get(_trainer_name(method))


def _trainer_name(method: Method) -> str:
    return load_trainers().trainer_name(method.prompt_learner, method.regularizers, method.dpc)


def _trainer_folders(method: Method) -> list[str]:
    """Folders of ``configs/trainers`` whose settings a method takes, the later ones over the earlier."""
    return [load_trainers().trainer_name(method.prompt_learner), *([DPC.upper()] if method.dpc else [])]


def _stem(folder: str, arguments: RunArguments) -> str:
    """Stem of a yaml in such a folder: the backbone's own, else that of the micro model or of ViT-B/16."""
    slug = arguments.backbone.lower().replace("/", "").replace("-", "_")
    if not (ROOT / "configs" / "trainers" / folder / f"{slug}.yaml").is_file():
        weights_file = Path(arguments.backbone).is_file()
        slug = MICRO_BACKBONE if weights_file and is_embedded(arguments.dataset) else FALLBACK_BACKBONE
    return slug
