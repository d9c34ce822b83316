"""From missing files to a run: instructions on one screen without a network, downloads with one."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import types
from pathlib import Path

import pytest

from cpt_plugin import openai_weights
from cpt_plugin.cli import materials
from cpt_plugin.cli.arguments import parse_arguments
from cpt_plugin.cli.main import main
from cpt_plugin.data import get as getting
from cpt_plugin.data import manifest as manifests
from cpt_plugin.data import plan
from cpt_plugin.data.download import Patience
from cpt_plugin.data.instructions import other_ways, screen
from cpt_plugin.data.manifest import manifest_names, manifest_of
from cpt_plugin.data.plan import by_reason, drive_id, hosts, obstacle, pieces, weights_piece
from cpt_plugin.data.reach import silent
from cpt_plugin.errors import ConfigError, DataError
from tests.helpers.faulty_server import FaultyServer, silent_address
from tests.helpers.fixtures import make_fixture

ROOT = Path(__file__).resolve().parents[2]
QUICK = Patience(connect=5.0, stall=0.5, attempts=2, pause=0.0)
SPLIT = "split_zhou_EuroSAT.json"


def closed_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def quick(monkeypatch):
    """Short waits, wherever downloads begin."""
    original = getting.fetch
    monkeypatch.setattr(getting, "fetch", lambda piece, keep=False, _=None: original(piece, keep, QUICK))


@pytest.fixture
def world(tmp_path, monkeypatch, quick):
    """A server with EuroSAT in miniature and a model's weights; manifests and addresses lead to it."""
    fixture = make_fixture("eurosat", tmp_path / "source", classes=3)
    archive = shutil.make_archive(str(tmp_path / "EuroSAT"), "zip", fixture.folder, "2750")
    data, split, weights = Path(archive).read_bytes(), (fixture.folder / SPLIT).read_bytes(), b"weights" * 1000
    sha256 = hashlib.sha256(weights).hexdigest()
    files = {"/EuroSAT.zip": data, "/drive": split, f"/{sha256}/ViT-B-16.pt": weights}
    with FaultyServer(files) as server:
        plain = json.loads((manifests.FOLDER / "eurosat.json").read_text())
        plain["sources"][0] |= {
            "url": f"{server.url}/EuroSAT.zip",
            "sha256": hashlib.sha256(data).hexdigest(),
            "md5": "",
            "bytes": len(data),
        }
        plain["counts"] = {"classes": 3, "verified": True} | {part: len(rows) for part, rows in fixture.rows.items()}
        plain["class_names"] = {"names": fixture.names, "verified": True}
        drive = {"kind": "gdrive", "url": plain["sources"][1]["fallback"], "fallback": ""}
        plain["sources"][1] |= {"sha256": "", "bytes": 0, **drive}
        folder = tmp_path / "manifests"
        folder.mkdir()
        (folder / "eurosat.json").write_text(json.dumps(plain))
        monkeypatch.setattr(manifests, "FOLDER", folder)
        manifests._read.cache_clear()
        monkeypatch.setattr(plan, "DRIVE", f"{server.url}/drive")
        monkeypatch.setattr(openai_weights, "SOURCE", server.url)
        monkeypatch.setattr(openai_weights, "CACHE", tmp_path / "clip")
        monkeypatch.setitem(openai_weights.SHA256, "ViT-B/16", sha256)
        monkeypatch.setitem(sys.modules, "gdown", None)
        yield server
    manifests._read.cache_clear()


@pytest.fixture
def root(tmp_path):
    return tmp_path / "data"


def get(root, *more):
    return main(["data", "get", "eurosat", "--root", str(root), *more])


def test_one_command_gets_checks_and_pins_everything(world, root, tmp_path, capsys):
    assert get(root) == 0
    shown = capsys.readouterr()
    assert "from now on any change is found" in shown.out
    assert f"{SPLIT}: no hash is published; pinned" in shown.err
    assert "licence: MIT" in shown.err
    source = tmp_path / "source" / "eurosat"
    for path in (p for p in source.rglob("*") if p.is_file()):
        assert (root / "eurosat" / path.relative_to(source)).read_bytes() == path.read_bytes()
    assert not (root / "eurosat" / "EuroSAT.zip").exists()
    world.requests.clear()
    assert get(root) == 0
    assert world.requests == []
    assert "nothing wrong" in capsys.readouterr().out


