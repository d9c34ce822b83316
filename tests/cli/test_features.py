"""Features of finished runs: they give the accuracy of the record again, are made once, and fit its prompts."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch

from cpt_plugin.cli import features as module
from cpt_plugin.cli.features import features_of
from cpt_plugin.cli.main import main
from cpt_plugin.config_identity import config_hash
from cpt_plugin.errors import ConfigError, RecordError
from cpt_plugin.results import record as records
from cpt_plugin.results.features import FILE, effective_rank, load
from cpt_plugin.results.figures.panels import compare
from cpt_plugin.results.figures.registry import draw
from cpt_plugin.results.figures.similarity import cluster_order
from cpt_plugin.results.figures.style import to_bytes
from cpt_plugin.results.figures.tsne import chosen, embed
from cpt_plugin.results.report.gather import gather
from tests.helpers.tiny_world import BASE, NEW, TEST_IMAGES, tiny_experiment, write_world

METHODS = ("zeroshot", "coop", "coop_cpt", "cocoop")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    torch.set_num_threads(1)
    return write_world(tmp_path_factory.mktemp("features"))


@pytest.fixture(scope="module")
def output(root, tmp_path_factory):
    """A finished run of each method."""
    place = tmp_path_factory.mktemp("output")
    for method in METHODS:
        tiny_experiment(root, place, method).execute()
    return place


@pytest.fixture(scope="module")
def found(root, output):
    paths = sorted(output.rglob("record.json"))
    return {features.method: features for features in (features_of(path, root) for path in paths)}


@pytest.mark.parametrize("method", ["zeroshot", "coop", "coop_cpt"])
@pytest.mark.parametrize("classes", ["trained", "new"])
def test_the_nearest_text_of_each_image_gives_the_records_accuracy(root, output, method, classes):
    path = next(output.rglob(f"{method}/*/*/record.json"))
    features = features_of(path, root, classes)
    name = {"trained": "base", "new": "new"}[classes]
    guesses = (features.image @ features.text.T).argmax(1)
    for label, result in enumerate(records.load(path).evaluations[name].per_class):
        own = features.labels == label
        assert (result.name, result.total) == (features.class_names[label], own.sum())
        assert (guesses[own] == label).sum() == result.correct


def test_shapes_and_lengths(found):
    for features in found.values():
        assert features.text.shape == features.frozen_text.shape == (len(BASE), features.image.shape[1])
        assert len(features.image) == len(features.labels) == len(BASE) * TEST_IMAGES
        for rows in (features.text, features.frozen_text, features.image):
            assert np.linalg.norm(rows, axis=1) == pytest.approx(1, abs=1e-5)
        assert sorted(features.ranks) == list(range(len(BASE)))


def test_frozen_text_is_that_of_zero_shot_and_prompts_move_text_away(found):
    zero = found["zeroshot"]
    assert np.allclose(zero.text, zero.frozen_text, atol=1e-6)
    assert np.allclose(zero.text, found["coop"].frozen_text, atol=1e-6)
    assert not np.allclose(zero.text, found["coop"].text, atol=1e-3)


def test_features_are_computed_once(root, output, found, monkeypatch):
    def compute(*_):
        raise AssertionError("computed again")

    monkeypatch.setattr(module, "compute", compute)
    path = next(output.rglob("coop/*/*/record.json"))
    again = features_of(path, root)
    assert np.array_equal(again.text, found["coop"].text)
    assert again.class_names == found["coop"].class_names == tuple(BASE)


def test_kept_features_of_an_older_version_take_the_training_images_of_the_record(root, output, found, tmp_path):
    """They held ranks by the label, which were wrong for data with a tail of their own."""
    record = records.load(next(output.rglob("coop/*/*/record.json")))
    found["coop"].save(tmp_path / FILE)
    with np.load(tmp_path / FILE) as file:
        arrays = dict(file)
    about = json.loads(str(arrays["about"]))
    del about["class_counts"], about["by_schedule"]
    np.savez(tmp_path / FILE, **arrays | {"about": np.array(json.dumps(about | {"ranks": [0, 1, 2, 3]}))})
    records.save(record, tmp_path / "record.json")
    again = features_of(tmp_path / "record.json", root)
    assert again.class_counts == record.class_counts
    assert again.ranks == tuple(record.ranks)


def test_classes_that_were_not_trained_on_are_neither_frequent_nor_rare(root, output):
    pytest.importorskip("sklearn")
    pytest.importorskip("matplotlib")
    new = features_of(next(output.rglob("coop/*/*/record.json")), root, "new")
    assert new.class_counts == ()
    [drawing] = draw("tsne", compare([new]))
    assert drawing.figure.legends[0].get_title().get_text() == "classes"
    assert "none of which was trained on" in " ".join(drawing.figure._supxlabel.get_text().split())


def test_kept_features_of_other_prompts_are_made_anew_and_wrong_checkpoints_refused(root, output, tmp_path):
    source = next(output.rglob("coop/*/*/record.json")).parent
    copy = tmp_path / "run"
    for path in source.rglob("*"):
        if path.is_file():
            (copy / path.relative_to(source)).parent.mkdir(parents=True, exist_ok=True)
            (copy / path.relative_to(source)).write_bytes(path.read_bytes())
    record = records.load(copy / "record.json")
    (copy / "record.json").unlink()
    records.save(dataclasses.replace(record, prompts_hash="ab" * 32), copy / "record.json")
    with pytest.raises(RecordError, match="not those of the record"):
        features_of(copy / "record.json", root)


def test_damaged_features_and_classes_that_a_run_has_not_are_refused(root, output, tmp_path):
    (tmp_path / FILE).write_bytes(b"not a zip")
    with pytest.raises(RecordError, match="features cannot be read"):
        load(tmp_path / FILE)
    with pytest.raises(ConfigError, match="has no 'old' classes"):
        features_of(next(output.rglob("coop/*/*/record.json")), root, "old")


def test_saved_features_come_back_and_give_the_same_bytes(found, tmp_path):
    paths = [tmp_path / "a.npz", tmp_path / "b.npz"]
    for path in paths:
        found["coop_cpt"].save(path)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert np.array_equal(load(paths[0]).image, found["coop_cpt"].image)
    assert load(paths[0]).clusters == found["coop_cpt"].clusters


def test_effective_rank_of_known_matrices():
    assert effective_rank(np.eye(5)) == pytest.approx(5)
    assert effective_rank(np.ones((4, 4))) == pytest.approx(1)
    assert effective_rank(np.diag([3.0, 1.0])) == pytest.approx(4 / 3**0.75)
    assert effective_rank(np.zeros((3, 3))) == 0


def test_panels_stand_frozen_plain_cpt_for_each_learner(found):
    both = compare(found.values())
    assert [one.learner for one in both] == ["cocoop", "coop"]
    assert list(both[1].panels) == ["frozen", "coop", "coop_cpt"]


def test_classes_stand_by_cluster_and_then_by_frequency(found):
    features = dataclasses.replace(found["coop"], clusters=(1, 0, 1, 0), class_counts=(4, 2, 16, 8))
    assert cluster_order(features) == [3, 1, 2, 0]


def test_heat_maps_hold_the_cosines_in_the_order_of_clusters(found):
    pytest.importorskip("matplotlib")
    comparison = compare([found[name] for name in ("zeroshot", "coop", "coop_cpt")])
    [drawing] = draw("similarity", comparison)
    order = cluster_order(found["coop_cpt"])
    assert len({*found["coop_cpt"].clusters}) > len({*found["zeroshot"].clusters}) == 1
    maps = [axes for axes in drawing.figure.axes if axes.images]
    for axes, name in zip(maps, ("zeroshot", "coop", "coop_cpt"), strict=True):
        text = found[name].text
        wanted = [[float(text[a] @ text[b]) for b in order] for a in order]
        shown = np.asarray(axes.images[0].get_array())
        assert np.allclose(shown, wanted, atol=1e-5)
        assert axes.get_title().endswith(f"effective rank {effective_rank(np.array(wanted)):.2f}")
    assert [label.get_text() for label in maps[0].get_yticklabels()] == [BASE[k] for k in order]
    assert to_bytes(drawing.figure, "png", 40) == to_bytes(draw("similarity", comparison)[0].figure, "png", 40)


def test_t_sne_shows_every_image_and_text_of_the_chosen_classes_alike_each_time(found):
    pytest.importorskip("sklearn")
    pytest.importorskip("matplotlib")
    features = found["coop"]
    classes = chosen(features)
    assert classes == sorted(range(len(BASE)), key=features.ranks.__getitem__)
    images, labels, texts = embed(features, classes)
    assert len(images) == len(labels) == len(BASE) * TEST_IMAGES
    assert len(texts) == len(classes)
    again = embed(features, classes)
    assert np.array_equal(images, again[0])
    [drawing] = draw("tsne", compare([found["zeroshot"], features]))
    points = sum(len(line.get_xdata()) for line in drawing.figure.axes[1].lines)
    assert points == len(images) + len(texts)


def test_the_command_draws_from_features_and_names_runs_without_a_checkpoint(root, output, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    words = ["results", "figures", str(output), "-o", str(tmp_path), "--root", str(root), "--format", "png"]
    assert main([*words, "--kind", "similarity", "--classes", "new"]) == 0
    assert len(list(tmp_path.glob("similarity_*_new.png"))) == 2
    assert len(NEW) > 1
    record = records.load(next(output.rglob("coop/*/*/record.json")))
    config = record.config | {"SEED": 7}
    other = dataclasses.replace(record, seed=7, config=config, config_hash=config_hash(config))
    records.save(other, output / "gone" / "record.json")
    assert main([*words, "--kind", "similarity"]) == 1
    assert "no features: " in capsys.readouterr().err


def test_a_report_takes_kept_features_and_leaves_those_of_no_record(root, output, found, tmp_path):
    assert {one.method for one in gather(output).features} == {*METHODS}
    (tmp_path / "run").mkdir()
    found["coop"].save(tmp_path / "run" / FILE)
    records.save(records.load(next(output.rglob("coop/*/*/record.json"))), tmp_path / "elsewhere" / "record.json")
    assert gather(tmp_path).features == ()
