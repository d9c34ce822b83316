"""Shared validation of the tensors given to the loss functions."""

from __future__ import annotations

import torch
from torch import Tensor

from cpt_plugin.errors import FeatureError

_TEXT_SHAPES = "(K, d) or (B, K, d)"


def shape_of(value: Tensor) -> str:
    """Return the shape of a tensor as it is printed in error messages."""
    return str(tuple(value.shape))


def check_text(text: Tensor, name: str = "text") -> None:
    """Refuse anything but a non-empty floating-point tensor of shape (K, d) or (B, K, d)."""
    _check_features(name, text, (2, 3), _TEXT_SHAPES)


def check_class_rows(rows: Tensor, name: str) -> None:
    """Refuse anything but a non-empty floating-point tensor of shape (K, d)."""
    _check_features(name, rows, (2,), "(K, d)")


def check_image(image: Tensor, text: Tensor, name: str = "text") -> None:
    """Refuse image features that are not (B, d) with the d, device and (for (B, K, d)) the B of the text."""
    _check_features("image", image, (2,), "(B, d)")
    if image.shape[-1] != text.shape[-1]:
        raise FeatureError(
            f"image {shape_of(image)} and {name} {shape_of(text)} differ in the feature dimension; "
            "take both after the projection into the joint space"
        )
    if text.ndim == 3 and text.shape[0] != image.shape[0]:
        raise FeatureError(
            f"per-image text {shape_of(text)} needs one set of class features for each row of image "
            f"{shape_of(image)}"
        )
    check_same_device("image", image, name, text)


def check_frozen(frozen_text: Tensor, text: Tensor, name: str = "frozen_text") -> None:
    """Refuse features (frozen ones, or those of `name`) that are not (K, d) with the K, d and device of the text."""
    check_class_rows(frozen_text, name)
    if frozen_text.shape != text.shape[-2:]:
        raise FeatureError(
            f"{name} {shape_of(frozen_text)} does not match text {shape_of(text)}; "
            "encode the same classes in the same order with the same model"
        )
    check_same_device(name, frozen_text, "text", text)


def check_labels(labels: Tensor, num_classes: int) -> None:
    """Raise FeatureError naming a label outside 0..num_classes-1; waits for the labels' device."""
    outside = labels[(labels < 0) | (labels >= num_classes)]
    if outside.numel():
        raise FeatureError(
            f"label {int(outside[0])} is outside 0..{num_classes - 1} (K = {num_classes} text features); "
            "number the labels in the order of the class names"
        )


def check_label_tensor(labels: Tensor, image: Tensor) -> None:
    """Refuse labels that are not an integer tensor with one entry for each image, on the image's device."""
    if not isinstance(labels, Tensor):
        raise FeatureError(f"labels must be a tensor, got {type(labels).__name__}")
    if labels.dtype == torch.bool or labels.dtype.is_floating_point or labels.dtype.is_complex:
        raise FeatureError(f"labels must be integers, got {labels.dtype}")
    if labels.shape != image.shape[:1]:
        raise FeatureError(f"labels {shape_of(labels)} must have one entry a row of image {shape_of(image)}")
    check_same_device("labels", labels, "image", image)


def check_same_device(name: str, value: Tensor, other_name: str, other: Tensor) -> None:
    """Refuse two tensors that lie on different devices."""
    if value.device != other.device:
        raise FeatureError(f"{name} is on {value.device}, {other_name} on {other.device}; move them together")


def _check_features(name: str, value: Tensor, ndims: tuple[int, ...], shapes: str) -> None:
    if not isinstance(value, Tensor):
        raise FeatureError(f"{name} must be a tensor of shape {shapes}, got {type(value).__name__}")
    if not value.dtype.is_floating_point:
        raise FeatureError(f"{name} must hold floating-point features, got {value.dtype}")
    if value.ndim not in ndims:
        raise FeatureError(f"{name} must have shape {shapes}, got {shape_of(value)}")
    if value.numel() == 0:
        raise FeatureError(f"{name} {shape_of(value)} is empty; it must have shape {shapes} without a zero")
