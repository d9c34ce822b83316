"""What the parts of a method's name have in common: settings from a constructor, and registries filled by file."""

from __future__ import annotations

import inspect
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from importlib import import_module
from importlib.metadata import EntryPoint
from numbers import Integral, Real
from pkgutil import iter_modules
from typing import Any, ClassVar, Generic, Self, TypeVar

from cpt_plugin._names import hint
from cpt_plugin._numbers import number
from cpt_plugin._other_packages import GROUPS, parts_of_others, refusal
from cpt_plugin._part_rules import check_class, place
from cpt_plugin.errors import ConfigError, CPTError


class Part(ABC):
    """One part of a method's name, with its settings.

    The keyword arguments of the constructor are the settings, and their defaults the default configuration:
    `weight_etf: float = 0.25` is the key `WEIGHT_ETF` of the node `config_node`.

    Attributes:
        name: the registered name; equals the name of the file.
        paper: where it comes from.
        description: one line.
        config_node: the configuration node that holds its settings; the name in upper case.
    """

    name: ClassVar[str]
    paper: ClassVar[str]
    description: ClassVar[str]
    config_node: ClassVar[str]

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        """Return the settings in upper case with their default values."""
        parameters = inspect.signature(cls).parameters.values()
        return {parameter.name.upper(): parameter.default for parameter in parameters}

    @classmethod
    def from_config(cls, node: Mapping[str, Any]) -> Self:
        """Build the part from a configuration node; a missing key keeps its default.

        Raises:
            ConfigError: a key is unknown, or a value has another type than its default, or is no finite number.
        """
        settings = cls.defaults()
        for key in node:
            if key not in settings:
                raise ConfigError(f"{cls.config_node}.{key} is unknown; {hint(key, settings)}")
            settings[key] = _typed(f"{cls.config_node}.{key}", node[key], settings[key])
        return cls(**{key.lower(): value for key, value in settings.items()})

    @property
    @abstractmethod
    def active(self) -> bool:
        """False where the settings make it do nothing; it is then treated as absent."""

    def describe(self) -> list[str]:
        """Return log lines on what it does in a run."""
        return []


P = TypeVar("P", bound=Part)
C = TypeVar("C", bound=type[Part])
_REGISTRIES: list[Registry[Any]] = []


