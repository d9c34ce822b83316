"""A small stand-in for a clone of the repository: only the files whose names make up method names."""

from __future__ import annotations

from pathlib import Path

LEARNERS = {"coop": "CoOp", "maple": "MaPLe", "shallow_vl": "ShallowVL", "zeroshot": "ZeroshotCLIP"}
REGULARIZERS = ("cpt", "dapt", "npt")


def make_repository(folder: Path, dpc: bool = True, regularizers: tuple[str, ...] = REGULARIZERS) -> Path:
    """Write the files and return the folder."""
    texts = {
        "cpt_plugin/methods.py": "",
        "cpt_plugin/regularizers/__init__.py": "",
        "cpt_plugin/regularizers/base.py": "",
        "cpt_plugin/regularizers/_tools.py": "",
        "configs/datasets/shapes.yaml": "",
        "configs/datasets/eurosat.yaml": "",
        "configs/datasets/dtd.yaml": "",
        "trainers/__init__.py": "",
        "trainers/_base.py": "import torch\n",
    }
    for name, trainer in LEARNERS.items():
        texts[f"trainers/{name}.py"] = (
            f'"""About {name}.\n\nMore."""\nimport torch\n\nclass Helper:\n    ...\n\n'
            f'@prompt_learner("{name}")\nclass {trainer}:\n    ...\n'
        )
    for name in regularizers:
        texts[f"cpt_plugin/regularizers/{name}.py"] = f'"""The {name} losses."""\nimport torch\n'
    if dpc:
        texts["trainers/dpc.py"] = '"""Two prompts."""\n'
    for path, text in texts.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text, encoding="utf-8")
    return folder
