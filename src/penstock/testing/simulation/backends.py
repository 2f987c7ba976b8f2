"""The stores that a simulated world runs on: the memory model, and the embedded log's real SQL on SQLite in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from penstock.channel.api import Channel
from penstock.channel.drivers.memory import MemoryChannel
from penstock.errors import ConfigError
from penstock.system.ports import System

if TYPE_CHECKING:
    from penstock.channel.drivers.embedded.port import InlinePort


class Backend(Protocol):
    """One store, and handles on it as several processes would have."""

    def channel(self, system: System) -> Channel:
        """A new handle, as another process would have it."""
        ...

    def gone(self, channel: Channel) -> None:
        """The process with this handle is dead, or given up while it is stopped: what it owns is free."""
        ...


class MemoryBackend:
    """The memory driver's model."""

    def __init__(self) -> None:
        self._first: MemoryChannel | None = None

    def channel(self, system: System) -> Channel:
        """See `Backend`."""
        if self._first is None:
            self._first = MemoryChannel(system=system)
            return self._first
        return self._first.another(system=system)

    def gone(self, channel: Channel) -> None:
        """See `Backend`."""
        assert isinstance(channel, MemoryChannel)
        for group in channel.owns():
            channel.seize(group)


class EmbeddedBackend:
    """The embedded log's tables and driver, inline."""

    def __init__(self) -> None:
        from penstock.channel.drivers.embedded.port import Disk  # noqa: PLC0415  only worlds on SQLite load it

        self._disk = Disk()
        self._ports: dict[int, InlinePort] = {}

    def channel(self, system: System) -> Channel:
        """See `Backend`."""
        from penstock.channel.drivers.embedded.driver import EmbeddedChannel  # noqa: PLC0415  as above
        from penstock.channel.drivers.embedded.port import InlinePort  # noqa: PLC0415

        port = InlinePort(self._disk, system)
        channel = EmbeddedChannel(None, system=system, port=port)
        self._ports[id(channel)] = port
        return channel

    def gone(self, channel: Channel) -> None:
        """See `Backend`."""
        self._ports[id(channel)].die()


BACKENDS = {"memory": MemoryBackend, "embedded": EmbeddedBackend}


def backend(name: str) -> Backend:
    """A new, empty store.

    Raises:
        ConfigError: no such backend.
    """
    if name not in BACKENDS:
        raise ConfigError(f"{name!r}; expected one of {', '.join(BACKENDS)}", path="backend")
    return BACKENDS[name]()