def test_archives_can_be_kept(world, root):
    assert get(root, "--keep-archives") == 0
    assert (root / "eurosat" / "EuroSAT.zip").is_file()


@pytest.mark.parametrize("fault", ["html", "404", "500", "reset"])
def test_what_could_not_be_had_is_got_by_the_next_call(world, root, capsys, fault):
    world.faults.extend(["", *[fault] * (1 if fault in ("html", "404") else 6)])
    assert get(root) == 2
    shown = capsys.readouterr().err
    assert f"missing:\n  {root / 'eurosat' / SPLIT}\nget" in shown
    assert "Traceback" not in shown
    assert not (root / "eurosat" / SPLIT).exists()
    world.faults.clear()
    world.requests.clear()
    assert get(root) == 0
    assert {path.partition("?")[0] for path, _ in world.requests} == {"/drive"}


def test_without_the_published_split_file(world, root):
    assert get(root, "--own-split") == 0
    assert [path for path, _ in world.requests] == ["/EuroSAT.zip"]
    assert not (root / "eurosat" / SPLIT).exists()


def test_a_web_page_of_google_drive_is_never_taken_for_the_file(world, root, capsys):
    """It may come as plain text with status 200."""
    world.files["/drive"] = b"<!DOCTYPE html><title>Google Drive - Quota exceeded</title>"
    assert get(root) == 2
    assert "web page" in capsys.readouterr().err
    assert not (root / "eurosat" / SPLIT).exists()


def test_gdown_is_used_where_it_is_installed(world, root, monkeypatch, tmp_path):
    calls = []

    def fetch(id, output, quiet, resume):
        calls.append((id, resume))
        Path(output).write_bytes(world.files["/drive"])
        return output

    monkeypatch.setitem(sys.modules, "gdown", types.SimpleNamespace(download=fetch))
    assert get(root) == 0
    assert calls == [("1Ip7yaCWFi0eaOFUGga0lUdVi_DDQth1o", True)]
    assert [path for path, _ in world.requests] == ["/EuroSAT.zip"]


@pytest.fixture
def two_sources(world):
    """The split file has its hash, lies on the server itself, and on Google Drive too."""
    plain = json.loads((manifests.FOLDER / "eurosat.json").read_text())
    split = plain["sources"][1]
    world.files["/split"] = world.files["/drive"]
    digest = hashlib.sha256(world.files["/drive"]).hexdigest()
    split |= {"kind": "file", "url": f"{world.url}/split", "fallback": split["url"], "sha256": digest}
    (manifests.FOLDER / "eurosat.json").write_text(json.dumps(plain))
    manifests._read.cache_clear()
    return world


def asked_for(server):
    return [path.partition("?")[0] for path, _ in server.requests if "split" in path or "drive" in path]


def test_the_first_source_is_asked_first(two_sources, root):
    assert get(root) == 0
    assert asked_for(two_sources) == ["/split"]


@pytest.mark.parametrize("content", [None, b"<html>not found</html>", b"{}"])
def test_the_second_source_is_asked_where_the_first_has_not_the_file(two_sources, root, capsys, content):
    if content is None:
        del two_sources.files["/split"]
    else:
        two_sources.files["/split"] = content
    assert get(root) == 0
    assert asked_for(two_sources)[-1] == "/drive"
    assert (root / "eurosat" / SPLIT).read_bytes() == two_sources.files["/drive"]
    assert f"trying the next source of {SPLIT}" in capsys.readouterr().err


def test_a_source_that_does_not_answer_is_passed_over(two_sources, root, monkeypatch):
    plain = json.loads((manifests.FOLDER / "eurosat.json").read_text())
    plain["sources"][1]["url"] = "https://silent.example/split"
    (manifests.FOLDER / "eurosat.json").write_text(json.dumps(plain))
    manifests._read.cache_clear()
    for module in (getting, plan):
        monkeypatch.setattr(module, "silent", lambda addresses: {"silent.example": "name not found"})
    assert obstacle(pieces(manifest_of("eurosat"), root)) == ""
    assert get(root) == 0
    assert asked_for(two_sources) == ["/drive"]


