"""``python -m penstock.testing.simulation``; see `runner`."""

import sys

from penstock.testing.simulation.runner import main

sys.exit(main())
