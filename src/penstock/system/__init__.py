"""The only door to time, chance, identity, files and threads; a real side and a simulated side.

What is exported is loaded when it is asked for: the small locks beside it are used where no event loop is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from penstock.system.ports import Clock as Clock
    from penstock.system.ports import Offload as Offload
    from penstock.system.ports import System as System
    from penstock.system.ports import real_system as real_system

__all__ = ["Clock", "Offload", "System", "real_system"]


def __getattr__(name: str) -> Any:
    """Load an exported name.

    Raises:
        AttributeError: `name` is not exported.
    """
    if name not in __all__:
        raise AttributeError(f"module 'penstock.system' has no attribute {name!r}")
    from penstock.system import ports  # noqa: PLC0415 - loads asyncio

    return getattr(ports, name)
