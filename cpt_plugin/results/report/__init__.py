"""One self-contained HTML page about an output folder: what was measured, with what, and what is missing."""
