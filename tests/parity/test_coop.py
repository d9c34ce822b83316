"""Our CoOp, zero-shot classifier and few-shot lists beside the released ones."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import pytest

from cpt_plugin.encoders import single_template
from cpt_plugin.encoders.templates import ENSEMBLE
from cpt_plugin.toolkit.embedded import generate_fewshot_dataset, subsample_classes
from tests.parity.conftest import released, run_released
from tests.parity.problems import Problem, relative_error
from tests.parity.verdicts import check_forward_and_gradients, check_initial, check_training

SIZES = {"text_width": 128, "vision_width": 64, "text_layers": 3, "vision_layers": 2, "embed_dim": 32}
WORDS = {"N_CTX": 16, "CSC": False, "CTX_INIT": "a photo of a", "CLASS_TOKEN_POSITION": "end"}
SETTINGS = {
    "words, end": WORDS,
    "words, middle": {**WORDS, "CLASS_TOKEN_POSITION": "middle"},
    "16 random, end": {**WORDS, "CTX_INIT": ""},
    "odd number, middle": {**WORDS, "CTX_INIT": "", "N_CTX": 5, "CLASS_TOKEN_POSITION": "middle"},
    "class-specific, front": {**WORDS, "CTX_INIT": "", "N_CTX": 4, "CSC": True, "CLASS_TOKEN_POSITION": "front"},
    "class-specific, end": {**WORDS, "CTX_INIT": "", "N_CTX": 4, "CSC": True},
}
CASES = [
    Problem(f"{name}, {dtype}", "CoOp", "COOP", options, dtype, SIZES)
    for name, options in SETTINGS.items()
    for dtype in ("float32", "float64")
]
ZERO_SHOT = [Problem(f"zero-shot {name}", "ZeroshotCLIP", "", {}, "float32", SIZES, name)
             for name in ("EuroSAT", "Food101", "DescribableTextures")]  # fmt: skip
SHOTS, SEEDS = 5, (1, 2, 3)


def items() -> dict[str, list[dict[str, Any]]]:
    """Shuffled items of 7 classes; one class has fewer training items than shots."""
    rows = {
        part: [
            {"impath": f"{part}/{label}_{i}.png", "label": label, "classname": f"class_{label}"}
            for label in range(7)
            for i in range(3 if (part, label) == ("train", 4) else 9)
        ]
        for part in ("train", "val", "test")
    }
    for part in rows.values():
        random.Random(99).shuffle(part)
    return rows


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    repository, dassl = released("CPT_RELEASED_COOP", "CPT_RELEASED_DASSL")
    return run_released(
        repository, dassl, tmp_path_factory.mktemp("coop"), ["trainers.coop", "trainers.zsclip"],
        [*CASES, *ZERO_SHOT], items=items(), seeds=SEEDS, shots=SHOTS,
    )  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_coop(case: Problem, theirs: dict[str, Any], compare: Any) -> None:
    ours, released_run = compare(case, theirs), theirs[case.name]
    check_initial(ours, released_run, words=bool(case.options["CTX_INIT"]))
    check_forward_and_gradients(case, ours, released_run)
    check_training(case, ours, released_run)


@pytest.mark.parametrize("case", ZERO_SHOT, ids=lambda case: case.name)
def test_zero_shot(case: Problem, theirs: dict[str, Any], compare: Any) -> None:
    error = relative_error(compare(case, theirs).logits, theirs[case.name]["logits"])
    print(f"logits {error:.1e}")
    assert error <= 1e-5


def test_templates(theirs: dict[str, Any]) -> None:
    rules = theirs["data rules"]
    assert {name: single_template(name) for name in rules["templates"]} == rules["templates"]
    assert len(rules["templates"]) == 15
    assert list(ENSEMBLE) == rules["ensemble"]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("which", ["all", "base", "new"])
def test_few_shot_lists_are_coops(seed: int, which: str, theirs: dict[str, Any]) -> None:
    class Item(SimpleNamespace):
        pass

    rows = {part: [Item(**row, domain=0) for row in part_rows] for part, part_rows in items().items()}
    draw = random.Random(seed)
    train = generate_fewshot_dataset(rows["train"], num_shots=SHOTS, rng=draw)
    val = generate_fewshot_dataset(rows["val"], num_shots=min(SHOTS, 4), rng=draw)
    parts = subsample_classes(train, val, rows["test"], subsample=which)
    ours = [[(item.impath, item.label, item.classname) for item in part] for part in parts]
    assert ours == theirs["data rules"]["draws"][seed, which]
