"""What retention leaves of the topics that a group keeps for itself: letters that keys wait for, commands not taken."""

from __future__ import annotations

import msgspec

from penstock.channel.api import GroupSpec
from penstock.channel.drivers.embedded.upkeep import Host
from penstock.delivery import deadletter, redrive
from penstock.delivery.lot import SPACE, heads_of
from penstock.log import catalogue
from penstock.log.progress import Entry
from penstock.log.retention import Apart

_group_spec = msgspec.json.Decoder(GroupSpec).decode


def apart_of(host: Host, topic: str) -> Apart | None:
    """Whose dead letters or commands the topic holds; None when it holds none of a group's."""
    name, dot, kind = topic.rpartition(".")
    if dot + kind not in (deadletter.SUFFIX, redrive.SUFFIX):
        return None
    group = next((row for row in host.port.look(catalogue.groups) if row.name == name), None)
    if group is None:
        return None
    source = host.row(_group_spec(group.spec).topic)
    inputs = dict(zip(host.row(topic).pids, source.pids, strict=False))
    if dot + kind == deadletter.SUFFIX:
        return Apart(name, inputs, SPACE, _letters_needed, f"keys of group {name} wait for its letters")
    why = f"group {name} has not taken what was said of its letters"
    return Apart(name, inputs, redrive.POSITION_SPACE, _commands_needed, why, always=True)


def _letters_needed(parked: list[Entry]) -> int | None:
    """All of them while a key waits (the policy *block*): without its letter there is nothing to redrive or skip."""
    return 0 if any(head.held for head, _ in heads_of((key, value) for _, key, value in parked)) else None


def _commands_needed(taken: list[Entry]) -> int:
    """Those that are not taken: they are read on from there, and what people said is not forgotten."""
    return next((int.from_bytes(value) for _, _, value in taken), 0)
