"""Token layout of plain texts and class prompts."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cpt_plugin.encoders import ClassTokens, FrozenCLIP, tokenize
from cpt_plugin.encoders._package import tokenizer_module
from cpt_plugin.errors import ConfigError
from tests.helpers.tiny_clip import tiny_clip

START, END = 49406, 49407
NAMES = st.lists(
    st.text(alphabet="abcxyzé ABC_-'./0129", min_size=1, max_size=12).filter(
        lambda s: s.replace("_", " ").strip()
    ),
    min_size=1,
    max_size=4,
)


@cache
def bpe() -> Any:
    return tokenizer_module().SimpleTokenizer()


@cache
def clip() -> FrozenCLIP:
    return tiny_clip(layers=2)


@cache
def small_vocabulary() -> FrozenCLIP:
    ids = {token for word in ("a photo of . , red blue circle square",) for token in bpe().encode(word)}
    return tiny_clip(layers=2, vocabulary=frozenset(ids | {START, END}))


def content(row: torch.Tensor) -> list[int]:
    """Ids between start and end; checks that nothing but padding follows the end."""
    ids = row.tolist()
    end = ids.index(END)
    assert ids[0] == START
    assert not any(ids[end + 1 :])
    return ids[1:end]


def plain_ids(name: str) -> list[int]:
    return bpe().encode(name.replace("_", " "))


def test_texts_become_start_words_end_padding() -> None:
    ids = tokenize(["a photo of a cat.", ""], clip())
    assert ids.shape == (2, 77)
    assert ids.dtype == torch.int64
    assert content(ids[0]) == bpe().encode("a photo of a cat.")
    assert content(ids[1]) == []
    assert torch.equal(tokenize("a photo of a cat.", clip()), ids[:1])


@settings(max_examples=100, deadline=None)
@given(names=NAMES, n_ctx=st.integers(0, 16))
def test_end_position_is_coops_text(names: list[str], n_ctx: int) -> None:
    """Ids are those of the string `X X ... name.`, as CoOp tokenizes it."""
    tokens = ClassTokens.build(clip(), names, n_ctx)
    assert tokens.ids.shape == (len(names), 77)
    for row, name, eot, length in zip(tokens.ids, names, tokens.eot, tokens.name_lengths, strict=True):
        text = " ".join(["X"] * n_ctx + [" ".join(name.replace("_", " ").split()) + "."])
        assert content(row) == bpe().encode(text)
        assert row[eot] == END
        assert length == len(plain_ids(name))
    assert tokens.slots.tolist() == [list(range(1, 1 + n_ctx))] * len(names)
    assert tokens.length == max(tokens.eot.tolist()) + 1


@settings(max_examples=60, deadline=None)
@given(names=NAMES, n_ctx=st.integers(1, 9), position=st.sampled_from(["middle", "front"]))
def test_other_positions_move_the_name_only(names: list[str], n_ctx: int, position: str) -> None:
    end = ClassTokens.build(clip(), names, n_ctx)
    moved = ClassTokens.build(clip(), names, n_ctx, position=position)
    ahead = n_ctx // 2 if position == "middle" else 0
    assert torch.equal(moved.eot, end.eot)
    for k, length in enumerate(moved.name_lengths):
        tail = content(end.ids[k])[n_ctx:]
        slots = moved.slots[k].tolist()
        assert slots == [1 + i + (0 if i < ahead else length) for i in range(n_ctx)]
        rest = [token for place, token in enumerate(content(moved.ids[k]), start=1) if place not in slots]
        assert rest == tail
        assert moved.ids[k, slots].tolist() == end.ids[k, 1 : 1 + n_ctx].tolist()


def test_prefix_longer_than_the_context_keeps_its_other_words() -> None:
    tokens = ClassTokens.build(clip(), ["cat"], n_ctx=2, prefix="a_photo_of_a")
    assert content(tokens.ids[0]) == bpe().encode("a photo of a cat.")
    assert tokens.slots.tolist() == [[1, 2]]
    table = clip().model.token_embedding.weight
    assert torch.equal(tokens.initial_context(), table[bpe().encode("a photo")])
    assert torch.equal(tokens.embeddings, table[tokens.ids])
    assert tokens.initial_context().data_ptr() != table.data_ptr()


def test_select_keeps_rows_together() -> None:
    tokens = ClassTokens.build(clip(), ["cat", "golden retriever", "dog"], n_ctx=2, position="front")
    assert tokens.length == 1 + 2 + 2 + 1 + 1
    some = tokens.select([2, 0])
    assert some.class_names == ("dog", "cat")
    assert torch.equal(some.ids, tokens.ids[[2, 0]])
    assert torch.equal(some.slots, tokens.slots[[2, 0]])
    assert some.name_lengths == (1, 1)
    assert len(some) == 2
    assert some.length == 1 + 2 + 1 + 1 + 1


def test_too_long_texts_are_named_with_their_length() -> None:
    long = "cat " * 76
    with pytest.raises(ConfigError, match=r"'cat cat .* has 78 tokens; CLIP reads at most 77"):
        tokenize(["fine", long], clip())
    tokenize("cat " * 75, clip())
    with pytest.raises(ConfigError, match=r"too long with 73 context vectors: 'kitten cat' \(78 tokens\); CLIP reads"):
        ClassTokens.build(clip(), ["cat", "kitten cat"], n_ctx=73)
    assert ClassTokens.build(clip(), ["cat", "kitten"], n_ctx=73).length == 77


def test_words_outside_the_vocabulary_are_named_with_near_ones() -> None:
    model = small_vocabulary()
    tokenize("a photo of a red circle.", model)
    ClassTokens.build(model, ["blue_square"], n_ctx=16)
    with pytest.raises(
        ConfigError, match=r"does not know the words circles, zebra; nearest known words: .*circle.*UNKNOWN_WORDS zero"
    ):
        tokenize(["a photo of a red zebra.", "red circles"], model)
    with pytest.raises(ConfigError, match="words green"):
        ClassTokens.build(model, ["green circle"], n_ctx=2)
    with pytest.raises(ConfigError, match="words picture"):
        ClassTokens.build(model, ["red circle"], n_ctx=2, prefix="a picture of a")


def test_wrong_layouts_are_refused() -> None:
    with pytest.raises(ConfigError, match="prefix 'a photo' has 2 tokens, fewer than the 3"):
        ClassTokens.build(clip(), ["cat"], n_ctx=3, prefix="a photo")
    with pytest.raises(ConfigError, match='position "front" the numbers must agree'):
        ClassTokens.build(clip(), ["cat"], n_ctx=2, prefix="a photo of a", position="front")
    with pytest.raises(ConfigError, match="'begin' is unknown; choose one of end, middle, front"):
        ClassTokens.build(clip(), ["cat"], n_ctx=2, position="begin")
    with pytest.raises(ConfigError, match="at least 0"):
        ClassTokens.build(clip(), ["cat"], n_ctx=-1)
    with pytest.raises(ConfigError, match=r"nothing is left of '_' \(label 1\)"):
        ClassTokens.build(clip(), ["cat", "_"], n_ctx=1)
    with pytest.raises(ConfigError, match="no class names"):
        ClassTokens.build(clip(), [], n_ctx=1)
    with pytest.raises(ConfigError, match=r"give ClassTokens\.build a prefix"):
        ClassTokens.build(clip(), ["cat"], n_ctx=1).initial_context()
