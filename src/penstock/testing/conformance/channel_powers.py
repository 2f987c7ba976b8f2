"""The channel suite's optional powers: remembered producers, publishing without a loop, reading parts for queries."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from penstock.channel.api import NOTE_BYTES_MAX, Acked, Capabilities, ProducerState, Publish, Refused, Scan, TopicSpec
from penstock.errors import ConfigError, Fenced, Unsupported
from penstock.event.batch import Columns, Delivered, NewBatch
from penstock.testing.conformance.harness import ChannelSuite, Site, numbered, promise, put, rows, stored

RAW = TopicSpec("t", partitions=2)


def _remembers(powers: Capabilities) -> bool:
    return powers.remembers_producers


def _blocking(powers: Capabilities) -> bool:
    return powers.blocking


def _columnar(powers: Capabilities) -> bool:
    return powers.columnar


class PowerPromises(ChannelSuite):
    """Promises of channels with the power, and that the others refuse."""

    @promise("a producer's newest sequence and note are remembered", power="remembers_producers", needs=_remembers)
    async def test_producer(self, site: Site) -> None:
        channel: Any = await site.channel(RAW)
        assert await channel.producer("p") is None
        await channel.publish(Publish("p", 0, 0, [rows(b"a")], b"one"))
        await channel.publish(Publish("p", 0, 1, [rows(b"b")], b"\x00two"))
        other: Any = await site.channel()
        for handle in (channel, other):
            assert await handle.producer("p") == ProducerState(0, 1, b"\x00two")
        await channel.publish(Publish("p", 3, 0, [rows(b"c")]))
        assert await channel.producer("p") == ProducerState(3, 0, b"")
        assert await channel.producer("q") is None

    @promise(
        "a note is no part of the content: a repetition with another one is answered, and leaves the stored one",
        power="remembers_producers",
        needs=_remembers,
    )
    async def test_note_of_a_repetition(self, site: Site) -> None:
        channel: Any = await site.channel(RAW)
        await channel.publish(Publish("p", 0, 0, [rows(b"a")], b"one"))
        assert await channel.publish(Publish("p", 0, 0, [rows(b"a")], b"other")) == Acked([0], repeated=True)
        assert await channel.producer("p") == ProducerState(0, 0, b"one")

    @promise("each remembered sequence's note can be read again", power="remembers_producers", needs=_remembers)
    async def test_notes(self, site: Site) -> None:
        channel: Any = await site.channel(RAW)
        assert list(await channel.notes("p", 0, start=0, count=10)) == []
        for sequence in range(5):
            note = b"" if sequence == 3 else b"\x00note %d" % sequence
            await channel.publish(Publish("p", 0, sequence, [rows(b"%d" % sequence)], note))
        await channel.publish(Publish("p", 0, 2, [rows(b"2")], b"another: the stored one stays"))
        await channel.publish(Publish("p", 0, 5, [rows(b"x", topic="nowhere")], b"refused"))
        await channel.publish(Publish("p", 1, 0, [rows(b"x")], b"of the next epoch"))
        await channel.publish(Publish("q", 0, 0, [rows(b"x")], b"of another"))
        expected = [(0, b"\x00note 0"), (1, b"\x00note 1"), (2, b"\x00note 2"), (3, b""), (4, b"\x00note 4")]
        other: Any = await site.channel()
        for handle in (channel, other):
            assert list(await handle.notes("p", 0, start=0, count=10)) == expected
            assert list(await handle.notes("p", 0, start=1, count=2)) == expected[1:3]
            assert list(await handle.notes("p", 0, start=5, count=10)) == []
            assert list(await handle.notes("p", 1, start=0, count=10)) == [(0, b"of the next epoch")]
            assert list(await handle.notes("p", 2, start=0, count=10)) == []
        if self.durable:
            await site.close_handles()
            again: Any = await site.channel()
            assert list(await again.notes("p", 0, start=0, count=10)) == expected

    @promise(
        "a refused publish changes neither sequence nor note, and a note has a limit",
        power="remembers_producers",
        needs=_remembers,
    )
    async def test_note_of_a_refusal(self, site: Site) -> None:
        channel: Any = await site.channel(RAW)
        await channel.publish(Publish("p", 0, 0, [rows(b"a")], b"one"))
        for refused in (
            Publish("p", 0, 1, [rows(b"x", topic="nowhere")], b"two"),
            Publish("p", 0, 2, [rows(b"x")], b"two"),
            Publish("p", 0, 1, [rows(b"x")], b"n" * (NOTE_BYTES_MAX + 1)),
        ):
            assert isinstance(await channel.publish(refused), Refused)
        assert await channel.producer("p") == ProducerState(0, 0, b"one")

    @promise(
        "an epoch is given once: every call begins a higher one, and nothing new is stored under the lower ones",
        power="remembers_producers",
        needs=_remembers,
    )
    async def test_new_epoch(self, site: Site) -> None:
        channel: Any = await site.channel(RAW)
        other: Any = await site.channel()
        epochs = [await handle.new_epoch("p") for handle in (channel, other, other)]
        epochs += await asyncio.gather(*(handle.new_epoch("p") for handle in (channel, other) * 3))
        assert len(set(epochs)) == len(epochs)
        assert epochs[:3] == sorted(epochs[:3])
        newest = max(epochs)
        for epoch in epochs:
            answer = await channel.publish(Publish("p", epoch, 0, [rows(b"%d" % epoch)]))
            assert isinstance(answer, Acked if epoch == newest else Refused), answer
            assert isinstance(answer, Acked) or answer.conflict == "epoch", answer
        assert [body for _, body in await stored(channel)] == [b"%d" % newest]
        assert await channel.new_epoch("q") >= 0

    @promise(
        "what was stored under an epoch is answered after it, and what was not is told to be so",
        power="remembers_producers",
        needs=_remembers,
    )
    async def test_answers_of_an_old_epoch(self, site: Site) -> None:
        channel: Any = await site.channel(RAW)
        old = await channel.new_epoch("p")
        assert await channel.publish(Publish("p", old, 0, [rows(b"a")])) == Acked([0])
        new = await channel.new_epoch("p")
        assert await channel.publish(Publish("p", new, 0, [rows(b"b")])) == Acked([1])
        assert await channel.publish(Publish("p", old, 0, [rows(b"a")])) == Acked([0], repeated=True)
        late = await channel.publish(Publish("p", old, 1, [rows(b"late")]))
        assert isinstance(late, Refused), late
        assert late.conflict == "epoch"

    @promise(
        "an owner that was overtaken is not given another epoch, and one that was not is",
        power="remembers_producers",
        needs=_remembers,
    )
    async def test_epoch_after(self, site: Site) -> None:
        channel: Any = await site.channel(RAW)
        mine = await channel.new_epoch("p")
        mine = await channel.new_epoch("p", after=mine)
        theirs = await channel.new_epoch("p")
        with pytest.raises(Fenced, match="p"):
            await channel.new_epoch("p", after=mine)
        assert await channel.new_epoch("p", after=theirs) > theirs
        for name in ("", "a\nb", "n" * 201):
            with pytest.raises(ConfigError):
                await channel.new_epoch(name)

    @promise("a new epoch leaves the note as it is", power="remembers_producers", needs=_remembers)
    async def test_note_of_an_epoch(self, site: Site) -> None:
        channel: Any = await site.channel(RAW)
        await channel.publish(Publish("p", 0, 0, [rows(b"a")], b"here"))
        epoch = await channel.new_epoch("p")
        assert await channel.producer("p") == ProducerState(epoch, -1, b"here")

    @promise("notes survive the closing of every handle", power="durability", needs=_remembers)
    async def test_note_reopened(self, site: Site) -> None:
        if not self.durable:
            pytest.skip("the channel is gone with its process (D0)")
        channel = await site.channel(RAW)
        await channel.publish(Publish("p", 0, 0, [rows(b"a")], b"one"))
        await site.close_handles()
        again: Any = await site.channel()
        assert await again.producer("p") == ProducerState(0, 0, b"one")

    @promise("publishing without a loop answers like publishing with one", power="blocking", needs=_blocking)
    async def test_blocking(self, site: Site) -> None:
        channel: Any = await site.channel(RAW)
        assert channel.publish_blocking(Publish("p", 0, 0, [rows(b"a")])) == Acked([0])
        assert channel.publish_blocking(Publish("p", 0, 0, [rows(b"a")])) == Acked([0], repeated=True)
        assert isinstance(channel.publish_blocking(Publish("p", 0, 5, [rows(b"a")])), Refused)
        assert isinstance(channel.publish_blocking(Publish("p", 0, 1, [rows(b"x", topic="nowhere")])), Refused)
        assert await channel.publish(Publish("p", 0, 1, [rows(b"b")])) == Acked([1])

    @promise(
        "several threads may publish without a loop while the loop publishes too", power="blocking", needs=_blocking
    )
    async def test_blocking_threads(self, site: Site) -> None:
        channel: Any = await site.channel(RAW)

        def work(name: str) -> None:
            for sequence in range(10):
                answer = channel.publish_blocking(Publish(name, 0, sequence, [rows(name.encode(), partition=1)]))
                assert isinstance(answer, Acked), answer

        threads = [asyncio.to_thread(work, f"p{number}") for number in range(3)]
        loop = [put(channel, sequence, rows(b"loop", partition=1)) for sequence in range(10)]
        await asyncio.gather(*threads, *loop)
        found = [body for _, body in await stored(channel, partition=1)]
        assert sorted(found) == sorted([b"loop", b"p0", b"p1", b"p2"] * 10)

    @promise("tips tell each partition's next offset", power="columnar", needs=_columnar)
    async def test_tips(self, site: Site) -> None:
        channel: Any = await site.channel(RAW)
        assert list(await channel.tips("t")) == [0, 0]
        await put(channel, 0, rows(b"a", b"b"), rows(b"c", partition=1))
        assert list(await channel.tips("t")) == [2, 1]
        with pytest.raises(ConfigError):
            await channel.tips("nowhere")

    @promise(
        "a scan reads the offsets asked for, and going on from its end reads the rest",
        power="columnar",
        needs=_columnar,
    )
    async def test_scan(self, site: Site) -> None:
        channel: Any = await site.channel(RAW)
        for sequence in range(4):
            await put(channel, sequence, rows(b"%d" % (2 * sequence), b"%d" % (2 * sequence + 1)))
        found: list[tuple[int, bytes]] = []
        while batches := await channel.scan(Scan("t", 0, start=found[-1][0] + 1 if found else 1, end=6), events_max=1):
            assert len(batches) == 1
            found.extend(event for batch in batches for event in numbered(batch))
        assert found == [(offset, b"%d" % offset) for offset in range(1, 6)]
        assert list(await channel.scan(Scan("t", 1), events_max=10)) == []
        for start, end in ((0, 0), (3, 3), (3, 2), (4, 4), (8, 8), (9, None)):
            assert list(await channel.scan(Scan("t", 0, start, end), events_max=10)) == [], (start, end)
        for wrong in (Scan("nowhere", 0), Scan("t", 2), Scan("t", 0, start=-1)):
            with pytest.raises(ConfigError):
                await channel.scan(wrong, events_max=10)

    @promise("a scan leaves out blocks outside its time range, and only those", power="columnar", needs=_columnar)
    async def test_scan_times(self, site: Site) -> None:
        channel: Any = await site.channel(RAW)
        times = [(10, 19), (20, 29), None, (30, 39), (0, 100)]
        for sequence, bounds in enumerate(times):
            low, high = bounds or (None, None)
            body = rows(b"%d" % sequence)
            await put(channel, sequence, NewBatch("t", 0, 1, body.payload, low, high))

        async def found(low: int | None, high: int | None) -> list[int]:
            scan = Scan("t", 0, time_from_us=low, time_to_us=high)
            return [batch.first for batch in await channel.scan(scan, events_max=100)]

        assert await found(None, None) == [0, 1, 2, 3, 4]
        assert await found(20, 30) == [1, 2, 4]
        assert await found(19, 20) == [0, 2, 4]
        assert await found(None, 10) == [2, 4]
        assert await found(40, None) == [2, 4]
        assert await found(101, None) == [2]

    @promise("a scan of columns holds the wanted columns that were written", power="columnar", needs=_columnar)
    async def test_scan_columns(self, site: Site) -> None:
        import pyarrow as pa  # noqa: PLC0415  heavy, loaded on use

        table = pa.RecordBatch.from_pydict({"n": [1, 2, 3], "s": ["a", None, "c"], "x": [0.5, 1.5, 2.5]})
        spec = TopicSpec("c", 1, {"type": "object"}, table.schema.serialize().to_pybytes())
        channel: Any = await site.channel(spec)
        await put(channel, 0, NewBatch("c", 0, 3, Columns(table)))

        async def found(*names: str, start: int = 0, end: int | None = None) -> Any:
            (batch,) = await channel.scan(Scan("c", 0, start, end, names), events_max=100)
            assert isinstance(batch, Delivered)
            assert isinstance(batch.payload, Columns)
            assert batch.payload.table.num_rows == batch.count
            return batch.payload.table.to_pylist()

        assert await found("x", "n") == [{"n": 1, "x": 0.5}, {"n": 2, "x": 1.5}, {"n": 3, "x": 2.5}]
        assert await found("s", "unknown", start=1, end=2) == [{"s": None}]
        assert await found("unknown") == [{}, {}, {}]
        assert await found() == [{}, {}, {}]

    @promise("a power that is not declared is refused", power="remembers_producers")
    async def test_powers_absent(self, site: Site) -> None:
        channel: Any = await site.channel(RAW)
        powers = channel.capabilities
        if not powers.remembers_producers:
            with pytest.raises((Unsupported, AttributeError)):
                await channel.producer("p")
            with pytest.raises((Unsupported, AttributeError)):
                await channel.notes("p", 0, start=0, count=1)
        if not powers.blocking:
            with pytest.raises((Unsupported, AttributeError)):
                channel.publish_blocking(Publish("p", 0, 0, [rows(b"a")]))
        if not powers.columnar:
            with pytest.raises((Unsupported, AttributeError)):
                await channel.tips("t")
            with pytest.raises((Unsupported, AttributeError)):
                await channel.scan(Scan("t", 0), events_max=1)


__all__ = ["PowerPromises"]
