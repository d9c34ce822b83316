"""Drawing the images of a world's classes, reproducibly."""

from __future__ import annotations

import torch
from torch import Tensor

from cpt_plugin.worlds import World
from datasets.shapes_world.class_sets import ClassSpec, class_set
from datasets.shapes_world.domains import DOMAINS
from datasets.shapes_world.render import IMAGE_SIZE, Scene, render
from datasets.shapes_world.seeds import drawing_seed
from datasets.shapes_world.vocabulary import COLORS, SHAPES, STYLES, TEXTURES

_CHUNK = 512


def draw_world(world: World, purpose: str, per_class: int) -> tuple[Tensor, Tensor]:
    """Draw ``per_class`` images of every class of ``world`` from the seeds of ``purpose``.

    Returns:
        uint8 images (K * per_class, 3, 32, 32) and int64 labels, class after class in label order. The images
        are clean in style; attributes that a class leaves free are uniform.
    """
    classes = class_set(world.class_set)
    labels = torch.arange(len(classes)).repeat_interleave(per_class)
    images = []
    for chunk, part in enumerate(labels.split(_CHUNK)):
        generator = torch.Generator().manual_seed(drawing_seed(purpose, world.name, per_class, chunk))
        scene = _scene([classes[label] for label in part.tolist()], generator)
        drawn = render(scene, generator, DOMAINS[world.domain], IMAGE_SIZE)
        images.append((drawn * 255).round().to(torch.uint8))
    return torch.cat(images), labels


def _scene(specs: list[ClassSpec], generator: torch.Generator) -> Scene:
    def column(words: list[str | None], choices: tuple[str, ...]) -> Tensor:
        free = torch.randint(len(choices), (len(words),), generator=generator)
        fixed = torch.tensor([-1 if word is None else choices.index(word) for word in words])
        return torch.where(fixed < 0, free, fixed)

    return Scene(
        shape=column([spec.shape for spec in specs], SHAPES),
        texture=column([spec.texture for spec in specs], TEXTURES),
        color=column([spec.color for spec in specs], COLORS),
        style=torch.full((len(specs),), STYLES.index("clean")),
    )
