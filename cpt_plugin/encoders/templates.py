"""The single hand-written prompt template of each data set (from its manifest), and CLIP's lists for ImageNet."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Any

from cpt_plugin.data.manifest import manifest_names, manifest_of
from cpt_plugin.errors import ConfigError

_LOG = logging.getLogger(__name__)

ENSEMBLE = (
    "itap of a {}.",
    "a bad photo of the {}.",
    "a origami {}.",
    "a photo of the large {}.",
    "a {} in a video game.",
    "art of the {}.",
    "a photo of the small {}.",
)
"""The seven templates that OpenAI selected for ImageNet (CLIP, ICML 2021)."""


def single_template(dataset_name: str) -> str:
    """CoOp's template of a data set, with `{}` for the class name.

    The name may be the one of the configuration or of the command line ("EuroSAT", "eurosat"); case and
    punctuation do not matter. A data set without a template of its own gets "a photo of a {}." and a
    logged note. Source: CUSTOM_TEMPLATES of the CoOp code base (IJCV 2022).
    """
    table = _table()
    template = table["templates"].get(_key(dataset_name))
    if template is None:
        template = table["default"]
        _LOG.info("data set %s has no template of its own; using %r", dataset_name, template)
    return template


def dataset_template(cfg: Any) -> str:
    """The template of a configuration's data set: ``DATASET.TEMPLATE`` where it is set, else :func:`single_template`.

    A configuration without these keys (of somebody else's trainer) counts as one without a value.
    """
    dataset = getattr(cfg, "DATASET", None)
    return getattr(dataset, "TEMPLATE", "") or single_template(getattr(dataset, "NAME", ""))


def imagenet_templates(count: int = 80) -> tuple[str, ...]:
    """The first of the 80 templates that OpenAI published for ImageNet (notebook of the CLIP repository, MIT)."""
    return _table()["imagenet"][:count]


def fill_template(template: str, class_names: Sequence[str]) -> list[str]:
    """One text per class name, `_` in a name becoming a space.

    Raises:
        ConfigError: the template does not contain `{}` exactly once.
    """
    if template.count("{}") != 1:
        raise ConfigError(f"template {template!r} must contain {{}} exactly once, where the class name goes")
    return [template.replace("{}", name.replace("_", " ")) for name in class_names]


@cache
def _table() -> dict[str, Any]:
    table = json.loads(files("cpt_plugin").joinpath("assets", "templates.json").read_text(encoding="utf-8"))
    templates = dict(table["templates"])
    for manifest in map(manifest_of, manifest_names()):
        templates |= dict.fromkeys((manifest.name, manifest.registered, manifest.folder), manifest.template)
    return {
        "default": table["default"],
        "templates": {_key(name): text for name, text in templates.items()},
        "imagenet": tuple(table["imagenet"]),
    }


def _key(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())
