"""Downloads from a server that has bad days: nothing unverified is ever under the final name, and they complete."""

from __future__ import annotations

import contextlib
import errno
import gzip
import hashlib
import io
import json
import os
import random
import shutil
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

import pytest

from cpt_plugin.data import _partial, _transfer
from cpt_plugin.data.download import Patience, download
from cpt_plugin.data.pins import FILE as PINS
from cpt_plugin.data.progress import Progress, readable
from cpt_plugin.errors import DataError
from tests.helpers.faulty_server import FaultyServer, silent_address

ROOT = Path(__file__).resolve().parents[2]
QUICK = Patience(connect=5.0, stall=0.5, attempts=4, pause=0.0, longest_pause=0.0)
HARMLESS = ("drop", "reset", "500", "503", "429", "drop", "404", "html", "ignore_range", "wrong_part", "no_length")
HARMLESS += ("empty", "redirect:file:///etc/hostname", "redirect:ftp://127.0.0.1/a", "redirect:http://[", "stall")
DECEITFUL = (*HARMLESS, "corrupt", "short", "long")


def archive_of(size, seed):
    """A zip archive of about that many bytes that cannot be compressed."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a", random.Random(seed).randbytes(size))
    return buffer.getvalue()


DATA = archive_of(300_000, 0)
SHA256, MD5 = hashlib.sha256(DATA).hexdigest(), hashlib.md5(DATA).hexdigest()


@pytest.fixture
def server():
    with FaultyServer({"/a.zip": DATA}) as running:
        yield running


@pytest.fixture
def file(tmp_path):
    return tmp_path / "cache" / "a.zip"


class Watch:
    """Looks at a name all the time, and remembers everything that was ever there."""

    def __init__(self, path):
        self.path, self.seen, self._stop = path, set(), threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()

    def _look(self):
        while not self._stop.is_set():
            if self.path.exists():
                self.seen.add(hashlib.sha256(self.path.read_bytes()).hexdigest())
            time.sleep(0.001)


def until_it_works(server, file, most_calls=12, **expected):
    """Call again after each DataError, as a person would; returns the number of calls."""
    for call in range(1, most_calls + 1):
        with contextlib.suppress(DataError):
            download(f"{server.url}/a.zip", file, patience=QUICK, **expected)
            return call
    raise AssertionError("the recovered server was not used")


@pytest.mark.parametrize(
    ("faults", "expected"),
    [(DECEITFUL, {"sha256": SHA256}), (DECEITFUL, {"md5": MD5}), (HARMLESS, {}), (HARMLESS, {"bytes": len(DATA)})],
    ids=["sha256", "md5", "nothing known", "length known"],
)
def test_two_hundred_faults(server, tmp_path, faults, expected):
    """R18; the four cases together inject 200. A changed byte without a published hash can only be seen later."""
    rng = random.Random(str(expected))
    injected = trial = 0
    while injected < 50:
        file = tmp_path / str(trial) / "a.zip"
        server.faults.extend(chosen := rng.choices(faults, k=4))
        with Watch(file) as watch:
            until_it_works(server, file, **expected)
        assert file.read_bytes() == DATA, chosen
        assert watch.seen <= {SHA256}, chosen
        assert sorted(p.name for p in file.parent.iterdir() if p.name[0] != ".") == ["a.zip"]
        injected += len(chosen) - len(server.faults)
        server.faults.clear()
        trial += 1


def test_a_part_is_continued_where_it_stopped(server, file):
    server.faults.extend(["drop", "drop"])
    assert download(f"{server.url}/a.zip", file, patience=QUICK) == file
    starts = [int(asked[6:-1]) if asked else 0 for _, asked in server.requests]
    assert starts[0] == 0
    assert 100_000 < starts[1] < starts[2] < len(DATA)


@pytest.mark.parametrize("expected", [{}, {"sha256": SHA256}])
def test_a_later_call_continues_too(server, file, expected):
    server.faults.extend(["drop", "404"])
    with pytest.raises(DataError, match="404"):
        download(f"{server.url}/a.zip", file, patience=QUICK, **expected)
    assert not file.exists()
    server.requests.clear()
    download(f"{server.url}/a.zip", file, patience=QUICK, **expected)
    assert [bool(asked) for _, asked in server.requests] == [True]
    assert file.read_bytes() == DATA


def test_without_a_validator_only_a_known_hash_lets_it_continue(server, tmp_path):
    server.validators = False
    for expected, continued in (({}, False), ({"sha256": SHA256}, True)):
        server.faults.append("drop")
        server.requests.clear()
        download(f"{server.url}/a.zip", tmp_path / str(continued) / "a.zip", patience=QUICK, **expected)
        assert [bool(asked) for _, asked in server.requests] == [False, continued]


def test_two_versions_are_never_glued_together(server, file):
    new = archive_of(300_000, 1)
    assert len(new) == len(DATA)
    server.faults.extend(["drop", "404"])
    with pytest.raises(DataError):
        download(f"{server.url}/a.zip", file, patience=QUICK)
    server.files["/a.zip"] = new
    download(f"{server.url}/a.zip", file, patience=QUICK)
    assert file.read_bytes() == new


def test_a_changed_file_is_refused_where_a_hash_is_published(server, file):
    server.files["/a.zip"] = archive_of(300_000, 1)
    with pytest.raises(DataError, match="is not the published file"):
        download(f"{server.url}/a.zip", file, SHA256, patience=QUICK)
    assert len(server.requests) == 2, "once more, in case the way changed it; then no more"
    assert not file.exists()


def test_the_hash_of_the_first_time_is_pinned_and_said(server, file, capsys):
    download(f"{server.url}/a.zip", file, patience=QUICK)
    assert f"pinned SHA-256 {SHA256[:16]}" in capsys.readouterr().err
    assert json.loads((file.parent / PINS).read_text())["a.zip"]["sha256"] == SHA256
    file.unlink()
    download(f"{server.url}/a.zip", file, patience=QUICK)
    assert "pinned" not in capsys.readouterr().err
    file.unlink()
    server.files["/a.zip"] = new = archive_of(300_000, 1)
    with pytest.raises(DataError, match=r"remove the entry 'a.zip' from \S*pins.json"):
        download(f"{server.url}/a.zip", file, patience=QUICK)
    assert not file.exists()
    (file.parent / PINS).unlink()
    download(f"{server.url}/a.zip", file, patience=QUICK)
    assert file.read_bytes() == new


def test_damaged_pins_are_refused(server, file):
    file.parent.mkdir()
    (file.parent / PINS).write_text('{"a.zip": {"sha256": 3}}')
    with pytest.raises(DataError, match=r"pins\.json cannot be read"):
        download(f"{server.url}/a.zip", file, patience=QUICK)


def test_a_file_that_is_there_and_right_is_not_fetched(server, file):
    file.parent.mkdir()
    file.write_bytes(DATA)
    for expected in ({"sha256": SHA256}, {"md5": MD5}, {}, {"bytes": len(DATA)}):
        download(f"{server.url}/a.zip", file, **expected)
    assert server.requests == []


@pytest.mark.parametrize("expected", [{"sha256": SHA256}, {"md5": MD5}, {"bytes": len(DATA)}, {}])
def test_a_file_that_is_there_but_wrong_is_replaced(server, file, expected):
    file.parent.mkdir()
    file.write_bytes(DATA[:1000])
    download(f"{server.url}/a.zip", file, patience=QUICK, **expected)
    assert file.read_bytes() == DATA


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("split.json", b'{"train": [1, 2'),
        ("split.json", b"<!DOCTYPE html><title>Too many requests</title>"),
        ("weights.pt", b"  \n<html><body>Quota exceeded</body></html>"),
        ("images.zip", b"PK\x03\x04" + bytes(99)),
        ("images.tar", b"no archive" * 99),
        ("images.tgz", b"no archive" * 99),
    ],
)
def test_content_of_another_kind_than_the_name_says_is_refused(server, tmp_path, name, content):
    server.files[f"/{name}"] = content
    with pytest.raises(DataError, match="is not the published file"):
        download(f"{server.url}/{name}", tmp_path / name, patience=QUICK)
    assert not (tmp_path / name).exists()


def test_content_of_the_right_kind_passes(server, tmp_path):
    files = {"a.json": b"{}", "a.gz": gzip.compress(b"x"), "a.txt": b"1", "a.html": b"<html></html>"}
    for name, content in files.items():
        server.files[f"/{name}"] = content
        assert download(f"{server.url}/{name}", tmp_path / name, patience=QUICK).read_bytes() == content


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("redirect:file:///etc/hostname", "only http and https"),
        ("redirect:ftp://127.0.0.1/a.zip", "only http and https"),
        ("circle", "circle"),
        ("404", "404"),
        ("403", "403"),
        ("html", "web page"),
    ],
)
def test_what_trying_again_would_not_mend_is_refused_at_once(server, file, fault, message, monkeypatch):
    server.faults.append(fault)
    monkeypatch.setattr("cpt_plugin.data.download.time.sleep", lambda seconds: pytest.fail("it waits to try again"))
    with pytest.raises(DataError, match=message):
        download(f"{server.url}/a.zip", file)
    assert len(server.requests) == (11 if fault == "circle" else 1)
    assert not file.exists()


def test_a_redirect_to_another_host_is_followed_and_said(server, file, capsys):
    server.faults.append(f"redirect:http://localhost:{server.url.rpartition(':')[2]}/a.zip")
    download(f"{server.url}/a.zip", file, patience=QUICK)
    assert "127.0.0.1 leads to localhost" in capsys.readouterr().err


@pytest.mark.parametrize("url", ["file:///etc/hostname", "ftp://127.0.0.1/a", "a.zip"])
def test_other_addresses_are_refused(file, url):
    with pytest.raises(DataError, match="only addresses of http and https"):
        download(url, file)


def test_attempts_are_bounded_and_the_message_says_how_to_go_on(server, file):
    server.faults.extend(["500"] * 50)
    with pytest.raises(DataError, match=r"500.*\n.*goes on where it stopped.*by hand"):
        download(f"{server.url}/a.zip", file, patience=QUICK)
    assert len(server.requests) == QUICK.attempts


def test_attempts_that_bring_something_new_do_not_count(server, file):
    server.faults.extend(["drop"] * 8)
    download(f"{server.url}/a.zip", file, patience=QUICK)
    assert len(server.requests) == 9


def test_pauses_grow_up_to_a_bound(server, file, monkeypatch):
    slept = []
    monkeypatch.setattr(time, "sleep", slept.append)
    server.faults.extend(["500"] * 6)
    download(f"{server.url}/a.zip", file, patience=Patience(attempts=9, pause=1.0, longest_pause=10.0))
    assert [pause for pause in slept if pause >= 1.0] == [2.0, 4.0, 8.0, 10.0, 10.0, 10.0]


def test_a_host_that_does_not_answer_takes_no_longer_than_the_connect_timeout(file):
    with silent_address() as address:
        start = time.monotonic()
        with pytest.raises(DataError, match="could not be downloaded"):
            download(f"{address}/a", file, patience=Patience(0.3, 0.3, attempts=1))
        assert time.monotonic() - start < 60.0, "the system itself would try for two minutes"


def test_patience_never_waits_longer_than_five_seconds_for_a_connection():
    assert Patience().connect <= 5.0


def test_a_full_disk_is_said_and_what_came_is_kept(server, file, monkeypatch):
    server.faults.append("drop")
    append, calls = _partial.Partial.append, []

    def fill(self, data):
        calls.append(data)
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        append(self, data)

    monkeypatch.setattr(_partial.Partial, "append", fill)
    with pytest.raises(DataError, match="is full: make room"):
        download(f"{server.url}/a.zip", file, patience=QUICK)
    monkeypatch.undo()
    server.requests.clear()
    server.faults.clear()
    download(f"{server.url}/a.zip", file, patience=QUICK)
    assert server.requests[0][1].startswith("bytes=")
    assert file.read_bytes() == DATA


def test_too_small_a_disk_is_told_before(server, file, monkeypatch):
    monkeypatch.setattr(_transfer.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(9, 9, 100))
    with pytest.raises(DataError, match="make room"):
        download(f"{server.url}/a.zip", file, patience=QUICK)


def test_a_folder_that_cannot_be_written_is_named(server, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot be written"):
        download(f"{server.url}/a.zip", tmp_path / "file" / "a.zip", patience=QUICK)

    def forbid(*_):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "replace", forbid)
    with pytest.raises(DataError, match="change its rights"):
        download(f"{server.url}/a.zip", tmp_path / "x" / "a.zip", patience=QUICK)


def test_a_damaged_record_of_a_part_is_no_record(server, file):
    file.parent.mkdir()
    (file.parent / "a.zip.part").write_bytes(b"other" * 100)
    for record in (b"{", b"[]", b'{"remote": {"url": 1}, "durable": 5}'):
        (file.parent / "a.zip.part.json").write_bytes(record)
        file.unlink(missing_ok=True)
        download(f"{server.url}/a.zip", file, patience=QUICK)
        assert file.read_bytes() == DATA


WORKER = """
import sys
from pathlib import Path
from cpt_plugin.data import _partial
from cpt_plugin.data.download import Patience, download
_partial._SYNC_BYTES = 40_000
download(sys.argv[1], Path(sys.argv[2]), sys.argv[3], patience=Patience(pause=0.0))
"""


def start(server, file, sha256=""):
    command = [sys.executable, "-c", WORKER, f"{server.url}/a.zip", str(file), sha256]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)


def test_two_processes_fetch_it_once(server, file):
    server.faults.append("slow")
    with Watch(file) as watch:
        both = [start(server, file), start(server, file)]
        errors = [process.communicate(timeout=60)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], errors
    assert len(server.requests) == 1
    assert file.read_bytes() == DATA
    assert watch.seen <= {SHA256}


def test_after_a_kill_it_goes_on(server, file):
    record, durable = file.with_name("a.zip.part.json"), 0
    with Watch(file) as watch:
        for _ in range(3):
            server.faults.append("slow")
            process, before = start(server, file), durable
            while durable == before:
                assert process.poll() is None
                time.sleep(0.005)
                if record.exists():
                    durable = json.loads(record.read_text())["durable"]
            process.kill()
            process.communicate()
            assert not file.exists()
        download(f"{server.url}/a.zip", file, patience=QUICK)
    assert file.read_bytes() == DATA
    assert watch.seen <= {SHA256}
    starts = [int(asked[6:-1]) if asked else 0 for _, asked in server.requests]
    assert starts[0] == 0
    assert 0 < starts[1] < starts[2] < starts[3]


def test_progress_is_told_in_plain_lines_where_there_is_no_terminal(capsys, monkeypatch):
    monkeypatch.setattr("cpt_plugin.data.progress.LINE_SECONDS", 0.0)
    with Progress("a.zip", 2_000_000) as progress:
        time.sleep(0.01)
        progress.to(1_000_000)
    assert "a.zip: 1.0 MB of 2.0 MB (50 %)" in (line := capsys.readouterr().err)
    assert "s left" in line


def test_progress_is_a_bar_on_a_terminal(monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    with Progress("a.zip", 2_000_000) as progress:
        progress.to(1_000_000)
    assert "a.zip" in terminal.getvalue()
    assert "2.00M" in terminal.getvalue()


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 bytes"), (999, "999 bytes"), (1500, "1.5 kB"), (94_280_567, "94.3 MB"), (39e9, "39.0 GB")],
)
def test_sizes_are_readable(count, text):
    assert readable(count) == text
