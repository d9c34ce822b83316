"""Local simplex-ETF separation against loops, closed forms and invariances."""

from __future__ import annotations

from itertools import product
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from torch.utils._python_dispatch import TorchDispatchMode

from cpt_plugin.errors import ConfigError, FeatureError
from cpt_plugin.functional import ClusterBuckets, etf_separation
from tests.functional import oracles
from tests.functional.problems import LOSS_PROPERTY, problems
from tests.helpers.device_calls import DeviceCalls

FORMS = [(reduction, diagonal) for reduction in ("frobenius", "pair_mean") for diagonal in (False, True)]


def gradient(text: torch.Tensor, *args: object) -> torch.Tensor:
    leaf = text.clone().requires_grad_()
    etf_separation(leaf, *args).backward()
    return leaf.grad


def exact_simplexes() -> tuple[torch.Tensor, torch.Tensor]:
    """Clusters of 8, 11 and 1 classes, each a simplex in its own random orientation, classes shuffled."""
    rng = np.random.default_rng(3)
    blocks = [oracles.simplex(k, 16) @ np.linalg.qr(rng.normal(size=(16, 16)))[0] for k in (8, 11)]
    text = np.concatenate([*blocks, rng.normal(size=(1, 16))])
    shuffle = rng.permutation(20)
    return torch.tensor(text[shuffle]), torch.tensor(np.repeat([4, 0, 9], [8, 11, 1])[shuffle])


@given(problems())
@LOSS_PROPERTY
def test_equals_the_loop_in_float64(problem: dict[str, torch.Tensor]) -> None:
    text, assignment = problem["text"], problem["assignment"]
    for (reduction, diagonal), padded in product(FORMS, (False, True)):
        expected = oracles.etf(text.tolist(), assignment.tolist(), reduction, diagonal)
        value = etf_separation(text, ClusterBuckets.from_assignment(assignment, padded), reduction, diagonal)
        assert value.dtype == torch.float64
        assert value.item() == pytest.approx(expected, abs=1e-12)


@given(problems())
@LOSS_PROPERTY
def test_float32_stays_within_1e_5_relative(problem: dict[str, torch.Tensor]) -> None:
    text, assignment = problem["text"].float(), problem["assignment"]
    for reduction, diagonal in FORMS:
        expected = oracles.etf(text.tolist(), assignment.tolist(), reduction, diagonal)
        value = etf_separation(text, assignment, reduction, diagonal)
        assert value.dtype == torch.float32
        assert value.item() == pytest.approx(expected, rel=1e-5, abs=1e-5)


@given(problems())
@LOSS_PROPERTY
def test_unchanged_by_rotation_scaling_and_order_of_classes(problem: dict[str, torch.Tensor]) -> None:
    text, assignment, order = problem["text"], problem["assignment"], problem["classes"]
    for reduction, diagonal in FORMS:
        value = etf_separation(text, assignment, reduction, diagonal)
        lengths = torch.linspace(0.5, 20.0, len(text), dtype=text.dtype)[:, None]
        changed = (lengths * text @ problem["rotation"])[order]
        same = etf_separation(changed, assignment[order], reduction, diagonal)
        torch.testing.assert_close(same, value, rtol=1e-9, atol=1e-10)


@given(problems())
@LOSS_PROPERTY
def test_renaming_clusters_changes_nothing_and_duplicating_the_batch_neither(
    problem: dict[str, torch.Tensor],
) -> None:
    text, assignment = problem["text"], problem["assignment"]
    value = etf_separation(text, assignment)
    torch.testing.assert_close(etf_separation(text, 1000 - 7 * assignment), value, rtol=1e-12, atol=1e-12)
    batch = text.expand(3, *text.shape)
    torch.testing.assert_close(etf_separation(batch, assignment), value, rtol=1e-12, atol=1e-12)


@given(problems())
@LOSS_PROPERTY
def test_per_image_text_is_averaged_over_the_images(problem: dict[str, torch.Tensor]) -> None:
    text, assignment = problem["per_image"], problem["assignment"]
    for reduction, diagonal in FORMS:
        expected = np.mean([oracles.etf(t.tolist(), assignment.tolist(), reduction, diagonal) for t in text])
        assert etf_separation(text, assignment, reduction, diagonal).item() == pytest.approx(
            expected, abs=1e-12
        )


@given(problems())
@LOSS_PROPERTY
def test_the_diagonal_leaves_the_gradient_equal(problem: dict[str, torch.Tensor]) -> None:
    text, assignment = problem["text"], problem["assignment"]
    for reduction in ("frobenius", "pair_mean"):
        with_diagonal = gradient(text, assignment, reduction, True)
        torch.testing.assert_close(
            with_diagonal, gradient(text, assignment, reduction, False), rtol=0, atol=0
        )


