"""log.txt and console, several runs in a process, progress on a terminal, TensorBoard absent."""

from __future__ import annotations

import builtins
import io
import sys

import pytest

from cpt_plugin.errors import ConfigError
from cpt_plugin.toolkit.embedded.logs import (
    FILE_ONLY,
    LOGGER,
    Progress,
    collect_env_info,
    setup_logger,
    summary_writer,
)
from cpt_plugin.toolkit.embedded.meters import AverageMeter, MetricMeter


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_messages_go_to_console_and_file_as_they_are(tmp_path, capsys):
    stdout = sys.stdout
    handle = setup_logger(tmp_path / "run")
    LOGGER.info("=> result\n* accuracy: 1.0%")
    LOGGER.warning("careful")
    LOGGER.info("only here", extra=FILE_ONLY)
    handle.close()
    handle.close()
    LOGGER.info("after")
    assert sys.stdout is stdout
    assert (tmp_path / "run" / "log.txt").read_text() == (
        "=> result\n* accuracy: 1.0%\nwarning: careful\nonly here\n"
    )
    assert capsys.readouterr().out == "=> result\n* accuracy: 1.0%\nwarning: careful\n"


def test_a_second_run_appends_to_its_own_file_only(tmp_path, capsys):
    before = list(LOGGER.handlers)
    setup_logger(tmp_path / "a")
    LOGGER.info("first")
    setup_logger(tmp_path / "b")
    LOGGER.info("second")
    setup_logger(tmp_path / "a" / "log.txt").close()
    again = setup_logger(tmp_path / "a")
    LOGGER.info("third")
    again.close()
    assert (tmp_path / "a" / "log.txt").read_text() == "first\nthird\n"
    assert (tmp_path / "b" / "log.txt").read_text() == "second\n"
    assert capsys.readouterr().out == "first\nsecond\nthird\n"
    assert list(LOGGER.handlers) == before


def test_a_warning_is_shown_once_and_written_every_time(tmp_path, capsys):
    for name in ("a", "b"):
        handle = setup_logger(tmp_path / name)
        LOGGER.warning("one file is left out")
        LOGGER.info("epoch 1")
        handle.close()
        assert (tmp_path / name / "log.txt").read_text() == "warning: one file is left out\nepoch 1\n"
    assert capsys.readouterr().out == "warning: one file is left out\nepoch 1\nepoch 1\n"


def test_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    before = list(LOGGER.handlers)
    with pytest.raises(ConfigError, match=rf"cannot write the log {tmp_path}/file/run/log.txt: Not a directory"):
        setup_logger(tmp_path / "file" / "run")
    assert list(LOGGER.handlers) == before


def test_console_only_without_a_folder(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    handle = setup_logger()
    LOGGER.info("here")
    handle.close()
    assert capsys.readouterr().out == "here\n"
    assert list(tmp_path.iterdir()) == []


def test_bar_is_shown_on_a_terminal_only(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    silent = Progress(3)
    silent.update()
    assert not silent.visible
    assert sys.stderr.getvalue() == ""
    monkeypatch.setattr(sys, "stderr", Terminal())
    bar = Progress(4, initial=1, description="train")
    bar.update("epoch 1/2")
    assert bar.visible
    bar.close()
    bar.close()
    assert "train" in sys.stderr.getvalue()


def test_absent_tensorboard_is_one_log_line(tmp_path, monkeypatch, caplog):
    real = builtins.__import__

    def absent(name, *args, **kwargs):
        if name.startswith("torch.utils.tensorboard"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", absent)
    with caplog.at_level("INFO", logger="cpt_plugin"):
        assert summary_writer(tmp_path / "tb") is None
    assert len(caplog.records) == 1
    assert not (tmp_path / "tb").exists()


def test_tensorboard_files_are_written(tmp_path):
    pytest.importorskip("tensorboard", reason="TensorBoard is optional")
    writer = summary_writer(tmp_path / "tb")
    writer.add_scalar("a", 1.0, 0)
    writer.close()
    assert list((tmp_path / "tb").glob("events*"))


def test_environment_names_versions():
    import torch

    assert f"torch {torch.__version__.split('+')[0]}" in collect_env_info()


def test_meters_average_and_continue_after_a_save():
    meter = AverageMeter()
    assert meter.avg == 0
    meter.update(1.0)
    meter.update(4.0, n=2)
    assert (meter.val, meter.avg) == (4.0, 3.0)
    first = MetricMeter()
    first.update({"loss": 1.0, "acc": 50.0})
    second = MetricMeter()
    second.load_state_dict(first.state_dict())
    for m in (first, second):
        m.update({"loss": 2.0})
        m.update(None)
    assert str(first) == str(second) == "loss 2.0000 (1.5000) acc 50.0000 (50.0000)"
