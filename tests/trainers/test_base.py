"""What all prompt learners share: what trains, R9 (same seed, same bits), checkpoints for other classes, refusals."""

from __future__ import annotations

import math
import multiprocessing

import pytest
import torch
from torch.nn import functional as F

from cpt_plugin import toolkit
from cpt_plugin.errors import CheckpointError, ConfigError, DataError
from tests.helpers.checkpoints import identical
from tests.helpers.prompt_runs import fingerprint, prompt_cfg, train, weights
from tests.helpers.tiny_world import BASE, NEW, TinyWorld
from tests.trainers.loading import rewritten
from tests.trainers.problems import TRAINABLE, raises_at, saved
from trainers._base import PromptTrainer

SHORT = ("OPTIM.MAX_EPOCH", 2, "TRAIN.CHECKPOINT_SECONDS", 1000.0)
BASE_CLASSES = ("DATASET.NAME", "TinyWorld", "DATASET.SUBSAMPLE_CLASSES", "base")
NEW_CLASSES = ("DATASET.NAME", "TinyWorld", "DATASET.SUBSAMPLE_CLASSES", "new")


def build(folder, output, name, *options):
    toolkit.set_random_seed(1)
    return toolkit.build_trainer(prompt_cfg(folder, output, name, *SHORT, *options))


def run(folder, output, name, *options):
    return train(prompt_cfg(folder, output, name, *SHORT, *options))


@pytest.fixture(scope="module")
def base_runs(folder, tmp_path_factory):
    """One finished run of every trainer on the base classes."""
    outputs = {name: tmp_path_factory.mktemp(name) for name in TRAINABLE}
    for name, output in outputs.items():
        run(folder, output, name, *BASE_CLASSES)
    return outputs


# -- training ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TRAINABLE)
def test_only_the_prompts_train(folder, tmp_path, name):
    before = build(folder, tmp_path / "untrained", name)
    trainer = run(folder, tmp_path / "trained", name)
    frozen = torch.load(weights(folder), weights_only=True)
    assert all(torch.equal(value, frozen[key]) for key, value in trainer.clip.model.state_dict().items())
    trainable = {key for key, p in trainer.model.named_parameters() if p.requires_grad}
    own = {key for key in trainer.model.prompt_learner.state_dict() if not key.startswith("stage_one.")}
    assert trainable == {f"prompt_learner.{key}" for key in own}
    assert all(p.grad is None for key, p in trainer.model.named_parameters() if key not in trainable)
    initial = before.model.prompt_learner.state_dict()
    changed = {key for key, value in trainer.model.prompt_learner.state_dict().items() if not value.equal(initial[key])}
    assert changed == own
    assert list(saved(tmp_path / "trained")["state_dict"]) == list(initial), "nothing of CLIP is saved"


