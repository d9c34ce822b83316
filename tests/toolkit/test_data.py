"""Items, class names, few-shot draws, split files, split hashes."""

from __future__ import annotations

import json
import random
import shutil
from collections import defaultdict

import pytest

from cpt_plugin.errors import DataError
from cpt_plugin.toolkit.embedded.data import (
    DatasetBase,
    Datum,
    generate_fewshot_dataset,
    read_split,
    save_split,
    split_hash,
)

NAMES = ["ant", "bee", "cat", "dog", "elk"]


@pytest.fixture
def root(tmp_path):
    for name in NAMES:
        (tmp_path / name).mkdir()
        for i in range(12):
            (tmp_path / name / f"{i}.png").write_bytes(b"x")
    return tmp_path


def items(root, labels, count=12, start=0):
    return [
        Datum(str(root / NAMES[label] / f"{i}.png"), label, classname=NAMES[label])
        for i in range(start, start + count)
        for label in labels
    ]


def paths(drawn):
    return [item.impath for item in drawn]


def test_missing_image_is_named(tmp_path):
    with pytest.raises(DataError, match=r"absent\.png.*DATASET\.ROOT"):
        Datum(str(tmp_path / "absent.png"))


def test_class_missing_from_training_shifts_nothing(root):
    dataset = DatasetBase(train_x=items(root, [0, 2, 4]), test=items(root, range(5)))
    assert dataset.classnames == NAMES
    assert dataset.num_classes == 5
    assert dataset.lab2cname[3] == "dog"
    dataset.replace_train(items(root, [4]))
    assert dataset.classnames == NAMES


def test_contradicting_names_and_gaps_are_refused(root):
    wrong = Datum(str(root / "ant" / "0.png"), 0, classname="bee")
    with pytest.raises(DataError, match="label 0"):
        DatasetBase(train_x=items(root, [0]), test=[wrong])
    with pytest.raises(DataError, match=r"\[1\]"):
        DatasetBase(train_x=items(root, [0, 2]))
    with pytest.raises(DataError, match="empty"):
        DatasetBase(train_x=[])


def dassl_draw(sources, shots):
    """What Dassl documents: global ``random``, classes in order of appearance, all items when too few."""
    drawn = []
    for source in sources:
        tracker = defaultdict(list)
        for item in source:
            tracker[item.label].append(item)
        part = []
        for members in tracker.values():
            part += (
                random.sample(members, shots[len(drawn)]) if len(members) >= shots[len(drawn)] else members
            )
        drawn.append(part)
    return drawn


@pytest.mark.parametrize("seed", [0, 1, 2, 2**32 - 1])
def test_draw_is_the_one_of_a_globally_seeded_dassl(root, seed):
    train = items(root, [3, 0, 4, 1, 2], 8) + items(root, [1], 1, start=8)
    val = items(root, [2, 1, 0], 4, start=8) + items(root, [3], 2, start=8)
    state = random.getstate()
    random.seed(seed)
    expected = dassl_draw([train, val], [6, 4])
    random.setstate(state)
    rng = random.Random(seed)
    first = generate_fewshot_dataset(train, num_shots=6, rng=rng)
    second = generate_fewshot_dataset(val, num_shots=4, rng=rng)
    assert [paths(first), paths(second)] == [paths(part) for part in expected]
    assert random.getstate() == state


def test_draw_without_private_generator_uses_the_global_one_as_dassl(root):
    train = items(root, range(5))
    random.seed(3)
    first = paths(DatasetBase(train).generate_fewshot_dataset(train, num_shots=2))
    random.seed(3)
    assert paths(dassl_draw([train], [2])[0]) == first


def test_draw_edge_cases(root):
    train = items(root, [0, 1], 3)
    assert generate_fewshot_dataset(train, num_shots=-1) is train
    assert generate_fewshot_dataset(train, train, num_shots=0) == [train, train]
    assert len(generate_fewshot_dataset(train, num_shots=5, rng=random.Random(0))) == 6
    assert len(generate_fewshot_dataset(train, num_shots=5, repeat=True, rng=random.Random(0))) == 10


def test_split_file_round_trip(root):
    parts = [items(root, range(5), 4), items(root, range(5), 2, 4), items(root, range(5), 2, 6)]
    save_split(*parts, root / "split.json", root)
    assert json.loads((root / "split.json").read_text())["train"][0] == ["ant/0.png", 0, "ant"]
    read = read_split(root / "split.json", root)
    assert [[(d.impath, d.label, d.classname) for d in part] for part in read] == [
        [(d.impath, d.label, d.classname) for d in part] for part in parts
    ]


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ("{", "JSON"),
        ("[]", "train, val and test"),
        ('{"train": [["ant/0.png", "0", "ant"]], "val": [], "test": []}', "entry"),
        ('{"train": [["ant/0.png", -1, "ant"]], "val": [], "test": []}', "entry"),
        ('{"train": [["../secret.png", 0, "ant"]], "val": [], "test": []}', "leaves"),
        ('{"train": [["/etc/passwd", 0, "ant"]], "val": [], "test": []}', "leaves"),
        ('{"train": [["ant/99.png", 0, "ant"]], "val": [], "test": []}', "not found"),
    ],
)
def test_bad_split_files_are_refused(root, content, part):
    (root / "split.json").write_text(content)
    with pytest.raises(DataError, match=part):
        read_split(root / "split.json", root)


def test_missing_split_file_is_named(root):
    with pytest.raises(DataError, match=r"absent\.json"):
        read_split(root / "absent.json", root)


def test_split_hash_follows_content_not_place_or_order(root, tmp_path_factory):
    moved = tmp_path_factory.mktemp("elsewhere") / "data"
    shutil.copytree(root, moved)
    first = DatasetBase(items(root, range(5)), test=items(root, [0]))
    reference = split_hash(first, root)
    assert split_hash(DatasetBase(items(moved, range(5)), test=items(moved, [0])), moved) == reference
    assert split_hash(DatasetBase(items(root, range(5))[::-1], test=items(root, [0])), root) == reference
    assert split_hash(DatasetBase(items(root, range(5))[:-1], test=items(root, [0])), root) != reference
    assert split_hash(DatasetBase(items(root, range(5)), val=items(root, [0])), root) != reference


def test_split_hash_takes_in_the_images_of_a_data_set_that_knows_their_hash(root):
    dataset = DatasetBase(items(root, range(5)))
    hashes = [split_hash(dataset, root)]
    for content in ("a", "b"):
        dataset.content_hash = content
        hashes.append(split_hash(dataset, root))
    assert len(set(hashes)) == 3
    del dataset.content_hash
    assert split_hash(dataset, root) == hashes[0]
