"""Makes the `bench` package importable however pytest is started: it is not part of the installed project."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))
