from __future__ import annotations

import copy
import hashlib
import io
import math
import os
import re
import struct
import time
from collections import Counter, OrderedDict, namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cpt_plugin.errors import CheckpointError
from cpt_plugin.toolkit.embedded import checkpoint
from cpt_plugin.toolkit.embedded.checkpoint import (
    decode,
    encode,
    load_checkpoint,
    save_checkpoint,
    seal,
)
from tests.helpers.checkpoints import identical, make_unreadable, prompt_state, raw

DTYPES = [
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.complex128),
    *(torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool),
    *(torch.uint16, torch.uint32, torch.uint64, torch.float8_e4m3fn, torch.float8_e5m2),
]
ROUND_TRIP = settings(max_examples=60, deadline=None)
plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(
            st.text(st.characters(exclude_categories=["Cs"])) | st.integers(), inner, max_size=4
        )
    ),
    max_leaves=12,
)


@ROUND_TRIP
@given(
    state=st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=5), plain, max_size=5)
)
def test_plain_values_round_trip_with_their_types(state: dict[str, Any]) -> None:
    assert identical(decode(encode(state), "x"), state)


@pytest.mark.parametrize("value", [0, -1, 255, 2**31, -(2**63), 2**64 - 1, 2**1999, -(2**1999), 2**2000 - 1])
def test_integers_up_to_the_stated_size_round_trip(value: int) -> None:
    assert decode(encode({"x": value}), "x") == {"x": value}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (7,), (3, 2, 5)])
