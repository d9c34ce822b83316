"""All images of one's own with their own tail; what cannot be evaluated is found before anything is trained."""

from __future__ import annotations

import json
import re
from contextlib import nullcontext

import pytest
import torch

from cpt_plugin.cli.arguments import parse_arguments
from cpt_plugin.cli.contents import Contents
from cpt_plugin.cli.experiment import Experiment
from cpt_plugin.cli.identity import RunData
from cpt_plugin.cli.repository import default_cfg
from cpt_plugin.cli.run import run
from cpt_plugin.cli.settings import identity_of
from cpt_plugin.errors import ConfigError, DataError
from cpt_plugin.results.record import load
from cpt_plugin.results.table import render_markdown
from tests.cli.test_run import FakeRuns
from tests.helpers.fixtures import make_fixture
from tests.helpers.fixtures.custom import image_folder, write_list
from tests.helpers.fixtures.images import draw_image
from tests.helpers.prompt_runs import RESOLUTION, weights
from trainers._base import PromptTrainer

TAIL = {"ant": 1, "bee": 4, "cow": 8, "doe": 20}


@pytest.fixture
def folder(tmp_path):
    torch.set_num_threads(1)
    return image_folder(tmp_path / "mine", TAIL)


@pytest.fixture
def no_training(monkeypatch):
    def forward_backward(self, batch):
        raise AssertionError("a step was trained")

    monkeypatch.setattr(PromptTrainer, "forward_backward", forward_backward)


def words(tmp_path, method, data, *more):
    return [
        method, str(data), *more, "--output", str(tmp_path / "out"), "--seeds", "1", "--epochs", "1",
        "--backbone", str(weights(tmp_path)), "INPUT.SIZE", f"({RESOLUTION}, {RESOLUTION})",
        "DATALOADER.NUM_WORKERS", "0", "USE_CUDA", "False",
    ]  # fmt: skip


# -- words of a command ------------------------------------------------------------------------------------------------


def asked(*given):
    args = parse_arguments([str(word) for word in given])
    return args.tau, args.shots, args.protocol, args.opts


@pytest.mark.parametrize("tail", [(), ("natural",), ("NATURAL",), ("natural", "--shots", "all")])
def test_all_images_with_their_own_tail(folder, tail):
    micro = ("--backbone", "micro")
    assert asked("coop", folder, *tail, *micro) == (1.0, -1, "few_shot_all", ())
    assert asked("coop", folder, *tail, *micro, "OPTIM.LR", "0.1")[3] == ("OPTIM.LR", "0.1")
    assert asked("coop", folder, *tail, *micro, "opts", "OPTIM.LR", "0.1")[3] == ("OPTIM.LR", "0.1")
    assert asked("coop", folder, *tail, *micro, "--protocol", "base_to_new")[:3] == (1.0, -1, "base_to_new")


def test_natural_holds_for_data_of_the_repository_too():
    assert asked("coop", "shapes", "natural") == (1.0, -1, "few_shot_all", ())
    assert asked("coop", "shapes", "natural", "--shots", "all") == (1.0, -1, "few_shot_all", ())
    with pytest.raises(ConfigError, match="natural takes every training image, so --shots 8 has no meaning"):
        asked("coop", "shapes", "natural", "--shots", "8")
    assert asked("coop", "shapes", "1", "--shots", "all") == (1.0, -1, "base_to_new", ())
    assert asked("coop", "shapes", "1") == (1.0, 16, "base_to_new", ())


def test_the_name_of_a_folder_where_one_types_is_enough(folder, monkeypatch):
    monkeypatch.setenv("CPT_CALLED_FROM", str(folder.parent))
    assert parse_arguments(["coop", "mine", "--backbone", "micro"]).dataset_file == folder
    (folder.parent / "shapes").mkdir()
    assert parse_arguments(["coop", "shapes", "1"]).dataset_file is None
    monkeypatch.setenv("CPT_CALLED_FROM", str(folder))
    assert parse_arguments(["coop", ".", "--backbone", "micro"]).dataset == "mine"


