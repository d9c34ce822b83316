"""Prompt checkpoints in the layout of the released code: loaded by name map, refused when they do not fit.

The files are built by hand here; tests/parity/test_released_checkpoints.py lets the released code write them.
"""

from __future__ import annotations

import os
from collections import OrderedDict

import pytest
import torch

from cpt_plugin import toolkit
from cpt_plugin.encoders import tokenize
from cpt_plugin.errors import CheckpointError
from tests.helpers.prompt_runs import prompt_cfg
from tests.helpers.tiny_world import NEW
from trainers._released import TOLERANCE, take_apart

OPTIONS = {
    "CoOp": (),
    "CoCoOp": (),
    "MaPLe": ("TRAINER.MAPLE.CTX_INIT", "a photo of a"),
    "IVLP": (),
    "PromptSRC": (),
}
DEEP = {"deep_text.0": "text_encoder.transformer.resblocks.1.VPT_shallow",
        "deep_visual.0": "image_encoder.transformer.resblocks.1.VPT_shallow",
        "visual_ctx": "image_encoder.VPT"}  # fmt: skip


def build(folder, output, name, *options):
    toolkit.set_random_seed(1)
    return toolkit.build_trainer(prompt_cfg(folder, output, name, *OPTIONS[name], *options))


def schedule(parameters):
    """Optimizer and live scheduler as Dassl keeps them."""
    optimizer = torch.optim.SGD(parameters, lr=0.1, momentum=0.9)
    for p in parameters:
        p.grad = torch.ones_like(p)
    optimizer.step()
    return optimizer, torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 5.0)


def released_state(trainer, dtype=torch.float16):
    """New prompts, and the state dict in which the released code would save them for these classes."""
    generator = torch.Generator().manual_seed(5)
    learner = trainer.model.prompt_learner
    prompts = {
        name: (0.1 * torch.randn(value.shape, generator=generator)).to(dtype)
        for name, value in learner.state_dict().items()
    }
    clip, whole = trainer.clip, not type(trainer).__name__.startswith("Co")
    lead = "prompt_learner." if whole else ""
    sentences = [f"{'X ' * learner.tokens.n_ctx}{name}." for name in trainer.dm.dataset.classnames]
    embedded = clip.model.token_embedding(tokenize(sentences, clip)).detach().to(dtype)
    state = OrderedDict({f"{lead}token_prefix": embedded[:, :1]})
    state[f"{lead}token_suffix"] = embedded[:, 1 + learner.tokens.n_ctx :]
    if whole:
        for key, value in clip.model.state_dict().items():
            if key.startswith("visual."):
                state[key.replace("visual.", "image_encoder.", 1)] = value.to(dtype)
                if type(trainer).__name__ == "PromptSRC":
                    state[key.replace("visual.", "prompt_learner.ZS_image_encoder.", 1)] = value.to(dtype)
            elif key == "logit_scale":
                state[key] = value
            elif not key.startswith("token_embedding."):
                state[f"text_encoder.{key}"] = value.to(dtype)
    for name, value in prompts.items():
        state[DEEP.get(name, lead + name)] = value
    return prompts, state


def written(folder, trainer, state, **changes):
    """``<folder>/<registered name>/model.pth.tar-5`` as Dassl writes it; returns the folder."""
    optimizer, successor = schedule([torch.nn.Parameter(torch.zeros(3))])
    path = folder / trainer.registered_name / "model.pth.tar-5"
    path.parent.mkdir(parents=True, exist_ok=True)
    scheduler = {"warmup_epoch": 1, "last_epoch": 1, "successor": successor}
    content = {"state_dict": state, "epoch": 5, "optimizer": optimizer.state_dict(), "scheduler": scheduler}
    torch.save({**content, "val_result": None, **changes}, path)
    return folder


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("name", OPTIONS)
def test_prompts_are_taken_over_by_name_in_float32(folder, tmp_path, name, dtype):
    trainer = build(folder, tmp_path / "run", name)
    expected, state = released_state(trainer, dtype)
    before = {key: value.clone() for key, value in trainer.model.prompt_learner.state_dict().items()}
    trainer.load_model(str(written(tmp_path, trainer, state)), epoch=5)
    loaded = trainer.model.prompt_learner.state_dict()
    assert loaded.keys() == expected.keys() == before.keys()
    for key, value in loaded.items():
        assert value.dtype == torch.float32
        assert torch.equal(value, expected[key].float()), key
        assert not torch.equal(value, before[key])


