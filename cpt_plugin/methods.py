"""Names of methods and data sets, read from the files and entry points that define them; standard library only.

Nothing here imports torch or a trainer: names are checked before anything is installed.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

from cpt_plugin import worlds
from cpt_plugin._names import nearest
from cpt_plugin._other_packages import GROUPS, origin, parts_of_others
from cpt_plugin.errors import ConfigError

PACKAGE = Path(__file__).resolve().parent
ZEROSHOT = "zeroshot"
DPC = "dpc"
EMBEDDED_WORLD = worlds.DATASET_NAME
_NEVER_TOGETHER = {
    ("cpt", "cptb"): "are the same terms under different weights",
    ("cpt", "cptx"): "are the same terms under different weights",
    ("cptb", "cptx"): "are the same terms in two variants",
    ("la", "posthoc"): "take the class frequencies into account twice",
    ("bs", "posthoc"): "take the class frequencies into account twice",
}
_MARKS = ("trainers", "configs/datasets", "cpt_plugin/methods.py")
ALIASES = {
    "dpc": "coop_dpc",
    "dpc_cpt": "coop_dpc_cpt",
    "npt": "maple_npt",
    "npt_cpt": "maple_cpt_npt",
    "dapt": "shallow_vl_dapt",
}


@dataclass(frozen=True)
class Method:
    """A prompt learner, optionally with DPC's second stage, and the parts added to it.

    `name` is canonical: a long-tail loss, then regularizers, then controls, each kind in alphabetical order.
    `parts` are all these parts in that order; `loss` names those that replace the cross-entropy (one at most),
    `evaluation` those that change nothing in training. `trainer_name` is the name under which the combination is
    registered: the prompt learner's class, then DPC, then the parts. `visual_depth` is the depth of its visual prompts,
    or the configuration key that holds it; 0 for a method without any.
    """

    name: str
    prompt_learner: str
    dpc: bool
    parts: tuple[str, ...]
    trainer_name: str
    loss: tuple[str, ...] = ()
    evaluation: tuple[str, ...] = ()
    visual_depth: str | int = 0

    @property
    def baseline(self) -> Method:
        """The same method without added parts; the method itself when it has none."""
        return self._with(())

    @property
    def first_stage(self) -> Method | None:
        """The prompt learner from whose prompts a method with DPC starts, with its loss; None for other methods."""
        return self._with(self.loss, dpc=False) if self.dpc else None

    @property
    def trained(self) -> Method | None:
        """For a method that changes the evaluation, the one whose prompts it evaluates; None for other methods."""
        kept = [part for part in self.parts if part not in self.evaluation]
        return self._with(kept) if self.evaluation else None

    def _with(self, parts: Iterable[str], dpc: bool | None = None) -> Method:
        kept, dpc = tuple(parts), self.dpc if dpc is None else dpc
        learner = self.trainer_name.removesuffix("".join(name.upper() for name in self.parts))
        learner = learner.removesuffix(DPC.upper()) if self.dpc else learner
        return replace(
            self,
            name=_method_name(self.prompt_learner, dpc, kept),
            dpc=dpc,
            parts=kept,
            trainer_name=_trainer_name(learner, dpc, kept),
            loss=tuple(part for part in self.loss if part in kept),
            evaluation=tuple(part for part in self.evaluation if part in kept),
        )


@dataclass(frozen=True)
class Part:
    """A building block of a method name with the first line of its documentation."""

    name: str
    kind: str
    description: str


def find_repository(start: Path | None = None) -> Path:
    """Folder that holds `trainers/`, `configs/` and this package: next to the package, else above `start`.

    Raises ConfigError when neither place is a clone of the repository.
    """
    here = (start or Path.cwd()).resolve()
    for folder in (PACKAGE.parent, here, *here.parents):
        if all((folder / part).exists() for part in _MARKS):
            return folder
    raise ConfigError(
        f"{here} is not in a clone of the cpt-plugin repository (with trainers/, configs/): run from one"
    )


def prompt_learners(repository: Path | None = None) -> list[str]:
    """Names of the prompt learners: one file each in `trainers/`."""
    return [stem for stem in _stems((repository or find_repository()) / "trainers", ".py") if stem != DPC]


def added_parts(repository: Path | None = None) -> dict[str, str]:
    """Parts that a prompt learner can take besides DPC, with their kind, in their order in a method's name."""
    files = {kind: _part_stems(folder) for kind, folder in part_folders(repository).items()}
    ours = {stem for stems in files.values() for stem in stems}
    return {
        name: kind for kind, stems in files.items() for name in sorted({*stems, *(_names_of_others(kind) - ours)})
    }


