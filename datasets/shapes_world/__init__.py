"""The embedded benchmark: a drawn world of textured, colored shapes.

The names of its worlds are in :mod:`cpt_plugin.worlds`; here is what they mean. Only :mod:`render`,
:mod:`geometry` and :mod:`draw` need torch.
"""
