"""Text to token ids: plain texts, and prompts with room for learned context vectors."""

from __future__ import annotations

import difflib
import logging
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from typing import Any

import torch
from torch import Tensor

from cpt_plugin._names import some
from cpt_plugin.encoders._package import tokenizer_module
from cpt_plugin.encoders._shared_prefix import Layout
from cpt_plugin.encoders.frozen import CONTEXT_LENGTH, FrozenCLIP
from cpt_plugin.encoders.templates import fill_template
from cpt_plugin.errors import ConfigError

LOG = logging.getLogger("cpt_plugin")
POSITIONS = ("end", "middle", "front")
_SHOWN_LETTERS = 40
START, END, PLACEHOLDER = "<|startoftext|>", "<|endoftext|>", "x</w>"


@cache
def bpe() -> Any:
    """CLIP's byte-pair tokenizer (`SimpleTokenizer`)."""
    return tokenizer_module().SimpleTokenizer()


def tokenize(texts: str | Sequence[str], clip: FrozenCLIP) -> Tensor:
    """Token ids (n, 77) of `texts`: start, words, end, then zeros.

    Raises:
        ConfigError: a text is longer than 77 tokens, or `clip` has no trained embedding for a word of it.
    """
    texts = [texts] if isinstance(texts, str) else list(texts)
    check_vocabulary(texts, clip)
    return _stack([bpe().encode(text) for text in texts], texts).to(clip.device)


def check_vocabulary(texts: Iterable[str], clip: FrozenCLIP) -> None:
    """Refuse words for which `clip` has no trained embedding; does nothing for a full vocabulary.

    Where `clip` gives such words a zero embedding, a warning takes the place of the refusal.

    Raises:
        ConfigError: names the words and the nearest known ones.
    """
    if clip.vocabulary is None:
        return
    words = {word for text in texts for word in _words(text)}
    unknown = sorted(word for word in words if not clip.vocabulary.issuperset(bpe().encode(word)))
    if not unknown:
        return
    if clip.unknown_words == "zero":
        _warn_of_zeros(clip.name)
        return
    known = _known_words(clip.vocabulary)
    hints = sorted(
        {hint for word in unknown for hint in difflib.get_close_matches(word, known, n=2, cutoff=0.0)}
    )
    raise ConfigError(
        f"model {clip.name} does not know the words {', '.join(unknown)}; "
        f"nearest known words: {', '.join(hints) or 'none'}. Rename the classes or use a full CLIP model "
        "(only to try out a set-up: MODEL.BACKBONE.UNKNOWN_WORDS zero)"
    )


@cache
def _warn_of_zeros(name: str) -> None:
    """Once a process: what comes out does not tell anything about methods."""
    LOG.warning(
        f"Model {name} does not know some words of the class names: they count as zero vectors, so ACCURACIES MEAN "
        "NOTHING. Use it to try out a set-up only (MODEL.BACKBONE.UNKNOWN_WORDS zero)"
    )


