"""What was trained decides in evaluation, not what the evaluating command says of its data."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from cpt_plugin import toolkit
from cpt_plugin.encoders import ClassTokens, FrozenCLIP, ImagePrompts, TextPrompts
from cpt_plugin.errors import CheckpointError
from cpt_plugin.toolkit.embedded.checkpoint import load_checkpoint, save_checkpoint
from cpt_plugin.toolkit.embedded.resume import ResumeFolder
from tests.helpers.prompt_runs import prompt_cfg, train
from tests.toolkit.small import CLASSES, SmallShapes
from tests.trainers.problems import raises_at, saved
from trainers._base import PromptTrainer
from trainers._controlled import controlled
from trainers._prompted import PromptLearner
from trainers._regularized import regularized
from trainers.shallow_vl import ShallowVL

SHORT = ("OPTIM.MAX_EPOCH", 1, "TRAIN.CHECKPOINT_SECONDS", 1000.0)
TAIL = ("DATASET.IMBALANCE_TAU", 0.25, "DATASET.MAX_PER_CLASS", 8)
BASE, NEW = (("DATASET.SUBSAMPLE_CLASSES", half) for half in ("base", "new"))
ALL_COUNTS, BASE_COUNTS = [8, 5, 3, 2], [8, 2]
"""floor(8 / 4^(r / (K - 1))) for K = 4 and 2."""


@toolkit.DATASET_REGISTRY.register()
class SmallOthers(SmallShapes):
    """SmallShapes under names of other classes."""

    def __init__(self, cfg: Any) -> None:
        super().__init__(cfg)
        parts = (self.train_x, self.val, self.test)
        renamed = [[toolkit.Datum(d.impath, d.label, 0, f"other {d.classname}") for d in part] for part in parts]
        toolkit.DatasetBase.__init__(self, train_x=renamed[0], val=renamed[1], test=renamed[2])


@pytest.fixture(scope="module")
def on_all(folder, tmp_path_factory):
    output = tmp_path_factory.mktemp("all")
    train(prompt_cfg(folder, output, "CoOp", *SHORT, *TAIL))
    return output


@pytest.fixture(scope="module")
def on_base(folder, tmp_path_factory):
    output = tmp_path_factory.mktemp("base")
    train(prompt_cfg(folder, output, "CoOp", *SHORT, *TAIL, *BASE))
    return output


@pytest.fixture(scope="module")
def image():
    return torch.randn(5, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def loaded(folder, output, trainer, *options):
    made = toolkit.build_trainer(prompt_cfg(folder, output.parent / "unused", trainer, *SHORT, *options))
    made.load_model(str(output), epoch=1)
    made.set_model_mode("eval")
    return made


def logits(trainer, image):
    with torch.no_grad():
        return trainer.model_inference(image)


def pair(folder, output, image, *options):
    """Logits of CoOp and of CoOpPOSTHOC, tau 0.5."""
    plain, adjusted = (loaded(folder, output, name, *options) for name in ("CoOp", "CoOpPOSTHOC"))
    adjusted.active_controls[0].tau = 0.5
    return logits(plain, image), logits(adjusted, image)


def without_counts(output: Path, copy: Path) -> Path:
    """A run's folder as earlier versions wrote it."""
    (path,) = output.glob("*/model.pth.tar-1")
    content = load_checkpoint(path)
    for key in ("class_counts", "selection", "parts_without_gradient"):
        del content[key]
    save_checkpoint(content, copy / path.parent.name / path.name)
    return copy


def test_checkpoints_and_states_keep_classes_and_their_images(folder, on_base, tmp_path, monkeypatch):
    content = saved(on_base)
    assert (content["class_names"], content["class_counts"]) == (list(CLASSES[:2]), BASE_COUNTS)
    with monkeypatch.context() as patch:
        patch.setattr(PromptTrainer, "forward_backward", raises_at(1, PromptTrainer.forward_backward, OSError))
        with pytest.raises(OSError):
            train(prompt_cfg(folder, tmp_path, "CoOp", *TAIL, *BASE))
    (state,) = map(load_checkpoint, ResumeFolder(tmp_path).newest_first())
    assert (state["class_names"], state["class_counts"]) == (list(CLASSES[:2]), BASE_COUNTS)


