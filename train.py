"""Train or evaluate one model; the command line of the CoOp family.

    python train.py --root data --seed 1 --trainer CoOpCPT --output-dir output/x \\
        --dataset-config-file configs/datasets/shapes.yaml --config-file configs/trainers/CoOp/micro.yaml \\
        DATASET.NUM_SHOTS 16 DATASET.SUBSAMPLE_CLASSES base DATASET.IMBALANCE_TAU 0.25

    python train.py ... --eval-only --model-dir output/x --load-epoch 20 DATASET.SUBSAMPLE_CLASSES new

Options may stand before, between and after KEY VALUE pairs; of a key or an option given twice the last one counts.

    python train.py --trainer CoOpDPC --config-file configs/trainers/CoOp/micro.yaml \\
        --config-file configs/trainers/DPC/micro.yaml ... TRAINER.DPC.STAGE_ONE output/coop

It resumes only with ``--resume``, and never trains over finished work. CPT_TOOLKIT=dassl|embedded picks the engine.
Exit status: 0, or 2 for wrong input and failures that were foreseen, 130 for Ctrl-C, 141 where a pipe's reader left.
"""

from __future__ import annotations

import argparse
import logging
import os
import secrets
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cpt_plugin._seeds import MAX_SEED
from cpt_plugin.cli.console import attended
from cpt_plugin.cli.contents import Contents
from cpt_plugin.cli.packages import not_installed
from cpt_plugin.cli.pairs import PairParser
from cpt_plugin.errors import ConfigError, CPTError, DataError

LOG = logging.getLogger("cpt_plugin")
OUTPUT_FOLDER = object()
"""What ``--resume`` without a folder means: whatever OUTPUT_DIR turns out to be."""


def parser() -> argparse.ArgumentParser:
    """The options of the CoOp family, and KEY VALUE pairs before, between and after them."""
    p = PairParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--root", default="", help="data folder (default: $DATA_ROOT, else data)")
    p.add_argument("--output-dir", default="", help="folder of log.txt, checkpoints and TensorBoard files")
    p.add_argument("--resume", nargs="?", const=OUTPUT_FOLDER, default="", metavar="DIR",
                   help="continue an interrupted run from DIR (default: the output folder)")
    p.add_argument("--seed", type=int, default=-1, help="0 to 2^32-1; a negative one is drawn and logged")
    p.add_argument("--source-domains", nargs="+", help="source domains for domain adaptation or generalization")
    p.add_argument("--target-domains", nargs="+", help="target domains for domain adaptation or generalization")
    p.add_argument("--transforms", nargs="+", help="data augmentation methods")
    p.add_argument("--config-file", action="append", default=[],
                   help="yaml of the trainer; given again, the later one goes over the earlier")
    p.add_argument("--dataset-config-file", default="", help="yaml of the data set")
    p.add_argument("--trainer", default="", help="e.g. CoOp, MaPLeCPT, MaPLeLACPTB, ZeroshotCLIP")
    p.add_argument("--backbone", default="", help="micro, RN50 ... ViT-L/14@336px, a file, open_clip:MODEL/WEIGHTS")
    p.add_argument("--trust-weights", action="store_true", help="read a TorchScript file that is none of OpenAI's")
    p.add_argument("--head", default="", help="accepted for compatibility; CLIP has no head")
    p.add_argument("--eval-only", action="store_true", help="evaluate --model-dir at --load-epoch")
    p.add_argument("--model-dir", default="", help="output folder of a training run")
    p.add_argument("--load-epoch", type=int, help="epoch to load (1-based)")
    p.add_argument("--no-train", action="store_true", help="build everything, train nothing")
    p.add_argument("opts", nargs="*", metavar="KEY VALUE", help="configuration overrides")
    return p


def setup_cfg(args: argparse.Namespace) -> Any:
    """Merge defaults, data set yaml, trainer yaml, arguments and overrides, in this order; frozen.

    Raises:
        ConfigError: a file is missing or malformed, or a key, a value or the seed is wrong.
    """
    from cpt_plugin.cli.repository import default_cfg, load_trainers
    from cpt_plugin.cli.settings import follow_backbone
    from cpt_plugin.toolkit.embedded.config import follow_shots, merge_file, merge_list

    load_trainers().register_named(args.trainer)  # parts of other packages bring their keys along
    cfg = default_cfg(args.opts[::2])
    files = [("--dataset-config-file", args.dataset_config_file), *(("--config-file", p) for p in args.config_file)]
    for option, path in files:
        if path and not Path(path).is_file():
            raise ConfigError(f"{option}: there is no file {path}")
        if path:
            merge_file(cfg, path)
    resume, opts = args.resume, args.opts
    given = {
        "DATASET.ROOT": args.root,
        "OUTPUT_DIR": args.output_dir,
        "RESUME": "" if resume is OUTPUT_FOLDER else resume,
        "SEED": args.seed if args.seed >= 0 else None,
        "DATASET.SOURCE_DOMAINS": args.source_domains,
        "DATASET.TARGET_DOMAINS": args.target_domains,
        "INPUT.TRANSFORMS": args.transforms,
        "TRAINER.NAME": args.trainer,
        "MODEL.BACKBONE.NAME": args.backbone,
        "MODEL.BACKBONE.TRUST": args.trust_weights or None,
        "MODEL.HEAD.NAME": args.head,
    }
    merge_list(cfg, [part for key, value in given.items() if value not in ("", None) for part in (key, value)])
    merge_list(cfg, opts)
    load_trainers().register_named(cfg.TRAINER.NAME)
    follow_backbone(cfg, opts[::2])
    if resume is OUTPUT_FOLDER and "RESUME" not in opts[::2]:
        cfg.RESUME = _output_folder(cfg)
    cfg.DATASET.ROOT = cfg.DATASET.ROOT or os.environ.get("DATA_ROOT") or "data"
    if cfg.SEED > MAX_SEED:
        raise ConfigError(f"--seed {cfg.SEED} is outside 0 .. {MAX_SEED}")
    if cfg.SEED < 0:
        cfg.SEED = secrets.randbelow(MAX_SEED + 1)
    cfg = follow_shots(cfg)
    cfg.freeze()
    return cfg


