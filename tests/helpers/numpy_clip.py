"""CLIP's two transformers written once more in NumPy, one sequence, head and query position at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

Array = np.ndarray
HEAD = 64


def numpy_state(model: torch.nn.Module) -> dict[str, Array]:
    """State dict as float64 arrays."""
    return {key: value.detach().to(torch.float64).numpy() for key, value in model.state_dict().items()}


def run_text(
    state: Mapping[str, Array],
    rows: Array,
    slots: Sequence[int],
    deep: Sequence[Array] = (),
) -> Array:
    """Text feature of one sequence whose last row is its end token; `deep` vectors overwrite `slots`."""
    x = rows + state["positional_embedding"][: len(rows)]
    for layer in range(_depth(state, "transformer.resblocks.")):
        if 1 <= layer <= len(deep):
            for slot, vector in zip(slots, deep[layer - 1], strict=True):
                x[slot] = vector
        x = _block(state, f"transformer.resblocks.{layer}.", x, causal=True)
    return _norm(state, "ln_final.", x[-1]) @ state["text_projection"]


def run_image(
    state: Mapping[str, Array],
    image: Array,
    shallow: Array | None = None,
    deep: Sequence[Array] = (),
    after_norm: bool = False,
) -> Array:
    """Image feature of one image (3, H, W); prompt rows stand behind the patches, or behind the first norm too."""
    kernel = state["visual.conv1.weight"]
    patch, cells = kernel.shape[-1], image.shape[-1] // kernel.shape[-1]
    tokens = [state["visual.class_embedding"]]
    for i in range(cells):
        for j in range(cells):
            window = image[:, i * patch : (i + 1) * patch, j * patch : (j + 1) * patch]
            tokens.append(np.array([np.sum(filter_ * window) for filter_ in kernel]))
    x = np.stack(tokens) + state["visual.positional_embedding"]
    if shallow is not None and not after_norm:
        x = np.concatenate([x, shallow])
    x = _norm(state, "visual.ln_pre.", x)
    if shallow is not None and after_norm:
        x = np.concatenate([x, shallow])
    for layer in range(_depth(state, "visual.transformer.resblocks.")):
        if 1 <= layer <= len(deep):
            x = np.concatenate([x[: cells * cells + 1], deep[layer - 1]])
        x = _block(state, f"visual.transformer.resblocks.{layer}.", x, causal=False)
    return _norm(state, "visual.ln_post.", x[0]) @ state["visual.proj"]


def _depth(state: Mapping[str, Array], prefix: str) -> int:
    return 1 + max(int(key[len(prefix) :].split(".")[0]) for key in state if key.startswith(prefix))


def _norm(state: Mapping[str, Array], prefix: str, x: Array) -> Array:
    centered = x - x.mean(-1, keepdims=True)
    scaled = centered / np.sqrt((centered**2).mean(-1, keepdims=True) + 1e-5)
    return scaled * state[prefix + "weight"] + state[prefix + "bias"]


def _block(state: Mapping[str, Array], prefix: str, x: Array, causal: bool) -> Array:
    y = _norm(state, prefix + "ln_1.", x)
    width = x.shape[1]
    projected = y @ state[prefix + "attn.in_proj_weight"].T + state[prefix + "attn.in_proj_bias"]
    mixed = np.zeros_like(x)
    for start in range(0, width, HEAD):
        columns = slice(start, start + HEAD)
        query, key, value = (projected[:, part * width : (part + 1) * width][:, columns] for part in range(3))
        for i in range(len(x)):
            seen = i + 1 if causal else len(x)
            scores = key[:seen] @ query[i] / np.sqrt(HEAD)
            weights = np.exp(scores - scores.max())
            mixed[i, columns] = weights @ value[:seen] / weights.sum()
    x = x + mixed @ state[prefix + "attn.out_proj.weight"].T + state[prefix + "attn.out_proj.bias"]
    hidden = _norm(state, prefix + "ln_2.", x) @ state[prefix + "mlp.c_fc.weight"].T
    hidden = hidden + state[prefix + "mlp.c_fc.bias"]
    hidden = hidden / (1 + np.exp(-1.702 * hidden))
    return x + hidden @ state[prefix + "mlp.c_proj.weight"].T + state[prefix + "mlp.c_proj.bias"]
