"""Declarations as the log records them: topics with their types, and groups: what runs inside one transaction."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import apsw
import msgspec

from penstock.channel import rules
from penstock.channel.api import GroupSpec, Topic, TopicSpec
from penstock.channel.drivers.embedded import wire
from penstock.log import catalogue, placed, progress
from penstock.log.api import GroupRow, TopicRow

_group_from_json: Callable[[bytes], GroupSpec] = msgspec.json.Decoder(GroupSpec).decode


def declared(db: apsw.Connection, specs: Sequence[TopicSpec]) -> dict[str, int] | None:
    """Each topic's schema id when all are recorded exactly so, and nothing needs to be written; else None."""
    ids: dict[str, int] = {}
    rows = {row.name: row for row in catalogue.topics(db)}
    for spec in specs:
        row = rows.get(spec.name)
        if row is None:
            return None
        recorded = wire.spec_from_json(row.spec)
        if rules.declaration_difference(recorded, spec) is not None or rules.grown(recorded, spec) != recorded:
            return None
        known = catalogue.schema(db, row.schema_id) if row.schema_id else None
        if spec.schema is not None and known != (wire.to_json(spec.schema), spec.arrow):
            return None
        ids[spec.name] = row.schema_id
    return ids


def declare(db: apsw.Connection, specs: Sequence[TopicSpec]) -> dict[str, int]:
    """Create what is missing, compare the rest, take over compatible newer types; each topic's schema id.

    Raises:
        ConfigError, DeclaredDifferently, SchemaIncompatible: see `Channel.open`; nothing may be stored then.
    """
    return {spec.name: _declare(db, spec) for spec in specs}


def _declare(db: apsw.Connection, spec: TopicSpec) -> int:
    rows = {row.name: row for row in catalogue.topics(db)}
    rules.check_topic(spec, rows)
    row = rows.get(spec.name)
    if row is None:
        catalogue.create_topic(db, spec.name, wire.spec_to_json(spec), partitions=spec.partitions)
        row = catalogue.topic(db, spec.name)
        assert row is not None
    else:
        rules.check_declared_alike(wire.spec_from_json(row.spec), spec)
    schema_id = row.schema_id
    if spec.schema is not None:
        known = catalogue.schema(db, row.schema_id) if row.schema_id else None
        if known is None or known[0] != wire.to_json(spec.schema):
            rules.check_evolution(map(msgspec.json.decode, catalogue.descriptions(db, row.id)), spec)
        schema_id = catalogue.add_schema(db, row.id, wire.to_json(spec.schema), spec.arrow)
    declaration = wire.spec_to_json(rules.grown(wire.spec_from_json(row.spec), spec))
    if (declaration, schema_id) != (row.spec, row.schema_id):
        catalogue.set_topic(db, row, spec=declaration, schema_id=schema_id)
    return schema_id


def with_schema(db: apsw.Connection, spec: TopicSpec, schema_id: int) -> Topic:
    """The declaration with the type that has this schema id."""
    found = catalogue.schema(db, schema_id) if schema_id else None
    if found is not None:
        spec = msgspec.structs.replace(spec, schema=msgspec.json.decode(found[0]), arrow=found[1])
    return Topic(spec, schema_id)


def known_group(db: apsw.Connection, spec: GroupSpec) -> GroupRow | None:
    """The recorded group; None when it is new.

    Raises:
        DeclaredDifferently: it is recorded otherwise.
    """
    row = next((row for row in catalogue.groups(db) if row.name == spec.name), None)
    if row is not None:
        rules.check_group_alike(_group_from_json(row.spec), spec)
    return row


def declare_group(db: apsw.Connection, spec: GroupSpec, topic: TopicRow) -> GroupRow:
    """Record the group unless it is; a new one begins at the start or, with `latest`, after what is recorded now."""
    known = known_group(db, spec)
    if known is not None:
        return known
    row = catalogue.declare_group(db, spec.name, wire.to_json(spec), partitions=len(topic.pids))
    for pid in topic.pids:
        ends = placed.known(db, pid)
        progress.begin(db, row.id, pid, floor=ends.offset if spec.start == "latest" else ends.begin)
    return row
