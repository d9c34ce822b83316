"""The regularized trainers: R10 (neutral at weight 0) and R11 (exact gradient) with the real trainers."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from cpt_plugin import toolkit
from cpt_plugin.clusters import SemanticClusters
from cpt_plugin.toolkit.embedded.rng import rng_state
from tests.helpers.checkpoints import identical
from tests.helpers.prompt_runs import prompt_cfg, train
from tests.helpers.tiny_clip import tiny_clip
from tests.trainers.problems import perturb, saved, text_features, trained_part
from trainers import _base
from trainers._base import CLIPTrainer
from trainers._regularized import Regularized

NO_WEIGHTS = ("CPT.WEIGHT_ETF", 0.0, "CPT.WEIGHT_CC", 0.0, "CPT.WEIGHT_RS", 0.0)
WEIGHTS = {"ETF": 0.25, "CC": 0.15, "RS": 0.1}
BASES = ("CoOp", "MaPLe", "CoCoOp", "IVLP", "PromptSRC", "ShallowVL")


def two_epochs(folder, output, trainer, *options):
    short = ("OPTIM.MAX_EPOCH", 2, "TRAIN.CHECKPOINT_SECONDS", 1000.0)
    return train(prompt_cfg(folder, output, trainer, *short, *options))


@pytest.fixture(scope="module")
def plain(folder, tmp_path_factory):
    """Plain runs and the generators' states at their end."""
    runs = {}
    for name in BASES:
        output = tmp_path_factory.mktemp(name)
        trainer = two_epochs(folder, output, name)
        runs[name] = (trainer, output, rng_state())
    return runs


@pytest.mark.parametrize("name", BASES)
def test_variant_is_the_same_trainer_with_the_one_mechanism(name):
    base, variant = (toolkit.TRAINER_REGISTRY.get(n) for n in (name, f"{name}CPT"))
    assert variant.__mro__[1:3] == (Regularized, base)
    assert variant.regularizers == ("cpt",)
    own = {key for key in vars(variant) if not key.startswith("__")}
    assert own == {"regularizers"}, "a variant adds nothing of its own"
    assert not {"forward_backward", "build_model", "run_epoch"} & set(vars(Regularized))


@pytest.mark.parametrize("name", BASES)
def test_without_weights_training_has_the_same_bits(folder, tmp_path, plain, name):
    base, output, state = plain[name]
    trainer = two_epochs(folder, tmp_path, f"{name}CPT", *NO_WEIGHTS)
    assert identical(rng_state(), state)
    assert identical(trained_part(tmp_path), trained_part(output))
    assert trainer.results == base.results
    assert str(trainer.losses) == str(base.losses)
    assert trainer.cluster_hash == ""


@pytest.mark.parametrize("part", WEIGHTS)
@pytest.mark.parametrize("name", BASES)
def test_each_weight_changes_the_prompts_but_draws_nothing(folder, tmp_path, plain, name, part):
    """Positive control of the test above."""
    _, output, state = plain[name]
    weights = list(NO_WEIGHTS)
    weights[weights.index(f"CPT.WEIGHT_{part}") + 1] = WEIGHTS[part]
    trainer = two_epochs(folder, tmp_path, f"{name}CPT", *weights)
    context = "txt_ctx" if name == "ShallowVL" else "ctx"
    assert not torch.equal(saved(tmp_path)["state_dict"][context], saved(output)["state_dict"][context])
    assert identical(rng_state(), state)
    assert f"loss_{part.lower()}" in trainer.losses.meters


@pytest.mark.parametrize("name", BASES)
def test_after_training_nothing_of_the_hook_is_left(folder, tmp_path, plain, name, caplog):
    with caplog.at_level("INFO", logger="cpt_plugin"):
        trainer = two_epochs(folder, tmp_path, f"{name}CPT")
    assert not trainer.hook.active
    assert "forward_backward" not in vars(trainer)
    assert all(not module._forward_hooks and not module._forward_pre_hooks for module in trainer.model.modules())
    own = {*plain[name][0].losses.meters}
    assert set(trainer.losses.meters) == own | {"loss_reg", "loss_etf", "loss_cc", "loss_rs"}
    assert own >= {"loss", "acc"}
    assert "2 clusters over 4 classes" in caplog.text
    frozen = trainer.frozen_text_features()
    clusters = SemanticClusters.fit(frozen, trainer.dm.dataset.classnames, cluster_size=2)
    assert trainer.hook.regularizers[0].digest() == clusters.digest
    assert saved(tmp_path)["extra"]["cluster_hash"] == trainer.cluster_hash == trainer.hook.digest != ""


def test_template_of_the_regularizer_is_that_of_its_frozen_features(folder, tmp_path, monkeypatch):
    wanted, original = [], CLIPTrainer.frozen_text_features

    def frozen_text_features(self, template=None):
        wanted.append(template)
        return original(self, template)

    monkeypatch.setattr(CLIPTrainer, "frozen_text_features", frozen_text_features)
    for template in ("", "a drawing of a {}."):
        two_epochs(folder, tmp_path / (template or "own"), "CoOpCPT", "CPT.TEMPLATE", template)
    assert wanted == [None, "a drawing of a {}."]
    prompts = [saved(tmp_path / name)["state_dict"]["ctx"] for name in ("own", "a drawing of a {}.")]
    assert not torch.equal(*prompts)


