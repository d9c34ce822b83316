"""Checkpoints with live schedulers, as the released Dassl writes them, are read without running code."""

from __future__ import annotations

import io
import os
import pickle
import sys
from collections import OrderedDict
from types import ModuleType
from typing import Any

import pytest
import torch

from cpt_plugin.errors import CheckpointError
from cpt_plugin.toolkit import old_checkpoints
from cpt_plugin.toolkit.old_checkpoints import read_checkpoint


class Attack:
    def __reduce__(self) -> Any:
        return os.mkdir, (os.environ["ATTACK_FOLDER"],)


def checkpoint() -> dict[str, Any]:
    """What Dassl's ``save_model`` stores after a step with momentum; the schedule after a warm-up is an object."""
    weight = torch.nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.SGD([weight], lr=0.1, momentum=0.9)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 5.0)
    weight.grad = torch.tensor([1.0, -2.0])
    optimizer.step()
    cosine.step()
    return {
        "state_dict": OrderedDict(ctx=weight.detach().clone(), half=torch.ones(2).half()),
        "epoch": 1,
        "optimizer": optimizer.state_dict(),
        "scheduler": {"warmup_epoch": 1, "last_epoch": 1, "successor": cosine},
        "val_result": None,
    }


@pytest.mark.parametrize("as_archive", [True, False])
def test_live_schedulers_are_read(tmp_path, as_archive):
    path = tmp_path / "model.pth.tar-1"
    torch.save(checkpoint(), path, _use_new_zipfile_serialization=as_archive)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path)
    loaded, expected = read_checkpoint(path), checkpoint()
    assert torch.equal(loaded["state_dict"]["ctx"], torch.tensor([-0.1, 0.2]))
    assert loaded["state_dict"]["half"].dtype == torch.float16
    assert loaded["optimizer"]["param_groups"] == expected["optimizer"]["param_groups"]
    successor = loaded["scheduler"]["successor"]
    assert successor.get_last_lr() == expected["scheduler"]["successor"].get_last_lr()
    assert torch.equal(next(iter(successor.optimizer.state.values()))["momentum_buffer"], torch.tensor([1.0, -2.0]))


@pytest.mark.parametrize("form", ["archive", "legacy", "pickle"])
def test_nothing_in_a_file_is_run(tmp_path, monkeypatch, form):
    target = tmp_path / "made by the file"
    monkeypatch.setenv("ATTACK_FOLDER", str(target))
    path = tmp_path / "model.pth.tar-1"
    if form == "pickle":
        path.write_bytes(pickle.dumps(Attack()))
    else:
        torch.save({**checkpoint(), "epoch": Attack()}, path, _use_new_zipfile_serialization=form == "archive")
    with pytest.raises(CheckpointError, match=r"asks for (posix|nt)\.mkdir.*TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1"):
        read_checkpoint(path)
    assert not target.exists()
    torch.load(path, weights_only=False) if form != "pickle" else pickle.loads(path.read_bytes())
    assert target.exists(), "the attack of this test does not work"


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("torch.optim.sgd", "sgd"),
        ("torch.optim.lr_scheduler", "partial"),
        ("torch.hub", "load"),
        ("builtins", "eval"),
        ("collections", "namedtuple"),
    ],
)
def test_nothing_but_plain_values_and_schedules_is_found(module, name):
    with pytest.raises(pickle.UnpicklingError, match=f"it asks for {module}.{name}"):
        old_checkpoints._Unpickler(io.BytesIO()).find_class(module, name)


def test_damage_is_named(tmp_path):
    path = tmp_path / "model.pth.tar-1"
    torch.save(checkpoint(), path)
    path.write_bytes(path.read_bytes()[:400])
    with pytest.raises(CheckpointError, match=r"Cannot read the checkpoint .*model\.pth\.tar-1"):
        read_checkpoint(path)


@pytest.fixture
def dassl(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    names = ("dassl", "dassl.utils", "dassl.utils.torchtools", "dassl.engine", "dassl.engine.trainer")
    for name in names:
        module = ModuleType(name)
        module.load_checkpoint = lambda path: ("Dassl's", path)  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, name, module)
    return sys.modules["dassl.utils"]


def test_dassl_reads_through_it(dassl, tmp_path, monkeypatch):
    monkeypatch.delenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", raising=False)
    torch.save(checkpoint(), tmp_path / "there")
    old_checkpoints.install()
    for name in ("dassl.utils", "dassl.utils.torchtools", "dassl.engine.trainer"):
        load = sys.modules[name].load_checkpoint  # type: ignore[attr-defined]
        assert load(str(tmp_path / "there"))["epoch"] == 1
        assert load(str(tmp_path / "missing")) == ("Dassl's", str(tmp_path / "missing"))
        assert load(None) == ("Dassl's", None)


def test_who_asks_for_pickle_gets_pickle(dassl, monkeypatch):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    old_checkpoints.install()
    assert dassl.load_checkpoint("x") == ("Dassl's", "x")  # type: ignore[attr-defined]


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_a_torchscript_program_is_refused(tmp_path):
    path = tmp_path / "model.pth.tar-1"
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), path)
    with pytest.raises(CheckpointError, match="TorchScript program"):
        read_checkpoint(path)