@pytest.mark.parametrize("name", OPTIONS)
def test_training_starts_from_released_prompts_of_other_classes(folder, tmp_path, name):
    source = build(folder, tmp_path / "source", name, "DATASET.NAME", "TinyWorld")
    expected, state = released_state(source)
    path = written(tmp_path, source, state) / source.registered_name / "model.pth.tar-5"
    trainer = build(folder, tmp_path / "run", name, "MODEL.INIT_WEIGHTS", path, "OPTIM.MAX_EPOCH", 1)
    loaded = trainer.model.prompt_learner.state_dict()
    assert all(torch.equal(value, expected[key].float()) for key, value in loaded.items())
    trainer.train()
    assert not torch.equal(trainer.model.prompt_learner.ctx, expected["ctx"].float())


def frozen_keys(name):
    keys = {"token_prefix": "the embedding of the start token"}
    if name in ("MaPLe", "PromptSRC"):
        keys = {f"prompt_learner.{key}": message for key, message in keys.items()}
        keys["text_encoder.transformer.resblocks.2.mlp.c_fc.weight"] = r"transformer\.resblocks\.2\.mlp\.c_fc\.weight"
        keys["image_encoder.conv1.weight"] = r"visual\.conv1\.weight"
        keys["logit_scale"] = "logit_scale"
    if name == "PromptSRC":
        keys["prompt_learner.ZS_image_encoder.proj"] = r"visual\.proj"
    return keys


CHANGED = [(name, key) for name in ("CoOp", "MaPLe", "PromptSRC") for key in frozen_keys(name)]


@pytest.mark.parametrize(("name", "key"), CHANGED)
def test_prompts_of_other_clip_weights_are_refused_by_tensor(folder, tmp_path, name, key):
    """Twice the tolerance is refused; half of it passes, as what float16 leaves after PromptSRC's averaging must."""
    trainer = build(folder, tmp_path / "run", name)
    _, state = released_state(trainer, torch.float32)
    right = state[key]
    for factor, refused in ((1 + 2 * TOLERANCE, True), (1 + 0.5 * TOLERANCE, False), (torch.nan, True)):
        state[key] = right * factor
        where = written(tmp_path, trainer, state)
        if refused:
            with pytest.raises(CheckpointError, match=rf"other CLIP weights .*{frozen_keys(name)[key]} differs by"):
                trainer.load_model(str(where), epoch=5)
        else:
            trainer.load_model(str(where), epoch=5)


def test_deeper_clip_and_other_widths_are_refused_by_tensor(folder, tmp_path):
    trainer = build(folder, tmp_path / "run", "MaPLe")
    _, state = released_state(trainer)
    key = "text_encoder.transformer.resblocks.3.ln_1.weight"
    deeper = written(tmp_path / "deep", trainer, OrderedDict(state, **{key: torch.ones(64)}))
    with pytest.raises(CheckpointError, match=r"transformer\.resblocks\.3\.ln_1\.weight is no part of it"):
        trainer.load_model(str(deeper), epoch=5)
    wider = written(tmp_path / "wide", trainer, OrderedDict(state, **{"image_encoder.proj": torch.ones(64, 48)}))
    with pytest.raises(CheckpointError, match=r"visual\.proj has shape \(64, 48\), not \(64, 32\)"):
        trainer.load_model(str(wider), epoch=5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("TRAINER.IVLP.PROMPT_DEPTH_TEXT", 3), r"does not fit IVLP: missing or unexpected \['deep_text.1'\]"),
        (("TRAINER.IVLP.PROMPT_DEPTH_VISION", 0), r"unexpected \['deep_visual.0', 'visual_ctx'\]"),
        (("TRAINER.IVLP.N_CTX_VISION", 5), r"visual_ctx has shape \(2, 64\), this run needs \(5, 64\)"),
    ],
)
def test_prompts_of_another_length_or_depth_are_refused_by_name(folder, tmp_path, options, message):
    source = build(folder, tmp_path / "source", "IVLP")
    where = written(tmp_path, source, released_state(source)[1])
    trainer = build(folder, tmp_path / "run", "IVLP", *options)
    before = trainer.model.prompt_learner.ctx.clone()
    with pytest.raises(CheckpointError, match=message):
        trainer.load_model(str(where), epoch=5)
    assert torch.equal(trainer.model.prompt_learner.ctx, before)


