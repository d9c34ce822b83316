"""Promise R4: damage to a checkpoint file is always found before anything is loaded."""

from __future__ import annotations

import contextlib
import io
import random
from pathlib import Path

import pytest
import torch

from cpt_plugin.errors import CheckpointError
from cpt_plugin.toolkit.embedded.checkpoint import decode, encode, load_checkpoint, seal
from tests.helpers.checkpoints import identical, prompt_state

BLOCK = 4096


@pytest.fixture(scope="module")
def whole() -> bytes:
    data = encode(prompt_state(7))
    assert identical(decode(data, "x"), prompt_state(7))
    return data


def _is_loaded(data: bytes) -> bool:
    try:
        decode(data, "damaged.pth")
    except CheckpointError as error:
        return "damaged.pth" not in str(error)
    return True


def test_ten_thousand_bit_flips_are_all_found(whole: bytes) -> None:
    rng = random.Random(1)
    footer = [(byte, bit) for byte in range(len(whole) - 48, len(whole)) for bit in range(8)]
    anywhere = [(rng.randrange(len(whole)), rng.randrange(8)) for _ in range(10_000)]
    damaged = bytearray(whole)
    loaded = 0
    for byte, bit in anywhere + footer:
        damaged[byte] ^= 1 << bit
        loaded += _is_loaded(bytes(damaged))
        damaged[byte] ^= 1 << bit
    assert loaded == 0
    assert bytes(damaged) == whole


def test_a_thousand_truncations_are_all_found(whole: bytes) -> None:
    rng = random.Random(2)
    lengths = [*range(101), *range(len(whole) - 100, len(whole))]
    lengths += [rng.randrange(len(whole)) for _ in range(1000)]
    assert sum(_is_loaded(whole[:length]) for length in lengths) == 0
    assert sum(_is_loaded(whole[length:]) for length in lengths if length) == 0


def test_a_thousand_zeroed_blocks_are_all_found(whole: bytes) -> None:
    rng = random.Random(3)
    tried = loaded = 0
    while tried < 1000:
        start = rng.randrange(len(whole))
        damaged = whole[:start] + bytes(len(whole[start : start + BLOCK])) + whole[start + BLOCK :]
        if damaged != whole:
            tried += 1
            loaded += _is_loaded(damaged)
    assert loaded == 0


def test_a_thousand_swapped_blocks_are_all_found(whole: bytes) -> None:
    rng = random.Random(4)
    tried = loaded = 0
    while tried < 1000:
        first, second = sorted(rng.sample(range(len(whole) - BLOCK), 2))
        if second < first + BLOCK or whole[first : first + BLOCK] == whole[second : second + BLOCK]:
            continue
        damaged = bytearray(whole)
        damaged[first : first + BLOCK] = whole[second : second + BLOCK]
        damaged[second : second + BLOCK] = whole[first : first + BLOCK]
        tried += 1
        loaded += _is_loaded(bytes(damaged))
    assert loaded == 0


def test_appended_and_repeated_bytes_are_found(whole: bytes) -> None:
    tails = [b"\0", b"\n", bytes(BLOCK), whole, whole[-48:], seal(b"")[:-1]]
    assert sum(_is_loaded(whole + tail) for tail in tails) == 0


def test_files_on_disk_are_judged_like_bytes(whole: bytes, tmp_path: Path) -> None:
    rng = random.Random(5)
    path = tmp_path / "damaged.pth"
    for _ in range(100):
        damaged = bytearray(whole)
        damaged[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"damaged\.pth"):
            load_checkpoint(path)


def test_plain_torch_load_misses_the_damage_that_the_hash_finds(whole: bytes) -> None:
    rng = random.Random(6)
    missed = 0
    for _ in range(50):
        damaged = bytearray(whole)
        damaged[rng.randrange(8192, len(whole) // 2)] ^= 1 << rng.randrange(8)
        with contextlib.suppress(Exception):
            missed += not identical(torch.load(io.BytesIO(damaged), weights_only=True), prompt_state(7))
    assert missed >= 25
