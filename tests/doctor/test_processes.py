"""The probes for real, in processes of their own: imports that fail, hang, kill, or are not what they seem."""

from __future__ import annotations

import ast
import os
import shutil
import sys
import time
from pathlib import Path

import pytest

from cpt_plugin.doctor import probe, processes
from cpt_plugin.doctor.processes import PACKAGE, ask


@pytest.fixture
def stub(tmp_path, monkeypatch):
    """Writes a module that stands before the installed one of that name; returns the folder."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def write(name, code):
        path = tmp_path / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(code)
        return tmp_path

    return write


class Clock:
    """Time that stands still until the test lets it pass."""

    sleep = staticmethod(time.sleep)

    def __init__(self, has_passed=lambda: False):
        self.has_passed = has_passed

    def monotonic(self):
        return 1000.0 if self.has_passed() else 0.0


def one(topic, **settings):
    return ask(sys.executable, [topic], **settings)[topic]


def test_packages_are_seen_without_importing_any(stub):
    for name in ("torch", "torchvision", "numpy", "clip", "faiss", "dassl"):
        stub(name, "raise SystemExit('imported')")
    answer = one("packages")
    assert answer.failure == ""
    assert answer.facts["versions"]["torch"]
    assert answer.facts["executable"] == sys.executable
    assert answer.facts["origins"]["dassl"].endswith("dassl.py")


@pytest.mark.parametrize(
    ("code", "failure", "module"),
    [
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'", "no_such_module"),
        ("raise ImportError('libcudart.so.13:\\n cannot open')", "ImportError: libcudart.so.13: cannot open", ""),
        ("raise SystemExit(3)", "SystemExit: 3", ""),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "the process ended with SIGSEGV", ""),
        ("import os; os.write(2, b'out of luck\\n'); os._exit(7)", "exit status 7 (out of luck)", ""),
    ],
)
def test_an_import_may_end_in_any_way(stub, code, failure, module):
    stub("torchvision", code)
    answer = one("torchvision")
    assert failure in answer.failure
    assert answer.module == module
    assert answer.facts == {}


def test_an_import_that_hangs_is_given_up_with_all_it_started(stub, tmp_path, monkeypatch):
    child = tmp_path / "child"
    stub(
        "torchvision",
        "import subprocess, sys, time, pathlib\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        f"pathlib.Path({str(child)!r}).write_text(str(child.pid))\n"
        "time.sleep(600)",
    )
    monkeypatch.setattr(processes, "time", Clock(lambda: child.exists() and child.read_text()))
    assert one("torchvision", timeout=2).failure == "no answer within 2 s"
    assert _has_ended(int(child.read_text()))


def _has_ended(pid):
    """Whether a process is gone, or dead and not yet collected by its parent."""
    for _ in range(1000):
        try:
            if Path(f"/proc/{pid}/stat").read_text().split(") ")[1].startswith("Z"):
                return True
        except OSError:
            return True
        time.sleep(0.05)
    return False


def test_one_broken_import_does_not_end_the_others(stub, monkeypatch):
    """The one that hangs is given up as the last begins."""
    stub("torchvision", "import os; os.abort()")
    stub("faiss", "import time; time.sleep(600)")
    begun = []
    monkeypatch.setattr(processes, "time", Clock(lambda: "packages" in begun))
    answers = ask(sys.executable, ["torchvision", "faiss", "packages"], timeout=5, jobs=2, progress=begun.append)
    assert list(answers) == ["torchvision", "faiss", "packages"]
    assert "SIGABRT" in answers["torchvision"].failure
    assert "no answer" in answers["faiss"].failure
    assert answers["packages"].failure == ""


def test_a_python_that_is_none_is_an_answer_too():
    assert "cannot be started" in ask("/no/such/python", ["packages"])["packages"].failure
    assert "exit status 1" in ask("/bin/false", ["packages"])["packages"].failure


def test_an_interruption_ends_the_processes(stub, tmp_path):
    note = tmp_path / "pid"
    stub("torchvision", f"import os, time; open({str(note)!r}, 'w').write(str(os.getpid())); time.sleep(600)")

    def interrupt(topic):
        if topic == "packages":
            while not note.exists() or not note.read_text():
                time.sleep(0.05)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ask(sys.executable, ["torchvision", "packages"], jobs=2, progress=interrupt)
    assert _has_ended(int(note.read_text()))


def test_datasets_of_another_repository_are_told_from_ours(stub, tmp_path, monkeypatch):
    folder = stub("trainers/__init__", "")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), str(PACKAGE.parent)]))
    assert one("packages").facts["taken"] == {"trainers": str(folder / "trainers" / "__init__.py")}
    shutil.rmtree(folder / "trainers")
    assert one("packages").facts["taken"] == {}


def test_a_copy_of_clip_in_the_current_folder_is_the_one_that_is_imported(stub, tmp_path, monkeypatch):
    monkeypatch.chdir(stub("clip/__init__", "from pkg_resources import packaging"))
    facts = one("packages").facts
    assert facts["origins"]["clip"] == str(tmp_path / "clip" / "__init__.py")
    assert facts["clip_needs_pkg_resources"]


def test_an_unrelated_package_called_clip_is_not_openais(tmp_path, monkeypatch):
    metadata = tmp_path / "clip-0.2.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: clip\nVersion: 0.2.0\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert "clip" not in one("packages").facts["clips"]


def test_the_repair_of_torchvision_lasts_until_clip_is_imported():
    """Declared operators vanish with the module that declared them: `import clip` would fail again."""
    assert one("clip").failure == ""


def test_the_small_training_sees_what_depends_on_chance(monkeypatch):
    torch = pytest.importorskip("torch")
    assert probe.determinism(PACKAGE)["same"]
    monkeypatch.setattr(torch, "manual_seed", lambda seed: torch.seed())
    assert not probe.determinism(PACKAGE)["same"]


def test_the_repair_of_torchvision_is_tried_in_pythons_without_cpt_plugin(monkeypatch):
    monkeypatch.setitem(sys.modules, "cpt_plugin", None)
    assert callable(probe._repair(PACKAGE).prepare_torchvision)


def test_probes_start_in_old_pythons():
    """As far as that can be told here: the syntax is that of Python 3.8."""
    ast.parse((PACKAGE / "doctor" / "probe.py").read_text(), feature_version=(3, 8))