def test_a_tail_that_all_images_do_not_have_is_refused(folder):
    with pytest.raises(ConfigError, match=r"--shots all takes every training image.*TAU natural, not 0\.25"):
        parse_arguments(["coop", str(folder), "0.25", "--shots", "all"])
    with pytest.raises(ConfigError, match="three words are needed"):
        parse_arguments(["coop", "shapes"])
    with pytest.raises(ConfigError, match="--shots is '0'"):
        parse_arguments(["coop", "shapes", "1", "--shots", "0"])


def test_a_folder_or_a_list_stands_for_itself(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("DATA_ROOT", "/nowhere")
    rows = [(f"mine/{name}/photo {index}.jpg", name) for name, count in TAIL.items() for index in range(count)]
    write_list(tmp_path / "pets.csv", rows)
    hashes = []
    for path, name in ((folder, "mine"), (f"{folder}/", "mine"), (tmp_path / "pets.csv", "pets")):
        args = parse_arguments(["coop", str(path), "--backbone", "micro"])
        assert (args.dataset, args.root) == (name, tmp_path)
        cfg = Experiment(args.method, 1, args).config()
        assert cfg.DATASET.FOLDER in ("mine", "")
        hashes.append(Contents.of(cfg).names)
    assert hashes == [tuple(TAIL)] * 3


@pytest.mark.parametrize(
    ("name", "message"),
    [("two words", "results are kept under the name 'two words'"), ("eurosat", "is called as the data set 'eurosat'")],
)
def test_folders_whose_names_cannot_stand_for_results(tmp_path, name, message):
    (tmp_path / name).mkdir()
    with pytest.raises(ConfigError, match=message):
        parse_arguments(["coop", str(tmp_path / name), "--backbone", "micro"])


def test_a_list_of_names_that_is_missing_is_said_before_anything_is_installed(tmp_path):
    yaml = tmp_path / "pets.yaml"
    yaml.write_text('DATASET:\n  NAME: "ImageFolder"\n  FOLDER: "."\n  CLASS_NAMES: "names.csv"\n')
    with pytest.raises(DataError, match=r"DATASET\.CLASS_NAMES of .* is 'names\.csv', but there is no file"):
        parse_arguments(["coop", str(yaml), "--root", str(tmp_path), "--backbone", "micro"])


# -- a run -------------------------------------------------------------------------------------------------------------


def test_a_run_on_all_images_says_so_everywhere(folder, tmp_path, capsys):
    assert run(parse_arguments(words(tmp_path, "coop", folder, "--no-baseline"))) == 0
    record = load(tmp_path / "out" / "mine" / "coop" / "natural-all" / "seed1" / "record-few_shot_all.json")
    assert (record.tau, record.shots, record.realized_tau) == (1.0, -1, 1 / 10)
    tested = {one.name: one.total for one in record.trained.per_class}
    assert tested == {"ant": 0, "bee": 1, "cow": 2, "doe": 6}
    printed = capsys.readouterr().out
    assert "natural: every training image is used, with the tail that the data have (few_shot_all)" in printed
    assert "[1/1] coop mine natural seed 1 ..." in printed
    assert "one image only of 'ant': it trains, and the class has no test image" in printed
    title = render_markdown([record]).splitlines()[0]
    assert title == "mine, natural (realized 0.1), all images, few shot all"
    assert (tmp_path / "out" / "mine" / "tables" / "coop-natural-few_shot_all.md").read_text().startswith(title)
    assert run(parse_arguments(words(tmp_path, "coop", folder, "natural", "--no-baseline"))) == 0
    assert "finished before" in capsys.readouterr().out


LONG = "z " + "q " * 90


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({"a": 4, "b": 4, "c": 4, LONG.strip(): 4}, r"1 of 2 class names is too long .*'z q q .* tokens\)"),
        ({LONG.strip(): 4, "zz": 4, "zzz": 4, "zzzz": 4}, r"1 of 2 class names is too long"),
        ({"A": 4, "B": 4, "C": 4, "_": 4}, "leave nothing to read .*: '_'"),
        ({"a": 4, "b": 4, "c": 1, "d": 1}, "mine has no test images of new classes; complete"),
    ],
)
def test_what_cannot_be_evaluated_ends_the_command_before_anything_is_trained(
    tmp_path, capsys, no_training, counts, message
):
    folder = image_folder(tmp_path / "mine", counts)
    args = parse_arguments(words(tmp_path, "coop_cpt", folder, "1"))
    assert run(args) == 2
    error = capsys.readouterr().err
    assert re.search(message, error), error
    assert error.count("\n") == 1
    assert not [*(tmp_path / "out").rglob("*")], "zero-shot, which comes first, did not run either"