def test_a_trainer_says_what_it_trained_or_loaded(folder, on_base, tmp_path):
    trainer = toolkit.build_trainer(prompt_cfg(folder, tmp_path, "CoOp", *SHORT, *TAIL))
    assert (trainer.trained_class_names, trainer.trained_class_counts) == ((), ())
    trainer.train()
    assert (trainer.trained_class_names, trainer.trained_class_counts) == (CLASSES, tuple(ALL_COUNTS))
    for options in ((), NEW, TAIL):
        other = loaded(folder, on_base, "CoOp", *options)
        assert (other.trained_class_names, other.trained_class_counts) == (CLASSES[:2], tuple(BASE_COUNTS))
        other.save_model(0, tmp_path / "again")
        again = loaded(folder, tmp_path / "again", "CoOp")
        assert (again.trained_class_names, again.trained_class_counts) == (CLASSES[:2], tuple(BASE_COUNTS))
    assert toolkit.build_trainer(prompt_cfg(folder, tmp_path, "ZeroshotCLIP", *TAIL)).trained_class_names == ()


@pytest.mark.parametrize("options", [(), TAIL, ("DATASET.IMBALANCE_TAU", 0.5), ("SEED", 7, *TAIL)])
def test_the_prior_is_that_of_the_training(folder, on_all, image, options):
    """Without TAU on the evaluating command nothing was adjusted."""
    plain, adjusted = pair(folder, on_all, image, *options)
    prior = torch.tensor(ALL_COUNTS) / sum(ALL_COUNTS)
    torch.testing.assert_close(adjusted, plain - 0.5 * prior.log(), rtol=1e-5, atol=1e-4)


def test_prompts_that_training_starts_from_have_their_prior(folder, on_all, image):
    (path,) = on_all.glob("*/model.pth.tar-1")
    options = ("MODEL.INIT_WEIGHTS", str(path))
    made = toolkit.build_trainer(prompt_cfg(folder, on_all.parent / "unused", "CoOpPOSTHOC", *SHORT, *options))
    made.set_model_mode("eval")
    plain = logits(loaded(folder, on_all, "CoOp"), image)
    prior = torch.tensor(ALL_COUNTS) / sum(ALL_COUNTS)
    torch.testing.assert_close(logits(made, image), plain - prior.log(), rtol=1e-5, atol=1e-4)


def test_of_more_classes_the_trained_ones_are_adjusted(folder, on_base, image, caplog):
    caplog.set_level(logging.INFO, logger="cpt_plugin")
    plain, adjusted = pair(folder, on_base, image)
    ratio = torch.tensor(BASE_COUNTS) / 5
    torch.testing.assert_close(adjusted[:, :2], plain[:, :2] - 0.5 * ratio.log(), rtol=1e-5, atol=1e-4)
    assert torch.equal(adjusted[:, 2:], plain[:, 2:])
    assert "2 of the 4 classes here were trained and are adjusted; 2 have no prior" in caplog.text
    assert "stay as they are: cat, dog" in caplog.text


def test_classes_trained_on_equally_many_images_stay_beside_others(folder, image, tmp_path):
    train(prompt_cfg(folder, tmp_path / "balanced", "CoOp", *SHORT, *BASE))
    plain, adjusted = pair(folder, tmp_path / "balanced", image)
    torch.testing.assert_close(adjusted, plain)


def test_other_classes_have_no_prior(folder, on_base, image, caplog):
    caplog.set_level(logging.INFO, logger="cpt_plugin")
    plain, adjusted = pair(folder, on_base, image, *NEW)
    assert torch.equal(adjusted, plain)
    assert "none of the 2 classes here was trained" in caplog.text


def test_an_earlier_checkpoint_is_adjusted_by_the_images_it_was_trained_on(folder, on_all, on_base, image, tmp_path):
    old = without_counts(on_all, tmp_path / "all")
    plain, adjusted = pair(folder, old, image, *TAIL)
    prior = torch.tensor(ALL_COUNTS) / sum(ALL_COUNTS)
    torch.testing.assert_close(adjusted, plain - 0.5 * prior.log(), rtol=1e-5, atol=1e-4)
    old = without_counts(on_base, tmp_path / "base")
    plain, adjusted = pair(folder, old, image, *NEW)
    assert torch.equal(adjusted, plain), "no class of the training is evaluated"


