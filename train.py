"""Train or evaluate one model; the command line of the CoOp family.

    python train.py --root data --seed 1 --trainer CoOpCPT --output-dir output/x \\
        --dataset-config-file configs/datasets/shapes.yaml --config-file configs/trainers/CoOp/micro.yaml \\
        DATASET.NUM_SHOTS 16 DATASET.SUBSAMPLE_CLASSES base DATASET.IMBALANCE_TAU 0.25

    python train.py ... --eval-only --model-dir output/x --load-epoch 20 DATASET.SUBSAMPLE_CLASSES new

It resumes only with ``--resume``. CPT_TOOLKIT=dassl|embedded picks the engine.
"""

from __future__ import annotations

import argparse
import logging
import re
import secrets
import sys
from typing import Any

from cpt_plugin.errors import CPTError

LOG = logging.getLogger("cpt_plugin")


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--root", default="", help="data folder")
    p.add_argument("--output-dir", default="", help="folder of log.txt, checkpoints and TensorBoard files")
    p.add_argument("--resume", nargs="?", const=".", default="", metavar="DIR",
                   help="continue an interrupted run from DIR (default: the output folder)")
    p.add_argument("--seed", type=int, default=-1, help="0 to 2^32-1; a negative one is drawn and logged")
    p.add_argument("--source-domains", nargs="+", help="source domains for domain adaptation or generalization")
    p.add_argument("--target-domains", nargs="+", help="target domains for domain adaptation or generalization")
    p.add_argument("--transforms", nargs="+", help="data augmentation methods")
    p.add_argument("--config-file", default="", help="yaml of the trainer")
    p.add_argument("--dataset-config-file", default="", help="yaml of the data set")
    p.add_argument("--trainer", default="", help="registered name, e.g. CoOp, MaPLeCPT, ZeroshotCLIP")
    p.add_argument("--backbone", default="", help="CLIP model: micro, ViT-B/16, ...")
    p.add_argument("--head", default="", help="accepted for compatibility; CLIP has no head")
    p.add_argument("--eval-only", action="store_true", help="evaluate --model-dir at --load-epoch")
    p.add_argument("--model-dir", default="", help="output folder of a training run")
    p.add_argument("--load-epoch", type=int, help="epoch to load (1-based)")
    p.add_argument("--no-train", action="store_true", help="build everything, train nothing")
    p.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="configuration overrides")
    return p


def setup_cfg(args: argparse.Namespace) -> Any:
    """Merge defaults, data set yaml, trainer yaml, arguments and overrides, in this order."""
    from cpt_plugin.cli.repository import default_cfg
    from cpt_plugin.toolkit.embedded.config import merge_file, merge_list

    cfg = default_cfg()
    for path in (args.dataset_config_file, args.config_file):
        if path:
            merge_file(cfg, path)
    resume, opts = args.resume, args.opts
    if len(opts) % 2 and re.fullmatch(r"[A-Z][A-Z0-9_]*(\.[A-Z0-9_]+)*", resume):
        resume, opts = ".", [resume, *opts]  # "--resume KEY VALUE": the parser took the key for the folder
    given = {
        "DATASET.ROOT": args.root,
        "OUTPUT_DIR": args.output_dir,
        "RESUME": args.output_dir if resume == "." else resume,
        "SEED": args.seed if args.seed >= 0 else secrets.randbelow(2**32),
        "DATASET.SOURCE_DOMAINS": args.source_domains,
        "DATASET.TARGET_DOMAINS": args.target_domains,
        "INPUT.TRANSFORMS": args.transforms,
        "TRAINER.NAME": args.trainer,
        "MODEL.BACKBONE.NAME": args.backbone,
        "MODEL.HEAD.NAME": args.head,
    }
    merge_list(cfg, [part for key, value in given.items() if value not in ("", None) for part in (key, value)])
    merge_list(cfg, opts)
    cfg.freeze()
    return cfg


def main(args: argparse.Namespace) -> None:
    from cpt_plugin import toolkit

    cfg = setup_cfg(args)
    toolkit.set_random_seed(cfg.SEED)
    log = toolkit.setup_logger(cfg.OUTPUT_DIR)
    try:
        LOG.info(f"Toolkit: {toolkit.NAME}. Setting fixed seed: {cfg.SEED}")
        LOG.info(f"** Config **\n{cfg}\n** System info **\n{toolkit.collect_env_info()}\n")
        trainer = toolkit.build_trainer(cfg)
        if args.eval_only:
            trainer.load_model(args.model_dir, epoch=args.load_epoch)
            trainer.test()
        elif not args.no_train:
            trainer.train()
    finally:
        if log is not None:
            log.close()


if __name__ == "__main__":
    try:
        main(parser().parse_args())
    except CPTError as error:
        sys.exit(f"train.py: {error}")