def test_a_method_that_comes_later_is_looked_at_first(tmp_path, capsys, no_training):
    folder = image_folder(tmp_path / "mine", {"z " + "q " * 69: 4, "zz": 4, "zzz": 4, "zzzz": 4})
    long = ("CPT.TEMPLATE", "a long drawing of a {}.")
    assert run(parse_arguments([*words(tmp_path, "coop_cpt", folder, "1"), *long])) == 2
    assert "too long in 'a long drawing of a {}.'" in capsys.readouterr().err
    assert not [*(tmp_path / "out").rglob("*")]


def test_the_check_of_the_data_ends_the_command(tmp_path, capsys):
    runs = FakeRuns(undone={"coop_cpt": DataError("the new classes have no test images")})
    assert run(parse_arguments(["coop_cpt", "shapes", "1", "--output", str(tmp_path)]), runs) == 2
    assert runs.asked == []
    assert capsys.readouterr().err == "error: the new classes have no test images\n"


@pytest.mark.parametrize(
    ("part", "left"),
    [("test", ()), ("train", ()), ("train", (1, 2, 3, 4)), ("test", (0, 1, 2)), ("test", (0, 1, 2, 3))],
)
def test_parts_of_published_data_without_images_are_found_first(tmp_path, capsys, no_training, part, left):
    fixture = make_fixture("eurosat", tmp_path / "data")
    path = fixture.folder / "split_zhou_EuroSAT.json"
    split = json.loads(path.read_text())
    path.write_text(json.dumps({**split, part: [row for row in split[part] if row[1] in left]}))
    more = ("1", "--root", str(tmp_path / "data"), "--no-baseline")
    args = parse_arguments([*words(tmp_path, "coop", "eurosat", *more), "DATASET.CHECK_COUNTS", "False"])
    assert run(args) == 2
    assert re.search(rf"error: EuroSAT has no {part} images?", capsys.readouterr().err)
    assert not [*(tmp_path / "out").rglob("*.json")]


@pytest.mark.parametrize(
    ("train", "test", "trained", "message"),
    [
        ({}, {0: 1, 1: 1}, True, r"x has no training images of base classes; it can only be evaluated \(--eval-only\)"),
        ({0: 1, 1: 1}, {}, True, "x has no test images of base classes; complete the data set"),
        ({0: 1}, {0: 1, 1: 1}, True, "no training image of 1 of its 2 base classes: 'b'; .* or leave this class out"),
        ({0: 1, 1: 1}, {1: 1}, True, "x has no test image of 1 of its 2 base classes: 'a'"),
        ({}, {0: 1, 1: 1}, False, ""),
        ({0: 1, 1: 1}, {0: 1, 1: 1}, True, ""),
    ],
)
def test_what_an_evaluation_needs(train, test, trained, message):
    contents = Contents(("a", "b"), train, test)
    with pytest.raises(DataError, match=message) if message else nullcontext():
        contents.check("x", "base", trained, tested=True)


def test_classes_that_are_known_to_be_untested_are_spared():
    Contents(("a", "b"), {0: 1, 1: 1}, {1: 1}, frozenset("a")).check("x", "all", trained=True, tested=True)
    with pytest.raises(DataError, match="x has no test images; complete"):
        Contents(("a", "b"), {0: 1, 1: 1}, {}, frozenset("ab")).check("x", "all", trained=True, tested=True)


