"""CPTX: each option's terms from the formulas, the schedule on top of the balance, learned radii as a state."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

from cpt_plugin.errors import ConfigError, FeatureError, HookError
from cpt_plugin.hook import CPTHook
from cpt_plugin.methods import describe_parts
from cpt_plugin.regularizers import FeatureBatch, Regularizer, build
from cpt_plugin.regularizers.cptb import CPTB
from cpt_plugin.regularizers.cptx import CPTX
from tests.functional import oracles
from tests.functional.test_variants import separation
from tests.hook.toy_trainers import CLASSES, CoOpTrainer, MaPLeTrainer, flat_gradient, make_batch
from tests.regularizers.test_cpt import FROZEN, NAMES, batch

pytest.importorskip("faiss", reason="clusters need FAISS")

COUNTS = [max(1, 40 // (i + 1)) for i in range(19)] + [0]


def prepared(cls: type[Regularizer] = CPTX, **settings) -> Regularizer:
    regularizer = cls(cluster_size=5, **settings)
    regularizer.prepare(FROZEN, NAMES)
    if regularizer.needs_counts:
        regularizer.prepare_counts(torch.tensor(COUNTS))
    return regularizer


def values(regularizer: Regularizer, step: FeatureBatch | None = None) -> dict[str, float]:
    return {name: part.item() for name, part in regularizer.compute(step or batch()).items()}


def squares(step: FeatureBatch) -> list[float]:
    pairs = zip(step.text.tolist(), FROZEN.tolist(), strict=True)
    return [math.fsum((a - b) ** 2 for a, b in zip(oracles.unit(g), oracles.unit(h), strict=True)) for g, h in pairs]


def test_defaults_are_cptb() -> None:
    own, other = prepared(), prepared(CPTB)
    assert values(own) == values(other)
    assert own.gradient_fractions == other.gradient_fractions
    assert own.describe() == other.describe()
    assert own.digest() == other.digest()
    assert own.undeveloped(batch()) == other.undeveloped(batch())
    assert (own.needs_counts, own.needs_progress, own.strength(batch(progress=0.7))) == (False, False, 1.0)
    assert CPTX.defaults().items() >= CPTB.defaults().items()


@pytest.mark.parametrize("reduction", ["frobenius", "pair_mean"])
def test_class_weights_reach_separation_and_rotation_but_not_convergence(reduction: str) -> None:
    regularizer, step = prepared(class_power=0.5, etf_reduction=reduction), batch()
    raw = [max(n, 1) ** -0.5 for n in COUNTS]
    v = [20 * r / math.fsum(raw) for r in raw]
    l1 = [
        math.fsum(abs(a - b) for a, b in zip(oracles.unit(g), oracles.unit(h), strict=True))
        for g, h in zip(step.text.tolist(), FROZEN.tolist(), strict=True)
    ]
    expected = {
        "etf": separation(step.text.tolist(), regularizer.clusters.assignment.tolist(), reduction, v),
        "cc": oracles.convergence(step.image.tolist(), step.text.tolist(), step.labels.tolist()),
        "rs": math.fsum(a * b for a, b in zip(v, l1, strict=True)) / 20,
    }
    assert values(regularizer, step) == pytest.approx(expected, rel=1e-9)
    plain = values(prepared(etf_reduction=reduction), step)
    assert all(abs(plain[name] / expected[name] - 1) > 1e-3 for name in ("etf", "rs"))


def test_equal_counts_are_no_weights() -> None:
    regularizer = prepared(class_power=2.0)
    regularizer.prepare_counts(torch.full((20,), 7))
    assert values(regularizer) == pytest.approx(values(prepared()), rel=1e-12)


def test_frozen_targets() -> None:
    regularizer, step = prepared(etf_target="frozen", margin=0.25), batch()
    assignment = regularizer.clusters.assignment.tolist()
    expected = separation(step.text.tolist(), assignment, "frobenius", [1] * 20, FROZEN.tolist(), 0.25)
    assert values(regularizer, step)["etf"] == pytest.approx(expected, rel=1e-9)
    assert values(prepared(etf_target="frozen", margin=0.0), batch(text=FROZEN))["etf"] == pytest.approx(0, abs=1e-15)


def test_radii_are_running_averages_and_a_state() -> None:
    """r_c^2 = a_c + 1e-4, a <- 0.9 a + 0.1 d^2, a_0 the first d^2."""
    regularizer, first, second = prepared(rs_radius="learned"), batch(), batch(text=FROZEN + 0.1)
    assert regularizer.state_dict() == {}
    one = squares(first)
    nll = [math.fsum(d / (2 * (d + 1e-4)) + math.log(d + 1e-4) / 2 for d in one) / 20]
    averages = [0.9 * a + 0.1 * d for a, d in zip(one, squares(second), strict=True)]
    terms = zip(averages, squares(second), strict=True)
    nll.append(math.fsum(d / (2 * (a + 1e-4)) + math.log(a + 1e-4) / 2 for a, d in terms) / 20)
    assert values(regularizer, first)["rs"] == pytest.approx(nll[0], rel=1e-9)
    between = regularizer.state_dict()
    assert values(regularizer, second)["rs"] == pytest.approx(nll[1], rel=1e-9)
    assert regularizer.state_dict()["squared_distances"] == pytest.approx(averages, rel=1e-9)
    resumed = prepared(rs_radius="learned")
    resumed.load_state_dict(between)
    assert values(resumed, second)["rs"] == pytest.approx(nll[1], rel=1e-9)
    assert resumed.state_dict() == regularizer.state_dict()
    regularizer.prepare(FROZEN, NAMES)
    assert regularizer.state_dict() == {}


def test_rotation_waits_while_radii_are_at_their_floor() -> None:
    regularizer = prepared(rs_radius="learned")
    away = torch.randn(FROZEN.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    for size, waits in ((1e-3, True), (0.3, False)):
        step = batch(text=FROZEN + size * away)
        assert (sum(squares(step)) / 20 < 1e-4) == waits
        assert regularizer.undeveloped(step) == ({"rs"} if waits else set())
    assert regularizer.state_dict() == {}
    assert prepared().undeveloped(batch(text=FROZEN + 1e-3 * away)) == set()
    assert prepared(rs_radius="learned", rho_rs=0.0).undeveloped(batch(text=FROZEN)) == set()


def scheduled(trainer, schedule, epoch=0, batch_idx=0):
    (regularizer,) = build(["cptx"], {"CPTX": {"CLUSTER_SIZE": 3, "SCHEDULE": schedule}})
    trainer.epoch, trainer.max_epoch, trainer.batch_idx, trainer.num_batches = epoch, 4, batch_idx, 2
    return CPTHook(regularizers=[regularizer]).attach(trainer)


@pytest.mark.parametrize("trainer_class", [CoOpTrainer, MaPLeTrainer])
@pytest.mark.parametrize(
    ("schedule", "epoch", "step", "factor"),
    [("falling", 0, 0, 1.0), ("falling", 2, 0, 0.5), ("rising", 0, 0, 0.0), ("rising", 2, 0, 0.5),
     ("rising", 1, 1, (1 - math.cos(math.pi * 3 / 8)) / 2), ("falling", 4, 1, 0.0)],
)  # fmt: skip
def test_the_schedule_multiplies_what_the_balance_has_set(trainer_class, schedule, epoch, step, factor) -> None:
    """Weights are measured in this very step, as without a schedule; what is added has the factor."""
    plain, constant, trainer = trainer_class(), trainer_class(), trainer_class()
    plain.forward_backward(make_batch())
    main = flat_gradient(plain.model)
    still = scheduled(constant, "constant")
    constant.forward_backward(make_batch())
    handle = scheduled(trainer, schedule, epoch, step)
    summary = trainer.forward_backward(make_batch())
    assert handle.factors == still.factors
    assert all(weight > 0 for weight in handle.factors.values())
    added = flat_gradient(trainer.model) - main
    expected = factor * (flat_gradient(constant.model) - main)
    assert (added - expected).norm() <= 1e-9 * (flat_gradient(constant.model) - main).norm()
    assert summary["loss_reg"] == pytest.approx(factor * still.total, abs=1e-12)
    assert handle.parts == pytest.approx({n: factor * v for n, v in still.parts.items()}, abs=1e-12)


def test_progress_of_trainers_that_do_not_count() -> None:
    """Dassl's four attributes; with two of them whole epochs; without these a schedule is refused, and no other."""
    seen = []

    class Looks(CPTX):
        needs = True

        def __init__(self):
            super().__init__(cluster_size=3)
            self.needs_progress = self.needs

        def compute(self, step):
            seen.append(step.progress)
            return super().compute(step)

    trainer = CoOpTrainer()
    CPTHook(regularizers=[Looks()]).attach(trainer)
    for attributes in ({"epoch": 1, "max_epoch": 4}, {"batch_idx": 1, "num_batches": 2}, {"epoch": 4}):
        vars(trainer).update(attributes)
        trainer.forward_backward(make_batch())
    assert seen[:2] == [0.25, 0.375]
    assert 1 - 1e-12 < seen[2] < 1
    Looks.needs = False
    other = CoOpTrainer()
    CPTHook(regularizers=[Looks()]).attach(other)
    other.forward_backward(make_batch())
    assert seen[3] == 0.0


