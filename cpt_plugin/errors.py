"""Every error this package raises on purpose derives from :class:`CPTError`.

A message says what is wrong, where, and what to do about it; command-line entry points print it on
one line and exit with status 2 instead of showing a traceback.
"""

from __future__ import annotations


def one_line(error: BaseException, most: int = 200) -> str:
    """Somebody else's error on one line: its type and at most ``most`` characters of what it says."""
    text = error.msg if isinstance(error, SyntaxError) else " ".join(str(error).split())[:most]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


class CPTError(Exception):
    """Root of all errors raised by cpt_plugin."""


class ConfigError(CPTError, ValueError):
    """An argument, option or configuration key is unknown, malformed or contradictory."""


class DataError(CPTError, RuntimeError):
    """Images, split files or data folders are missing, unreadable or inconsistent."""


class CheckpointError(CPTError, RuntimeError):
    """A checkpoint is damaged, untrusted, missing, or belongs to another run."""


class ClusterError(CPTError, ValueError):
    """Semantic clusters cannot be formed from the given features."""


class FeatureError(CPTError, ValueError):
    """Tensors handed to a loss or regularizer have the wrong shape, type or values."""


class HookError(CPTError, RuntimeError):
    """The regularizer cannot be attached to this trainer, or its gradient would be wrong."""


class TrainingError(CPTError, RuntimeError):
    """Training cannot go on, for instance because a loss is not finite."""


class RecordError(CPTError, RuntimeError):
    """A result record is damaged, incomplete, or does not match the run that wants to use it."""
