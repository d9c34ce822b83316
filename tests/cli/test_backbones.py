"""Every backbone with every method: image size and normalization that follow it, and refusals before any training."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import train as command
from cpt_plugin import openai_weights
from cpt_plugin.backbones import is_resnet
from cpt_plugin.cli import main
from cpt_plugin.cli.arguments import RunArguments, parse_arguments
from cpt_plugin.cli.experiment import Experiment
from cpt_plugin.cli.repository import load_trainers
from cpt_plugin.cli.run import run
from cpt_plugin.cli.settings import assemble
from cpt_plugin.encoders import open_clip_weights, sizes_of, tokens
from cpt_plugin.errors import ConfigError, DataError
from cpt_plugin.methods import parse_method
from cpt_plugin.protocols import BASE_TO_NEW, tasks
from cpt_plugin.results import record as records
from tests.helpers.archives import clip_of_shape, write_torchscript
from tests.helpers.fixtures import make_fixture
from tests.helpers.prompt_runs import weights
from tests.helpers.tiny_world import tiny_arguments, write_world

VISUAL = ("maple", "maple_cpt", "ivlp", "promptsrc_cpt", "shallow_vl", "dapt", "maple_dpc_cpt", "npt")


def configured(backbone: str, *opts: str, method: str = "coop", dataset: str = "eurosat") -> Any:
    arguments = RunArguments(
        parse_method(method), dataset, 0.5, (1,), 16, backbone, Path("x"), Path("y"), None, True, opts
    )
    return assemble(parse_method(method), 1, arguments, Path("z"), tasks(BASE_TO_NEW, dataset)[0], True)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def resnet(world: Path) -> Path:
    """Weights of a small ResNet that reads 64 px images."""
    model = clip_of_shape(
        text_width=64, vision_width=8, text_layers=3, vision_layers=(1, 1, 1, 1), embed_dim=32, resolution=64,
        patch=None,
    )  # fmt: skip
    path = world / "resnet.pt"
    torch.save(model.state_dict(), path)
    return path


def on(world: Path, output: Path, method: str, backbone: str, *opts: str, **changes: Any) -> RunArguments:
    """A small run with another backbone, in which nobody says how large the images are."""
    arguments = tiny_arguments(world, output, method, *opts)
    place = arguments.opts.index("INPUT.SIZE")
    without = arguments.opts[:place] + arguments.opts[place + 2 :]
    return dataclasses.replace(arguments, backbone=backbone, opts=without, **changes)


@pytest.mark.parametrize(
    ("backbone", "pixels"),
    [("RN50", 224), ("RN50x4", 288), ("RN50x16", 384), ("RN50x64", 448), ("ViT-L/14@336px", 336), ("micro", 32)],
)
def test_images_have_the_size_that_the_backbone_reads(backbone: str, pixels: int) -> None:
    for dataset in ("eurosat", "shapes"):
        cfg = configured(backbone, dataset=dataset)
        assert (pixels, pixels) == cfg.INPUT.SIZE
        given = configured(backbone, "INPUT.SIZE", "(64, 64)", dataset=dataset)
        assert given.INPUT.SIZE == (64, 64), "what a person says is kept, and refused when the weights are there"


def test_the_size_follows_a_weights_file(resnet: Path) -> None:
    assert configured(str(resnet)).INPUT.SIZE == (64, 64)


@pytest.mark.skipif(importlib.util.find_spec("open_clip") is None, reason="open-clip-torch is not installed")
def test_normalization_follows_open_clip() -> None:
    cfg = configured("open_clip:ViT-L-14/laion2b_s32b_b82k")
    assert (cfg.INPUT.SIZE, cfg.INPUT.PIXEL_MEAN, cfg.INPUT.PIXEL_STD) == ((224, 224), [0.5] * 3, [0.5] * 3)
    cfg = configured("open_clip:ViT-H-14-378-quickgelu/dfn5b")
    assert (cfg.INPUT.SIZE, cfg.INPUT.PIXEL_MEAN) == ((378, 378), [0.48145466, 0.4578275, 0.40821073])
    given = configured("open_clip:ViT-L-14/laion2b_s32b_b82k", "INPUT.PIXEL_MEAN", "[0.1, 0.2, 0.3]")
    assert given.INPUT.PIXEL_MEAN == [0.1, 0.2, 0.3]


@pytest.mark.parametrize("method", VISUAL)
def test_visual_prompts_on_a_resnet_are_refused_before_any_training(
    method: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By name: the weights are not there, and are not fetched first."""
    monkeypatch.setattr(openai_weights, "CACHE", tmp_path / "cache")
    fetched: list[object] = []
    monkeypatch.setattr(main, "provide", fetched.append)
    words = ["run", method, "shapes", "1", "--backbone", "RN50", "--output", str(tmp_path / "output")]
    status = main.main(words)
    error = capsys.readouterr().err
    assert fetched == []
    assert status == 2
    assert error.count("\n") == 1
    assert "visual prompts need a ViT, but the vision tower of RN50 is a ResNet" in error
    assert not (tmp_path / "output").exists()


