"""The installed OpenAI `clip` package, loaded by file location.

`import clip` would execute the package's `__init__` (torchvision, pkg_resources) and, inside somebody's
repository, pick up their own `clip/` folder; so its two self-contained modules are loaded on their own.
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from types import ModuleType

from cpt_plugin._paths import run_as_module
from cpt_plugin.errors import ConfigError

_DISTRIBUTIONS = ("clip-anytorch", "openai-clip", "clip")
_NEEDED = ("model.py", "simple_tokenizer.py", "bpe_simple_vocab_16e6.txt.gz")


@cache
def package_folder() -> Path:
    """Folder of the installed distribution that provides CLIP's model file and tokenizer.

    Raises:
        ConfigError: no such distribution is installed.
    """
    for name in _DISTRIBUTIONS:
        try:
            folder = Path(str(distribution(name).locate_file("clip")))
        except PackageNotFoundError:
            continue
        if all((folder / file).is_file() for file in _NEEDED):
            return folder
    raise ConfigError(
        f"no installed CLIP package among {', '.join(_DISTRIBUTIONS)}; "
        "install it with `pip install -c constraints.txt clip-anytorch`"
    )


def _load(stem: str, private_name: str) -> ModuleType:
    path = package_folder() / f"{stem}.py"
    try:
        module = run_as_module(path, private_name)
    except ImportError as error:
        raise ConfigError(
            f"CLIP's {path} needs a package that is missing ({error}); install {error.name}"
        ) from error
    if module is None:
        raise ConfigError(f"{path} cannot be loaded as a Python module; reinstall clip-anytorch")
    return module


@cache
def model_module() -> ModuleType:
    """CLIP's `model.py` (classes CLIP, LayerNorm, ...)."""
    return _load("model", "cpt_plugin._openai_clip_model")


@cache
def tokenizer_module() -> ModuleType:
    """CLIP's `simple_tokenizer.py` (class SimpleTokenizer)."""
    return _load("simple_tokenizer", "cpt_plugin._openai_clip_tokenizer")