def test_logits_are_scaled_cosines(folder, tmp_path):
    trainer = build(folder, tmp_path, "MaPLe")
    image = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    learner = trainer.model.prompt_learner
    text_prompts, image_prompts = learner.text_prompts(), learner.image_prompts()
    with torch.no_grad():
        text = trainer.model.text_encoder(text_prompts)
        features = trainer.model.image_encoder(image, image_prompts)
        expected = [
            [trainer.clip.model.logit_scale.exp() * F.cosine_similarity(f, g, dim=0) for g in text] for f in features
        ]
        torch.testing.assert_close(trainer.model_inference(image), torch.tensor(expected), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("name", ["CoOp", "MaPLeCPT"])
def test_learning_rate_warms_up_then_follows_the_cosine(folder, tmp_path, monkeypatch, name):
    """Epoch 1: 1e-5; epoch e >= 2 of T: lr / 2 (1 + cos(pi (e - 2) / T))."""
    seen = {}
    step = PromptTrainer.forward_backward

    def forward_backward(self, batch):
        seen.setdefault(self.epoch + 1, set()).add(self.get_current_lr())
        return step(self, batch)

    monkeypatch.setattr(PromptTrainer, "forward_backward", forward_backward)
    run(folder, tmp_path, name, "OPTIM.MAX_EPOCH", 4)
    cosine = {e: 0.01 * (1 + math.cos(math.pi * (e - 2) / 4)) for e in (2, 3, 4)}
    assert {e: len(rates) for e, rates in seen.items()} == dict.fromkeys((1, 2, 3, 4), 1)
    assert {e: rates.pop() for e, rates in seen.items()} == pytest.approx({1: 1e-5} | cosine)


@pytest.mark.parametrize("precision", ["fp16", "amp", "amp_bf16"])
def test_half_precision_on_a_cpu_is_fp32_and_says_so(folder, tmp_path, precision, caplog):
    with caplog.at_level("INFO", logger="cpt_plugin"):
        trainer = build(folder, tmp_path, "CoOp", "TRAINER.COOP.PREC", precision)
    assert f"precision {precision} was asked for; on device cpu everything runs in fp32" in caplog.text
    assert trainer.clip.dtype == torch.float32
    assert trainer.scaler is None


def test_frozen_features_of_the_ensemble_are_the_mean_of_unit_features(folder, tmp_path):
    trainer = build(folder, tmp_path, "CoOpCPT")
    ensemble = trainer.frozen_text_features("ensemble")
    single = []
    for sentence in ("itap of a {}.", "a bad photo of the {}.", "a origami {}.", "a photo of the large {}.",
                     "a {} in a video game.", "art of the {}.", "a photo of the small {}."):  # fmt: skip
        features = trainer.frozen_text_features(sentence)
        single.append(features / features.norm(dim=1, keepdim=True))
    torch.testing.assert_close(ensemble, sum(single) / 7)


# -- R9: same seed, same bits --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TRAINABLE)
def test_two_runs_have_the_same_bits(folder, tmp_path, base_runs, name):
    torch.rand(7)
    run(folder, tmp_path, name, *BASE_CLASSES)
    assert fingerprint(tmp_path) == fingerprint(base_runs[name])


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("name", ["CoOp", "MaPLeCPT", "CoOpDPC"])
def test_loader_workers_do_not_change_the_bits(folder, tmp_path, base_runs, name, workers):
    trainer = run(folder, tmp_path, name, *BASE_CLASSES, "DATALOADER.NUM_WORKERS", workers)
    assert fingerprint(tmp_path) == fingerprint(base_runs[name])
    assert trainer.train_loader_x.num_workers == workers
    assert not multiprocessing.active_children(), "left to the garbage collector, each worker costs 5 seconds"


@pytest.mark.parametrize("name", ["CoOp", "MaPLeCPT"])
def test_smallest_and_largest_seeds_are_accepted_and_differ(folder, tmp_path, name):
    states = []
    for seed in (0, 1, 2**32 - 1):
        run(folder, tmp_path / str(seed), name, "OPTIM.MAX_EPOCH", 1, "SEED", seed)
        states.append(saved(tmp_path / str(seed))["state_dict"])
    pairs = [(0, 1), (0, 2), (1, 2)]
    assert not any(identical(states[a], states[b]) for a, b in pairs)


@pytest.mark.parametrize("seed", [2**32, 2**40])
def test_larger_seeds_are_refused(folder, tmp_path, seed):
    with pytest.raises(ConfigError, match="4294967295"):
        build(folder, tmp_path, "CoOp", "SEED", seed)


# -- checkpoints for other classes -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", TRAINABLE)
def test_prompts_of_the_base_classes_serve_the_new_ones(folder, tmp_path, base_runs, name):
    trainer = build(folder, tmp_path, name, *NEW_CLASSES)
    trainer.load_model(str(base_runs[name]), epoch=2)
    assert tuple(trainer.dm.dataset.classnames) == NEW
    assert identical(dict(trainer.model.prompt_learner.state_dict()), saved(base_runs[name])["state_dict"])
    assert trainer.test() == trainer.results["accuracy"]
    assert trainer.evaluator.class_counts()[0][1] > 0


@pytest.mark.parametrize(
    ("plain", "regularized"), [("CoOp", "CoOpCPT"), ("MaPLe", "MaPLeCPT"), ("MaPLeDPC", "MaPLeDPCCPT")]
)
def test_plain_trainers_evaluate_regularized_prompts(folder, tmp_path, base_runs, plain, regularized):
    trainer = build(folder, tmp_path, plain, *BASE_CLASSES)
    trainer.load_model(str(base_runs[regularized]), epoch=2)
    own = build(folder, tmp_path, regularized, *BASE_CLASSES)
    own.load_model(str(base_runs[regularized]), epoch=2)
    assert trainer.test() == own.test()
    assert own.cluster_hash == saved(base_runs[regularized])["extra"]["cluster_hash"] != ""


def test_class_specific_contexts_of_other_classes_are_refused_by_name(folder, tmp_path):
    """The new half has as many classes as the base half here, so the shapes alone would let it pass."""
    csc = ("TRAINER.COOP.CSC", True)
    run(folder, tmp_path, "CoOp", *csc, "DATASET.SUBSAMPLE_CLASSES", "base")
    same = build(folder, tmp_path, "CoOp", *csc, "DATASET.SUBSAMPLE_CLASSES", "base")
    same.load_model(str(tmp_path), epoch=2)
    other = build(folder, tmp_path, "CoOp", *csc, "DATASET.SUBSAMPLE_CLASSES", "new")
    before = other.model.prompt_learner.ctx.clone()
    with pytest.raises(CheckpointError, match="classes ant, bee; they cannot be used for cat, dog"):
        other.load_model(str(tmp_path), epoch=2)
    assert torch.equal(other.model.prompt_learner.ctx, before)


def test_missing_epoch_names_those_that_are_there(folder, tmp_path, base_runs):
    trainer = build(folder, tmp_path, "CoOp", *NEW_CLASSES)
    for epoch, wanted in ((7, "model.pth.tar-7"), (0, "model.pth.tar-0"), (None, "model-best.pth.tar")):
        with pytest.raises(CheckpointError, match=rf"{wanted}; there is model\.pth\.tar-2\."):
            trainer.load_model(str(base_runs["CoOp"]), epoch=epoch)
    with pytest.raises(CheckpointError, match="none in that folder"):
        trainer.load_model(str(tmp_path / "nowhere"), epoch=1)


@pytest.mark.parametrize("damage", ["flip", "cut", "other"])
def test_damaged_checkpoint_is_refused(folder, tmp_path, base_runs, damage):
    source = base_runs["CoOp"] / "prompt_learner" / "model.pth.tar-2"
    data = bytearray(source.read_bytes())
    data[len(data) // 2] ^= 1
    content = {"flip": bytes(data), "cut": source.read_bytes()[:-1], "other": b"not a checkpoint"}[damage]
    path = tmp_path / "prompt_learner" / source.name
    path.parent.mkdir()
    path.write_bytes(content)
    trainer = build(folder, tmp_path, "CoOp", *NEW_CLASSES)
    with pytest.raises(CheckpointError, match=r"prompt_learner/model\.pth\.tar-2"):
        trainer.load_model(str(tmp_path), epoch=2)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("CoOp", ("TRAINER.COOP.N_CTX", 5), r"ctx has shape \(3, 64\), this run needs \(5, 64\)"),
        ("MaPLe", ("TRAINER.MAPLE.PROMPT_DEPTH", 3), r"missing or unexpected.*compound_prompts_text\.1"),
        ("MaPLe", ("TRAINER.MAPLE.N_CTX", 4), r"ctx has shape \(2, 64\), this run needs \(4, 64\)"),
    ],
)
def test_prompts_of_another_shape_are_refused_by_name(folder, tmp_path, base_runs, name, options, message):
    """In a checkpoint that, like Dassl's, does not say how its prompts were trained."""
    trainer = build(folder, tmp_path, name, *NEW_CLASSES, *options)
    path = rewritten(base_runs[name], tmp_path, lambda content: content.pop("config"))
    with pytest.raises(CheckpointError, match=message):
        trainer.load_model(str(path), epoch=2)


