"""Writes docs/hook-table.md: the hook on every released trainer, measured now.

Usage: python -m tests.parity.foreign_table [NAME ...], with the environment variables that tests/parity/conftest.py
lists. With NAMEs of repositories ("coop maple") only these are measured, and the other rows stay as they are.
"""

from __future__ import annotations

import hashlib
import os
import platform
import sys
import tempfile
import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from tests.parity.foreign import CASES, LEFT
from tests.parity.foreign_cases import LOSS_SCALE, STEPS, Case, Repository
from tests.parity.foreign_launch import ROOT, run_repository, variables

DOCUMENT = ROOT / "docs" / "hook-table.md"
HEAD = """# The hook on the released trainers

{measured}

{supported} of {tried} trainers run hooked.

Every trainer runs on a real Dassl with its data loaders, optimizer and schedule, on a random CLIP of two blocks (nine
in the text tower of TCP and DeKg_TCP) and random images. No file of theirs is changed. From outside, half precision
and `.cuda()` do nothing (there is no GPU), CLIP's download serves the random weights, and what a repository imports but
does not have gets a stand-in:

{lacking}
Their own copies of Dassl serve {own}.

Looked at and not tried:

{left}
The column **hook** is what is written for the trainer, beside weights and a cluster size (`...`). All else is found by
the hook: class names, template, frozen text features, labels. Where it says `frozen_text=frozen_text`, the features of
plain CLIP are given.

- **gradient error**: largest relative error max |a - b| / max |b| over all trained tensors, hook against an explicit
  sum main loss + regularizer written without the hook: the encoders' outputs are noted by a hook of torch, and the sum
  is formed in `Tensor.backward`; for ProMetaR in its first `torch.autograd.grad`, and what is compared is the gradient
  of its last loss, at prompts that the regularized one has moved. fp32: with `CPTLoss`; fp64: with the formulas
  written out in the test. DPC's second stage keeps its prompts in fp32, as its checkpoint has them, also in the fp64
  run. 0 means that every bit is the same.
  *Loss scaled*: the trainer's own mixed precision with a loss scale of {scale:g}; without a GPU nothing is cast.
- **tensors**: how many tensors are trained, and of these how many act after the features (adapters, probes): the
  regularizer has no gradient for them and leaves theirs as it is, bit for bit (where gradients are clipped by their
  common norm, none stays).
- **frozen text**: relative error of the features that the hook found, against plain CLIP with the repository's own
  tokenizer, fp32.
- **weight 0**: after {steps} steps with all weights 0, gradients, weights, buffers, momenta, summaries and the three
  global random number generators are bit for bit those of a run without the hook; positive control: with the weights
  above 0 they are not.
- **draws unchanged**: attaching and training with weights above 0 leave the random number generators where the plain
  run does.

"""
VERSIONS = f"Python {platform.python_version()} and torch {torch.__version__}"
SUPPORTED = " yes | "
MEASURED = (
    "Written by `python -m tests.parity.foreign_table`, with {variables} naming clones of the released repositories; "
    "`tests/parity/test_foreign_hook.py` checks the same. Measured with {versions}, on a CPU; nothing here was run on "
    "a GPU."
)
COLUMNS = (
    "trainer", "file, SHA-256", "its model returns", "hook", "runs hooked", "gradient error fp32", "fp64", "tensors",
    "frozen text", "weight 0 identical", "draws unchanged", "refused why",
)  # fmt: skip


def measure(repositories: Iterable[Repository]) -> dict[str, dict[str, Any]]:
    """Results of all cases of these repositories."""
    results: dict[str, dict[str, Any]] = {}
    for repository in repositories:
        with tempfile.TemporaryDirectory() as folder:
            results |= run_repository(repository, Path(folder))
    return results


