"""Find or make a Python environment with everything the repository needs; standard library only.

`python bootstrap.py run|test` prints the interpreter to use on standard output and its progress on standard
error. An environment that has every dependency of setup.py at its minimum version is used as it is: first
the Python that runs this file, then `.venv`. Otherwise `.venv` is made from the pins of constraints.txt.
"""

from __future__ import annotations

import ast
import fcntl
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MINIMUM_PYTHON = (3, 11)
STAMP = ".cpt-installed.json"
MARKER = ".cpt-installing"
LOG = "install.log"
# Other distributions that hold the same module; their versions are counted differently and not judged.
ALTERNATIVES = {
    "clip-anytorch": ("clip", "openai-clip"),
    "faiss-cpu": ("faiss-gpu", "faiss-gpu-cu12", "faiss"),
}
PURPOSES = ("run", "test")
# Settings of pip and Python that would send packages somewhere else.
ELSEWHERE = {"PIP_USER", "PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PYTHONHOME", "PIP_PYTHON"}


class SetupError(Exception):
    """The environment cannot be made; the message says why and what to do."""


def say(text: str) -> None:
    """Lines for a person, control characters as escapes; a reader that has gone ends the process without a word."""
    if sys.stderr is None:  # closed from the start; print would take standard output, which is for the interpreter
        return
    shown = re.sub("[\x00-\x08\x0b-\x1f\x7f-\x9f]", lambda sign: rf"\x{ord(sign[0]):02x}", text)
    try:
        print(shown, file=sys.stderr, flush=True)
    except BrokenPipeError:
        leave_unsaid()
        raise SystemExit(141) from None
    except OSError:  # a full disk, or a shell that put a file of its own in the place of what was closed
        leave_unsaid()


def leave_unsaid() -> None:
    """What could not be written is still kept for the end of the process, whose status it would change: drop it."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stderr.fileno())
    os.close(nowhere)


def answer(path: Path) -> None:
    """The interpreter to use on standard output, byte by byte as the file system has it, whatever the locale."""
    sys.stdout.buffer.write(os.fsencode(f"{path}\n"))
    sys.stdout.flush()


def requirements(repository: Path, purpose: str) -> dict[str, str]:
    """Distribution name -> minimum version, from the lists of setup.py; `test` adds the test tools."""
    tree = ast.parse((repository / "setup.py").read_text(encoding="utf-8"))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    setup = next(call for call in calls if isinstance(call.func, ast.Name) and call.func.id == "setup")
    keywords = {word.arg: word.value for word in setup.keywords}
    extras = ast.literal_eval(keywords["extras_require"])
    wanted = ast.literal_eval(keywords["install_requires"]) + extras["engine"]
    if purpose == "test":
        wanted += extras["test"]
    return dict(requirement.split(">=") for requirement in wanted)


def numbers(version: str) -> tuple[int, ...]:
    """`2.13.0+cpu` -> (2, 13, 0): enough to compare with a minimum."""
    return tuple(int(part) for part in re.findall(r"\d+", re.split(r"[+a-zA-Z-]", version)[0]))


def installed_version(name: str) -> str | None:
    """Version of a distribution in this Python, read from its metadata without importing it."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def missing(wanted: dict[str, str]) -> list[str]:
    """Requirements that this Python does not meet."""
    lacking = []
    for name, minimum in wanted.items():
        version = installed_version(name)
        new_enough = version is not None and numbers(version) >= numbers(minimum)
        if not new_enough and not any(installed_version(other) for other in ALTERNATIVES.get(name, ())):
            lacking.append(f"{name}>={minimum}" + (f" (found {version})" if version else ""))
    return lacking


def missing_in(interpreter: Path, purpose: str) -> list[str]:
    """Requirements that another Python does not meet."""
    command = [str(interpreter), __file__, "--missing", purpose]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", check=False)
    if done.returncode:
        return [f"a working Python ({interpreter} fails: {done.stderr.strip()[-200:]})"]
    return done.stdout.splitlines()


