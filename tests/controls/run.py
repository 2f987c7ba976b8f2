"""`make controls`: every planted control; exits with 1 when a test stays green without its guard.

For each entry of controls.toml, a patch takes one guard out of a copy of the product's code, and the named test, run
there, must be red. It must be green on an unpatched copy first: a test that is always red guards nothing. The patches
of the simulation (`sim_*.patch`) must be found by its seeds: see tests/sim/planted.py. Words choose among both kinds.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from tests.controls.running import main
    from tests.sim.planted import shown

    NONE_CHOSEN = 2
    codes = {main(sys.argv[1:]), shown(sys.argv[1:])}
    sys.exit(max(codes - {NONE_CHOSEN}, default=NONE_CHOSEN))
