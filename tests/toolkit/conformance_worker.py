"""Runs the conformance cases on the toolkit that ``CPT_TOOLKIT`` names; their outcomes go to a JSON file.

Usage: python conformance_worker.py FOLDER RESULT [CASE ...], where FOLDER holds what ``write_data`` wrote.
"""

from __future__ import annotations

import json
import sys
import traceback
from pathlib import Path

from tests.toolkit import conformance_parts, conformance_runs  # noqa: F401 (their import fills CASES)
from tests.toolkit.conformance_setup import CASES, register_data


def main(folder: str, result: str, *chosen: str) -> None:
    register_data()
    outcomes = {}
    for name in chosen or CASES:
        try:
            outcomes[name] = CASES[name](Path(folder))
        except Exception:
            outcomes[name] = {"error": traceback.format_exc()}
    Path(result).write_text(json.dumps(outcomes, indent=1))


if __name__ == "__main__":
    main(*sys.argv[1:])