def _output_folder(cfg: Any) -> str:
    if not cfg.OUTPUT_DIR:
        raise ConfigError("--resume needs the folder of the run: give --output-dir, or --resume DIR")
    return cfg.OUTPUT_DIR


def check(args: argparse.Namespace, cfg: Any) -> None:
    """Look at what can be known to be wrong before anything is written.

    Raises:
        ConfigError: no data set, no or an unknown trainer, nothing to evaluate, a value out of range, or a backbone
            that cannot take the trainer's prompts.
    """
    from cpt_plugin import toolkit
    from cpt_plugin.cli.repository import load_trainers
    from cpt_plugin.cli.settings import check_backbone
    from cpt_plugin.toolkit.embedded.config import validate

    if not cfg.DATASET.NAME:
        raise ConfigError("no data set is named: give --dataset-config-file FILE, or DATASET.NAME NAME at the end")
    if not cfg.TRAINER.NAME:
        known = ", ".join(cls.__name__ for cls in load_trainers().PROMPT_LEARNERS.values())
        raise ConfigError(
            f"no trainer is named: give --trainer NAME, one of {known}, with DPC or parts as in MaPLeCPT, CoOpDPCLA"
        )
    try:
        trainer = toolkit.TRAINER_REGISTRY.get(cfg.TRAINER.NAME)
    except KeyError as error:
        raise ConfigError(f"--trainer {cfg.TRAINER.NAME}: {error}") from error
    if args.eval_only and not args.model_dir and getattr(trainer, "trainable", True):
        raise ConfigError(
            f"--eval-only needs the folder of a training of {cfg.TRAINER.NAME}: give --model-dir DIR and --load-epoch N"
        )
    if args.model_dir and not Path(args.model_dir).is_dir():
        raise ConfigError(f"--model-dir {args.model_dir}: there is no such folder")
    validate(cfg)
    trainer.__new__(trainer).check_cfg(cfg)
    check_backbone(cfg)


def run(args: argparse.Namespace, cfg: Any) -> None:
    """Train, or evaluate a trained model, as a configuration says."""
    from cpt_plugin import toolkit

    check(args, cfg)
    toolkit.set_random_seed(cfg.SEED)
    log = toolkit.setup_logger(cfg.OUTPUT_DIR)
    try:
        LOG.info(f"Toolkit: {toolkit.NAME}. Setting fixed seed: {cfg.SEED}")
        LOG.info(f"** Config **\n{cfg}\n** System info **\n{toolkit.collect_env_info()}\n")
        trainer = toolkit.build_trainer(cfg)
        trained = not (args.eval_only or args.no_train) and getattr(trainer, "trainable", True)
        tested = not (cfg.TEST.NO_TEST or args.no_train)
        contents = Contents.of_dataset(trainer.dm.dataset, cfg)
        contents.check(cfg.DATASET.NAME, cfg.DATASET.SUBSAMPLE_CLASSES, trained=trained, tested=tested)
        if args.eval_only:
            trainer.load_model(args.model_dir, epoch=args.load_epoch)
            trainer.test()
        elif not args.no_train:
            trainer.train()
    finally:
        if log is not None:
            log.close()


def main(args: argparse.Namespace) -> None:
    """Do what parsed arguments ask for.

    Raises:
        CPTError: the input is wrong, or the run failed in a way that was foreseen.
    """
    run(args, setup_cfg(args))


def cli(words: Sequence[str] | None = None) -> int:
    """The command; returns its exit status after a line on stderr (data: a screen) where it is not 0."""
    return attended(lambda: _cli(parser().parse_args(words)))


def _cli(args: argparse.Namespace) -> int:
    cfg = None
    try:
        cfg = setup_cfg(args)
        run(args, cfg)
    except CPTError as error:
        message = str(error) if isinstance(error, DataError) else " ".join(str(error).split())
        print(f"train.py: {message}", file=sys.stderr)
        return 2
    except PermissionError as error:
        print(f"train.py: {error.filename} cannot be read or written: permission denied", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        lacking = not_installed(error)
        if lacking is None:
            raise
        print(f"train.py: {lacking}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\ntrain.py: interrupted{'' if cfg is None or args.eval_only else _how_to_go_on(cfg)}", file=sys.stderr)
        return 130
    return 0


def _how_to_go_on(cfg: Any) -> str:
    folder = Path(cfg.OUTPUT_DIR)
    if any(folder.glob("resume/state-*")) or any(folder.glob("*/checkpoint")):
        return f"; to go on, give the same command with --resume {folder} --seed {cfg.SEED} among its options"
    return "; nothing was saved yet: the same command starts again"


if __name__ == "__main__":
    sys.exit(cli())
