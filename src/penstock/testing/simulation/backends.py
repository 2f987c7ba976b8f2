"""The stores that a simulated world runs on: the memory model, and the embedded log's real SQL on SQLite in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from penstock.channel.drivers.memory import MemoryChannel
from penstock.errors import ConfigError
from penstock.system.ports import System
from penstock.testing.simulation.faults import Whole

if TYPE_CHECKING:
    from penstock.channel.drivers.embedded.port import InlinePort


class Backend(Protocol):
    """One store, and handles on it as several processes would have."""

    def channel(self, system: System) -> Whole:
        """A new handle, as another process would have it."""
        ...

    def gone(self, channel: Whole) -> None:
        """The process with this handle is dead, or given up while it is stopped: what it owns is free."""
        ...

    def close(self) -> None:
        """The world is over; its store may be used for another one."""
        ...


class MemoryBackend:
    """The memory driver's model."""

    def __init__(self) -> None:
        self._first: MemoryChannel | None = None

    def channel(self, system: System) -> Whole:
        """See `Backend`."""
        if self._first is None:
            self._first = MemoryChannel(system=system)
            return self._first
        return self._first.another(system=system)

    def gone(self, channel: Whole) -> None:
        """See `Backend`."""
        assert isinstance(channel, MemoryChannel)
        channel.seize()

    def close(self) -> None:
        """See `Backend`."""
        self._first = None


class EmbeddedBackend:
    """The embedded log's tables and driver, inline."""

    def __init__(self) -> None:
        self._disk = _SPARE.pop() if _SPARE else _Disk()
        self._disk.begin()
        self._ports: dict[int, InlinePort] = {}

    def channel(self, system: System) -> Whole:
        """See `Backend`."""
        from penstock.channel.drivers.embedded.driver import EmbeddedChannel  # noqa: PLC0415  as above
        from penstock.channel.drivers.embedded.port import InlinePort  # noqa: PLC0415

        port = InlinePort(self._disk.disk, system)
        channel = EmbeddedChannel(None, system=system, port=port)
        self._ports[id(channel)] = port
        return channel

    def gone(self, channel: Whole) -> None:
        """See `Backend`."""
        self._ports[id(channel)].die()

    def close(self) -> None:
        """See `Backend`."""
        self._ports.clear()
        _SPARE.append(self._disk)


class _Disk:
    """One SQLite connection for world after world: its prepared statements are what a new one would cost."""

    def __init__(self) -> None:
        from penstock.channel.drivers.embedded.port import Disk  # noqa: PLC0415  only worlds on SQLite load it

        self.disk = Disk()
        db = self.disk.store.db
        self._tables = [name for (name,) in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
        self._rows = {name: db.execute(f'SELECT * FROM "{name}"').fetchall() for name in self._tables}

    def begin(self) -> None:
        """As it was when it was made."""
        self.disk.tables.clear()
        self.disk.waiting.clear()
        db = self.disk.store.db
        with db:
            for name in self._tables:
                db.execute(f'DELETE FROM "{name}"')
                for row in self._rows[name]:
                    db.execute(f'INSERT INTO "{name}" VALUES({",".join("?" * len(row))})', row)


_SPARE: list[_Disk] = []


BACKENDS = {"memory": MemoryBackend, "embedded": EmbeddedBackend}


def backend(name: str) -> Backend:
    """A new, empty store.

    Raises:
        ConfigError: no such backend.
    """
    if name not in BACKENDS:
        raise ConfigError(f"{name!r}; expected one of {', '.join(BACKENDS)}", path="backend")
    return BACKENDS[name]()
