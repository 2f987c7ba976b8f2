"""Who of a group's members gets which partitions: a pure function of what the live members hold.

Every member computes it for itself, from the same facts. It is sticky (a member that comes or goes moves only what
must move) and even (shares differ by one at most). What it says is a wish: a partition is claimed when nobody who
lives holds it, and what two claim at once is decided by the epoch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

CLAIMING = 0
"""The epoch of a partition that a member is about to claim."""


class Seat(msgspec.Struct, frozen=True):
    """A live member: its name among all members, what people call it, and partition → epoch of what it holds."""

    name: str
    label: str
    holds: Mapping[int, int]


class Moves(msgspec.Struct, frozen=True):
    """What a member is to do: partitions it has lost (and to whom), is to give up, and may claim now."""

    lost: Mapping[int, Seat]
    give: Sequence[int]
    claim: Sequence[int]


def holders(seats: Sequence[Seat]) -> dict[int, Seat]:
    """Partition → the member that holds it: of several (one is a zombie) that with the newest epoch."""
    found: dict[int, Seat] = {}
    for seat in sorted(seats, key=lambda seat: seat.name):
        for partition, epoch in seat.holds.items():
            other = found.get(partition)
            if other is None or other.holds[partition] < epoch:
                found[partition] = seat
    return found


def shares(seats: Sequence[Seat], partitions: int, *, together: bool = False) -> dict[int, str]:
    """Partition → the name of the member that should have it.

    Each member keeps what it holds up to its share, lowest numbers first; what is over or free goes to those who have
    less, by name. The larger shares are those of the members that hold most. `together`: one member gets all.
    """
    held: dict[str, list[int]] = {seat.name: [] for seat in seats}
    for partition, seat in sorted(holders(seats).items()):
        held[seat.name].append(partition)
    if not held:
        return {}
    ordered = sorted(held, key=lambda name: (-len(held[name]), name))
    base, larger = (0, 0) if together else divmod(partitions, len(ordered))
    room = {name: base + (index < larger) for index, name in enumerate(ordered)}
    if together:
        room[ordered[0]] = partitions
    wanted: dict[int, str] = {}
    for name, mine in held.items():
        wanted.update(dict.fromkeys(mine[: room[name]], name))
    free = [partition for partition in range(partitions) if partition not in wanted]
    for name in sorted(held):
        take = room[name] - min(room[name], len(held[name]))
        wanted.update(dict.fromkeys(free[:take], name))
        del free[:take]
    return wanted


def moves(me: str, seats: Sequence[Seat], partitions: int, *, together: bool = False) -> Moves:
    """What the member named `me`, which must be among `seats`, is to do now."""
    holding = holders(seats)
    mine = next(seat for seat in seats if seat.name == me).holds
    wanted = shares(seats, partitions, together=together)
    owned = [partition for partition in sorted(mine) if mine[partition] != CLAIMING]
    lost = {partition: holding[partition] for partition in owned if holding[partition].name != me}
    give = [partition for partition in owned if partition not in lost and wanted[partition] != me]
    claim = [partition for partition in range(partitions) if wanted[partition] == me and partition not in holding]
    return Moves(lost, give, claim)


def contested(me: str, seats: Sequence[Seat], partitions: Sequence[int]) -> set[int]:
    """Of `partitions`, which this member is about to claim, those that another live member has or claims too."""
    taken = {partition for seat in seats if seat.name != me for partition in seat.holds}
    return taken.intersection(partitions)


def told(group: str, me: str, seats: Sequence[Seat]) -> str:
    """Who has the group's partitions, for a member that has none; empty when nobody has any."""
    others = {seat.label or "another member" for seat in holders(seats).values() if seat.name != me}
    if not others:
        return ""
    return f"group {group} is owned by {', '.join(sorted(others))}; waiting for a partition or for it to go"


class Table:
    """The members of one group whose seats are in one memory; each of them sees the others at once."""

    def __init__(self) -> None:
        self._chairs: dict[str, Chair] = {}
        self._count = 0

    def sit(self, label: str) -> Chair:
        """Become a member."""
        self._count += 1
        chair = Chair(self, f"{self._count:08d}", label)
        self._chairs[chair.name] = chair
        return chair

    def seats(self) -> list[Seat]:
        """The live ones, by name."""
        return [Seat(c.name, c.label, dict(c.holds)) for c in self._chairs.values() if c.live]

    def rise(self, chair: Chair) -> None:
        """Be no member any more."""
        self._chairs.pop(chair.name, None)


class Chair:
    """One member's seat in memory. `live` is false from when it is given up until it does something again."""

    def __init__(self, table: Table, name: str, label: str) -> None:
        self.name = name
        self.label = label
        self.holds: dict[int, int] = {}
        self.live = True
        self._table = table

    def seats(self) -> list[Seat]:
        """Every live member, this one included: it lives, since it looks."""
        self.live = True
        return self._table.seats()

    def mark(self, partition: int, epoch: int | None) -> None:
        """Hold the partition at this epoch (`CLAIMING`: about to), or not any more."""
        if epoch is None:
            self.holds.pop(partition, None)
        else:
            self.holds[partition] = epoch

    def close(self) -> None:
        """Leave the table; may be called twice."""
        self._table.rise(self)
