"""Data sets of one's own through the main job and through train.py."""

from __future__ import annotations

import pytest
import torch

from cpt_plugin.cli.arguments import parse_arguments
from cpt_plugin.cli.run import run
from cpt_plugin.results.record import load
from tests.helpers.fixtures.custom import image_folder, image_list
from tests.helpers.prompt_runs import RESOLUTION, weights
from tests.helpers.train_command import train_log

COUNTS = {"red barn": 8, "cat": 9, "dog": 8, "eagle": 8, "fish": 8}
YAML = {
    "ImageFolder": 'DATASET:\n  NAME: "ImageFolder"\n  FOLDER: "mine"\n  TEMPLATE: "a sketch of a {}."\n',
    "ImageList": 'DATASET:\n  NAME: "ImageList"\n  LIST: "mine/labels.csv"\n',
}


@pytest.fixture(params=["ImageFolder", "ImageList"])
def yaml(tmp_path, request):
    torch.set_num_threads(1)
    (image_folder if request.param == "ImageFolder" else image_list)(tmp_path / "mine", COUNTS)
    path = tmp_path / "photos.yaml"
    path.write_text(YAML[request.param])
    return path


def test_the_main_job_on_the_path_of_a_yaml(tmp_path, yaml, capsys):
    is_folder = "Folder" in yaml.read_text()
    (tmp_path / "mine" / ("cat" if is_folder else "") / "notes.txt").touch()
    arguments = parse_arguments([
        "coop_cpt", str(yaml), "0.25", "--root", str(tmp_path), "--output", str(tmp_path / "out"), "--seeds", "1",
        "--epochs", "1", "--shots", "4", "--no-baseline", "--backbone", str(weights(tmp_path)),
        "INPUT.SIZE", f"({RESOLUTION}, {RESOLUTION})", "DATALOADER.TRAIN_X.BATCH_SIZE", "4",
        "DATALOADER.NUM_WORKERS", "0", "CPT.CLUSTER_SIZE", "2", "USE_CUDA", "False",
    ])  # fmt: skip
    assert run(arguments) == 0
    record = load(tmp_path / "out" / "photos" / "coop_cpt" / "tau0.25" / "seed1" / "record.json")
    assert record.dataset == "photos"
    assert [result.name for result in record.evaluations["base"].per_class] == ["cat", "dog", "eagle"]
    assert [result.name for result in record.evaluations["new"].per_class] == ["fish", "red barn"]
    assert record.realized_tau == 0.25, "4, 2 and 1 images"
    assert record.config["DATASET.TEMPLATE"] == ("a sketch of a {}." if "Folder" in yaml.read_text() else "")
    printed = capsys.readouterr()
    assert "photos" in printed.out
    assert printed.err == ""
    left_out = f"warning: {tmp_path}/mine: 1 file is no image and is left out: cat/notes.txt\n"
    log = (tmp_path / "out" / "photos" / "coop_cpt" / "tau0.25" / "seed1" / "log.txt").read_text()
    assert printed.out.count(left_out) == log.count(left_out) == is_folder, "once a command"
    assert "profile of epoch 1/1" in log
    assert "profile of epoch" not in printed.out


@pytest.mark.parametrize("backbone", ["micro", "ViT-B/16"])
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "nothing.yaml names no data set: set DATASET.NAME to ImageFolder or ImageList"),
        ('DATASET:\n  FOLDER: "mine"\n', "nothing.yaml names no data set"),
        ('DATASET:\n  NAME: "ImageFodler"\n', "is 'ImageFodler', which is no data set; nearest: 'ImageFolder'"),
    ],
)
def test_a_yaml_that_names_no_data_set_is_refused_before_the_first_run(tmp_path, capsys, text, message, backbone):
    (tmp_path / "nothing.yaml").write_text(text)
    words = ["coop", str(tmp_path / "nothing.yaml"), "0.25", "--output", str(tmp_path / "out"), "--backbone", backbone]
    missing = []
    assert run(parse_arguments(words, supply=missing.append)) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_train_py_on_all_classes(tmp_path, yaml):
    log = train_log(yaml, tmp_path, tmp_path / "out", "CoOpCPT", "DATASET.NUM_SHOTS", "2")
    assert "* total: 11" in log, "two images of each class, three of the one with nine"
    assert "Finish training" in log


def test_the_template_reaches_zero_shot_and_frozen_features(tmp_path):
    """Other words, other features: the accuracy of a random CLIP may not change, the features must."""
    from cpt_plugin import toolkit
    from cpt_plugin.encoders import class_text_features
    from tests.helpers.prompt_runs import prompt_cfg

    image_folder(tmp_path / "mine", COUNTS)
    features = {}
    for template in ("", "a sketch of a {}."):
        cfg = prompt_cfg(
            tmp_path, tmp_path / "out", "CoOp", "DATASET.NAME", "ImageFolder", "DATASET.FOLDER", "mine",
            "DATASET.TEMPLATE", template,
        )  # fmt: skip
        trainer = toolkit.build_trainer(cfg)
        features[template] = trainer.frozen_text_features()
        names = trainer.dm.dataset.classnames
        assert torch.equal(features[template], class_text_features(trainer.clip, names, template or "a photo of a {}."))
    assert not torch.equal(*features.values())
