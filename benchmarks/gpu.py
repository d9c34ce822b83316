"""Training steps and tests of full-size CLIP on one GPU, the fast text path beside all 77 positions; JSON and Markdown.

Both paths belong to one trainer and run in turn. Times are those of CUDA events around a step; what runs out of memory
or of the budget is left out, and said. ``--device cpu --quick`` tries the benchmark itself.
"""

from __future__ import annotations

import argparse
import gc
import json
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.compare import ROOT
from benchmarks.gpu_cases import BATCH, LEARNERS, PRECISIONS, Bench
from benchmarks.gpu_report import markdown
from benchmarks.scale import losses_step
from cpt_plugin.atomic import atomic_write_text
from cpt_plugin.errors import CPTError
from cpt_plugin.profiling import Clock, CudaClock, HostClock
from cpt_plugin.results.provenance import git_state, utc_now, versions

SIZES, SCALE, TEST_CLASSES = (1000, 500, 100), (100, 500, 1000, 21_000), 1000
STEPS, TESTS, TRIES = (3, 10), (1, 3), (0, 1)
"""Rounds that only warm up, and rounds that are timed."""
Job = tuple[str, dict[str, Any], Callable[[], Mapping[str, Callable[[], Any]]], tuple[int, int]]


def main(arguments: list[str] | None = None) -> None:
    given = parser().parse_args(arguments)
    start, device = time.monotonic(), torch.device(given.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SystemExit("no GPU: torch.cuda.is_available() is False; --device cpu --quick tries the benchmark itself")
    words = sys.argv[1:] if arguments is None else arguments
    document: dict[str, Any] = {
        "command": "python -m benchmarks.gpu " + shlex.join(words), "commit": git_state(ROOT).commit or "unknown",
        "time": utc_now(), "device": name_of(device), "quick": given.quick, "batch": BATCH,
        "versions": versions(("torch", "torchvision", "numpy", "clip-anytorch")), "cuda": torch.version.cuda,
        "tf32": {"products": torch.backends.cuda.matmul.allow_tf32, "convolutions": torch.backends.cudnn.allow_tf32},
        "results": {}, "left_out": {},
    }  # fmt: skip
    for key, case, make, rounds in jobs(Bench(device, given.quick), given.quick):
        spent = time.monotonic() - start
        if spent > given.budget:
            document["left_out"][key] = f"budget of {given.budget:g} s is spent"
        else:
            try:
                document["results"][key] = case | measured(make(), device, rounds)
            except (RuntimeError, CPTError) as error:  # among them torch.cuda.OutOfMemoryError
                document["left_out"][key] = f"{type(error).__name__}: {str(error).splitlines()[0]}"
        done = document["left_out"].get(key) or shown(document["results"][key])
        print(f"[{time.monotonic() - start:5.1f} s] {key}: {done}", flush=True)
        release(device)
        document["seconds"] = time.monotonic() - start
        given.out.parent.mkdir(parents=True, exist_ok=True)
        atomic_write_text(given.out.with_suffix(".json"), json.dumps(document, indent=1) + "\n")
        atomic_write_text(given.out.with_suffix(".md"), markdown(document))
    print(f"written: {given.out.with_suffix('.json')}, {given.out.with_suffix('.md')}")


def jobs(bench: Bench, quick: bool) -> Iterator[Job]:
    """Key, description, what makes the sides, and rounds; each has given its memory back before the next is made."""
    steps, tests = (TRIES, TRIES) if quick else (STEPS, TESTS)
    for size in (50,) if quick else SCALE:
        case: dict[str, Any] = {"job": "losses", "classes": size}
        yield f"losses-{size}", case, lambda size=size: {"losses": losses_step(size, bench.device)[0]}, steps
    for precision in PRECISIONS:
        for size in (5,) if quick else SIZES:
            for learner in LEARNERS:
                case = {"job": learner, "classes": size, "precision": precision}
                yield (
                    f"{learner}-{size}-{precision}",
                    case,
                    partial(bench.training_steps, learner, size, precision),
                    steps,
                )
        size = 5 if quick else TEST_CLASSES
        case = {"job": "test", "classes": size, "precision": precision, "images": bench.images_of_a_test}
        yield f"test-{size}-{precision}", case, partial(bench.evaluations, size, precision), tests


def measured(sides: Mapping[str, Callable[[], Any]], device: torch.device, rounds: tuple[int, int]) -> dict[str, Any]:
    """Raw milliseconds of each side in turn, and the peak of memory of one more step of each."""
    clock: Clock = CudaClock() if device.type == "cuda" else HostClock()
    times: dict[str, list[float]] = {side: [] for side in sides}
    for number in range(sum(rounds)):
        for side, step in sides.items():
            start = clock.now()
            step()
            end = clock.now()
            clock.wait(end)
            if number >= rounds[0]:
                times[side].append(1000 * clock.seconds(start, end))
    found: dict[str, Any] = {"milliseconds": times}
    if device.type == "cuda":
        found |= {"allocated_before": torch.cuda.memory_allocated(), "peak_bytes": {}}
        for side, step in sides.items():
            torch.cuda.reset_peak_memory_stats()
            step()
            found["peak_bytes"][side] = torch.cuda.max_memory_allocated()
    return found


def shown(result: dict[str, Any]) -> str:
    return ", ".join(f"{side} {sorted(t)[len(t) // 2]:.2f} ms" for side, t in result["milliseconds"].items())


def release(device: torch.device) -> None:
    """Give back the memory of the case before."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def name_of(device: torch.device) -> str:
    if device.type != "cuda":
        return "cpu"
    found = torch.cuda.get_device_properties(device)
    return f"{found.name}, {found.total_memory / 2**30:.0f} GiB"


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    found.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "gpu", metavar="STEM",
                       help="STEM.json and STEM.md (default benchmarks/results/gpu)")  # fmt: skip
    found.add_argument("--budget", type=float, default=180, metavar="SECONDS",
                       help="no measurement begins later than this (default 180)")  # fmt: skip
    found.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="default: cuda")
    found.add_argument("--quick", action="store_true", help="tiny weights, to try the benchmark itself")
    return found


if __name__ == "__main__":
    main()
