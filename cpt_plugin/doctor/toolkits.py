"""Judges the toolkit that serves, Dassl, and names that somebody else's folders take."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

from cpt_plugin.doctor.packages import distribution
from cpt_plugin.doctor.report import FIX, NOTE, OK, Finding
from cpt_plugin.doctor.subject import ROOT, Subject
from cpt_plugin.runner.arguments import DASSL_NEEDS

GROUP = "toolkit"
REPAIRED = "python -m cpt_plugin --regularizers none train.py ..."
LOGGING_LINES = """\
import logging
logging.disable(logging.NOTSET)"""


def toolkit(subject: Subject) -> Finding | None:
    """Which toolkit serves."""
    if not subject.facts("torch"):
        return None
    answer, wanted = subject.answer("toolkit"), subject.environment.get("CPT_TOOLKIT", "")
    if answer.failure and answer.failure == subject.answer("dassl_repaired").failure:
        return None  # said of Dassl
    reason = f"CPT_TOOLKIT={wanted}" if wanted else "CPT_TOOLKIT is not set"
    if answer.failure:
        fix = "export CPT_TOOLKIT=embedded"
        if answer.module:
            fix = subject.pip(distribution(answer.module))
        return Finding(GROUP, FIX, "toolkit", f"none can be imported ({reason}): {answer.failure}", fix)
    text = f"{answer.facts['name']} serves ({reason})"
    if answer.facts["name"] == "dassl":
        text += "; scripts/run.sh uses the embedded one unless CPT_TOOLKIT=dassl"
    return Finding(GROUP, OK, "toolkit", text)


def dassl(subject: Subject) -> Iterator[Finding]:
    """Where Dassl is, and whether it works by itself and repaired."""
    origin = Path(subject.facts("packages")["origins"]["dassl"])
    if not subject.facts("torch") or not origin.is_file():
        return
    where = f"{_version(origin)} in {origin.parent}{_commit(origin.parent)}"
    plain, repaired = subject.answer("dassl"), subject.answer("dassl_repaired")
    if repaired.failure:
        served = subject.facts("toolkit").get("name") == "embedded"
        text = f"{where} cannot be imported, repaired or not: {repaired.failure}"
        fixes = [subject.pip(*DASSL_NEEDS.split())] if "No module named" in repaired.failure else []
        if not served:
            text += " One of these lines, the second to do without it:" if fixes else " To do without it:"
            fixes.append("export CPT_TOOLKIT=embedded")
        yield Finding(GROUP, NOTE if served else FIX, "Dassl", text, "\n".join(fixes))
        return
    repairs = ", ".join(repaired.facts["fixes"]) or "nothing"
    text = f"{where} works; cpt_plugin repairs in its own processes: {repairs}. "
    if plain.failure:
        text += f"By itself it cannot be imported ({plain.failure}). "
    text += "A script on Dassl gets these repairs, none of its files edited, by:"
    yield Finding(GROUP, NOTE, "Dassl", text, REPAIRED)
    if plain.facts.get("logging_disabled"):
        text = "`import dassl.engine` switches off log records up to WARNING in the whole process; cpt_plugin switches "
        text += "them on again, a script of your own does so after that import by:"
        yield Finding(GROUP, NOTE, "logging", text, LOGGING_LINES)


def names(subject: Subject) -> Iterator[Finding]:
    """Folders of other repositories that stand in for packages or for ours."""
    facts = subject.facts("packages")
    clip = facts["origins"]["clip"]
    if clip and facts["clips"] and "site-packages" not in clip and "dist-packages" not in clip:
        text = f"`import clip` takes a repository's own copy, {Path(clip).parent}; cpt_plugin reads the installed "
        yield Finding(GROUP, NOTE, "name clip", f"{text}{facts['clips'][0]} by file")
    for name, origin in facts["taken"].items():
        text = f"`{name}` is taken by {Path(origin).parent}, so that our trainers cannot be loaded from here; that "
        text += "folder is the current one, on PYTHONPATH or a package: use a process that does not see it first"
        fix = f"unset PYTHONPATH; cd {shlex.quote(str(ROOT))}"
        yield Finding(GROUP, FIX, f"name {name}", text, fix)


def _version(origin: Path) -> str:
    """Dassl's version, read from its file."""
    found = re.search(r"__version__\s*=\s*[\"']([^\"']+)", origin.read_text(encoding="utf-8", errors="replace"))
    return found[1] if found else "of unknown version"


def _commit(folder: Path) -> str:
    """`, commit ABCDEF0` of the checkout that a folder lies in; "" for none."""
    command = ["git", "-C", str(folder), "rev-parse", "--short", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return f", commit {done.stdout.strip()}" if done.returncode == 0 else ""


CHECKS = (toolkit, dassl, names)
