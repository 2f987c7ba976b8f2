"""The only door to time, chance, identity, files and threads; a real side and a simulated side."""

from penstock.system.ports import Clock, Offload, System, real_system

__all__ = ["Clock", "Offload", "System", "real_system"]
