"""Figures from records and from features: one kind a file, listed in :data:`~cpt_plugin.results.figures.registry.KINDS`.

matplotlib is loaded when a figure is drawn, never before.
"""
