"""The channel suite's promises of topics that record each event id once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from penstock.channel.api import Acked, Capabilities, Duplicate, Publish, Refused, TopicSpec
from penstock.channel.bounds import Horizon
from penstock.errors import PenstockError
from penstock.event.batch import NewBatch, Rows
from penstock.testing.conformance.harness import ChannelSuite, Site, numbered, promise, put, rows

ONCE = TopicSpec("t", partitions=2, dedupe=Horizon(events=10))
HOUR_US = 3_600_000_000


def _deduplicates(powers: Capabilities) -> bool:
    return powers.deduplicates


def _events(
    *pairs: tuple[str | None, bytes], partition: int = 0, at_us: int | None = None, key: Any = None
) -> NewBatch:
    ids = [event_id for event_id, _ in pairs]
    attributes: dict[str, Sequence[Any]] = {"id": ids}
    if key is not None:
        attributes["key"] = [key] * len(pairs)
    payload = Rows.of([body for _, body in pairs], attributes)
    return NewBatch("t", partition, len(pairs), payload, at_us, at_us)


async def _duplicates(channel: Any, sequence: int, *batches: NewBatch, producer: str = "p") -> list[Duplicate]:
    """Publish and expect that nothing is stored, because of these."""
    answer = await channel.publish(Publish(producer, 0, sequence, batches))
    assert isinstance(answer, Refused), answer
    assert answer.conflict == "id", answer
    assert answer.reason
    return list(answer.duplicates)


class IdPromises(ChannelSuite):
    """Promises of channels with the power `deduplicates`, and that the others refuse."""

    @promise(
        "an event whose id is recorded is named with its place, and nothing of its publish is stored",
        power="deduplicates",
        needs=_deduplicates,
    )
    async def test_once(self, site: Site) -> None:
        channel: Any = await site.channel(ONCE)
        await put(channel, 0, _events(("a", b"1"), (None, b"2"), ("b", b"3")))
        mixed = (_events(("c", b"4"), ("a", b"1"), partition=1), _events((None, b"2"), ("b", b"3"), ("d", b"5")))
        found = await _duplicates(channel, 1, *mixed)
        assert found == [Duplicate(0, 1, 0, 0, same=True), Duplicate(1, 1, 0, 2, same=True)]
        other: Any = await site.channel()
        assert await _duplicates(other, 0, _events(("b", b"3")), producer="q") == [Duplicate(0, 0, 0, 2, same=True)]
        assert await channel.read("t", 1, 0, events_max=10) == []
        # The sequence was not used up: what is left is published under it.
        await put(channel, 1, _events(("c", b"4"), partition=1), _events((None, b"2"), ("d", b"5")))
        (batch,) = await channel.read("t", 0, 3, events_max=10)
        assert numbered(batch) == [(3, b"2"), (4, b"5")]

    @promise(
        "the same id with another body or key is told from the same event", power="deduplicates", needs=_deduplicates
    )
    async def test_conflict(self, site: Site) -> None:
        channel: Any = await site.channel(ONCE)
        await put(channel, 0, _events(("a", b"1"), key="k"))
        for other in (_events(("a", b"2"), key="k"), _events(("a", b"1"), key="l"), _events(("a", b"1"))):
            assert await _duplicates(channel, 1, other) == [Duplicate(0, 0, 0, 0, same=False)], other
        assert await _duplicates(channel, 1, _events(("a", b"1"), key="k")) == [Duplicate(0, 0, 0, 0, same=True)]

    @promise("ids are those of one topic, and of topics that ask for it", power="deduplicates", needs=_deduplicates)
    async def test_other_topics(self, site: Site) -> None:
        channel: Any = await site.channel(ONCE, TopicSpec("u", 1, dedupe=Horizon()), TopicSpec("v", 1))
        for sequence, topic in enumerate(("t", "u", "v", "v")):
            batch = _events(("a", b"1"))
            await put(channel, sequence, NewBatch(topic, 0, 1, batch.payload))

    @promise("an id twice in one publish is refused, and named", power="deduplicates", needs=_deduplicates)
    async def test_twice_in_one(self, site: Site) -> None:
        channel: Any = await site.channel(ONCE)
        for batches in ([_events(("a", b"1"), ("a", b"1"))], [_events(("a", b"1")), _events(("a", b"2"), partition=1)]):
            answer = await channel.publish(Publish("p", 0, 0, batches))
            assert isinstance(answer, Refused), answer
            assert "'a'" in answer.reason
            assert answer.conflict == ""
        await put(channel, 0, _events(("a", b"1")))

    @promise("a publish that is repeated is answered as such", power="deduplicates", needs=_deduplicates)
    async def test_repeated(self, site: Site) -> None:
        channel: Any = await site.channel(ONCE)
        await put(channel, 0, _events(("a", b"1"), ("b", b"2")))
        again = await channel.publish(Publish("p", 0, 0, [_events(("a", b"1"), ("b", b"2"))]))
        assert again == Acked([0], repeated=True)

    @promise("of publishes of one id at the same time one is stored", power="deduplicates", needs=_deduplicates)
    async def test_at_once(self, site: Site) -> None:
        handles = [await site.channel(ONCE) for _ in range(3)]
        publishes = [
            handle.publish(Publish(f"p{number}", 0, 0, [_events(("a", b"1"), partition=number % 2)]))
            for number, handle in enumerate(handles)
        ]
        answers = await asyncio.gather(*publishes)
        assert sorted(isinstance(answer, Acked) for answer in answers) == [False, False, True], answers
        refused = [answer.duplicates for answer in answers if isinstance(answer, Refused)]
        assert [[one.same for one in duplicates] for duplicates in refused] == [[True], [True]], answers

    @promise("an id is remembered for as many offsets as declared, exactly", power="deduplicates", needs=_deduplicates)
    async def test_horizon_in_offsets(self, site: Site) -> None:
        channel: Any = await site.channel(ONCE)
        await put(channel, 0, _events(("a", b"1"), ("b", b"2")))
        await put(channel, 1, rows(*(b"x" for _ in range(8))))
        assert len(await _duplicates(channel, 2, _events(("a", b"1")))) == 1
        await put(channel, 2, rows(*(b"y" for _ in range(50)), partition=1))  # another partition's offsets do not count
        assert len(await _duplicates(channel, 3, _events(("a", b"1"), partition=1))) == 1
        await put(channel, 3, rows(b"x"))
        assert await _duplicates(channel, 4, _events(("a", b"1"), ("b", b"2"))) == [Duplicate(0, 1, 0, 1, same=True)]
        await put(channel, 4, _events(("a", b"another")))
        assert await _duplicates(channel, 5, _events(("a", b"another"))) == [Duplicate(0, 0, 0, 11, same=True)]

    @promise(
        "an id is remembered for as long in event time as declared, whatever the clock says",
        power="deduplicates",
        needs=_deduplicates,
    )
    async def test_horizon_in_event_time(self, site: Site) -> None:
        spec = TopicSpec("t", partitions=2, dedupe=Horizon(events=0, time="2h"))
        channel: Any = await site.channel(spec)
        day = 1_000_000 * 86_400 * 365
        await put(channel, 0, _events(("a", b"1"), at_us=day))
        await put(channel, 1, _events(("b", b"2"), at_us=day + 2 * HOUR_US))
        assert len(await _duplicates(channel, 2, _events(("a", b"1"), ("b", b"2"), at_us=day))) == 2
        await put(channel, 2, _events(("c", b"3"), at_us=day + 2 * HOUR_US + 1))
        assert await _duplicates(channel, 3, _events(("a", b"1"), ("b", b"2"))) == [Duplicate(0, 1, 0, 1, same=True)]
        await put(channel, 3, _events(("a", b"1"), at_us=day))

    @promise("an event from the future makes no other one old", power="deduplicates", needs=_deduplicates)
    async def test_future(self, site: Site) -> None:
        channel: Any = await site.channel(TopicSpec("t", partitions=2, dedupe=Horizon(events=0, time="2h")))
        now_us = site.system.clock.now_us()
        await put(channel, 0, _events(("a", b"1"), at_us=now_us - HOUR_US))
        await put(channel, 1, _events(("b", b"2"), at_us=now_us + 10_000 * HOUR_US))
        assert len(await _duplicates(channel, 2, _events(("a", b"1")))) == 1

    @promise("an event from the future is forgotten as one of now", power="deduplicates", needs=_deduplicates)
    async def test_future_forgotten(self, site: Site) -> None:
        channel: Any = await site.channel(TopicSpec("t", partitions=2, dedupe=Horizon(events=0, time="1ms")))
        far_us = site.system.clock.now_us() + 10_000 * HOUR_US
        await put(channel, 0, _events(("a", b"1"), at_us=far_us))
        await site.system.clock.sleep(0.01)
        await put(channel, 1, _events(("b", b"2"), at_us=far_us))
        await put(channel, 2, _events(("a", b"1")))

    @promise(
        "the horizon may be declared otherwise, and stands where it is not", power="deduplicates", needs=_deduplicates
    )
    async def test_declared_again(self, site: Site) -> None:
        channel: Any = await site.channel(TopicSpec("t", partitions=2))
        await put(channel, 0, _events(("early", b"0")))  # nobody asked yet
        asked: Any = await site.channel(ONCE)
        await put(asked, 1, _events(("a", b"1")))
        later: Any = await site.channel(TopicSpec("t", partitions=2))
        assert len(await _duplicates(later, 2, _events(("a", b"1")))) == 1
        none: Any = await site.channel(TopicSpec("t", partitions=2, dedupe=Horizon(events=0)))
        await put(none, 2, _events(("a", b"1")))

    @promise("a horizon is refused where there is no such power", power="deduplicates")
    async def test_absent(self, site: Site) -> None:
        channel: Any = await site.channel()
        if not channel.capabilities.deduplicates:
            with pytest.raises(PenstockError):
                await channel.open([ONCE])


__all__ = ["IdPromises"]