# -- resume ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def interrupted(folder, tmp_path_factory):
    """A CoOpCPT run on the base classes that stopped before its fourth step."""
    output = tmp_path_factory.mktemp("interrupted")
    with pytest.MonkeyPatch.context() as patch:
        stopped = raises_at(3, PromptTrainer.forward_backward, KeyboardInterrupt)
        patch.setattr(PromptTrainer, "forward_backward", stopped)
        with pytest.raises(KeyboardInterrupt):
            run(folder, output, "CoOpCPT", *BASE_CLASSES, "TRAIN.CHECKPOINT_SECONDS", 0.0)
    return output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (NEW_CLASSES, r"DATASET\.SUBSAMPLE_CLASSES.*split hash.*class names.*apple"),
        (("TRAINER.COOP.N_CTX", 4), r"TRAINER\.COOP\.N_CTX.*3.*4"),
        (("CPT.NUM_CLUSTERS", 1), r"CPT\.NUM_CLUSTERS.*0.*1"),
        (("OPTIM.LR", 0.5), r"OPTIM\.LR.*0\.02.*0\.5"),
    ],
)
def test_another_run_is_not_resumed(folder, interrupted, options, message):
    resumed = prompt_cfg(folder, interrupted, "CoOpCPT", *SHORT, *BASE_CLASSES, "RESUME", interrupted, *options)
    with pytest.raises(CheckpointError, match=message):
        train(resumed)


