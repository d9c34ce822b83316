"""Captions for pre-training: templates, attributes mentioned at random, some wrong words."""

from __future__ import annotations

import random
from dataclasses import dataclass

from datasets.shapes_world.vocabulary import COLORS, GENERIC_NOUNS, SHAPES, STYLES, TEXTURES

TEMPLATES: tuple[str, ...] = (
    "a photo of a {}.",
    "a photo of a {}.",
    "a photo of a {}.",
    "a {}.",
    "a picture of a {}.",
    "an image of a {}.",
    "there is a {}.",
    "a photo of one {}.",
    "a photo of the {}.",
    "{}.",
    "itap of a {}.",
    "a bad photo of the {}.",
    "a origami {}.",
    "a photo of the large {}.",
    "a photo of the small {}.",
    "a {} in a video game.",
    "art of the {}.",
    "a drawing of the {}.",
    "a {}, a type of shape.",
)
STYLE_TEMPLATES: tuple[str, ...] = (
    "a {style} photo of a {}.",
    "a {style} picture of a {}.",
    "a {} in a {style} photo.",
    "a {style} image of a {}.",
)
FILLER = "x"
"""Placeholder word of learned contexts; leads some captions so that late positions are trained."""
UNMENTIONED = -1


@dataclass(frozen=True)
class Caption:
    """A caption and what it says of shape, texture, color and style (index, or -1 when it says nothing)."""

    text: str
    claims: tuple[int, int, int, int]


@dataclass(frozen=True)
class CaptionWriter:
    """Writes captions for attribute indices (shape, texture, color, style).

    Each word is wrong with probability ``wrong``; ``lead`` puts that many filler words in front.
    """

    wrong: float = 0.05
    mention_shape: float = 0.9
    mention_texture: float = 0.7
    mention_color: float = 0.7
    mention_style: float = 0.4

    def write(self, attributes: tuple[int, int, int, int], dice: random.Random, lead: int = 0) -> Caption:
        """Return one random caption of an image that shows ``attributes``."""
        vocabularies = (SHAPES, TEXTURES, COLORS)
        chances = (self.mention_shape, self.mention_texture, self.mention_color)
        claims = [
            self._claim(value, len(words), chance, dice)
            for value, words, chance in zip(attributes[:3], vocabularies, chances, strict=True)
        ]
        if claims == [UNMENTIONED] * 3:
            claims[0] = attributes[0]
        shape, texture, color = claims
        words = [COLORS[color]] if color >= 0 else []
        words += [TEXTURES[texture]] if texture >= 0 else []
        words.append(SHAPES[shape] if shape >= 0 else dice.choice(GENERIC_NOUNS))
        style = attributes[3] if dice.random() < self.mention_style else UNMENTIONED
        if style >= 0:
            text = dice.choice(STYLE_TEMPLATES).format(" ".join(words), style=STYLES[style])
        else:
            text = dice.choice(TEMPLATES).format(" ".join(words))
        return Caption(" ".join([*[FILLER] * lead, text]), (shape, texture, color, style))

    def _claim(self, value: int, choices: int, chance: float, dice: random.Random) -> int:
        if dice.random() >= chance:
            return UNMENTIONED
        return dice.randrange(choices) if dice.random() < self.wrong else value


def caption_words() -> tuple[str, ...]:
    """Return every word and mark that a caption can hold, each once, in alphabetical order."""
    texts = [template.format("", style="") for template in TEMPLATES + STYLE_TEMPLATES]
    words = {word for text in texts for word in text.replace(",", " , ").replace(".", " . ").split()}
    return tuple(sorted(words | {FILLER, *SHAPES, *TEXTURES, *COLORS, *STYLES, *GENERIC_NOUNS}))
