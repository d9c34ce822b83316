"""Which trainer of a process is regularized, and when; on stand-ins for Dassl's modules."""

from __future__ import annotations

import logging
import random
import re
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from yacs.config import CfgNode

from cpt_plugin import regularizers
from cpt_plugin.errors import ConfigError, HookError
from cpt_plugin.hook import CPTHook
from cpt_plugin.runner import session
from cpt_plugin.runner.arguments import parse_words
from cpt_plugin.runner.launch import in_words_of_the_runner
from cpt_plugin.runner.options import OPTIONS, FromTrainer
from cpt_plugin.runner.session import LONG_TAIL_KEYS, Session, own_defaults
from tests.hook.toy_trainers import CLASSES, WIDTH, CoOpModel, CoOpTrainer

OFF = {"WEIGHT_ETF": 0.0, "WEIGHT_CC": 0.0, "WEIGHT_RS": 0.0}
REGULARIZED = {"loss", "loss_reg", "loss_etf", "loss_cc", "loss_rs"}


class TrainerBase(CoOpTrainer):
    """Two levels of ``train`` as Dassl has them."""

    def __init__(self, cfg: Any) -> None:
        super().__init__()
        self.cfg = cfg

    def train(self, epochs: int = 1) -> None:
        super().train(epochs)


class Plain(TrainerBase):
    def train(self) -> None:  # type: ignore[override]
        super().train(1)


class Override(TrainerBase):
    def train(self) -> None:  # type: ignore[override]
        CoOpTrainer.train(self, 1)


class Outer(Plain):
    """Builds and trains a second trainer while it is built, and trains a third while it trains."""

    def __init__(self, cfg: Any) -> None:
        super().__init__(cfg)
        self.inner = sys.modules["dassl.engine"].build_trainer(cfg, name="Plain")
        self.inner.train()
        self.direct = Plain(cfg)

    def forward_backward(self, batch: Any) -> dict[str, float]:
        self.direct.forward_backward(batch)
        self.direct.train()
        return super().forward_backward(batch)


class Tolerant(Outer):
    """Goes on where the trainer inside it fails."""

    failed = 0

    def forward_backward(self, batch: Any) -> dict[str, float]:
        try:
            self.direct.train()
        except ZeroDivisionError:
            self.failed += 1
        return CoOpTrainer.forward_backward(self, batch)


class Replacing(Plain):
    """Has its own ``train`` on the instance."""

    called = 0

    def __init__(self, cfg: Any) -> None:
        super().__init__(cfg)
        self.train = self._train  # type: ignore[method-assign]

    def _train(self) -> None:
        self.called += 1
        super().train()


class RenamedModel(CoOpModel):
    """Its encoders stand elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = torch.nn.ModuleDict({"text": self.text_encoder, "image": self.image_encoder})
        del self.text_encoder, self.image_encoder

    def encode(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.parts["text"](self.names + self.context), self.parts["image"](image)


class Renamed(Plain):
    model_class = RenamedModel

    def frozen_text_features(self) -> torch.Tensor:
        return self.model.parts["text"](self.model.names)


TRAINERS = {cls.__name__: cls for cls in (Plain, Override, Outer, Tolerant, Replacing, Renamed)}


@pytest.fixture
def dassl(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Modules in place of ``dassl.config`` and ``dassl.engine``; ``train`` of the stand-in is put back."""

    def build_trainer(cfg: Any, name: str = "") -> Any:
        return TRAINERS[name or cfg.TRAINER.NAME](cfg)

    modules = {name: ModuleType(name) for name in ("dassl", "dassl.config", "dassl.engine", "dassl.engine.build")}
    modules["dassl.config"].get_cfg_default = lambda: CfgNode({"DATASET": {"NAME": "X"}, "TRAINER": {"NAME": "Plain"}})
    for name in ("dassl.engine", "dassl.engine.build"):
        modules[name].build_trainer = build_trainer
    modules["dassl.engine"].TrainerBase = TrainerBase
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(TrainerBase, "train", TrainerBase.train)
    return SimpleNamespace(config=modules["dassl.config"], engine=modules["dassl.engine"], modules=modules)


