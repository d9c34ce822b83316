"""The Markdown table of a benchmark's JSON: measured ratios, and the goals read line by line."""

from __future__ import annotations

import statistics
from typing import Any

from benchmarks.cases import GOALS, JOBS
from benchmarks.compare import extrapolated, ratios, seconds

GIB = 2**30
COLUMNS = ("job", "K", "against", "pairs", "theirs s", "ours s", "ratio", "quartiles", "FLOPs", "kept for backward",
           "peak GiB, theirs / ours")  # fmt: skip


def ratio_of(result: dict[str, Any], results: list[dict[str, Any]]) -> tuple[float, str] | None:
    """Ratio theirs / ours and its mark: M measured in pairs, E with an extrapolated time of the other side."""
    if result["fits"]:
        return statistics.median(ratios(result)), "M"
    same = [r for r in results if r["case"]["job"] == result["case"]["job"] and r["case"]["classes"] >= 125]
    if sum(r["fits"] for r in same) < 2:
        return None
    return extrapolated(same, result["case"]["classes"]) / seconds(result, "ours"), "E"


def markdown(document: dict[str, Any]) -> str:
    """The whole report."""
    order = list(JOBS)
    results = sorted(
        document["results"].values(), key=lambda r: (order.index(r["case"]["job"]), r["case"]["classes"])
    )
    lines = [
        "# Our steps beside the released code's",
        "",
        f"Made by `{document['command']}` at commit {document['commit'][:12]}, {document['time']}.",
        f"Machine: {document['machine']}. Not run on a GPU.",
        "Versions: " + ", ".join(f"{name} {version}" for name, version in document["versions"].items()) + ".",
        "",
        "CLIP ViT-B/16's shape with random weights, the same on both sides, float32; class names as long in tokens",
        "as ImageNet's. The two sides run in turn in processes of their own; the ratio is the median of theirs / ours",
        "over the pairs, after one step of each that is not timed. FLOPs (matrix products torch's counter knows) and",
        "the bytes kept for the backward pass (frozen weights aside) are theirs / ours of that untimed step. M:",
        "measured, E: their time extrapolated by a line in K over K >= 125, because their step does not fit in this",
        "machine's memory. Half precision is switched off in the released code from outside.",
        "",
        "| " + " | ".join(COLUMNS) + " |",
        "|---" * len(COLUMNS) + "|",
        *(_row(result, results) for result in results),
        "",
    ]  # fmt: skip
    if any(result["against"] == "released" for result in results):
        lines += ["## The goals, line by line", "", "| goal | ratio | reached | bold goal |", "|---|---|---|---|"]
        lines += [_goal(goal, document["results"], results) for goal in GOALS]
        lines += [""]
    return "\n".join(lines + _scale(document.get("scale", {})))


def _row(result: dict[str, Any], results: list[dict[str, Any]]) -> str:
    case, ours = result["case"], result["ours"]
    found = ratio_of(result, results)
    ratio = f"{found[0]:.2f} [{found[1]}]" if found else "-"
    theirs = result.get("theirs")
    cells = [JOBS[case["job"]].title, case["classes"], result["against"], len(ours) - 1]
    if theirs:
        quartiles = statistics.quantiles(ratios(result), n=4) if len(theirs) > 2 else [ratios(result)[0]] * 3
        cells += [f"{seconds(result, 'theirs'):.2f}", f"{seconds(result, 'ours'):.2f}", ratio]
        cells += [f"{quartiles[0]:.2f} .. {quartiles[2]:.2f}", _share(theirs[0], ours[0], "flops")]
        cells += [_share(theirs[0], ours[0], "kept_bytes"), f"{_peak(theirs):.2f} / {_peak(ours):.2f}"]
    else:
        cells += ["-", f"{seconds(result, 'ours'):.2f}", ratio, "-", "-", "-", f"- / {_peak(ours):.2f}"]
    return "| " + " | ".join(map(str, cells)) + " |"


def _share(theirs: dict[str, Any], ours: dict[str, Any], what: str) -> str:
    return f"{theirs[what] / ours[what]:.2f}" if ours[what] else "-"


def _peak(steps: list[dict[str, Any]]) -> float:
    return max(step["peak_bytes"] for step in steps) / GIB


def _goal(goal: Any, by_key: dict[str, Any], results: list[dict[str, Any]]) -> str:
    name = f"{JOBS[goal.job].title}, K = {goal.classes}: {goal.least:g}x"
    result = by_key.get(f"{goal.job}-{goal.classes}")
    found = ratio_of(result, results) if result and result["against"] == "released" else None
    if found is None:
        return f"| {name} | not measured | - | {goal.bold:g}x |"
    ratio, mark = found
    bold = "reached" if ratio >= goal.bold else "not reached"
    return f"| {name} | {ratio:.2f} [{mark}] | {'yes' if ratio >= goal.least else '**no**'} | {goal.bold:g}x {bold} |"


def _scale(scale: dict[str, Any]) -> list[str]:
    if not scale:
        return []
    columns = "| K | clusters | forward and backward, ms | share of our CoOp step |"
    lines = ["## CPT's losses alone", "", columns, "|---|---|---|---|"]
    for classes, row in scale.items():
        share = f"{100 * row['share']:.2f} %" if row.get("share") else "-"
        lines.append(f"| {classes} | {row['clusters']} | {1000 * row['seconds']:.1f} | {share} |")
    return [*lines, ""]
