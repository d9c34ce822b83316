"""What is known of the training of a trainer's prompts: from the data where they train, else from their checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cpt_plugin.config_identity import differences
from cpt_plugin.toolkit.embedded.selection import chooses_epoch


@dataclass(frozen=True)
class Trained:
    """Classes, images and choice of the prompts of a trainer; empty where nothing was trained or loaded.

    Attributes:
        class_names: names of the classes trained on, by label; empty where a loaded checkpoint does not say.
        class_counts: training images of each, after all sampling; None where a loaded checkpoint does not say.
        selection: which of the epochs is used, and on which images it was chosen.
        parts_without_gradient: parts of the regularizers that reached nothing that was trained.
        unknown: for a checkpoint without counts, why they are unknown and what to do.
    """

    class_names: tuple[str, ...] = ()
    class_counts: tuple[int, ...] | None = ()
    selection: str = ""
    parts_without_gradient: tuple[str, ...] = ()
    unknown: str = ""

    @classmethod
    def here(cls, trainer: Any) -> Trained:
        """Of prompts that a trainer trains itself, on its data."""
        dm = trainer.dm
        return cls(tuple(dm.dataset.classnames), tuple(dm.class_counts), selection_of(trainer.cfg, dm.dataset.val))

    @classmethod
    def of(cls, content: Mapping[str, Any], path: Path, trainer: Any) -> Trained:
        """Of prompts in a checkpoint.

        One of an earlier version has no counts; where its training images are those that the trainer has now (by the
        split hash), they are counted here.
        """
        names = tuple(content.get("class_names") or ())
        counts, unknown = content.get("class_counts"), ""
        if "class_counts" not in content and names and content.get("split_hash") == trainer.dm.split_hash:
            counts = trainer.dm.class_counts
        if counts is None:
            unknown = f"{path} does not say how many images of each class were trained on: {_why(content, trainer)}"
        parts = tuple(content.get("parts_without_gradient") or ())
        return cls(names, None if counts is None else tuple(counts), _chosen(content, path), parts, unknown)

    def header(self) -> dict[str, Any]:
        """The entries of a checkpoint from which :meth:`of` makes this again."""
        return {
            "class_names": list(self.class_names),
            "class_counts": None if self.class_counts is None else list(self.class_counts),
            "selection": self.selection,
        }


def selection_of(cfg: Any, validation: Any) -> str:
    """In words, the epoch that a training run uses in the end."""
    if not chooses_epoch(cfg):
        return "last epoch"
    return f"best of {cfg.OPTIM.MAX_EPOCH} epochs on {len(validation or ())} validation images"


def _chosen(content: Mapping[str, Any], path: Path) -> str:
    """In words, the epoch in a checkpoint; that of a best model as the training run chose it."""
    if path.name.startswith("model-best"):
        saved = content.get("selection") or ""
        return saved if saved.startswith("best") else "best epoch on validation images"
    epoch, last = content.get("epoch"), (content.get("config") or {}).get("OPTIM.MAX_EPOCH")
    if epoch is None:
        return ""
    return "last epoch" if epoch == last else f"epoch {epoch}" + ("" if last is None else f" of {last}")


def _why(content: Mapping[str, Any], trainer: Any) -> str:
    saved, config = content.get("config"), trainer.hashed_config()
    if not saved or not content.get("class_names"):
        return (
            "the released code does not keep that, nor did earlier versions on Dassl. Train the prompts anew, or "
            "evaluate them without it"
        )
    keys = [key for key in {**saved, **config} if key.startswith("DATASET.") or key == "SEED"]
    changed = differences(*({key: source[key] for key in keys if key in source} for source in (saved, config)))
    told = f"settings of the data (saved != here): {'; '.join(changed)}" if changed else "images or labels"
    return (
        "an earlier version wrote it, and the images here are not those that it was trained on, which would tell; they "
        f"differ in the {told}. Give those of the training run, or train again"
    )
