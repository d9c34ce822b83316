"""Counter-based randomness: isolation, positions, saved states."""

from __future__ import annotations

import contextlib
import random

import numpy as np
import pytest
import torch

from cpt_plugin.toolkit.embedded.checkpoint import load_checkpoint, save_checkpoint
from cpt_plugin.toolkit.embedded.rng import (
    derive_seed,
    generator,
    isolated_rng,
    kept_rng,
    rng_state,
    set_random_seed,
    set_rng_state,
)


def draws() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(()))  # noqa: NPY002


def test_seeds_of_positions_do_not_collide():
    seeds = {
        derive_seed(seed, stream, epoch, index)
        for seed in (0, 1, 2**32 - 1)
        for stream in ("order", "augment")
        for epoch in range(20)
        for index in range(200)
    }
    assert len(seeds) == 3 * 2 * 20 * 200
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert derive_seed(1, "a", 23) != derive_seed(1, "a", 2, 3)


@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1])
def test_global_seed_fixes_all_streams(seed):
    set_random_seed(seed)
    first = draws()
    set_random_seed(seed)
    assert draws() == first


def test_isolated_block_repeats_itself_and_leaves_the_global_streams_alone():
    set_random_seed(5)
    expected = [draws(), draws()]
    set_random_seed(5)
    before = draws()
    with isolated_rng(9):
        first = draws()
    with isolated_rng(9):
        second = draws()
    with isolated_rng(10):
        other = draws()
    assert [before, draws()] == expected
    assert first == second
    assert all(a != b for a, b in zip(first, other, strict=True))


def test_isolated_block_restores_after_an_error():
    set_random_seed(5)
    expected = draws()
    set_random_seed(5)

    def fail():
        with isolated_rng(1):
            draws()
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert draws() == expected


def test_private_generator_leaves_the_global_stream_alone():
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    torch.rand(100, generator=generator(1, "order", 2))
    assert torch.equal(torch.rand(4), expected)


def test_states_survive_a_checkpoint(tmp_path):
    set_random_seed(11)
    np.random.randn()  # noqa: NPY002 (leaves a cached second normal draw)
    save_checkpoint({"rng": rng_state()}, tmp_path / "s")
    expected = [draws() for _ in range(3)] + [np.random.randn()]  # noqa: NPY002
    set_random_seed(0)
    set_rng_state(load_checkpoint(tmp_path / "s")["rng"])
    assert [draws() for _ in range(3)] + [np.random.randn()] == expected  # noqa: NPY002


def test_kept_generators_are_put_back_once_for_all_blocks_inside():
    set_random_seed(4)
    before = draws()
    set_random_seed(4)
    with kept_rng():
        inside = []
        for seed in (9, 10, 9):
            with isolated_rng(seed):
                inside.append(draws())
    assert inside[0] == inside[2] != inside[1]
    with isolated_rng(10):
        assert draws() == inside[1]
    assert draws() == before


@pytest.mark.parametrize("around", [contextlib.nullcontext, kept_rng])
def test_a_block_inside_a_block_leaves_it_alone(around):
    with around(), isolated_rng(1):
        expected = [draws(), draws()]
    with around(), isolated_rng(1):
        first = draws()
        with isolated_rng(5):
            draws()
        assert [first, draws()] == expected
