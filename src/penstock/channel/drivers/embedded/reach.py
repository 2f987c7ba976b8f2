"""Whether a group that takes a partition over still finds there what it has not settled."""

from __future__ import annotations

import apsw

from penstock.errors import OffsetOutOfRange
from penstock.log import placed
from penstock.log.api import GroupRow, Held, TopicRow


def check(db: apsw.Connection, group: GroupRow, topic: TopicRow, held: Held, number: int) -> None:
    """Compare what the group needs next with what the partition still has.

    Raises:
        OffsetOutOfRange: retention has passed the group; both offsets and the way out are named.
    """
    begin = placed.known(db, held.pid).begin
    needed = held.floor if held.oldest is None else min(held.floor, held.oldest)
    if needed >= begin:
        return
    what = "is" if held.oldest is None else "has parked events from there on and is"
    msg = (
        f"group {group.name} needs offset {needed} of topic {topic.name}/{number} ({what} at {held.floor}), and the "
        f"first one that is kept is {begin}: retention has passed it (it was forced, or the group was gone for too "
        "long). Nothing was skipped. Restore a backup that still has it; or put the group where it is to go on "
        f"(`penstock groups seek {group.name}` says first what is lost by it); or give it a new name: then it begins "
        "at what is kept"
    )
    raise OffsetOutOfRange(msg)
