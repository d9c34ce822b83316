"""Hostile files in the shape of checkpoints; every program in them tries to create one canary file."""

from __future__ import annotations

import functools
import importlib
import io
import operator
import os
import pickle
import runpy
import shutil
import subprocess
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

Programs = dict[str, tuple[bytes, str]]


class Call:
    """Pickles into a call of ``function``, which may itself be such a call, with ``arguments``."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.function, self.arguments

    def __call__(self) -> None:
        """Only there because pickle asks for a callable."""


class SetState:
    """Runs when its state is restored."""

    def __setstate__(self, state: dict[str, str]) -> None:
        Path(state["path"]).touch()


def write_canary(path: str) -> None:
    """A function of a module that is already imported."""
    Path(path).touch()


def zip_of(entries: list[tuple[str, bytes]], compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as container:
        for name, content in entries:
            container.writestr(zipfile.ZipInfo(name), content, compress_type=compression)
    return buffer.getvalue()


def archive(program: bytes, *extra: tuple[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    """A zip archive laid out like one of ``torch.save`` with ``program`` as its data.pkl."""
    usual = [("archive/version", b"3\n"), ("archive/byteorder", b"little"), ("archive/data/0", bytes(64))]
    return zip_of([("archive/data.pkl", program), *usual, *extra], compression)


def torch_saved(value: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


def live_programs(canary: Path) -> Programs:
    """Pickles that create the canary when run without limits, each with the name that must be reported."""
    return {**_process_programs(canary), **_python_programs(canary), **_handmade_programs(str(canary))}


def _pickled(value: Any, name: str, protocol: int = 2) -> tuple[bytes, str]:
    return pickle.dumps({"state_dict": value}, protocol), name


def _process_programs(canary: Path) -> Programs:
    touch, words = f"touch {canary}", ["touch", str(canary)]
    programs = {
        f"os.system protocol {n}": _pickled(Call(os.system, touch), f"{os.name}.system", n) for n in range(6)
    }
    imported = Call(Call(getattr, Call(__import__, "os"), "system"), touch)
    return programs | {
        "os.popen": _pickled(Call(Call(getattr, Call(os.popen, touch), "read")), "os.popen"),
        "os.spawnlp": _pickled(Call(os.spawnlp, os.P_WAIT, "touch", *words), "os.spawnlp"),
        "subprocess.call": _pickled(Call(subprocess.call, words), "subprocess.call"),
        "subprocess.run": _pickled(Call(subprocess.run, words), "subprocess.run"),
        "subprocess.check_output": _pickled(Call(subprocess.check_output, words), "subprocess.check_output"),
        "subprocess.getoutput": _pickled(Call(subprocess.getoutput, touch), "subprocess.getoutput"),
        "subprocess.Popen": _pickled(
            Call(Call(getattr, Call(subprocess.Popen, words), "wait")), "subprocess.Popen"
        ),
        "functools.partial": _pickled(Call(functools.partial(os.system, touch)), "functools.partial"),
        "builtins via getattr": _pickled(imported, "builtins.getattr"),
        "nested reduce": _pickled(
            Call(list, [Call(tuple, [Call(dict, [("a", Call(os.system, touch))])])]), f"{os.name}.system"
        ),
        "in an ordered dict": _pickled(
            OrderedDict(a=[1, (2, {"b": Call(os.system, touch)})]), f"{os.name}.system"
        ),
        "as a dict key": _pickled({Call(os.system, touch): 1}, f"{os.name}.system"),
        "pickle.loads": _pickled(Call(pickle.loads, pickle.dumps(Call(os.system, touch))), "pickle.loads"),
    }


def _python_programs(canary: Path) -> Programs:
    path = str(canary)
    python = f"open({path!r}, 'w').close()"
    script = canary.with_name("script.py")
    script.write_text(python)
    inner = canary.with_name("inner.pth")
    inner.write_bytes(torch_saved(Call(write_canary, path)))
    unsafe_load = functools.partial(torch.load, weights_only=False)
    return {
        "eval": _pickled(Call(eval, python), "builtins.eval"),
        "exec": _pickled(Call(exec, python), "builtins.exec"),
        "exec of compiled code": _pickled(Call(exec, Call(compile, python, "x", "exec")), "builtins.exec"),
        "open": _pickled(Call(open, path, "w"), "io.open"),
        "os.mkdir": _pickled(Call(os.mkdir, path), f"{os.name}.mkdir"),
        "operator.methodcaller": _pickled(
            Call(operator.methodcaller("touch"), canary), "operator.methodcaller"
        ),
        "runpy.run_path": _pickled(Call(runpy.run_path, str(script)), "runpy.run_path"),
        "shutil.copy": _pickled(Call(shutil.copy, str(script), path), "shutil.copy"),
        "method of a class": _pickled(Call(Path.touch, canary), "pathlib"),
        "torch.load without limits": _pickled(Call(unsafe_load, str(inner)), "functools.partial"),
        "importlib": _pickled(
            Call(Call(getattr, Call(importlib.import_module, "os"), "mkdir"), path), "importlib.import_module"
        ),
        "function at hand": _pickled(Call(write_canary, path), f"{__name__}.write_canary"),
        "__setstate__": _pickled(_with_state(path), f"{__name__}.SetState"),
    }


def _with_state(path: str) -> SetState:
    value = SetState()
    value.__dict__["path"] = path
    return value


def _handmade_programs(path: str) -> Programs:
    command = f"touch {path}".encode()
    text = b"\x8c" + bytes([len(command)]) + command
    hidden = (
        b"\x80\x04\x8c\x02os\x94\x30\x8c\x06system\x94\x30\x8c\x05torch\x8c\x04Size\x30\x30h\x00h\x01\x93"
    )
    return {
        "INST opcode": (b"(S'" + command + b"'\nios\nsystem\n.", "os.system"),
        "OBJ opcode": (b"(cos\nsystem\nS'" + command + b"'\no.", "os.system"),
        "Python 2 name": (
            b"c__builtin__\neval\n(S'open(\"" + path.encode() + b'", "w")\'\ntR.',
            "builtins.eval",
        ),
        "STACK_GLOBAL": (b"\x80\x04\x8c\x02os\x8c\x06system\x93" + text + b"\x85R.", "os.system"),
        "STACK_GLOBAL from the memo": (hidden + text + b"\x85R.", "os.system"),
        "memo by number": (
            b"Vos\np5\n0Vsystem\nq\x060h\x05j\x06\x00\x00\x00\x93" + text + b"\x85R.",
            "os.system",
        ),
        "dotted name": (
            b"\x80\x04\x8c\x02os\x8c\x0bpath.os.sep\x930\x8c\x02os\x8c\x06system\x93" + text + b"\x85R.",
            "os.path.os.sep",
        ),
    }


def broken_programs() -> Programs:
    """Programs that abuse what is allowed, or are no programs at all; with a part of the message."""
    tensor = _tensor_program()
    return {
        "extension registry": (b"\x80\x02\x82\x01.", "copyreg extension 1"),
        "no name on the stack": (b"\x80\x04\x93.", "name built at run time"),
        "empty program": (b"", "not a pickle"),
        "no stop": (b"\x80\x02}", "not a pickle"),
        "unknown opcode": (b"\x80\x02\xff.", "not a pickle"),
        "string beyond the end": (b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\x7fx.", "not a pickle"),
        "stack underflow": (b"\x80\x020.", "cannot be loaded"),
        "huge integer": (b"\x80\x02}K\x01\x8b\x00\x01\x00\x00" + bytes(255) + b"\x01s.", "cannot be loaded"),
        "storage larger than its entry": (_tensor_program(count=10**6, size=10**6), "cannot be loaded"),
        "storage of 4 TiB": (_tensor_program(count=2**40, size=2**40), "cannot be loaded"),
        "view beyond its storage": (_tensor_program(offset=10**6), "cannot be loaded"),
        "stride beyond its storage": (_tensor_program(stride=10**6), "cannot be loaded"),
        "negative size": (_tensor_program(size=-4), "cannot be loaded"),
        "storage outside the archive": (_tensor_program(key="../../../etc/passwd"), "cannot be loaded"),
        "unknown persistent id": (b"\x80\x02}X\x01\x00\x00\x00aX\x01\x00\x00\x00bQs.", "cannot be loaded"),
        "item set in a tensor": (tensor[:-2] + b"K\x00K\x01ss.", "cannot be loaded"),
        "tensor as the state": (tensor[tensor.index(b"c") : -2] + b".", "not the dict"),
        "allocation of 8 EiB": (
            b"\x80\x02ctorch.storage\nUntypedStorage\n\x8a\x08" + bytes(7) + b"\x40\x85R.",
            "cannot be loaded",
        ),
    }


def _tensor_program(
    count: int = 16, offset: int = 0, size: int = 16, stride: int = 1, key: str = "0"
) -> bytes:
    """The program of ``{"a": tensor}`` with any claim about its storage."""

    class Storage:
        pass

    class Pickler(pickle.Pickler):
        def persistent_id(self, value: Any) -> Any:
            if isinstance(value, Storage):
                return "storage", torch.FloatStorage, key, "cpu", count
            return None

    rebuild = Call(
        torch._utils._rebuild_tensor_v2, Storage(), offset, (size,), (stride,), False, OrderedDict()
    )
    buffer = io.BytesIO()
    Pickler(buffer, 2).dump({"a": rebuild})
    return buffer.getvalue()
