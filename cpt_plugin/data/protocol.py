"""Which data sets the base-to-new protocol fits; standard library only."""

from __future__ import annotations

from collections.abc import Sequence

from cpt_plugin.data.manifest import manifest_names, manifest_of
from cpt_plugin.errors import ConfigError


def check_base_to_new(dataset: str, trainer: str, settings: Sequence[str]) -> None:
    """Refuse a data set that cannot be trained on base classes and tested on new ones.

    Args:
        dataset: name on the command line; one without a manifest fits.
        trainer: registered name of the method, for the command that does work.
        settings: its folders below ``configs/trainers``.

    Raises:
        ConfigError: on one line, with the ``train.py`` command to use instead.
    """
    if dataset not in manifest_names():
        return
    manifest = manifest_of(dataset)
    files = "".join(f"--config-file configs/trainers/{folder}/vit_b16.yaml " for folder in settings)
    command = (
        f"python train.py --trainer {trainer} {files}"
        f"--dataset-config-file configs/datasets/{dataset}.yaml"
    )
    if manifest.test_only:
        raise ConfigError(
            f"'{dataset}' has test images only, so nothing can be trained on it; evaluate what was trained on another "
            f"data set (such as imagenet): {command} --output-dir output/{dataset} --eval-only --model-dir FOLDER "
            "--load-epoch EPOCH"
        )
    if manifest.long_tailed:
        raise ConfigError(
            f"'{dataset}' has a long tail of its own over all classes, which base and new halves and TAU would cut; "
            f"train and test it whole: {command} --output-dir output/{dataset}"
        )
