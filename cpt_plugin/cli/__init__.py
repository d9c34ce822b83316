"""Console: argument checks (standard library only), the run pipeline, `python -m cpt_plugin`."""