def install(dassl: Any, *names: str, trainer: str = "Plain", **cpt: Any) -> Any:
    """Configuration of a run of a session with the named regularizers."""
    Session(names).install()
    cfg = dassl.config.get_cfg_default()
    cfg.TRAINER.NAME = trainer
    cfg.CPT.CLUSTER_SIZE = 3
    for key, value in cpt.items():
        cfg.CPT[key] = value
    return cfg


def summaries(trainer: Any) -> list[set[str]]:
    return [set(summary) for summary in trainer.summaries]


def test_the_configuration_gets_a_node_for_each_regularizer_and_the_long_tail(dassl):
    cfg = install(dassl, "cpt")
    assert (cfg.DATASET.IMBALANCE_TAU, cfg.DATASET.CLASS_ORDER, cfg.DATASET.MAX_PER_CLASS) == (1.0, "label", 0)
    for cls in regularizers.available().values():
        node = dict(cfg[cls.config_node])
        assert node == {**cls.defaults(), **({"CLUSTER_SIZE": 3} if cls.name == "cpt" else {})}
    assert "WORLD" not in cfg.DATASET
    cfg.merge_from_list(["CPT.WEIGHT_ETF", "0.5", "DATASET.IMBALANCE_TAU", "0.25"])
    assert (cfg.CPT.WEIGHT_ETF, cfg.DATASET.IMBALANCE_TAU) == (0.5, 0.25)


def test_own_defaults_are_what_the_configuration_gets(dassl):
    Session([]).install()
    cfg = dassl.config.get_cfg_default()
    for key, value in own_defaults().items():
        node, _, name = key.partition(".")
        assert cfg[node][name] == value
    assert set(LONG_TAIL_KEYS) < set(own_defaults())


def test_keys_that_are_there_already_stay(dassl):
    dassl.config.get_cfg_default = lambda: CfgNode({"DATASET": {"IMBALANCE_TAU": 0.5}, "CPT": {"THEIRS": 1}})
    Session(["cpt"]).install()
    cfg = dassl.config.get_cfg_default()
    assert cfg.DATASET.IMBALANCE_TAU == 0.5
    assert dict(cfg.CPT) == {"THEIRS": 1}
    with pytest.raises(ConfigError, match=r"CPT\.THEIRS is unknown"):
        dassl.engine.build_trainer(cfg)


@pytest.mark.parametrize("name", ["Plain", "Override"])
def test_a_built_trainer_is_regularized_while_it_trains(dassl, name, caplog):
    caplog.set_level(logging.INFO, "cpt_plugin")
    cfg = install(dassl, "cpt", trainer=name)
    trainer = dassl.modules["dassl.engine.build"].build_trainer(cfg)
    assert "forward_backward" not in vars(trainer)
    trainer.train()
    assert summaries(trainer) == [REGULARIZED] * 4
    assert "forward_backward" not in vars(trainer)
    assert f"{name} trains with cpt" in caplog.text
    assert "CPT: 2 clusters over 6 classes" in caplog.text
    assert "repaired for this process" in caplog.text


def test_a_trainer_that_is_constructed_directly_is_regularized_too(dassl):
    trainer = Plain(install(dassl, "cpt"))
    trainer.train()
    assert summaries(trainer) == [REGULARIZED] * 4


def test_only_the_outermost_trainer_is_regularized(dassl):
    cfg = install(dassl, "cpt", trainer="Outer")
    trainer = dassl.engine.build_trainer(cfg)
    assert summaries(trainer.inner) == [{"loss"}] * 4
    trainer.train()
    assert summaries(trainer) == [REGULARIZED] * 4
    assert summaries(trainer.direct) == [{"loss"}] * 16


