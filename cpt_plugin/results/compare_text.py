"""A comparison as text: terminal, Markdown, CSV, and a plain sentence on what may be claimed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from cpt_plugin import _escapes, worlds
from cpt_plugin.long_tail import shots_in_words
from cpt_plugin.methods import is_embedded
from cpt_plugin.results.compare import Comparison
from cpt_plugin.results.contrast import BELOW, CLAIM_WORLDS, EXPLORATORY, NOT_SHOWN, NOTHING, ONE_WORLD, Contrast
from cpt_plugin.results.stats import Summary
from cpt_plugin.results.text import (
    DASH,
    UNKNOWN_TAU,
    aligned,
    fitting,
    interval,
    listed,
    markdown,
    shown_tau,
    wrapped,
)

_TITLE = "Paired differences, world as the random effect"
_DIGITS = 2


def render_terminal(comparison: Comparison) -> str:
    """Aligned tables of the comparisons and of their worlds, then sentences and notes."""
    parts = [[wrapped(_TITLE), wrapped(_subtitle(comparison))]]
    for lines in (_overall(comparison), _by_world(comparison)):
        parts += [aligned(part) for part in fitting(lines)]
    parts += [[wrapped(line) for line in lines] for lines in (_sentences(comparison), _notes(comparison)) if lines]
    return "\n\n".join("\n".join(part) for part in parts) + "\n"


def render_markdown(comparison: Comparison) -> str:
    """The same as Markdown."""
    parts = [[f"## {_TITLE}"], [_escapes.markdown(_subtitle(comparison))]]
    parts += [markdown(_overall(comparison)), markdown(_by_world(comparison))]
    for lines in (_sentences(comparison), _notes(comparison)):
        parts += [[f"- {_escapes.markdown(line)}" for line in lines]] if lines else []
    return "\n\n".join("\n".join(part) for part in parts) + "\n"


def render_csv(comparison: Comparison) -> str:
    """A line a comparison (world empty) and one for each of its worlds; unrounded, empty where there is no value."""
    rows = [row for contrast in comparison.contrasts for row in _csv_rows(comparison, contrast)]
    return _escapes.csv_text(rows[0], rows)


RENDERERS: dict[str, Callable[[Comparison], str]] = {
    "terminal": render_terminal,
    "markdown": render_markdown,
    "csv": render_csv,
}


def sentence(contrast: Contrast) -> str:
    """What one comparison allows to be said, and what it does not."""
    what = f"in {contrast.metric} at tau {shown_tau(contrast.tau)}"
    if (found := contrast.difference) is None:
        return f"Nothing to compare: no world has a seed with both {contrast.first} and {contrast.second} {what}."
    one_world = contrast.verdict == ONE_WORLD
    place = f" on {contrast.paired[0].world}" if one_world else ""
    if found.interval is None:
        said = f"{contrast.first} - {contrast.second} {what}{place} is {found.mean:+z.2f} points in one pair"
        return f"{said}: no interval, and nothing can be claimed.{_incomplete(contrast)}"
    shown = _negative(found) if contrast.direction == BELOW else found
    distance = f"{interval(shown, _DIGITS)} over {_size(contrast)} ({_certainty(contrast)})"
    unclear = f"{contrast.first} is not shown to differ from {contrast.second} {what}{place}"
    if contrast.p is None:
        same = f"the difference is {found.mean:+z.2f} points in every {'seed' if one_world else 'world'}"
        return f"{unclear}: {same} over {_size(contrast)}, which leaves no spread to judge by.{_incomplete(contrast)}"
    if contrast.direction == NOT_SHOWN:
        said = f"{unclear}: {found.mean:+z.2f} points"
        claim = "neither a gain nor equality may be claimed"
    else:
        size = f"{abs(found.mean):.2f} points"
        said = f"{contrast.first} is {contrast.direction} {contrast.second} {what}{place} by {size}"
        claim = "this may be claimed for worlds like these, with this backbone and these settings"
        if contrast.correction.count > 1 and not contrast.correction.method:
            claim += ", if this was the one comparison planned"
    if one_world:
        claim = "nothing can be claimed beyond this world"
    if contrast.verdict == EXPLORATORY:
        said = f"Only exploratory, {len(contrast.paired)} worlds: {said}"
        claim = f"a lead, not a claim, which takes {CLAIM_WORLDS} worlds or more"
    return f"{said} {distance}: {claim}.{_incomplete(contrast)}"


def _negative(found: Summary) -> Summary:
    low, high = found.interval or (found.mean, found.mean)
    return replace(found, mean=-found.mean, interval=(-high, -low))


def _size(contrast: Contrast) -> str:
    """``8 worlds x 5 seeds``, or the number of pairs where worlds have different numbers of seeds."""
    seeds = {len(world.by_seed) for world in contrast.paired}
    number = len(contrast.paired)
    if contrast.verdict == ONE_WORLD:
        return _counted(seeds.pop(), "seed")
    if len(seeds) > 1:
        return f"{number} worlds, {contrast.pairs} pairs"
    return f"{number} worlds x {_counted(seeds.pop(), 'seed')}"


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


def _certainty(contrast: Contrast) -> str:
    units = "seeds" if contrast.verdict == ONE_WORLD else "worlds"
    if not contrast.correction.method:
        return f"95 % t-interval over {units}, p {_p(contrast.p)}"
    count = _counted(contrast.correction.count, "comparison")
    name = contrast.correction.method.capitalize()
    plain = ", not corrected" if contrast.correction.method == "holm" else ""
    level = _level(contrast.correction.confidence)
    return f"{level} t-interval over {units}{plain}; p {_p(contrast.p_adjusted)} by {name} for {count}"


def _incomplete(contrast: Contrast) -> str:
    if contrast.pairs == contrast.expected:
        return ""
    there = f"{contrast.pairs}/{contrast.expected} pairs, {len(contrast.paired)}/{len(contrast.worlds)} worlds"
    return f" Provisional: {there}."


def _level(confidence: float) -> str:
    return f"{100 * confidence:.4g} %"


def _p(value: float | None) -> str:
    if value is None:
        return DASH
    return "<0.0001" if value < 0.0001 else f"{value:.4f}"


def _subtitle(comparison: Comparison) -> str:
    one = comparison.sample
    return (
        f"{comparison.protocol}; {shots_in_words(one.shots)}, classes ranked by {one.class_order}; "
        f"toolkit {one.toolkit}, backbone {one.backbone.name}, torch {listed(comparison.torch_versions)}, "
        f"on {listed(comparison.devices)}; "
        "percentage points, each world by its mean over seeds; t over worlds, over seeds where there is one world only"
    )


def _overall(comparison: Comparison) -> list[list[str]]:
    level = _level(comparison.correction.confidence)
    corrected = [f"p, {comparison.correction.method.capitalize()}"] if comparison.correction.method else []
    header = ["comparison", "metric", "tau", "A", "B", "A - B", level, "p", *corrected]
    lines = [[*header, "worlds", "pairs", "sd worlds", "sd seeds"]]
    for name, contrast in zip(_numbers(comparison), comparison.contrasts, strict=True):
        found, means = contrast.difference, contrast.means
        lines.append([
            f"{name}{contrast.first} - {contrast.second}",
            contrast.metric,
            f"{shown_tau(contrast.tau)}",
            *([f"{mean:.{_DIGITS}f}" for mean in means] if means else [DASH, DASH]),
            f"{found.mean:+z.{_DIGITS}f}" if found else DASH,
            interval(found, _DIGITS) if found and found.interval else DASH,
            _p(contrast.p),
            *([_p(contrast.p_adjusted)] if corrected else []),
            f"{len(contrast.paired)}/{len(contrast.worlds)}",
            f"{contrast.pairs}/{contrast.expected}",
            _spread(found.std if found and len(contrast.paired) > 1 else None),
            _spread(contrast.within),
        ])  # fmt: skip
    return lines


def _by_world(comparison: Comparison) -> list[list[str]]:
    """A line a world: the mean difference and its spread over seeds, with n/expected where pairs are missing."""
    places = sorted({world.world for contrast in comparison.contrasts for world in contrast.worlds})
    columns = [{world.world: world for world in contrast.worlds} for contrast in comparison.contrasts]
    single = len(columns) == 1
    headers = ["A - B ±sd of seeds" if single else name.rstrip(": ") for name in _numbers(comparison)]
    lines = [["world", *headers]]
    for place in places:
        cells = []
        for column in columns:
            world = column.get(place)
            found = world.difference if world else None
            value = f"{found.mean:+z.{_DIGITS}f} ±{_spread(found.std)}" if found else DASH
            lacks = f" ({len(world.by_seed)}/{world.expected})" if world and len(world.by_seed) < world.expected else ""
            cells.append(value + lacks)
        lines.append([place, *cells])
    return lines


def _spread(value: float | None) -> str:
    return DASH if value is None else f"{value:.{_DIGITS}f}"


def _numbers(comparison: Comparison) -> list[str]:
    """``1: ``, ``2: ``, ... where there are several comparisons, which name the columns by world."""
    several = len(comparison.contrasts) > 1
    return [f"{number}: " if several else "" for number in range(1, len(comparison.contrasts) + 1)]


def _sentences(comparison: Comparison) -> list[str]:
    return [f"{name}{sentence(one)}" for name, one in zip(_numbers(comparison), comparison.contrasts, strict=True)]


def _notes(comparison: Comparison) -> list[str]:
    notes = list(comparison.notes)
    count = len(comparison.contrasts)
    if count > 1 and not comparison.correction.method:
        notes.append(f"{count} comparisons, not corrected: where nothing differs, one in 20 looks shown; see --holm")
    over_worlds = [one for one in comparison.contrasts if one.verdict not in (ONE_WORLD, NOTHING)]
    seen = sorted({world.world for one in over_worlds for world in one.paired})
    return notes + _shared_worlds([worlds.parse_world(name) for name in seen if is_embedded(name)])


def _shared_worlds(drawn: Sequence[worlds.World]) -> list[str]:
    """Drawn worlds with a class set or a domain in common are no independent draws."""
    class_sets, domains = {one.class_set for one in drawn}, {one.domain for one in drawn}
    if min(len(class_sets), len(domains)) >= len(drawn):
        return []
    shared = f"{_counted(len(class_sets), 'class set')} and {_counted(len(domains), 'domain')}"
    return [
        f"{len(drawn)} drawn worlds of {shared}: worlds that share one are not independent, so the intervals over "
        "worlds may be too narrow"
    ]


def _csv_rows(comparison: Comparison, contrast: Contrast) -> list[dict[str, object]]:
    found, means = contrast.difference, contrast.means or (None, None)
    low, high = (found and found.interval) or (None, None)
    overall: dict[str, object] = {
        "first": contrast.first,
        "second": contrast.second,
        "protocol": comparison.protocol,
        "metric": contrast.metric,
        "tau": None if contrast.tau == UNKNOWN_TAU else contrast.tau,
        "world": None,
        "worlds": len(contrast.paired),
        "worlds_expected": len(contrast.worlds),
        "pairs": contrast.pairs,
        "pairs_expected": contrast.expected,
        "mean_first": means[0],
        "mean_second": means[1],
        "difference": found.mean if found else None,
        "low": low,
        "high": high,
        "confidence": contrast.correction.confidence,
        "p": contrast.p,
        "p_adjusted": contrast.p_adjusted,
        "correction": contrast.correction.method or None,
        "comparisons": contrast.correction.count,
        "std_worlds": found.std if found and len(contrast.paired) > 1 else None,
        "std_seeds": contrast.within,
        "verdict": contrast.verdict,
        "claim": sentence(contrast),
        "by_seed": None,
    }
    rows = [overall]
    for world in contrast.worlds:
        one = world.difference
        rows.append({
            **dict.fromkeys(overall),
            **{key: overall[key] for key in ("first", "second", "protocol", "metric", "tau")},
            "world": world.world,
            "pairs": len(world.by_seed),
            "pairs_expected": world.expected,
            "difference": one.mean if one else None,
            "std_seeds": one.std if one else None,
            "by_seed": " ".join(f"{seed}:{a - b!r}" for seed, (a, b) in world.by_seed.items()),
        })  # fmt: skip
    return rows