def test_an_earlier_checkpoint_is_refused_where_its_prior_is_unknown(folder, on_all, image, tmp_path):
    old = without_counts(on_all, tmp_path)
    message = r"earlier version.*DATASET\.IMBALANCE_TAU: 0\.25 != 1\.0.*Give those of the training run, or train again"
    with pytest.raises(CheckpointError, match=message):
        pair(folder, old, image)
    assert loaded(folder, old, "CoOp").trained_class_counts is None
    other = loaded(folder, old, "CoOp")
    other.save_model(0, tmp_path / "again")
    with pytest.raises(CheckpointError, match="does not say how many images"):
        pair(folder, tmp_path / "again", image)


def test_a_released_checkpoint_is_refused(folder, on_all, image, tmp_path):
    (path,) = on_all.glob("*/model.pth.tar-1")
    content = {key: load_checkpoint(path)[key] for key in ("state_dict", "epoch", "val_result")}
    released = tmp_path / "released" / path.parent.name / path.name
    released.parent.mkdir(parents=True)
    torch.save(content, released)
    for options in ((), NEW):
        with pytest.raises(CheckpointError, match=r"released code does not keep that, .*\. Train the prompts anew"):
            pair(folder, tmp_path / "released", image, *options)


@pytest.mark.parametrize(
    ("options", "weight"),
    [((), 0.2), (NEW, 0.0), (BASE, 0.2), (("DATASET.SUBSAMPLE_CLASSES", "all", "DATASET.NAME", "SmallOthers"), 0.0)],
)
def test_dpc_mixes_as_the_classes_were_trained_or_not(folder, tmp_path_factory, options, weight):
    """All classes of another data set are new, whatever SUBSAMPLE_CLASSES says."""
    output = folder / "dpc-on-base"
    stage = folder / "dpc-on-base-stage-one"
    if not output.is_dir():
        train(prompt_cfg(folder, stage, "CoOp", *SHORT, *BASE))
        train(prompt_cfg(folder, output, "CoOpDPC", *SHORT, *BASE, "TRAINER.DPC.STAGE_ONE", str(stage)))
    trainer = loaded(folder, output, "CoOpDPC", "TRAINER.DPC.STAGE_ONE", "", *options)
    assert trainer.dual_prompts.weight == weight


def test_dpc_on_new_classes_that_were_trained_after_all(folder, tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="cpt_plugin")
    train(prompt_cfg(folder, tmp_path, "CoOpDPC", *SHORT))
    trainer = loaded(folder, tmp_path, "CoOpDPC", "TRAINER.DPC.STAGE_ONE", "", *NEW)
    assert trainer.dual_prompts.weight == 0.2
    assert "all of the classes here were trained, so the mixture is that of base classes" in caplog.text


class VisualPrompts(PromptLearner):
    """Visual prompts beside texts that are the class names alone."""

    def __init__(self, clip: FrozenCLIP, class_names: list[str]) -> None:
        super().__init__()
        self.tokens = ClassTokens.build(clip, class_names, 0)
        self.ctx = torch.nn.Parameter(0.02 * torch.randn(2, clip.vision_width))

    def text_prompts(self, image: torch.Tensor | None = None) -> TextPrompts:
        return TextPrompts(self.tokens)

    def image_prompts(self) -> ImagePrompts:
        return ImagePrompts(self.ctx, after_norm=True)


class VisualOnly(ShallowVL):
    def build_prompt_learner(self, clip: FrozenCLIP, class_names: list[str]) -> PromptLearner:
        return VisualPrompts(clip, class_names)


VisualOnlyCPT = toolkit.TRAINER_REGISTRY.register()(regularized(VisualOnly, ("cpt",)))
toolkit.TRAINER_REGISTRY.register()(controlled(VisualOnlyCPT, ("posthoc",)))
IDLE = ("etf", "rs")


