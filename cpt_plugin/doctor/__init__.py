"""What is wrong with this machine, and how to mend it: the checks behind ``python -m cpt_plugin doctor``.

Standard library only. Nothing that may be broken is imported here: :mod:`probe` runs in processes of their own, in
the Python that is looked at, and the other modules judge what it brought back.
"""
