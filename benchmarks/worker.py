"""One side of a comparison in a process of its own: builds a case, and runs one step each time it is told to.

Usage: python -m benchmarks.worker SIDE THREADS WEIGHTS CASE, with SIDE one of ours, reference, released. Reads one
command a line, ``count`` (a step under counters), ``step``, ``quit``; answers each by a line of JSON.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.cases import Case
from tests.helpers.kept_bytes import kept_bytes

Step = Callable[[], Any]


def counted(step: Step, frozen: list[Tensor]) -> dict[str, Any]:
    """FLOPs of the matrix products that torch's counter knows, and bytes kept for the backward pass, of one step.

    The bytes are 0, for not counted, where no frozen weights are given.
    """
    with FlopCounterMode(display=False) as flops, kept_bytes(frozen) as kept:
        start = time.perf_counter()
        step()
        seconds = time.perf_counter() - start
    return {"flops": flops.get_total_flops(), "kept_bytes": kept.total if frozen else 0, "first_seconds": seconds}


def timed(step: Step) -> dict[str, float]:
    start, cpu = time.perf_counter(), time.process_time()
    step()
    return {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - cpu}


def main(side: str, threads: str, weights: str, case: str) -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    torch.set_num_threads(int(threads))
    what = Case(**json.loads(case))
    if side == "released":
        from benchmarks.released_side import build
    else:
        from benchmarks.our_side import build
    step, model = build(what, weights, side)
    frozen = [] if model is None else [*model.parameters(), *model.buffers()]
    print(json.dumps({"ready": True}), file=answers, flush=True)
    for line in sys.stdin:
        command = line.strip()
        if command == "quit":
            break
        answer: dict[str, Any] = counted(step, frozen) if command == "count" else timed(step)
        answer["peak_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
