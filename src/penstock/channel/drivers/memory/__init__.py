"""The channel in memory: no files, no server; the readable reference of what every channel promises."""

from penstock.channel.drivers.memory.config import MemoryConfig
from penstock.channel.drivers.memory.driver import MemoryChannel
from penstock.channel.drivers.memory.model import Memory, RecordedStep

__all__ = ["Memory", "MemoryChannel", "MemoryConfig", "RecordedStep"]
