"""The configuration of one run, assembled from files and arguments, and the part of it that the run reads."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from cpt_plugin._names import nearest
from cpt_plugin.backbones import MICRO
from cpt_plugin.cli.arguments import RunArguments
from cpt_plugin.cli.repository import ROOT, config_file, default_cfg, load_trainers
from cpt_plugin.config_identity import hashed_part
from cpt_plugin.data.custom import own_root, own_settings
from cpt_plugin.errors import ConfigError
from cpt_plugin.long_tail import ALL_IMAGES
from cpt_plugin.methods import DPC, EMBEDDED_WORLD, Method, is_embedded
from cpt_plugin.protocols import TRANSFER, Task

FALLBACK_BACKBONE = "vit_b16"


def assemble(method: Method, seed: int, arguments: RunArguments, folder: Path, task: Task, training: bool) -> Any:
    """Configuration of a run's training, or of one of its other evaluations, not yet frozen.

    Merged in this order: defaults, yaml of the data set, yaml of the trainer (for transfer protocols then the one with
    what differs there, ``..._transfer.yaml``, if it has one), for a second stage that of DPC, the
    command's arguments, its ``KEY VALUE`` pairs. Pairs that this method does not read (another method's node, a
    learning rate for zero-shot) are checked, then left out, so that baselines are shared between commands; the
    others hold for both stages of a method with DPC. The images' size and normalization are the backbone's unless the
    pairs give them; the micro model sees real images as it sees those of the drawn world.

    Raises:
        ConfigError: an unknown key, a value of a wrong type, or a yaml that names no data set there is.
        CPTError: the backbone's weights are no use, as far as names and shapes tell.
    """
    from cpt_plugin.toolkit.embedded.config import merge_file, merge_list

    cfg = default_cfg([*method.parts, *arguments.opts[::2]])
    dataset, _, world = task.dataset.partition(":")
    if arguments.only_tries_out:
        merge_file(cfg, config_file("datasets", EMBEDDED_WORLD))
        cfg.DATASET.NAME = ""
    own_file = arguments.dataset_file if task.dataset == arguments.dataset else None
    dataset_file = own_file or config_file("datasets", dataset)
    root = own_root(own_file)
    if own_file is None or root is None:
        merge_file(cfg, dataset_file)
    else:
        merge_list(cfg, [part for pair in own_settings(own_file).items() for part in pair])
    _check_named(cfg, dataset_file)
    for folder_name in _trainer_folders(method):
        for path in _trainer_files(folder_name, arguments):
            merge_file(cfg, path)
    own: dict[str, Any] = {
        "SEED": seed,
        "OUTPUT_DIR": str(folder if training else folder / task.folder),
        "DATASET.ROOT": str(root or arguments.root),
        "DATASET.NUM_SHOTS": arguments.shots,
        "DATASET.IMBALANCE_TAU": arguments.tau,
        "DATASET.SUBSAMPLE_CLASSES": task.classes,
        "MODEL.BACKBONE.NAME": arguments.backbone,
        "MODEL.BACKBONE.TRUST": arguments.trust_weights,
        "MODEL.BACKBONE.UNKNOWN_WORDS": "zero" if arguments.only_tries_out else "refuse",
        "TRAINER.NAME": _trainer_name(method),
        "VERBOSE": False,
    }
    if arguments.shots != ALL_IMAGES:
        own["DATASET.MAX_PER_CLASS"] = arguments.shots
    if is_embedded(task.dataset):
        own["DATASET.WORLD"] = world
    own |= load_trainers().settings_of(method.parts)
    if arguments.epochs is not None:
        own["OPTIM.MAX_EPOCH"] = arguments.epochs
    merge_list(cfg.clone(), arguments.opts)
    pairs = [*own.items(), *zip(arguments.opts[::2], arguments.opts[1::2], strict=True)]
    merge_list(cfg, [part for key, value in pairs if reads(method, key) for part in (key, value)])
    follow_backbone(cfg, arguments.opts[::2])
    return cfg


def follow_backbone(cfg: Any, given: Collection[str]) -> None:
    """Set the size and normalization of images to what the backbone reads, but for keys that a person has given.

    Does nothing for trainers that do not read their images through CLIP.

    Raises:
        CPTError: the backbone's name or weights are no use, as far as names and shapes tell.
    """
    if not hasattr(_registered(cfg.TRAINER.NAME), "check_model"):
        return
    sizes = _sizes(cfg)
    wanted: dict[str, Any] = {"SIZE": (sizes.input_resolution, sizes.input_resolution)}
    if sizes.pixel_mean is not None and sizes.pixel_std is not None:
        wanted |= {"PIXEL_MEAN": list(sizes.pixel_mean), "PIXEL_STD": list(sizes.pixel_std)}
    for name, value in wanted.items():
        if f"INPUT.{name}" not in given:
            cfg.INPUT[name] = value


def reads(method: Method, key: str) -> bool:
    """Whether a method's result can depend on a configuration key."""
    return bool(_trainer_class(method).reads(key))


