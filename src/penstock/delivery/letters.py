"""Which dead letters retention leaves where they are: under the policy *block* a key waits for what is said of its."""

from __future__ import annotations

import msgspec

from penstock.channel.api import GroupSpec
from penstock.channel.drivers.embedded.upkeep import Host
from penstock.delivery.deadletter import SUFFIX
from penstock.delivery.lot import SPACE, heads_of
from penstock.log import catalogue
from penstock.log.progress import Entry
from penstock.log.retention import Letters

_group_spec = msgspec.json.Decoder(GroupSpec).decode


def letters_of(host: Host, topic: str) -> Letters | None:
    """Whose dead letters the topic holds, for retention; None when it holds none of a group's."""
    if not topic.endswith(SUFFIX):
        return None
    name = topic.removesuffix(SUFFIX)
    group = next((row for row in host.port.look(catalogue.groups) if row.name == name), None)
    if group is None:
        return None
    source = host.row(_group_spec(group.spec).topic)
    return Letters(name, dict(zip(host.row(topic).pids, source.pids, strict=False)), SPACE, _some_wait)


def _some_wait(entries: list[Entry]) -> bool:
    return any(head.held for head, _ in heads_of((key, value) for _, key, value in entries))
