"""Batched renderer of the drawn world."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from datasets.shapes_world.domains import Domain
from datasets.shapes_world.geometry import SIGNED_DISTANCES
from datasets.shapes_world.vocabulary import COLOR_HSV, COLORS, SHAPES, STYLES, TEXTURES

IMAGE_SIZE = 32
_CLEAN = Domain()


@dataclass(frozen=True)
class Scene:
    """What to draw: indices into the vocabulary, each an int64 tensor of shape (B,)."""

    shape: Tensor
    texture: Tensor
    color: Tensor
    style: Tensor

    def __len__(self) -> int:
        return len(self.shape)


class _Dice:
    """Uniform and normal draws for a batch from one generator."""

    def __init__(self, batch: int, generator: torch.Generator) -> None:
        self.batch, self.generator = batch, generator

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(shape or (self.batch,), generator=self.generator)

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator)


def hsv_to_rgb(hsv: Tensor) -> Tensor:
    """Convert colors (B, 3) from hue (periodic in 1), saturation and value (clamped to [0, 1]) to RGB."""
    hue, saturation, value = hsv[:, 0], hsv[:, 1].clamp(0, 1), hsv[:, 2].clamp(0, 1)
    offsets = torch.tensor([0.0, 2 / 3, 1 / 3])
    distance = torch.remainder(hue[:, None] + offsets, 1.0).sub(0.5).abs().mul(6).sub(1).clamp(0, 1)
    return value[:, None] * (1 - saturation[:, None] * (1 - distance))


def render(
    scene: Scene, generator: torch.Generator, domain: Domain = _CLEAN, size: int = IMAGE_SIZE
) -> Tensor:
    """Draw a batch of scenes; returns RGB images in [0, 1], float32, shape (B, 3, size, size).

    Everything not named by ``scene`` (pose, background, clutter, jitter, noise) is drawn from ``generator``.
    """
    dice = _Dice(len(scene), generator)
    x, y, pixels_per_unit = _object_coordinates(dice, domain, size)
    mask = _object_mask(scene.shape, x, y, pixels_per_unit, domain)
    pattern = _texture(scene.texture, x, y, dice, domain)
    first, second = _object_colors(scene.color, dice, domain)
    background = _background(first, dice, domain, size)
    body = torch.lerp(first[:, :, None, None], second[:, :, None, None], pattern[:, None])
    image = _apply_styles(torch.lerp(background, body, mask[:, None]), scene.style, dice)
    return _apply_domain(image, dice, domain).clamp(0, 1)


def _grid(size: int) -> tuple[Tensor, Tensor]:
    axis = (torch.arange(size) + 0.5) / size * 2 - 1
    return axis.expand(1, size, size), -axis[:, None].expand(1, size, size)


def _column(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1)


def _object_coordinates(dice: _Dice, domain: Domain, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Pixel positions in the frame of each (moved, turned, stretched, warped) object."""
    page_x, page_y = _grid(size)
    scale = dice.uniform(*domain.scale)
    reach = (1 - scale) * 0.8
    dx = page_x - _column(dice.uniform(-1, 1) * reach)
    dy = page_y - _column(dice.uniform(-1, 1) * reach)
    angle = dice.uniform(-domain.rotation, domain.rotation)
    cos, sin = _column(angle.cos() / scale), _column(angle.sin() / scale)
    x = (cos * dx + sin * dy) * _column(dice.uniform(1 - domain.stretch, 1 + domain.stretch))
    y = (cos * dy - sin * dx) * _column(dice.uniform(1 - domain.stretch, 1 + domain.stretch))
    phase = _column(dice.uniform(0, 2 * math.pi))
    if domain.warp:
        x, y = x + domain.warp * torch.sin(3 * y + phase), y + domain.warp * torch.sin(3 * x + phase)
    return x, y, _column(scale * size / 2)


def _object_mask(shape: Tensor, x: Tensor, y: Tensor, pixels_per_unit: Tensor, domain: Domain) -> Tensor:
    """Coverage in [0, 1] of each pixel by its object, with soft edges."""
    distance = torch.empty_like(x)
    for index, name in enumerate(SHAPES):
        rows = (shape == index).nonzero().squeeze(1)
        if len(rows):
            distance[rows] = SIGNED_DISTANCES[name](x[rows], y[rows])
    mask = (0.5 - distance * pixels_per_unit).clamp(0, 1)
    if domain.outline:
        inside = (0.5 - (distance + domain.outline) * pixels_per_unit).clamp(0, 1)
        mask = mask - domain.hollow * inside
    return mask


