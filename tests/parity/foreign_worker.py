"""Examines the hook on the released trainers of one repository, in a process of its own.

Usage: python -m tests.parity.foreign_worker FOLDER INDICES RESULT (INDICES of cases of one repository, "3,4")
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from cpt_plugin import CPTHook, CPTLoss, SemanticClusters
from cpt_plugin.encoders import freeze_clip
from cpt_plugin.errors import CPTError
from cpt_plugin.hook import HookHandle
from cpt_plugin.regularizers import build as build_regularizers
from tests.parity.foreign import CASES
from tests.parity.foreign_cases import CLUSTER_SIZE, WEIGHTS, Case
from tests.parity.foreign_launch import code_of
from tests.parity.foreign_runs import Attach, Loss, build, prerequisites, run, run_by_hand, steps, whole_training
from tests.parity.foreign_setup import clip_modules, compute_in, import_released, serve_weights, write_files
from tests.parity.problems import relative_error

_ROUNDING = 1e-6


def hook(case: Case, frozen: Tensor, weight: float = 1.0) -> Attach:
    """Attaches the case's line, with weights and a cluster size; ``trainer`` in it is the one attached to."""
    weights = {key: weight * value for key, value in WEIGHTS.items()}

    def attach(trainer: Any) -> HookHandle:
        names = {"frozen_text": frozen, "torch": torch, "trainer": trainer}
        return CPTHook(**weights, cluster_size=CLUSTER_SIZE, **eval(f"dict({case.hook})", names)).attach(trainer)

    return attach


def plain_clip(folder: Path, dtype: torch.dtype) -> Any:
    return freeze_clip(torch.load(folder / "weights.pt"), "tiny", "", dtype=dtype).model


def frozen_text(case: Case, folder: Path, names: list[str], dtype: torch.dtype) -> Tensor:
    """Features of the class names by plain CLIP and the repository's own tokenizer."""
    tokenize = clip_modules(case.repository, "tokenize")[0].tokenize
    tokens = [tokenize(case.template.replace("{}", name)) for name in names]
    return plain_clip(folder, dtype).encode_text(torch.cat(tokens))


def unit(features: Tensor) -> Tensor:
    return features / features.norm(dim=-1, keepdim=True)


def package_loss(frozen: Tensor, names: list[str]) -> Loss:
    loss = CPTLoss(frozen, names, **WEIGHTS, cluster_size=CLUSTER_SIZE)
    return lambda image, text, labels: loss(image=image, text=text, labels=labels)[0]


def formula(frozen: Tensor, names: list[str]) -> Loss:
    """CPT written out: sums over the pairs of a cluster, means over samples of a class, sums over dimensions.

    Where text features are the frozen ones but for rounding (TaskRes begins so), they have no direction to go back.
    """
    groups = SemanticClusters.fit(frozen, names, cluster_size=CLUSTER_SIZE).assignment.tolist()
    clusters = [[i for i, g in enumerate(groups) if g == m] for m in sorted(set(groups))]

    def of_text(text: Tensor) -> tuple[Tensor, Tensor]:
        g = unit(text)
        pairs = [(i, j, 1 / (len(s) - 1)) for s in clusters for i in s for j in s if i != j]
        etf = torch.stack([((g[i] * g[j]).sum() + aim) ** 2 for i, j, aim in pairs]).sum() / len(clusters)
        moved = g - unit(frozen)
        return etf, torch.where(moved.abs() < _ROUNDING, moved.detach(), moved).abs().sum() / len(g)

    def loss(image: Tensor, text: Tensor, labels: Tensor) -> Tensor:
        each = [text] if text.ndim == 2 else list(text)
        etf, rs = (torch.stack(values).mean() for values in zip(*map(of_text, each), strict=True))
        distances: dict[int, list[Tensor]] = {}
        for b, y in enumerate(labels.tolist()):
            own = each[b if text.ndim == 3 else 0][y]
            distances.setdefault(y, []).append(((unit(image[b]) - unit(own)) ** 2).sum())
        cc = torch.stack([torch.stack(values).mean() for values in distances.values()]).mean()
        return WEIGHTS["weight_etf"] * etf + WEIGHTS["weight_cc"] * cc + WEIGHTS["weight_rs"] * rs

    return loss