def test_tensors_of_every_type_are_bit_exact(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    source = np.random.default_rng(0)
    size = torch.empty((), dtype=dtype).element_size() * math.prod(shape)
    high = 2 if dtype is torch.bool else 256
    content = torch.tensor(source.integers(0, high, size).tolist(), dtype=torch.uint8)
    tensor = content.view(dtype).reshape(shape) if size else torch.empty(shape, dtype=dtype)
    loaded = decode(encode({"t": tensor}), "x")["t"]
    assert loaded.dtype == dtype
    assert loaded.shape == shape
    assert raw(loaded) == bytes(content.tolist())


def test_nan_payloads_and_signed_zeros_survive() -> None:
    words = [0x7FC00001, 0xFFC12345, 0x7F800001, 0x80000000, 0x00000001, 0xFF800000]
    signed = [word - 2**32 if word >= 2**31 else word for word in words]
    tensor = torch.tensor(signed, dtype=torch.int32).view(torch.float32)
    numbers = [
        struct.unpack(">d", bytes.fromhex(text))[0] for text in ("7ff8000000000abc", "8000000000000000")
    ]
    loaded = decode(encode({"t": tensor, "n": numbers}), "x")
    assert [word % 2**32 for word in loaded["t"].view(torch.int32).tolist()] == words
    assert [struct.pack(">d", number).hex() for number in loaded["n"]] == [
        "7ff8000000000abc",
        "8000000000000000",
    ]


def test_parameters_and_views_become_small_detached_tensors() -> None:
    whole = torch.arange(100_000, dtype=torch.float32)
    state = {
        "parameter": torch.nn.Parameter(torch.ones(3)),
        "view": whole[10:14],
        "transposed": whole[:6].reshape(2, 3).T,
        "expanded": torch.ones(1, 2).expand(3, 2),
        "graph": torch.ones(2, requires_grad=True) * 2,
        "conjugate": torch.tensor([1 + 2j]).conj(),
    }
    data = encode(state)
    assert len(data) < 10_000
    loaded = decode(data, "x")
    assert all(type(value) is torch.Tensor and not value.requires_grad for value in loaded.values())
    assert loaded["view"].tolist() == [10, 11, 12, 13]
    assert loaded["transposed"].tolist() == [[0, 3], [1, 4], [2, 5]]
    assert loaded["expanded"].tolist() == [[1, 1]] * 3
    assert loaded["conjugate"].tolist() == [1 - 2j]


def test_mappings_come_back_as_plain_dicts_in_order() -> None:
    module = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    loaded = decode(encode({"model": module.state_dict(), "count": Counter(b=2, a=1)}), "x")
    assert type(loaded["model"]) is dict
    assert identical(loaded["model"], dict(module.state_dict()))
    assert list(loaded["count"].items()) == [("b", 2), ("a", 1)]
    module.load_state_dict(loaded["model"])


def test_saving_changes_neither_the_state_nor_the_random_generator() -> None:
    state = prompt_state(3, width=8)
    before, generator = copy.deepcopy(state), torch.get_rng_state()
    encode(state)
    assert identical(state, before)
    assert torch.equal(torch.get_rng_state(), generator)


def test_torch_load_reads_the_file_footer_and_all(tmp_path: Path) -> None:
    path = tmp_path / "model.pth.tar-5"
    save_checkpoint(prompt_state(5), path)
    assert identical(torch.load(path, weights_only=True), prompt_state(5))
    assert identical(load_checkpoint(str(path)), prompt_state(5))
    assert identical(load_checkpoint(path, require_hash=False), prompt_state(5))


def test_footer_is_a_magic_word_and_the_sha256_of_all_before_it() -> None:
    data = encode({"a": 1})
    assert data[-48:-32] == b"\ncpt-sha256-v01\n"
    assert data[-32:] == hashlib.sha256(data[:-48]).digest()


def test_map_location_is_applied() -> None:
    assert decode(encode({"t": torch.ones(2)}), "x", map_location="meta")["t"].is_meta


def test_missing_folders_are_made_and_old_checkpoints_replaced(tmp_path: Path) -> None:
    path = tmp_path / "output" / "prompt_learner" / "model.pth.tar-1"
    for epoch in (1, 2):
        save_checkpoint({"epoch": epoch}, path)
        assert load_checkpoint(path) == {"epoch": epoch}
    assert os.listdir(path.parent) == [path.name]


def _contains_itself() -> dict[str, Any]:
    state: dict[str, Any] = {"list": []}
    state["list"].append(state)
    return state


Point = namedtuple("Point", "x y")


class _Subclass(torch.Tensor):
    pass


@pytest.mark.parametrize(
    ("state", "named"),
    [
        ({"a": [1, {"b": object()}]}, "state['a'][1]['b'] is a object"),
        ({"best": np.float64(0.5)}, "state['best'] is a numpy.float64"),
        ({"best": np.int64(1)}, "state['best'] is a numpy.int64"),
        ({"x": np.zeros(2)}, "state['x'] is a numpy.ndarray"),
        ({"x": {1, 2}}, "state['x'] is a set"),
        ({"x": b"bytes"}, "state['x'] is a bytes"),
        ({"x": 1 + 2j}, "state['x'] is a complex"),
        ({"x": Path("here")}, "state['x'] is a pathlib"),
        ({"x": Point(1, 2)}, "Point"),
        ({"x": torch.float32}, "state['x'] is a torch.dtype"),
        ({"x": torch.nn.Linear(1, 1)}, "torch.nn.modules.linear.Linear"),
        ({"x": len}, "builtin_function_or_method"),
        ({"x": "\ud800"}, "state['x'] is a str"),
        ({"x": 2**2000}, "state['x'] is a int"),
        ({"a": {1.5: 0}}, "state['a'] has the key 1.5 (float)"),
        ({True: 0}, "state has the key True (bool)"),
        ({("a",): 0}, "state has the key ('a',) (tuple)"),
        ({"\udfff": 0}, "state has the key '\\udfff' (str)"),
        ({"x": torch.eye(2).to_sparse()}, "layout torch.sparse_coo"),
        ({"x": torch.empty(2, device="meta")}, "device meta"),
        ({"x": torch.ones(2).as_subclass(_Subclass)}, "_Subclass"),
        (_contains_itself(), "contains itself"),
        ([torch.ones(1)], "the state is a list"),
        (torch.ones(1), "the state is a torch.Tensor"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "",
)
def test_anything_else_is_refused_at_save_by_key_and_type(tmp_path: Path, state: Any, named: str) -> None:
    with pytest.raises(CheckpointError, match=re.escape(named)) as caught:
        save_checkpoint(state, tmp_path / "last.pth")
    assert "last.pth" in str(caught.value)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(("levels", "is_stored"), [(50, True), (51, False)])
def test_nesting_is_bounded(levels: int, is_stored: bool) -> None:
    state: Any = 1
    for _ in range(levels):
        state = {"x": state}
    if is_stored:
        assert decode(encode(state), "x") == state
    else:
        with pytest.raises(CheckpointError, match="deeper than 50"):
            encode(state)


def test_a_state_that_cannot_be_read_back_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = torch.save
    monkeypatch.setattr(torch, "save", lambda state, file: real({**state, "new": {1, 2}}, file))
    with pytest.raises(CheckpointError, match=r"builtins\.set"):
        save_checkpoint({"a": 1}, tmp_path / "last.pth")
    assert os.listdir(tmp_path) == []


def test_full_disk_is_reported_with_path_and_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "last.pth"
    save_checkpoint({"a": 1}, path)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "atomic_write", full)
    with pytest.raises(CheckpointError, match=r"last\.pth: No space left on device\..*still whole.*Free"):
        save_checkpoint({"a": 2}, path)
    assert load_checkpoint(path) == {"a": 1}


def test_leftovers_of_killed_processes_are_removed_after_an_hour(tmp_path: Path) -> None:
    path = tmp_path / "last.pth"
    names = [
        "last.pth.tmp-11",
        "last.pth.tmp-12",
        "last.pth.tmp-mine",
        "other.pth.tmp-13",
        "last.pth.corrupt",
    ]
    for name in names:
        (tmp_path / name).write_bytes(b"torn")
    long_ago = time.time() - 3700
    for name in names:
        if name != "last.pth.tmp-12":
            os.utime(tmp_path / name, (long_ago, long_ago))
    save_checkpoint({"a": 1}, path)
    assert sorted(os.listdir(tmp_path)) == sorted(["last.pth", *names[1:]])


@pytest.mark.parametrize(
    ("content", "pattern"),
    [
        (b"", "does not end in the SHA-256.*truncated"),
        (b"hello", "does not end in the SHA-256"),
        (encode({})[-48:-16], "SHA-256"),
        (encode({"a": 1})[:-48], "written by other software.*require_hash=False"),
        (encode({"a": 1}) + b"\n", "does not end in the SHA-256"),
        (b"x" + encode({"a": 1}), "damaged: its SHA-256 does not match.*older one"),
        (seal(b""), "not a zip archive"),
        (seal(b"PK\x03\x04 and nothing"), "damaged: its zip directory cannot be read"),
    ],
)
def test_a_bad_file_is_reported_by_name_reason_and_remedy(
    tmp_path: Path, content: bytes, pattern: str
) -> None:
    path = tmp_path / "bad.pth"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"bad\.pth.*{pattern}"):
        load_checkpoint(path)


def test_missing_and_irregular_paths_are_reported(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"There is no checkpoint .*absent\.pth"):
        load_checkpoint(tmp_path / "absent.pth")
    with pytest.raises(CheckpointError, match="not a regular file"):
        load_checkpoint(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CheckpointError, match="not a regular file"):
        load_checkpoint(tmp_path / "pipe")


def test_unreadable_file_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "last.pth"
    save_checkpoint({"a": 1}, path)
    make_unreadable(monkeypatch, path)
    with pytest.raises(CheckpointError, match=r"Cannot read .*last\.pth: Permission denied"):
        load_checkpoint(path)


def _foreign(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def test_foreign_prompts_are_read_only_on_request() -> None:
    state: OrderedDict[str, Any] = OrderedDict(
        ctx=torch.nn.Parameter(torch.randn(16, 8)),
        model=torch.nn.BatchNorm1d(2).state_dict(),
        shape=torch.Size([1, 2]),
        **{str(dtype): torch.zeros(3, dtype=dtype) for dtype in DTYPES},
    )
    data = _foreign(state)
    with pytest.raises(CheckpointError, match="does not end in the SHA-256"):
        decode(data, "x")
    loaded = decode(data, "x", require_hash=False)
    assert list(loaded) == list(state)
    assert raw(loaded["ctx"].detach()) == raw(state["ctx"].detach())
    assert loaded["shape"] == (1, 2)


def test_flips_in_a_foreign_file_are_found_by_its_own_checksums() -> None:
    tensor = torch.randn(64)
    data = _foreign({"t": tensor})
    start = data.index(raw(tensor))
    for offset in range(start, start + 256):
        flipped = bytearray(data)
        flipped[offset] ^= 1 << offset % 8
        with pytest.raises(CheckpointError, match=r"damaged.*data/0"):
            decode(bytes(flipped), "x", require_hash=False)


def test_a_wrong_footer_is_never_ignored() -> None:
    data = bytearray(encode({"t": torch.ones(64)}))
    data[-1] ^= 1
    with pytest.raises(CheckpointError, match="SHA-256 does not match"):
        decode(bytes(data), "x", require_hash=False)


@pytest.mark.parametrize("value", [torch.ones(2), [1, 2], "text", None])
def test_files_that_hold_no_dict_are_refused(value: Any) -> None:
    with pytest.raises(CheckpointError, match=r"holds a .*not the dict of a checkpoint"):
        decode(_foreign(value), "x", require_hash=False)
