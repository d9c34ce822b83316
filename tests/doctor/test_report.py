"""The report: what people see, what programs read, the exit status."""

from __future__ import annotations

import json

import pytest

from cpt_plugin.doctor.report import FIX, NOTE, OK, Finding, as_json, exit_status, lines

GOOD = Finding("packages", OK, "torch", "2.13.0")
REMARK = Finding("machine", NOTE, "GPU", "none")
BAD = Finding("packages", FIX, "faiss", "cannot be used", "pip install faiss-cpu\nand again")


@pytest.mark.parametrize(("findings", "status"), [([], 0), ([GOOD, REMARK], 0), ([GOOD, BAD], 1)])
def test_only_what_needs_fixing_makes_the_exit_status_1(findings, status):
    assert exit_status(findings) == status


def test_findings_stand_under_their_groups_and_their_number_at_the_end():
    assert list(lines([GOOD, REMARK, BAD])) == [
        "packages",
        "  ok    torch          2.13.0",
        "  FIX   faiss          cannot be used",
        "        pip install faiss-cpu",
        "        and again",
        "machine",
        "  note  GPU            none",
        "to fix: 1; notes: 1; ok: 1",
    ]


def test_a_healthy_report_ends_with_nothing_to_fix():
    assert list(lines([GOOD, REMARK]))[-1] == "to fix: nothing; notes: 1; ok: 1"


def test_text_is_wrapped_to_the_terminal_and_commands_never_are():
    command = "python -m pip install " + "package " * 20
    finding = Finding("g", FIX, "s", "word " * 40, command.strip())
    _, *shown, last, _ = lines([finding], width=60)
    assert len(shown) > 3
    assert all(len(line) <= 60 for line in shown)
    assert last.strip() == command.strip()


def test_a_message_of_several_lines_becomes_one():
    assert list(lines([Finding("g", OK, "s", "a\n  b")]))[1] == "  ok    s              a b"


def test_colors_only_when_asked_for():
    assert "\033[" not in "".join(lines([BAD]))
    assert "\033[31;1mFIX  \033[0m" in "".join(lines([BAD], color=True))


def test_json_holds_every_finding_and_the_facts():
    content = json.loads(json.dumps(as_json([GOOD, BAD], {"torch": {"facts": {}}})))
    assert content["schema"] == 1
    assert content["program"].startswith("cpt-plugin ")
    assert content["exit_status"] == 1
    assert content["counts"] == {"ok": 1, "note": 0, "FIX": 1}
    assert content["findings"][1] == {
        "group": "packages",
        "status": "FIX",
        "subject": "faiss",
        "text": "cannot be used",
        "fix": "pip install faiss-cpu\nand again",
    }
    assert content["facts"] == {"torch": {"facts": {}}}
