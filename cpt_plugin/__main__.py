"""`python -m cpt_plugin`."""

import sys

from cpt_plugin.cli.main import main

sys.exit(main())