def test_a_run_with_other_clusters_is_not_resumed(folder, interrupted, monkeypatch):
    """Same configuration, other map, as with another version of k-means."""
    trainer = build(folder, interrupted, "CoOpCPT", *BASE_CLASSES, "RESUME", interrupted)
    monkeypatch.setattr(trainer, "frozen_text_features", lambda: torch.eye(len(BASE), 32)[torch.tensor([0, 1, 0, 1])])
    with pytest.raises(CheckpointError, match="cluster_hash"):
        trainer.train()


def test_other_clip_weights_are_not_resumed(folder, interrupted, monkeypatch):
    trainer = build(folder, interrupted, "CoOpCPT", *BASE_CLASSES, "RESUME", interrupted)
    object.__setattr__(trainer.clip, "digest", "0" * 64)
    with pytest.raises(CheckpointError, match="backbone_sha256"):
        trainer.train()


# -- bad input ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 1])
def test_unreadable_image_is_named_and_the_states_stay(folder, tmp_path, workers):
    root = tmp_path / "data"
    for path in (folder / TinyWorld.dataset_dir).rglob("*.png"):
        copy = root / path.relative_to(folder)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    victim = root / TinyWorld.dataset_dir / "train" / "2_03.png"
    intact = victim.read_bytes()
    options = (*BASE_CLASSES, "DATASET.ROOT", root, "TRAIN.CHECKPOINT_SECONDS", 0.0, "DATALOADER.NUM_WORKERS", workers)
    run(folder, tmp_path / "whole", "CoOp", *options)
    victim.write_bytes(intact[:100])
    with pytest.raises(DataError, match=str(victim)):
        run(folder, tmp_path / "broken", "CoOp", *options)
    assert list((tmp_path / "broken").glob("resume/state-*"))
    victim.write_bytes(intact)
    run(folder, tmp_path / "broken", "CoOp", *options, "RESUME", tmp_path / "broken")
    assert fingerprint(tmp_path / "broken") == fingerprint(tmp_path / "whole")


def test_more_than_one_gpu_is_refused_with_the_remedy(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: None)
    with pytest.raises(ConfigError, match=r"2 CUDA devices.*CUDA_VISIBLE_DEVICES"):
        build(folder, tmp_path, "CoOp", "USE_CUDA", True)


def test_wrong_input_size_is_refused_with_the_right_one(folder, tmp_path):
    with pytest.raises(ConfigError, match=r'INPUT\.SIZE "\(16, 16\)"'):
        build(folder, tmp_path, "CoOp", "INPUT.SIZE", (32, 32))
