"""The words that CLIP reads for classes of a person's own."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cpt_plugin import toolkit
from cpt_plugin.config_identity import hashed_part
from cpt_plugin.data.imagenet import imagenet_classes
from cpt_plugin.errors import DataError
from datasets._class_names import check_names, names_of, read_names
from tests.helpers.fixtures.custom import configured, image_folder, image_list, write_list

PLAIN = {"Cat": "house cat", "dog": "hound", "green goat": "goat, green", "red_barn": "barn"}


def named(root, rows, kind="ImageFolder", columns=("label", "name"), **dataset):
    write_list(root / "names.csv", rows, columns)
    return configured(root, kind, CLASS_NAMES="names.csv", **dataset)


@pytest.mark.parametrize("kind", ["ImageFolder", "ImageList"])
def test_a_list_of_names_changes_the_names_and_nothing_else(tmp_path, kind):
    (image_folder if kind == "ImageFolder" else image_list)(tmp_path / "mine")
    plain = toolkit.DataManager(configured(tmp_path, kind))
    cfg = named(tmp_path, reversed(PLAIN.items()), kind)
    data = toolkit.DataManager(cfg)
    assert data.dataset.classnames == list(PLAIN.values()), "in the order of the labels"
    for part in ("train_x", "val", "test"):
        ours, theirs = ([(i.impath, i.label) for i in getattr(one.dataset, part)] for one in (data, plain))
        assert ours == theirs
    assert data.split_hash != plain.split_hash
    assert hashed_part(cfg) == hashed_part(configured(tmp_path, kind)), "the split hash tells names apart"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([*PLAIN.items()][1:], r"each of the 4 classes of .* once; it lacks Cat, and has besides none"),
        ([*PLAIN.items(), ("cow", "cow")], "lacks none, and has besides cow"),
        ([*PLAIN.items(), ("dog", "puppy")], "line 6: 'dog' has the name 'hound' already"),
        ([*{**PLAIN, "dog": " "}.items()], "line 3: no name"),
        ([*{**PLAIN, "dog": "_"}.items()], "nothing to read .*: 'dog'"),
        ([*{**PLAIN, "dog": "Barn"}.items()], "the classes 'dog' and 'red_barn', both 'barn', which read the same"),
    ],
)
def test_lists_of_names_of_other_classes_are_refused(tmp_path, rows, message):
    image_folder(tmp_path / "mine")
    with pytest.raises(DataError, match=message):
        toolkit.build_dataset(named(tmp_path, rows))


def test_other_columns_and_a_missing_list_are_named(tmp_path):
    image_folder(tmp_path / "mine")
    with pytest.raises(DataError, match="call 'label' what is called 'folder'"):
        toolkit.build_dataset(named(tmp_path, PLAIN.items(), columns=("folder", "name")))
    with pytest.raises(DataError, match=r"cannot read the names of classes .*other\.csv"):
        toolkit.build_dataset(configured(tmp_path, CLASS_NAMES="other.csv"))


@given(
    labels=st.sets(st.text("abc_n01", min_size=1, max_size=4).map(str.strip).filter(bool), min_size=2, max_size=6),
    data=st.data(),
)
@settings(deadline=None, max_examples=50)
def test_every_label_keeps_its_own_name(tmp_path_factory, labels, data):
    folder = tmp_path_factory.mktemp("names")
    ordered = sorted(labels)
    names = [f"word {number}" for number in data.draw(st.permutations(range(len(ordered))))]
    rows = data.draw(st.permutations([*zip(ordered, names, strict=True)]))
    file = write_list(folder / "names.csv", rows, ("label", "name"))
    assert read_names(file, ordered, folder) == dict(zip(ordered, names, strict=True))


# -- names that CLIP cannot read ---------------------------------------------------------------------------------------


def warned(tmp_path, caplog, labels):
    with caplog.at_level("WARNING", "cpt_plugin"):
        names = names_of(labels, configured(tmp_path), tmp_path / "mine")
    return names, caplog.text


def test_wordnet_ids_get_imagenets_names_and_each_is_logged(tmp_path, caplog):
    ids = [*imagenet_classes()][5:10]
    with caplog.at_level("INFO", "cpt_plugin"):
        names = names_of([*ids, "tabby"], configured(tmp_path), tmp_path / "mine")
    assert names == {**{one: imagenet_classes()[one] for one in ids}, "tabby": "tabby"}
    assert all(f"{one} = {imagenet_classes()[one]}" in caplog.text for one in ids)
    assert "5 of 6 classes are called by WordNet ids, and get ImageNet's names" in caplog.text


def test_a_list_of_names_goes_before_imagenets(tmp_path, caplog):
    image_folder(tmp_path / "mine", {"n01440764": 4, "n01443537": 4})
    cfg = named(tmp_path, [("n01440764", "a fish"), ("n01443537", "another fish")])
    assert toolkit.build_dataset(cfg).classnames == ["a fish", "another fish"]
    assert not caplog.text


def test_ids_that_share_a_name_are_refused(tmp_path):
    ids = [one for one, name in imagenet_classes().items() if name == "sunglasses"]
    assert len(ids) == 2
    with pytest.raises(DataError, match=rf"{ids[0]}' and '{ids[1]}', both 'sunglasses', which read the same"):
        names_of(ids, configured(tmp_path), tmp_path)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["n00000001", "n00000002", "cat"], "2 of 3 class names are WordNet ids that are none of ImageNet's"),
        (["n02085620-Chihuahua", "n02085936-Maltese_dog"], "such as n02085620-Chihuahua,Chihuahua as DATASET"),
        (["0", "1", "10"], "3 of 3 class names are numbers, .*: 0, 1, 10;"),
        (["0.0", "1.0"], "2 of 2 class names are numbers"),
        (["-1", "cat"], "1 of 2 class names are numbers"),
        (["cat", "nan"], "1 of 2 class names are what programs write for a missing value, .*: nan;"),
        (["cat", "None"], "what programs write for a missing value"),
        (["001.Black_footed_Albatross", "002.Laysan"], "led by numbers, .*as 001.Black_footed_Albatross,Black footed"),
        (["01_cat", "2 dog"], "led by numbers"),
        (["?", "cat"], "1 of 2 class names are without letters"),
    ],
)
def test_names_that_clip_cannot_read_warn(tmp_path, caplog, labels, message):
    names, said = warned(tmp_path, caplog, labels)
    assert list(names) == sorted(labels)
    assert re.search(message, said), said


@pytest.mark.parametrize(
    "labels",
    [
        ["3 wheeler", "van"],
        ["\u732b", "\u72ac"],
        ["n0123", "nancy"],
        ["A320", "DC-10"],
        ["caf\u00e9", "no_entry"],
    ],
)
def test_words_do_not_warn(tmp_path, caplog, labels):
    names, said = warned(tmp_path, caplog, labels)
    assert names == {label: label for label in labels}
    assert not said


def test_a_name_of_spaces_is_none(tmp_path):
    with pytest.raises(DataError, match=r"nothing to read .*: '_', '__'"):
        check_names({"_": "_", "__": "__", "a": "a"}, tmp_path)
