"""Tiny trainers in the manner of the released ones: what forward returns and who computes the loss differ.

Every model splits its forward into ``encode`` (the encoder calls) and ``head`` (the rest), so that a test can
write the same loss by hand, with the features in its own hands and without any hook.
"""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cpt_plugin.regularizers import FeatureBatch

CLASSES, WIDTH, PIXELS, WORDS, BATCH = 6, 5, 8, 4, 7


class ToyTextEncoder(nn.Module):
    """(K, w) prompts -> (K, d)."""

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()
        self.register_buffer("mix", torch.randn(WORDS, WIDTH, generator=generator, dtype=torch.float64))

    def forward(self, prompts: Tensor) -> Tensor:
        return torch.tanh(prompts @ self.mix)


class ToyImageEncoder(nn.Module):
    """(B, pixels) images, shifted by a visual prompt if there is one -> (B, d)."""

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()
        self.register_buffer("mix", torch.randn(PIXELS, WIDTH, generator=generator, dtype=torch.float64))

    def forward(self, image: Tensor, prompt: Tensor | None = None) -> Tensor:
        return torch.tanh((image if prompt is None else image + prompt) @ self.mix)


def cosine_logits(text: Tensor, image: Tensor) -> Tensor:
    return 10 * F.normalize(image, dim=-1) @ F.normalize(text, dim=-1).t()


class CoOpModel(nn.Module):
    """Logits; labels not passed; image features carry no gradient."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.text_encoder = ToyTextEncoder(generator)
        self.image_encoder = ToyImageEncoder(generator)
        self.register_buffer("names", torch.randn(CLASSES, WORDS, generator=generator, dtype=torch.float64))
        self.context = nn.Parameter(torch.randn(WORDS, generator=generator, dtype=torch.float64))

    def encode(self, image: Tensor) -> tuple[Tensor, Tensor]:
        return self.text_encoder(self.names + self.context), self.image_encoder(image)

    def head(self, text: Tensor, image: Tensor, label: Tensor | None) -> Any:
        return cosine_logits(text, image)

    def forward(self, image: Tensor, label: Tensor | None = None) -> Any:
        return self.head(*self.encode(image), label)


class MaPLeModel(CoOpModel):
    """Scalar loss when labels are given; text and image features carry gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.visual = nn.Parameter(torch.linspace(-1, 1, PIXELS, dtype=torch.float64))

    def encode(self, image: Tensor) -> tuple[Tensor, Tensor]:
        return self.text_encoder(self.names + self.context), self.image_encoder(image, self.visual)

    def head(self, text: Tensor, image: Tensor, label: Tensor | None) -> Any:
        logits = cosine_logits(text, image)
        return logits if label is None else F.cross_entropy(logits, label)


class TupleModel(MaPLeModel):
    """(logits, score) as in KgCoOp and DAPT."""

    def head(self, text: Tensor, image: Tensor, label: Tensor | None) -> Any:
        return cosine_logits(text, image), (text - self.names.sum()).square().mean()


class PromptSRCModel(MaPLeModel):
    """A tuple that begins with the cross-entropy and a frozen tensor, as in PromptSRC."""

    def head(self, text: Tensor, image: Tensor, label: Tensor | None) -> Any:
        return self.names, F.cross_entropy(cosine_logits(text, image), label), text, image


class CoCoOpModel(CoOpModel):
    """Scalar loss; the text encoder runs once for each image, on prompts that depend on it."""

    def __init__(self) -> None:
        super().__init__()
        self.meta = nn.Parameter(torch.linspace(-1, 1, WIDTH * WORDS, dtype=torch.float64).view(WIDTH, WORDS))

    def encode(self, image: Tensor) -> tuple[Tensor, Tensor]:
        features = self.image_encoder(image)
        shifts = features @ self.meta
        return torch.stack([self.text_encoder(self.names + self.context + s) for s in shifts]), features

    def head(self, text: Tensor, image: Tensor, label: Tensor | None) -> Any:
        logits = torch.cat([cosine_logits(t, i[None]) for t, i in zip(text, image, strict=True)])
        return logits if label is None else F.cross_entropy(logits, label)


class DPCModel(MaPLeModel):
    """Image-text pairs: (logits of images over the texts of all pairs, and their transpose)."""

    def head(self, text: Tensor, image: Tensor, label: Tensor | None) -> Any:
        pairs = cosine_logits(text[label], image)
        return pairs, pairs.t()