def row(start: str, case: Case, result: dict[str, Any]) -> str:
    """One line of the table."""
    head = f"{start} | {case.returns} | `{case.line}` |"
    if result["refused"]:
        return f"{head} no | - | - | - | - | - | - | {result['refused']}: {result['message']} |\n"
    single, double = result["float32"], result["float64"]
    unchanged = result["same draws"] and not result["attaching drew"]
    frozen = "given" if "frozen_text=" in case.hook else error(single["frozen text"])
    return (
        f"{head}{SUPPORTED}{error(single['gradient'])} | {error(double['gradient'])} | "
        f"{single['tensors']}, {len(result['after the features'])} | {frozen} | "
        f"{yes(result['weight 0 identical'] and result['weight changes training'])} | {yes(unchanged)} | |\n"
    )


def yes(value: bool) -> str:
    return "yes" if value else "**no**"


def error(value: float) -> str:
    return f"{value:.1e}" if value else "0"


def source(case: Case) -> str:
    """The file that defines the trainer, below its clone, and the start of its SHA-256."""
    clone = Path(os.environ[case.repository.variable])
    trainers = clone / case.repository.folder / case.repository.trainers
    for path in sorted(trainers.rglob("*.py"), key=lambda path: (len(path.parts), path)):
        content = path.read_bytes()
        if f"class {case.trainer}(".encode() in content:
            return f"{clone.name}/{path.relative_to(clone)} {hashlib.sha256(content).hexdigest()[:8]}"
    raise SystemExit(f"no file below {clone} defines {case.trainer}")


def head(rows: dict[tuple[str, str], list[str]]) -> str:
    """What stands above the table; ``rows`` by trainer and code, which counts once in however many ways tried."""
    lacking = {case.repository.name: case.repository.lacks for case in CASES if case.repository.lacks}
    names = ", ".join(needed()).replace(", CPT_RELEASED_", ", _")
    return HEAD.format(
        measured=textwrap.fill(MEASURED.format(variables=names, versions=VERSIONS), 120),
        supported=sum(any(SUPPORTED in row for row in tried) for tried in rows.values()),
        tried=len(rows),
        left=listed(LEFT),
        lacking=listed(lacking),
        own=", ".join(dict.fromkeys(case.repository.name for case in CASES if case.repository.dassl)),
        steps=STEPS,
        scale=LOSS_SCALE,
    )


def listed(items: dict[str, str]) -> str:
    """Lines of a list of names and what is said of them."""
    lines = (textwrap.fill(f"- {name}: {said}", 120, subsequent_indent="  ") for name, said in items.items())
    return "".join(f"{line}\n" for line in lines)


def needed() -> list[str]:
    """All environment variables that must name clones."""
    return sorted({name for case in CASES for name in variables(case.repository)})


def kept() -> dict[str, str]:
    """Rows of the table as it is, by what they begin with; refuses one that was measured with other versions."""
    text = DOCUMENT.read_text(encoding="utf-8")
    if VERSIONS not in text.replace("\n", " "):
        raise SystemExit(f"{DOCUMENT} was not measured with {VERSIONS}: measure all repositories anew")
    return {" | ".join(line.split(" | ")[:2]): f"{line}\n" for line in text.splitlines() if line.startswith("| ")}


def main(*names: str) -> None:
    if missing := [name for name in needed() if not os.environ.get(name)]:
        raise SystemExit(f"set {', '.join(missing)} (folders of clones)")
    repositories = dict.fromkeys(case.repository for case in CASES)
    if unknown := set(names) - {repository.name for repository in repositories}:
        raise SystemExit(f"no repository {', '.join(sorted(unknown))}")
    known = kept() if names else {}
    results = measure(r for r in repositories if r.name in names or not names)
    rows: dict[tuple[str, str], list[str]] = {}
    for case in CASES:
        start = f"| {case.title} | {source(case)}"
        if case.name not in results and start not in known:
            raise SystemExit(f"{case.name} has no row yet: measure {case.repository.name} as well")
        line = row(start, case, results[case.name]) if case.name in results else known[start]
        rows.setdefault((case.trainer, source(case).rpartition(" ")[2]), []).append(line)
    columns = f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}\n"
    lines = "".join(line for tried in rows.values() for line in tried)
    DOCUMENT.write_text(head(rows) + columns + lines, encoding="utf-8")
    print(f"{DOCUMENT}: {len(results)} cases measured")


if __name__ == "__main__":
    main(*sys.argv[1:])
