"""Settings that would change nothing are refused or said to."""

from __future__ import annotations

import pytest

from cpt_plugin import toolkit
from cpt_plugin.errors import ConfigError
from tests.helpers.prompt_runs import prompt_cfg
from tests.toolkit.small import SmallShapes


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (("DATALOADER.K_TRANSFORMS", 2), r"DATALOADER\.K_TRANSFORMS 1"),
        (("DATALOADER.RETURN_IMG0", True), r"DATALOADER\.RETURN_IMG0 False"),
        (("MODEL.BACKBONE.PRETRAINED", False), r"MODEL\.BACKBONE\.PRETRAINED must be True"),
    ],
)
@pytest.mark.parametrize("name", ["CoOpCPT", "MaPLe", "ZeroshotCLIP"])
def test_refused(folder, tmp_path, name, option, message):
    with pytest.raises(ConfigError, match=message):
        toolkit.build_trainer(prompt_cfg(folder, tmp_path, name, *option))


@pytest.mark.parametrize("key", ["SOURCE_DOMAINS", "TARGET_DOMAINS"])
def test_domains_are_said_to_be_ignored_by_a_data_set_without_any(folder, tmp_path, monkeypatch, caplog, key):
    for domains, expected in (((), 1), (("sketch",), 0)):
        monkeypatch.setattr(SmallShapes, "domains", domains)
        caplog.clear()
        toolkit.build_trainer(prompt_cfg(folder, tmp_path, "CoOp", f"DATASET.{key}", ("sketch",)))
        assert caplog.text.count(f"DATASET.{key} changes nothing: the data set SmallShapes has no domains") == expected
