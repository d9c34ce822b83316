"""The zero-edit runner: somebody else's ``train.py`` with regularizers, a long tail and the repairs of ``compat``.

``python -m cpt_plugin [--regularizers cpt,npt] [...] train.py <its usual arguments> KEY VALUE ...``
"""