def test_where_no_source_answers_all_are_named(two_sources, root, monkeypatch):
    wanted = pieces(manifest_of("eurosat"), root)
    monkeypatch.setattr(plan, "silent", lambda addresses: {"127.0.0.1": "name not found"})
    assert obstacle(wanted) == "name not found: 127.0.0.1"


@pytest.mark.parametrize("answer", ["page", "nothing", "error"])
def test_gdown_that_fails_leaves_nothing(world, root, monkeypatch, capsys, answer):
    def fetch(id, output, quiet, resume):
        if answer == "error":
            raise RuntimeError("Too many users have viewed or downloaded this file recently")
        if answer == "nothing":
            return None
        Path(output).write_bytes(b"<html>quota</html>")
        return output

    monkeypatch.setitem(sys.modules, "gdown", types.SimpleNamespace(download=fetch))
    assert get(root) == 2
    assert "Traceback" not in (shown := capsys.readouterr().err)
    assert f"missing:\n  {root / 'eurosat' / SPLIT}\n" in shown
    assert not (root / "eurosat" / SPLIT).exists()


def test_an_archive_put_in_its_place_needs_no_network(world, root, monkeypatch, capsys):
    (root / "eurosat").mkdir(parents=True)
    (root / "eurosat" / "EuroSAT.zip").write_bytes(world.files["/EuroSAT.zip"])
    (root / "eurosat" / SPLIT).write_bytes(world.files["/drive"])
    assert hosts(pieces(manifest_of("eurosat"), root)) == []
    assert obstacle(pieces(manifest_of("eurosat"), root)) == ""
    assert get(root) == 0
    assert world.requests == []
    assert (root / "eurosat" / "EuroSAT.zip").is_file(), "what a person brought is not removed"


def test_another_archive_in_its_place_is_refused_and_left(world, root, capsys):
    (root / "eurosat").mkdir(parents=True)
    (root / "eurosat" / "EuroSAT.zip").write_bytes(b"something else")
    assert get(root) == 2
    assert "is not the file that it should be" in capsys.readouterr().err
    assert (root / "eurosat" / "EuroSAT.zip").read_bytes() == b"something else"


def test_a_damaged_image_in_the_archive_is_named(world, root, tmp_path, capsys):
    image = next((tmp_path / "source" / "eurosat" / "2750").rglob("*.jpg"))
    image.write_bytes(image.read_bytes()[:99])
    archive = shutil.make_archive(str(tmp_path / "bad"), "zip", tmp_path / "source" / "eurosat", "2750")
    (root / "eurosat").mkdir(parents=True)
    plain = json.loads((manifests.FOLDER / "eurosat.json").read_text())
    world.files["/EuroSAT.zip"] = Path(archive).read_bytes()
    plain["sources"][0] |= {"sha256": hashlib.sha256(world.files["/EuroSAT.zip"]).hexdigest(), "bytes": 0}
    (manifests.FOLDER / "eurosat.json").write_text(json.dumps(plain))
    manifests._read.cache_clear()
    assert get(root) == 1
    place = root / "eurosat" / image.relative_to(tmp_path / "source" / "eurosat")
    assert f"damaged: {place}:" in capsys.readouterr().out


def test_a_folder_that_cannot_be_made_is_named(world, tmp_path, capsys):
    (tmp_path / "eurosat").touch()
    assert get(tmp_path) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_a_run_gets_images_and_weights_first(world, root, tmp_path, monkeypatch, capsys):
    from cpt_plugin.cli import run

    runs = []
    monkeypatch.setattr(run, "run", lambda arguments, supply: supply() or runs.append(arguments) or 0)
    words = ["run", "maple_cpt", "eurosat", "0.25", "--root", str(root)]
    assert main(words) == 0
    assert "to be downloaded first" in capsys.readouterr().err
    assert [arguments.dataset for arguments in runs] == ["eurosat"]
    assert (tmp_path / "clip" / "ViT-B-16.pt").read_bytes() == b"weights" * 1000
    world.requests.clear()
    assert main(words) == 0
    assert world.requests == []


def test_a_run_that_must_not_download_says_how_at_once(world, root, capsys):
    assert main(["run", "maple_cpt", "eurosat", "0.25", "--root", str(root), "--no-download"]) == 2
    assert "nothing was downloaded" in capsys.readouterr().err
    assert world.requests == []
    assert not root.exists()


