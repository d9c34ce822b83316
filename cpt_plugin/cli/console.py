"""Standard output and error of a command: they show what they can, and end it in good order; standard library only."""

from __future__ import annotations

import codecs
import contextlib
import fcntl
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TextIO, cast

from cpt_plugin._escapes import one_line, terminal

READER_GONE = 141
"""Exit status of a command whose reader has seen enough (``| head``): that of a program that SIGPIPE ends."""
_PLAIN = {"±": "+-", "→": "->", "≤": "<=", "≥": ">=", "…": "...", "λ": "lambda", "τ": "tau", "Δ": "delta"}
_SPREAD = re.compile(r"(?<=\d) ±(?=[\d-])")
_ERRORS = "cpt_plugin.plain"


def _plain(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    signs = error.object[error.start : error.end]
    escaped = (_PLAIN.get(sign) or sign.encode("ascii", "backslashreplace").decode("ascii") for sign in signs)
    return "".join(escaped), error.end


codecs.register_error(_ERRORS, _plain)


def encodable(text: str, encoding: str) -> str:
    """Text that an encoding has all characters of: ``±`` as ``+-`` and the like, any other one as its escape.

    Columns of figures keep their width: ``7.5 ±0.2`` becomes ``7.5+-0.2``.
    """
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        try:
            "±".encode(encoding)
        except UnicodeEncodeError:
            text = _SPREAD.sub("+-", text)
        return text.encode(encoding, _ERRORS).decode(encoding)
    return text


class StreamLost(BaseException):
    """A standard stream cannot be written any more.

    Like KeyboardInterrupt it ends whatever is going on, and it is no OSError: that would be taken for one of the file
    that is being worked on.
    """

    def __init__(self, stream: TextIO, name: str, error: OSError) -> None:
        super().__init__(name)
        self.stream, self.name, self.error = stream, name, error


class Screen:
    """A text stream for people: control characters and what the encoding lacks are escaped.

    A carriage return at the start or the end of what is written at once stays, for progress bars. ``controls``: so do
    all control characters. Whatever else is asked of it, the stream below answers.

    Raises:
        StreamLost: what is below cannot be written.
    """

    def __init__(self, stream: TextIO, name: str, controls: bool = False) -> None:
        self._stream, self._name, self._controls = stream, name, controls

    def write(self, text: str) -> int:
        shown = text if self._controls else _without_controls(text)
        with self._watched():
            self._stream.write(encodable(shown, getattr(self._stream, "encoding", None) or "utf-8"))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        with self._watched():
            self._stream.flush()

    def close(self) -> None:
        """Only flush: what is below belongs to the process, and a script's logger closes what it replaced."""
        self.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @property
    def with_controls(self) -> Screen:
        """The same stream for text of this program's own with colors in it."""
        return Screen(self._stream, self._name, controls=True)

    @contextlib.contextmanager
    def _watched(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StreamLost(self._stream, self._name, error) from error


def with_controls(stream: TextIO) -> TextIO:
    """A standard stream for text with control characters that are meant; what comes from outside must be escaped."""
    return cast(TextIO, stream.with_controls) if isinstance(stream, Screen) else stream


def attended(command: Callable[[], int], controls: bool = False) -> int:
    """Carry out a command on :class:`Screen` streams; returns its exit status.

    Where the reader of a pipe has gone, the command ends without a word and with status 141; where a stream cannot be
    written for another reason (a full disk), with a sentence and 2. A stream that was closed from the start swallows
    what it is given. ``controls``: as for :class:`Screen`, for somebody else's program.
    """
    _occupy_closed()
    before = sys.stdout, sys.stderr
    screens = Screen(sys.stdout, "standard output", controls), Screen(sys.stderr, "standard error", controls)
    sys.stdout, sys.stderr = cast(TextIO, screens[0]), cast(TextIO, screens[1])
    try:
        try:
            return command()
        finally:
            for screen in screens:
                screen.flush()
    except StreamLost as lost:
        return _end(lost)
    finally:
        sys.stdout, sys.stderr = before


def _without_controls(text: str) -> str:
    if text.isprintable():
        return text
    middle = text.strip("\r")
    start = len(text) - len(text.lstrip("\r"))
    return text[:start] + terminal(middle) + "\r" * (len(text) - start - len(middle))


def _end(lost: StreamLost) -> int:
    with contextlib.suppress(OSError, ValueError):  # what is still buffered is written at the end of the process
        empty = os.open(os.devnull, os.O_WRONLY)
        os.dup2(empty, lost.stream.fileno())
        os.close(empty)
    if isinstance(lost.error, BrokenPipeError):
        return READER_GONE
    if lost.stream is not sys.__stderr__:
        reason = one_line(lost.error.strerror or str(lost.error))
        with contextlib.suppress(StreamLost):
            print(f"error: {lost.name} cannot be written ({reason}): make room there, or send it elsewhere",
                  file=sys.stderr, flush=True)  # fmt: skip
    return 2


def _occupy_closed() -> None:
    """Open what was closed from the start (``>&-``), or the next file opened would get what is printed.

    A shell may have put a file of its own, open for reading, in its place.
    """
    for name in ("stdout", "stderr"):
        if not _is_writable(getattr(sys, name)):
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(number, True)
    os.close(number)


def _is_writable(stream: TextIO | None) -> bool:
    try:
        return stream is not None and fcntl.fcntl(stream.fileno(), fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY
    except (OSError, ValueError, AttributeError):  # not of the operating system
        return True
