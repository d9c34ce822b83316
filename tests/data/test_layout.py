"""Data sets that are there, but elsewhere: found, named, and the commands that are printed put them right."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from cpt_plugin.cli.arguments import parse_arguments
from cpt_plugin.cli.main import main
from cpt_plugin.data.layout import misplaced
from cpt_plugin.data.manifest import manifest_of
from cpt_plugin.errors import DataError
from tests.helpers.fixtures import fixture_names, make_fixture

RENAMED = {"caltech101": "caltech101", "eurosat": "EuroSAT", "stanford_cars": "StanfordCars", "dtd": "dtd-r1.0.1",
           "fgvc_aircraft": "fgvc-aircraft-2013b", "food101": "Food-101", "ucf101": "UCF-101",
           "oxford_flowers": "OxfordFlowers"}  # fmt: skip
INSIDE = {
    "eurosat": ("2750", "EuroSAT_RGB"),
    "ucf101": ("UCF-101-midframes", "UCF101_midframes"),
    "oxford_flowers": ("jpg", "102flowers/jpg"),
    "stanford_cars": ("cars_train", "archive/cars_train"),
    "imagenet": ("images", "ILSVRC/Data/CLS-LOC"),
    "sun397": ("Training_01.txt", "Partitions/Training_01.txt"),
    "fgvc_aircraft": ("variants.txt", "data/variants.txt"),
}


def move(source: Path, target: Path) -> None:
    aside = source.with_name(f"{source.name}.aside")
    source.rename(aside)
    target.parent.mkdir(parents=True, exist_ok=True)
    aside.rename(target)


def mend(name: str, root: Path, own_split: bool = False) -> None:
    """Do what is printed, in a shell; afterwards nothing may be missing, and nothing may have been lost."""
    before = sorted(path.name for path in root.rglob("*") if path.is_file())
    found = misplaced(manifest_of(name), root, own_split)
    assert found is not None
    for command in found.commands:
        assert command in found.text
        subprocess.run(["bash", "-ec", command], check=True)
    assert manifest_of(name).lacking(root, own_split) == ()
    assert misplaced(manifest_of(name), root, own_split) is None
    assert sorted(path.name for path in root.rglob("*") if path.is_file()) == before


@pytest.mark.parametrize("name", fixture_names())
def test_a_data_set_in_its_place_is_not_looked_for(tmp_path, name):
    make_fixture(name, tmp_path)
    assert misplaced(manifest_of(name), tmp_path) is None


DEEPER = ("{0}/{0}", "unpacked/{0}", "{0}/some archive/{0}")


@pytest.mark.parametrize(
    ("name", "deeper"),
    [*((name, DEEPER[0]) for name in fixture_names()), *(("eurosat", to) for to in DEEPER), ("cifar100_lt", DEEPER[2])],
)
def test_one_folder_too_deep(tmp_path, name, deeper):
    folder = make_fixture(name, tmp_path / "my data").folder
    move(folder, folder.parent / deeper.format(folder.name))
    mend(name, tmp_path / "my data")


@pytest.mark.parametrize(("name", "other"), RENAMED.items())
def test_another_name_of_the_folder(tmp_path, name, other):
    folder = make_fixture(name, tmp_path).folder
    move(folder, tmp_path / other)
    mend(name, tmp_path)


@pytest.mark.parametrize("name", [name for name in fixture_names() if manifest_of(name).images])
def test_image_folders_in_folders_of_their_own_names(tmp_path, name):
    """As Kaggle packs Stanford Cars: cars_train/cars_train."""
    folder = make_fixture(name, tmp_path).folder
    for images in manifest_of(name).images:
        move(folder / images, folder / images / Path(images).name)
    assert manifest_of(name).missing(tmp_path)
    found = misplaced(manifest_of(name), tmp_path)
    assert {target for _, target in found.moves} == {folder / images for images in manifest_of(name).images}
    mend(name, tmp_path)


@pytest.mark.parametrize(("name", "moved"), INSIDE.items())
@pytest.mark.parametrize("own_split", [False, True])
def test_a_part_in_another_place(tmp_path, name, moved, own_split):
    folder = make_fixture(name, tmp_path).folder
    move(folder / moved[0], folder / moved[1])
    if manifest_of(name).lacking(tmp_path, own_split):
        mend(name, tmp_path, own_split)


@pytest.mark.parametrize("name", ["eurosat", "sun397", "dtd", "food101", "ucf101", "caltech101"])
def test_class_folders_without_the_folder_around_them(tmp_path, name):
    folder, images = make_fixture(name, tmp_path).folder, manifest_of(name).images[0]
    for path in list((folder / images).iterdir()):
        move(path, folder / path.name)
    (folder / images).rmdir()
    mend(name, tmp_path)


def test_images_called_as_nothing_else_are_known_by_the_split_file(tmp_path):
    folder = make_fixture("dtd", tmp_path).folder
    move(folder / "images", folder / "textures of mine")
    mend("dtd", tmp_path)


def test_what_is_elsewhere_without_the_rest_is_named_too(tmp_path):
    folder = make_fixture("eurosat", tmp_path).folder
    (folder / manifest_of("eurosat").split).unlink()
    move(folder, tmp_path / "EuroSAT")
    found = misplaced(manifest_of("eurosat"), tmp_path)
    assert found.commands == (f"mv {tmp_path / 'EuroSAT'} {tmp_path / 'eurosat'}",)


def test_a_data_root_that_points_into_the_data_set(tmp_path):
    folder = make_fixture("eurosat", tmp_path).folder
    for root in (folder, folder / "2750"):
        found = misplaced(manifest_of("eurosat"), root)
        assert found.commands == ()
        assert f"give the data folder --root {tmp_path}" in found.text


def test_folders_of_other_data_sets_are_left_alone(tmp_path_factory):
    tmp_path, outside = tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("outside")
    for name in fixture_names():
        make_fixture(name, tmp_path)
    for name in fixture_names():
        manifest = manifest_of(name)
        shared = {path for other in map(manifest_of, fixture_names()) if other.name != name for path in other.wanted}
        if shared & set(manifest.wanted):
            continue
        (tmp_path / manifest.folder).rename(outside / "away")
        assert misplaced(manifest, tmp_path) is None, name
        (outside / "away").rename(tmp_path / manifest.folder)


def test_an_empty_data_folder_and_a_file_in_the_way(tmp_path):
    assert misplaced(manifest_of("eurosat"), tmp_path / "nowhere") is None
    (tmp_path / "eurosat").touch()
    assert misplaced(manifest_of("eurosat"), tmp_path) is None


def test_every_command_names_the_folder_and_the_mv_instead_of_a_download(tmp_path, capsys):
    folder = make_fixture("dtd", tmp_path).folder
    move(folder, tmp_path / "dtd" / "dtd")
    command = misplaced(manifest_of("dtd"), tmp_path).commands[0]
    root = ["--root", str(tmp_path)]
    asked = []
    with pytest.raises(DataError) as caught:
        parse_arguments(["coop_cpt", "dtd", "0.25", *root], supply=asked.append)
    assert command in str(caught.value)
    assert asked == []
    assert main(["data", "get", "dtd", *root]) == 2
    assert command in capsys.readouterr().err
    assert main(["data", "verify", "dtd", *root]) == 1
    assert command in capsys.readouterr().out
    assert main(["data", "list", *root]) == 0
    assert "misplaced" in next(line for line in capsys.readouterr().out.splitlines() if line.startswith("  dtd "))
    shutil.rmtree(tmp_path / "dtd")
    with pytest.raises(DataError, match="nothing was downloaded"):
        parse_arguments(["coop_cpt", "dtd", "0.25", *root, "--no-download"])
