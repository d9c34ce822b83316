"""The options of `scripts/reproduce.sh` for Slurm; standard library only."""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass

from cpt_plugin.cli.words import parse_count
from cpt_plugin.errors import ConfigError

LOCAL, SLURM = "local", "slurm"
_TIME = re.compile(r"(\d+-)?\d+(:\d\d?){0,2}")
_KEY = re.compile(r"[a-z][a-z0-9-]*")


@dataclass(frozen=True)
class SlurmOptions:
    """What `sbatch` is asked for; partition and time are empty for the cluster's defaults.

    extra: other options of `sbatch` without their dashes, and their values; a value of True for one that takes none.
    """

    partition: str = ""
    time: str = ""
    gpus: int = 0
    cpus: int = 1
    extra: tuple[tuple[str, str | bool], ...] = ()


def add_launcher(parser: argparse.ArgumentParser) -> None:
    """Add `--launcher` and the options that go with it."""
    parser.add_argument(
        "--launcher", choices=(LOCAL, SLURM), default=LOCAL,
        help="processes here (default), or a job a run on a Slurm cluster, --workers of them at once",
    )  # fmt: skip
    slurm = parser.add_argument_group("with --launcher slurm")
    slurm.add_argument("--slurm-partition", metavar="NAME", help="default: the cluster's")
    slurm.add_argument("--slurm-time", metavar="TIME", help="limit of a job as sbatch takes it, e.g. 120 or 2:00:00")
    slurm.add_argument("--slurm-gpus", metavar="N", help="GPUs a job (default: none)")
    slurm.add_argument("--slurm-cpus", metavar="N", help="processor cores, and threads, a job (default: 1)")
    slurm.add_argument(
        "--slurm-extra", metavar="KEY=VALUE", action="append",
        help="any other option of sbatch, e.g. mem=8G or account=NAME; may be given several times",
    )  # fmt: skip


def parse_launcher(given: argparse.Namespace) -> SlurmOptions | None:
    """What was asked for, or None for local processes.

    Raises ConfigError for a value that means nothing, or for options of Slurm without `--launcher slurm`.
    """
    names = ("partition", "time", "gpus", "cpus", "extra")
    asked = {name: value for name in names if (value := getattr(given, f"slurm_{name}")) is not None}
    if given.launcher != SLURM:
        if asked:
            raise ConfigError(f"--slurm-{next(iter(asked))} goes with --launcher slurm only")
        return None
    time = asked.get("time", "")
    if "time" in asked and not _TIME.fullmatch(time):
        raise ConfigError(f"--slurm-time is '{time}', but must be minutes, H:MM:SS or D-HH:MM:SS")
    partition = asked.get("partition", "")
    if "partition" in asked and not re.fullmatch(r"[\w.,-]+", partition):
        raise ConfigError(f"--slurm-partition is {partition!r}, but must be a name, or several with commas")
    return SlurmOptions(
        partition=partition,
        time=time,
        gpus=parse_count("--slurm-gpus", asked["gpus"]) if "gpus" in asked else 0,
        cpus=parse_count("--slurm-cpus", asked["cpus"]) if "cpus" in asked else 1,
        extra=tuple(map(_extra, asked.get("extra", ()))),
    )


def _extra(text: str) -> tuple[str, str | bool]:
    key, equals, value = text.partition("=")
    key = key.removeprefix("--")
    if not _KEY.fullmatch(key) or not value.isprintable() or (equals and not value):
        raise ConfigError(f"--slurm-extra is {text!r}, but must be KEY=VALUE, or KEY, of an option of sbatch")
    return key, value if equals else True
