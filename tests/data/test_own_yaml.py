"""A data set of one's own on the command line: its yaml, its name, what it points to."""

from __future__ import annotations

from pathlib import Path

import pytest

from cpt_plugin.cli.arguments import parse_arguments
from cpt_plugin.cli.words import CALLED_FROM
from cpt_plugin.data.custom import check_own_files, own_data
from cpt_plugin.errors import ConfigError, DataError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def yaml(tmp_path):
    (tmp_path / "images").mkdir()
    path = tmp_path / "mine.yaml"
    path.write_text('DATASET:\n  NAME: "ImageFolder"  # a folder a class\n  FOLDER: images\n')
    return path


def test_names_are_no_paths():
    assert own_data("eurosat", Path("/"), ["eurosat"]) is None
    assert own_data("shapes:outline", Path("/"), []) is None


def test_a_path_counts_from_where_the_command_was_typed(yaml, monkeypatch):
    assert own_data("mine.yaml", yaml.parent, []) == yaml
    monkeypatch.setenv(CALLED_FROM, str(yaml.parent))
    arguments = parse_arguments(["coop", "./mine.yaml", "0.5", "--root", ".", "--backbone", "micro"])
    assert (arguments.dataset, arguments.dataset_file) == ("mine", yaml)
    assert arguments.folder.name == "mine"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nothing.yaml", "there is no file .*nothing.yaml"),
        ("folder/nothing", "there is no file"),
        ("my data.yaml", "letters, digits"),
        ("eurosat.yaml", "is called as the data set 'eurosat' of this repository"),
    ],
)
def test_a_path_that_means_nothing(tmp_path, text, message):
    for name in ("my data.yaml", "eurosat.yaml"):
        (tmp_path / name).touch()
    with pytest.raises(ConfigError, match=message):
        own_data(text, tmp_path, ["eurosat"])


@pytest.mark.parametrize("spelling", ["images", "'images'", '"images"', "images   # here", "{absolute}"])
def test_what_it_points_to_must_exist(tmp_path, spelling):
    path = tmp_path / "x.yaml"
    folder = spelling.replace("{absolute}", str(tmp_path / "images"))
    path.write_text(f"DATASET:\n  NAME: ImageFolder\n  # FOLDER: elsewhere\n  FOLDER: {folder}\n")
    with pytest.raises(DataError, match=r"DATASET\.FOLDER of .*x\.yaml is '.*images', but there is no folder"):
        check_own_files(path, tmp_path)
    (tmp_path / "images").mkdir()
    check_own_files(path, tmp_path)


def test_a_list_must_be_a_file(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text('DATASET: {NAME: "ImageList", LIST: "a.csv"}\n')
    (tmp_path / "a.csv").mkdir()
    with pytest.raises(DataError, match=r"DATASET\.LIST .* there is no file"):
        check_own_files(path, tmp_path)
    (tmp_path / "a.csv").rmdir()
    (tmp_path / "a.csv").touch()
    check_own_files(path, tmp_path)


def test_other_yamls_pass(tmp_path):
    check_own_files(ROOT / "configs" / "datasets" / "eurosat.yaml", tmp_path)
    check_own_files(tmp_path / "missing.yaml", tmp_path)


def test_the_example_is_a_folder_below_the_data_folder(tmp_path):
    with pytest.raises(DataError, match=r"there is no folder .*mydata"):
        parse_arguments(["coop", str(ROOT / "examples" / "mydata.yaml"), "0.5", "--root", str(tmp_path)])


def test_a_yaml_that_is_no_text_is_an_error_of_ours(tmp_path):
    (tmp_path / "mine.yaml").write_bytes(b'DATASET:\n  NAME: "\xff"\n')
    with pytest.raises(ConfigError, match=r"mine\.yaml cannot be read"):
        check_own_files(tmp_path / "mine.yaml", tmp_path)


def test_a_home_folder_of_nobody_is_a_folder_that_is_not_there(tmp_path):
    (tmp_path / "mine.yaml").write_text("DATASET:\n  NAME: ImageFolder\n  FOLDER: ~nobody-of-this-name/x\n")
    with pytest.raises(DataError, match="there is no folder"):
        check_own_files(tmp_path / "mine.yaml", tmp_path)