def test_our_own_split_needs_no_split_file(world, root):
    words = ["maple_cpt", "eurosat", "0.25", "--root", str(root), "DATASET.SPLIT", "own"]
    given = []
    parse_arguments(words, supply=given.append)
    assert [piece.file.name for piece in given[0].images] == ["EuroSAT.zip"]


# Instructions


@pytest.mark.parametrize("name", manifest_names())
@pytest.mark.parametrize("own_split", [False, True])
def test_instructions_fit_on_one_screen(name, own_split):
    manifest, home = manifest_of(name), Path("/home/somebody")
    wanted = pieces(manifest, home / "data", own_split)
    if not (manifest.test_only or manifest.long_tailed):
        wanted.append(weights_piece(home / ".cache/clip/ViT-B-16.pt", openai_weights.address("ViT-B/16"), ""))
    silent_hosts = {address.split("//")[1]: "name not found" for address in hosts(wanted)}
    reason = f"cannot be downloaded now ({by_reason(silent_hosts)})"
    again = f"give the same command again, or: python -m cpt_plugin data get {name} --root {home / 'data'}"
    lines = screen(f"'{name}'", reason, wanted, again, other_ways(manifest, wanted, backbone=True)).splitlines()
    assert len(lines) <= 24
    commands = ("://", "mkdir -p", "gdown -O", "data get")
    assert [line for line in lines if len(line) > 100 and not any(part in line for part in commands)] == []
    text = " ".join(" ".join(lines).split())
    for piece in wanted:
        assert str(piece.file.parent) in text
        assert piece.dead or piece.url in text or piece.address in text
        assert piece.dead in text
        assert piece.instead in text or piece.kind != "hand"
        assert all(path.name in text for path in piece.gives)


def test_dead_sources_are_named_as_dead_with_what_works_instead(world, root, capsys):
    plain = json.loads((manifests.FOLDER / "eurosat.json").read_text())
    plain["sources"][0] |= {"dead": "404 since 2031", "instead": "a copy of somebody's"}
    (manifests.FOLDER / "eurosat.json").write_text(json.dumps(plain))
    manifests._read.cache_clear()
    assert get(root) == 2
    shown = capsys.readouterr().err
    assert "dead source (404 since 2031) of EuroSAT.zip" in shown
    assert "instead: a copy of somebody's" in shown
    assert (root / "eurosat" / SPLIT).is_file(), "the rest is got"
    assert main(["data", "list", "--root", str(root)]) == 0
    assert "dead source" in capsys.readouterr().out


def test_without_a_network_no_trace_is_left(world, root, monkeypatch, capsys):
    monkeypatch.setattr(getting, "silent", lambda addresses: {"127.0.0.1": "name not found"})
    assert get(root) == 2
    assert "name not found: 127.0.0.1" in capsys.readouterr().err
    assert not root.exists() or not any(root.iterdir())


def test_imagenet_is_got_by_hand(tmp_path, capsys):
    assert main(["data", "get", "imagenet", "--root", str(tmp_path)]) == 2
    assert not any(tmp_path.iterdir())
    assert "by hand, to " in " ".join(capsys.readouterr().err.split()), "however long the path is"


def test_list_tells_present_incomplete_and_absent(tmp_path, capsys):
    make_fixture("eurosat", tmp_path)
    make_fixture("dtd", tmp_path)
    (tmp_path / "dtd" / "split_zhou_DescribableTextures.json").unlink()
    assert main(["data", "list", "--root", str(tmp_path)]) == 0
    rows = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()[2:]}
    assert {*manifest_names()} <= {*rows}
    assert "present" in rows["eurosat"]
    assert "97.3 MB" in rows["eurosat"]
    assert "incomplete" in rows["dtd"]
    assert "absent" in rows["food101"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "list | get | verify"),
        ("lsit", "invalid choice"),
        ("get", "needs the name"),
        ("get eurosatt", "nearest: 'eurosat'"),
        ("get shapes", "shapes is drawn by the program: there is nothing to get"),
        ("list eurosat", "list takes"),
        ("verify eurosat --rot x", "--rot"),
    ],
)
def test_wrong_words_get_one_line(words, message, capsys):
    assert main(["data", *words.split()]) == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert shown.count("\n") == 1


def test_help(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["data", "--help"])
    assert stop.value.code == 0
    assert "verify eurosat" in capsys.readouterr().out