def regularizer_by_hand(text, image, labels, frozen, assignment):
    """The printed CPT loss entry by entry: pairs of a cluster, images of a class, dimensions of a prototype.

    Where the text features depend on the image, (B, K, d): the mean over the images.
    """
    texts, f, anchors = (x / x.norm(dim=-1, keepdim=True) for x in (text, image, frozen))
    texts = texts.expand(len(image), -1, -1)
    clusters, classes = sorted(set(assignment)), sorted(set(labels))
    etf = f.new_zeros(())
    for g in texts:
        for cluster in clusters:
            members = [c for c, m in enumerate(assignment) if m == cluster]
            for i in members:
                for j in members:
                    if i != j:
                        etf = etf + (g[i] @ g[j] + 1 / (len(members) - 1)) ** 2 / len(texts)
    cc = f.new_zeros(())
    for c in classes:
        distances = [(f[i] - texts[i, c]).square().sum() for i, label in enumerate(labels) if label == c]
        cc = cc + sum(distances) / len(distances)
    rs = sum((a - b).abs().sum() / len(texts) for g in texts for a, b in zip(g, anchors, strict=True))
    return (
        WEIGHTS["ETF"] * etf / len(clusters) + WEIGHTS["CC"] * cc / len(classes) + WEIGHTS["RS"] * rs / len(frozen)
    )


def flat(gradients):
    return torch.cat([g.flatten() for g in gradients])


@pytest.mark.parametrize("scale", [None, 1.0, 65536.0])
@pytest.mark.parametrize("name", BASES)
def test_gradient_is_that_of_the_explicit_sum(folder, tmp_path, monkeypatch, name, scale):
    """R11 in float64, from perturbed prompts: at the start the rotation term's sign is rounding noise.

    The trainer computes its own loss from float32 values, so both sides do.
    """
    clip = tiny_clip(64, 64, 3, resolution=16, dtype=torch.float64)
    monkeypatch.setattr(_base, "load_clip", lambda *args, **options: clip)
    toolkit.set_random_seed(1)
    trainer = toolkit.build_trainer(prompt_cfg(folder, tmp_path, f"{name}CPT", "CPT.CLUSTER_SIZE", 3))
    trainer.model.double()
    learner = trainer.model.prompt_learner
    perturb(learner)
    generator = torch.Generator().manual_seed(2)
    batch = {
        "img": torch.randn(6, 3, 16, 16, generator=generator, dtype=torch.float64),
        "label": torch.tensor([0, 1, 1, 3, 1, 0]),
    }

    image = trainer.model.image_encoder(batch["img"], learner.image_prompts())
    unit = F.normalize(image, dim=1)
    text = trainer.model.text_encoder(learner.text_prompts(unit))
    logits = clip.logit_scale * (F.normalize(text, dim=-1) * unit[:, None]).sum(-1)
    frozen = trainer.frozen_text_features()
    assignment = SemanticClusters.fit(frozen, trainer.dm.dataset.classnames, cluster_size=3).assignment.tolist()
    assert max(map(assignment.count, assignment)) >= 2
    regularizer = regularizer_by_hand(text, image, batch["label"].tolist(), frozen, assignment)
    parameters = list(learner.parameters())
    prediction = _base.Prediction(logits, unit, F.normalize(text, dim=-1))
    loss = sum(trainer.loss_parts(prediction, batch["img"], batch["label"]).values())
    main = flat(torch.autograd.grad(loss, parameters, retain_graph=True))
    added = flat(torch.autograd.grad(regularizer, parameters))
    assert added.norm() > 0.01 * main.norm()

    if scale is not None:
        trainer.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    trainer.before_train()
    trainer.batch_idx = 0
    summary = trainer.forward_backward(batch)
    trainer.close()
    error = (flat([p.grad for p in parameters]) - (main + added)).norm()
    assert error <= 1e-12 * (main + added).norm()
    assert summary["loss_reg"] == pytest.approx(regularizer.item(), rel=1e-12)


def mean_cosine(text):
    unit = F.normalize(text, dim=1)
    cosines = unit @ unit.T
    return ((cosines.sum() - cosines.trace()) / (cosines.numel() - len(cosines))).item()


@pytest.mark.parametrize("name", BASES)
def test_printed_etf_term_separates_the_classes_of_a_cluster(folder, tmp_path, plain, name):
    only_etf = ("CPT.WEIGHT_CC", 0.0, "CPT.WEIGHT_RS", 0.0, "CPT.NUM_CLUSTERS", 1, "CPT.WEIGHT_ETF", 5.0)
    trainer = two_epochs(folder, tmp_path, f"{name}CPT", *only_etf)
    base, _, _ = plain[name]
    assert mean_cosine(text_features(trainer)) < mean_cosine(text_features(base))
