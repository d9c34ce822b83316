"""The regularizers npt (our reconstruction) and dapt: parts, settings, prototypes, refusals."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from cpt_plugin.errors import ConfigError, FeatureError
from cpt_plugin.functional import inter_dispersion, intra_dispersion
from cpt_plugin.regularizers import FeatureBatch, build
from cpt_plugin.regularizers.dapt import DAPT
from cpt_plugin.regularizers.npt import NPT
from tests.functional import oracles

GENERATOR = torch.Generator().manual_seed(0)
TEXT, IMAGE, PROTOTYPES = (torch.randn(n, 6, generator=GENERATOR, dtype=torch.float64) for n in (5, 4, 5))
BATCH = FeatureBatch(text=TEXT, image=IMAGE, labels=torch.tensor([0, 4, 4, 2]))


def values(parts: dict[str, torch.Tensor]) -> dict[str, float]:
    return {name: part.item() for name, part in parts.items()}


def test_npt_is_a_global_etf_and_the_distance_to_the_own_text() -> None:
    text, image, labels = TEXT.tolist(), IMAGE.tolist(), BATCH.labels.tolist()
    distances = [oracles.convergence([v], text, [y]) for v, y in zip(image, labels, strict=True)]
    expected = {"lc": 0.25 * oracles.etf(text, [0] * 5, "pair_mean"), "mi": 2 * sum(distances) / 4}
    assert values(NPT(weight_lc=0.25, weight_mi=2).compute(BATCH)) == pytest.approx(expected, rel=1e-12)
    by_class = NPT(weight_lc=0, weight_mi=1, average="class").compute(BATCH)
    assert values(by_class) == pytest.approx({"mi": oracles.convergence(image, text, labels)}, rel=1e-12)


def test_npt_follows_the_number_of_classes_and_takes_text_of_each_image() -> None:
    npt = NPT(weight_mi=0)
    assert npt.compute(BATCH)["lc"] > 0
    fewer = FeatureBatch(TEXT[:3], IMAGE, BATCH.labels)
    assert npt.compute(fewer)["lc"].item() == pytest.approx(0.5 * oracles.etf(TEXT[:3], [0] * 3, "pair_mean"))
    repeated = FeatureBatch(TEXT.expand(4, -1, -1), IMAGE, BATCH.labels)
    torch.testing.assert_close(NPT().compute(repeated), NPT().compute(BATCH))


def test_dapt_is_the_two_weighted_losses() -> None:
    dapt = DAPT(beta_t=0.5, beta_v=10.0, temperature=3.0)
    assert dapt.needs_prototypes
    dapt.prepare_prototypes(PROTOTYPES)
    expected = {
        "inter": 0.5 * inter_dispersion(TEXT, 3.0).item(),
        "intra": 10 * intra_dispersion(IMAGE, PROTOTYPES, BATCH.labels).item(),
    }
    assert values(dapt.compute(BATCH)) == pytest.approx(expected, rel=1e-12)


def test_dapt_needs_prototypes_only_for_the_image_side() -> None:
    assert not DAPT(beta_v=0.0).needs_prototypes
    assert set(DAPT(beta_v=0.0).compute(BATCH)) == {"inter"}
    with pytest.raises(FeatureError, match=r"before DAPT\.prepare_prototypes"):
        DAPT().compute(BATCH)


def digest_of(prototypes: torch.Tensor) -> str:
    dapt = DAPT()
    assert dapt.digest() == ""
    dapt.prepare_prototypes(prototypes)
    assert f"{len(prototypes)} prototypes" in dapt.describe()[0]
    return dapt.digest()


def test_the_digest_tells_prototypes_apart_but_not_their_rounding_noise() -> None:
    """Noise of float32 on 50 x 512 entries, against one image out of 16 replaced in each class."""
    generator = torch.Generator().manual_seed(2)
    shape = (50, 512)
    images = torch.nn.functional.normalize(torch.randn(shape, generator=generator, dtype=torch.float64) + 1, dim=1)
    plain = digest_of(images)
    for _ in range(20):
        assert digest_of(images + 1e-7 * torch.randn(shape, generator=generator) * images) == plain
    other = torch.nn.functional.normalize(torch.randn(shape, generator=generator, dtype=torch.float64) + 1, dim=1)
    assert len({plain, digest_of(images + (other - images) / 16), digest_of(images[:49]), digest_of(images / 2)}) == 4


def test_prototypes_of_other_classes_than_the_text_s_are_refused() -> None:
    dapt = DAPT()
    dapt.prepare_prototypes(PROTOTYPES)
    with pytest.raises(FeatureError, match=r"5 prototypes, text \(3, 6\) has 3 classes"):
        dapt.compute(FeatureBatch(TEXT[:3], IMAGE, torch.zeros(4, dtype=torch.long)))


def test_prototypes_are_copied_and_checked() -> None:
    given, dapt = PROTOTYPES.clone(), DAPT()
    dapt.prepare_prototypes(given)
    before = values(dapt.compute(BATCH))
    given.zero_()
    assert values(dapt.compute(BATCH)) == before
    with pytest.raises(FeatureError, match="finite"):
        dapt.prepare_prototypes(torch.full((2, 3), float("nan")))
    with pytest.raises(FeatureError, match="must have shape"):
        dapt.prepare_prototypes(torch.ones(3))


@pytest.mark.parametrize(
    ("cls", "settings", "message"),
    [
        (NPT, {"weight_lc": -1.0}, "NPT.WEIGHT_LC must be a finite number >= 0, got -1.0"),
        (NPT, {"weight_mi": float("nan")}, "NPT.WEIGHT_MI must be a finite number"),
        (NPT, {"average": "batch"}, "NPT.AVERAGE must be class or sample, got 'batch'"),
        (DAPT, {"beta_t": -0.1}, "DAPT.BETA_T must be a finite number >= 0"),
        (DAPT, {"beta_v": float("inf")}, "DAPT.BETA_V must be a finite number"),
        (DAPT, {"temperature": 0.0}, "DAPT.TEMPERATURE must be a finite number > 0"),
    ],
)
def test_wrong_settings_are_refused(cls: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        cls(**settings)


def test_all_weights_zero_is_inactive_and_both_say_what_they_are() -> None:
    assert not NPT(weight_lc=0.0, weight_mi=0.0).active
    assert not DAPT(beta_t=0.0, beta_v=0.0).active
    npt, dapt = build(["npt", "dapt"], {"NPT": {"WEIGHT_LC": 0.1}, "DAPT": {}})[::-1]
    assert npt.active
    assert dapt.active
    assert "our reconstruction" in npt.describe()[0]
    assert "our reconstruction" in NPT.paper
    assert "our reconstruction" in NPT.description


@pytest.mark.parametrize("shape", [(5, 6), (4, 5, 6)])
def test_gradcheck_of_the_totals(shape: tuple[int, ...]) -> None:
    npt, dapt = NPT(weight_lc=0.7, weight_mi=0.3), DAPT(beta_t=0.7, beta_v=0.3)
    dapt.prepare_prototypes(PROTOTYPES)
    text = torch.randn(shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64, requires_grad=True)
    image = IMAGE.clone().requires_grad_()
    for regularizer in (npt, dapt):

        def loss(g: torch.Tensor, f: torch.Tensor, regularizer: Any = regularizer) -> torch.Tensor:
            return sum(regularizer.compute(FeatureBatch(g, f, BATCH.labels)).values())

        assert torch.autograd.gradcheck(loss, (text, image))


def test_a_single_class_has_nothing_to_separate() -> None:
    text = TEXT[:1].clone().requires_grad_()
    batch = FeatureBatch(text, IMAGE, torch.zeros(4, dtype=torch.long))
    parts = NPT().compute(batch) | DAPT(beta_v=0.0).compute(batch)
    assert values(parts)["lc"] == values(parts)["inter"] == 0.0
    sum(parts.values()).backward()
    assert text.grad.isfinite().all()
