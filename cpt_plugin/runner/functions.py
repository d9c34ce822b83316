"""Functions of the user's own, given as ``FILE.py:function``; their faults are told with file and line."""

from __future__ import annotations

import hashlib
import inspect
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from cpt_plugin._names import hint
from cpt_plugin._paths import run_as_module
from cpt_plugin.errors import ConfigError, CPTError, HookError, one_line


@dataclass(frozen=True)
class FunctionPlace:
    """A function in a file, as an option of the runner names it."""

    option: str
    path: Path
    name: str

    def __str__(self) -> str:
        return f"{self.option} {self.path}:{self.name}"

    def load(self) -> StepFunction:
        """The function, from its file under a private module name.

        Raises:
            ConfigError: the file fails to run, has no such function, or one that does not take one argument.
        """
        module = _module(self)
        if not hasattr(module, self.name):
            own = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
            raise ConfigError(f"{self}: {self.path} has no {self.name!r}; {hint(self.name, own)}")
        function = getattr(module, self.name)
        if not callable(function):
            raise ConfigError(f"{self} is a {type(function).__name__}: name a function of one argument, the step")
        try:
            inspect.signature(function).bind(None)
        except TypeError as error:
            raise ConfigError(f"{self} must take one argument, the training step ({error})") from None
        except ValueError:  # written in C: nothing is known about its arguments
            pass
        return StepFunction(self, function)


def split_place(option: str, text: str) -> FunctionPlace:
    """``FILE.py:function`` as a place; raises ConfigError for another form or where there is no such file."""
    file, colon, name = text.rpartition(":")
    if not colon or not file or not name.isidentifier():
        raise ConfigError(f"{option} {text!r}: write FILE.py:function, e.g. my_features.py:features")
    if not Path(file).is_file():
        raise ConfigError(f"{option} {text}: there is no file {file} in {Path.cwd()}")
    return FunctionPlace(option, Path(file), name)


class StepFunction:
    """One of the user's functions of a training step; what goes wrong in it is a HookError that says where."""

    def __init__(self, place: FunctionPlace, function: Callable[[Any], Any]) -> None:
        self._place = place
        self._function = function

    def __call__(self, step: Any) -> Any:
        """What the function returns for ``step``.

        Raises:
            HookError: the function raised an error; file, line and the error are named.
        """
        try:
            return self._function(step)
        except CPTError:
            raise
        except Exception as error:
            from cpt_plugin.hook.features import described

            line = _last_line_in(error, self._place.path)
            raise HookError(
                f"{self._place} failed in line {line}: {one_line(error, 300)}. What it was given: {described(step)}."
            ) from error

    def __repr__(self) -> str:
        code = getattr(inspect.unwrap(self._function), "__code__", None)
        return f"{self._place}" + (f" (line {code.co_firstlineno})" if code is not None else "")


def _module(place: FunctionPlace) -> ModuleType:
    """The file as a module, run once however many options name it."""
    path = place.path.resolve()
    name = f"_cpt_plugin_user_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    try:
        module = run_as_module(path, name)
    except (Exception, SystemExit) as error:
        line = error.lineno if isinstance(error, SyntaxError) else _last_line_in(error, path)
        raise ConfigError(f"{place}: {place.path} cannot be imported, line {line}: {one_line(error, 300)}") from error
    if module is None:
        raise ConfigError(f"{place}: {place.path} is no Python file: its name must end with .py")
    return module


def _last_line_in(error: BaseException, path: Path) -> int | None:
    """The line of ``path`` in which an error arose or from which it was called."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if Path(frame.filename).resolve() == path.resolve()]
    return lines[-1] if lines else None