def stepped(schedule: str, **attributes):
    """Handle after a step of a trainer at the second of its four epochs, in its middle, but for these attributes."""
    trainer = CoOpTrainer()
    vars(trainer).update({"epoch": 1, "max_epoch": 4, "batch_idx": 1, "num_batches": 2} | attributes)
    handle = CPTHook(regularizers=[CPTX(cluster_size=3, schedule=schedule)]).attach(trainer)
    trainer.forward_backward(make_batch())
    return handle


NO_EPOCHS = [
    {"epoch": lambda: 1}, {"max_epoch": {"stage": 4}}, {"epoch": None}, {"max_epoch": 0}, {"epoch": math.nan},
]  # fmt: skip
NO_BATCHES = [{"batch_idx": lambda: 1}, {"num_batches": {"train": 2}}, {"num_batches": 0}]


@pytest.mark.parametrize("attributes", NO_EPOCHS + NO_BATCHES)
def test_a_trainer_may_use_these_names_for_something_else(attributes) -> None:
    assert stepped("constant", **attributes).factors == stepped("constant").factors


@pytest.mark.parametrize("attributes", NO_EPOCHS)
def test_a_schedule_refuses_what_is_no_number_of_epochs(attributes) -> None:
    with pytest.raises(HookError, match=r"cptx follows a schedule, but CoOpTrainer .* trainer\.epoch .* numbers"):
        stepped("falling", **attributes)


