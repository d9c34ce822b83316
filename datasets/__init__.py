"""Data sets of this repository (run from here, never installed)."""
