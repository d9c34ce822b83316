"""Choice of the toolkit and the preparation of torchvision, without Dassl."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import types
from importlib.machinery import ModuleSpec
from pathlib import Path

import numpy
import pytest
import torch

from cpt_plugin.errors import ConfigError
from cpt_plugin.toolkit import choose, compat

ROOT = Path(__file__).resolve().parents[2]
DECLARE = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


def python(code: str, *path: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key != "CPT_TOOLKIT"}
    environment |= {"PYTHONPATH": os.pathsep.join(map(str, [*path, ROOT])), **variables}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120, check=False
    )


def output(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip()


def make_package(folder: Path, name: str, text: str = "") -> Path:
    (folder / name).mkdir(parents=True)
    (folder / name / "__init__.py").write_text(text)
    return folder


def test_dassls_checkpoints_say_what_the_trainer_tells():
    saved = []

    class TrainerBase:
        def save_model(self, epoch, directory, is_best=False):
            trainer.save_checkpoint({"state_dict": {}, "epoch": epoch + 1}, directory, is_best=is_best)

        def checkpoint_header(self):
            return {"class_counts": [5, 2], "epoch": 0}

    def save_checkpoint(state, *place, **options):
        saved.append((state, place, options))

    trainer = types.SimpleNamespace(TrainerBase=TrainerBase, save_checkpoint=save_checkpoint)
    compat.keep_header(trainer)
    TrainerBase().save_model(2, "folder", is_best=True)
    assert saved == [({"class_counts": [5, 2], "epoch": 3, "state_dict": {}}, ("folder",), {"is_best": True})]
    assert trainer.save_checkpoint is save_checkpoint


# -- choice --------------------------------------------------------------------------------------------------


def have_dassl(monkeypatch: pytest.MonkeyPatch, spec: ModuleSpec | None) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: spec)


def test_dassl_serves_when_it_is_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    have_dassl(monkeypatch, ModuleSpec("dassl", None, origin="dassl/__init__.py"))
    assert choose({}) == choose({"CPT_TOOLKIT": "dassl"}) == choose({"CPT_TOOLKIT": ""}) == "dassl"
    assert choose({"CPT_TOOLKIT": "embedded"}) == "embedded"


def test_embedded_serves_when_it_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    for absent in (None, ModuleSpec("dassl", None, origin=None)):
        have_dassl(monkeypatch, absent)
        assert choose({}) == choose({"CPT_TOOLKIT": "embedded"}) == "embedded"
        with pytest.raises(ConfigError, match="PYTHONPATH"):
            choose({"CPT_TOOLKIT": "dassl"})


def test_unknown_toolkit(monkeypatch: pytest.MonkeyPatch) -> None:
    have_dassl(monkeypatch, None)
    with pytest.raises(ConfigError, match="CPT_TOOLKIT='Dassl' is not one of dassl, embedded"):
        choose({"CPT_TOOLKIT": "Dassl"})


def test_a_folder_called_dassl_is_not_dassl(tmp_path: Path) -> None:
    (tmp_path / "dassl").mkdir()
    assert output(python("from cpt_plugin import toolkit; print(toolkit.NAME)", tmp_path)) == "embedded"


def test_a_dassl_that_cannot_be_imported_is_named(tmp_path: Path) -> None:
    make_package(tmp_path, "dassl", "import a_package_that_is_missing")
    done = python("import cpt_plugin.toolkit", tmp_path)
    assert "ConfigError: Dassl is there but cannot be imported (No module named 'a_package" in done.stderr
    assert "CPT_TOOLKIT=embedded" in done.stderr
    code = "from cpt_plugin import toolkit; print(toolkit.NAME)"
    assert output(python(code, tmp_path, CPT_TOOLKIT="embedded")) == "embedded"


# -- torchvision ---------------------------------------------------------------------------------------------

needs_cpu_build = pytest.mark.skipif(
    torch.version.cuda is not None or sys.platform != "linux", reason="only for a torch without CUDA on Linux"
)
FAKE_TORCHVISION = f"""
import torch
COMPILED = torch.library.Library("torchvision", "FRAGMENT")
def load(path):
    assert path.endswith("_C.so"), path
    if not hasattr(torch.ops.torchvision, "loaded"):
        torch.ops.torchvision.loaded = True
        COMPILED.define("nms{DECLARE}")
        COMPILED.define("qnms{DECLARE}")
