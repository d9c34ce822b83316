"""Domains: named sets of render parameters."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Domain:
    """Render parameters; the defaults are those of pre-training.

    Lengths are in units of half the image side, angles in radians, colors in [0, 1].
    """

    scale: tuple[float, float] = (0.55, 0.85)
    """Smallest and largest radius of the object."""
    rotation: float = 0.35
    """Largest absolute rotation."""
    stretch: float = 0.12
    """Largest relative stretch along each axis of the object."""
    warp: float = 0.0
    """Amplitude of a sinusoidal deformation, in object units."""
    outline: float = 0.0
    """Width of the rim that is kept when the inside is hollowed, in object units (0: solid)."""
    hollow: float = 0.0
    """How far the inside is replaced by background (0: not, 1: wholly)."""
    frequency: float = 1.0
    """Spatial frequency of textures, relative."""
    hue_shift: float = 0.0
    color_jitter: float = 1.0
    saturation: float = 1.0
    brightness: float = 1.0
    clutter: int = 2
    """Number of distracting blobs behind the object."""
    blur: int = 0
    """How often a 5 x 5 binomial blur is applied."""
    contrast: float = 1.0
    gray: float = 0.0
    """Share of the gray image mixed in."""
    tint: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """Factor for red, green and blue."""
    noise: float = 0.0
    """Standard deviation of pixel noise, added to the usual 0.03."""


DOMAINS: dict[str, Domain] = {
    "clean": Domain(),
    "shift": Domain(
        hue_shift=0.03, saturation=0.75, blur=1, noise=0.05, frequency=1.25, contrast=0.75, clutter=4
    ),
    "lowfi": Domain(blur=1, noise=0.05, contrast=0.7, clutter=4, scale=(0.5, 0.7)),
    "warp": Domain(warp=0.10, frequency=0.8, rotation=0.9, noise=0.03, clutter=4),
    "outline": Domain(outline=0.3, hollow=0.6, noise=0.03),
    "tint": Domain(tint=(1.0, 0.75, 0.55), gray=0.35, noise=0.04, clutter=3),
    "rot": Domain(rotation=1.6, stretch=0.25, clutter=4),
    "dim": Domain(contrast=0.5, tint=(0.7, 0.7, 0.8), noise=0.04, clutter=3),
    "crowd": Domain(scale=(0.40, 0.55), clutter=9, noise=0.02),
}
