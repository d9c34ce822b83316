"""Pre-train the embedded micro CLIP on the drawn world and store it with a description.

Writes ``micro_clip.npz`` (float16 arrays under OpenAI's state-dict keys; the token embedding as
``token_embedding.rows``, ``token_embedding.ids`` and ``token_embedding.vocab_size``; see
``cpt_plugin/assets/README.md``) and ``micro_clip.json`` (hash, recipe, measured figures).

Two phases: the vision tower with throw-away attribute heads (supervised), then both towers with the symmetric
contrastive loss of CLIP, in which logits of other captions that also fit an image are left out. Matrices of
the blocks are trained by Muon, everything else by Adam. Every draw comes from the pre-training seeds.
"""

# ruff: noqa: E402 (the repository must be on the path before it is imported)
from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch
from micro_clip.archive import load_weights, save_description, save_weights
from micro_clip.evaluation import zero_shot
from micro_clip.model import NORMALIZATION, Architecture, MicroClip, Tokenizer
from micro_clip.muon import Float32Muon
from torch import Tensor, nn
from torch.nn import functional as F

from cpt_plugin.errors import ConfigError, CPTError
from cpt_plugin.worlds import NAMED_WORLDS, parse_world
from datasets.shapes_world.captions import UNMENTIONED, Caption, CaptionWriter, caption_words
from datasets.shapes_world.render import Scene, render
from datasets.shapes_world.seeds import drawing_seed
from datasets.shapes_world.vocabulary import COLORS, SHAPES, STYLES, TEXTURES

ATTRIBUTES = (len(SHAPES), len(TEXTURES), len(COLORS), len(STYLES))
HEAD_WEIGHTS = (1.0, 1.0, 1.0, 0.3)
REPORT_EVERY = 50


@dataclass(frozen=True)
class Recipe:
    """Every choice of the run; each field is a command-line option."""

    vision_steps: int = 700
    contrastive_steps: int = 450
    vision_batch: int = 128
    contrastive_batch: int = 192
    matrix_rate: float = 3e-3
    other_rate: float = 2e-3
    heads_weight: float = 0.3
    wrong_words: float = 0.05
    clean_share: float = 0.4
    zipf: float = 0.3
    long_captions: float = 0.06
    cone: float = 2.0
    alignment: float = 0.3
    logit_scale: float = 100.0
    seed: int = 0
    threads: int = 2


SMOKE = Recipe(vision_steps=4, contrastive_steps=4, vision_batch=16, contrastive_batch=16, threads=1)