def part_folders(repository: Path | None = None) -> dict[str, Path]:
    """Folders with one file a part, by kind."""
    repository = repository or find_repository()
    package = repository / "cpt_plugin" if (repository / "cpt_plugin" / "regularizers").is_dir() else PACKAGE
    return {
        "loss": package / "long_tail_losses",
        "regularizer": package / "regularizers",
        "control": repository / "trainers" / "controls",
    }


def has_dpc(repository: Path | None = None) -> bool:
    """Whether DPC's second stage (`trainers/dpc.py`) is part of this version."""
    return ((repository or find_repository()) / "trainers" / f"{DPC}.py").is_file()


def parse_method(text: str, repository: Path | None = None) -> Method:
    """Take a method name `<prompt learner>[_dpc][_<part>...]` (or an alias) apart; parts may stand in any order.

    Raises ConfigError, on one line, with the parts that exist and the nearest valid name.
    """
    repository = repository or find_repository()
    learners, known = prompt_learners(repository), added_parts(repository)
    order = list(known)
    name = ALIASES.get(text, text)
    for learner in sorted(learners, key=len, reverse=True):
        if name != learner and not name.startswith(f"{learner}_"):
            continue
        parts = _split(name[len(learner) :], [*known, DPC] if has_dpc(repository) else [*known])
        if parts is None:
            continue
        dpc = parts[:1] == [DPC]
        added = parts[1:] if dpc else parts
        repeated = sorted({part for part in parts if parts.count(part) > 1})
        if repeated:
            raise ConfigError(f"method '{text}' names '{repeated[0]}' twice: each part may be given once")
        if DPC in added:
            continue
        if learner == ZEROSHOT and parts:
            raise ConfigError(f"method '{text}': '{ZEROSHOT}' trains nothing and takes no parts")
        _check_together(text, added, known)
        added.sort(key=order.index)
        controls = part_folders(repository)["control"]
        trainer = _trainer_class(repository / "trainers" / f"{learner}.py", learner)
        return Method(
            _method_name(learner, dpc, added),
            learner,
            dpc,
            tuple(added),
            _trainer_name(trainer.name, dpc, added),
            tuple(part for part in added if known[part] == "loss"),
            tuple(part for part in added if known[part] == "control" and _evaluates(controls / f"{part}.py")),
            _visual_depth(trainer),
        )
    raise ConfigError(_unknown_method(text, name, learners, known, has_dpc(repository)))


def parse_tau(text: str) -> float:
    """Imbalance ratio tau = min n_k / max n_k, in (0, 1], of six digits at most, which folders and tables show.

    Raises ConfigError otherwise.
    """
    try:
        tau = float(text)
    except ValueError:
        tau = -1.0
    if not 0.0 < tau <= 1.0:
        raise ConfigError(
            f"tau is '{text}', but must be a number in (0, 1] (fewest / most images), e.g. 0.25"
        )
    if float(f"{tau:g}") != tau:
        raise ConfigError(f"tau is '{text}', but must have six digits at most: write {tau:g}")
    return tau


def dataset_names(repository: Path | None = None) -> list[str]:
    """Names of the data sets (one file each in `configs/datasets/`), the embedded world first."""
    stems = _stems((repository or find_repository()) / "configs" / "datasets", ".yaml")
    return [EMBEDDED_WORLD, *(stem for stem in stems if stem != EMBEDDED_WORLD)]


