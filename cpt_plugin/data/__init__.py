"""Data sets as files: what belongs to each, where it comes from, whether it is all there.

:mod:`manifest` and what only reads it need the standard library alone, so that a command can be checked before
anything is installed. What the files mean to a trainer is in the repository's ``datasets/``.
"""

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".ppm", ".tif", ".tiff", ".webp")
"""Endings, in small letters, of the names of files that are taken for images."""
HEIC_SUFFIXES = (".heic", ".heif")
"""Those of photographs that Pillow reads with the package ``pillow-heif`` only."""