def test_parts_without_a_gradient_stay_with_the_prompts(folder, tmp_path, caplog):
    """A learner of visual prompts: its text parts are constants, which its checkpoints say."""
    trainer = train(prompt_cfg(folder, tmp_path / "run", "VisualOnlyCPT", *SHORT, *TAIL))
    assert trainer.parts_without_gradient == IDLE
    warnings = [r.message for r in caplog.records if "Without a gradient" in r.message]
    assert len(warnings) == 1
    assert "step 1 (epoch 1, batch 1): etf of cpt, rs of cpt" in warnings[0]
    assert tuple(saved(tmp_path / "run")["parts_without_gradient"]) == IDLE
    for name in ("VisualOnlyCPT", "VisualOnlyCPTPOSTHOC"):
        assert loaded(folder, tmp_path / "run", name, *TAIL).parts_without_gradient == IDLE
    again = ("RESUME", str(tmp_path / "run"))
    finished = train(prompt_cfg(folder, tmp_path / "run", "VisualOnlyCPT", *SHORT, *TAIL, *again))
    assert finished.parts_without_gradient == IDLE


def test_a_resumed_run_knows_the_parts_of_the_steps_before(folder, tmp_path, monkeypatch):
    """Killed after the last step: no further step would tell."""
    options = (*SHORT[:2], *TAIL)
    with monkeypatch.context() as patch:
        patch.setattr(PromptTrainer, "after_train", lambda self: (_ for _ in ()).throw(OSError))
        with pytest.raises(OSError):
            train(prompt_cfg(folder, tmp_path, "VisualOnlyCPT", *options))
    resumed = train(prompt_cfg(folder, tmp_path, "VisualOnlyCPT", *options, "RESUME", str(tmp_path)))
    assert resumed.parts_without_gradient == IDLE


def test_a_trained_part_is_not_named(folder, tmp_path):
    assert train(prompt_cfg(folder, tmp_path, "CoOpCPT", *SHORT, *TAIL)).parts_without_gradient == ()


def test_the_choice_of_the_epoch_is_told(folder, on_all, tmp_path):
    best = ("TEST.FINAL_MODEL", "best_val", "OPTIM.MAX_EPOCH", 2)
    trainer = train(prompt_cfg(folder, tmp_path, "CoOpSTOP", *TAIL, *best))
    assert trainer.selection == "best of 2 epochs on 8 validation images"
    other = toolkit.build_trainer(prompt_cfg(folder, tmp_path / "unused", "CoOp", *TAIL))
    told = []
    for epoch in (None, 2):
        other.load_model(str(tmp_path), epoch=epoch)
        told.append(other.selection)
    assert told == ["best of 2 epochs on 8 validation images", "last epoch"]
    assert loaded(folder, on_all, "CoOp").selection == "last epoch"
    plain = train(prompt_cfg(folder, tmp_path / "plain", "CoOp", *TAIL, "TRAIN.CHECKPOINT_FREQ", 1))
    assert plain.selection == "last epoch"
    assert loaded(folder, tmp_path / "plain", "CoOp").selection == "epoch 1 of 3"
    untested = (*best, "TEST.NO_TEST", True)
    assert train(prompt_cfg(folder, tmp_path / "no test", "CoOp", *TAIL, *untested)).selection == "last epoch"
    assert toolkit.build_trainer(prompt_cfg(folder, tmp_path / "zero", "ZeroshotCLIP")).selection == ""


def test_groups_of_an_evaluation_are_those_of_the_training(folder, on_all, on_base, tmp_path, caplog):
    """Every class is tested on three images; the log's groups go by the training's 8, 5, 3 and 2, or 8 and 2 images."""
    caplog.set_level(logging.INFO, logger="cpt_plugin")
    groups = ("many", "medium", "few", "head", "mid", "tail")
    results = []
    for options in ((), ("DATASET.IMBALANCE_TAU", 0.5), TAIL):
        trainer = loaded(folder, on_all, "CoOp", *options)
        trainer.test()
        results.append({name: trainer.results.get(name) for name in groups})
    assert results[0] == results[1] == results[2]
    correct = [100 * c / t for c, t in trainer.evaluator.class_counts()]
    assert results[0]["medium"] == pytest.approx(sum(correct[:2]) / 2)
    assert results[0]["few"] == pytest.approx(sum(correct[2:]) / 2)
    trainer = loaded(folder, on_base, "CoOp")
    trainer.test()
    correct = [100 * c / t for c, t in trainer.evaluator.class_counts()]
    assert (trainer.results["medium"], trainer.results["few"]) == pytest.approx((correct[0], correct[1]))
    trainer = loaded(folder, on_base, "CoOp", *NEW, *TAIL)
    trainer.test()
    assert not {*groups} & {*trainer.results}
