"""Base-to-new on data sets that it does not fit: refused on one line with the command that works."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

import train as command
from cpt_plugin.cli.arguments import parse_arguments
from cpt_plugin.data.manifest import manifest_names, manifest_of
from cpt_plugin.data.protocol import check_base_to_new
from cpt_plugin.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
REFUSED = ("cifar100_lt", "imagenet_a", "imagenet_lt", "imagenet_r", "imagenet_sketch", "imagenetv2", "places_lt")


def test_the_refused_ones_are_these():
    marked = [name for name in manifest_names() if manifest_of(name).test_only or manifest_of(name).long_tailed]
    assert tuple(marked) == REFUSED


@pytest.mark.parametrize("method", ["maple_cpt", "coop_dpc_cpt", "zeroshot"])
@pytest.mark.parametrize("dataset", REFUSED)
def test_run_sh_refuses_with_a_command_that_parses(dataset, method, monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    with pytest.raises(ConfigError) as caught:
        parse_arguments([method, dataset, "0.25"])
    message = str(caught.value)
    assert "\n" not in message
    words = shlex.split(message[message.index("python train.py") :])[2:]
    words = [{"EPOCH": "1", "FOLDER": str(tmp_path)}.get(word, word) for word in words]
    args = command.parser().parse_args(words)
    cfg = command.setup_cfg(args)
    assert manifest_of(dataset).registered == cfg.DATASET.NAME
    assert args.eval_only == manifest_of(dataset).test_only
    command.check(args, cfg)


def test_others_pass():
    for name in ("imagenet", "eurosat", "shapes", "mydata"):
        check_base_to_new(name, "CoOp", ["CoOp"])