RESNETS = [name for name, (_, blocks) in openai_weights.SIZES.items() if not blocks]
RESNETS += [f"open_clip:{name}/openai" for name in ("RN50", "RN50-quickgelu", "RN101", "RN50x64-quickgelu")]


@pytest.mark.parametrize("backbone", RESNETS)
def test_the_words_of_a_command_are_enough_to_refuse_a_resnet(backbone: str, tmp_path: Path) -> None:
    """As scripts/run.sh checks them: with nothing installed, and before images or weights are asked for."""
    assert is_resnet(backbone)
    asked: list[object] = []
    for method in VISUAL:
        words = [method, "eurosat", "1", "--backbone", backbone, "--root", str(tmp_path)]
        with pytest.raises(ConfigError, match="visual prompts need a ViT"):
            parse_arguments(words, supply=asked.append)
    assert asked == []
    parse_arguments(["coop_cpt", "eurosat", "1", "--backbone", backbone, "--root", str(tmp_path)], supply=asked.append)
    without = ["ivlp", "shapes", "1", "--backbone", backbone, "TRAINER.IVLP.PROMPT_DEPTH_VISION", "0"]
    parse_arguments(without, supply=asked.append)


@pytest.mark.parametrize("backbone", ["micro", "ViT-B/16", "ViT-L/14@336px", "open_clip:ViT-B-16/openai", "RN50.pt"])
def test_other_names_do_not_tell_a_resnet(backbone: str) -> None:
    assert not is_resnet(backbone)


def test_every_learner_says_of_its_visual_prompts_what_its_class_says() -> None:
    for name, trainer in load_trainers().PROMPT_LEARNERS.items():
        said = trainer.visual_depth
        key = f"TRAINER.{trainer.config_node}.{said}" if isinstance(said, str) else said
        assert parse_method(name).visual_depth == key
        cfg = configured("ViT-B/16", method=name)
        try:
            trainer.check_model(cfg, sizes_of("RN50"))
        except ConfigError:
            assert said, f"{name} needs a ViT and does not say so"
        else:
            assert not said, f"{name} says that it has visual prompts, and takes a ResNet"


def test_train_py_refuses_a_resnet_before_it_looks_for_weights(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--trainer", "MaPLe", "--backbone", "RN50", "--config-file", "configs/trainers/MaPLe/vit_b16.yaml",
             "--dataset-config-file", "configs/datasets/eurosat.yaml", "--output-dir", str(tmp_path / "out"),
             "--root", str(tmp_path), "--seed", "1", "MODEL.BACKBONE.DOWNLOAD", "False"]  # fmt: skip
    assert command.cli(words) == 2
    assert "visual prompts need a ViT, but the vision tower of RN50" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("method", ["zeroshot", "coop", "coop_cpt", "cocoop_cpt", "dpc_cpt", "coop_npt", "cocoop_dpc"])
def test_text_prompts_train_on_a_resnet(method: str, world: Path, resnet: Path, tmp_path: Path) -> None:
    record = Experiment(parse_method(method), 1, on(world, tmp_path, method, str(resnet))).execute().record
    assert record.config["INPUT.SIZE"] == [64, 64]
    assert record.backbone.name == str(resnet)
    assert sum(result.total for result in record.evaluations["base"].per_class) == 16
    if method != "zeroshot":
        assert all(np.isfinite(list(epoch.values())).all() for epoch in record.history)


