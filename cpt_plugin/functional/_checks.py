"""Shared validation of the tensors given to the loss functions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cpt_plugin.errors import FeatureError

Labels = Tensor | np.ndarray | Sequence[int]
"""Whole numbers: a tensor of any integer type, an array, a list."""
Numbers = Tensor | np.ndarray | Sequence[float]
"""A number of each class: a tensor, an array, a list."""
_LEAST, _MOST = torch.iinfo(torch.int64).min, torch.iinfo(torch.int64).max
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


def class_indices(labels: Any, rows: Tensor, name: str, num_classes: int) -> tuple[Tensor, Tensor]:
    """Labels as (B,) int64 indices in range on the device of `rows`, and a factor of the loss: 1, or NaN.

    Labels on the CPU are checked here and moved if need be. On another device a check would wait for it; there a label
    out of range is forced into range and the factor is NaN, so that the process survives and the loss tells.

    Args:
        labels: B whole numbers, see :func:`integers`.
        rows: B rows, one for each label; `name` is what messages call them.
        num_classes: K; labels are in 0 .. K-1.

    Raises:
        FeatureError: the labels are no whole numbers, not one for each row, on another accelerator than the rows, or,
            on the CPU, out of range.
    """
    index = integers(labels, "labels")
    if index.shape != rows.shape[:1]:
        raise FeatureError(f"labels {shape_of(index)} must have one entry a row of {name} {shape_of(rows)}")
    if index.device.type == "cpu":
        check_labels(index, num_classes)
        index = index.to(rows.device)
    check_same_device("labels", index, name, rows)
    clamped = index.clamp(0, num_classes - 1)
    return clamped, torch.where((clamped != index).any(), float("nan"), 1.0)


def integers(values: Any, name: str) -> Tensor:
    """Whole numbers as an int64 tensor: a tensor where it lies, anything that NumPy reads as an array on the CPU.

    Raises:
        FeatureError: they are something else: truth values, floating-point numbers, text, rows of unlike length; or
            one does not fit into an int64.
    """
    if isinstance(values, Tensor):
        if values.dtype == torch.bool or values.dtype.is_floating_point or values.dtype.is_complex:
            raise FeatureError(f"{name} must be integers, got {values.dtype}")
        index = values.long()
        if values.dtype == torch.uint64 and (wrapped := index[index < 0]).numel():
            raise _no_int64(name, int(wrapped[0]) + 2**64)
        return index
    array = _array(values, name, "integers")
    if array.dtype == np.uint64 or array.dtype.kind in "fO":  # NumPy's types for integers beyond int64
        given = np.asarray(values, dtype=object).ravel().tolist()
        whole = [int(value) for value in given if isinstance(value, (int, np.integer)) and not isinstance(value, bool)]
        beyond = [value for value in whole if not _LEAST <= value <= _MOST]
        if beyond and len(whole) == len(given):
            raise _no_int64(name, beyond[0])
    if array.size and array.dtype.kind not in "iu":
        raise FeatureError(f"{name} must be integers, got {_kind(values, array)}")
    return torch.from_numpy(array.astype(np.int64))


def class_numbers(values: Any, name: str, above_zero: bool = False) -> Tensor:
    """A number >= 0 of each class as a float64 tensor (K,), on the device where it lies; plain numbers on the CPU.

    Raises:
        FeatureError: they are no non-empty row of numbers, or, on the CPU, one is not finite or too small.
    """
    if isinstance(values, Tensor):
        found, plain = values, not (values.dtype == torch.bool or values.dtype.is_complex)
        kind = str(values.dtype)
    else:
        array = _array(values, name, "numbers")
        plain, kind = array.dtype.kind in "iuf", _kind(values, array)
        found = torch.from_numpy(array.astype(np.float64)) if plain else torch.empty(array.shape)
    if not plain or found.ndim != 1 or not found.numel():
        raise FeatureError(f"{name} must be (K,), a number for each class, got {kind} {shape_of(found)}")
    numbers = found.detach().double()
    if numbers.device.type == "cpu":
        fine = numbers.isfinite() & ((numbers > 0) if above_zero else (numbers >= 0))
        if not fine.all():
            wrong = int(fine.int().argmin())
            bound = "> 0" if above_zero else ">= 0"
            raise FeatureError(f"{name} must be finite and {bound}, got {numbers[wrong]:g} for class {wrong}")
    return numbers


def of_each_class(values: Any, name: str, rows: Tensor, classes: int, above_zero: bool = False) -> Tensor:
    """:func:`class_numbers` of K classes on the device of `rows`, to which numbers on the CPU are moved.

    Raises:
        FeatureError: as there, or there are not K of them, or they are on another accelerator.
    """
    numbers = class_numbers(values, name, above_zero)
    if len(numbers) != classes:
        raise FeatureError(f"{name} {shape_of(numbers)} must have one entry for each of {classes} classes")
    if numbers.device.type == "cpu":
        return numbers.to(rows.device)
    check_same_device(name, numbers, "the features or logits", rows)
    return numbers


def check_labels(labels: Tensor, num_classes: int) -> None:
    """Raise FeatureError naming a label outside 0..num_classes-1; waits for the labels' device."""
    outside = labels[(labels < 0) | (labels >= num_classes)]
    if outside.numel():
        raise FeatureError(
            f"label {int(outside[0])} is outside 0..{num_classes - 1} (K = {num_classes} classes); "
            "number the labels in the order of the class names"
        )


def check_same_device(name: str, value: Tensor, other_name: str, other: Tensor) -> None:
    """Refuse two tensors that lie on different devices."""
    if value.device != other.device:
        raise FeatureError(f"{name} is on {value.device}, {other_name} on {other.device}; move them together")


def _array(values: Any, name: str, wanted: str) -> np.ndarray:
    try:
        return np.asarray(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise FeatureError(f"{name} must be {wanted}, got {type(values).__name__} ({error})") from error


def _no_int64(name: str, value: int) -> FeatureError:
    return FeatureError(f"{name} must be integers, got {value}, which is beyond int64")


def _kind(values: Any, array: np.ndarray) -> str:
    """What somebody gave, for a message: the type of an array, else also what Python calls it."""
    given = type(values).__name__
    return str(array.dtype) if isinstance(values, np.ndarray) else f"{given} of {array.dtype}"


def _check_features(name: str, value: Tensor, ndims: tuple[int, ...], shapes: str) -> None:
    if not isinstance(value, Tensor):
        raise FeatureError(f"{name} must be a tensor of shape {shapes}, got {type(value).__name__}")
    if not value.dtype.is_floating_point:
        raise FeatureError(f"{name} must hold floating-point features, got {value.dtype}")
    if value.ndim not in ndims:
        raise FeatureError(f"{name} must have shape {shapes}, got {shape_of(value)}")
    if value.numel() == 0:
        raise FeatureError(f"{name} {shape_of(value)} is empty; it must have shape {shapes} without a zero")
