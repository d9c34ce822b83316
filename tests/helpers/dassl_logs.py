"""Folders of logs as CoOp's and MaPLe's scripts leave them: the arguments, the configuration, what was tested."""

from __future__ import annotations

from pathlib import Path

STEP = "epoch [2/2] batch [5/5] time 0.6 (0.6) data 0.0 (0.0) loss 2.33 (2.30) acc 6.2 (6.2) lr 2.0000e-03 eta 0:00:03"


def result(accuracy: float) -> str:
    return f"=> result\n* total: 1,000\n* correct: {round(10 * accuracy)}\n* accuracy: {accuracy}%\n* error: 6.7%"


def head(output: str, trainer: str, dataset: str, classes: str, seed: int, shots: int = 16, model: str = "") -> str:
    """What ``train.py`` of the family prints first; ``model``: the folder of the prompts of an evaluation."""
    return f"""\
***************
** Arguments **
***************
backbone: {""}
config_file: configs/trainers/{trainer}/vit_b16.yaml
dataset_config_file: configs/datasets/{dataset}.yaml
eval_only: {bool(model)}
model_dir: {model}
opts: ['DATASET.NUM_SHOTS', '{shots}', 'DATASET.SUBSAMPLE_CLASSES', '{classes}']
output_dir: {output}
seed: {seed}
trainer: {trainer}
************
** Config **
************
DATALOADER:
  NUM_WORKERS: 8
  TEST:
    BATCH_SIZE: 100
DATASET:
  NAME: SomeName
  NUM_SHOTS: {shots}
  SOURCE_DOMAINS: ()
  SUBSAMPLE_CLASSES: {classes}
MODEL:
  BACKBONE:
    NAME: ViT-B/16
    PRETRAINED: True
  INIT_WEIGHTS: {""}
OUTPUT_DIR: {output}
SEED: {seed}
TRAINER:
  COOP:
    CTX_INIT: a photo of a
  NAME: {trainer}
USE_CUDA: True
Collecting env info ...
** System info **
PyTorch version: 1.9.0"""


def write(root: Path, output: str, *lines: str) -> None:
    (root / output).mkdir(parents=True)
    (root / output / "log.txt").write_text("\n".join(lines) + "\n")


def base_to_new(
    root: Path, trainer: str, dataset: str, seed: int, base: float | None, new: float | None, with_head: bool = True
) -> None:
    """A training on base classes and its evaluation on new ones, as ``base2new_train.sh`` and ``base2new_test.sh``."""
    below = f"{dataset}/shots_16/{trainer}/vit_b16/seed{seed}"
    trained, tested = f"output/base2new/train_base/{below}", f"output/base2new/test_new/{below}"
    if base is not None:
        own = [head(trained, trainer, dataset, "base", seed)] if with_head else []
        write(root, trained, *own, STEP, "Finish training", result(base), "Elapsed: 0:01:00")
    if new is not None:
        own = [head(tested, trainer, dataset, "new", seed, model=trained)] if with_head else []
        write(root, tested, *own, "Evaluate on the *test* set", result(new))