class ToyTrainer:
    """The part of Dassl's trainer that the hook relies on."""

    model_class: ClassVar[type[nn.Module]] = CoOpModel
    passes_labels: ClassVar[bool] = False

    def __init__(
        self, dtype: torch.dtype = torch.float64, divisor: int = 1, init_scale: float | None = None
    ) -> None:
        self.model: Any = self.model_class().to(dtype)
        self.dtype = dtype
        self.divisor = divisor
        self.dm = SimpleNamespace(dataset=SimpleNamespace(classnames=[f"class {k}" for k in range(CLASSES)]))
        self.optim = torch.optim.SGD(self.model.parameters(), lr=0.1, momentum=0.9)
        self.scaler = None if init_scale is None else torch.amp.GradScaler("cpu", init_scale=init_scale)
        self.summaries: list[dict[str, float]] = []

    def frozen_text_features(self) -> Tensor:
        return self.model.text_encoder(self.model.names)

    def parse(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        return batch["img"], batch["label"]

    def main_loss(self, output: Any, label: Tensor) -> Tensor:
        return F.cross_entropy(output, label)

    def forward_backward(self, batch: dict[str, Tensor]) -> dict[str, float]:
        image, label = self.parse(batch)
        output = self.model(image, label) if self.passes_labels else self.model(image)
        loss = self.main_loss(output, label) / self.divisor
        self.optim.zero_grad()
        if self.scaler is None:
            loss.backward()
            self.optim.step()
        else:
            self.scaler.scale(loss).backward()
            self.scaler.unscale_(self.optim)
            self.scaler.step(self.optim)
            self.scaler.update()
        return {"loss": loss.item()}

    def train(self, epochs: int = 3) -> None:
        """Order, noise and labels come from the three global generators, as in released trainers."""
        for _ in range(epochs):
            for _ in range(4):
                noise = torch.randn(BATCH, PIXELS, dtype=self.dtype) + random.random()
                label = torch.from_numpy(np.random.permutation(BATCH) % CLASSES)  # noqa: NPY002
                self.summaries.append(self.forward_backward({"img": noise, "label": label}))


class CoOpTrainer(ToyTrainer):
    pass


class ScalarTrainer(ToyTrainer):
    passes_labels = True

    def main_loss(self, output: Any, label: Tensor) -> Tensor:
        return output


class MaPLeTrainer(ScalarTrainer):
    model_class = MaPLeModel


class CoCoOpTrainer(ScalarTrainer):
    model_class = CoCoOpModel


class TupleTrainer(ToyTrainer):
    model_class = TupleModel

    def main_loss(self, output: Any, label: Tensor) -> Tensor:
        logits, score = output
        return F.cross_entropy(logits, label) + 0.5 * score


class PromptSRCTrainer(ToyTrainer):
    model_class = PromptSRCModel
    passes_labels = True

    def main_loss(self, output: Any, label: Tensor) -> Tensor:
        _, cross_entropy, text, image = output
        return cross_entropy + 0.1 * text.abs().mean() + 0.2 * image.abs().mean()


class DPCTrainer(ToyTrainer):
    """Rebuilds the batch: every image comes again under another label; an inner trainer runs beside it."""

    model_class = DPCModel
    passes_labels = True

    def __init__(self, *args: Any, inner: bool = True, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.inner = DPCTrainer(dtype=self.dtype, inner=False) if inner else None

    def parse(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        if self.inner is not None:
            with torch.no_grad():
                self.inner.model(batch["img"], batch["label"])
                self.model.text_encoder(self.model.names)
        image, label = batch["img"], batch["label"]
        return torch.cat([image, image + 1]), torch.cat([label, (label + 1) % CLASSES])

    def main_loss(self, output: Any, label: Tensor) -> Tensor:
        return sum(F.cross_entropy(logits, torch.arange(len(label))) for logits in output) / 2


TRAINERS = [CoOpTrainer, MaPLeTrainer, CoCoOpTrainer, TupleTrainer, PromptSRCTrainer, DPCTrainer]
SCALAR_TRAINERS = [MaPLeTrainer, CoCoOpTrainer]


def make_batch(dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(11)
    image = torch.randn(BATCH, PIXELS, generator=generator, dtype=torch.float64).to(dtype)
    return {"img": image, "label": torch.randint(CLASSES, (BATCH,), generator=generator)}


def flat_gradient(model: nn.Module) -> Tensor:
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]).double()


def explicit_gradient(trainer: ToyTrainer, regularizer: Any, batch: dict[str, Tensor]) -> Tensor:
    """Gradient of (main loss + regularizer) / divisor, written by hand without the hook."""
    image, label = trainer.parse(batch)
    text_features, image_features = trainer.model.encode(image)
    given = label if trainer.passes_labels else None
    loss = trainer.main_loss(trainer.model.head(text_features, image_features, given), label)
    if regularizer is not None:
        parts = regularizer.compute(FeatureBatch(text=text_features, image=image_features, labels=label))
        loss = loss + sum(parts.values())
    gradients = torch.autograd.grad(loss / trainer.divisor, list(trainer.model.parameters()))
    return torch.cat([g.flatten() for g in gradients]).double()
