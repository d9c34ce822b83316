"""What a second stage starts from, and the refusals when it is not stage one's prompts."""

from __future__ import annotations

import pytest
import torch

from cpt_plugin import toolkit
from cpt_plugin.errors import CheckpointError, ConfigError, DataError
from tests.helpers.prompt_runs import first_stage, prompt_cfg, train
from tests.helpers.tiny_clip import random_state
from tests.helpers.tiny_world import TinyWorld
from tests.trainers.loading import rewritten
from tests.trainers.problems import raises_at, saved
from trainers._base import PromptTrainer

SHORT = ("OPTIM.MAX_EPOCH", 2, "TRAIN.CHECKPOINT_SECONDS", 1000.0)
ONE, HASH = "TRAINER.DPC.STAGE_ONE", "TRAINER.DPC.STAGE_ONE_HASH"


def build(folder, output, *options, name="CoOpDPC"):
    toolkit.set_random_seed(1)
    return toolkit.build_trainer(prompt_cfg(folder, output, name, *SHORT, *options))


@pytest.fixture(scope="module")
def second(folder, tmp_path_factory):
    """Output folder of a finished CoOpDPC run."""
    output = tmp_path_factory.mktemp("second")
    train(prompt_cfg(folder, output, "CoOpDPC", *SHORT))
    return output


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("TOP_K", 1, "at least 2, not 1"),
        ("WEIGHT_BASE", 1.5, r"in \[0, 1\], not 1\.5"),
        ("WEIGHT_NEW", -0.1, r"in \[0, 1\], not -0\.1"),
        ("BASE_EVAL", "best", "mix or parallel, not 'best'"),
        ("STAGE_ONE_EPOCH", -1, "at least 0, not -1"),
    ],
)
def test_values_out_of_range_are_named(folder, tmp_path, key, value, allowed):
    with pytest.raises(ConfigError, match=rf"TRAINER\.DPC\.{key} must be {allowed}"):
        build(folder, tmp_path, f"TRAINER.DPC.{key}", value)


def test_training_without_stage_one_says_what_to_do(folder, tmp_path):
    trainer = build(folder, tmp_path, ONE, "")
    with pytest.raises(ConfigError, match=r"CoOpDPC is a second stage: train CoOp first.*TRAINER\.DPC\.STAGE_ONE"):
        trainer.train()


def test_initial_weights_are_refused(folder, tmp_path):
    with pytest.raises(ConfigError, match=r"TRAINER\.DPC\.STAGE_ONE, and leave MODEL\.INIT_WEIGHTS empty"):
        build(folder, tmp_path, "MODEL.INIT_WEIGHTS", "some.pth")


@pytest.mark.parametrize(
    ("stage_one", "options", "message"),
    [
        ("nowhere", (), r"nowhere holds no prompts of CoOp \(prompt_learner/model\.\.\.\); there is none"),
        ("MaPLe", (), r"holds no prompts of CoOp .*there is MultiModalPromptLearner/model\.pth\.tar-2\."),
        ("CoOp", ("TRAINER.DPC.STAGE_ONE_EPOCH", 7), r"CoOp of epoch 7 .*prompt_learner/model\.pth\.tar-2"),
        ("CoOp", ("TRAINER.COOP.N_CTX", 5), r"TRAINER\.COOP\.N_CTX: 3 != 5"),
        ("CoOp", (HASH, "0" * 64), r"have the hash [0-9a-f]{12}, not 000000000000"),
    ],
)
def test_folders_without_the_right_prompts_are_refused(folder, tmp_path, stage_one, options, message):
    path = tmp_path / stage_one if stage_one == "nowhere" else first_stage(folder, stage_one)
    with pytest.raises(CheckpointError, match=message):
        build(folder, tmp_path / "out", ONE, path, *options)


def test_a_second_stage_is_no_first_stage(folder, tmp_path, second):
    with pytest.raises(CheckpointError, match=r"does not fit CoOpDPC.*parallel\.ctx"):
        build(folder, tmp_path, ONE, second)


def test_other_clip_weights_are_refused(folder, tmp_path):
    path = tmp_path / "other.pt"
    state = random_state(text_width=64, vision_width=64, text_layers=3, vision_layers=3, embed_dim=32, resolution=16,
                         patch=8, seed=5)  # fmt: skip
    torch.save(state, path)
    with pytest.raises(CheckpointError, match="trained on other CLIP weights"):
        build(folder, tmp_path, "MODEL.BACKBONE.NAME", path)