def test_exact_simplexes_reach_zero_and_the_printed_form_19_thirds() -> None:
    text, assignment = exact_simplexes()
    assert abs(etf_separation(text, assignment).item()) <= 1e-10
    assert abs(etf_separation(text, assignment, "pair_mean").item()) <= 1e-10
    assert etf_separation(text, assignment, include_diagonal=True).item() == pytest.approx(19 / 3, abs=1e-10)
    diagonal = (1 / 7 + 1 / 10) / 2
    assert etf_separation(text, assignment, "pair_mean", True).item() == pytest.approx(diagonal, abs=1e-10)
    assert gradient(text, assignment).abs().max() <= 1e-10


def test_one_cluster_is_the_global_etf() -> None:
    text = torch.tensor(np.random.default_rng(0).normal(size=(9, 5)))
    unit = torch.nn.functional.normalize(text)
    gap = unit @ unit.T + (torch.ones(9, 9) - torch.eye(9)).double() / 8
    value = etf_separation(text, torch.full((9,), 3), include_diagonal=True)
    assert value.item() == pytest.approx(torch.linalg.matrix_norm(gap).item() ** 2, rel=1e-12)


@pytest.mark.parametrize(("classes", "width"), [(40, 8), (100, 3), (12, 11)])
def test_welch_bound_holds_and_gradient_descent_cannot_break_it(classes: int, width: int) -> None:
    """K unit vectors in d dimensions obey sum c_ij^2 >= K^2 / d over all pairs, hence a floor of the loss.

    With a = 1 / (K - 1) and s the sum of the vectors:
    sum_{i != j} (c_ij + a)^2 = sum c_ij^2 - K + 2a(||s||^2 - K) + a^2 K(K - 1)
    >= K^2/d - K - 2aK + aK, reached by a tight frame that sums to zero.
    """
    floor = classes**2 / width - classes - classes / (classes - 1)
    text = torch.tensor(np.random.default_rng(1).normal(size=(classes, width)), requires_grad=True)
    optimizer = torch.optim.Adam([text], lr=0.05)
    one_cluster = torch.zeros(classes, dtype=torch.long)
    for _ in range(300):
        optimizer.zero_grad()
        loss = etf_separation(text, one_cluster)
        assert loss.item() >= floor - 1e-9
        loss.backward()
        optimizer.step()
    assert loss.item() <= floor * 1.01 + 1e-3


def test_singletons_contribute_nothing_but_count_in_the_divisor() -> None:
    text = torch.tensor(np.random.default_rng(5).normal(size=(5, 4)), requires_grad=True)
    pair = etf_separation(text[:2], torch.tensor([0, 0]))
    whole = etf_separation(text, torch.tensor([0, 0, 1, 2, 3]))
    assert whole.item() == pytest.approx(pair.item() / 4, rel=1e-12)
    alone = etf_separation(text, torch.arange(5), include_diagonal=True)
    alone.backward()
    assert alone.item() == 0.0
    assert torch.equal(text.grad, torch.zeros_like(text))


def test_first_and_second_derivatives() -> None:
    rng = np.random.default_rng(2)
    assignment = torch.tensor([0, 1, 0, 2, 1, 0, 3, 3])
    for shape in ((8, 3), (2, 8, 3)):
        text = torch.tensor(rng.normal(size=shape), requires_grad=True)
        for form, padded in product(FORMS, (False, True)):
            buckets = ClusterBuckets.from_assignment(assignment, padded)

            def loss(t: torch.Tensor, b: ClusterBuckets = buckets, f: tuple[str, bool] = form) -> torch.Tensor:
                return etf_separation(t, b, *f)

            assert torch.autograd.gradcheck(loss, (text,))
            assert torch.autograd.gradgradcheck(loss, (text,))


def test_zero_and_duplicate_vectors_give_finite_values_and_gradients() -> None:
    text = torch.tensor([[0.0, 0.0], [0.0, 0.0], [1.0, 0.0], [1.0, 0.0]], requires_grad=True)
    value = etf_separation(text, torch.tensor([0, 0, 0, 0]))
    value.backward()
    assert value.item() == pytest.approx(10 * (1 / 3) ** 2 + 2 * (4 / 3) ** 2)
    assert torch.isfinite(text.grad).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32_even_under_autocast(dtype: torch.dtype) -> None:
    stored = torch.tensor(np.random.default_rng(4).normal(size=(30, 64))).to(dtype).requires_grad_()
    assignment = torch.arange(30) % 4
    expected = oracles.etf(stored.tolist(), assignment.tolist())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = etf_separation(stored, assignment)
    value.backward()
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(expected, rel=1e-5)
    assert stored.grad.dtype == dtype
    assert torch.isfinite(stored.grad).all()


