"""DPC's second stage: the two prompts and their mixture, the batches, the loss, and what trains."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from cpt_plugin import toolkit
from cpt_plugin.clusters import SemanticClusters
from cpt_plugin.encoders import ImagePrompts
from cpt_plugin.functional import class_convergence
from cpt_plugin.toolkit.embedded.rng import rng_state
from tests.helpers.checkpoints import identical
from tests.helpers.prompt_runs import first_stage, prompt_cfg, train
from tests.helpers.tiny_clip import tiny_clip
from tests.trainers.problems import perturb, saved, trained_part
from trainers import PROMPT_LEARNERS, _base, trainer_name
from trainers._negatives import hard_negatives
from trainers.coop import ContextPrompts
from trainers.dpc import DPC, DualPrompts, contrastive_loss, mixture
from trainers.maple import MultiModalPrompts

LEARNERS = tuple(sorted(cls.__name__ for cls in PROMPT_LEARNERS.values() if cls.trainable))
SHORT = ("OPTIM.MAX_EPOCH", 2, "TRAIN.CHECKPOINT_SECONDS", 1000.0)
NEW = ("DATASET.SUBSAMPLE_CLASSES", "new")
NAMES = ["red cat", "dog", "tall blue tower"]


def build(folder, output, name, *options):
    toolkit.set_random_seed(1)
    return toolkit.build_trainer(prompt_cfg(folder, output, name, *SHORT, *options))


def run(folder, output, name, *options):
    return train(prompt_cfg(folder, output, name, *SHORT, *options))


@pytest.fixture(scope="module")
def runs(folder, tmp_path_factory):
    """One finished second stage of each learner, with its output folder."""
    outputs = {name: tmp_path_factory.mktemp(name) for name in LEARNERS}
    return {name: (run(folder, output, f"{name}DPC"), output) for name, output in outputs.items()}


# -- the mixture -------------------------------------------------------------------------------------------------


def dual(clip, weight, kind="maple"):
    """Two different prompts of a kind, the second one set by hand."""
    torch.manual_seed(0)
    if kind == "maple":
        pair = [MultiModalPrompts(clip, NAMES, 2, "", 3) for _ in range(2)]
    else:
        pair = [ContextPrompts(clip, NAMES, 2, "", kind == "csc", "end") for _ in range(2)]
    learner = DualPrompts(*pair, weight)
    perturb(learner.parallel, 0.3)
    return learner


def vectors(prompts):
    """All learned vectors of text or image prompts in a list."""
    if isinstance(prompts, ImagePrompts):
        return [prompts.shallow, *prompts.deep]
    return [prompts.context, *prompts.deep]


@pytest.mark.parametrize("kind", ["maple", "coop", "csc"])
def test_evaluation_mixes_every_token_vector(clip, kind):
    learner = dual(clip, 0.2, kind).eval()
    assert learner.class_specific == (kind == "csc")
    for of in ("text_prompts", "image_prompts")[: 2 if kind == "maple" else 1]:
        mixed, first, second = (vectors(getattr(one, of)()) for one in (learner, learner.stage_one, learner.parallel))
        assert len(mixed) == len(first) == (3 if kind == "maple" else 1)
        for m, p, q in zip(mixed, first, second, strict=True):
            expected = 0.2 * q.double() + 0.8 * p.double()
            torch.testing.assert_close(m.double(), expected, rtol=0, atol=1e-6)
            assert (m - p).abs().max() > 0.01
    if kind != "maple":
        assert learner.image_prompts() is None


@pytest.mark.parametrize(("training", "weight", "same_as"), [
    (True, 0.2, "parallel"), (True, 0.0, "parallel"), (False, 0.0, "stage_one"), (False, 1.0, "parallel"),
])  # fmt: skip
def test_training_and_the_ends_of_the_mixture_are_one_prompt_itself(clip, training, weight, same_as):
    learner = dual(clip, weight).train(training)
    other = getattr(learner, same_as)
    for of in ("text_prompts", "image_prompts"):
        own, theirs = (vectors(getattr(one, of)()) for one in (learner, other))
        assert all(torch.equal(a, b) for a, b in zip(own, theirs, strict=True))
    assert learner.text_prompts().context is other.ctx, "not even recomputed"


def test_other_fields_of_the_prompts_are_kept(clip):
    a, b = torch.ones(2, 128), torch.zeros(2, 128)
    mixed = mixture(ImagePrompts(a, (a,), after_norm=True), ImagePrompts(b, (b,), after_norm=True), 0.25)
    assert mixed.after_norm
    assert torch.equal(mixed.shallow, torch.full((2, 128), 0.25))
    assert torch.equal(mixed.deep[0], mixed.shallow)


def test_parallel_prompts_start_at_those_of_stage_one_without_sharing_them(clip):
    torch.manual_seed(0)
    learner = DualPrompts(*(ContextPrompts(clip, NAMES, 3, "", False, "end") for _ in range(2)), 0.2)
    assert torch.equal(learner.parallel.ctx, learner.stage_one.ctx)
    assert learner.parallel.ctx.data_ptr() != learner.stage_one.ctx.data_ptr()
    assert [name for name, p in learner.named_parameters() if p.requires_grad] == ["parallel.ctx"]
    assert set(learner.state_dict()) == {"stage_one.ctx", "parallel.ctx"}


@pytest.mark.parametrize(("options", "weight"), [
    ((), 0.2), (("TRAINER.DPC.WEIGHT_BASE", 0.6), 0.6), (("TRAINER.DPC.BASE_EVAL", "parallel"), 1.0),
    (NEW, 0.0), ((*NEW, "TRAINER.DPC.WEIGHT_NEW", 0.3), 0.3), ((*NEW, "TRAINER.DPC.BASE_EVAL", "parallel"), 0.0),
    (("DATASET.SUBSAMPLE_CLASSES", "base"), 0.2),
])  # fmt: skip
def test_weight_follows_from_the_classes(folder, tmp_path, options, weight):
    assert build(folder, tmp_path, "CoOpDPC", *options).model.prompt_learner.weight == weight


# -- the loss ----------------------------------------------------------------------------------------------------


def loss_by_hand(logits, label):
    """Both directions entry by entry: -log of the share of pair i in its row, and in its column."""
    z = [[float(row[c]) for c in label] for row in logits.double()]
    n = len(z)
    rows = [math.log(sum(math.exp(z[i][j]) for j in range(n))) - z[i][i] for i in range(n)]
    columns = [math.log(sum(math.exp(z[j][i]) for j in range(n))) - z[i][i] for i in range(n)]
    return 0.5 * (sum(rows) / n + sum(columns) / n)


@settings(max_examples=50, deadline=None)
@given(batch=st.integers(1, 7), classes=st.integers(2, 9), seed=st.integers(0, 2**20))
def test_loss_is_the_mean_of_both_directions(batch, classes, seed):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(batch, classes, generator=generator)
    label = torch.randint(classes, (batch,), generator=generator)
    assert contrastive_loss(logits, label).item() == pytest.approx(loss_by_hand(logits, label.tolist()), abs=1e-5)


def test_loss_of_equal_logits_is_the_logarithm_of_the_batch():
    assert contrastive_loss(torch.zeros(5, 7), torch.tensor([0, 1, 3, 4, 6])).item() == pytest.approx(math.log(5))


def test_equal_labels_act_as_shared_targets():
    """Same gradient as cross-entropy whose target for a pair is 1/m on each of the m pairs of its class."""
    logits = torch.randn(6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    label = torch.tensor([0, 3, 0, 4, 0, 3])
    same = (label[:, None] == label).double()
    z = logits[:, label]
    shared = same / same.sum(dim=1, keepdim=True)
    soft = 0.5 * (F.cross_entropy(z, shared) + F.cross_entropy(z.T, shared))
    (expected,) = torch.autograd.grad(soft, logits, retain_graph=True)
    (found,) = torch.autograd.grad(contrastive_loss(logits, label), logits)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-7)
    assert expected.abs().max() > 0.01


@pytest.mark.parametrize("name", ["CoOp", "MaPLe"])
def test_step_descends_the_contrastive_loss_of_its_pairs(folder, tmp_path, monkeypatch, name):
    """Value and gradient, against the features of a pass by hand, with CPT added, in float64."""
    clip = tiny_clip(64, 64, 3, resolution=16, dtype=torch.float64)
    monkeypatch.setattr(_base, "load_clip", lambda *args, **options: clip)
    weights = ("CPT.WEIGHT_ETF", 0.0, "CPT.WEIGHT_RS", 0.0, "CPT.WEIGHT_CC", 0.7)
    first = tmp_path / "first"
    train(prompt_cfg(folder, first, name, *SHORT))
    trainer = build(folder, tmp_path / "second", f"{name}DPCCPT", "TRAINER.DPC.STAGE_ONE", first, *weights)
    trainer.model.double()
    learner = trainer.model.prompt_learner
    perturb(learner.parallel)
    generator = torch.Generator().manual_seed(2)
    images = torch.randn(6, 3, 16, 16, generator=generator, dtype=torch.float64)
    labels = torch.tensor([2, 0, 3, 1, 1, 0])
    monkeypatch.setattr(trainer, "parse_batch_train", lambda batch: (images, labels))

    image = F.normalize(trainer.model.image_encoder(images, learner.parallel.image_prompts()), dim=1)
    text = F.normalize(trainer.model.text_encoder(learner.parallel.text_prompts()), dim=1)
    z = (clip.logit_scale * image @ text[labels].T).float()
    arange = torch.arange(6)
    own = (F.cross_entropy(z, arange) + F.cross_entropy(z.T, arange)) / 2
    added = 0.7 * class_convergence(image, text, labels)
    parameters = list(learner.parallel.parameters())
    expected = torch.autograd.grad(own + added, parameters)

    trainer.before_train()
    trainer.batch_idx = 0
    summary = trainer.forward_backward({"img": images[:2], "label": labels[:2]})
    trainer.close()
    for parameter, gradient in zip(parameters, expected, strict=True):
        assert (parameter.grad - gradient).abs().max() <= 1e-6 * gradient.abs().max() > 0
    assert summary["loss"] == summary["loss_dpc"] == pytest.approx(own.item(), rel=1e-6)
    assert summary["loss_cc"] == pytest.approx(added.item(), rel=1e-6)
    assert "loss_ce" not in summary
    assert all(p.grad is None for p in learner.stage_one.parameters())


def test_other_terms_of_the_learner_stay(folder, tmp_path, monkeypatch):
    trainer = build(folder, tmp_path, "CoOpDPC")
    own = {"ce": torch.tensor(1.0), "scl_text": torch.tensor(2.0)}
    monkeypatch.setattr(_base.PromptTrainer, "loss_parts", lambda self, *args: dict(own))
    prediction = _base.Prediction(torch.zeros(2, 4), torch.zeros(2, 1), torch.zeros(4, 1))
    parts = trainer.loss_parts(prediction, torch.zeros(2), torch.tensor([0, 1]))
    assert {name: value.item() for name, value in parts.items()} == pytest.approx(
        {"dpc": math.log(2), "scl_text": 2.0}
    )


# -- the batches -------------------------------------------------------------------------------------------------


def trained_for_batches(trainer):
    """Ready to make batches, without training."""
    trainer.before_train()
    trainer.close()
    trainer.epoch, trainer.batch_idx = 1, 0
    return trainer


def test_batch_pairs_each_image_with_its_negatives(folder, tmp_path):
    trainer = trained_for_batches(build(folder, tmp_path, "MaPLeDPC"))
    batch = next(iter(trainer.train_loader_x))
    batch = {"img": batch["img"][:2], "label": torch.tensor([0, 2])}
    images, labels = trainer.parse_batch_train(batch)
    plain = toolkit.build_trainer(prompt_cfg(folder, tmp_path / "plain", "MaPLe", *SHORT))
    plain.load_model(str(first_stage(folder, "MaPLe")), epoch=2)
    plain.set_model_mode("eval")
    with torch.no_grad():
        logits = plain.model(batch["img"])
    expected = hard_negatives(logits, [0, 2], 3, range(4), None)
    assert labels.tolist() == [0, *expected[0], 2, *expected[1]]
    assert sorted(labels.tolist()) == [0, 1, 2, 3]
    assert torch.equal(images[0], batch["img"][0])
    assert torch.equal(images[1 + len(expected[0])], batch["img"][1])
    assert images.shape == (4, 3, 16, 16)


def test_negatives_are_images_of_their_class_from_the_long_tailed_set(folder, tmp_path, monkeypatch):
    tail = ("DATASET.IMBALANCE_TAU", 0.25, "DATASET.MAX_PER_CLASS", 8)
    trainer = trained_for_batches(build(folder, tmp_path, "MaPLeDPC", *tail))
    assert trainer.dm.class_counts == [8, 5, 3, 2]
    drawn = {label: set() for label in range(4)}
    original = DPC.training_image

    def training_image(self, index):
        item = self.dm.dataset.train_x[index]
        drawn[item.label].add(item.impath)
        return original(self, index) * 0 + item.label

    monkeypatch.setattr(DPC, "training_image", training_image)
    for trainer.batch_idx in range(60):
        images, labels = trainer.parse_batch_train({"img": torch.zeros(1, 3, 16, 16), "label": torch.tensor([1])})
        assert (images[1:] == labels[1:, None, None, None]).all()
        assert 1 not in labels[1:].tolist()
    assert drawn[1] == set()
    everything = {label: {i.impath for i in trainer.dm.dataset.train_x if i.label == label} for label in (0, 2, 3)}
    chosen = {label for label in (0, 2, 3) if drawn[label]}
    assert len(chosen) >= 2
    assert all(drawn[label] == everything[label] for label in chosen)


def test_batches_follow_from_seed_epoch_and_batch_alone(folder, tmp_path):
    trainer = trained_for_batches(build(folder, tmp_path, "CoOpDPC"))
    batch = {"img": torch.zeros(2, 3, 16, 16), "label": torch.tensor([0, 1])}

    def made(epoch, index, seed=None):
        trainer.epoch, trainer.batch_idx = epoch, index
        torch.manual_seed(seed or 0)
        return trainer.parse_batch_train(batch)[0]

    reference = made(0, 0)
    state = rng_state()
    assert torch.equal(made(0, 0, seed=99), reference)
    trainer.parse_batch_train(batch)
    torch.manual_seed(0)
    assert identical(rng_state(), state), "the global generators are left alone"
    others = [made(*position) for position in ((0, 1), (1, 0))]
    assert not any(torch.equal(other, reference) for other in others)
    assert not torch.equal(*others)


def test_negatives_go_through_the_training_transform(folder, tmp_path):
    trainer = trained_for_batches(build(folder, tmp_path, "CoOpDPC"))
    views = []
    for trainer.batch_idx in range(4):
        views.append(trainer.training_image(3))
    loader_view = trainer.train_loader_x.dataset[3]["img"]
    assert all(not torch.equal(a, b) for i, a in enumerate([*views, loader_view]) for b in views[:i])
    trainer.batch_idx = 0
    assert torch.equal(trainer.training_image(3), views[0])


@pytest.mark.parametrize("classes", [2, 3, 4])
def test_few_classes_train(folder, tmp_path, monkeypatch, classes):
    subset = {"DATASET.SUBSAMPLE_CLASSES": "base" if classes == 2 else "all"}
    trainer = build(folder, tmp_path, "CoOpDPC", "DATALOADER.TRAIN_X.BATCH_SIZE", 4, "TRAINER.DPC.TOP_K", 8,
                    *(word for pair in subset.items() for word in pair))  # fmt: skip
    if classes == 3:
        kept = [item for item in trainer.dm.dataset.train_x if item.label != 2]
        trainer.dm.dataset.replace_train(kept)
        trainer.train_loader_x.dataset.data_source = kept
        trainer.train_loader_x.sampler.__init__(kept, 1, lambda source, seed, epoch: list(range(len(source))))
    seen, original = [], DPC.parse_batch_train

    def parse_batch_train(self, batch):
        image, label = original(self, batch)
        seen.append(label)
        return image, label

    monkeypatch.setattr(DPC, "parse_batch_train", parse_batch_train)
    trainer.train()
    present = {0, 1} if classes == 2 else {0, 1, 3} if classes == 3 else {0, 1, 2, 3}
    assert all(set(label.tolist()) == present for label in seen)
    assert all(math.isfinite(entry["loss_dpc"]) for entry in trainer.history)


# -- what trains -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LEARNERS)
def test_stage_one_stays_as_it_was_and_the_parallel_prompts_train(folder, runs, name):
    trainer, output = runs[name]
    first = saved(first_stage(folder, name))
    state = saved(output)["state_dict"]
    assert set(state) == {f"{part}.{key}" for part in ("stage_one", "parallel") for key in first["state_dict"]}
    for key, value in first["state_dict"].items():
        assert torch.equal(state[f"stage_one.{key}"], value)
        assert not torch.equal(state[f"parallel.{key}"], value)
    assert len(saved(output)["optimizer"]["param_groups"][0]["params"]) == len(first["state_dict"])
    assert {"loss", "loss_dpc", "acc"} <= set(trainer.losses.meters)
    assert trainer.history[0]["loss_dpc"] != trainer.history[1]["loss_dpc"]
    kept = {f"loss_scl_{part}" for part in ("text", "image", "logits")} & set(trainer.losses.meters)
    assert len(kept) == (3 if name == "PromptSRC" else 0), "the learner's own terms"


@pytest.mark.parametrize("name", LEARNERS)
def test_checkpoint_names_the_prompts_of_stage_one(folder, runs, name):
    trainer, output = runs[name]
    plain = toolkit.build_trainer(prompt_cfg(folder, output / "none", name, *SHORT))
    plain.load_model(str(first_stage(folder, name)), epoch=2)
    assert saved(output)["extra"]["stage_one"] == trainer.stage_one_hash == plain.prompts_hash
    assert trainer.prompts_hash != plain.prompts_hash


@pytest.mark.parametrize("classes", [(), NEW], ids=["all", "new"])
@pytest.mark.parametrize("name", LEARNERS)
def test_weight_zero_gives_the_logits_of_stage_one_bit_for_bit(folder, tmp_path, runs, name, classes):
    second = build(folder, tmp_path / "second", f"{name}DPC", *classes, "TRAINER.DPC.WEIGHT_BASE", 0.0)
    second.load_model(str(runs[name][1]), epoch=2)
    first = build(folder, tmp_path / "first", name, *classes)
    first.load_model(str(first_stage(folder, name)), epoch=2)
    image = torch.randn(5, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    for trainer in (first, second):
        trainer.set_model_mode("eval")
    with torch.no_grad():
        assert torch.equal(second.model_inference(image), first.model_inference(image))
        second.model.prompt_learner.weight = 0.5
        assert not torch.equal(second.model_inference(image), first.model_inference(image))
    second.model.prompt_learner.weight = 0.0
    assert second.test() == first.test()


def test_without_weights_a_regularizer_changes_no_bit(folder, tmp_path, runs):
    no_weights = ("CPT.WEIGHT_ETF", 0.0, "CPT.WEIGHT_CC", 0.0, "CPT.WEIGHT_RS", 0.0)
    run(folder, tmp_path / "none", "CoOpDPCCPT", *no_weights)
    assert identical(trained_part(tmp_path / "none"), trained_part(runs["CoOp"][1]))
    trainer = run(folder, tmp_path / "some", "CoOpDPCCPT")
    assert not identical(trained_part(tmp_path / "some"), trained_part(runs["CoOp"][1]))
    assert {"loss_dpc", "loss_reg", "loss_etf", "loss_cc", "loss_rs"} <= set(trainer.losses.meters)
    frozen = trainer.frozen_text_features()
    clusters = SemanticClusters.fit(frozen, trainer.dm.dataset.classnames, cluster_size=2)
    assert trainer.hook.regularizers[0].digest() == clusters.digest


def test_best_of_validation_is_that_of_the_mixture(folder, tmp_path):
    best = ("TEST.FINAL_MODEL", "best_val")
    trainer = run(folder, tmp_path, "CoOpDPC", *best)
    assert (tmp_path / "prompt_learner" / "model-best.pth.tar").is_file()
    assert not trainer.model.prompt_learner.training
    assert dataclasses.is_dataclass(trainer.model.prompt_learner.text_prompts())


def test_every_learner_that_trains_has_a_second_stage():
    for name, cls in PROMPT_LEARNERS.items():
        if cls.trainable:
            made = toolkit.TRAINER_REGISTRY.get(trainer_name(name, dpc=True))
            assert made.__name__ == f"{cls.__name__}DPC" == f"{made.first_stage}DPC"
            assert made.__mro__[1:3] == (DPC, cls)
            with_cpt = toolkit.TRAINER_REGISTRY.get(trainer_name(name, ("cpt",), dpc=True))
            assert made in with_cpt.__mro__
