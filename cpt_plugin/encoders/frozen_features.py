"""Features of a frozen CLIP without learned prompts: of class names in a template, and class means of images."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from cpt_plugin._names import some
from cpt_plugin.encoders.frozen import FrozenCLIP
from cpt_plugin.encoders.templates import ENSEMBLE, fill_template
from cpt_plugin.encoders.text import TextEncoder
from cpt_plugin.encoders.tokens import check_sentence, tokenize
from cpt_plugin.errors import DataError
from cpt_plugin.functional._checks import integers
from cpt_plugin.functional._normalize import unit, working_dtype


@torch.no_grad()
def class_text_features(clip: FrozenCLIP, class_names: Sequence[str], template: str) -> Tensor:
    """(K, d) un-normalised features of the class names in a template, in float32 or wider.

    Args:
        clip: the frozen model.
        class_names: K names; `_` is read as a space.
        template: a sentence with `{}`, or `ensemble` for the mean of the unit features over CLIP's seven templates.

    Raises:
        ConfigError: the template does not hold `{}` once, or a text is too long.
    """
    encoder = TextEncoder(clip)
    texts = [fill_template(sentence, class_names) for sentence in _sentences(template)]
    encoded = [encoder.encode_ids(tokenize(filled, clip)) for filled in texts]
    features = [f.to(working_dtype(f)) for f in encoded]
    return torch.stack([unit(f, f.dtype) for f in features]).mean(0) if len(features) > 1 else features[0]


def check_class_texts(class_names: Sequence[str], template: str) -> None:
    """Refuse class names of which :func:`class_text_features` cannot make texts, whatever the model.

    Raises:
        ConfigError: as there; empty names.
    """
    for sentence in _sentences(template):
        check_sentence(sentence, class_names)


def _sentences(template: str) -> Sequence[str]:
    return ENSEMBLE if template == "ensemble" else (template,)


def class_means(batches: Iterable[tuple[Tensor, Tensor]], class_names: Sequence[str]) -> Tensor:
    """(K, d) float64 means over each class of unit features, not scaled to length 1 again.

    Args:
        batches: pairs of (n, d) features of any length and their (n,) labels, whole numbers of any integer type.
        class_names: K names in the order of the labels.

    Raises:
        DataError: a class has no image (named), or a label is not within 0 .. K-1.
        FeatureError: the labels of a batch are no whole numbers.
    """
    classes = len(class_names)
    sums, counts = torch.zeros(()), torch.zeros(classes)
    for features, labels in batches:
        labels = integers(labels, "labels").cpu()
        if labels.min() < 0 or labels.max() >= classes:
            wrong = int(labels.min() if labels.min() < 0 else labels.max())
            raise DataError(
                f"a training image has label {wrong}, but there are {classes} class names: a class without training "
                "images shifts the names of those behind it; give every class one"
            )
        if not sums.ndim:
            sums = torch.zeros(classes, features.shape[-1], dtype=torch.float64)
        sums.index_add_(0, labels, unit(features, torch.float64).cpu())
        counts += torch.bincount(labels, minlength=classes)
    if not counts.all():
        empty = [name for name, count in zip(class_names, counts.tolist(), strict=True) if not count]
        raise DataError(f"no prototype for classes without training images: {some(empty)}; give each at least one")
    return sums / counts[:, None]