def test_two_trainers_one_after_the_other(dassl):
    cfg = install(dassl, "cpt")
    for _ in range(2):
        trainer = dassl.engine.build_trainer(cfg)
        trainer.train()
        assert summaries(trainer) == [REGULARIZED] * 4


@pytest.mark.parametrize(("names", "options"), [((), {}), (("cpt",), OFF)])
def test_without_weight_nothing_is_changed_and_the_log_says_so(dassl, names, options, caplog):
    caplog.set_level(logging.INFO, "cpt_plugin")
    cfg = install(dassl, *names, **options)
    trainer = dassl.engine.build_trainer(cfg)
    trainer.frozen_text_features = None  # would fail if it were asked for
    trainer.train()
    assert summaries(trainer) == [{"loss"}] * 4
    assert "trains without regularizer (" in caplog.text
    assert ("all weights of cpt are 0" if names else "--regularizers none") in caplog.text


def fail_once(trainer: Any, monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    step = trainer.optim.step

    def failing() -> None:
        monkeypatch.setattr(trainer.optim, "step", step)
        raise error

    monkeypatch.setattr(trainer.optim, "step", failing)


def hooks_of(trainer: Any) -> int:
    modules = trainer.model.modules()
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in modules)


@pytest.mark.parametrize("error", [ZeroDivisionError(), KeyboardInterrupt(), SystemExit(3), GeneratorExit()])
@pytest.mark.parametrize("name", ["Plain", "Override", "Outer", "Replacing"])
def test_a_failed_training_leaves_nothing_attached_and_the_next_one_works(dassl, monkeypatch, name, error):
    cfg = install(dassl, "cpt", trainer=name)
    trainer = dassl.engine.build_trainer(cfg)
    fail_once(trainer, monkeypatch, error)
    with pytest.raises(type(error)):
        trainer.train()
    assert "forward_backward" not in vars(trainer)
    assert hooks_of(trainer) == 0
    trainer.summaries.clear()
    trainer.train()
    assert summaries(trainer) == [REGULARIZED] * 4
    assert hooks_of(trainer) == 0


