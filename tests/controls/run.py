"""`make controls`: every planted control; exits with 1 when a test stays green without its guard.

For each entry of controls.toml, a patch takes one guard out of a copy of the product's code, and the named test, run
there, must be red. It must be green on an unpatched copy first: a test that is always red guards nothing.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from tests.controls.running import main

    sys.exit(main(sys.argv[1:]))
