"""The set-up with pip and venv replaced: what is decided, what is installed when, what survives a crash."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "bootstrap.py"


def load():
    spec = importlib.util.spec_from_file_location("bootstrap_under_test", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def make_clone(folder):
    if folder.is_dir() and any(folder.iterdir()):
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "setup.py").write_text(
        "setup(install_requires=['torch>=2.11', 'numpy>=1.26'],\n"
        "      extras_require={'engine': ['clip-anytorch>=2.6'], 'test': ['pytest>=8']})\n"
    )
    (folder / "constraints.txt").write_text("torch==2.13.0\n")
    return folder


class Machine:
    """bootstrap with a fake pip and venv, in a Python that lacks everything."""

    def __init__(self, repository, monkeypatch):
        self.module = load()
        self.repository = make_clone(repository)
        self.venv = repository / ".venv"
        self.phases = []
        self.fail_at = None
        self.own_lacks = []
        monkeypatch.setattr(self.module, "missing", lambda wanted: sorted(wanted))
        monkeypatch.setattr(self.module, "missing_in", lambda interpreter, purpose: self.own_lacks)
        monkeypatch.setattr(self.module, "torch_build", lambda interpreter: "torch 0.0, CUDA no")
        monkeypatch.setattr(self.module, "run_logged", self.run)

    def run(self, command, venv, title):
        phase = title.split()[0]
        if phase == self.fail_at:
            raise KeyboardInterrupt
        self.phases.append(phase)
        if phase == "virtual":
            make_venv(self.venv)

    def start(self, purpose="run"):
        """Phases that this start went through."""
        self.phases.clear()
        assert self.module.environment(self.repository, purpose) == self.venv / "bin" / "python"
        return list(self.phases)


def make_venv(folder):
    (folder / "bin").mkdir(parents=True)
    (folder / "lib" / "python3.11" / "site-packages").mkdir(parents=True)
    (folder / "bin" / "python").symlink_to(sys.executable)
    (folder / "pyvenv.cfg").write_text("home = /usr/bin\n")


ALL = ["virtual", "torch", "the"]
PIP_ONLY = ["torch", "the"]


@pytest.fixture
def machine(tmp_path, monkeypatch):
    return Machine(tmp_path / "clone", monkeypatch)


def test_requirements_come_from_setup_py():
    module = load()
    run, test = module.requirements(ROOT, "run"), module.requirements(ROOT, "test")
    assert {"torch", "numpy", "torchvision", "clip-anytorch", "faiss-cpu", "yacs", "tqdm"} <= set(run)
    assert set(test) - set(run) >= {"pytest", "hypothesis", "scikit-learn"}
    assert all(module.numbers(version) for version in test.values())


def test_every_requirement_is_pinned_and_the_pin_meets_the_minimum():
    module = load()
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if "==" in line)
    for name, minimum in module.requirements(ROOT, "test").items():
        assert module.numbers(pins[name]) >= module.numbers(minimum)


@pytest.mark.parametrize(
    ("installed", "complete"),
    [
        ({"torch": "2.11", "numpy": "1.26.0", "clip-anytorch": "2.6.0"}, True),
        ({"torch": "2.15.0+cu130", "numpy": "2.4", "clip-anytorch": "10.0"}, True),
        ({"torch": "2.12.0a0+git1234", "numpy": "2.4", "clip": "1.0"}, True),
        ({"torch": "2.9.1", "numpy": "2.4", "clip-anytorch": "2.6"}, False),
        ({"torch": "2.13", "numpy": "2.4"}, False),
        ({"numpy": "2.4", "clip-anytorch": "2.6"}, False),
    ],
)
def test_an_environment_is_judged_by_minimum_versions(tmp_path, monkeypatch, installed, complete):
    module = load()
    monkeypatch.setattr(module, "installed_version", installed.get)
    lacking = module.missing(module.requirements(make_clone(tmp_path), "run"))
    assert (lacking == []) is complete


def test_a_complete_environment_is_used_and_nothing_is_touched(machine, monkeypatch, capsys):
    monkeypatch.setattr(machine.module, "missing", lambda wanted: [])
    assert machine.module.environment(machine.repository, "test") == Path(sys.executable)
    assert machine.phases == []
    assert not machine.venv.exists()
    assert capsys.readouterr().out == ""


def test_a_fresh_machine_installs_once(machine, capsys):
    assert machine.start() == ALL
    assert machine.start() == []
    assert machine.start("test") == []
    assert "torch 0.0, CUDA no" in capsys.readouterr().err
    path_file = machine.venv / "lib" / "python3.11" / "site-packages" / "cpt_plugin.pth"
    assert path_file.read_text() == f"{machine.repository}\n"


@pytest.mark.parametrize("phase", ALL)
def test_an_interrupted_installation_is_done_again_from_the_start(machine, phase):
    machine.fail_at = phase
    with pytest.raises(KeyboardInterrupt):
        machine.start()
    debris = machine.venv / "half-a-package"
    debris.touch()
    machine.fail_at = None
    assert machine.start() == ALL
    assert not debris.exists()
    assert machine.start() == []
    assert not list(machine.repository.glob(".venv.*"))


def test_a_crash_before_the_stamp_is_an_interrupted_installation(machine, monkeypatch):
    monkeypatch.setattr(machine.module, "torch_build", lambda interpreter: sys.exit("killed"))
    with pytest.raises(SystemExit):
        machine.start()
    monkeypatch.setattr(machine.module, "torch_build", lambda interpreter: "torch 0.0, CUDA no")
    assert machine.start() == ALL


def test_new_pins_are_installed_into_the_same_environment(machine):
    machine.start()
    (machine.repository / "constraints.txt").write_text("torch==2.14.0\n")
    assert machine.start() == PIP_ONLY
    assert machine.start() == []


def test_an_environment_whose_python_has_gone_is_made_anew(machine):
    machine.start()
    (machine.venv / "bin" / "python").unlink()
    assert machine.start() == ALL


def test_a_damaged_stamp_is_no_stamp(machine):
    machine.start()
    (machine.venv / machine.module.STAMP).write_text("{")
    machine.own_lacks = []
    assert machine.start() == []
    assert (machine.venv / machine.module.STAMP).read_text() == "{"


def test_a_complete_environment_made_by_other_means_is_left_alone(machine):
    make_venv(machine.venv)
    before = sorted(machine.venv.rglob("*"))
    assert machine.start() == []
    assert sorted(machine.venv.rglob("*")) == before


def test_an_incomplete_environment_made_by_other_means_is_completed_and_never_removed(machine, monkeypatch):
    make_venv(machine.venv)
    treasure = machine.venv / "treasure"
    treasure.touch()
    machine.fail_at = "torch"
    machine.own_lacks = ["torch>=2.11"]
    with pytest.raises(KeyboardInterrupt):
        machine.start()
    machine.fail_at = None
    monkeypatch.setattr(machine.module, "missing_in", lambda *_: [] if machine.phases else ["torch>=2.11"])
    assert machine.start() == PIP_ONLY
    assert treasure.exists()


def test_a_folder_that_is_no_environment_is_neither_used_nor_removed(machine):
    """Without pyvenv.cfg, `.venv/bin/python` is the system's Python: pip would install there."""
    make_venv(machine.venv)
    (machine.venv / "pyvenv.cfg").unlink()
    with pytest.raises(machine.module.SetupError, match="holds no working Python"):
        machine.start()
    assert machine.phases == []
    assert (machine.venv / "bin" / "python").exists()


