"""The hook: regularizers in the training of any Dassl-style prompt trainer, without editing it."""

from __future__ import annotations

from cpt_plugin.hook.hook import CPTHook, HookHandle

__all__ = ["CPTHook", "HookHandle"]
