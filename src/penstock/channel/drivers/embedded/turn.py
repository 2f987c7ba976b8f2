"""Turns: what one of several processes does at a time, such as reading a source; by the same seats as groups have."""

from __future__ import annotations

from hashlib import sha256

from penstock.channel import sharing
from penstock.channel.drivers.embedded.port import Company, LogPort

_HELD = 1


class EmbeddedTurn:
    """One process's wish for the turn that `name` stands for. It is kept until it is closed, or its process stops.

    Who was given up and goes on may believe for a moment that it has the turn still: what is done must stand that (a
    source publishes under sequences).
    """

    def __init__(self, port: LogPort, name: str, label: str) -> None:
        key = f"turn-{sha256(name.encode()).hexdigest()[:32]}"
        self._company: Company = port.company(key, label, partitions=1, changed=lambda: None)

    def take(self) -> str:
        """Empty when this process has the turn now; else who has it. Does not wait."""
        seats = self._company.seats()
        if sharing.moves(self._company.name, seats, 1).lost:
            self._company.mark(0, None)
            seats = self._company.seats()
        holder = sharing.holders(seats).get(0)
        if holder is None:
            self._company.mark(0, sharing.CLAIMING)
            seats = self._company.seats()
            if sharing.contested(self._company.name, seats, [0]):
                self._company.mark(0, None)
                return "another process that began at the same time"
            self._company.mark(0, _HELD)
            return ""
        return "" if holder.name == self._company.name else holder.label or "another process"

    def close(self) -> None:
        """Let somebody else have it; may be called twice."""
        self._company.close()
