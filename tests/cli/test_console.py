"""What commands print: on any terminal, to a reader that leaves, to a full disk, to nothing."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cpt_plugin.cli import console
from cpt_plugin.cli.arguments import parse_arguments
from cpt_plugin.cli.console import Screen, attended, encodable
from cpt_plugin.cli.experiment import Experiment
from cpt_plugin.cli.main import main
from cpt_plugin.results import record as records
from tests.helpers.records import make_record

ROOT = Path(__file__).resolve().parents[2]
FOREIGN = ("PYTHON", "CPT_", "DATA_", "LC_", "LANG")
PLAIN = {key: value for key, value in os.environ.items() if not key.startswith(FOREIGN)}


def python(*words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **environment):
    variables = {**PLAIN, "PYTHONPATH": str(ROOT), **environment}
    command = [sys.executable, *words]
    return subprocess.run(command, cwd=ROOT, env=variables, stdout=stdout, stderr=stderr, timeout=120, check=False)


def closed(redirection, *words):
    """A command in a shell that closes standard streams before it."""
    shell = ["bash", "-c", f'exec "$@" {redirection}', "bash", sys.executable, *words]
    variables = {**PLAIN, "PYTHONPATH": str(ROOT)}
    return subprocess.run(shell, cwd=ROOT, env=variables, capture_output=True, timeout=120, check=False)


@pytest.fixture
def left():
    """The write end of a pipe whose reader has gone."""
    read, write = os.pipe()
    os.close(read)
    yield write
    os.close(write)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("records")
    for method in ("maple", "maple_cpt"):
        for seed in (1, 2):
            record = make_record(method, seed, dataset="猫\x1b[2J=1", backbone=records.Backbone("RN50", "ab" * 32))
            records.save(record, place / method / f"seed{seed}" / "record.json")
    return place


# -- what a terminal can show --------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
@settings(max_examples=40)
@given(text=st.text(max_size=40))
def test_every_text_can_be_shown(encoding, text):
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, newline="")
    screen = Screen(stream, "")
    screen.write(text)
    screen.flush()
    shown = stream.buffer.getvalue().decode(encoding)
    assert not {"\x1b", "\x9b", "\x00"} & {*shown}
    if text.isascii() and text.isprintable():
        assert shown == text


def test_figures_keep_their_columns_in_ascii():
    assert encodable("71.3 ±0.4 |  7.5 ±- | mean ±std → 猫", "ascii") == r"71.3+-0.4 |  7.5+-- | mean +-std -> \u732b"
    assert encodable("71.3 ±0.4 → 猫", "latin-1") == r"71.3 ±0.4 -> \u732b"
    assert encodable("71.3 ±0.4 猫", "utf-8") == "71.3 ±0.4 猫"


def test_bars_and_colors_of_our_own_stay():
    below = io.StringIO()
    screen = Screen(below, "")
    screen.write("\r 30 %|###   |\r")
    screen.write("a\rb\x1b[31m\n\tc")
    screen.with_controls.write("\x1b[32mok\x1b[0m")
    assert below.getvalue() == "\r 30 %|###   |\ra\\rb\\x1b[31m\n\tc\x1b[32mok\x1b[0m"


@pytest.mark.parametrize("words", [("results", "FOLDER"), ("compare", "maple_cpt", "maple", "FOLDER"), ("list",)])
def test_commands_on_an_ascii_terminal(words, folder):
    words = [str(folder) if word == "FOLDER" else word for word in words]
    done = python("-m", "cpt_plugin", *words, PYTHONIOENCODING="ascii", LC_ALL="C")
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.isascii()
    if words[0] != "list":
        assert b"+-" in done.stdout
        assert rb"\u732b\x1b[2J=1" in done.stdout


def test_errors_on_an_ascii_terminal():
    done = python("-m", "cpt_plugin", "results", "table", "猫\x1b[2J", PYTHONIOENCODING="ascii", LC_ALL="C")
    assert done.returncode == 2
    assert done.stderr.count(b"\n") == 1
    assert rb"\u732b\x1b[2J" in done.stderr


# -- who reads it ----------------------------------------------------------------------------------------------

COMMANDS = {
    "list": ("-m", "cpt_plugin", "list"),
    "help": ("-m", "cpt_plugin", "run", "--help"),
    "check": ("-m", "cpt_plugin.cli.arguments", "--help"),
    "reproduce": ("-m", "cpt_plugin.cli.reproduce_arguments", "--help"),
    "data": ("-m", "cpt_plugin", "data", "list"),
    "train.py": ("train.py", "--help"),
    "results": ("-m", "cpt_plugin", "results", "FOLDER"),
}


def command(name, folder):
    return [str(folder) if word == "FOLDER" else word for word in COMMANDS[name]]


@pytest.mark.parametrize("name", COMMANDS)
def test_a_reader_that_has_seen_enough_ends_it_quietly(name, folder, left):
    done = python(*command(name, folder), stdout=left)
    assert (done.returncode, done.stderr) == (141, b"")


def test_a_reader_of_errors_that_has_gone_ends_it_quietly(left):
    assert python("-m", "cpt_plugin", "nonsense", stdout=left, stderr=left).returncode == 141


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_a_full_disk_is_one_sentence(folder):
    with open("/dev/full", "w") as full:
        for name in ("list", "check"):
            done = python(*command(name, folder), stdout=full)
            assert done.returncode == 2
            assert b"error: standard output cannot be written (No space left on device)" in done.stderr
            assert done.stderr.count(b"\n") == 1
        assert python("-m", "cpt_plugin", "nonsense", stderr=full).returncode == 2


def test_closed_streams_swallow_what_is_printed(folder, tmp_path):
    done = closed("2>&-", "-m", "cpt_plugin", "nonsense")
    assert (done.returncode, done.stdout) == (2, b""), "the error must not be taken for output"
    kept = tmp_path / "kept.csv"
    words = (*command("results", folder), "--format", "csv")
    assert closed("<&- >&- 2>&-", *words, "-o", str(kept)).returncode == 0
    assert kept.read_bytes().startswith(b"dataset,tau")
    for how in (">&-", "1</dev/null"):
        done = closed(how, *words)
        assert (done.returncode, done.stderr) == (0, b"")


class Broken(io.StringIO):
    def __init__(self, error):
        super().__init__()
        self.error = error

    def write(self, text):
        raise self.error

    def fileno(self):
        raise io.UnsupportedOperation


def test_a_lost_stream_is_no_error_of_the_file_at_work(monkeypatch):
    def work():
        try:
            print("epoch 1", flush=True)
        except (OSError, Exception):
            pytest.fail("taken for a failure of the run")
        finally:
            seen.append("cleaned up")
        return 0

    seen = []
    monkeypatch.setattr(sys, "stdout", Broken(BrokenPipeError()))
    assert attended(work) == console.READER_GONE
    assert seen == ["cleaned up"]


def test_streams_are_as_before_afterwards():
    before = sys.stdout, sys.stderr
    assert attended(lambda: 5) == 5
    assert main(["nonsense"]) == 2
    with pytest.raises(SystemExit):
        main(["list", "--help"])
    assert (sys.stdout, sys.stderr) == before


def test_the_output_folder_is_not_to_blame_for_a_reader_that_leaves(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Experiment, "config", lambda self: None)
    monkeypatch.setattr(Experiment, "_execute", lambda self: print("epoch [1/1]", flush=True))
    monkeypatch.setattr(sys, "stdout", Broken(BrokenPipeError()))
    arguments = parse_arguments(["coop", "shapes", "1", "--output", str(tmp_path)])
    assert attended(Experiment(arguments.method, 1, arguments).execute) == 141
    assert capsys.readouterr().err == ""
