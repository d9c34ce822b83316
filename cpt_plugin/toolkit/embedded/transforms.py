"""Image transforms by Dassl's names, made of torchvision's; torchvision is imported on first use."""

from __future__ import annotations

from typing import Any

import torch

from cpt_plugin.errors import ConfigError
from cpt_plugin.toolkit.compat import prepare_torchvision

CHOICES = (
    "random_flip",
    "random_resized_crop",
    "random_crop",
    "random_translation",
    "center_crop",
    "colorjitter",
    "randomgrayscale",
    "gaussian_blur",
    "cutout",
    "gaussian_noise",
    "normalize",
    "instance_norm",
)


def build_transform(cfg: Any, is_train: bool = True) -> Any:
    """Builds the transform of training (``INPUT.TRANSFORMS``) or test images: PIL image -> tensor (3, H, W).

    Test images are resized so that the smaller edge is max(``INPUT.SIZE``), cropped in the centre and
    normalised.

    Raises:
        ConfigError: an unknown name in ``INPUT.TRANSFORMS``.
    """
    unknown = [name for name in cfg.INPUT.TRANSFORMS if name not in CHOICES]
    if unknown:
        raise ConfigError(
            f"INPUT.TRANSFORMS has {unknown[0]!r}; the embedded engine offers {', '.join(CHOICES)}"
        )
    tv = _torchvision()
    steps = _train_image_steps(tv, cfg.INPUT) if is_train else _center_crop(tv, cfg.INPUT)
    steps.append(tv.ToTensor())
    return tv.Compose(steps + _tensor_steps(tv, cfg.INPUT, is_train))


def build_plain_transform(cfg: Any) -> Any:
    """Builds the transform without augmentation: resize to ``INPUT.SIZE``, tensor, normalise if chosen."""
    tv = _torchvision()
    steps = [_resize(tv, cfg.INPUT), tv.ToTensor()]
    if "normalize" in cfg.INPUT.TRANSFORMS:
        steps.append(tv.Normalize(cfg.INPUT.PIXEL_MEAN, cfg.INPUT.PIXEL_STD))
    return tv.Compose(steps)


def _torchvision() -> Any:
    prepare_torchvision()
    import torchvision.transforms

    return torchvision.transforms


def _interpolation(tv: Any, c: Any) -> Any:
    return tv.InterpolationMode(c.INTERPOLATION)


def _resize(tv: Any, c: Any) -> Any:
    return tv.Resize(list(c.SIZE), interpolation=_interpolation(tv, c))


def _center_crop(tv: Any, c: Any) -> list[Any]:
    return [tv.Resize(max(c.SIZE), interpolation=_interpolation(tv, c)), tv.CenterCrop(list(c.SIZE))]


def _train_image_steps(tv: Any, c: Any) -> list[Any]:
    chosen, size = set(c.TRANSFORMS), list(c.SIZE)
    steps: list[Any] = []
    if not chosen & {"random_crop", "random_resized_crop"}:
        steps += _center_crop(tv, c) if "center_crop" in chosen else [_resize(tv, c)]
    if "random_translation" in chosen:
        steps.append(RandomTranslation(size, _interpolation(tv, c)))
    if "random_crop" in chosen:
        steps.append(tv.RandomCrop(size, padding=c.CROP_PADDING))
    if "random_resized_crop" in chosen:
        steps.append(
            tv.RandomResizedCrop(size, scale=tuple(c.RRCROP_SCALE), interpolation=_interpolation(tv, c))
        )
    if "random_flip" in chosen:
        steps.append(tv.RandomHorizontalFlip())
    if "colorjitter" in chosen:
        steps.append(tv.ColorJitter(c.COLORJITTER_B, c.COLORJITTER_C, c.COLORJITTER_S, c.COLORJITTER_H))
    if "randomgrayscale" in chosen:
        steps.append(tv.RandomGrayscale(p=c.RGS_P))
    if "gaussian_blur" in chosen:
        steps.append(tv.RandomApply([tv.GaussianBlur(c.GB_K)], p=c.GB_P))
    return steps


def _tensor_steps(tv: Any, c: Any, is_train: bool) -> list[Any]:
    chosen = set(c.TRANSFORMS)
    steps: list[Any] = []
    if is_train and "cutout" in chosen:
        steps.append(Cutout(c.CUTOUT_N, c.CUTOUT_LEN))
    if "normalize" in chosen:
        steps.append(tv.Normalize(c.PIXEL_MEAN, c.PIXEL_STD))
    if is_train and "gaussian_noise" in chosen:
        steps.append(GaussianNoise(c.GN_MEAN, c.GN_STD))
    if "instance_norm" in chosen:
        steps.append(InstanceNormalization())
    return steps


class RandomTranslation:
    """With probability 1/2, enlarges by 1/8 and cuts a window of the target size at a random place."""

    def __init__(self, size: list[int], interpolation: Any) -> None:
        self._size, self._interpolation = size, interpolation

    def __call__(self, image: Any) -> Any:
        from torchvision.transforms import functional as F

        height, width = self._size
        if torch.rand(()) < 0.5:
            return F.resize(image, self._size, self._interpolation)
        tall, wide = round(height * 1.125), round(width * 1.125)
        top = int(torch.randint(tall - height + 1, ()))
        left = int(torch.randint(wide - width + 1, ()))
        return F.crop(F.resize(image, [tall, wide], self._interpolation), top, left, height, width)


class Cutout:
    """Sets ``holes`` squares of ``length`` pixels, centred anywhere and clipped at the border, to zero."""

    def __init__(self, holes: int = 1, length: int = 16) -> None:
        self._holes, self._length = holes, length

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        _, height, width = image.shape
        image = image.clone()
        for _ in range(self._holes):
            y, x = int(torch.randint(height, ())), int(torch.randint(width, ()))
            top, left = y - self._length // 2, x - self._length // 2
            image[:, max(top, 0) : max(top + self._length, 0), max(left, 0) : max(left + self._length, 0)] = 0
        return image


class GaussianNoise:
    """Adds N(``mean``, ``std``^2) noise with probability ``p``."""

    def __init__(self, mean: float = 0.0, std: float = 0.15, p: float = 0.5) -> None:
        self._mean, self._std, self._p = mean, std, p

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        if torch.rand(()) >= self._p:
            return image
        return image + self._mean + self._std * torch.randn(image.shape)


class InstanceNormalization:
    """Standardises each channel of an image by its own mean and (unbiased) standard deviation."""

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        mean = image.mean(dim=(1, 2), keepdim=True)
        return (image - mean) / (image.std(dim=(1, 2), keepdim=True) + 1e-8)
