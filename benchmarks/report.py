"""The Markdown table of a benchmark's JSON: measured ratios, and the goals read line by line."""

from __future__ import annotations

import statistics
from typing import Any

from benchmarks.cases import GOALS, JOBS
from benchmarks.compare import extrapolated, ratios, seconds

GIB = 2**30
COLUMNS = ("job", "K", "against", "pairs", "theirs s", "ours s", "ratio", "lowest .. highest", "CPU time", "FLOPs",
           "kept for backward", "peak GiB, theirs / ours")  # fmt: skip
WALL, CPU = "seconds", "cpu_seconds"


def ratio_of(result: dict[str, Any], results: list[dict[str, Any]], what: str = WALL) -> tuple[float, str] | None:
    """Ratio theirs / ours and its mark: M measured in pairs, E with an extrapolated time of the other side."""
    if result["fits"]:
        return statistics.median(ratios(result, what)), "M"
    same = [r for r in results if r["case"]["job"] == result["case"]["job"] and r["case"]["classes"] >= 125]
    if sum(r["fits"] for r in same) < 2:
        return None
    return extrapolated(same, result["case"]["classes"], what) / seconds(result, "ours", what), "E"


def markdown(document: dict[str, Any]) -> str:
    """The whole report."""
    order = list(JOBS)
    results = sorted(
        document["results"].values(), key=lambda r: (order.index(r["case"]["job"]), r["case"]["classes"])
    )
    lines = [
        "# Our steps beside the released code's",
        "",
        *(_made(made) for made in document["made"] if made["measured"]),
        "",
        "On a CPU; `gpu.md` is the GPU's.",
        "CLIP ViT-B/16's shape with random weights, the same on both sides, float32; class names as long in tokens",
        "as ImageNet's. The two sides run in turn in processes of their own; the ratio is the median of theirs / ours",
        "over the pairs, after one step of each that is not timed. FLOPs (matrix products torch's counter knows) and",
        "the bytes kept for the backward pass (frozen weights aside) are theirs / ours of that untimed step. M:",
        "measured, E: their time extrapolated by a line in K over K >= 125, because their step does not fit in this",
        "machine's memory. Half precision is switched off in the released code from outside. CPU time is the same",
        "ratio in processor seconds of the one thread, which other work on the machine disturbs less. Where image",
        "features are given, ours reads them in the place of images, as with FEATURE_CACHE; theirs encodes its images.",
        *document.get("notes", ()),
        "",
        "| " + " | ".join(COLUMNS) + " |",
        "|---" * len(COLUMNS) + "|",
        *(_row(result, results) for result in results),
        "",
    ]  # fmt: skip
    if any(result["against"] == "released" for result in results):
        lines += ["## The goals, line by line", "", "| goal | ratio | CPU time | reached | bold goal |",
                  "|---|---|---|---|---|"]  # fmt: skip
        lines += [_goal(goal, document["results"], results) for goal in GOALS]
        lines += [""]
    return "\n".join(lines + _scale(document.get("scale", {})) + _loader(document.get("loader")))


def _made(made: dict[str, Any]) -> str:
    """What one command measured, and where."""
    about = f"`{made['command']}` at commit {made['commit'][:12]}, {made['time']}: {', '.join(made['measured'])}"
    versions = ", ".join(f"{name} {version}" for name, version in made["versions"].items())
    return f"- {about}. {made['machine']}; {versions}."


def _row(result: dict[str, Any], results: list[dict[str, Any]]) -> str:
    case, ours, theirs = result["case"], result["ours"], result.get("theirs")
    wall, cpu = (_shown(ratio_of(result, results, what)) for what in (WALL, CPU))
    cells = [JOBS[case["job"]].title, case["classes"], result["against"], len(ours) - 1]
    cells += [f"{seconds(result, 'theirs'):.2f}" if theirs else "-", f"{seconds(result, 'ours'):.2f}", wall]
    if theirs:
        cells += [f"{min(ratios(result)):.2f} .. {max(ratios(result)):.2f}", cpu, _share(theirs[0], ours[0], "flops")]
        cells += [_share(theirs[0], ours[0], "kept_bytes"), f"{_peak(theirs):.2f} / {_peak(ours):.2f}"]
    else:
        cells += ["-", cpu, "-", "-", f"- / {_peak(ours):.2f}"]
    return "| " + " | ".join(map(str, cells)) + " |"


def _shown(found: tuple[float, str] | None) -> str:
    return f"{found[0]:.2f} [{found[1]}]" if found else "-"


def _share(theirs: dict[str, Any], ours: dict[str, Any], what: str) -> str:
    return f"{theirs[what] / ours[what]:.2f}" if ours[what] else "-"


def _peak(steps: list[dict[str, Any]]) -> float:
    return max(step["peak_bytes"] for step in steps) / GIB


def _goal(goal: Any, by_key: dict[str, Any], results: list[dict[str, Any]]) -> str:
    name = f"{JOBS[goal.job].title}, K = {goal.classes}: {goal.least:g}x"
    result = by_key.get(f"{goal.job}-{goal.classes}")
    if not result or result["against"] != "released" or ratio_of(result, results) is None:
        return f"| {name} | not measured | - | - | {goal.bold:g}x |"
    found = [ratio_of(result, results, what) for what in (WALL, CPU)]
    both = [pair[0] for pair in found if pair]
    cells = [name, *map(_shown, found), _verdict(both, goal.least), f"{goal.bold:g}x: {_verdict(both, goal.bold)}"]
    return "| " + " | ".join(cells) + " |"


def _verdict(ratios_: list[float], least: float) -> str:
    """yes, no, or which of clock and CPU time says yes."""
    reached = [ratio >= least for ratio in ratios_]
    if reached[0] != reached[1]:
        return "by the clock only" if reached[0] else "in CPU time only"
    return "yes" if reached[0] else "**no**"


def _scale(scale: dict[str, Any]) -> list[str]:
    if not scale:
        return []
    columns = "| K | clusters | forward and backward, ms | share of our CoOp step |"
    lines = ["## CPT's losses alone", "", columns, "|---|---|---|---|"]
    for classes, row in scale.items():
        share = f"{100 * row['share']:.2f} %" if row.get("share") else "-"
        lines.append(f"| {classes} | {row['clusters']} | {1000 * row['seconds']:.1f} | {share} |")
    return [*lines, ""]


def _loader(found: dict[str, Any] | None) -> list[str]:
    if not found:
        return []
    lines = [
        "## The data loader",
        "",
        f"JPEG files of {found['width']} x {found['height']} px and {found['kilobytes']:.0f} kB: decoded, random crop",
        "to 224 px (bicubic), flip, normalized, in batches of 32. Medians of",
        f"{found['rounds']} rounds of two epochs over {found['images']} images, all settings in turn. Processor time",
        "is that of the main process and of its workers, their start included; the clock is read in the second epoch.",
        f"Decoding one image takes {found['decode_ms']:.2f} ms.",
        "",
        "| workers | cache of decoded images | images/s by the clock | images/s of processor time (a core) |",
        "|---|---|---|---|",
    ]
    for row in found["rows"]:
        kept = "yes" if row["cached"] else "no"
        lines.append(f"| {row['workers']} | {kept} | {row['per_second']:.0f} | {row['per_cpu_second']:.0f} |")
    return [*lines, ""]
