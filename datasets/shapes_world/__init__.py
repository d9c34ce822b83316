"""The embedded benchmark: a drawn world of textured, colored shapes.

Only :mod:`render` and :mod:`geometry` need torch; every other module uses the standard library alone, so that
a command line can be checked before anything is installed.
"""
