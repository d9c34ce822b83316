"""Inspection of untrusted ``torch.save`` archives: decides what may be unpickled, without unpickling.

It stands in front of ``torch.load(weights_only=True)``, does not depend on classes that other packages have
declared safe for torch, and names everything that it refuses.
"""

from __future__ import annotations

import io
import pickletools
import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Collection

import torch

from cpt_plugin.errors import CheckpointError

_STORAGES = (
    "Double Float Half BFloat16 Long Int Short Char Byte Bool ComplexDouble ComplexFloat".split()  # noqa: SIM905
)
_ALLOWED_GLOBALS = frozenset(
    {
        "collections.OrderedDict",
        "torch._utils._rebuild_tensor_v2",
        "torch._utils._rebuild_tensor_v3",
        "torch._utils._rebuild_parameter",
        "torch.Size",
        "torch.storage.UntypedStorage",
        *(f"torch.{name}Storage" for name in _STORAGES),
        *(f"torch.{name}" for name, value in vars(torch).items() if isinstance(value, torch.dtype)),
    }
)
_ZIP_MAGIC = b"PK\x03\x04"
_MAX_NAMED = 5


def inspect_archive(archive: bytes, source: str, check_crc: bool, stand_ins: Collection[str] = ()) -> None:
    """Refuse an archive that is not a plain ``torch.save`` file of tensors and simple values.

    Bounds: entries are stored, not compressed (``torch.save`` never compresses), and their declared sizes
    add up to no more than the file has bytes, so that nothing can expand. ``check_crc`` also compares every
    entry with its CRC-32, which ``torch.load`` leaves out. ``stand_ins`` are dotted names in whose place the
    caller puts something inert.

    Raises:
        CheckpointError: the file is of another kind, damaged or hostile; nothing in it was executed.
    """
    if not archive.startswith(_ZIP_MAGIC):
        raise CheckpointError(_not_an_archive(archive, source))
    try:
        with zipfile.ZipFile(io.BytesIO(archive)) as container:
            entries = container.infolist()
            program = _check_entries(entries, len(archive), source)
            damaged = container.testzip() if check_crc else None
            opcodes = container.read(program)
    except CheckpointError:
        raise
    except Exception as error:
        raise CheckpointError(
            f"{source} is damaged: its zip directory cannot be read ({error}). Use another copy of the file."
        ) from error
    if damaged is not None:
        raise CheckpointError(
            f"{source} is damaged: the checksum of its entry {damaged!r} is wrong. Use another copy."
        )
    _check_globals(opcodes, source, stand_ins)


def _check_entries(entries: list[zipfile.ZipInfo], available: int, source: str) -> zipfile.ZipInfo:
    names = [entry.orig_filename for entry in entries]
    for name in names:
        if not _is_safe_name(name):
            raise CheckpointError(
                f"{source} is refused: its entry {name!r} points outside the archive. torch.save never "
                "writes such names; do not use this file."
            )
    if len(set(names)) != len(names):
        raise CheckpointError(f"{source} is refused: it holds two entries of one name. Do not use this file.")
    inner = [name.partition("/")[2] for name in names]
    if any(name == "constants.pkl" or name.startswith("code/") for name in inner):
        raise CheckpointError(
            f"{source} is refused: it is a TorchScript program, not a checkpoint. Save the module's "
            "state_dict() with torch.save instead."
        )
    declared = sum(entry.file_size for entry in entries)
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries) or declared > available:
        raise CheckpointError(
            f"{source} is refused: its entries are compressed or overlap ({declared} bytes declared in "
            f"a file of {available}). torch.save never compresses; this may be a zip bomb."
        )
    programs = [entry for entry, name in zip(entries, inner, strict=True) if name == "data.pkl"]
    if len(programs) != 1:
        raise CheckpointError(
            f"{source} is not a checkpoint: a torch.save archive holds exactly one data.pkl, this one "
            f"{len(programs)}. Check that the path is right."
        )
    return programs[0]


def _is_safe_name(name: str) -> bool:
    parts = name.split("/")
    return name.isprintable() and not set(parts) & {"", ".", ".."} and not set(name) & set("\\:")


def _check_globals(opcodes: bytes, source: str, stand_ins: Collection[str]) -> None:
    try:
        found, _ = find_globals(opcodes)
    except Exception as error:
        raise CheckpointError(
            f"{source} is damaged: its data.pkl is not a pickle ({error}). Use another copy of the file."
        ) from error
    blocked = [name for name in found if name not in _ALLOWED_GLOBALS and name not in stand_ins]
    if blocked:
        raise CheckpointError(
            f"{source} is refused: it asks for {_listed(blocked)}, which is neither a tensor nor a plain "
            "value and could run any code. Nothing was executed, and there is no unsafe way to load it here; "
            "ask for a file of tensors, numbers, strings, lists and dicts only, such as a state_dict()."
        )


def find_globals(opcodes: bytes) -> tuple[list[str], int]:
    """Return the dotted names that the pickle at the start of ``opcodes`` would import, and its length.

    The opcodes are read, never run. For names that are put together on the stack the last two strings pushed
    are reported.

    Raises:
        ValueError: the bytes are not a pickle.
    """
    names: dict[str, None] = {}
    strings: list[str] = []
    memo: dict[int, str] = {}
    length = 0
    for opcode, argument, position in pickletools.genops(opcodes):
        length = (position or 0) + 1
        if opcode.name in {"GLOBAL", "INST"}:
            names[_current_name(*str(argument).split(" ", 1))] = None
        elif opcode.name == "STACK_GLOBAL":
            names[".".join(strings[-2:]) or "a name built at run time"] = None
        elif opcode.name.startswith("EXT"):
            names[f"copyreg extension {argument}"] = None
        elif opcode.name == "MEMOIZE" and strings:
            memo[len(memo)] = strings[-1]
        elif opcode.name in {"PUT", "BINPUT", "LONG_BINPUT"} and strings and isinstance(argument, int):
            memo[argument] = strings[-1]
        elif opcode.name in {"GET", "BINGET", "LONG_BINGET"} and argument in memo:
            strings.append(memo[argument])
        elif isinstance(argument, str):
            strings.append(argument)
    return list(names), length


def _current_name(module: str, name: str) -> str:
    """Dotted name in Python 3 of a class or function that a pickle of protocol 2 calls as Python 2 did."""
    module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
    return f"{module}.{name}"


def _not_an_archive(data: bytes, source: str) -> str:
    blocked = [name for name in _globals_of_stream(data) if name not in _ALLOWED_GLOBALS]
    asks = f" (it asks for {_listed(blocked)}; nothing was executed)" if blocked else ""
    return (
        f"{source} is refused: it is not a zip archive as torch.save writes since PyTorch 1.6, but a legacy "
        f"pickle, a file of another kind, or damaged{asks}. Use another copy, or ask for one saved by a "
        "current PyTorch."
    )


def _globals_of_stream(data: bytes) -> list[str]:
    """Names imported by the pickles that a legacy file consists of, as far as they can be read."""
    names: dict[str, None] = {}
    while data:
        try:
            found, length = find_globals(data)
        except Exception:
            break
        names.update(dict.fromkeys(found))
        data = data[length:]
    return list(names)


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else ""
    return ", ".join(repr(name) for name in names[:_MAX_NAMED]) + more