def is_embedded(dataset: str) -> bool:
    """Whether a data set is drawn by the program, so that nothing has to be downloaded."""
    return dataset.split(":")[0] == EMBEDDED_WORLD


def parse_dataset(text: str, repository: Path | None = None) -> str:
    """Check a data set's name and return it; `shapes[:CLASSSET[:DOMAIN]]` comes back in its shortest form.

    Raises ConfigError, on one line, with the names that exist and the nearest one.
    """
    if is_embedded(text):
        for class_set in text.split(":")[1:2]:  # here a domain alone, shapes:outline, would be ambiguous
            worlds.check_class_set(class_set, text)
        world = worlds.parse_world(text)
        return EMBEDDED_WORLD if world == worlds.parse_world("") else world.name
    names = dataset_names(repository)
    if text in names:
        return text
    possible = ", ".join([worlds.WORLD_FORM, *names[1:], "or the path of your own .yaml"])
    raise ConfigError(f"unknown data set '{text}'; nearest: '{nearest(text, names)}'; possible: {possible}")


def describe_parts(repository: Path | None = None) -> list[Part]:
    """All building blocks of method names with the first line of each file's documentation."""
    repository = repository or find_repository()
    learners = [("prompt learner", repository / "trainers", name) for name in prompt_learners(repository)]
    if has_dpc(repository):
        learners.append(("second stage", repository / "trainers", DPC))
    folders = part_folders(repository)
    added = [(kind, folders[kind], name) for name, kind in added_parts(repository).items()]
    return [_described(kind, folder / f"{name}.py") for kind, folder, name in [*learners, *added]]


def first_line(path: Path) -> str:
    """What a Python file says of itself, read without importing it.

    The first line of its documentation, else the `description` of its class; and the class's `paper`, unless that line
    names it.
    """
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except SyntaxError as error:
        return f"(cannot be used: {path.name}, line {error.lineno}: {error.msg})"
    said = {name: str(value) for node in ast.walk(tree) for name, value in _assigned(node)}
    documentation = (ast.get_docstring(tree) or "").partition("\n")[0]
    return with_paper(documentation or said.get("description", ""), said.get("paper", ""))


def with_paper(line: str, paper: str) -> str:
    """A part's line, and in brackets the paper, unless the line has its number on arXiv."""
    numbers = re.findall(r"\d{4}\.\d{4,5}", paper)
    named = not paper or (numbers and all(number in line for number in numbers))
    return line if named else f"{line} [paper: {paper}]"


def _assigned(node: ast.AST) -> Iterator[tuple[str, Any]]:
    """Names and constants of an assignment: `a = 1`, `a: int = 1`, `a, b = 1, 2`."""
    match node:
        case ast.Assign(targets=[ast.Tuple(elts=names)], value=ast.Tuple(elts=values)):
            pairs = list(zip(names, values, strict=False))
        case ast.Assign(targets=[name], value=value) | ast.AnnAssign(target=name, value=ast.expr() as value):
            pairs = [(name, value)]
        case _:
            pairs = []
    for name, value in pairs:
        match name, value:
            case ast.Name(id=key), ast.Constant(value=constant):
                yield key, constant


def _described(kind: str, path: Path) -> Part:
    if path.is_file():
        return Part(path.stem, kind, first_line(path))
    owners = " and ".join(origin(entry) for entry in parts_of_others(GROUPS[kind])[path.stem])
    return Part(path.stem, kind, f"of {owners}")


def _stems(folder: Path, suffix: str) -> list[str]:
    return sorted(path.stem for path in folder.glob(f"*{suffix}") if not path.name.startswith(("_", ".")))


def _part_stems(folder: Path) -> list[str]:
    return [stem for stem in _stems(folder, ".py") if stem != "base"]


def _names_of_others(kind: str) -> set[str]:
    return {*parts_of_others(GROUPS[kind])} if kind in GROUPS else set()