@dataclass(frozen=True, eq=False)
class ClassTokens:
    """Tokenized class prompts with P slots for learned context vectors.

    Attributes:
        class_names: the K names as given.
        ids: (K, 77) token ids; a slot holds the id of the word it replaces, or of a placeholder.
        eot: (K,) position of the end token, where the text feature is read.
        slots: (K, P) positions of the context vectors.
        name_lengths: number of tokens of each name.
        position: where the name stands relative to the context: "end", "middle" or "front".
        width: width of context vectors.
        layers: number of blocks of the text tower.
    """

    class_names: tuple[str, ...]
    ids: Tensor
    eot: Tensor
    slots: Tensor
    name_lengths: tuple[int, ...]
    position: str
    width: int
    layers: int
    _prefix_ids: Tensor | None = field(repr=False)
    _embedding: Any = field(repr=False)
    _layouts: dict[bool, Layout | None] = field(default_factory=dict, init=False, repr=False)

    @classmethod
    def build(
        cls,
        clip: FrozenCLIP,
        class_names: Sequence[str],
        n_ctx: int,
        prefix: str | None = None,
        position: str = "end",
    ) -> ClassTokens:
        """Lay out `SOS context name . EOT` (CoOp, IJCV 2022, section 3.2) for every class.

        With P = n_ctx: "end" is `SOS c1..cP name . EOT`, "middle" puts the name after the first
        floor(P/2) context vectors, "front" before all of them. `_` in names and prefix is a space.

        Args:
            clip: model whose tokenizer, vocabulary and text tower are used.
            class_names: K names.
            n_ctx: P, number of learned context vectors, 0 for none.
            prefix: words whose first P tokens become the slots; the rest stays as frozen words
                (MaPLe: "a photo of a" with P = 2). None: P placeholders.
            position: "end", "middle" or "front"; the last two need a prefix of exactly P tokens.

        Raises:
            ConfigError: empty or unknown names, too long prompts, a prefix that does not fit P.
        """
        check_vocabulary([_spaced(prefix or ""), *(f"{_spaced(name)}." for name in class_names)], clip)
        lead, rows, slots, lengths = _lay_out(class_names, n_ctx, prefix, position)
        ids = _stack(rows, class_names)
        return cls(
            class_names=tuple(class_names),
            ids=ids.to(clip.device),
            eot=torch.tensor([len(row) + 1 for row in rows], device=clip.device),
            slots=torch.tensor(slots, dtype=torch.long, device=clip.device).reshape(len(rows), n_ctx),
            name_lengths=tuple(lengths),
            position=position,
            width=clip.text_width,
            layers=clip.text_layers,
            _prefix_ids=None
            if prefix is None
            else torch.tensor(lead[:n_ctx], dtype=torch.long, device=clip.device),
            _embedding=clip.model.token_embedding,
        )

    def __len__(self) -> int:
        return len(self.class_names)

    @property
    def n_ctx(self) -> int:
        """Number P of context slots."""
        return self.slots.shape[1]

    @cached_property
    def length(self) -> int:
        """Number of positions up to and including the last end token of all classes."""
        return int(self.eot.max()) + 1

    def layout(self, padded: bool) -> Layout | None:
        """Packed rows for the fast text path; None where a context slot is not the same position in all classes.

        Made once for attention by groups of suffixes of one length, and once for all of them padded to one.
        """
        if padded not in self._layouts:
            self._layouts[padded] = Layout.of(self.ids, self.eot, self.slots, padded)
        return self._layouts[padded]

    @property
    def embeddings(self) -> Tensor:
        """Frozen token embeddings (K, 77, w), without positional embedding."""
        return self._embedding(self.ids).detach()

    def initial_context(self) -> Tensor:
        """Float32 copy (P, w) of the embeddings of the words that the context replaces.

        Raises:
            ConfigError: the prompts were built without a prefix.
        """
        if self._prefix_ids is None:
            raise ConfigError("there are no words to start the context from; give ClassTokens.build a prefix")
        return self._embedding(self._prefix_ids).detach().to(torch.float32, copy=True)

    def select(self, indices: Tensor | Sequence[int] | slice) -> ClassTokens:
        """The prompts of some classes, in the given order."""
        if isinstance(indices, slice):
            indices = range(len(self))[indices]
        rows = torch.as_tensor(indices, dtype=torch.long, device=self.ids.device)
        kept = rows.tolist()
        return replace(
            self,
            class_names=tuple(self.class_names[i] for i in kept),
            ids=self.ids[rows],
            eot=self.eot[rows],
            slots=self.slots[rows],
            name_lengths=tuple(self.name_lengths[i] for i in kept),
        )


def check_prompts(class_names: Sequence[str], n_ctx: int, prefix: str | None = None, position: str = "end") -> None:
    """Refuse class names of which :meth:`ClassTokens.build` cannot make prompts, whatever the model.

    Raises:
        ConfigError: as there, but for unknown words.
    """
    _lay_out(class_names, n_ctx, prefix, position)


def check_sentence(template: str, class_names: Sequence[str]) -> None:
    """Refuse class names that are empty, or too long for a sentence with ``{}``, whatever the model.

    Raises:
        ConfigError: naming the classes.
    """
    refuse_empty(class_names)
    texts = fill_template(template, class_names)
    counts = [len(bpe().encode(text)) + 2 if _may_be_long(text) else 0 for text in texts]
    refuse_long(class_names, counts, f"in {template!r}")


def _may_be_long(text: str) -> bool:
    """A token covers a byte at least; only plain ASCII without an HTML entity surely stays as long as it is."""
    return len(text) + 2 > CONTEXT_LENGTH or not text.isascii() or "&" in text


def refuse_empty(class_names: Sequence[str]) -> None:
    """Raise ConfigError for names that leave nothing to read; ``_`` is a space."""
    empty = [f"{name!r} (label {label})" for label, name in enumerate(class_names) if not _spaced(name)]
    if empty:
        raise ConfigError(
            f"class names must be non-empty, and '_' is a space; nothing is left of {some(empty)}: rename the classes "
            "(images of your own: or DATASET.CLASS_NAMES)"
        )


