"""Sizes of a CLIP model, which are known before its weights are loaded."""

from __future__ import annotations

from dataclasses import dataclass

from cpt_plugin.backbones import no_visual_prompts
from cpt_plugin.errors import ConfigError


@dataclass(frozen=True, eq=False, kw_only=True)
class ModelSizes:
    """What the images and the prompts must fit.

    Attributes:
        name: name it was asked for, e.g. "ViT-B/16" or "micro".
        input_resolution: height and width of input images in pixels.
        text_layers: number of text transformer blocks.
        vision_layers: number of vision transformer blocks, 0 for a ResNet.
        pixel_mean, pixel_std: normalization of the three channels that the model was trained with; None where its
            weights do not tell.
    """

    name: str
    input_resolution: int
    text_layers: int
    vision_layers: int
    pixel_mean: tuple[float, ...] | None = None
    pixel_std: tuple[float, ...] | None = None

    @property
    def is_vit(self) -> bool:
        """Whether the vision tower is a ViT, i.e. can take prompts."""
        return self.vision_layers > 0

    def check_depth(self, text: int = 1, vision: int = 0, keys: tuple[str, str] = ("", "")) -> None:
        """Refuse prompt depths (number of blocks that get their own prompts) that the towers do not have.

        Args:
            text: depth of the text prompts.
            vision: depth of the visual prompts; 0 for none.
            keys: configuration keys of the two depths, for messages.

        Raises:
            ConfigError: a depth outside 1 .. the number of blocks, or visual prompts for a ResNet.
        """
        if vision and not self.is_vit:
            raise ConfigError(no_visual_prompts(self.name))
        depths = [("text", text, self.text_layers, keys[0])]
        if self.is_vit and vision:
            depths.append(("vision", vision, self.vision_layers, keys[1]))
        for tower, depth, layers, key in depths:
            if not 1 <= depth <= layers:
                remedy = f": set {key} to at most {layers}" if key else ""
                raise ConfigError(
                    f"{tower} prompt depth {depth} is not within 1..{layers}, the blocks of {self.name}{remedy}"
                )
