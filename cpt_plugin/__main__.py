"""`python -m cpt_plugin`."""

import sys

if sys.version_info < (3, 11):  # noqa: UP036
    sys.exit(f"error: Python {sys.version_info[0]}.{sys.version_info[1]} is too old: 3.11 or newer is needed")

from cpt_plugin.cli.main import main

sys.exit(main())
