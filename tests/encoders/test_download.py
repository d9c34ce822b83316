"""When weights are fetched, and what is said when they cannot be; the fetching is tested with cpt_plugin.data."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cpt_plugin import openai_weights
from cpt_plugin._hashing import sha256_of
from cpt_plugin.encoders import load, load_clip
from cpt_plugin.errors import CheckpointError, DataError
from tests.encoders.test_weights_file import state
from tests.helpers.archives import write_torchscript


class Server:
    """Stands in for cpt_plugin.data.download: copies a file, or fails as a network does."""

    def __init__(self, source: Path) -> None:
        self.source, self.asked, self.error = source, [], None  # type: ignore[var-annotated]
        self.silent: dict[str, str] = {}

    def download(
        self, url: str, destination: Path, sha256: str = "", md5: str = "", bytes: int = 0
    ) -> Path:
        self.asked.append((url, destination, sha256))
        if self.error is not None:
            raise self.error
        destination.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(self.source, destination)
        return destination


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    source = write_torchscript(tmp_path / "served.pt", state(), 16)
    made: Any = Server(source)
    monkeypatch.setattr(openai_weights, "CACHE", tmp_path / "cache" / "clip")
    monkeypatch.setitem(openai_weights.SHA256, "ViT-B/32", sha256_of(source))
    monkeypatch.setitem(sys.modules, "cpt_plugin.data.download", SimpleNamespace(download=made.download))
    monkeypatch.setattr(load, "silent", lambda addresses: made.silent)
    return made


def test_missing_weights_are_fetched_once_into_the_usual_cache(server: Server, tmp_path: Path) -> None:
    file = tmp_path / "cache" / "clip" / "ViT-B-32.pt"
    assert load_clip("ViT-B/32", download=True).digest == openai_weights.SHA256["ViT-B/32"]
    assert server.asked == [(openai_weights.address("ViT-B/32"), file, openai_weights.SHA256["ViT-B/32"])]
    assert load_clip("ViT-B/32", download=True).embed_dim == 16
    assert load_clip("ViT-B/32").embed_dim == 16
    assert len(server.asked) == 1


def test_nothing_is_fetched_unless_it_may_be(server: Server) -> None:
    with pytest.raises(DataError, match="are not there"):
        load_clip("ViT-B/32")
    assert server.asked == []


def test_a_given_file_or_folder_comes_before_the_cache(server: Server, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    shutil.copy(server.source, folder / "ViT-B-32.pt")
    for root in (folder, folder / "ViT-B-32.pt"):
        assert load_clip("ViT-B/32", root=root, download=True).embed_dim == 16
    assert server.asked == []


def test_a_failed_download_is_one_screen_that_says_what_to_do(server: Server, tmp_path: Path) -> None:
    server.error = DataError("no connection\nand more")
    with pytest.raises(DataError) as caught:
        load_clip("ViT-B/32", download=True, root=tmp_path / "mine")
    lines = str(caught.value).splitlines()
    assert lines[0] == "the weights of CLIP ViT-B/32 could not be downloaded (no connection)"
    assert len(lines) < 20
    for told in (
        tmp_path / "mine" / "ViT-B-32.pt", tmp_path / "cache" / "clip" / "ViT-B-32.pt",
        openai_weights.address("ViT-B/32"), "--backbone FILE",
    ):  # fmt: skip
        assert str(told) in str(caught.value)


def test_a_damaged_file_in_the_cache_is_named_and_not_replaced(server: Server, tmp_path: Path) -> None:
    file = tmp_path / "cache" / "clip" / "ViT-B-32.pt"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"half of it")
    with pytest.raises(CheckpointError, match=r"ViT-B-32\.pt is not OpenAI's ViT-B/32.*delete it"):
        load_clip("ViT-B/32", download=True)
    assert server.asked == []
    assert file.read_bytes() == b"half of it"


def test_without_a_network_nothing_is_tried_again_and_again(server: Server) -> None:
    server.silent = {"host": "name not found"}
    with pytest.raises(DataError, match=r"could not be downloaded \(name not found: host\)\n.*ViT-B-32\.pt"):
        load_clip("ViT-B/32", download=True)
    assert server.asked == []