class Venv:
    """The repository's `.venv` and what is known about its state."""

    def __init__(self, repository: Path) -> None:
        self.repository = repository
        self.folder = repository / ".venv"
        self.python = self.folder / "bin" / "python"
        self.log = self.folder / LOG

    def fingerprint(self) -> str:
        """Hash of everything that decides what an installation holds."""
        pins = (self.repository / "constraints.txt").read_bytes()
        return hashlib.sha256(pins + json.dumps(requirements(self.repository, "test")).encode()).hexdigest()

    def stamp(self) -> dict[str, str] | None:
        """What the last completed installation wrote, or None."""
        try:
            stamp = json.loads((self.folder / STAMP).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return stamp if isinstance(stamp, dict) else None

    def usable(self) -> bool:
        """Whether there is a Python of its own that can be started: without pyvenv.cfg it would be the system's."""
        return os.path.isfile(self.folder / "pyvenv.cfg") and os.access(self.python, os.X_OK)

    def ready(self) -> bool:
        """Whether the last installation was completed, for the pins and the Python of today."""
        stamp = self.stamp()
        return (
            stamp is not None
            and stamp.get("fingerprint") == self.fingerprint()
            and self.usable()
            and stamp.get("python") == os.path.realpath(self.python)
        )

    def interrupted(self) -> bool:
        """Whether an installation of ours was cut short, or its Python has gone since."""
        stamp = self.stamp()
        moved = stamp is not None and stamp.get("python") != os.path.realpath(self.python)
        return (self.folder / MARKER).exists() or moved or (stamp is not None and not self.usable())

    def discard(self) -> None:
        """Remove the folder: renamed first, so that half a removal is never taken for an environment."""
        self.folder.rename(self.folder.with_name(f".venv.discarded-{os.getpid()}"))
        for leftover in self.repository.glob(".venv.discarded-*"):
            shutil.rmtree(leftover, ignore_errors=True)

    def write_path_file(self) -> None:
        """Make `import cpt_plugin` work from any folder."""
        for site_packages in self.folder.glob("lib/python3*/site-packages"):
            path_file = site_packages / "cpt_plugin.pth"
            if not path_file.exists() or path_file.read_text(encoding="utf-8") != f"{self.repository}\n":
                path_file.write_text(f"{self.repository}\n", encoding="utf-8")

    def write_stamp(self, build: str) -> None:
        """Record a completed installation; a crash before this line means that it is done again."""
        stamp = {"fingerprint": self.fingerprint(), "python": os.path.realpath(self.python), "build": build}
        temporary = self.folder / f"{STAMP}.tmp"
        temporary.write_text(json.dumps(stamp), encoding="utf-8")
        os.replace(temporary, self.folder / STAMP)
        (self.folder / MARKER).unlink(missing_ok=True)


@contextmanager
def locked(repository: Path) -> Iterator[None]:
    """Let one start at a time install; the lock goes with the process, however it ends."""
    handle = os.open(repository, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another start is installing .venv: waiting for it")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def run_logged(command: list[str], venv: Venv, title: str) -> None:
    """Run one phase of the installation with its output in the log; Raises SetupError with the log's end."""
    say(f"  {title} ...")
    start = time.monotonic()
    with venv.log.open("a", encoding="utf-8") as log:
        log.write(f"\n$ {' '.join(command)}\n")
        log.flush()
        done = subprocess.run(
            command, stdout=log, stderr=log, cwd=venv.repository, env=pip_environment(), check=False
        )
    if done.returncode:
        raise SetupError(f"{title} failed.\n{explain(venv.log)}")
    say(f"  {title}: done ({time.monotonic() - start:.0f} s)")


def pip_environment() -> dict[str, str]:
    """Pins also for build environments, and nothing that could send packages outside `.venv`."""
    kept = {key: value for key, value in os.environ.items() if key not in ELSEWHERE}
    pins = {"PIP_CONSTRAINT": "constraints.txt", "PIP_BUILD_CONSTRAINT": "constraints.txt"}
    return {**kept, **pins, "PIP_REQUIRE_VIRTUALENV": "1"}


def explain(log: Path, lines: int = 12) -> str:
    """The end of the log and, for well-known causes, what to do."""
    text = log.read_text(encoding="utf-8", errors="replace")
    end = "\n".join("    " + line for line in text.splitlines()[-lines:])
    version = ".".join(map(str, sys.version_info[:2]))
    hint = "Given again, the same command starts the installation anew."
    if "No matching distribution found for torch" in text:
        hint = f"There is no such torch for Python {version}: try another, e.g. PYTHON=python3.12 bash ..."
    if re.search("name resolution|Failed to establish a new connection|Connection refused", text):
        hint = "No package index could be reached: is there a network, or a proxy to be set?"
    if "No space left on device" in text:
        hint = "The disk is full: a CPU build of torch needs about 2 GB, a CUDA build about 8 GB."
    return f"{end}\n  Full log: {log}\n  {hint}"


def check_venv_module() -> None:
    """Raises SetupError when this Python cannot make virtual environments (Debian splits that off)."""
    if importlib.util.find_spec("venv") is None or importlib.util.find_spec("ensurepip") is None:
        package = f"python{sys.version_info.major}.{sys.version_info.minor}-venv"
        raise SetupError(
            f"{sys.executable} cannot make virtual environments: install the package {package} "
            f"(Debian, Ubuntu: sudo apt install {package}), or activate an environment of your own"
        )


def install(venv: Venv) -> None:
    """Make `.venv`, or complete one that is there, with the pins of constraints.txt."""
    if venv.interrupted():
        say("the last installation of .venv was not completed: starting anew")
        venv.discard()
    started = time.monotonic()
    say(f"setting up {venv.folder} (once)")
    if not venv.usable():
        if venv.folder.is_dir() and any(venv.folder.iterdir()):
            raise SetupError(f"{venv.folder} is there but holds no working Python: move it away or remove it")
        check_venv_module()
        venv.folder.mkdir(exist_ok=True)
        (venv.folder / MARKER).touch()
        base = getattr(sys, "_base_executable", None) or sys.executable
        run_logged([base, "-m", "venv", str(venv.folder)], venv, "virtual environment")
    elif venv.stamp() is not None:
        (venv.folder / MARKER).touch()
    pip = [str(venv.python), "-m", "pip", "install", "--no-input", "--progress-bar", "off"]
    pip += ["--disable-pip-version-check", "-c", "constraints.txt"]
    names = list(requirements(venv.repository, "test"))
    run_logged([*pip, "torch"], venv, "torch (the largest part)")
    run_logged([*pip, *names, "setuptools"], venv, "the other packages")
    lacking = missing_in(venv.python, "test")
    if lacking:
        raise SetupError(f"after the installation these are still missing: {', '.join(lacking)}")
    venv.write_path_file()
    venv.write_stamp(torch_build(venv.python))
    say(f"  ready ({time.monotonic() - started:.0f} s)")


def torch_build(interpreter: Path) -> str:
    """Which torch this is, asked from torch itself: `torch 2.13.0+cpu, CUDA no`."""
    code = "import torch as t; print(f'torch {t.__version__}, CUDA', ['no', 'yes'][t.cuda.is_available()])"
    command = [str(interpreter), "-c", code]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", check=False)
    if done.returncode:
        raise SetupError(f"the installed torch cannot be imported:\n{done.stderr.strip()[-1000:]}")
    return done.stdout.strip()


def environment(repository: Path, purpose: str) -> Path:
    """The interpreter to use, after installing what is needed."""
    venv = Venv(repository)
    inside = Path(sys.prefix).resolve() == venv.folder.resolve()
    lacking = missing(requirements(repository, purpose))
    if not lacking and not inside:
        say(f"environment: {sys.prefix} (torch {installed_version('torch')})")
        return Path(sys.executable)
    if not inside and installed_version("torch"):
        say(f"{sys.prefix} lacks {', '.join(lacking)}: using .venv")
    if not venv.ready():
        with locked(repository):
            own = venv.usable() and venv.stamp() is None and not venv.interrupted()
            if own and not missing_in(venv.python, purpose):
                say(f"environment: {venv.folder}, which was made by other means")
                return venv.python
            if not venv.ready():
                install(venv)
    venv.write_path_file()
    say(f"environment: .venv ({(venv.stamp() or {}).get('build')})")
    return venv.python


def present(repository: Path, purpose: str) -> Path:
    """The interpreter that would be used as things are, if nothing could be installed."""
    venv = Venv(repository)
    complete = not missing(requirements(repository, purpose))
    return Path(sys.executable) if complete or not venv.usable() else venv.python


def main(argv: list[str]) -> int:
    """Command line: `run` or `test`; `--missing PURPOSE` lists what this Python lacks.

    `--present PURPOSE` prints the interpreter to use and installs nothing.
    """
    repository = Path(__file__).resolve().parents[1]
    try:
        if sys.version_info < MINIMUM_PYTHON:
            raise SetupError(f"Python {sys.version.split()[0]} is too old: 3.11 or newer is needed")
        if argv[:1] == ["--missing"]:
            for requirement in missing(requirements(repository, argv[1])):
                print(requirement)
            return 0
        if argv[:1] == ["--present"]:
            answer(present(repository, argv[1]))
            return 0
        if len(argv) != 1 or argv[0] not in PURPOSES:
            raise SetupError(f"say what the environment is for: {' or '.join(PURPOSES)}")
        answer(environment(repository, argv[0]))
    except SetupError as error:
        say(f"error: {error}")
        return 1
    except OSError as error:
        say(f"error: the environment cannot be set up: {error}. See the permissions of .venv, or remove it")
        return 1
    except KeyboardInterrupt:
        say("interrupted: given again, the same command goes on")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