@pytest.mark.parametrize("method", ["ivlp", "promptsrc"])
def test_text_prompts_alone_of_a_visual_learner_run_on_a_resnet(
    method: str, world: Path, resnet: Path, tmp_path: Path
) -> None:
    opts = (f"TRAINER.{method.upper()}.PROMPT_DEPTH_VISION", "0")
    record = Experiment(parse_method(method), 1, on(world, tmp_path, method, str(resnet), *opts)).execute().record
    assert record.prompts_hash


@pytest.mark.parametrize(
    ("method", "key"),
    [
        ("maple_cpt", "TRAINER.MAPLE.PROMPT_DEPTH"),
        ("ivlp", "TRAINER.IVLP.PROMPT_DEPTH_TEXT"),
        ("ivlp", "TRAINER.IVLP.PROMPT_DEPTH_VISION"),
        ("promptsrc", "TRAINER.PROMPTSRC.PROMPT_DEPTH_VISION"),
    ],
)
def test_too_deep_prompts_name_their_key(
    method: str, key: str, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = str(weights(world))
    words = [method, "shapes", "1", "--backbone", file, "--output", str(tmp_path / "output"), key, "9"]
    assert run(parse_arguments(words)) == 2
    assert f"prompt depth 9 is not within 1..3, the blocks of {file}: set {key} to at most 3" in (
        capsys.readouterr().err
    )
    assert not (tmp_path / "output").exists()


@pytest.mark.skipif(importlib.util.find_spec("open_clip") is None, reason="open-clip-torch is not installed")
@pytest.mark.parametrize("method", ["coop", "cocoop", "maple_cpt", "promptsrc", "dapt", "dpc"])
def test_a_model_of_open_clip_in_every_trainer(method: str, world: Path, tmp_path: Path) -> None:
    """Exact GELU and heads of 80 in both towers."""
    towers = {"width": 160, "layers": 2}
    config = {
        "embed_dim": 32,
        "vision_cfg": {**towers, "head_width": 80, "patch_size": 8, "image_size": 24},
        "text_cfg": {**towers, "heads": 2, "context_length": 77, "vocab_size": 49408},
    }
    (tmp_path / "trained-here.json").write_text(json.dumps(config))
    package = open_clip_weights._package()
    package.add_model_config(tmp_path / "trained-here.json")
    model = package.create_model("trained-here", pretrained=None)
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    backbone = f"open_clip:trained-here/{tmp_path / 'weights.pt'}"
    record = Experiment(parse_method(method), 1, on(world, tmp_path, method, backbone)).execute().record
    assert record.config["INPUT.SIZE"] == [24, 24]
    assert record.config["INPUT.PIXEL_MEAN"] == list(package.constants.OPENAI_DATASET_MEAN)
    assert record.backbone.name == backbone
    wrong = on(world, tmp_path / "wrong", method, backbone, "INPUT.PIXEL_MEAN", "[0.5, 0.5, 0.5]")
    with pytest.raises(ConfigError, match=r"INPUT\.PIXEL_MEAN is \[0\.5, 0\.5, 0\.5\], but .* was trained with"):
        Experiment(parse_method(method), 1, wrong).execute()


def test_an_archive_of_unknown_origin_needs_trust(
    world: Path, resnet: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    archive = write_torchscript(tmp_path / "own.pt", torch.load(resnet), 64)
    words = ["zeroshot", "shapes", "1", "--backbone", str(archive), "--output", str(tmp_path / "output")]
    assert run(parse_arguments(words)) == 2
    assert "--trust-weights" in capsys.readouterr().err
    assert not (tmp_path / "output").exists()
    trusted = on(world, tmp_path / "trusted", "zeroshot", str(archive), trust_weights=True)
    record = Experiment(parse_method("zeroshot"), 1, trusted).execute().record
    same = Experiment(parse_method("zeroshot"), 1, on(world, tmp_path / "plain", "zeroshot", str(resnet))).execute()
    assert record.evaluations == same.record.evaluations
    assert "MODEL.BACKBONE.TRUST" not in record.config, "how a file is read does not change what it holds"


def train_cfg(*words: str) -> Any:
    return command.setup_cfg(command.parser().parse_args(["--seed", "1", *words]))


def test_train_py_follows_the_backbone_unless_told_otherwise() -> None:
    yaml = ("--trainer", "CoOp", "--config-file", "configs/trainers/CoOp/vit_b16.yaml")
    assert train_cfg(*yaml).INPUT.SIZE == (224, 224)
    assert train_cfg(*yaml, "--backbone", "RN50x16").INPUT.SIZE == (384, 384)
    assert train_cfg(*yaml, "--backbone", "RN50x16", "INPUT.SIZE", "(224, 224)").INPUT.SIZE == (224, 224)
    assert train_cfg(*yaml, "MODEL.BACKBONE.NAME", "RN50x4").INPUT.SIZE == (288, 288)
    assert train_cfg(*yaml, "--trust-weights").MODEL.BACKBONE.TRUST is True
    assert not train_cfg(*yaml).MODEL.BACKBONE.TRUST
    assert train_cfg(*yaml).MODEL.BACKBONE.DOWNLOAD
    with pytest.raises(ConfigError, match="unknown backbone 'RN50x5'"):
        train_cfg(*yaml, "--backbone", "RN50x5")


def test_what_is_missing_is_fetched_before_the_first_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai_weights, "CACHE", tmp_path / "cache")
    fetched: list[Any] = []

    def provide(missing: Any) -> None:
        fetched.append(missing.backbone)
        raise DataError("no network")

    monkeypatch.setattr(main, "provide", provide)
    words = ["run", "coop_cpt", "shapes", "1", "--backbone", "RN50", "--output", str(tmp_path / "output")]
    assert main.main(words) == 2
    assert fetched == ["RN50"]
    assert not (tmp_path / "output").exists()


def test_the_micro_model_rehearses_real_data_and_says_that_it_means_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    make_fixture("eurosat", tmp_path)
    tokens._warn_of_zeros.cache_clear()
    words = ["maple_cpt", "eurosat", "0.25", "--root", str(tmp_path), "--output", str(tmp_path / "output"),
             "--backbone", "micro", "--seeds", "1", "--epochs", "1", "DATASET.CHECK_COUNTS", "False"]  # fmt: skip
    heard: list[str] = []
    listener = logging.Handler(logging.WARNING)
    listener.emit = lambda record: heard.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("cpt_plugin").addHandler(listener)
    try:
        assert run(parse_arguments(words)) == 0
    finally:
        logging.getLogger("cpt_plugin").removeHandler(listener)
    assert sum("ACCURACIES MEAN NOTHING" in message for message in heard) == 1
    last = capsys.readouterr().out.rstrip().splitlines()[-3:]
    assert last[0].startswith("ACCURACIES MEAN NOTHING here: the micro model"), "at the end too"
    tables = [path for path in (tmp_path / "output" / "eurosat" / "tables").iterdir()]
    assert {path.suffix for path in tables} == {".md", ".csv"}
    assert all("ACCURACIES MEAN NOTHING here" in path.read_text() for path in tables)
    found = [records.load(path) for path in (tmp_path / "output").rglob("record.json")]
    assert {one.method for one in found} == {"zeroshot", "maple", "maple_cpt"}
    for one in found:
        assert one.backbone.name == "micro"
        assert one.config["MODEL.BACKBONE.UNKNOWN_WORDS"] == "zero"
        assert one.config["INPUT.SIZE"] == [32, 32]
        assert "normalize" in one.config["INPUT.TRANSFORMS"]
        assert sum(result.total for found in one.evaluations.values() for result in found.per_class) == 10


def test_unknown_words_of_the_drawn_world_are_still_refused() -> None:
    assert configured("micro", dataset="shapes").MODEL.BACKBONE.UNKNOWN_WORDS == "refuse"
    assert configured("ViT-B/16").MODEL.BACKBONE.UNKNOWN_WORDS == "refuse"
