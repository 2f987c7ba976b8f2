"""Event ids, of topics that record each one once: what is compared, and what cannot be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import blake2b

import msgspec

from penstock.channel.api import Duplicate, Topic
from penstock.channel.bounds import Horizon
from penstock.event.batch import NewBatch, Rows, chosen
from penstock.event.partition import Key, canonical_key
from penstock.log import decide
from penstock.log.api import Ids, Mark
from penstock.log.ids import HALF


def ids_of(batch: NewBatch, horizon: Horizon | None) -> Ids | None:
    """What the log compares of the batch's events; None when its topic does not ask, or no event has an id of its own.

    Ids that are derived from where an event was published are not looked at: those are unique as they are.
    """
    given = batch.payload.attributes.get("id")
    if horizon is None or given is None or not isinstance(batch.payload, Rows):
        return None
    found = marks(batch.topic, given, batch.payload.bodies(), keys=batch.payload.attributes.get("key"))
    time_s = horizon.time_s
    kept = decide.Horizon(horizon.events, None if time_s is None else int(time_s * 1_000_000))
    return Ids(found, kept) if found else None


def marks(
    topic: str, ids: Sequence[str | None], bodies: Sequence[bytes], *, keys: Sequence[Key | None] | None
) -> list[Mark]:
    """One mark per event that has an id. Two events are the same when body and key are, byte by byte."""
    prefix = blake2b(topic.encode() + b"\0", digest_size=2 * HALF)
    found: list[Mark] = []
    for index, event_id in enumerate(ids):
        if event_id is None:
            continue
        name = prefix.copy()
        name.update(event_id.encode())
        digest = name.digest()
        key = b"" if keys is None else _short(keys[index])
        content = blake2b(bodies[index], digest_size=HALF, key=key).digest()
        found.append((index, int.from_bytes(digest[:HALF], "big", signed=True), digest[HALF:] + content))
    return found


def _short(key: Key) -> bytes:
    """Of a key: what sets contents apart that differ in it alone; of none nothing."""
    canonical = canonical_key(key)
    return b"" if canonical is None else blake2b(canonical, digest_size=2 * HALF).digest()


def refuse(batches: Sequence[NewBatch], topics: Mapping[str, Topic]) -> str:
    """Why their ids cannot be looked after; empty when they can."""
    seen: set[tuple[str, str]] = set()
    for number, batch in enumerate(batches):
        topic, given = topics.get(batch.topic), batch.payload.attributes.get("id")
        if topic is None or topic.spec.dedupe is None or given is None:
            continue
        if not isinstance(batch.payload, Rows):
            return (
                f"topic {batch.topic} records each event id once, and batch {number} has ids beside columns: send rows"
            )
        for index, event_id in enumerate(given):
            if (batch.topic, event_id) in seen:
                return (
                    f"batch {number}, event {index}: id {event_id!r} is twice in this publish, and topic {batch.topic} "
                    "records each id once: leave one out"
                )
            if event_id is not None:
                seen.add((batch.topic, event_id))
    return ""


def without(batches: Sequence[NewBatch], duplicates: Sequence[Duplicate]) -> list[NewBatch | None]:
    """The batches without these events; None for one of which nothing is left."""
    out: list[NewBatch | None] = list(batches)
    leaving: dict[int, set[int]] = {}
    for one in duplicates:
        leaving.setdefault(one.batch, set()).add(one.index)
    for number, indexes in leaving.items():
        batch = batches[number]
        assert isinstance(batch.payload, Rows)
        kept = [index for index in range(batch.count) if index not in indexes]
        attributes = {name: chosen(values, kept) for name, values in batch.payload.attributes.items()}
        payload = Rows.of(chosen(batch.payload.bodies(), kept), attributes, valid=batch.payload.valid)
        out[number] = msgspec.structs.replace(batch, count=len(kept), payload=payload) if kept else None
    return out
