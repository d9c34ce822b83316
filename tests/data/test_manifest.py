"""Manifests: they can be read, and what is wrong with one is said."""

from __future__ import annotations

import json
import re

import pytest

from cpt_plugin.data import manifest as manifests
from cpt_plugin.data.manifest import manifest_names, manifest_of, registered_manifest
from cpt_plugin.errors import ConfigError, DataError


@pytest.mark.parametrize("name", manifest_names())
def test_every_manifest_is_whole(name):
    manifest = manifest_of(name)
    assert manifest.name == name
    assert registered_manifest(manifest.registered) is manifest
    assert manifest.template.count("{}") == 1
    assert all(path.startswith(f"{manifest.folder}/") for path in manifest.wanted)
    names = manifest.class_names.names
    assert len(names) in (0, manifest.counts.classes)
    assert len(set(names)) == len(names) or "imagenet" in name  # ImageNet has two "missile" and two "sunglasses"
    given = [path for source in manifest.sources for path in source.gives]
    assert set(given) >= set(manifest.wanted), "something wanted has no source, not even by hand"
    for source in manifest.sources:
        assert source.url.startswith(("http://", "https://"))
        assert not (source.dead or source.kind == "manual") or source.instead, "a dead source needs another way"


@pytest.mark.parametrize("name", manifest_names())
def test_what_comes_over_plain_http_has_a_pinned_hash(name):
    for source in manifest_of(name).sources:
        assert all(
            address.startswith("https://") or len(source.sha256) == 64
            for address in filter(None, (source.url, source.fallback))
        )


SPLITS_ON_GITHUB = ("caltech101", "dtd", "eurosat", "oxford_flowers", "oxford_pets", "stanford_cars", "ucf101")


@pytest.mark.parametrize("name", [name for name in manifest_names() if manifest_of(name).split])
def test_split_files_have_a_pinned_hash_and_come_from_a_commit_first(name):
    manifest = manifest_of(name)
    source = manifest.source_of(f"{manifest.folder}/{manifest.split}")
    assert len(source.sha256) == 64
    assert source.bytes > 0
    if name in SPLITS_ON_GITHUB:
        place = "raw.githubusercontent.com/linzhiqiu/cross_modal_adaptation/[0-9a-f]{40}/splits"
        assert re.fullmatch(f"https://{place}/{manifest.split}", source.url)
        assert source.fallback.startswith("https://drive.google.com/file/d/")


def test_an_unknown_name_gets_the_nearest():
    with pytest.raises(ConfigError, match="nearest: 'eurosat'"):
        manifest_of("eurosatt")


def test_a_data_set_without_manifest_has_none():
    assert registered_manifest("Shapes") is None


def test_missing_files_are_told_from_present_ones(tmp_path):
    manifest = manifest_of("eurosat")
    assert manifest.missing(tmp_path) == ("eurosat/2750", "eurosat/split_zhou_EuroSAT.json")
    (tmp_path / "eurosat" / "2750").mkdir(parents=True)
    assert manifest.missing(tmp_path) == manifest.wanted, "an empty folder holds no images"
    (tmp_path / "eurosat" / "2750" / "Forest").mkdir()
    assert manifest.missing(tmp_path) == ("eurosat/split_zhou_EuroSAT.json",)


HTTP = {"gives": ["eurosat/2750"], "kind": "zip", "url": "http://example.org/a.zip", "into": "eurosat/"}
SECURE = HTTP | {"url": "https://example.org/a.zip"}


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"folder": 3}, "folder"),
        ({"colour": "red"}, "colour"),
        ({"sources": [{"kind": "zip"}]}, "gives"),
        ({"sources": [HTTP]}, "nothing vouches for: give an address of https"),
        ({"sources": [HTTP | {"md5": "0" * 32}]}, "nothing vouches for"),
        ({"sources": [SECURE | {"fallback": "http://example.org/b"}]}, "http://example.org/b, whose content nothing"),
        ({"sources": [SECURE | {"url": "ftp://example.org/b", "sha256": "0" * 64}]}, "ftp"),
    ],
)
def test_a_wrong_manifest_is_refused_by_field(tmp_path, monkeypatch, change, complaint):
    plain = json.loads((manifests.FOLDER / "eurosat.json").read_text()) | change
    (tmp_path / "broken.json").write_text(json.dumps(plain | {"name": "broken"}))
    monkeypatch.setattr(manifests, "FOLDER", tmp_path)
    with pytest.raises(DataError, match=complaint):
        manifest_of("broken")