class Sampler:
    """Batches of scenes, images and captions; the draws of step i depend on the seed and i alone."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.writer = CaptionWriter(wrong=recipe.wrong_words)

    def images(self, phase: str, step: int, batch: int) -> tuple[Tensor, Tensor]:
        """Return attribute indices (B, 4) and images (B, 3, 32, 32)."""
        generator = torch.Generator().manual_seed(drawing_seed("pretrain", phase, self.recipe.seed, step))
        shape, texture, color = (self._draw(count, batch, generator) for count in ATTRIBUTES[:3])
        style = torch.randint(len(STYLES), (batch,), generator=generator)
        style[torch.rand(batch, generator=generator) < self.recipe.clean_share] = STYLES.index("clean")
        attributes = torch.stack([shape, texture, color, style], 1)
        return attributes, render(Scene(shape, texture, color, style), generator)

    def _draw(self, count: int, batch: int, generator: torch.Generator) -> Tensor:
        frequency = torch.arange(1, count + 1).float() ** -self.recipe.zipf
        return torch.multinomial(frequency, batch, True, generator=generator)

    def captions(self, attributes: Tensor, step: int) -> list[Caption]:
        """Return one caption an image; in some batches filler words lead."""
        dice = random.Random(drawing_seed("pretrain", "captions", self.recipe.seed, step))
        longest = 16 if dice.random() < self.recipe.long_captions else 0
        rows = [tuple(row) for row in attributes.tolist()]
        return [self.writer.write(row, dice, dice.randint(0, longest)) for row in rows]


class Trainer:
    """The two phases."""

    def __init__(self, recipe: Recipe) -> None:
        torch.set_num_threads(recipe.threads)
        torch.manual_seed(recipe.seed)
        self.recipe, self.sampler, self.tokenizer = recipe, Sampler(recipe), Tokenizer()
        vocabulary = self.tokenizer.vocabulary(caption_words())
        self.model = MicroClip(Architecture(), vocabulary, recipe.cone, recipe.alignment, recipe.logit_scale)
        self.heads = nn.Linear(self.model.architecture.vision_width, sum(ATTRIBUTES))
        self.images_seen = 0
        self.cost: dict[str, float] = {"seconds": 0.0, "cpu_seconds": 0.0}

    def vision_loss(self, step: int) -> Tensor:
        """Cross-entropy of the attribute heads."""
        attributes, images = self.sampler.images("vision", step, self.recipe.vision_batch)
        self.images_seen += len(images)
        return self._heads_loss(self.model.visual_trunk(images)[1], attributes)

    def contrastive_loss(self, step: int) -> Tensor:
        """CLIP's symmetric cross-entropy without false negatives, plus a share of the heads' loss."""
        attributes, images = self.sampler.images("contrastive", step, self.recipe.contrastive_batch)
        self.images_seen += len(images)
        captions = self.sampler.captions(attributes, step)
        features, token = self.model.visual_trunk(images)
        text = self.model.encode_text(self.tokenizer([caption.text for caption in captions]))
        logits = self.model.scale * F.normalize(features, dim=1) @ F.normalize(text, dim=1).T
        claims = torch.tensor([caption.claims for caption in captions])
        fits = ((claims == UNMENTIONED) | (claims == attributes[:, None])).all(2).fill_diagonal_(False)
        logits = logits.masked_fill(fits, float("-inf"))
        own = torch.arange(len(images))
        contrast = (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
        return contrast + self.recipe.heads_weight * self._heads_loss(token, attributes)

    def _heads_loss(self, token: Tensor, attributes: Tensor) -> Tensor:
        parts = self.heads(token).split(ATTRIBUTES, 1)
        losses = [F.cross_entropy(part, attributes[:, i]) for i, part in enumerate(parts)]
        return torch.stack([weight * loss for weight, loss in zip(HEAD_WEIGHTS, losses, strict=True)]).sum()

    def train(self, keep: Path, resume: bool) -> None:
        """Run both phases, keeping the state in the file ``keep``; with ``resume`` go on from there."""
        phases: list[tuple[str, Callable[[int], Tensor], int]] = [
            ("vision", self.vision_loss, self.recipe.vision_steps),
            ("contrastive", self.contrastive_loss, self.recipe.contrastive_steps),
        ]
        state = torch.load(keep, weights_only=True) if resume and keep.exists() else None
        if state is not None:
            self._restore(state)
            names = [name for name, _, _ in phases]
            phases = phases[names.index(state["phase"]) :]
        for name, loss_of, steps in phases:
            self._run_phase(name, loss_of, steps, keep, state)
            state = None
        keep.unlink(missing_ok=True)

    def _restore(self, state: dict[str, Any]) -> None:
        free = {"threads"} | ({"contrastive_steps"} if state["phase"] == "vision" else set())
        changed = [k for k, v in asdict(self.recipe).items() if k not in free and state["recipe"].get(k) != v]
        if changed:
            raise ConfigError(f"the run to resume had another {', '.join(changed)}: give the same options")
        self.model.load_state_dict(state["model"])
        self.heads.load_state_dict(state["heads"])
        self.images_seen, self.cost = state["images_seen"], dict(state["cost"])

    def _run_phase(
        self,
        name: str,
        loss_of: Callable[[int], Tensor],
        steps: int,
        keep: Path,
        state: dict[str, Any] | None,
    ) -> None:
        """Train for ``steps``: 40 steps of warm-up, then constant, then linear decay over the second half."""
        matrices, others = self.model.matrices()
        others = [*others, *self.heads.parameters()]
        optimizers: list[torch.optim.Optimizer] = [
            Float32Muon(matrices, self.recipe.matrix_rate),
            torch.optim.Adam(others, self.recipe.other_rate, betas=(0.9, 0.98)),
        ]
        peaks = [self.recipe.matrix_rate, self.recipe.other_rate]
        first = 0 if state is None else state["step"]
        for optimizer, saved in zip(optimizers, state["optimizers"] if state else [], strict=False):
            optimizer.load_state_dict(saved)
        wall, processor = time.perf_counter(), time.process_time()
        for step in range(first, steps):
            factor = min(1.0, (step + 1) / 40) * min(1.0, max(0.01, 2 * (1 - step / steps)))
            for optimizer, peak in zip(optimizers, peaks, strict=True):
                optimizer.param_groups[0]["lr"] = peak * factor
                optimizer.zero_grad()
            loss = loss_of(step)
            loss.backward()
            nn.utils.clip_grad_norm_([*matrices, *others], 1.0)
            for optimizer in optimizers:
                optimizer.step()
            if (step + 1) % REPORT_EVERY == 0 or step + 1 == steps:
                self.cost["seconds"] += time.perf_counter() - wall
                self.cost["cpu_seconds"] += time.process_time() - processor
                wall, processor = time.perf_counter(), time.process_time()
                self._keep(keep, name, step + 1, optimizers)
                spent = f"{self.cost['seconds']:.0f} s, {self.cost['cpu_seconds']:.0f} CPU s"
                print(f"{name} {step + 1}/{steps} loss {loss.item():.3f} {spent}", flush=True)

    def _keep(self, path: Path, phase: str, step: int, optimizers: list[torch.optim.Optimizer]) -> None:
        state = {
            "phase": phase,
            "step": step,
            "recipe": asdict(self.recipe),
            "model": self.model.state_dict(),
            "heads": self.heads.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in optimizers],
            "images_seen": self.images_seen,
            "cost": dict(self.cost),
        }
        torch.save(state, path.with_suffix(".writing"))
        path.with_suffix(".writing").replace(path)


def describe(trainer: Trainer, npz_hash: str, per_class: int) -> dict[str, object]:
    """Measure the stored weights on every named world and return the content of ``micro_clip.json``."""
    figures = {}
    for world in NAMED_WORLDS:
        figures[world.name] = zero_shot(trainer.model, trainer.tokenizer, world, per_class=per_class)
        print(world.name, figures[world.name], flush=True)
    default = figures.get(parse_world("").name, {})
    geometry = {key: value for key, value in default.items() if key.endswith("cosine")}
    return {
        "schema": 1,
        "npz_sha256": npz_hash,
        "architecture": asdict(trainer.model.architecture),
        "normalization": NORMALIZATION,
        "words": list(caption_words()),
        "recipe": asdict(trainer.recipe),
        "cost": {"images": trainer.images_seen, **{key: round(value) for key, value in trainer.cost.items()}},
        "default_world": parse_world("").name,
        "geometry": {**geometry, "logit_scale": round(trainer.model.scale.item(), 2)},
        "zero_shot": {name: {half: f[half] for half in ("base", "new")} for name, f in figures.items()},
    }


def parse_arguments(arguments: Sequence[str] | None = None) -> tuple[Recipe, argparse.Namespace]:
    """Return the recipe and the other options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=ROOT / "cpt_plugin" / "assets", help="output folder")
    parser.add_argument("--smoke", action="store_true", help="a few steps on small batches, as a test")
    parser.add_argument("--resume", action="store_true", help="go on with an interrupted run in --out")
    for field in fields(Recipe):
        option = "--" + field.name.replace("_", "-")
        parser.add_argument(option, type=type(field.default), help=f"default {field.default}")
    options = parser.parse_args(arguments)
    chosen = asdict(SMOKE if options.smoke else Recipe())
    chosen.update({key: value for key, value in vars(options).items() if key in chosen and value is not None})
    return Recipe(**chosen), options


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, store, measure what was stored, describe."""
    recipe, options = parse_arguments(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(recipe)
    try:
        trainer.train(options.out / "micro_clip.resume", options.resume)
    except CPTError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    path = options.out / "micro_clip.npz"
    npz_hash = save_weights(trainer.model, path)
    load_weights(trainer.model, path)
    description = describe(trainer, npz_hash, per_class=2 if options.smoke else 40)
    save_description(description, options.out / "micro_clip.json")
    print(f"{path}: {path.stat().st_size / 1e6:.2f} MB", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
