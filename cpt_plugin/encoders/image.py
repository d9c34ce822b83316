"""CLIP's vision tower with learned prompts (ViT) or without (ResNet)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from cpt_plugin.encoders._blocks import FrozenEncoder, feed_forward, project
from cpt_plugin.encoders.frozen import FrozenCLIP
from cpt_plugin.errors import ConfigError, FeatureError


@dataclass(frozen=True, eq=False)
class ImagePrompts:
    """Learned visual tokens.

    Attributes:
        shallow: (P, w), appended after the patch tokens (positional embedding added before) and
            normalized with them, unless `after_norm`.
        deep: (P, w) each; the i-th (from 0) replaces the visual tokens at the input of block i + 2
            (counting from 1) (MaPLe, CVPR 2023, section 3.2).
        after_norm: append the shallow tokens behind the first layer norm (VPT, ECCV 2022; DAPT, ICCV 2023).

    Raises:
        FeatureError: `shallow` is not a matrix with at least one row, or a deep prompt has another shape.
    """

    shallow: Tensor
    deep: tuple[Tensor, ...] = ()
    after_norm: bool = False

    def __post_init__(self) -> None:
        if self.shallow.ndim != 2 or self.shallow.shape[0] == 0:
            raise FeatureError(
                f"visual prompt has shape {tuple(self.shallow.shape)}; expected (tokens >= 1, width)"
            )
        for layer, prompt in enumerate(self.deep, start=2):
            if prompt.shape != self.shallow.shape:
                raise FeatureError(
                    f"deep visual prompt of layer {layer} has shape {tuple(prompt.shape)}; "
                    f"expected {tuple(self.shallow.shape)} as in the first layer"
                )


class ImageEncoder(FrozenEncoder):
    """Image features through CLIP's own frozen vision modules."""

    def __init__(self, clip: FrozenCLIP) -> None:
        super().__init__()
        self.visual = clip.model.visual
        self.dtype = clip.dtype
        self.resolution = clip.input_resolution
        self.width = clip.vision_width
        self.embed_dim = clip.embed_dim
        self.is_vit = clip.is_vit
        self.eval()

    def forward(self, image: Tensor, prompts: ImagePrompts | None = None) -> Tensor:
        """Un-normalized image features (B, d) of images (B, 3, H, W) in CLIP's normalization.

        Features (B, d) in the place of images, which this encoder gave before, are passed on as they are.

        Raises:
            FeatureError: images or prompts of the wrong shape.
            ConfigError: prompts for a ResNet, or deeper prompts than there are blocks.
        """
        if image.ndim == 2 and image.shape[1] == self.embed_dim and prompts is None:
            return image
        if image.ndim != 4 or tuple(image.shape[1:]) != (3, self.resolution, self.resolution):
            raise FeatureError(
                f"images have shape {tuple(image.shape)}; this model takes (batch, 3, {self.resolution}, "
                f"{self.resolution}), or without visual prompts features (batch, {self.embed_dim})"
            )
        if prompts is not None:
            self.check(prompts)
        image = image.to(self.dtype)
        return self._vit(image, prompts) if self.is_vit else self.visual(image)

    def check(self, prompts: ImagePrompts) -> None:
        """Refuse prompts that this tower cannot take.

        Raises:
            ConfigError: the tower is a ResNet, or has fewer blocks than prompts.
            FeatureError: the prompts have another width than the tower.
        """
        if not self.is_vit:
            raise ConfigError("visual prompts need a ViT; this model's vision tower is a ResNet")
        blocks = len(self.visual.transformer.resblocks)
        if len(prompts.deep) >= blocks:
            raise ConfigError(
                f"prompt depth {len(prompts.deep) + 1} exceeds the {blocks} blocks of the vision tower"
            )
        if prompts.shallow.shape[1] != self.width:
            raise FeatureError(
                f"visual prompts have width {prompts.shallow.shape[1]}; the vision tower's is {self.width}"
            )

    def _vit(self, image: Tensor, prompts: ImagePrompts | None) -> Tensor:
        x = self.visual.conv1(image).flatten(2).transpose(1, 2)
        first = self.visual.class_embedding.to(x.dtype).expand(len(x), 1, -1)
        x = torch.cat([first, x], dim=1) + self.visual.positional_embedding.to(x.dtype)
        shallow = () if prompts is None else (prompts.shallow.to(x.dtype).expand(len(x), -1, -1),)
        if prompts is not None and prompts.after_norm:
            x = torch.cat([self.visual.ln_pre(x), *shallow], dim=1)
        else:
            x = self.visual.ln_pre(torch.cat([x, *shallow], dim=1))
        deep = () if prompts is None else prompts.deep
        blocks = self.visual.transformer.resblocks
        for index, block in enumerate(blocks):
            if 1 <= index <= len(deep):
                prompt = deep[index - 1].to(x.dtype)
                x = torch.cat([x[:, : -len(prompt)], prompt.expand(len(x), -1, -1)], dim=1)
            x = _block(block, x, is_last=index == len(blocks) - 1)
        return self.visual.ln_post(x[:, 0]) @ self.visual.proj


def _block(block: Any, x: Tensor, is_last: bool) -> Tensor:
    """One residual attention block on (B, L, w); of the last one only the class row (B, 1, w), all that is read."""
    normed = block.ln_1(x)
    q, k, v = project(block, normed, normed[:, :1] if is_last else None)
    return feed_forward(block, x[:, :1] if is_last else x, F.scaled_dot_product_attention(q, k, v))