torch.ops.load_library = load
"""


def test_torchvision_can_be_imported() -> None:
    code = (
        "from cpt_plugin.toolkit.compat import prepare_torchvision as prepare\n"
        "prepare(); prepare()\n"
        "import torchvision.transforms, torchvision.models\n"
        "prepare(); print('imported')"
    )
    assert output(python(code, CPT_TOOLKIT="embedded")) == "imported"


@needs_cpu_build
def test_a_compiled_part_that_loads_is_left_alone(tmp_path: Path) -> None:
    """A second declaration of an operator ends the process, so nothing may be declared before torchvision."""
    make_package(tmp_path, "torchvision", "import torch; torch.ops.load_library(__path__[0] + '/_C.so')")
    (tmp_path / "torchvision" / "_C.so").write_bytes(b"")
    code = FAKE_TORCHVISION + (
        "from cpt_plugin import _torchvision\n"
        "_torchvision.prepare_torchvision()\n"
        "import torchvision; print(_torchvision._KEEP_ALIVE)"
    )
    assert output(python(code, tmp_path, CPT_TOOLKIT="embedded")) == "[]"


@needs_cpu_build
def test_a_compiled_part_that_does_not_load_is_replaced(tmp_path: Path) -> None:
    needs_the_operator = "import torch\n@torch.library.register_fake('torchvision::nms')\ndef nms(*a): ...\n"
    make_package(tmp_path, "torchvision", needs_the_operator)
    (tmp_path / "torchvision" / "_C.so").write_bytes(b"no library")
    code = "from cpt_plugin.toolkit import compat\ncompat.prepare_torchvision()\nimport torchvision; print('ok')"
    assert output(python(code, tmp_path, CPT_TOOLKIT="embedded")) == "ok"
    without = python("import torchvision", tmp_path)
    assert "torchvision::nms does not exist" in without.stderr


def test_nothing_is_loaded_by_importing_compat() -> None:
    code = (
        "import sys, cpt_plugin.toolkit.compat\n"
        "print([m for m in ('torchvision', 'dassl', 'clip', 'faiss') if m in sys.modules])"
    )
    assert output(python(code, CPT_TOOLKIT="embedded")) == "[]"


# -- Dassl's parts ---------------------------------------------------------------------------------------------


def test_stub_package_has_what_an_importer_looks_at(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "made_up_package_of_a_test"
    monkeypatch.delitem(sys.modules, name, raising=False)
    compat._stub_package(name)
    module = sys.modules.pop(name)
    assert module.__spec__ is not None
    assert (module.__spec__.name, module.__path__, module.__all__) == (name, [], [])


def test_stub_package_replaces_nothing() -> None:
    compat._stub_package("types")
    assert sys.modules["types"] is types


@pytest.mark.parametrize("there", [True, False])
def test_pkg_resources_is_provided_where_setuptools_has_none(there: bool, tmp_path: Path) -> None:
    """As CLIP's file uses it; a pkg_resources that is installed stays."""
    if there:
        make_package(tmp_path, "pkg_resources", "from packaging import version\nimport packaging\nmine = True")
    code = (
        "import importlib.util, sys; find = importlib.util.find_spec\n"
        f"hidden = [] if {there} else ['pkg_resources']\n"
        "importlib.util.find_spec = lambda name, *more: None if name in hidden else find(name, *more)\n"
        "from cpt_plugin.toolkit import compat; compat.prepare_dassl()\n"
        "from pkg_resources import packaging; import pkg_resources\n"
        "print(packaging.version.parse('1.10') > packaging.version.parse('1.9'), hasattr(pkg_resources, 'mine'),\n"
        "      'pkg_resources for CLIP' in compat.applied_fixes())"
    )
    assert output(python(code, tmp_path, CPT_TOOLKIT="embedded")) == f"True {there} {not there}"


@pytest.mark.parametrize("value", [None, True, 3, 0.5, "x", [1.0, [2]], (1, None)])
def test_plain_values(value: object) -> None:
    assert compat._is_plain(value)


@pytest.mark.parametrize("value", [object(), [object()], {"a": 1}, torch.zeros(1), lambda: 0])
def test_values_that_are_not_plain(value: object) -> None:
    assert not compat._is_plain(value)


def warmup_classes():
    """A base and a constant warm-up as Dassl has them, for a torch whose schedulers still took ``verbose``."""

    class Base(torch.optim.lr_scheduler.LRScheduler):
        def __init__(self, optimizer, successor, warmup_epoch, last_epoch=-1, verbose=False):
            self.successor, self.warmup_epoch = successor, warmup_epoch
            super().__init__(optimizer, last_epoch, verbose)

        def step(self, epoch=None):
            if self.last_epoch >= self.warmup_epoch:
                self.successor.step(epoch)
                self._last_lr = self.successor.get_last_lr()
            else:
                super().step(epoch)

    class Constant(Base):
        def __init__(self, optimizer, successor, warmup_epoch, rate):
            self.rate = rate
            super().__init__(optimizer, successor, warmup_epoch, -1, False)

        def get_lr(self):
            late = self.last_epoch >= self.warmup_epoch
            return self.successor.get_last_lr() if late else [self.rate for _ in self.base_lrs]

    return Base, Constant


def make_scheduler(cls):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 6.0)
    return optimizer, cls(optimizer, cosine, 1, 1e-5)


def rates(optimizer, scheduler, epochs):
    out = []
    for _ in range(epochs):
        out.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return out


def test_warmup_without_repair_cannot_be_built() -> None:
    with pytest.raises(TypeError):
        make_scheduler(warmup_classes()[1])


@pytest.mark.parametrize("stop", range(7))
def test_repaired_warmup_resumes_its_schedule(stop: int, tmp_path: Path) -> None:
    base, constant = warmup_classes()
    compat._repair_warmup(base)
    whole = rates(*make_scheduler(constant), 7)
    assert whole[:3] == pytest.approx([1e-5, 0.1, 0.05 * (1 + math.cos(math.pi / 6))])
    optimizer, scheduler = make_scheduler(constant)
    first = rates(optimizer, scheduler, stop)
    state = {"optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict()}
    torch.save(state, tmp_path / "state.pt")
    loaded = torch.load(tmp_path / "state.pt", weights_only=True)
    optimizer, scheduler = make_scheduler(constant)
    optimizer.load_state_dict(loaded["optimizer"])
    scheduler.load_state_dict(loaded["scheduler"])
    assert first + rates(optimizer, scheduler, 7 - stop) == pytest.approx(whole, rel=1e-12)
    assert scheduler.successor.optimizer is optimizer


def test_repaired_numpy_has_an_int_again() -> None:
    name = "augmentation_of_a_test"
    module = sys.modules[name] = types.ModuleType(name)
    try:
        compat._repair_numpy(name)
    finally:
        del sys.modules[name]
    assert module.np.int is int
    assert module.np.linspace(0, 1, 2).tolist() == [0, 1]
    assert not hasattr(numpy, "int")
