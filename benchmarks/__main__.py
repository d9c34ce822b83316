"""Our steps against the released code's on the same weights; writes JSON and a Markdown table.

Where CPT_RELEASED_DASSL and CPT_RELEASED_COOP, _MAPLE or _DPC name clones, against those; else against our own
77-token reference path. A result is saved after every measurement; those that the file has already are kept.
Jobs ``losses`` (CPT's losses alone) and ``loader`` (images per second) compare nothing, and are always measured anew.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.cases import JOBS, Case
from benchmarks.compare import ROOT, compare, ratios, seconds
from benchmarks.loader import throughput
from benchmarks.report import markdown
from benchmarks.scale import losses
from cpt_plugin.atomic import atomic_write_text
from cpt_plugin.results.provenance import git_state, utc_now, versions
from tests.helpers.tiny_clip import random_state

SIZES = (500, 1000, 5, 51, 125, 250)
SCALE = (1000, 10_000, 21_000)
MAIN_JOB_CLASSES = 24
LOSSES, LOADER = "losses", "loader"
EVERYTHING = [*JOBS, LOSSES, LOADER]


def main(arguments: list[str] | None = None) -> None:
    given = parser().parse_args(arguments)
    torch.set_num_threads(given.threads)
    path = given.output.with_suffix(".json")
    document: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {"made": [], "results": {}}
    document["made"].append({
        "command": "python -m benchmarks " + shlex.join(sys.argv[1:] if arguments is None else arguments),
        "commit": git_state(ROOT).commit or "unknown", "time": utc_now(), "machine": machine(),
        "versions": versions(("torch", "torchvision", "numpy", "pillow", "clip-anytorch")), "measured": [],
    })  # fmt: skip
    given.output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        weights = str(Path(folder) / "clip.pt")
        cases = cases_of(given.jobs, given.sizes, given.quick)
        if cases:
            torch.save(random_state(**cases[0].sizes), weights)
        for number, case in enumerate(cases, start=1):
            if case.key in document["results"]:
                continue
            start = time.perf_counter()
            result = compare(case, weights, pairs_of(case, given.pairs), given.threads)
            document["results"][case.key] = result
            save(document, given.output, case.key)
            shown = f"ratio {min(ratios(result)):.2f} .. {max(ratios(result)):.2f}" if result["fits"] else "ours alone"
            print(f"[{number}/{len(cases)}] {case.key}: ours {seconds(result, 'ours'):.2f} s, {shown} against "
                  f"{result['against']} ({time.perf_counter() - start:.0f} s)", flush=True)  # fmt: skip
    if LOSSES in given.jobs:
        document["scale"] = {str(size): losses(size) for size in (SCALE[:1] if given.quick else SCALE)}
        if step := document["results"].get("coop-1000"):
            row = document["scale"]["1000"]
            row["share"] = row["seconds"] / seconds(step, "ours", "cpu_seconds")
        save(document, given.output, LOSSES)
    if LOADER in given.jobs:
        document["loader"] = throughput(*((32, 1) if given.quick else ()))
        save(document, given.output, LOADER)
    print(f"written: {given.output.with_suffix('.json')}, {given.output.with_suffix('.md')}")


def cases_of(jobs: list[str], sizes: list[int], quick: bool) -> list[Case]:
    """The cases of jobs at the sizes that are asked of each; the main job has its own number of classes."""
    found = [Case("main", MAIN_JOB_CLASSES, JOBS["main"].batch, quick=quick)] if "main" in jobs else []
    asked = {"cached": (500,), "dpc": (125, 250, 500), "evaluation": (500, 1000)}
    for size in sizes:
        for job in jobs:
            if job in JOBS and job != "main" and (quick or size in asked.get(job, SIZES)):
                batch = min(JOBS[job].batch, 4) if quick else JOBS[job].batch
                found.append(Case(job, size, batch, JOBS[job].batches, quick))
    return found


def pairs_of(case: Case, wanted: int) -> int:
    """Fewer where a step of the other side takes minutes."""
    if case.classes < 100 or case.quick:
        return wanted
    return max(1, wanted // (5 if case.job == "evaluation" else 2))


def machine() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    model = next((line.partition(":")[2].strip() for line in lines if "model name" in line), "unknown CPU")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{model}, {os.cpu_count()} cores, {memory:.0f} GiB, {platform.system()}"


def save(document: dict[str, Any], output: Path, measured: str) -> None:
    """Write the results; what was measured just now is the last command's."""
    for made in document["made"]:
        made["measured"] = [key for key in made["measured"] if key != measured]
    document["made"][-1]["measured"].append(measured)
    document["made"] = [made for made in document["made"] if made["measured"]]
    atomic_write_text(output.with_suffix(".json"), json.dumps(document, indent=1) + "\n")
    atomic_write_text(output.with_suffix(".md"), markdown(document))


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    found.add_argument("--jobs", nargs="+", choices=EVERYTHING, default=EVERYTHING, help="default: all")
    found.add_argument("--sizes", nargs="+", type=int, default=list(SIZES), metavar="K", help=f"default: {SIZES}")
    found.add_argument("--pairs", type=int, default=5,
                       help="pairs below K = 100; half as many above, a fifth in evaluation (default 5)")  # fmt: skip
    found.add_argument("--threads", type=int, default=1, help="of each side (default 1)")
    found.add_argument("--quick", action="store_true", help="tiny weights, to try the benchmark itself")
    found.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "cpu", metavar="STEM",
                       help="STEM.json and STEM.md (default benchmarks/results/cpu)")  # fmt: skip
    return found


if __name__ == "__main__":
    main()