class Registry(dict[str, type[P]], Generic[P]):
    """Classes of one kind of part by name: one file each in the folder of a package, and those of other packages.

    Another package's class is entered by :meth:`register` as soon as its module is imported. An entry point in the
    group that is called as the package makes it known by name before that; it is imported when the name is asked for.

    kind: what messages call them.
    package: name of the package whose files hold them; `base` and files that begin with an underscore do not.
    base: the class that they derive from.
    """

    def __init__(self, kind: str, package: str, base: type[Any]) -> None:
        super().__init__()
        self._kind, self._package, self._base = kind, package, base
        self._seen: Any = None
        self._files: frozenset[str] = frozenset()
        self._joined: set[str] = set()
        self._refused: dict[str, str] = {}
        _REGISTRIES.append(self)

    def register(self, cls: C) -> C:
        """Enter a class under its `name` (class decorator).

        Raises:
            ConfigError: the class breaks a rule of parts, or its name or configuration node belongs to another class.
        """
        check_class(cls, self._kind, self._base)
        for other in (entered for registry in _REGISTRIES for entered in registry.values()):
            same = (other.__module__, other.__qualname__) == (cls.__module__, cls.__qualname__)
            if not same and (other.name == cls.name or other.config_node == cls.config_node):
                raise ConfigError(
                    f"{self._kind} {cls.name!r} ({cls.__module__}) and {other.name!r} ({other.__module__}) "
                    f"share their name or their configuration node {cls.config_node!r}; rename one"
                )
        if cls.config_node != cls.name.upper():
            raise ConfigError(
                f"{place(cls)} has the configuration node {cls.config_node!r}: make it {cls.name.upper()!r}, "
                "the name in capitals"
            )
        self[cls.name] = cls  # type: ignore[assignment]
        return cls

    def names(self) -> list[str]:
        """Return all names there are, in alphabetical order, without importing other packages."""
        self._load_files()
        return sorted({*self, *parts_of_others(self._package)})

    def available(self, asked: Iterable[str] = ()) -> dict[str, type[P]]:
        """Return classes by name, in alphabetical order: those of the folder, and of other packages those imported.

        asked: names that are to be among them; an entry point of that name is imported. Unknown ones are left out.

        Raises:
            ConfigError: a file does not define exactly one under the file's name, or cannot be imported; what
                another package has under a name asked for is of no use.
        """
        self._load_files()
        for name in asked:
            self._join(name)
        return dict(sorted(self.items()))

    def build(self, names: Iterable[str], cfg: Mapping[str, Any]) -> list[P]:
        """Build the named ones from their nodes in `cfg`, in alphabetical order whatever the order given.

        A node that is missing in `cfg` means all defaults.

        Raises:
            ConfigError: a name is unknown or given twice, or a setting is wrong.
        """
        wanted = list(names)
        known = self.available(wanted)
        for name in wanted:
            if name not in known:
                raise ConfigError(f"unknown {self._kind} {name!r}; {hint(name, self.names())}")
            if wanted.count(name) > 1:
                raise ConfigError(f"{self._kind} {name!r} is given {wanted.count(name)} times; name it once")
        nodes = {name: known[name].config_node for name in sorted(wanted)}
        return [known[name].from_config(cfg.get(node, {})) for name, node in nodes.items()]

    def _load_files(self) -> None:
        folders = sys.modules[self._package].__path__
        ages = [(folder, _age(folder)) for folder in folders]
        if (ages, tuple(self.items())) == self._seen:
            return
        stems = (module.name for module in iter_modules(folders))
        self._files = frozenset(stem for stem in stems if stem != "base" and not stem.startswith("_"))
        for stem in sorted(self._files):
            self._load(stem)
        self._seen = None if any(age is None for _, age in ages) else (ages, tuple(self.items()))

    def _join(self, name: str) -> None:
        """Import what another package has under a name, if there is anything; it is refused as often as asked for."""
        entries = parts_of_others(self._package).get(name, ())
        if name in self._joined or not entries:
            return
        if name not in self._refused:
            try:
                self._import(name, entries)
            except ConfigError as error:
                self._refused[name] = str(error)
        if name in self._refused:
            raise ConfigError(self._refused[name])
        self._joined.add(name)

    def _import(self, name: str, entries: tuple[EntryPoint, ...]) -> None:
        before = set(self)
        for package in GROUPS.values():
            import_module(package)
        for registry in _REGISTRIES:
            if name in registry._files:
                raise refusal(self._kind, name, entries, f"{registry._package} has one of that name itself")
        if len(entries) > 1:
            raise refusal(self._kind, name, entries, "several packages claim that name")
        try:
            found = entries[0].load()
            if isinstance(found, type):
                self.register(found)
        except CPTError as error:
            raise refusal(self._kind, name, entries, str(error)) from error
        except (Exception, SystemExit) as error:
            reason = f"cannot be imported: {type(error).__name__}: {error}"
            raise refusal(self._kind, name, entries, reason) from error
        if name not in self:
            others = ", ".join(repr(other) for other in self if other not in before) or "nothing"
            raise refusal(self._kind, name, entries, f"it registers {others}, not {name!r}")

    def _load(self, stem: str) -> None:
        try:
            module = import_module(f"{self._package}.{stem}")
        except CPTError:
            raise
        except Exception as error:
            raise ConfigError(
                f"{self._package.rpartition('.')[2]}/{stem}.py cannot be imported: {type(error).__name__}: {error}; "
                "correct or remove that file"
            ) from error
        defined = [name for name, cls in self.items() if cls.__module__ == module.__name__]
        if defined != [stem]:
            found = ", ".join(map(repr, defined)) or "none"
            raise ConfigError(f"{module.__file__} must register one {self._kind}, {stem!r}; found {found}")


def _age(folder: str) -> int | None:
    """Time of the last change of a folder's list of files; None where it has none, as in a zip or a missing folder."""
    try:
        return os.stat(folder).st_mtime_ns
    except OSError:
        return None


def _typed(key: str, value: Any, default: Any) -> Any:
    """Return the value as the type of its default: finite numbers, also NumPy's, whole ones in place of any."""
    if isinstance(default, float) and isinstance(value, Real) and not isinstance(value, bool):
        return float(number(key, value))
    if type(default) is int and isinstance(value, Integral) and not isinstance(value, bool):
        return int(value)
    if type(value) is not type(default):
        raise ConfigError(f"{key} must be {type(default).__name__}, got {type(value).__name__} {value!r}")
    return value