def _check_together(text: str, added: Iterable[str], kinds: Mapping[str, str]) -> None:
    """Refuse parts that cannot both be in one method, on one line with the reason."""
    losses = [part for part in added if kinds[part] == "loss"]
    if len(losses) > 1:
        named = " and ".join(f"'{part}'" for part in losses)
        raise ConfigError(f"method '{text}': {named} each replace the cross-entropy: name one")
    for (one, other), reason in _NEVER_TOGETHER.items():
        if {one, other} <= {*added}:
            raise ConfigError(f"method '{text}': '{one}' and '{other}' {reason}: name one")


def _evaluates(path: Path) -> bool:
    """Whether a control's file says `trains = False`: it changes the evaluation alone."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return ("trains", False) in (said for node in ast.walk(tree) for said in _assigned(node))


def _trainer_name(learner: str, dpc: bool, added: Iterable[str]) -> str:
    return learner + (DPC.upper() if dpc else "") + "".join(part.upper() for part in added)


def _method_name(learner: str, dpc: bool, added: Iterable[str]) -> str:
    return "_".join([learner, *([DPC] if dpc else []), *added])


def _split(rest: str, known: list[str]) -> list[str] | None:
    """Parts named by `_a_b...`, or None when some of it is no known part."""
    if not rest:
        return []
    for part in sorted(known, key=len, reverse=True):
        if rest == f"_{part}" or rest.startswith(f"_{part}_"):
            tail = _split(rest[len(part) + 1 :], known)
            if tail is not None:
                return [part, *tail]
    return None


def _trainer_class(path: Path, learner: str) -> ast.ClassDef:
    """The class under `@prompt_learner("<learner>")` in a file, read without importing it."""
    try:
        body = ast.parse(path.read_text(encoding="utf-8")).body
    except SyntaxError as error:
        raise ConfigError(f"{path}, line {error.lineno}: {error.msg}; correct or remove that file") from error
    for node in body:
        if isinstance(node, ast.ClassDef):
            for mark in node.decorator_list:
                if isinstance(mark, ast.Call) and repr(learner) in map(ast.unparse, mark.args):
                    return node
    raise ConfigError(f"{path} defines no class under @prompt_learner({learner!r})")


def _visual_depth(trainer: ast.ClassDef) -> str | int:
    """What a trainer's class says of its visual prompts: a depth, or the full configuration key of one."""
    said = {name: value for node in trainer.body for name, value in _assigned(node)}
    depth = said.get("visual_depth", 0)
    return f"TRAINER.{said.get('config_node', '')}.{depth}" if isinstance(depth, str) else int(depth)


def _combinations(learners: list[str], known: Sequence[str], dpc: bool) -> Iterator[str]:
    for learner in learners:
        trainable = learner != ZEROSHOT
        for stage in (False, True) if dpc and trainable else (False,):
            for count in range(min(len(known), 3) + 1 if trainable else 1):
                for added in combinations(known, count):
                    yield _method_name(learner, stage, added)


def _unknown_method(text: str, name: str, learners: list[str], known: Mapping[str, str], dpc: bool) -> str:
    alias = f"method '{text}' (= {name}) needs a part that is not here yet"
    stated = alias if name != text else f"unknown method '{text}'"
    second = f"[_{DPC}]" if dpc else ""
    names = list(_combinations(learners, list(known), dpc))
    plurals = {"loss": "losses", "regularizer": "regularizers", "control": "controls"}
    listed = [
        f"{plural} {', '.join(part for part in known if known[part] == kind)}"
        for kind, plural in plurals.items()
        if kind in known.values() or kind == "regularizer"
    ]
    reordered = [other for other in names if sorted(other.split("_")) == sorted(name.split("_"))]
    return (
        f"{stated}; nearest: '{nearest(name, reordered or names)}'; "
        f"a method is LEARNER{second}[_PART...] with learners {', '.join(learners) or '(none)'}, {', '.join(listed)} "
        "(more from other packages: docs/extending.md)"
    )
