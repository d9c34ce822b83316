"""Zero-shot accuracy and feature geometry of the micro CLIP on the drawn worlds."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import functional as F

from cpt_plugin.worlds import World
from datasets.shapes_world.class_sets import class_set
from datasets.shapes_world.draw import draw_world
from micro_clip.model import MicroClip, Tokenizer

TEMPLATE = "a photo of a {}."


@torch.no_grad()
def text_features(model: MicroClip, tokenizer: Tokenizer, names: Iterable[str]) -> Tensor:
    """Unit features (K, d) of class names in the template."""
    return F.normalize(model.encode_text(tokenizer([TEMPLATE.format(name) for name in names])), dim=1)


@torch.no_grad()
def image_features(model: MicroClip, images: Tensor) -> Tensor:
    """Unit features (n, d) of uint8 images."""
    return F.normalize(torch.cat([model.encode_image(part / 255) for part in images.split(256)]), dim=1)


def zero_shot(
    model: MicroClip, tokenizer: Tokenizer, world: World, purpose: str = "test", per_class: int = 40
) -> dict[str, float]:
    """Return macro accuracy in percent within the base and within the new half, and the mean cosines."""
    images, labels = draw_world(world, purpose, per_class)
    text = text_features(model, tokenizer, [spec.name for spec in class_set(world.class_set)])
    image = image_features(model, images)
    middle = (len(text) + 1) // 2
    result = {}
    for half, classes in {"base": slice(0, middle), "new": slice(middle, len(text))}.items():
        members = (labels >= (classes.start or 0)) & (labels < classes.stop)
        guesses = (image[members] @ text[classes].T).argmax(1) + classes.start
        result[half] = round(100 * (guesses == labels[members]).float().mean().item(), 1)
    cosines = text @ text.T
    different = ~torch.eye(len(text), dtype=torch.bool)
    result["text_text_cosine"] = round(cosines[different].mean().item(), 3)
    result["own_image_text_cosine"] = round((image * text[labels]).sum(1).mean().item(), 3)
    result["image_text_cosine"] = round((image @ text.T).mean().item(), 3)
    return result