def test_buckets_made_once_give_the_same_bits() -> None:
    text, assignment = exact_simplexes()
    buckets = ClusterBuckets.from_assignment(assignment)
    assert (buckets.num_clusters, buckets.num_classes) == (3, 20)
    assert buckets.blocks == ((1, 8), (1, 11))
    noisy = text + 0.1 * torch.randn(text.shape, generator=torch.Generator().manual_seed(0), dtype=text.dtype)
    assert torch.equal(etf_separation(noisy, buckets), etf_separation(noisy, assignment))
    assert torch.equal(etf_separation(noisy, buckets), etf_separation(noisy, assignment.int()))


def test_never_waits_for_the_device() -> None:
    """Tensors on the meta device have no values, so any read of a value by the host would raise."""
    text = torch.empty(20, 16, device="meta", requires_grad=True)
    buckets = ClusterBuckets.from_assignment(exact_simplexes()[1]).to(torch.device("meta"))
    loss = etf_separation(text, buckets, include_diagonal=True)
    loss.backward()
    assert loss.shape == ()
    assert text.grad.shape == (20, 16)


@pytest.mark.parametrize(("device", "pads"), [("cpu", False), ("meta", False), ("cuda", True)])
def test_clusters_are_padded_on_a_gpu_unless_told(device: str, pads: bool) -> None:
    order: Any = SimpleNamespace(device=torch.device(device))
    assert ClusterBuckets(order, ((1, 2),), 1, 2).pads == pads
    assert ClusterBuckets(order, ((1, 2),), 1, 2, padded=not pads).pads != pads


def test_padded_clusters_take_fewer_calls_and_bounded_memory() -> None:
    """Eight sizes about 16 are one group; one cluster of 300 among pairs is not padded onto them."""
    assignment = torch.arange(8).repeat_interleave(torch.arange(13, 21))
    text = torch.randn(len(assignment), 16, requires_grad=True)
    calls = {}
    for padded in (False, True):
        buckets = ClusterBuckets.from_assignment(assignment, padded)
        etf_separation(text, buckets).backward()
        with DeviceCalls() as counted:
            etf_separation(text, buckets).backward()
        calls[padded] = counted.total
    assert calls[True] < calls[False] / 2, calls
    skewed = ClusterBuckets.from_assignment(torch.cat([torch.zeros(300), 1 + torch.arange(400) // 2]).long(), True)
    pairs = sum(group.mask.numel() for group, _ in skewed.groups(torch.float32, "frobenius"))
    assert pairs <= 4 * (300**2 + 200 * 2**2)


class _Sizes(TorchDispatchMode):
    """Records the number of elements of every tensor that an operation returns."""

    def __init__(self) -> None:
        super().__init__()
        self.largest = 0
        self.products = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, tuple | list) else (result,):
            if isinstance(value, torch.Tensor):
                self.largest = max(self.largest, value.numel())
                if "bmm" in str(func):
                    self.products += value.numel()
        return result


def test_memory_for_21000_classes_is_linear_in_features_plus_squared_cluster_sizes() -> None:
    classes, clusters, width = 21_000, 1313, 64
    generator = torch.Generator().manual_seed(0)
    assignment = torch.cat(
        [torch.arange(clusters), torch.randint(clusters, (classes - clusters,), generator=generator)]
    )
    text = torch.randn(classes, width, generator=generator, requires_grad=True)
    with _Sizes() as sizes:
        etf_separation(text, assignment).backward()
    grams = int((torch.bincount(assignment) ** 2).sum())
    assert sizes.largest <= max(classes * width, grams)
    assert sizes.products <= grams + classes * (width + 1)
    assert torch.isfinite(text.grad).all()


@pytest.mark.parametrize(
    ("text", "assignment", "message"),
    [
        (torch.zeros(3), torch.zeros(3).long(), r"\(K, d\) or \(B, K, d\), got \(3,\)"),
        (torch.zeros(0, 3), torch.zeros(0).long(), r"\(0, 3\) is empty"),
        (torch.zeros(3, 2).long(), torch.zeros(3).long(), "floating-point"),
        ([[1.0, 2.0]], torch.zeros(1).long(), "must be a tensor"),
        (torch.zeros(3, 2), torch.zeros(4).long(), r"4 classes, text \(3, 2\) has 3"),
        (torch.zeros(3, 2), torch.zeros(3), "assignment must be integers, got torch.float32"),
        (torch.zeros(3, 2), torch.zeros(3, 1).long(), r"\(3, 1\)"),
        (torch.zeros(3, 2), torch.tensor([0, -1, 0]), "cluster id -1"),
        (torch.zeros(3, 2), [0, 0.5, 0], "assignment must be integers, got list of float64"),
    ],
)
def test_refuses_what_does_not_fit(text: torch.Tensor, assignment: torch.Tensor, message: str) -> None:
    with pytest.raises(FeatureError, match=message):
        etf_separation(text, assignment)


def test_refuses_an_unknown_reduction() -> None:
    with pytest.raises(ConfigError, match="'mean'; use one of frobenius, pair_mean"):
        etf_separation(torch.ones(2, 2), torch.zeros(2).long(), "mean")