def largest_error(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    """Largest relative error of any tensor; tensors that are 0 in both do not count."""
    assert ours.keys() == theirs.keys(), (sorted(ours), sorted(theirs))
    pairs = [(ours[name], value) for name, value in theirs.items() if value.is_floating_point()]
    return max(relative_error(a, b) for a, b in pairs if a.abs().max() > 0 or b.abs().max() > 0)


def identical(a: dict[str, Any], b: dict[str, Any]) -> bool:
    """Bit for bit: gradients, weights, buffers, momenta, summaries and random number generators."""
    same = [a[part].keys() == b[part].keys() for part in ("gradients", "state")]
    same += [torch.equal(a[part][name], b[part][name]) for part in ("gradients", "state") for name in a[part]]
    return all(same) and a["summaries"] == b["summaries"] and a["generators"] == b["generators"]


def examine(train: Any, case: Case, folder: Path) -> dict[str, Any]:
    """All that the table says about one trainer."""
    repository = case.repository
    compute_in(torch.float32)
    write_files(folder, case)
    serve_weights(repository, folder / "weights.pt")
    prerequisites(train, case, folder)
    names = build(train, case, folder).dm.dataset.classnames
    frozen = frozen_text(case, folder, names, torch.float32)
    if case.refused:
        return examine_refusal(train, case, folder, frozen)
    plain = run(train, case, folder)
    zero = run(train, case, folder, hook(case, frozen, 0.0))
    result: dict[str, Any] = {"refused": "", "weight 0 identical": identical(zero, plain)}
    for dtype, loss in ((torch.float32, package_loss), (torch.float64, formula)):
        compute_in(dtype)
        frozen = frozen_text(case, folder, names, dtype)
        hooked = run(train, case, folder, hook(case, frozen))
        by_hand = run_by_hand(train, case, folder, loss(frozen, names))
        result[str(dtype).removeprefix("torch.")] = {
            "tensors": len(by_hand["gradients"]),
            "gradient": largest_error(hooked["gradients"], by_hand["gradients"]),
            "trained": largest_error(hooked["state"], by_hand["state"]),
            "frozen text": relative_error(hooked["regularizers"][0]._frozen_text, frozen),
        }
        if dtype == torch.float32:
            result |= {
                "attaching drew": hooked["attaching drew"],
                "same draws": hooked["generators"] == plain["generators"],
                "same main losses": same_losses(hooked["summaries"][0], plain["summaries"][0]),
                "weight moves gradients by": largest_error(hooked["gradients"], plain["gradients"]),
                "after the features": unmoved(hooked["gradients"], plain["gradients"]),
                "weight changes training": not identical(hooked, plain),
                "added to the summary": added(hooked["summaries"][-1], plain["summaries"][-1]),
                "parts": hooked["parts"],
            }
    if case.whole:
        compute_in(torch.float32)
        frozen = frozen_text(case, folder, names, torch.float32)
        result["training"] = whole_training(train, case, folder, hook(case, frozen))
        result["prototypes"] = examine_prototypes(train, case, folder)
    return result


def same_losses(hooked: dict[str, Any], plain: dict[str, Any]) -> bool:
    """Whether the losses that the trainer itself reports, at least one, are the same."""
    losses = [name for name in plain if "loss" in name]
    return bool(losses) and all(hooked[name] == plain[name] for name in losses)


def added(summary: dict[str, float], plain: dict[str, float]) -> dict[str, float]:
    """What the hook puts into the summary of a step."""
    return {name: value for name, value in summary.items() if name not in plain}


def unmoved(hooked: dict[str, Tensor], plain: dict[str, Tensor]) -> list[str]:
    """Names of trained tensors whose gradient the regularizer leaves as it is: they act after the features."""
    return [name for name, gradient in plain.items() if torch.equal(gradient, hooked[name])]


def examine_prototypes(train: Any, case: Case, folder: Path) -> dict[str, Any]:
    """CPT and DAPT together: the error of the class means that the hook made, and the parts of one step."""
    trainer = build(train, case, folder)
    settings = {"CPT": {"CLUSTER_SIZE": CLUSTER_SIZE}, "DAPT": {"BETA_V": 10.0}}
    handle = CPTHook(regularizers=build_regularizers(["cpt", "dapt"], settings)).attach(trainer)
    found = next(r for r in handle.regularizers if r.name == "dapt")._prototypes
    clip = plain_clip(folder, torch.float32)
    features: dict[int, list[Tensor]] = {}
    for item in trainer.dm.dataset.train_x:
        with Image.open(item.impath) as image:
            view = trainer.dm.test_loader.dataset.transform(image.convert("RGB"))
        features.setdefault(item.label, []).append(unit(clip.encode_image(view[None]))[0])
    expected = torch.stack([torch.stack(features[label]).mean(0) for label in sorted(features)])
    summary = steps(trainer, 1)["summaries"][0]
    return {"error": relative_error(found, expected), "parts": handle.parts, "summary": summary}


def examine_refusal(train: Any, case: Case, folder: Path, frozen: Tensor) -> dict[str, Any]:
    """Where the hook refuses and what it says; a step after detaching shows that the trainer still works."""
    trainer = build(train, case, folder)
    try:
        handle = hook(case, frozen)(trainer)
    except CPTError as error:
        return {"refused": "on attaching", "message": str(error)}
    try:
        steps(trainer, 1)
    except CPTError as error:
        handle.detach()
        steps(trainer, 1)
        return {"refused": "in the first step", "message": str(error)}
    return {"refused": ""}


def main(folder: str, indices: str, result: str) -> None:
    os.chdir(folder)
    cases = [CASES[i] for i in map(int, indices.split(","))]
    (repository,) = {case.repository for case in cases}
    train = import_released(repository, code_of(repository))
    torch.save({case.name: result_of(train, case, Path(folder)) for case in cases}, result)


def result_of(train: Any, case: Case, folder: Path) -> dict[str, Any]:
    """What came of a case; an error of the hook where it must work is a result, too."""
    try:
        return examine(train, case, folder)
    except CPTError as error:
        return {"refused": "unexpectedly", "message": str(error)}


if __name__ == "__main__":
    main(*sys.argv[1:])