def check_settings(method: Method, cfg: Any) -> None:
    """Look at the values that a method reads, as far as can be told without data and weights.

    Raises:
        ConfigError: a value out of range, or settings that contradict each other; the key is named.
    """
    from cpt_plugin.toolkit.embedded.config import validate

    validate(cfg)
    trainer = _trainer_class(method)
    trainer.__new__(trainer).check_cfg(cfg)
    check_backbone(cfg)
    load_trainers().check_parts(method.parts, cfg)


def check_backbone(cfg: Any) -> None:
    """Refuse a backbone that cannot take the trainer's prompts, as far as its name or the shapes of its weights tell.

    Raises:
        ConfigError: visual prompts for a ResNet, or deeper prompts than there are blocks.
    """
    trainer = _registered(cfg.TRAINER.NAME)
    if hasattr(trainer, "check_model"):
        trainer.check_model(cfg, _sizes(cfg))


def check_class_names(method: Method, cfg: Any, class_names: Sequence[str], trained: bool) -> None:
    """Raise ConfigError for class names that do not fit into the texts of a method; ``trained``: it trains on them."""
    _trainer_class(method).check_class_names(cfg, class_names, trained)


def identity_of(method: Method, cfg: Any) -> dict[str, Any]:
    """The flat configuration that decides a run's result: keys that the method reads, paths and talk left out."""
    return {key: value for key, value in hashed_part(cfg).items() if reads(method, key)}


def _check_named(cfg: Any, dataset_file: Path) -> None:
    from cpt_plugin.toolkit import DATASET_REGISTRY

    name, known = cfg.DATASET.NAME, DATASET_REGISTRY.registered_names()
    if not name:
        raise ConfigError(
            f"{dataset_file} names no data set: set DATASET.NAME to ImageFolder or ImageList (docs/custom-data.md)"
        )
    if name not in known:
        raise ConfigError(
            f"DATASET.NAME of {dataset_file} is {name!r}, which is no data set; nearest: {nearest(name, known)!r}; "
            "for images of your own it is ImageFolder or ImageList (docs/custom-data.md)"
        )


def _sizes(cfg: Any) -> Any:
    from cpt_plugin.encoders import sizes_of

    backbone = cfg.MODEL.BACKBONE
    return sizes_of(backbone.NAME, root=backbone.PATH or None, trust=backbone.TRUST)


def _registered(trainer: str) -> Any:
    """The trainer class of a name; None if there is none."""
    from cpt_plugin.toolkit import TRAINER_REGISTRY

    return TRAINER_REGISTRY.get(trainer) if trainer in TRAINER_REGISTRY.registered_names() else None


def _trainer_class(method: Method) -> Any:
    return _registered(_trainer_name(method))


def _trainer_name(method: Method) -> str:
    return load_trainers().trainer_name(method.prompt_learner, method.parts, method.dpc)


def _trainer_folders(method: Method) -> list[str]:
    """Folders of ``configs/trainers`` whose settings a method takes, the later ones over the earlier."""
    return [load_trainers().trainer_name(method.prompt_learner), *([DPC.upper()] if method.dpc else [])]


def _trainer_files(folder: str, arguments: RunArguments) -> list[Path]:
    """Yamls of such a folder that a run takes, the later ones over the earlier."""
    path = config_file("trainers", folder, _stem(folder, arguments))
    transfer = path.with_stem(f"{path.stem}_transfer")
    return [path, *([transfer] if arguments.protocol in TRANSFER and transfer.is_file() else [])]


def _stem(folder: str, arguments: RunArguments) -> str:
    """Stem of a yaml in such a folder: the backbone's own, else that of the micro model or of ViT-B/16."""
    slug = arguments.backbone.lower().replace("/", "").replace("-", "_")
    if not (ROOT / "configs" / "trainers" / folder / f"{slug}.yaml").is_file():
        weights_file = Path(arguments.backbone).is_file()
        slug = MICRO if weights_file and is_embedded(arguments.dataset) else FALLBACK_BACKBONE
    return slug