def validated(folder, **dataset):
    cfg = default_cfg()
    cfg.DATASET.ROOT, cfg.DATASET.NAME, cfg.DATASET.FOLDER = str(folder.parent), "ImageFolder", folder.name
    cfg.TEST.SPLIT = "val"
    for key, value in dataset.items():
        cfg.DATASET[key] = value
    Contents.of(cfg).check("ImageFolder", "all", trained=True, tested=True)


def test_classes_that_were_said_to_have_no_validation_images_are_spared(tmp_path):
    validated(image_folder(tmp_path / "few", {"ant": 1, "bee": 2, "cow": 8, "doe": 8}))
    with pytest.raises(DataError, match=r"ImageFolder has no validation images; .*\(TEST\.SPLIT test\)"):
        validated(tmp_path / "few", SHARES=(0.5, 0.0))


def test_a_class_that_a_given_division_does_not_validate_is_named(tmp_path):
    image_folder(tmp_path / "mine", {"ant": 2, "bee": 2, "cow": 1}, ("train", "test"))
    image_folder(tmp_path / "mine", {"ant": 2, "cow": 1}, ("val",))
    with pytest.raises(DataError, match="ImageFolder has no validation image of 1 of its 3 classes: 'bee'; complete"):
        validated(tmp_path / "mine")


# -- which data it was -------------------------------------------------------------------------------------------------


def tried(data, output, *more):
    """Zero-shot by the micro model, which takes no training."""
    options = ("--output", str(output), "--seeds", "1", "--backbone", "micro", "DATALOADER.NUM_WORKERS", "0")
    return run(parse_arguments(["zeroshot", str(data), "natural", *options, *map(str, more)]))


def names_file(path, **names):
    return write_list(path, names.items(), ("label", "name"))


def folders(tmp_path, *places):
    """Data sets of one name and the same file names, each with images of its own."""
    torch.set_num_threads(1)
    for number, place in enumerate(places):
        for label, name in enumerate(("ant", "bee")):
            for index in range(4):
                draw_image(tmp_path / place / "mine" / name / f"{index}.jpg", label, 10 * number + index)
    return [tmp_path / place / "mine" for place in places]


