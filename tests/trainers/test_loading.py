"""Which trained prompts a trainer takes: same CLIP weights, same meaning; and prompts to start from."""

from __future__ import annotations

import pytest
import torch

from cpt_plugin import toolkit
from cpt_plugin.errors import CheckpointError
from tests.helpers.checkpoints import identical
from tests.helpers.prompt_runs import prompt_cfg, train
from tests.trainers.loading import rewritten
from tests.trainers.problems import saved

MAPLE = ("TRAINER.MAPLE.CTX_INIT", "a photo of a")


def build(folder, output, name, *options):
    toolkit.set_random_seed(1)
    return toolkit.build_trainer(prompt_cfg(folder, output, name, *options))


@pytest.fixture(scope="module")
def runs(folder, tmp_path_factory):
    """One finished run of one epoch of CoOp and of MaPLe."""
    outputs = {name: tmp_path_factory.mktemp(name) for name in ("CoOp", "MaPLe")}
    for name, output in outputs.items():
        train(prompt_cfg(folder, output, name, "OPTIM.MAX_EPOCH", 1, *MAPLE))
    return outputs


def prompts(trainer):
    return {name: value.clone() for name, value in trainer.model.prompt_learner.state_dict().items()}


def test_prompts_of_other_clip_weights_are_refused(folder, tmp_path, runs):
    trainer = build(folder, tmp_path, "CoOp")
    before = prompts(trainer)
    others = {"backbone_sha256": "0" * 64}
    path = rewritten(runs["CoOp"], tmp_path / "run", lambda content: content["extra"].update(others))
    with pytest.raises(CheckpointError, match=rf"other CLIP weights .*SHA-256 0{{12}}\).*{trainer.clip.digest[:12]}"):
        trainer.load_model(str(path), epoch=1)
    assert identical(prompts(trainer), before)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("CoOp", ("TRAINER.COOP.CLASS_TOKEN_POSITION", "front"), r'CLASS_TOKEN_POSITION: "end" != "front"'),
        ("CoOp", ("TRAINER.COOP.N_CTX", 5), r"TRAINER\.COOP\.N_CTX: 3 != 5"),
        ("MaPLe", ("TRAINER.MAPLE.CTX_INIT", "art of the big"), r'TRAINER\.MAPLE\.CTX_INIT: "a photo of a" != "art'),
    ],
)
def test_prompts_of_another_meaning_are_refused_by_key(folder, tmp_path, runs, name, options, message):
    """The first and the last have the right shapes, so that nothing else would tell."""
    trainer = build(folder, tmp_path, name, *MAPLE, *options)
    before = prompts(trainer)
    with pytest.raises(CheckpointError, match=message):
        trainer.load_model(str(runs[name]), epoch=1)
    assert identical(prompts(trainer), before)


def test_precision_and_initial_words_do_not_change_what_coop_s_prompts_mean(folder, tmp_path, runs):
    trainer = build(folder, tmp_path, "CoOp", "TRAINER.COOP.PREC", "fp32", "TRAINER.COOP.CTX_INIT", "art of the")
    trainer.load_model(str(runs["CoOp"]), epoch=1)
    assert identical(prompts(trainer), saved(runs["CoOp"])["state_dict"])


def test_checkpoint_that_names_neither_loads_with_a_note(folder, tmp_path, runs, caplog):
    def as_dassl(content):
        for key in ("extra", "config", "class_names"):
            content.pop(key)

    path = rewritten(runs["CoOp"], tmp_path / "run", as_dassl)
    trainer = build(folder, tmp_path, "CoOp", "TRAINER.COOP.CLASS_TOKEN_POSITION", "front")
    with caplog.at_level("INFO", logger="cpt_plugin"):
        trainer.load_model(str(path), epoch=1)
    assert "does not name the CLIP weights and settings of its prompts; only shapes are checked" in caplog.text
    assert identical(prompts(trainer), saved(runs["CoOp"])["state_dict"])


# -- MODEL.INIT_WEIGHTS ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["CoOp", "MaPLe"])
def test_training_starts_from_given_prompts(folder, tmp_path, runs, name):
    (path,) = runs[name].glob("*/model.pth.tar-1")
    trainer = build(folder, tmp_path, name, *MAPLE, "MODEL.INIT_WEIGHTS", path)
    start = saved(runs[name])["state_dict"]
    assert identical(prompts(trainer), start)
    trainer.train()
    assert not torch.equal(prompts(trainer)["ctx"], start["ctx"])


def test_prompts_to_start_from_that_do_not_fit_are_named(folder, tmp_path, runs):
    (path,) = runs["MaPLe"].glob("*/model.pth.tar-1")
    with pytest.raises(CheckpointError, match=r"does not fit CoOp: missing or unexpected.*compound_prompts_text"):
        build(folder, tmp_path, "CoOp", "MODEL.INIT_WEIGHTS", path)
    with pytest.raises(CheckpointError, match=rf"{tmp_path}/absent"):
        build(folder, tmp_path, "CoOp", "MODEL.INIT_WEIGHTS", tmp_path / "absent")


def test_file_without_prompts_is_refused(folder, tmp_path, runs):
    path = rewritten(runs["CoOp"], tmp_path / "run", lambda content: content.pop("state_dict"))
    with pytest.raises(CheckpointError, match="holds no prompts"):
        build(folder, tmp_path, "CoOp").load_model(str(path), epoch=1)
