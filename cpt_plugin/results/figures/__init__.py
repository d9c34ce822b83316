"""Figures from records and from features: one kind a file, listed in ``registry.KINDS``.

matplotlib is loaded when a figure is drawn, never before.
"""
