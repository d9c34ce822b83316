"""The embedded training engine: Dassl's public names and lifecycle without Dassl.

Importing it loads torch, numpy and yacs; torchvision, tqdm and TensorBoard are loaded when first used.
"""

from cpt_plugin.toolkit.embedded.base import TrainerBase
from cpt_plugin.toolkit.embedded.checkpoint import load_checkpoint
from cpt_plugin.toolkit.embedded.config import get_cfg_default
from cpt_plugin.toolkit.embedded.data import (
    DatasetBase,
    Datum,
    generate_fewshot_dataset,
    present_items,
    read_split,
    save_split,
)
from cpt_plugin.toolkit.embedded.evaluation import Classification, EvaluatorBase
from cpt_plugin.toolkit.embedded.loader import DataManager, build_data_loader
from cpt_plugin.toolkit.embedded.logs import collect_env_info, setup_logger
from cpt_plugin.toolkit.embedded.models import (
    compute_accuracy,
    count_num_param,
    count_num_params,
    load_pretrained_weights,
)
from cpt_plugin.toolkit.embedded.optim import build_lr_scheduler, build_optimizer
from cpt_plugin.toolkit.embedded.registry import (
    DATASET_REGISTRY,
    EVALUATOR_REGISTRY,
    TRAINER_REGISTRY,
    Registry,
    build_dataset,
    build_evaluator,
    build_trainer,
)
from cpt_plugin.toolkit.embedded.rng import set_random_seed
from cpt_plugin.toolkit.embedded.sampling import subsample_classes
from cpt_plugin.toolkit.embedded.trainer import SimpleTrainer, TrainerX
from cpt_plugin.toolkit.embedded.transforms import build_transform

__all__ = [
    "DATASET_REGISTRY",
    "EVALUATOR_REGISTRY",
    "TRAINER_REGISTRY",
    "Classification",
    "DataManager",
    "DatasetBase",
    "Datum",
    "EvaluatorBase",
    "Registry",
    "SimpleTrainer",
    "TrainerBase",
    "TrainerX",
    "build_data_loader",
    "build_dataset",
    "build_evaluator",
    "build_lr_scheduler",
    "build_optimizer",
    "build_trainer",
    "build_transform",
    "collect_env_info",
    "compute_accuracy",
    "count_num_param",
    "count_num_params",
    "generate_fewshot_dataset",
    "get_cfg_default",
    "load_checkpoint",
    "load_pretrained_weights",
    "present_items",
    "read_split",
    "save_split",
    "set_random_seed",
    "setup_logger",
    "subsample_classes",
]
