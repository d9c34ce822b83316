"""Logging to log.txt and the console, progress on a terminal, and optional TensorBoard curves."""

from __future__ import annotations

import importlib.metadata
import logging
import platform
import sys
from pathlib import Path
from typing import Any

import torch

from cpt_plugin._escapes import terminal
from cpt_plugin.errors import ConfigError

LOGGER = logging.getLogger("cpt_plugin")
FILE_ONLY = {"file_only": True}
_PACKAGES = ("torch", "torchvision", "numpy", "pillow", "faiss-cpu", "yacs", "clip-anytorch", "dassl")


class LogHandle:
    """The handlers of one run on the package's logger; :meth:`close` takes them off again."""

    def __init__(self, handlers: list[logging.Handler]) -> None:
        self._handlers = handlers
        self._before = (LOGGER.level, LOGGER.propagate)
        LOGGER.setLevel(logging.INFO)
        LOGGER.propagate = False
        for handler in handlers:
            LOGGER.addHandler(handler)

    def close(self) -> None:
        """Removes and closes the handlers; a second call does nothing."""
        global _active
        if not self._handlers:
            return
        for handler in self._handlers:
            LOGGER.removeHandler(handler)
            handler.close()
        self._handlers = []
        LOGGER.setLevel(self._before[0])
        LOGGER.propagate = self._before[1]
        if _active is self:
            _active = None


_active: LogHandle | None = None
_warned: set[str] = set()


class _PlainFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        text = terminal(super().format(record))
        return text if record.levelno < logging.WARNING else f"{record.levelname.lower()}: {text}"


class _ConsoleHandler(logging.Handler):
    """Writes to the standard output of the moment, above a progress bar if there is one.

    A warning that every run of a command would repeat is shown once; the files have it every time.
    """

    def emit(self, record: logging.LogRecord) -> None:
        text = self.format(record)
        if getattr(record, "file_only", False) or text in _warned:
            return
        if record.levelno == logging.WARNING:
            _warned.add(text)
        if "tqdm" in sys.modules and sys.stderr.isatty():
            sys.modules["tqdm"].tqdm.write(text, file=sys.stdout)
        else:
            print(text, flush=True)


def setup_logger(output: str | Path | None = None, quiet: bool = False) -> LogHandle:
    """Sends the package's log records to the console and, given a folder, to ``<output>/log.txt`` (appended).

    ``quiet`` leaves only warnings on the console, for runs that a bar and a summary tell enough about.
    A path that ends in ``.txt`` or ``.log`` is taken as the file itself. A run that is still logging is
    closed first, so two runs never mix. Standard output is not replaced.

    Raises:
        ConfigError: the file or its folder cannot be written.
    """
    global _active
    if _active is not None:
        _active.close()
    handlers: list[logging.Handler] = [_ConsoleHandler(logging.WARNING if quiet else logging.INFO)]
    if output:
        path = Path(output)
        path = path if path.suffix in (".txt", ".log") else path / "log.txt"
        handlers.append(_file_handler(path))
    for handler in handlers:
        handler.setFormatter(_PlainFormatter("%(message)s"))
    _active = LogHandle(handlers)
    return _active


def _file_handler(path: Path) -> logging.Handler:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return logging.FileHandler(path, encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"cannot write the log {path}: {error.strerror or error}; choose another output folder (--output-dir)"
        ) from error


def collect_env_info() -> str:
    """Returns Python, platform, package versions, threads and devices, one a line."""
    lines = [f"Python {platform.python_version()} on {platform.platform()}"]
    for package in _PACKAGES:
        try:
            lines.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    lines.append(f"CUDA build {torch.version.cuda or 'none'}, {torch.get_num_threads()} CPU threads")
    if torch.cuda.is_available():
        lines += [f"GPU {i}: {torch.cuda.get_device_name(i)}" for i in range(torch.cuda.device_count())]
    return "\n".join(lines)


class Progress:
    """A bar over all batches of a run when stderr is a terminal; silent otherwise."""

    def __init__(self, total: int, initial: int = 0, description: str = "") -> None:
        self._bar: Any = None
        if sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=total, initial=initial, desc=description, dynamic_ncols=True, leave=False)

    @property
    def visible(self) -> bool:
        return self._bar is not None

    def update(self, note: str = "") -> None:
        if self._bar is not None:
            self._bar.set_postfix_str(note, refresh=False)
            self._bar.update()

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def summary_writer(log_dir: str | Path, purge_step: int | None = None) -> Any:
    """Returns a TensorBoard writer, or None (and a log line) where the package is not installed.

    Args:
        log_dir: folder of the event files.
        purge_step: on resume, the step from which earlier curves are overwritten.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        LOGGER.info("TensorBoard is not installed: no curves are written (pip install tensorboard)")
        return None
    Path(log_dir).mkdir(parents=True, exist_ok=True)
    LOGGER.info(f"Initialize tensorboard (log_dir={log_dir})")
    return SummaryWriter(log_dir=str(log_dir), purge_step=purge_step)