def test_prompts_of_another_method_are_refused(folder, tmp_path):
    source = build(folder, tmp_path / "source", "IVLP")
    written(tmp_path, source, released_state(source)[1])
    path = tmp_path / source.registered_name / "model.pth.tar-5"
    with pytest.raises(CheckpointError, match=r"does not fit CoOp: missing or unexpected.*deep_text\.0.*visual_ctx"):
        build(folder, tmp_path / "run", "CoOp", "MODEL.INIT_WEIGHTS", path, "TRAINER.COOP.N_CTX", 2)


def test_class_specific_contexts_serve_their_own_classes_only(folder, tmp_path):
    """The names of the classes are not in the file, but their embeddings are."""
    own = ("TRAINER.COOP.CSC", True, "DATASET.NAME", "TinyWorld", "DATASET.SUBSAMPLE_CLASSES")
    source = build(folder, tmp_path / "source", "CoOp", *own, "base")
    expected, state = released_state(source)
    where = written(tmp_path, source, state)
    source.load_model(str(where), epoch=5)
    assert torch.equal(source.model.prompt_learner.ctx, expected["ctx"].float())
    other = build(folder, tmp_path / "other", "CoOp", *own, "new")
    with pytest.raises(CheckpointError, match=f"contexts of other classes than the {len(NEW)} here"):
        other.load_model(str(where), epoch=5)


class Attack:
    def __init__(self, target):
        self.target = str(target)

    def __reduce__(self):
        return os.mkdir, (self.target,)


@pytest.mark.parametrize("where", ["scheduler", "optimizer", "state_dict"])
def test_nothing_in_a_file_is_run(folder, tmp_path, where):
    trainer = build(folder, tmp_path / "run", "CoOp")
    target = tmp_path / "made by the file"
    path = written(tmp_path, trainer, released_state(trainer)[1], **{where: {"successor": Attack(target)}})
    with pytest.raises(CheckpointError, match=r"asks for '\w+\.mkdir'.*Nothing was executed"):
        trainer.load_model(str(path), epoch=5)
    assert not target.exists()


def test_live_objects_of_a_file_stay_dead(folder, tmp_path, monkeypatch):
    """Not even the classes of torch that such a file names are called."""
    trainer = build(folder, tmp_path / "run", "CoOp")
    expected, state = released_state(trainer)
    where = written(tmp_path, trainer, state)
    for cls in (torch.optim.SGD, torch.optim.lr_scheduler.CosineAnnealingLR):
        monkeypatch.setattr(cls, "__setstate__", lambda *args: pytest.fail("was brought to life"), raising=False)
        monkeypatch.setattr(cls, "__init__", lambda *args: pytest.fail("was made"))
    trainer.load_model(str(where), epoch=5)
    assert torch.equal(trainer.model.prompt_learner.ctx, expected["ctx"].float())


@pytest.mark.parametrize("damage", ["flip", "cut"])
def test_damaged_files_are_refused(folder, tmp_path, damage):
    trainer = build(folder, tmp_path / "run", "CoOp")
    where = written(tmp_path, trainer, released_state(trainer)[1])
    path = where / "prompt_learner" / "model.pth.tar-5"
    data = bytearray(path.read_bytes())
    at = data.index(b"/data/0") + 200
    data[at] ^= 1
    path.write_bytes(bytes(data) if damage == "flip" else bytes(data[: len(data) // 2]))
    with pytest.raises(CheckpointError, match=r"model\.pth\.tar-5 is (damaged|refused)"):
        trainer.load_model(str(where), epoch=5)


def test_names_of_the_largest_published_depth():
    """12 blocks a tower, all with prompts; block 10 must not be taken for block 1."""
    state = {f"{side}_encoder.transformer.resblocks.{i}.VPT_shallow": torch.full((2,), float(i))
             for side in ("text", "image") for i in range(1, 12)}  # fmt: skip
    prompts = take_apart(state).prompts
    assert {key: value[0].item() for key, value in prompts.items()} == {
        f"deep_{side}.{i - 1}": i for side in ("text", "visual") for i in range(1, 12)
    }
