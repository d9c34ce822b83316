"""Labels, cluster ids and counts of every kind that means whole numbers give one value in every loss; others do not."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from cpt_plugin import CPTLoss
from cpt_plugin.encoders.frozen_features import class_means
from cpt_plugin.errors import FeatureError, HookError
from cpt_plugin.functional import (
    balanced_softmax,
    class_balanced,
    class_convergence,
    class_weights,
    etf_separation,
    focal,
    gaussian_anchoring,
    intra_dispersion,
    ldam,
    logit_adjustment,
    pair_separation,
    posthoc_adjustment,
    weighted_rotation,
)
from cpt_plugin.functional.long_tail_losses import effective_number_weights, ldam_margins, log_prior
from cpt_plugin.hook.labels import Labels
from cpt_plugin.hook.taps import Forward
from cpt_plugin.long_tail_losses import LogitBatch
from cpt_plugin.regularizers import FeatureBatch

LABELS, IDS, COUNTS = [4, 0, 4, 1, 2, 3], [1, 0, 1, 2, 0], [40, 0, 7, 1, 3]
_generator = torch.Generator().manual_seed(0)
IMAGE, TEXT, OTHER, LOGITS = (torch.randn(n, m, generator=_generator) for n, m in ((6, 3), (5, 3), (5, 3), (6, 5)))
COUNT = torch.tensor(COUNTS)

OF_LABELS: dict[str, Callable[..., torch.Tensor]] = {
    "class_convergence": lambda y, on="cpu": class_convergence(IMAGE.to(on), TEXT.to(on), y),
    "class_convergence of each image's text": lambda y, on="cpu": class_convergence(
        IMAGE.to(on), TEXT.expand(6, -1, -1).to(on), y, "sample"
    ),
    "intra_dispersion": lambda y, on="cpu": intra_dispersion(IMAGE.to(on), TEXT.to(on), y),
    "logit_adjustment": lambda y, on="cpu": logit_adjustment(LOGITS.to(on), y, COUNT),
    "balanced_softmax": lambda y, on="cpu": balanced_softmax(LOGITS.to(on), y, COUNT),
    "focal": lambda y, on="cpu": focal(LOGITS.to(on), y),
    "class_balanced": lambda y: class_balanced(LOGITS, y, COUNT),
    "ldam": lambda y: ldam(LOGITS, y, COUNT, scale=30.0),
    "ldam-drw": lambda y: ldam(LOGITS, y, COUNT, 0.5, 30.0, 0.99),
    "CPTLoss": lambda y: CPTLoss(OTHER, list("abcde"))(image=IMAGE, text=TEXT, labels=y)[0],
}
ON_ANY_DEVICE = [name for name, loss in OF_LABELS.items() if loss.__defaults__]
UNCHECKED_LENGTH: dict[str, Callable[[Any], torch.Tensor]] = {
    "FeatureBatch": lambda y: FeatureBatch(TEXT, IMAGE, y).labels,
    "LogitBatch": lambda y: LogitBatch(LOGITS, y, COUNT).labels,
}
OF_IDS: dict[str, Callable[[Any], torch.Tensor]] = {
    "etf_separation": lambda ids: etf_separation(TEXT, ids),
    "pair_separation": lambda ids: pair_separation(TEXT, ids),
}
OF_COUNTS: dict[str, Callable[[Any], torch.Tensor]] = {
    "logit_adjustment": lambda n: logit_adjustment(LOGITS, LABELS, n),
    "balanced_softmax": lambda n: balanced_softmax(LOGITS, LABELS, n),
    "posthoc_adjustment": lambda n: posthoc_adjustment(LOGITS, n),
    "class_balanced": lambda n: class_balanced(LOGITS, LABELS, n),
    "ldam": lambda n: ldam(LOGITS, LABELS, n),
    "class_weights": lambda n: class_weights(n, 0.5),
    "effective_number_weights": effective_number_weights,
    "ldam_margins": ldam_margins,
    "log_prior": log_prior,
    "pair_separation": lambda n: pair_separation(TEXT, IDS, weights=n),
    "weighted_rotation": lambda n: weighted_rotation(TEXT, OTHER, n),
}
INTEGERS = ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]


def kinds(numbers: list[int]) -> dict[str, Any]:
    """The numbers in every form that means whole numbers."""
    wide = np.array([numbers, numbers])
    read_only = np.array(numbers)
    read_only.flags.writeable = False
    return {
        **{f"torch.{name}": torch.tensor(numbers).to(getattr(torch, name)) for name in INTEGERS},
        **{f"numpy.{name}": np.array(numbers, name) for name in INTEGERS},
        "of another byte order": np.array(numbers, ">i4"),
        "a view with strides": wide.T[:, 1],
        "backwards": np.array(numbers[::-1])[::-1],
        "read-only": read_only,
        "list": list(numbers),
        "tuple": tuple(numbers),
        "array": array("h", numbers),
        "list of NumPy's": [np.int16(number) for number in numbers],
        "list of tensors": [torch.tensor(number) for number in numbers],
    }


WRONG_KINDS = {
    "bool": lambda numbers: torch.tensor(numbers) > 1,
    "list of bool": lambda numbers: [number > 1 for number in numbers],
    "float": lambda numbers: torch.tensor(numbers).float(),
    "NumPy's float": lambda numbers: np.array(numbers, float),
    "text": lambda numbers: [str(number) for number in numbers],
    "None": lambda numbers: None,
    "None within": lambda numbers: [*numbers[1:], None],
    "ragged": lambda numbers: [*numbers[1:], [1, 2]],
    "beyond every integer": lambda numbers: [*numbers[1:], 2**70],
}


@pytest.mark.parametrize("name", OF_LABELS | UNCHECKED_LENGTH)
def test_labels_of_any_integer_kind(name: str) -> None:
    loss = (OF_LABELS | UNCHECKED_LENGTH)[name]
    expected = loss(torch.tensor(LABELS))
    for kind, labels in kinds(LABELS).items():
        assert torch.equal(loss(labels), expected), kind


@pytest.mark.parametrize("name", OF_IDS)
def test_cluster_ids_of_any_integer_kind(name: str) -> None:
    expected = OF_IDS[name](torch.tensor(IDS))
    for kind, ids in kinds(IDS).items():
        assert torch.equal(OF_IDS[name](ids), expected), kind


@pytest.mark.parametrize("name", OF_COUNTS)
def test_counts_of_any_kind(name: str) -> None:
    expected = OF_COUNTS[name](COUNT)
    for kind, counts in (kinds(COUNTS) | {"float": COUNT.float(), "list of float": list(map(float, COUNTS))}).items():
        assert torch.equal(OF_COUNTS[name](counts), expected), kind


@pytest.mark.parametrize("kind", [kind for kind in WRONG_KINDS if kind != "None"])
@pytest.mark.parametrize("name", OF_LABELS | UNCHECKED_LENGTH)
def test_what_is_no_whole_number_is_no_label(name: str, kind: str) -> None:
    with pytest.raises(FeatureError, match="labels must be integers, got"):
        (OF_LABELS | UNCHECKED_LENGTH)[name](WRONG_KINDS[kind](LABELS))


@pytest.mark.parametrize("name", OF_LABELS)
@pytest.mark.parametrize("kind", [list, np.array, torch.tensor, lambda labels: torch.tensor(labels, dtype=torch.int8)])
def test_labels_out_of_range_or_of_another_number_are_named(name: str, kind: Callable[[list[int]], Any]) -> None:
    for wrong in (5, -1, -100):  # -100 is what torch's cross-entropy would leave out
        with pytest.raises(FeatureError, match=rf"label {wrong} is outside 0\.\.4 \(K = 5"):
            OF_LABELS[name](kind([wrong, *LABELS[1:]]))
    for labels in (LABELS[1:], [LABELS], []):
        with pytest.raises(FeatureError, match=r"labels \(.*\) must have one entry a row of (image|logits) \(6, .\)"):
            OF_LABELS[name](kind(labels) if labels else [])


@pytest.mark.parametrize("name", OF_LABELS)
@pytest.mark.parametrize("wrong", [2**64 - 1, 2**63])
def test_labels_of_more_than_63_bits_are_named_as_they_are(name: str, wrong: int) -> None:
    labels = np.array([*LABELS[:-1], wrong], dtype=np.uint64)
    for given in (labels, labels.tolist(), torch.tensor(labels.tolist(), dtype=torch.uint64)):
        with pytest.raises(FeatureError, match=f"labels must be integers, got {wrong}, which is beyond int64"):
            OF_LABELS[name](given)


@pytest.mark.parametrize("wrong", [2**64, 2**70, -(2**63) - 1])
def test_labels_beyond_any_integer_type_are_named_as_they_are(wrong: int) -> None:
    for labels in OF_LABELS.values():
        with pytest.raises(FeatureError, match=f"labels must be integers, got {wrong}, which is beyond int64"):
            labels([*LABELS[:-1], wrong])


@pytest.mark.parametrize("kind", WRONG_KINDS)
@pytest.mark.parametrize("name", OF_IDS)
def test_what_is_no_whole_number_is_no_cluster_id(name: str, kind: str) -> None:
    with pytest.raises(FeatureError, match="assignment must be integers, got"):
        OF_IDS[name](WRONG_KINDS[kind](IDS))


@pytest.mark.parametrize("name", OF_COUNTS)
def test_wrong_counts_are_named(name: str) -> None:
    for wrong, message in (
        ([-1, *COUNTS[1:]], r"must be finite and >= 0, got -1 for class 0"),
        ([*COUNTS[1:], float("nan")], r"must be finite and >= 0, got nan for class 4"),
        (COUNT > 1, r"must be \(K,\), a number for each class, got torch.bool \(5,\)"),
        (["1"] * 5, r"must be \(K,\), a number for each class, got list of <U1 \(5,\)"),
        ([COUNTS], r"must be \(K,\), a number for each class, got list of int64 \(1, 5\)"),
        ([], r"must be \(K,\), a number for each class, got list of float64 \(0,\)"),
    ):
        with pytest.raises(FeatureError, match=message):
            OF_COUNTS[name](wrong)


def test_radii_are_above_zero() -> None:
    expected = gaussian_anchoring(TEXT, OTHER, torch.ones(5))
    assert torch.equal(gaussian_anchoring(TEXT, OTHER, [1] * 5), expected)
    with pytest.raises(FeatureError, match="squared_radii must be finite and > 0, got 0 for class 4"):
        gaussian_anchoring(TEXT, OTHER, [1, 1, 1, 1, 0])


@pytest.mark.parametrize("name", ON_ANY_DEVICE)
def test_labels_and_counts_on_the_cpu_follow_the_features_to_their_device(name: str) -> None:
    assert OF_LABELS[name](LABELS, on="meta").device.type == "meta"
    with pytest.raises(FeatureError, match="label 9 is outside"):
        OF_LABELS[name]([9, *LABELS[1:]], on="meta")
    with pytest.raises(FeatureError, match=r"labels is on meta, (image|logits) on cpu"):
        OF_LABELS[name](torch.tensor(LABELS, device="meta"))


@pytest.mark.parametrize("name", sorted(OF_LABELS.keys() - {"CPTLoss"}))  # which checks its first batch everywhere
def test_on_an_accelerator_a_label_out_of_range_makes_the_loss_nan(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cpt_plugin.functional._checks.check_labels", lambda labels, num_classes: None)
    for wrong in (5, -1, -100):
        assert OF_LABELS[name]([wrong, *LABELS[1:]]).isnan()
    assert OF_LABELS[name](LABELS).isfinite()


def test_class_means_take_any_integers() -> None:
    expected = class_means([(IMAGE, torch.tensor(LABELS))], list("abcde"))
    for kind, labels in kinds(LABELS).items():
        assert torch.equal(class_means([(IMAGE, labels)], list("abcde")), expected), kind


def of_batch(labels: Any) -> torch.Tensor:
    """What a hook takes for the labels of a model that is given the images alone."""
    found, from_batch = Labels(torch.nn.Identity(), None)(Forward((IMAGE,), {}), [{"label": labels}], 6, again=False)
    assert from_batch
    return found


def test_the_hook_takes_any_integers_of_a_batch() -> None:
    for kind, labels in kinds(LABELS).items():
        assert torch.equal(of_batch(labels), torch.tensor(LABELS)), kind
    for kind in ("bool", "float", "text"):
        with pytest.raises(HookError, match=r'batch\["label"\] is of no use: labels must be integers'):
            of_batch(WRONG_KINDS[kind](LABELS))
