"""The Markdown tables of the GPU benchmark's JSON."""

from __future__ import annotations

import statistics
from typing import Any

GIB = 2**30
TITLES = {"coop": "CoOp with CPT", "maple": "MaPLe with CPT"}


def markdown(document: dict[str, Any]) -> str:
    """The whole report."""
    results = list(document["results"].values())
    steps = [r for r in results if r["job"] in TITLES]
    steps.sort(key=lambda r: (list(TITLES).index(r["job"]), r["classes"]))
    alone = {r["classes"]: r for r in results if r["job"] == "losses"}
    tests = [r for r in results if r["job"] == "test"]
    lines = [
        "# On a GPU", "",
        f"`{document['command']}` on {document['device']}, {document['time']}, commit {document['commit'][:10]},",
        f"CUDA {document['cuda']}, {', '.join(f'{k} {v}' for k, v in document['versions'].items())};",
        f"TF32 {', '.join(f'in {k}: {v}' for k, v in document['tf32'].items())}; {document['seconds']:.0f} s in all.",
        "",
        *(["Tiny weights: a try of the benchmark itself, no measurement.", ""] if document["quick"] else []),
        "CLIP ViT-B/16's shape with random weights; class names as long in tokens as ImageNet's. Medians of steps in",
        "turn, in ms of the device's events. \"all 77\" is this repository's own plain text path, of the same trainer;",
        "images run alike on both sides. Neither recomputes anything to save memory. fp32: float32; amp, amp_bf16: its",
        "weights under autocast; fp16: float16 weights. Every raw time is in the JSON file.", "",
        f"## Training steps, batch {document['batch']}", "",
        *_table(("learner", "K", "precision", "fast ms", "lowest .. highest", "all 77 ms", "ratio",
                 "peak GiB fast / all 77", "CPT's losses alone / step"), [_step(r, alone) for r in steps]), "",
        "## CPT's three losses alone, forward and backward, float32", "",
        *_table(("K", "ms", "lowest .. highest", "peak MiB"), [_alone(alone[k]) for k in sorted(alone)]), "",
        "## CoOp's test: images a second, class texts included", "",
        *_table(("K", "precision", "images", "texts once, fast", "texts with every batch of 100, all 77"),
                [_test(r) for r in tests]), "",
    ]  # fmt: skip
    if document["left_out"]:
        lines += ["Left out:", "", *(f"- {key}: {why}" for key, why in document["left_out"].items()), ""]
    return "\n".join(lines)


def median(result: dict[str, Any], side: str) -> float:
    """Median milliseconds of a side."""
    return statistics.median(result["milliseconds"][side])


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    return ["| " + " | ".join(head) + " |", "|---" * len(head) + "|", *("| " + " | ".join(row) + " |" for row in rows)]


def _spread(times: list[float]) -> str:
    return f"{min(times):.2f} .. {max(times):.2f}"


def _step(r: dict[str, Any], alone: dict[int, dict[str, Any]]) -> tuple[str, ...]:
    fast, full = median(r, "fast"), median(r, "all 77")
    peaks = r.get("peak_bytes")
    memory = f"{peaks['fast'] / GIB:.2f} / {peaks['all 77'] / GIB:.2f}" if peaks else "-"
    losses = alone.get(r["classes"])
    share = f"{100 * median(losses, 'losses') / fast:.1f} %" if losses else "-"
    times = r["milliseconds"]["fast"]
    return (TITLES[r["job"]], str(r["classes"]), r["precision"], f"{fast:.2f}", _spread(times), f"{full:.2f}",
            f"{full / fast:.2f}", memory, share)  # fmt: skip


def _alone(r: dict[str, Any]) -> tuple[str, ...]:
    peak = f"{r['peak_bytes']['losses'] / 2**20:.0f}" if "peak_bytes" in r else "-"
    return str(r["classes"]), f"{median(r, 'losses'):.2f}", _spread(r["milliseconds"]["losses"]), peak


def _test(r: dict[str, Any]) -> tuple[str, ...]:
    rates = (1000 * r["images"] / median(r, side) for side in ("fast", "all 77"))
    return str(r["classes"]), r["precision"], str(r["images"]), *(f"{rate:.0f}" for rate in rates)