def test_a_training_that_fails_while_it_is_described_leaves_nothing_attached(dassl, monkeypatch):
    cfg = install(dassl, "cpt")
    trainer = dassl.engine.build_trainer(cfg)
    cpt = regularizers.available()["cpt"]
    describe = cpt.describe
    monkeypatch.setattr(cpt, "describe", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    monkeypatch.setattr(cpt, "describe", describe)
    assert "forward_backward" not in vars(trainer)
    assert hooks_of(trainer) == 0
    trainer.train()
    assert summaries(trainer) == [REGULARIZED] * 4


def test_an_inner_training_that_fails_takes_nothing_from_the_outer(dassl, monkeypatch):
    """The inner trainer fails in the outer one's first step, which goes on without it."""
    cfg = install(dassl, "cpt", trainer="Tolerant")
    trainer = dassl.engine.build_trainer(cfg)
    fail_once(trainer.direct, monkeypatch, ZeroDivisionError())
    trainer.train()
    assert summaries(trainer) == [REGULARIZED] * 4
    assert trainer.failed == 1
    assert all(found == {"loss"} for found in summaries(trainer.direct))


def test_a_train_that_the_trainer_has_replaced_is_the_one_that_runs(dassl):
    cfg = install(dassl, "cpt", trainer="Replacing")
    trainer = dassl.engine.build_trainer(cfg)
    trainer.train()
    assert trainer.called == 1
    assert summaries(trainer) == [REGULARIZED] * 4


def test_a_failure_while_building_does_not_hide_the_next_trainer(dassl):
    cfg = install(dassl, "cpt")
    cfg.TRAINER.NAME = "Missing"
    with pytest.raises(KeyError):
        dassl.engine.build_trainer(cfg)
    cfg.TRAINER.NAME = "Plain"
    trainer = dassl.engine.build_trainer(cfg)
    trainer.train()
    assert summaries(trainer) == [REGULARIZED] * 4


def test_given_frozen_features_are_used(dassl):
    frozen = torch.randn(CLASSES, WIDTH, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    Session(["cpt"], {"frozen_text": frozen}).install()
    cfg = dassl.config.get_cfg_default()
    trainer = dassl.engine.build_trainer(cfg)
    trainer.frozen_text_features = None
    trainer.train()
    assert summaries(trainer) == [REGULARIZED] * 4


FUNCTIONS = """\
def right(step):
    return step.text[0], step.image[0]

def swapped(step):
    return step.image[0], step.text[0]

def alone(step):
    return step.text[0]

def fails(step):
    return step.text[0], step.image[1]

CALLS = []
def fails_once(step):
    CALLS.append(step)
    if len(CALLS) == 2:
        raise ValueError("the second time")
    return step.text[0], step.image[0]
"""


def trainer_with(dassl: Any, folder: Path, *words: str, name: str = "Plain") -> tuple[Any, dict[str, Any]]:
    """A trainer of a session with the runner's options, and the arguments that its hook gets."""
    (folder / "train.py").write_text("")
    (folder / "mine.py").write_text(FUNCTIONS)
    given = parse_words([*words, str(folder / "train.py")]).hook_arguments()
    Session(["cpt"], given).install()
    cfg = dassl.config.get_cfg_default()
    cfg.CPT.CLUSTER_SIZE = 3
    cfg.TRAINER.NAME = name
    return dassl.engine.build_trainer(cfg), given


def losses_of(trainer: Any) -> list[dict[str, float]]:
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    torch.manual_seed(0)
    trainer.train()
    return trainer.summaries


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Plain", ["--features", "mine.py:right"]),
        ("Renamed", ["--text-module", "parts.text", "--image-module=parts.image"]),
        ("Renamed", ["--text-module", "parts.text", "--image-module", "parts.image", "--features", "mine.py:right"]),
    ],
)
def test_stated_features_and_modules_train_as_the_found_ones(dassl, tmp_path, monkeypatch, name, words):
    monkeypatch.chdir(tmp_path)
    plain = Plain(CfgNode())
    handle = CPTHook(cluster_size=3).attach(plain)
    expected = losses_of(plain)
    handle.detach()
    trainer, _ = trainer_with(dassl, tmp_path, *words, name=name)
    assert losses_of(trainer) == expected
    assert [set(summary) for summary in expected] == [REGULARIZED] * 4


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("alone", r"^features= returned \(6, 5\): return two .* \(--features .*mine\.py:alone \(line 7\) was used\)$"),
        ("swapped", r"Text features have shape .* \(--features .*mine\.py:swapped \(line 4\) was used\)$"),
        (
            "fails",
            r"^--features .*mine\.py:fails failed in line 11: IndexError: list index out of range\. What it was ",
        ),
    ],
)
def test_a_wrong_function_is_named_and_leaves_nothing_attached(dassl, tmp_path, function, message):
    trainer, given = trainer_with(dassl, tmp_path, "--features", f"{tmp_path / 'mine.py'}:{function}")
    before = trainer.model.context.detach().clone()
    with pytest.raises(HookError) as error:
        trainer.train()
    told = in_words_of_the_runner(str(error.value), given)
    assert re.search(message, told), told
    assert "\n" not in told
    assert torch.equal(trainer.model.context, before)
    assert hooks_of(trainer) == 0
    assert "forward_backward" not in vars(trainer)


def test_training_again_after_a_function_has_failed(dassl, tmp_path):
    trainer, _ = trainer_with(dassl, tmp_path, "--features", f"{tmp_path / 'mine.py'}:fails_once")
    with pytest.raises(HookError, match=r"fails_once failed in line 17: ValueError: the second time"):
        trainer.train()
    assert len(trainer.summaries) == 1
    assert hooks_of(trainer) == 0
    trainer.summaries.clear()
    trainer.train()
    assert summaries(trainer) == [REGULARIZED] * 4


