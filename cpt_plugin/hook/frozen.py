"""Where a hook's frozen features come from: given ones, the trainer's own, or those of the CLIP that it names."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from cpt_plugin._generators import generators_kept
from cpt_plugin._loader_workers import collate, worker_failures_named
from cpt_plugin.errors import ConfigError, HookError

if TYPE_CHECKING:
    from cpt_plugin.encoders import FrozenCLIP


class FrozenSources:
    """Frozen text features and image prototypes for one trainer and its K class names.

    encoders: the trainer's modules that give features, by kind, whose weights are compared to those of the CLIP that it
    names.

    Nothing is drawn from global random number generators and the trainer is not changed.
    """

    def __init__(self, trainer: Any, class_names: Sequence[str], encoders: Mapping[str, nn.Module]) -> None:
        self._trainer = trainer
        self._encoders = encoders
        self._class_names = class_names

    def text(self, given: Tensor | None, template: str) -> Tensor:
        """(K, d) text features: the given ones, else the trainer's, else those of the class names in a template.

        template: a sentence with ``{}``, "ensemble", or "" for the data set's own.

        Raises:
            ConfigError: a template beside given features, or an impossible one.
            HookError: the trainer's method takes no template, or the CLIP that it names is no use; there is not one
                row for each class name.
        """
        if given is not None and template:
            raise ConfigError(
                f"frozen_text and the template {template!r} were both given: encode the class names in that template "
                "yourself and leave template out, or leave frozen_text out."
            )
        if given is not None:
            features = given
        else:
            with generators_kept(), torch.no_grad():
                own = hasattr(self._trainer, "frozen_text_features")
                features = self._text_of_trainer(template) if own else self._text_of_class_names(template)
        self._check_rows("frozen_text", features)
        return features.detach()

    def prototypes(self, given: Tensor | None, width: int) -> Tensor:
        """(K, d) means over each class of the unit image features of the training images, as seen in evaluation.

        The given ones, else the trainer's ``frozen_image_prototypes()``, else computed with the CLIP that it names.

        Raises:
            HookError: neither way works, or the shape is not (K, ``width``).
            DataError: a class has no training image (named).
        """
        if given is not None:
            means = given
        else:
            with generators_kept(), torch.no_grad():
                own = getattr(self._trainer, "frozen_image_prototypes", None)
                means = self._means_of_images() if own is None else own()
        self._check_rows("prototypes", means)
        if means.shape[1] != width:
            raise HookError(
                f"The prototypes have {means.shape[1]} dimensions, the frozen text features {width}: give those of the "
                "same CLIP model."
            )
        return means.detach()

    def _text_of_trainer(self, template: str) -> Tensor:
        method = self._trainer.frozen_text_features
        if not template:
            return method()
        parameters = inspect.signature(method).parameters.values()
        if not any(p.name == "template" or p.kind is p.VAR_KEYWORD for p in parameters):
            raise HookError(
                f"{type(self._trainer).__name__}.frozen_text_features() takes no template, so {template!r} would be "
                "ignored: give the method a parameter `template`, or encode the class names yourself and give "
                "CPTHook(frozen_text=...) instead."
            )
        return method(template=template)

    @cached_property
    def _clip(self) -> FrozenCLIP:
        from cpt_plugin.hook.foreign_clip import foreign_clip

        return foreign_clip(self._trainer, self._encoders)

    def _text_of_class_names(self, template: str) -> Tensor:
        from cpt_plugin.encoders import class_text_features, dataset_template

        template = template or dataset_template(getattr(self._trainer, "cfg", None))
        return class_text_features(self._clip, self._class_names, template)

    def _means_of_images(self) -> Tensor:
        from cpt_plugin.encoders import class_means
        from cpt_plugin.hook.foreign_clip import check_same_weights

        loader = self._training_images()
        check_same_weights(self._clip, self._trainer, self._encoders, "image")
        dtype = torch.promote_types(torch.float32, self._clip.dtype)
        return class_means(self._encoded(loader), self._class_names).to(self._clip.device, dtype)

    def _encoded(self, loader: Any) -> Iterator[tuple[Tensor, Tensor]]:
        from cpt_plugin.encoders import ImageEncoder

        encoder = ImageEncoder(self._clip)
        with worker_failures_named(starting=loader.num_workers > 0):
            for batch in loader:
                yield encoder(batch["img"].to(self._clip.device, self._clip.dtype)), batch["label"]

    def _training_images(self) -> Any:
        """The training images in the view of evaluation: the test loader's data set over the training items."""
        dm = getattr(self._trainer, "dm", None)
        items = getattr(getattr(dm, "dataset", None), "train_x", None)
        test: Any = getattr(dm, "test_loader", None)
        if not items or not hasattr(getattr(test, "dataset", None), "data_source"):
            raise HookError(
                f"{type(self._trainer).__name__} has no dm.dataset.train_x and dm.test_loader in Dassl's manner, from "
                "which image prototypes could be made: give CPTHook(prototypes=...), the (K, d) class means of unit "
                "image features of frozen CLIP, or add a method frozen_image_prototypes() to the trainer."
            )
        view = copy.copy(test.dataset)
        view.data_source = items
        return torch.utils.data.DataLoader(
            view, batch_size=test.batch_size or 32, num_workers=test.num_workers, collate_fn=collate
        )

    def _check_rows(self, what: str, features: Tensor) -> None:
        if features.dim() != 2 or len(features) != len(self._class_names):
            raise HookError(
                f"{what} has shape {tuple(features.shape)} for {len(self._class_names)} class names: give one row of "
                "features for each class name, (K, d)."
            )