def _texture(texture: Tensor, x: Tensor, y: Tensor, dice: _Dice, domain: Domain) -> Tensor:
    """Share in {0, 1} of the second tone, in object coordinates turned by a random angle."""
    wave = _column(dice.uniform(0.85, 1.15)) * domain.frequency * 2 * math.pi * 1.6
    phase, angle = _column(dice.uniform(0, 2 * math.pi)), _column(dice.uniform(0, math.pi))
    u = angle.cos() * x + angle.sin() * y
    v = angle.cos() * y - angle.sin() * x
    wave_u, wave_v = torch.sin(wave * u + phase), torch.sin(wave * v + phase)
    patterns = {
        "plain": torch.zeros_like(u),
        "split": u + 0.1 * phase.sin(),
        "checkered": wave_u * wave_v,
        "dotted": wave_u + wave_v - 0.9,
        "striped": wave_u,
        "spiral": torch.sin(1.2 * wave * torch.hypot(x, y) + torch.atan2(x, y) + phase),
    }
    stack = torch.stack([patterns[name] > 0 for name in TEXTURES])
    return stack[texture, torch.arange(len(texture))].float()


def _object_colors(color: Tensor, dice: _Dice, domain: Domain) -> tuple[Tensor, Tensor]:
    """The named tone and a second, darker or lighter one; both (B, 3)."""
    jitter = domain.color_jitter
    hsv = torch.tensor([COLOR_HSV[name] for name in COLORS])[color]
    hue = hsv[:, 0] + jitter * dice.uniform(-0.02, 0.02) + domain.hue_shift
    saturation = hsv[:, 1] * (1 + jitter * dice.uniform(-0.15, 0.05)) * domain.saturation
    value = hsv[:, 2] * (1 + jitter * dice.uniform(-0.12, 0.05)) * domain.brightness
    first = hsv_to_rgb(torch.stack([hue, saturation, value], 1))
    bright = (hsv[:, 2] > 0.55) & ((first.mean(1) > 0.55) | (dice.uniform(0, 1) < 0.4))
    return first, torch.where(bright[:, None], first * 0.3, first + (1 - first) * 0.7)


def _background(object_color: Tensor, dice: _Dice, domain: Domain, size: int) -> Tensor:
    """Gradients with distracting blobs; a base tone too near to the object's color is inverted."""
    base = hsv_to_rgb(torch.stack([dice.uniform(0, 1), dice.uniform(0, 0.45), dice.uniform(0.05, 0.95)], 1))
    too_near = (base - object_color).abs().mean(1, keepdim=True) < 0.18
    base = torch.where(too_near, 1 - base, base)
    other = (base + dice.uniform(-0.25, 0.25, dice.batch, 3)).clamp(0, 1)
    page_x, page_y = _grid(size)
    angle = _column(dice.uniform(0, 2 * math.pi))
    ramp = ((angle.cos() * page_x + angle.sin() * page_y) * 0.5 + 0.5).clamp(0, 1)
    image = torch.lerp(base[:, :, None, None], other[:, :, None, None], ramp[:, None])
    for blob in range(domain.clutter):
        dx = page_x - _column(dice.uniform(-1, 1))
        dy = page_y - _column(dice.uniform(-1, 1))
        distance = torch.hypot(dx, dy) if blob % 2 == 0 else torch.maximum(dx.abs(), dy.abs())
        inside = (distance < _column(dice.uniform(0.05, 0.22)))[:, None]
        tone = hsv_to_rgb(torch.stack([dice.uniform(0, 1), dice.uniform(0, 0.7), dice.uniform(0.1, 1)], 1))
        image = torch.where(inside, tone[:, :, None, None], image)
    return image


def _blur(image: Tensor, times: int) -> Tensor:
    weights = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16
    kernel = torch.outer(weights, weights).expand(3, 1, 5, 5)
    for _ in range(times):
        image = F.conv2d(F.pad(image, (2, 2, 2, 2), mode="replicate"), kernel, groups=3)
    return image


def _pixelate(image: Tensor) -> Tensor:
    coarse = F.avg_pool2d(image, 3, ceil_mode=True)
    return F.interpolate(coarse, scale_factor=3)[..., : image.shape[-2], : image.shape[-1]]


def _apply_styles(image: Tensor, style: Tensor, dice: _Dice) -> Tensor:
    effects: dict[str, Callable[[Tensor], Tensor]] = {
        "blurry": lambda part: _blur(part, 3),
        "noisy": lambda part: part + 0.16 * dice.normal(*part.shape),
        "dark": lambda part: part * 0.4,
        "faded": lambda part: part * 0.35 + 0.6,
        "pixelated": _pixelate,
    }
    for index, name in enumerate(STYLES):
        rows = (style == index).nonzero().squeeze(1)
        if name in effects and len(rows):
            image[rows] = effects[name](image[rows])
    return image


def _apply_domain(image: Tensor, dice: _Dice, domain: Domain) -> Tensor:
    image = _blur(image, domain.blur)
    image = torch.lerp(image, image.mean(1, keepdim=True), domain.gray)
    image = image * torch.tensor(domain.tint).view(3, 1, 1)
    image = (image - 0.5) * domain.contrast + 0.5
    return image + (0.03 + domain.noise) * dice.normal(*image.shape)