def test_an_installation_that_leaves_something_out_is_not_stamped(machine):
    machine.own_lacks = ["yacs>=0.1.8"]
    with pytest.raises(machine.module.SetupError, match=r"still missing: yacs>=0\.1\.8"):
        machine.start()
    assert not (machine.venv / machine.module.STAMP).exists()


def test_a_python_without_venv_names_the_package_to_install(machine, monkeypatch):
    monkeypatch.setattr(machine.module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(machine.module.SetupError, match=r"apt install python3\.\d+-venv"):
        machine.start()
    assert not machine.venv.exists()


def test_a_failing_phase_shows_the_end_of_its_log(tmp_path):
    module = load()
    venv = module.Venv(make_clone(tmp_path))
    venv.folder.mkdir()
    error = "ERROR: No matching distribution found for torch==9"
    code = f"for i in range(40): print('line', i)\nprint({error!r})\nexit(1)"
    with pytest.raises(module.SetupError) as caught:
        module.run_logged([sys.executable, "-c", code], venv, "torch")
    message = str(caught.value)
    assert "line 39" in message
    assert "line 5\n" not in message
    assert "try another" in message
    assert str(venv.log) in message


def test_pip_cannot_install_outside_the_environment(monkeypatch):
    module = load()
    monkeypatch.setenv("PIP_TARGET", "/somewhere")
    environment = module.pip_environment()
    assert environment["PIP_REQUIRE_VIRTUALENV"] == "1"
    assert environment["PIP_CONSTRAINT"] == "constraints.txt"
    assert "PIP_TARGET" not in environment


def test_another_python_is_asked_without_importing_torch():
    module = load()
    assert module.missing_in(Path(sys.executable), "run") == module.missing(module.requirements(ROOT, "run"))
    assert "a working Python" in module.missing_in(Path("/bin/false"), "run")[0]


def test_what_is_present_is_told_without_installing(machine, monkeypatch):
    assert machine.module.present(machine.repository, "run") == Path(sys.executable)
    make_venv(machine.venv)
    assert machine.module.present(machine.repository, "run") == machine.venv / "bin" / "python"
    monkeypatch.setattr(machine.module, "missing", lambda wanted: [])
    assert machine.module.present(machine.repository, "run") == Path(sys.executable)
    assert machine.phases == []


def test_a_python_that_may_not_be_started_is_not_used(machine):
    make_venv(machine.venv)
    python = machine.venv / "bin" / "python"
    python.unlink()
    python.write_text("")
    python.chmod(0o644)
    assert machine.module.present(machine.repository, "run") == Path(sys.executable)
    with pytest.raises(machine.module.SetupError, match="holds no working Python: move it away or remove it"):
        machine.start()


def test_wrong_words_are_refused(capsys):
    assert load().main(["nonsense"]) == 1
    assert "run or test" in capsys.readouterr().err


def test_what_is_said_is_harmless_and_never_taken_for_the_interpreter(monkeypatch, capsys):
    module = load()
    module.say("pip says \x1b[2J\n\tdone")
    assert capsys.readouterr().err == "pip says \\x1b[2J\n\tdone\n"
    monkeypatch.setattr(sys, "stderr", None)
    module.say("nobody listens")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_has_gone_ends_the_set_up_quietly(unbuffered):
    read, write = os.pipe()
    os.close(read)
    environment = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    command = [sys.executable, SCRIPT, "nonsense"]
    try:
        done = subprocess.run(command, env=environment, stderr=write, stdout=subprocess.PIPE, check=False)
    finally:
        os.close(write)
    assert (done.returncode, done.stdout) == (141, b"")


def test_the_interpreter_is_told_as_the_file_system_has_it(tmp_path):
    code = f"import importlib.util as u, sys; s = u.spec_from_file_location('b', {str(SCRIPT)!r}); " \
           "m = u.module_from_spec(s); s.loader.exec_module(m); m.answer(m.Path(sys.argv[1]))"  # fmt: skip
    path = os.fsencode(tmp_path) + "/é\N{SNOWMAN}".encode() + b"\xff/python"
    done = subprocess.run([sys.executable, "-c", code, path], env={"PYTHONIOENCODING": "ascii"}, capture_output=True)
    assert (done.stdout, done.stderr) == (path + b"\n", b"")


SIMULTANEOUS = """
import sys, time
sys.path.insert(0, {root!r})
from pathlib import Path
from tests.scripts import test_bootstrap as t

class Patch:
    setattr = staticmethod(setattr)

machine = t.Machine(Path(sys.argv[1]), Patch)
fast = machine.run
def slow(command, venv, title):
    with open(sys.argv[1] + '/journal', 'a') as journal:
        journal.write(title.split()[0] + ' ')
    time.sleep(0.3)
    fast(command, venv, title)
machine.module.run_logged = slow
print(machine.module.environment(machine.repository, 'run'))
"""


def test_simultaneous_starts_install_once(tmp_path):
    clone = make_clone(tmp_path / "clone")
    command = [sys.executable, "-c", SIMULTANEOUS.format(root=str(ROOT)), str(clone)]
    starts = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(3)
    ]
    answers = [start.communicate(timeout=120) for start in starts]
    assert [start.returncode for start in starts] == [0, 0, 0], answers
    assert {out.strip() for out, _ in answers} == {str(clone / ".venv" / "bin" / "python")}
    assert (clone / "journal").read_text().split() == ALL


def test_the_stamp_says_what_was_installed(machine):
    machine.start()
    stamp = json.loads((machine.venv / machine.module.STAMP).read_text())
    assert stamp["build"] == "torch 0.0, CUDA no"
    assert stamp["python"] == os.path.realpath(sys.executable)
