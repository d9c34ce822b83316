"""OpenAI's CLIP models: names, sizes, hashes, where their files lie and come from; standard library only."""

from __future__ import annotations

from pathlib import Path

from cpt_plugin._paths import from_home

CACHE = Path("~/.cache/clip")
SOURCE = "https://openaipublic.azureedge.net/clip/models"

SHA256 = {
    "RN50": "afeb0e10f9e5a86da6080e35cf09123aca3b358a0c3e3b6c78a7b63bc04b6762",
    "RN101": "8fa8567bab74a42d41c5915025a8e4538c3bdbe8804a470a72f30b0d94fab599",
    "RN50x4": "7e526bd135e493cef0776de27d5f42653e6b4c8bf9e0f653bb11773263205fdd",
    "RN50x16": "52378b407f34354e150460fe41077663dd5b39c54cd0bfd2b27167a4a06ec9aa",
    "RN50x64": "be1cfb55d75a9666199fb2206c106743da0f6468c9d327f3e0d0a543a9919d9c",
    "ViT-B/32": "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af",
    "ViT-B/16": "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f",
    "ViT-L/14": "b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836",
    "ViT-L/14@336px": "3035c92b350959924f9f00213499208652fc7ea050643e8b385c2dac08641f02",
}
SIZES = {
    "RN50": (224, 0),
    "RN101": (224, 0),
    "RN50x4": (288, 0),
    "RN50x16": (384, 0),
    "RN50x64": (448, 0),
    "ViT-B/32": (224, 12),
    "ViT-B/16": (224, 12),
    "ViT-L/14": (224, 24),
    "ViT-L/14@336px": (336, 24),
}
"""Pixels of a model's images, and blocks of its ViT (0 for a ResNet)."""
TEXT_LAYERS = 12
"""Blocks of the text tower, in all of them."""


def file_name(name: str) -> str:
    """Name of a model's file in the cache, e.g. ``ViT-B-16.pt``."""
    return name.replace("/", "-").replace("@", "-") + ".pt"


def cache_file(name: str) -> Path:
    """Where OpenAI's own loader keeps a model."""
    return from_home(CACHE) / file_name(name)


def places(name: str, root: str | Path | None = None) -> list[Path]:
    """Where a model's file is looked for: ``root`` itself if it is a file, or in the folder ``root``; the cache."""
    if root is None:
        return [cache_file(name)]
    given = from_home(root)
    return [given if given.is_file() else given / file_name(name), cache_file(name)]


def find(name: str, root: str | Path | None = None) -> Path | None:
    """The first of the :func:`places` where there is a file; None if there is none."""
    return next((path for path in places(name, root) if path.is_file()), None)


def address(name: str) -> str:
    """Public address of a model's file; it contains the SHA-256."""
    return f"{SOURCE}/{SHA256[name]}/{file_name(name)}"


def instructions(name: str, reason: str, root: str | Path | None = None) -> str:
    """A screen of text: why a model's weights are not there, which file goes where, and how to get it."""
    file = cache_file(name)
    return "\n".join(
        [
            f"the weights of CLIP {name} {reason}",
            f"  file:      {' or '.join(map(str, places(name, root)))}",
            f"  address:   {address(name)}",
            f"  get them:  mkdir -p {file.parent} && curl -L -o {file} {address(name)}",
            "  or give:   --backbone FILE (weights elsewhere), or MODEL.BACKBONE.PATH FOLDER (that holds the file)",
            "  no model:  'shapes' with the embedded model needs none, e.g. bash scripts/run.sh maple_cpt shapes 0.25",
        ]
    )
