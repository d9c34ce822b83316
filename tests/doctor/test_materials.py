"""What is said of disk, output folder, data sets and weights."""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import json
import shutil

import pytest

from cpt_plugin import openai_weights
from cpt_plugin.data import manifest as manifests
from cpt_plugin.doctor import materials
from cpt_plugin.doctor.report import FIX, NOTE, OK
from tests.doctor.machines import machine

Usage = collections.namedtuple("Usage", "total used free")


@pytest.fixture(autouse=True)
def no_cache(monkeypatch, tmp_path):
    """CLIP's cache is an empty folder, and EuroSAT the only data set."""
    monkeypatch.setattr(openai_weights, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(materials, "manifest_names", lambda: ["eurosat"])


def fill(root, *parts):
    for part in parts:
        path = root / part
        if path.suffix:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("{}")
        else:
            (path / "class").mkdir(parents=True)


@pytest.mark.parametrize(("gigabytes", "status"), [(50, OK), (3, NOTE), (0.2, FIX)])
def test_a_full_disk_is_named(monkeypatch, tmp_path, gigabytes, status):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: Usage(0, 0, int(gigabytes * 2**30)))
    findings = list(materials.disk(machine(tmp_path)))
    assert {finding.status for finding in findings} == {status}
    assert f"{gigabytes:.1f} GiB free" in findings[0].text


def test_an_output_folder_need_not_be_there_yet(tmp_path):
    finding = materials.output(machine(tmp_path))
    assert finding.status == OK
    assert list(tmp_path.iterdir()) == []


def test_an_output_folder_below_a_file_cannot_be_written(tmp_path):
    (tmp_path / "output").write_text("")
    finding = materials.output(machine(tmp_path))
    assert finding.status == FIX
    assert str(tmp_path / "output") in finding.text


def test_an_output_folder_that_refuses_is_named(monkeypatch, tmp_path):
    def refuse(**settings):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(materials.tempfile, "TemporaryFile", refuse)
    finding = materials.output(machine(tmp_path))
    assert finding.status == FIX
    assert "Permission denied" in finding.text


def test_an_absent_data_set_is_a_note(tmp_path):
    (finding,) = materials.data(machine(tmp_path))
    assert finding.status == NOTE
    assert "eurosat" in finding.text
    assert finding.fix == f"python -m cpt_plugin data get eurosat --root {tmp_path / 'data'}"


def test_a_whole_data_set_is_listed(tmp_path):
    fill(tmp_path / "data", "eurosat/2750", "eurosat/split_zhou_EuroSAT.json")
    (finding,) = materials.data(machine(tmp_path))
    assert finding.status == OK
    assert finding.text.endswith("eurosat")


def test_a_data_set_without_its_images_needs_fixing(tmp_path):
    fill(tmp_path / "data", "eurosat/split_zhou_EuroSAT.json")
    (finding,) = materials.data(machine(tmp_path))
    assert finding.status == FIX
    assert "lacks eurosat/2750" in finding.text


def test_a_split_of_our_own_does_where_the_published_one_is_missing(tmp_path):
    fill(tmp_path / "data", "eurosat/2750")
    (finding,) = materials.data(machine(tmp_path))
    assert finding.status == NOTE
    assert "split_zhou_EuroSAT.json" in finding.text


def test_shared_images_do_not_make_another_data_set_incomplete(monkeypatch, tmp_path):
    whole = manifests.manifest_of("eurosat")
    other = dataclasses.replace(whole, name="eurosat_lt", split="lists.txt", own_split=False)
    monkeypatch.setattr(materials, "manifest_names", lambda: ["eurosat", "eurosat_lt"])
    monkeypatch.setattr(materials, "manifest_of", {"eurosat": whole, "eurosat_lt": other}.get)
    fill(tmp_path / "data", "eurosat/2750", "eurosat/split_zhou_EuroSAT.json")
    assert [finding.status for finding in materials.data(machine(tmp_path))] == [OK, NOTE]
    fill(tmp_path / "data", "eurosat/lists.txt")
    (finding,) = materials.data(machine(tmp_path))
    assert finding.status == OK
    assert finding.text.endswith("eurosat, eurosat_lt")


def test_every_data_set_with_a_manifest_is_looked_at(monkeypatch, tmp_path):
    monkeypatch.setattr(materials, "manifest_names", manifests.manifest_names)
    (finding,) = materials.data(machine(tmp_path))
    assert all(name in finding.text for name in manifests.manifest_names())


def test_weights_are_told_whole_from_damaged(monkeypatch, tmp_path):
    content = b"weights"
    monkeypatch.setitem(openai_weights.SHA256, "RN50", hashlib.sha256(content).hexdigest())
    for name, payload in [("RN50", content), ("ViT-B/16", content[:-1])]:
        file = openai_weights.cache_file(name)
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(payload)
    damaged, whole = materials.weights(machine(tmp_path))
    assert damaged.status == FIX
    assert "ViT-B-16.pt is damaged" in damaged.text
    assert openai_weights.address("ViT-B/16") in damaged.fix
    assert whole.status == OK
    assert "RN50" in whole.text


def test_absent_weights_are_a_note_with_their_address(tmp_path):
    (finding,) = materials.weights(machine(tmp_path))
    assert finding.status == NOTE
    assert openai_weights.address("ViT-B/16") in finding.fix


def test_the_embedded_model_is_intact():
    assert materials.micro(machine()).status == OK


@pytest.mark.parametrize(
    ("sidecar", "words"),
    [
        (json.dumps({"npz_sha256": hashlib.sha256(b"other").hexdigest()}), "is damaged"),
        ("{", "cannot be read"),
        ("{}", "cannot be read"),
        (None, "cannot be read"),
    ],
)
def test_a_damaged_embedded_model_needs_fixing(monkeypatch, tmp_path, sidecar, words):
    (tmp_path / "micro_clip.npz").write_bytes(b"bytes")
    if sidecar is not None:
        (tmp_path / "micro_clip.json").write_text(sidecar)
    monkeypatch.setattr(materials, "ASSETS", tmp_path)
    finding = materials.micro(machine())
    assert finding.status == FIX
    assert words in finding.text


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        ("maple_cpt eurosat 0.25 --backbone RN50", FIX, "visual prompts need a ViT"),
        ("coop_cpt eurosat 0.25", NOTE, "the run would first get"),
        ("coop_cpt shapes 0.25", OK, "make sense"),
        ("coop_ctp shapes 0.25", FIX, "nearest"),
    ],
)
def test_the_words_of_a_run_are_looked_at(tmp_path, words, status, said):
    finding = materials.run_command(machine(tmp_path), words.split())
    assert finding.status == status
    assert said in finding.text
    assert not (tmp_path / "output").exists()


def test_a_data_set_that_lies_elsewhere_is_told_with_the_commands_that_move_it(tmp_path):
    fill(tmp_path / "data" / "EuroSAT", "2750", "split_zhou_EuroSAT.json")
    (finding,) = materials.data(machine(tmp_path))
    assert finding.status == FIX
    assert finding.fix == f"mv {tmp_path / 'data' / 'EuroSAT'} {tmp_path / 'data' / 'eurosat'}"
    (tmp_path / "data" / "EuroSAT").rename(tmp_path / "data" / "eurosat")
    assert [finding.status for finding in materials.data(machine(tmp_path))] == [OK]
