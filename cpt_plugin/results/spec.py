"""What a table over several data sets shows: its rows and columns, read from ``configs/tables/<name>.yaml``."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cpt_plugin._names import nearest
from cpt_plugin._schema import SchemaError, decode
from cpt_plugin._seeds import MAX_SEED
from cpt_plugin.config_identity import variant_name
from cpt_plugin.errors import ConfigError
from cpt_plugin.methods import EMBEDDED_WORLD, parse_dataset, parse_method, parse_tau
from cpt_plugin.protocols import BASE_TO_NEW, HEADLINES, TRANSFER, parse_protocol, tasks
from cpt_plugin.results.groups import GROUPS
from cpt_plugin.results.published import AVERAGE, H_OF_MEANS, MEAN_OF_H, published_names
from cpt_plugin.results.record import BY_CLASS

WORLDS = ("shapes", "real")
SOURCES = {"shapes": EMBEDDED_WORLD, "real": "imagenet"}
"""Where transfer protocols train."""
_OVER = ("average", "each", "seed")


@dataclass(frozen=True)
class RowSpec:
    """A row: a method under options (none: as configured), or with no method the published figures of one only.

    baseline: label of the row to compare with; by default that of the method without regularizers whose
    options are most of this row's (none, where no row has more).
    published: name of the published method beside it; by default the row's own, where it has no options.
    """

    label: str = ""
    method: str = ""
    options: dict[str, Any] | None = None
    baseline: str = ""
    published: str = ""

    @property
    def variant(self) -> str:
        """As the record of such a run names it."""
        return variant_name(self.options or {})

    @property
    def pairs(self) -> tuple[str, ...]:
        """The options as KEY VALUE words."""
        return tuple(str(word) for pair in (self.options or {}).items() for word in pair)


@dataclass(frozen=True)
class Measure:
    """Columns of one protocol and one metric (by default its headline).

    over: ``average`` (a column of the mean over the data sets), ``each`` (also one for each data set or target), or
    ``seed`` (also one for each seed).
    """

    protocol: str = BASE_TO_NEW
    metric: str = ""
    over: str = "average"


@dataclass(frozen=True)
class TableSpec:
    """A table: its rows, its columns at each tau, and the seeds expected of every run.

    blocks: ``tau`` for a block of its own for each tau, ``one`` for all columns beside each other.
    shapes, real: the data sets of base-to-new and few-shot columns.
    """

    title: str
    rows: tuple[RowSpec, ...]
    columns: tuple[Measure, ...]
    taus: tuple[float, ...]
    seeds: tuple[int, ...] = (1, 2, 3)
    blocks: str = "one"
    shapes: tuple[str, ...] = (EMBEDDED_WORLD,)
    real: tuple[str, ...] = ()


@dataclass(frozen=True)
class Column:
    """One column: a metric averaged over data sets at one tau, of one seed only where ``seed`` says so.

    published: (data set, metric) of the published figures that belong beside it.
    """

    header: str
    protocol: str
    tau: float
    datasets: tuple[str, ...]
    metric: str
    seed: int | None = None
    published: tuple[str, str] | None = None


def table_names(repository: Path) -> list[str]:
    """Names of the tables there are."""
    return sorted(path.stem for path in (repository / "configs" / "tables").glob("*.yaml"))


def load_spec(text: str, repository: Path) -> TableSpec:
    """Read a table by its name or by the path of a yaml.

    Raises:
        ConfigError: there is none of this name (the nearest is given), or it says something that has no meaning.
    """
    path = Path(text) if text.endswith((".yaml", ".yml")) else repository / "configs" / "tables" / f"{text}.yaml"
    if not path.is_file():
        names = table_names(repository)
        possible = f"possible: {', '.join(names)}, or the path of a yaml"
        raise ConfigError(f"no table '{text}'; nearest: '{nearest(text, names)}'; {possible}")
    import yaml

    try:
        spec = decode(TableSpec, yaml.safe_load(path.read_text(encoding="utf-8")))
    except (yaml.YAMLError, SchemaError, OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {' '.join(str(error).split())}") from error
    try:
        return _checked(spec, repository)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def blocks(spec: TableSpec, world: str) -> list[tuple[str, tuple[Column, ...]]]:
    """The columns with a heading for each block of them; raises ConfigError where there are no data sets for one."""
    by_tau = [(tau, [column for one in spec.columns for column in _expand(one, tau, spec, world)]) for tau in spec.taus]
    if spec.blocks == "tau" or len(spec.taus) == 1:
        return [(f"tau {tau:g}", tuple(columns)) for tau, columns in by_tau]
    named = [replace(c, header=f"{c.header}, tau {tau:g}") for tau, columns in by_tau for c in columns]
    return [("", tuple(named))]


def _expand(measure: Measure, tau: float, spec: TableSpec, world: str) -> list[Column]:
    metric = measure.metric or HEADLINES[measure.protocol]
    transfer = measure.protocol in TRANSFER
    datasets = (SOURCES[world],) if transfer else getattr(spec, world)
    if not datasets:
        raise ConfigError(f"the table names no data sets for {measure.protocol} of {world}: add {world}: [...] to it")
    prefix = {"cross_dataset": "cross-dataset ", "domain_generalization": "domains "}.get(measure.protocol, "")
    names = {"H": MEAN_OF_H, "base": "base", "new": "new", H_OF_MEANS: H_OF_MEANS}
    own = (SOURCES["real"], metric) if transfer else (AVERAGE, names[metric]) if metric in names else None
    header = prefix + (metric.replace("_", " ") if len(datasets) == 1 or metric == H_OF_MEANS else f"mean of {metric}")
    if len(datasets) == 1 and not transfer and world == "real":
        own = (datasets[0], metric)
    average = Column(header, measure.protocol, tau, datasets, metric, published=own)
    if measure.over == "average":
        return [average]
    if measure.over == "seed":
        return [*(replace(average, header=f"seed {seed}", seed=seed, published=None) for seed in spec.seeds), average]
    if transfer:
        places = [(task.name, (datasets[0], task.name)) for task in tasks(measure.protocol, datasets[0])]
        single = [replace(average, header=_short(name), metric=name, published=own) for name, own in places]
    else:
        single = [
            replace(average, header=_short(name), datasets=(name,), published=(name, metric)) for name in datasets
        ]
    return [*single, average]


def _short(name: str) -> str:
    return name.removeprefix(f"{EMBEDDED_WORLD}:")


def _checked(spec: TableSpec, repository: Path) -> TableSpec:
    """The same with canonical names and every label; refuses what would silently show nothing."""
    rows = []
    for row in spec.rows:
        method = parse_method(row.method, repository).name if row.method else ""
        _check_row(row)
        name = row.published or ("" if row.options else method)
        rows.append(replace(row, method=method, label=row.label or row.method or row.published, published=name))
    labels = [row.label for row in rows]
    if twice := sorted({label for label in labels if labels.count(label) > 1}):
        raise ConfigError(f"two rows are called '{twice[0]}': give each a label of its own")
    for row in rows:
        if row.baseline == row.label:
            raise ConfigError(f"row '{row.label}' is its own baseline: name another row")
        if row.baseline and row.baseline not in labels:
            raise ConfigError(f"row '{row.label}': there is no row '{row.baseline}' to compare with")
    for measure in spec.columns:
        parse_protocol(measure.protocol)
        possible = _metrics(measure.protocol)
        if measure.metric and measure.metric not in possible:
            raise ConfigError(f"{measure.protocol} has no metric '{measure.metric}'; possible: {', '.join(possible)}")
        if measure.over not in _OVER:
            raise ConfigError(f"over is '{measure.over}', but must be one of {', '.join(_OVER)}")
    if spec.blocks not in ("tau", "one"):
        raise ConfigError(f"blocks is '{spec.blocks}', but must be tau or one")
    if wrong := [seed for seed in spec.seeds if not 0 <= seed <= MAX_SEED]:
        raise ConfigError(f"seed {wrong[0]} is not in 0..{MAX_SEED}")
    if not (rows and spec.columns and spec.taus and spec.seeds):
        raise ConfigError("rows, columns, taus and seeds must not be empty")
    return replace(
        spec,
        rows=tuple(rows),
        taus=tuple(dict.fromkeys(parse_tau(str(tau)) for tau in spec.taus)),
        shapes=tuple(dict.fromkeys(parse_dataset(name, repository) for name in spec.shapes)),
        real=tuple(dict.fromkeys(spec.real)),
        seeds=tuple(dict.fromkeys(spec.seeds)),
    )


def _check_row(row: RowSpec) -> None:
    if not (row.method or row.published):
        raise ConfigError("a row needs a method, or the name of a published one")
    if row.published and row.published not in (names := published_names()):
        near = f"nearest: '{nearest(row.published, names)}'; there are: {', '.join(names)}"
        raise ConfigError(f"nothing published under the name '{row.published}'; {near}")
    for key, value in (row.options or {}).items():
        if not isinstance(value, bool | int | float | str | list):
            raise ConfigError(f"row '{row.label or row.method}': {key} is {value!r}: give a number, a text or a list")


def _metrics(protocol: str) -> tuple[str, ...]:
    groups = ("worst", *BY_CLASS, *GROUPS)
    own = {BASE_TO_NEW: ("base", "new", "H", H_OF_MEANS), "few_shot_all": ("all",)}
    return (*own.get(protocol, ("source", "mean")), *groups)