@pytest.mark.parametrize("attributes", NO_BATCHES)
def test_a_schedule_goes_by_whole_epochs_where_batches_are_no_numbers(attributes) -> None:
    assert stepped("falling", **attributes).total == stepped("falling", batch_idx=0).total
    assert stepped("falling", **attributes).total != stepped("falling").total


def weights_from(given=None, **dm):
    trainer = CoOpTrainer()
    vars(trainer.dm).update({k: v for k, v in dm.items() if k != "train_x"})
    if "train_x" in dm:
        trainer.dm.dataset.train_x = [SimpleNamespace(label=label) for label in dm["train_x"]]
    regularizer = CPTX(cluster_size=3, class_power=1.0)
    CPTHook(regularizers=[regularizer], counts=given).attach(trainer)
    return regularizer


def test_counts_come_from_what_is_given_or_the_trainer() -> None:
    assert CLASSES == 6
    labels = [0] * 8 + [1] * 4 + [2] * 2 + [3, 5]
    raw = [1 / 8, 1 / 4, 1 / 2, 1, 1, 1]
    expected = [6 * r / math.fsum(raw) for r in raw]
    for regularizer in (
        weights_from(train_x=labels),
        weights_from(train_x=[0], class_counts=[8, 4, 2, 1, 0, 1]),
        weights_from([8, 4, 2, 1, 1, 1], train_x=[0]),
    ):
        assert regularizer._class_weights.tolist() == pytest.approx(expected)
    with pytest.raises(HookError, match=r"CoOpTrainer has no dm\.class_counts .* CPTHook\(counts="):
        weights_from()
    for counts in ([1, 2], [1, 2, 3, 4, 5, -6], [0] * 6):
        with pytest.raises(HookError, match="are not one whole number >= 0 for each of 6 class names"):
            weights_from(counts)
    with pytest.raises(HookError, match="are not one whole number"):
        weights_from(train_x=[*labels, 6])
    uncounted = CPTX(class_power=1.0)
    uncounted.prepare(FROZEN, NAMES)
    with pytest.raises(FeatureError, match=r"before CPTX\.prepare_counts"):
        uncounted.compute(batch())


def test_the_hook_s_state_holds_weights_and_radii() -> None:
    def run(steps, state=None):
        trainer = MaPLeTrainer()
        settings = {"CLUSTER_SIZE": 3, "RS_RADIUS": "learned"}
        handle = CPTHook(regularizers=build(["cptx"], {"CPTX": settings})).attach(trainer)
        handle.load_state_dict(state or {})
        for step in steps:
            trainer.model.context.data.add_(0.1 * step)
            trainer.forward_backward(make_batch())
        return handle

    state = run([0]).state_dict()
    assert state["balance"].keys() == {"etf", "cc", "rs"}
    assert state["regularizers"]["cptx"].keys() == {"squared_distances"}
    assert run([], state).state_dict() == state
    assert run([1], state).factors == run([0]).factors
    gone_on, anew = run([1], state).state_dict(), run([1]).state_dict()
    assert gone_on["regularizers"] != anew["regularizers"]
    old = {name: norms for name, norms in state.items() if "." not in name}
    assert run([], old).state_dict() == old


def test_described_and_listed() -> None:
    line = prepared(schedule="rising", class_power=0.5, etf_target="frozen", rs_radius="learned").describe()[-1]
    assert line.startswith(
        "CPTX: schedule rising, class power 0.5, targets frozen cosines less 0.1, radii learned (class"
    )
    assert "cptx" in {part.name for part in describe_parts() if "ours" in part.description}


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"schedule": "cosine"}, "CPTX.SCHEDULE must be constant or falling or rising, got 'cosine'"),
        ({"class_power": -1.0}, "CPTX.CLASS_POWER must be a finite number >= 0"),
        ({"etf_target": "free"}, "CPTX.ETF_TARGET must be simplex or frozen"),
        ({"margin": math.nan}, "CPTX.MARGIN must be a finite number >= 0"),
        ({"rs_radius": "fixed"}, "CPTX.RS_RADIUS must be none or learned"),
        ({"rho_cc": -1.0}, "CPTX.RHO_CC must be a finite number >= 0"),
    ],
)
def test_settings_out_of_range(setting, message) -> None:
    with pytest.raises(ConfigError, match=message):
        CPTX(**setting)