def refuse_long(class_names: Sequence[str], counts: Sequence[int], where: str) -> None:
    """Raise ConfigError for class names whose texts have more tokens than CLIP reads.

    Args:
        class_names: K names.
        counts: K numbers of tokens of the whole texts, start and end included.
        where: what the names stand in.
    """
    long = [
        f"{textwrap.shorten(name, _SHOWN_LETTERS, placeholder=' ...')!r} ({count} tokens)"
        for name, count in zip(class_names, counts, strict=True)
        if count > CONTEXT_LENGTH
    ]
    if long:
        are, them = ("is", "it") if len(long) == 1 else ("are", "them")
        raise ConfigError(
            f"{len(long)} of {len(counts)} class names {are} too long {where}: {some(long)}; CLIP reads at most "
            f"{CONTEXT_LENGTH}. Shorten {them} (images of your own: rename the classes, or DATASET.CLASS_NAMES)"
        )


def _lay_out(
    class_names: Sequence[str], n_ctx: int, prefix: str | None, position: str
) -> tuple[list[int], list[list[int]], list[list[int]], list[int]]:
    """Tokens of the prefix; of every class the tokens between start and end, the slots, and the name's length."""
    if position not in POSITIONS:
        raise ConfigError(
            f"class token position {position!r} is unknown; choose one of {', '.join(POSITIONS)}"
        )
    if not class_names:
        raise ConfigError("no class names given")
    refuse_empty(class_names)
    names = [_spaced(name) for name in class_names]
    lead = _lead(n_ctx, prefix, position)
    lengths = [len(bpe().encode(name)) for name in names]
    first = {"end": n_ctx, "middle": n_ctx // 2, "front": 0}[position]
    rows, slots = [], []
    for name, length in zip(names, lengths, strict=True):
        tail = lead[n_ctx:] + bpe().encode(f"{name}.")
        split = length if position != "end" else len(tail)
        rows.append(lead[:first] + tail[:split] + lead[first:n_ctx] + tail[split:])
        slots.append([*range(1, 1 + first), *range(1 + first + split, 1 + split + n_ctx)])
    words = f" and the words {prefix!r}" if prefix is not None and len(lead) > n_ctx else ""
    refuse_long(class_names, [len(row) + 2 for row in rows], f"with {n_ctx} context vectors{words}")
    return lead, rows, slots, lengths


def _lead(n_ctx: int, prefix: str | None, position: str) -> list[int]:
    if n_ctx < 0:
        raise ConfigError(f"number of context vectors is {n_ctx}; it must be at least 0")
    if prefix is None:
        return [bpe().encoder[PLACEHOLDER]] * n_ctx
    prefix = _spaced(prefix)
    lead: list[int] = bpe().encode(prefix)
    if len(lead) < n_ctx:
        raise ConfigError(f"prefix {prefix!r} has {len(lead)} tokens, fewer than the {n_ctx} context vectors")
    if position != "end" and len(lead) != n_ctx:
        raise ConfigError(
            f"prefix {prefix!r} has {len(lead)} tokens but there are {n_ctx} context vectors; "
            f'with class position "{position}" the numbers must agree'
        )
    return lead


def _stack(rows: Sequence[list[int]], texts: Sequence[str]) -> Tensor:
    ids = torch.zeros(len(rows), CONTEXT_LENGTH, dtype=torch.long)
    for target, row, text in zip(ids, rows, texts, strict=True):
        if len(row) + 2 > CONTEXT_LENGTH:
            raise ConfigError(f"text {text!r} has {len(row) + 2} tokens; CLIP reads at most {CONTEXT_LENGTH}")
        target[: len(row) + 2] = torch.tensor([bpe().encoder[START], *row, bpe().encoder[END]])
    return ids


def _spaced(text: str) -> str:
    return " ".join(text.replace("_", " ").split())


def _words(text: str) -> list[str]:
    module = tokenizer_module()
    return bpe().pat.findall(module.whitespace_clean(module.basic_clean(text)).lower())


def _known_words(vocabulary: frozenset[int]) -> list[str]:
    pieces = (bpe().decoder[token] for token in vocabulary)
    return sorted(piece.removesuffix("</w>") for piece in pieces if piece.endswith("</w>"))
