"""A process that does runs one after the other for a sweep: JSON lines in, JSON lines out.

In: ``{"runs": [[WORD, ...], ...]}``, each the words of a command of one method and one seed. Out: ``{"outcomes":
[{"status": ..., "seconds": ...} or {"error": ..., "final": ...}, ...]}``; ``final``: trying again is of no use.
It ends when its input ends, in the middle of a run too: whoever asked for it is gone, and the run can be resumed.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import traceback
from queue import SimpleQueue
from typing import Any

from cpt_plugin.cli.arguments import parse_arguments
from cpt_plugin.cli.console import attended
from cpt_plugin.errors import ConfigError, CPTError


def do(words: list[str]) -> dict[str, Any]:
    """Carry out one run; an error is an outcome too."""
    from cpt_plugin.cli.experiment import Experiment

    try:
        arguments = parse_arguments(words)
        (seed,) = arguments.seeds
        experiment = Experiment(arguments.method, seed, arguments)
        experiment.check_data({})
        outcome = experiment.execute()
    except CPTError as error:
        return {"error": " ".join(str(error).split()), "final": isinstance(error, ConfigError)}
    except Exception as error:
        traceback.print_exc()
        return {"error": f"{type(error).__name__}: {' '.join(str(error).split())}", "final": False}
    return {"status": outcome.status, "seconds": outcome.seconds}


def main() -> int:
    """Serve until the input ends; what runs print goes to standard error, whatever it can show."""
    return attended(_serve)


def _serve() -> int:
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a run prints must not stand among the answers
    tasks: SimpleQueue[str] = SimpleQueue()

    def read() -> None:
        for line in sys.stdin:
            tasks.put(line)
        os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    while True:
        outcomes = [do(words) for words in json.loads(tasks.get())["runs"]]
        answers.write(json.dumps({"outcomes": outcomes}) + "\n")
        answers.flush()


if __name__ == "__main__":
    sys.exit(main())