@pytest.mark.parametrize("url", ["https://drive.google.com/file/d/1_a-B/view", "https://drive.google.com/uc?id=1_a-B"])
def test_id_of_a_file_on_google_drive(url):
    assert drive_id(url) == "1_a-B"
    with pytest.raises(DataError):
        drive_id("https://drive.google.com/drive")


# Whether hosts answer


def test_hosts_that_answer_and_hosts_that_do_not(monkeypatch):
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        here = f"http://127.0.0.1:{listener.getsockname()[1]}/a"
        assert silent([here, here]) == {}
        refused = silent([here, f"http://localhost:{closed_port()}/b"])
    assert refused == {"localhost": "Connection refused"}


def test_a_look_up_that_hangs_takes_no_longer_than_it_may(monkeypatch):
    ended = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: ended.wait() and [])
    assert silent([f"https://host{k}.example/" for k in range(9)], seconds=0.3) == {
        f"host{k}.example": "does not answer" for k in range(9)
    }
    ended.set()


# scripts/run.sh

NOTING_PYTHON = """\
#!/usr/bin/env bash
echo "$*" >> {log}
if [[ "$*" == "scripts/bootstrap.py run" ]]; then exit 7; fi
exec {python} -S "$@"
"""


def run_script(tmp_path, proxy, *more):
    """run.sh with a Python that has nothing installed and notes what it is asked for; returns also the notes."""
    python, log = tmp_path / "python", tmp_path / "asked"
    python.write_text(NOTING_PYTHON.format(log=log, python=sys.executable))
    python.chmod(0o755)
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "CPT_", "DATA_"))}
    kept = {key: value for key, value in kept.items() if "proxy" not in key.lower()}
    variables = {"PYTHON": str(python), "HOME": str(tmp_path), "http_proxy": proxy, "https_proxy": proxy}
    done = subprocess.run(
        ["bash", "scripts/run.sh", "maple_cpt", "eurosat", "0.25", "--root", str(tmp_path / "data"), *more],
        cwd=ROOT,
        env=kept | variables,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done, log.read_text()


def assert_screen(done, asked, tmp_path):
    assert done.returncode == 2
    assert "scripts/bootstrap.py run" not in asked.splitlines(), "nothing may be installed"
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert done.stderr.count("\n") <= 24
    for path in ("data/eurosat/2750", f"data/eurosat/{SPLIT}", ".cache/clip/ViT-B-16.pt"):
        assert f"\n  {tmp_path / path}\n" in done.stderr
    assert "# or in a browser: https://drive.google.com/" in done.stderr
    for command in ("mkdir -p", "curl -L -o", "python -m cpt_plugin data get eurosat", "shapes 0.25"):
        assert command in done.stderr


def test_without_network_and_data_run_sh_shows_one_screen_and_installs_nothing(tmp_path):
    done, asked = run_script(tmp_path, f"http://127.0.0.1:{closed_port()}")
    assert_screen(done, asked, tmp_path)
    assert "cannot be downloaded now (Connection refused:" in done.stderr


def test_where_connections_hang_run_sh_gives_up_soon(tmp_path):
    with silent_address() as address:
        done, asked = run_script(tmp_path, address)
    assert_screen(done, asked, tmp_path)
    assert "does not answer" in done.stderr


def test_no_download_asks_nobody(tmp_path):
    done, asked = run_script(tmp_path, f"http://127.0.0.1:{closed_port()}", "--no-download")
    assert_screen(done, asked, tmp_path)
    assert "nothing was downloaded" in done.stderr


def test_with_a_network_run_sh_says_what_comes_and_goes_on(tmp_path):
    with socket.create_server(("127.0.0.1", 0), backlog=16) as listener:
        done, asked = run_script(tmp_path, f"http://127.0.0.1:{listener.getsockname()[1]}")
    assert done.returncode == 7
    assert "scripts/bootstrap.py run" in asked.splitlines()
    assert f"{tmp_path / 'data' / 'eurosat' / 'EuroSAT.zip'} (94.3 MB) from https://" in done.stderr


def test_materials_of_the_drawn_world_are_never_missing():
    assert materials.lacking("shapes", Path("/nowhere"), "micro").pieces == ()
    with pytest.raises(ConfigError):
        parse_arguments(["coop", "shapes", "1", "--backbone", "mikro"])
