"""The training toolkit under Dassl's names: the real Dassl when it is importable, else the embedded engine.

``CPT_TOOLKIT=dassl`` or ``CPT_TOOLKIT=embedded`` forces one. ``NAME`` tells which one serves; every log and
record repeats it, because promises of bit-identical resume hold for the embedded engine only.
"""

from __future__ import annotations

import importlib.util
import os

from cpt_plugin.errors import ConfigError

_CHOICES = ("dassl", "embedded")


def choose(environ: dict[str, str] | os._Environ[str] = os.environ) -> str:
    """Name of the toolkit that serves: ``CPT_TOOLKIT`` when set, else ``dassl`` if importable.

    Raises:
        ConfigError: ``CPT_TOOLKIT`` is neither ``dassl`` nor ``embedded``, or asks for a Dassl that is absent.
    """
    wanted = environ.get("CPT_TOOLKIT", "")
    if wanted and wanted not in _CHOICES:
        raise ConfigError(f"CPT_TOOLKIT={wanted!r} is not one of {', '.join(_CHOICES)}.")
    spec = importlib.util.find_spec("dassl")
    present = spec is not None and spec.origin is not None  # a mere folder of that name has no origin
    if wanted == "dassl" and not present:
        raise ConfigError("CPT_TOOLKIT=dassl, but Dassl is not importable: put its folder on PYTHONPATH, or unset it.")
    return wanted or ("dassl" if present else "embedded")


NAME = choose()

if NAME == "dassl":
    try:
        from cpt_plugin.toolkit.dassl import *  # noqa: F403
        from cpt_plugin.toolkit.dassl import __all__ as _names
    except ImportError as error:
        raise ConfigError(
            f"Dassl is there but cannot be imported ({error}): install what it needs, or set CPT_TOOLKIT=embedded."
        ) from error
else:
    from cpt_plugin.toolkit.embedded import *  # type: ignore[assignment] # noqa: F403
    from cpt_plugin.toolkit.embedded import __all__ as _names

__all__ = ["NAME", "choose", *_names]
