"""Checkpoints that are written whole, checked bit by bit before use, and cannot run code.

A file is a ``torch.save`` archive followed by a footer of 48 bytes: a magic word and the SHA-256 of all bytes
before it. Readers of zip archives skip the footer, so plain ``torch.load`` opens the file as well. The hash
finds damage (``torch.load`` alone returns wrong numbers after a bit flip); it is no signature, so that files
with a right hash are still treated as untrusted.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from cpt_plugin.atomic import atomic_write
from cpt_plugin.errors import CheckpointError
from cpt_plugin.toolkit.embedded.archive import inspect_archive

_MAGIC = b"\ncpt-sha256-v01\n"
_FOOTER_BYTES = len(_MAGIC) + hashlib.sha256().digest_size
_MAX_DEPTH = 50
_MAX_INTEGER_BITS = 2000  # torch's restricted unpickler reads integers of at most 255 bytes
_STALE_SECONDS = 3600.0
_LOGGER = logging.getLogger("cpt_plugin")


def save_checkpoint(state: Mapping[str, Any], path: str | Path) -> None:
    """Write ``state`` to ``path`` atomically and durably, with its SHA-256.

    ``state`` may hold tensors (strided, of any type; stored detached, on the CPU), ``None``, booleans,
    integers, floats, strings, lists, tuples and mappings with string or integer keys; mappings come back as
    plain dicts. What cannot be read back is never written.

    Raises:
        CheckpointError: the state holds something else, or the file could not be made durable; what was at
            ``path`` before is then still whole.
    """
    path = Path(path)
    data = encode(state, str(path))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(path, data)
    except OSError as error:
        raise CheckpointError(
            f"Cannot write the checkpoint {path}: {error.strerror or error}. A checkpoint that was there "
            "before is still whole. Free some space or choose another output folder, then resume."
        ) from error
    _remove_stale_siblings(path)


def load_checkpoint(
    path: str | Path, map_location: str | torch.device = "cpu", require_hash: bool = True
) -> dict[str, Any]:
    """Read a checkpoint after verifying its SHA-256; code in the file is never executed.

    ``require_hash=False`` also accepts files of other software that have no footer. Their entries are then
    compared with their CRC-32, and the same limits on content hold. A footer that is there is always
    verified.

    Raises:
        CheckpointError: the file is missing, damaged, of another kind, or asks for more than plain values.
    """
    return decode(read_bytes(Path(path)), str(path), map_location, require_hash)


def latest_good(
    paths: Iterable[str | Path], map_location: str | torch.device = "cpu"
) -> tuple[Path, dict[str, Any]]:
    """Return the first of ``paths`` (newest first) that loads, with its state.

    A damaged file is renamed to ``<name>.corrupt`` (``.corrupt-2``, ...) with a warning; one that is missing
    or cannot be read is passed over with a warning and left alone.

    Raises:
        CheckpointError: none of them loads; the message gives the reason for each.
    """
    reasons = []
    for path in map(Path, paths):
        try:
            data = read_bytes(path)
        except CheckpointError as error:
            reasons.append(str(error))
            _LOGGER.warning("%s Trying the checkpoint before it.", error)
            continue
        try:
            return path, decode(data, str(path), map_location)
        except CheckpointError as error:
            reasons.append(str(error))
            _LOGGER.warning("%s %s Trying the checkpoint before it.", error, _quarantine(path))
    raise CheckpointError(
        "There is no checkpoint to resume from. "
        + (" ".join(reasons) or "No file was found.")
        + " Restore a checkpoint, or start again in an empty output folder."
    )


def encode(state: Mapping[str, Any], source: str = "checkpoint") -> bytes:
    """Return the bytes of a checkpoint file that holds ``state``, after reading them back once.

    Raises:
        CheckpointError: ``state`` is no mapping or holds something that is not a tensor or a plain value.
    """
    if not isinstance(state, Mapping):
        raise CheckpointError(
            f"Cannot save {source}: the state is a {_type_name(state)}, not a dict of tensors and values."
        )
    buffer = io.BytesIO()
    torch.save(_plain(state, "state", 0, source), buffer)
    data = seal(buffer.getvalue())
    decode(data, source)
    return data


def decode(
    data: bytes,
    source: str,
    map_location: str | torch.device = "cpu",
    require_hash: bool = True,
    stand_ins: Mapping[str, Callable[..., Any]] = MappingProxyType({}),
) -> dict[str, Any]:
    """Return the state in the bytes of a checkpoint file; ``source`` is its name in messages.

    ``stand_ins`` maps the dotted names of further classes and functions that the file may ask for to what is called
    in their place.

    Raises:
        CheckpointError: as :func:`load_checkpoint`.
    """
    sealed = _has_footer(data)
    if require_hash and not sealed:
        raise CheckpointError(
            f"{source} does not end in the SHA-256 that cpt_plugin appends: it is truncated, damaged, or was "
            "written by other software. Use another copy; for a foreign file say require_hash=False."
        )
    archive = _unseal(data, source) if sealed else data
    inspect_archive(archive, source, check_crc=not sealed, stand_ins=stand_ins)
    extra = [(function, name) for name, function in stand_ins.items()]
    try:
        with torch.serialization.safe_globals(extra):  # type: ignore[arg-type]
            state = torch.load(io.BytesIO(archive), map_location=map_location, weights_only=True)
    except Exception as error:
        reason = str(error).rpartition("WeightsUnpickler error:")[2].strip().partition("\n")[0]
        raise CheckpointError(
            f"{source} cannot be loaded as tensors and plain values: {reason or type(error).__name__}. "
            "Nothing was executed, and there is no unsafe way to load it here. Use another copy."
        ) from error
    if not isinstance(state, dict):
        raise CheckpointError(
            f"{source} holds a {_type_name(state)}, not the dict of a checkpoint. Check the path."
        )
    return state


def seal(archive: bytes) -> bytes:
    """Append the footer: magic word and SHA-256 of ``archive``."""
    return archive + _MAGIC + hashlib.sha256(archive).digest()


def _has_footer(data: bytes) -> bool:
    return data[-_FOOTER_BYTES:].startswith(_MAGIC)


def _unseal(data: bytes, source: str) -> bytes:
    archive = data[:-_FOOTER_BYTES]
    if seal(archive) != data:
        raise CheckpointError(
            f"{source} is damaged: its SHA-256 does not match its content. Use another copy or an older one."
        )
    return archive


def read_bytes(path: Path) -> bytes:
    """Return the bytes of a checkpoint file; raises :class:`CheckpointError` if it is missing or cannot be read."""
    if not path.exists():
        raise CheckpointError(f"There is no checkpoint {path}. Check the output folder and the epoch.")
    if not path.is_file():
        raise CheckpointError(f"{path} is not a regular file. Give the path of a checkpoint file.")
    try:
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(
            f"Cannot read the checkpoint {path}: {error.strerror or error}. Check permissions and disk."
        ) from error


def _quarantine(path: Path) -> str:
    target = path.with_name(f"{path.name}.corrupt")
    number = 1
    while target.exists():
        number += 1
        target = path.with_name(f"{path.name}.corrupt-{number}")
    try:
        path.rename(target)
    except OSError as error:
        return f"It could not be renamed to {target.name} ({error.strerror or error})."
    return f"It was renamed to {target.name}."


def _remove_stale_siblings(path: Path) -> None:
    """Delete what earlier processes left when they were killed while writing ``path``."""
    prefix = f"{path.name}.tmp-"
    with contextlib.suppress(OSError):
        for sibling in path.parent.iterdir():
            is_temporary = sibling.name.startswith(prefix) and sibling.name[len(prefix) :].isdigit()
            if is_temporary and time.time() - sibling.stat().st_mtime > _STALE_SECONDS:
                sibling.unlink()


def _plain(value: Any, where: str, depth: int, source: str) -> Any:
    if depth > _MAX_DEPTH:
        raise CheckpointError(
            f"Cannot save {source}: {where[:80]}... is nested deeper than {_MAX_DEPTH} levels, or contains "
            "itself. Flatten it."
        )
    kind = type(value)
    if value is None or kind in (bool, float):
        return value
    if kind is int and value.bit_length() <= _MAX_INTEGER_BITS:
        return value
    if kind is str and _is_unicode(value):
        return value
    if isinstance(value, torch.Tensor):
        return _plain_tensor(value, where, source)
    if isinstance(value, Mapping):
        return {
            _plain_key(key, where, source): _plain(item, f"{where}[{key!r}]", depth + 1, source)
            for key, item in value.items()
        }
    if kind in (list, tuple):
        return kind(_plain(item, f"{where}[{i}]", depth + 1, source) for i, item in enumerate(value))
    raise CheckpointError(
        f"Cannot save {source}: {where} is a {_type_name(value)} that is not storable. Store tensors, None, "
        f"booleans, integers of up to {_MAX_INTEGER_BITS} bits, floats, Unicode strings, lists, tuples and "
        "dicts; turn NumPy values into tensors or Python numbers, and objects into their state_dict()."
    )


def _plain_key(key: Any, where: str, source: str) -> str | int:
    if type(key) is int or (type(key) is str and _is_unicode(key)):
        return key
    raise CheckpointError(
        f"Cannot save {source}: {where} has the key {key!r} ({_type_name(key)}); use strings or integers."
    )


def _plain_tensor(tensor: torch.Tensor, where: str, source: str) -> torch.Tensor:
    plain_class = type(tensor) in (torch.Tensor, torch.nn.Parameter)
    if not plain_class or tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
        raise CheckpointError(
            f"Cannot save {source}: {where} is a {_type_name(tensor)} (layout {tensor.layout}, device "
            f"{tensor.device}, type {tensor.dtype}). Store dense, unquantized tensors that hold data."
        )
    return tensor.detach().cpu().clone(memory_format=torch.contiguous_format)


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _type_name(value: Any) -> str:
    kind = type(value)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"