def test_damaged_stage_one_is_refused(folder, tmp_path):
    copy = rewritten(first_stage(folder, "CoOp"), tmp_path, lambda content: None)
    (path,) = copy.glob("*/model.pth.tar-2")
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(CheckpointError, match=r"model\.pth\.tar-2"):
        build(folder, tmp_path / "out", ONE, copy)


def test_class_specific_contexts_serve_their_own_classes_only(folder, tmp_path):
    csc = ("TRAINER.COOP.CSC", True, "DATASET.SUBSAMPLE_CLASSES", "base")
    train(prompt_cfg(folder, tmp_path / "first", "CoOp", *SHORT, *csc))
    given = (*csc, ONE, tmp_path / "first")
    trainer = train(prompt_cfg(folder, tmp_path / "second", "CoOpDPC", *SHORT, *given))
    assert trainer.model.prompt_learner.class_specific
    with pytest.raises(CheckpointError, match="classes ant, bee; they cannot be used for cat, dog"):
        build(folder, tmp_path / "new", *given, "DATASET.SUBSAMPLE_CLASSES", "new")


def test_other_images_in_stage_one_are_said(folder, tmp_path, caplog):
    for options, expected in (((), 0), (("DATASET.NAME", "TinyWorld", "DATASET.SUBSAMPLE_CLASSES", "base"), 1)):
        caplog.clear()
        train(prompt_cfg(folder, tmp_path / str(expected), "CoOpDPC", *SHORT, *options))
        assert caplog.text.count("stage one was trained on other images or classes") == expected
    assert TinyWorld.dataset_dir == "tiny_world"


def test_one_class_has_no_negatives(folder, tmp_path):
    trainer = build(folder, tmp_path)
    trainer.dm.dataset.replace_train([item for item in trainer.dm.dataset.train_x if item.label == 0])
    with pytest.raises(DataError, match="at least 2"):
        trainer.train()


def test_evaluation_needs_no_stage_one(folder, tmp_path, second):
    trained = saved(second)
    trainer = build(folder, tmp_path, ONE, "", HASH, trained["extra"]["stage_one"])
    trainer.load_model(str(second), epoch=2)
    assert trainer.stage_one_hash == trained["extra"]["stage_one"]
    for key, value in trainer.model.prompt_learner.state_dict().items():
        assert torch.equal(value, trained["state_dict"][key])
    other = build(folder, tmp_path, ONE, "", HASH, "f" * 64)
    with pytest.raises(CheckpointError, match="not ffffffffffff"):
        other.load_model(str(second), epoch=2)


def test_weights_may_be_chosen_at_evaluation(folder, tmp_path, second):
    image = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    logits = {}
    for weight in (0.0, 0.2, 1.0):
        trainer = build(folder, tmp_path, ONE, "", "TRAINER.DPC.WEIGHT_BASE", weight)
        trainer.load_model(str(second), epoch=2)
        trainer.set_model_mode("eval")
        with torch.no_grad():
            logits[weight] = trainer.model_inference(image)
    assert not torch.equal(logits[0.0], logits[0.2])
    assert not torch.equal(logits[1.0], logits[0.2])


def test_plain_prompts_do_not_load_as_a_second_stage_nor_the_other_way_round(folder, tmp_path, second):
    trainer = build(folder, tmp_path)
    with pytest.raises(CheckpointError, match=r"does not fit CoOpDPC: missing or unexpected.*stage_one\.ctx"):
        trainer.load_model(str(first_stage(folder, "CoOp")), epoch=2)
    plain = build(folder, tmp_path, name="CoOp")
    with pytest.raises(CheckpointError, match=r"does not fit CoOp: missing or unexpected.*stage_one\.ctx"):
        plain.load_model(str(second), epoch=2)


def test_a_run_is_not_resumed_from_other_prompts_of_stage_one(folder, tmp_path):
    output = tmp_path / "cut"
    stopped = raises_at(3, PromptTrainer.forward_backward, KeyboardInterrupt)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PromptTrainer, "forward_backward", stopped)
        with pytest.raises(KeyboardInterrupt):
            train(prompt_cfg(folder, output, "CoOpDPC"))
    changed = rewritten(
        first_stage(folder, "CoOp"), tmp_path / "changed", lambda content: content["state_dict"]["ctx"].add_(0.1)
    )
    with pytest.raises(CheckpointError, match="stage_one"):
        train(prompt_cfg(folder, output, "CoOpDPC", ONE, changed, "RESUME", output))
    moved = rewritten(first_stage(folder, "CoOp"), tmp_path / "moved", lambda content: None)
    train(prompt_cfg(folder, output, "CoOpDPC", ONE, moved, "RESUME", output))
    assert list(output.glob("*/model.pth.tar-3"))
