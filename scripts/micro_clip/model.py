"""The trainable micro CLIP: OpenAI's model class, a compact token embedding, a narrow-cone start."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from types import ModuleType

import torch
from torch import Tensor, nn

from cpt_plugin.errors import ConfigError

VOCAB_SIZE = 49408
NORMALIZATION = {"mean": [0.48145466, 0.4578275, 0.40821073], "std": [0.26862954, 0.26130258, 0.27577711]}


@dataclass(frozen=True)
class Architecture:
    """Arguments of ``clip.model.CLIP``."""

    embed_dim: int = 128
    image_resolution: int = 32
    vision_layers: int = 4
    vision_width: int = 128
    vision_patch_size: int = 8
    context_length: int = 77
    vocab_size: int = VOCAB_SIZE
    transformer_width: int = 128
    transformer_heads: int = 2
    transformer_layers: int = 4


@cache
def _clip_module(name: str) -> ModuleType:
    """Load one file of the clip distribution by its place: ``import clip`` could find a stranger's folder."""
    try:
        path = importlib.metadata.distribution("clip-anytorch").locate_file(f"clip/{name}.py")
    except importlib.metadata.PackageNotFoundError as error:
        raise ConfigError(
            "clip-anytorch is not installed: pip install -c constraints.txt clip-anytorch"
        ) from error
    spec = importlib.util.spec_from_file_location(f"_pretrain_clip_{name}", str(path))
    if spec is None or spec.loader is None:
        raise ConfigError(f"cannot load {path}: reinstall clip-anytorch")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Tokenizer:
    """OpenAI's BPE: text to ids with start and end marks, padded with zeros to the longest text."""

    def __init__(self) -> None:
        self._bpe = _clip_module("simple_tokenizer").SimpleTokenizer()
        self._start = self._bpe.encoder["<|startoftext|>"]
        self._end = self._bpe.encoder["<|endoftext|>"]
        self._known: dict[str, list[int]] = {}

    def ids(self, text: str) -> list[int]:
        """Return the ids of one text, marks included."""
        if text not in self._known:
            self._known[text] = [self._start, *self._bpe.encode(text), self._end]
        return self._known[text]

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Return ids, int64, shape (len(texts), longest)."""
        rows = [torch.tensor(self.ids(text)) for text in texts]
        return nn.utils.rnn.pad_sequence(rows, batch_first=True)

    def vocabulary(self, words: Iterable[str]) -> list[int]:
        """Return the ids that texts made of ``words`` can hold, ascending."""
        return sorted({token for word in words for token in self.ids(word)})


class MicroClip(nn.Module):
    """CLIP with embeddings for ``vocabulary`` only; :meth:`state` gives the storable arrays.

    ``cone`` is the norm of the direction shared by all features, relative to the part that differs: at the
    start two texts have cosine of about cone^2 / (1 + cone^2). The shared directions of text and image have
    cosine ``alignment``. The logit scale is fixed, as CLIP's is in effect (it trains at its clamp of 100).
    """

    ids: Tensor
    lookup: Tensor

    def __init__(
        self,
        architecture: Architecture,
        vocabulary: Sequence[int],
        cone: float,
        alignment: float,
        scale: float,
    ) -> None:
        super().__init__()
        self.architecture = architecture
        self.clip = _clip_module("model").CLIP(**asdict(architecture)).float()
        self.clip.token_embedding = nn.Identity()
        self.rows = nn.Parameter(torch.randn(len(vocabulary), architecture.transformer_width) * 0.02)
        self.register_buffer("ids", torch.tensor(vocabulary))
        lookup = torch.full((architecture.vocab_size,), -1)
        lookup[torch.tensor(vocabulary)] = torch.arange(len(vocabulary))
        self.register_buffer("lookup", lookup)
        self.clip.logit_scale.data.fill_(scale).log_()
        self.clip.logit_scale.requires_grad_(False)
        self._start_in_cone(cone, alignment)

    @torch.no_grad()
    def _start_in_cone(self, cone: float, alignment: float) -> None:
        visual, text = self.clip.visual, self.clip
        nn.init.orthogonal_(visual.proj)
        nn.init.orthogonal_(text.text_projection)
        shared = torch.nn.functional.normalize(torch.randn(2, self.architecture.embed_dim), dim=1)
        other = shared[1] - (shared[0] @ shared[1]) * shared[0]
        image_direction = alignment * shared[0] + (1 - alignment**2) ** 0.5 * other / other.norm()
        text.ln_final.bias.copy_(
            cone * text.ln_final.bias.numel() ** 0.5 * (text.text_projection @ shared[0])
        )
        visual.ln_post.bias.copy_(cone * visual.ln_post.bias.numel() ** 0.5 * (visual.proj @ image_direction))

    @property
    def scale(self) -> Tensor:
        """The factor of the cosines in the logits."""
        return self.clip.logit_scale.exp()

    def encode_text(self, tokens: Tensor) -> Tensor:
        """Features (n, embed_dim) of token ids (n, length <= 77), the end mark being the highest id."""
        x = self.rows[self.lookup[tokens]] + self.clip.positional_embedding[: tokens.shape[1]]
        x = self.clip.transformer(x.transpose(0, 1)).transpose(0, 1)
        x = self.clip.ln_final(x[torch.arange(len(x)), tokens.argmax(1)])
        return x @ self.clip.text_projection

    def encode_image(self, images: Tensor) -> Tensor:
        """Features (n, embed_dim) of RGB images in [0, 1], shape (n, 3, side, side)."""
        return self.clip.visual(self._normalize(images))

    def visual_trunk(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Features as :meth:`encode_image` and the class token before the projection."""
        grabbed: list[Tensor] = []
        handle = self.clip.visual.ln_post.register_forward_hook(lambda _m, _i, output: grabbed.append(output))
        try:
            features = self.encode_image(images)
        finally:
            handle.remove()
        return features, grabbed[0]

    @staticmethod
    def _normalize(images: Tensor) -> Tensor:
        mean, std = (torch.tensor(NORMALIZATION[key]).view(3, 1, 1) for key in ("mean", "std"))
        return (images - mean) / std

    def matrices(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """Split the trainable parameters into the matrices of the blocks and all others."""
        named = [(name, p) for name, p in self.named_parameters() if p.requires_grad]
        inner = [p for name, p in named if "resblocks" in name and p.ndim == 2]
        ids = {id(p) for p in inner}
        return inner, [p for _, p in named if id(p) not in ids]