@pytest.mark.parametrize("path", ["dm.dataset.classnames", "model.classnames", "trainer.model.classnames"])
def test_class_names_are_read_from_the_trainer(dassl, monkeypatch, path):
    (asked,) = [OPTIONS["--class-names"].read("--class-names", path)]
    Session(["cpt"], {"class_names": asked}).install()
    cfg = dassl.config.get_cfg_default()
    cfg.CPT.CLUSTER_SIZE = 3
    trainer = dassl.engine.build_trainer(cfg)
    names = list(trainer.dm.dataset.classnames)
    trainer.model.classnames = tuple(names)
    if path != "dm.dataset.classnames":
        del trainer.dm.dataset.classnames
    given: list[Any] = []
    monkeypatch.setattr(session, "CPTHook", lambda **more: given.append(more["class_names"]) or CPTHook(**more))
    trainer.train()
    assert given == [names]
    assert summaries(trainer) == [REGULARIZED] * 4


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("model.image_encodr", r"--class-names model\.image_encodr: Plain\.model has no attribute 'image_encodr'; "
         "did you mean 'image_encoder'"),
        ("nothing.at_all", r"--class-names nothing\.at_all: Plain has no attribute 'nothing'"),
        ("summaries", r"--class-names summaries is empty"),
        ("cfg", r"--class-names cfg is a CfgNode: name a list of the K class names"),
        ("numbers", r"--class-names numbers holds a int: name a list"),
    ],
)  # fmt: skip
def test_class_names_that_are_none_are_refused_before_the_first_step(dassl, path, message):
    Session(["cpt"], {"class_names": FromTrainer("--class-names", path)}).install()
    trainer = dassl.engine.build_trainer(dassl.config.get_cfg_default())
    trainer.numbers = [1, 2]
    with pytest.raises(ConfigError, match=message):
        trainer.train()
    assert trainer.summaries == []
    assert "forward_backward" not in vars(trainer)


def test_wrong_settings_are_refused_before_anything_is_built(dassl, monkeypatch):
    monkeypatch.setitem(TRAINERS, "Plain", lambda cfg: pytest.fail("was built"))
    cfg = install(dassl, "cpt", WEIGHT_CC=-1.0)
    with pytest.raises(ConfigError, match="WEIGHT_CC must be a finite number"):
        dassl.engine.build_trainer(cfg)


def test_a_configuration_without_the_node_is_refused(dassl):
    Session(["cpt"]).install()
    cfg = CfgNode({"TRAINER": {"NAME": "Plain"}})
    with pytest.raises(ConfigError, match=r"no node CPT: let the script start from dassl\.config"):
        dassl.engine.build_trainer(cfg)


@pytest.fixture
def other(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second regularizer, with the node OTHER."""

    class Other(regularizers.available()["cpt"]):  # type: ignore[misc]
        name, config_node = "other", "OTHER"

    both = {**regularizers.available(), "other": Other}
    monkeypatch.setattr(regularizers, "available", lambda: both)


@pytest.mark.usefixtures("other")
def test_settings_of_a_regularizer_that_is_not_chosen_are_refused(dassl):
    cfg = install(dassl, "cpt")
    dassl.engine.build_trainer(cfg)
    cfg.OTHER.WEIGHT_ETF = 0.9
    with pytest.raises(ConfigError, match=r"OTHER\.WEIGHT_ETF is set, but other .* --regularizers cpt,other"):
        dassl.engine.build_trainer(cfg)


@pytest.mark.usefixtures("other")
def test_none_takes_a_command_line_as_it_is(dassl):
    cfg = install(dassl, WEIGHT_ETF=0.9)
    cfg.OTHER.WEIGHT_ETF = 0.9
    trainer = dassl.engine.build_trainer(cfg)
    trainer.train()
    assert summaries(trainer) == [{"loss"}] * 4