def test_another_data_set_of_the_same_name_is_another_run(tmp_path, capsys):
    one, other = folders(tmp_path, "one", "other")
    assert tried(one, tmp_path / "out") == 0
    assert tried(other, tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert "the images or their division changed since (or it is of another data set of that name). Give" in error
    assert tried(one, tmp_path / "out") == 0
    assert "finished before" in capsys.readouterr().out


def test_a_run_of_an_earlier_version_is_said_to_have_told_less(tmp_path, capsys):
    (folder,) = folders(tmp_path, "one")
    assert tried(folder, tmp_path / "out") == 0
    (path,) = (tmp_path / "out").rglob("run.json")
    identity = json.loads(path.read_text())
    del identity["class_names"]
    path.write_text(json.dumps(identity))
    assert tried(folder, tmp_path / "out") == 0, "the hash alone tells that nothing changed"
    path.write_text(json.dumps({**identity, "split_hash": "0" * 64}))
    assert tried(folder, tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert "(or an earlier version made it, which did not compare the files of one's own images). Give another" in error


def test_other_class_names_are_no_other_images(tmp_path, capsys):
    (folder,) = folders(tmp_path, "one")
    names = names_file(tmp_path / "names.csv", ant="insect", bee="honey bee")
    assert tried(folder, tmp_path / "out") == 0
    assert tried(folder, tmp_path / "out", "DATASET.CLASS_NAMES", names) == 2
    error = capsys.readouterr().err
    assert "the class names changed since: 'ant' is 'insect' now, 'bee' is 'honey bee' now. Add --variant" in error
    assert "images" not in error
    for _ in ("new", "finished before"):
        assert tried(folder, tmp_path / "out", "DATASET.CLASS_NAMES", names, "--variant") == 0
    assert (tmp_path / "out/mine/zeroshot/natural-all/DATASET.CLASS_NAMES=names.csv/seed1").is_dir()
    capsys.readouterr()
    names_file(tmp_path / "names.csv", ant="insect", bee="bumblebee")
    assert tried(folder, tmp_path / "out", "DATASET.CLASS_NAMES", names, "--variant") == 2
    assert "the class names changed since: 'honey bee' is 'bumblebee' now. Give another" in capsys.readouterr().err
    draw_image(folder / "ant" / "0.jpg", 3, 33)
    assert tried(folder, tmp_path / "out", "DATASET.CLASS_NAMES", names, "--variant") == 2
    assert "and the class names as well" in capsys.readouterr().err


def test_other_names_of_the_classes_that_are_only_evaluated_are_told_too(tmp_path, capsys):
    folder = image_folder(tmp_path / "mine", dict.fromkeys("abcd", 4))
    names = dict(a="ape", b="bee", c="cow", d="doe")
    said = ("--protocol", "base_to_new", "DATASET.CLASS_NAMES", names_file(tmp_path / "names.csv", **names))
    assert tried(folder, tmp_path / "out", *said) == 0
    names_file(tmp_path / "names.csv", **{**names, "d": "dog"})
    assert tried(folder, tmp_path / "out", *said) == 2
    assert "record.json is of other data than there are now: new: the class names changed" in capsys.readouterr().err


# -- one data set, however it is spelled -------------------------------------------------------------------------------


def settings(*given):
    args = parse_arguments(["zeroshot", *map(str, given), "--backbone", "micro"])
    experiment = Experiment(args.method, 1, args)
    cfg = experiment.config()
    return identity_of(args.method, cfg), RunData.of(cfg).split_hash


@pytest.mark.parametrize("kind", ["folder", "list"])
def test_another_root_or_spelling_of_the_path_is_the_same_run(folder, tmp_path, monkeypatch, kind):
    rows = [(f"mine/{name}/photo {index}.jpg", name) for name, count in TAIL.items() for index in range(count)]
    data = folder if kind == "folder" else write_list(tmp_path / "pets.csv", rows)
    (tmp_path.parent / f"{tmp_path.name} link").symlink_to(tmp_path)
    linked = tmp_path.parent / f"{tmp_path.name} link" / data.name
    monkeypatch.setenv("CPT_CALLED_FROM", str(folder))
    plain = settings(data)
    for other in ((data, "--root", tmp_path.parent), (data, "--root", "/"), (f"../{data.name}",), (linked,)):
        assert settings(*other) == plain


def test_a_finished_run_is_found_under_another_root(tmp_path, capsys):
    (folder,) = folders(tmp_path, "one")
    assert tried(folder, tmp_path / "out") == 0
    assert tried(folder, tmp_path / "out", "--root", tmp_path) == 0
    assert "finished before" in capsys.readouterr().out


# -- where a file of class names is looked for -------------------------------------------------------------------------


def names_in(opts):
    return dict(zip(opts[::2], opts[1::2], strict=True))["DATASET.CLASS_NAMES"]


def test_class_names_count_from_where_the_command_is_typed_then_from_the_data_folder(folder, tmp_path, monkeypatch):
    typed = tmp_path / "typed"
    typed.mkdir()
    monkeypatch.setenv("CPT_CALLED_FROM", str(typed))
    above = names_file(tmp_path / "names.csv", ant="a")
    words = (folder, "--root", tmp_path.parent, "--backbone", "micro", "DATASET.CLASS_NAMES")
    assert names_in(asked("coop", *words, "names.csv")[3]) == str(above)
    here = names_file(typed / "names.csv", ant="b")
    for spelled in ("names.csv", "./names.csv", "'names.csv'", here):
        assert names_in(asked("coop", *words, spelled)[3]) == str(here)
    assert names_in(asked("coop", *words, "''")[3]) == "''"


def test_missing_class_names_on_the_command_line_are_said_with_all_places(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("CPT_CALLED_FROM", str(folder))
    with pytest.raises(DataError) as error:
        asked("coop", folder, "--backbone", "micro", "DATASET.CLASS_NAMES", "names.csv")
    looked = f"there is no file {folder}/names.csv, nor {tmp_path}/names.csv; relative paths count from where"
    assert looked in str(error.value)
