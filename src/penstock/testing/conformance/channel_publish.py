"""The channel suite's first part: declaring topics, publishing, reading back."""

from __future__ import annotations

from array import array
from typing import Any

import pytest

from penstock.channel.api import Acked, Capabilities, Publish, Refused, TopicSpec
from penstock.errors import Closed, ConfigError, DeclaredDifferently, SchemaIncompatible, Unsupported
from penstock.event.batch import Columns, NewBatch, Rows
from penstock.testing.conformance.harness import ChannelSuite, Site, numbered, promise, put, rows, stored

RAW = TopicSpec("t", partitions=1)


def _replayable(powers: Capabilities) -> bool:
    return powers.replayable


def _both(powers: Capabilities) -> bool:
    return powers.idempotent_publish and powers.replayable


class PublishPromises(ChannelSuite):
    """Promises about topics and publishes."""

    @promise("opening twice with one declaration changes nothing and answers alike")
    async def test_open_again(self, site: Site) -> None:
        channel = await site.channel(RAW)
        first = await channel.open([RAW])
        other = await site.channel()
        assert await other.open([RAW]) == first
        assert first["t"].spec.partitions == 1
        assert first["t"].schema_id == 0

    @promise("a topic declared differently is refused and the difference is named")
    async def test_declared_differently(self, site: Site) -> None:
        channel = await site.channel(TopicSpec("t", partitions=2, key="flight"))
        other = await site.channel()
        with pytest.raises(DeclaredDifferently, match=r"partitions.*2.*3"):
            await other.open([TopicSpec("t", partitions=3, key="flight")])
        with pytest.raises(DeclaredDifferently, match=r"key.*'flight'.*'carrier'"):
            await channel.open([TopicSpec("t", partitions=2, key="carrier")])

    @promise("a topic's largest event may grow, for whoever opens it afterwards, and does not shrink")
    async def test_event_bytes_grow(self, site: Site) -> None:
        small, large = (TopicSpec("t", partitions=1, event_bytes_max=size) for size in (3, 5))
        channel = await site.channel(small)
        assert isinstance(await channel.publish(Publish("p", 0, 0, [rows(b"12345")])), Refused)
        other = await site.channel(large)
        assert list((await put(other, 0, rows(b"12345"))).first) == [0]
        assert (await other.open([large]))["t"].spec.event_bytes_max == 5
        later = await site.channel()
        with pytest.raises(DeclaredDifferently, match=r"event_bytes_max.*5.*3.*grow"):
            await later.open([small])
        assert (await later.open([large]))["t"].spec.event_bytes_max == 5
        assert isinstance(await later.publish(Publish("p", 0, 1, [rows(b"123456")])), Refused)

    @promise("the longest row of columns is compared with the limit, not the average")
    async def test_long_row(self, site: Site) -> None:
        import pyarrow as pa  # noqa: PLC0415  heavy, loaded on use

        def table(*sizes: int) -> NewBatch:
            lists = [["x" * (size // 2), "y" * (size - size // 2)] for size in sizes]
            columns = {"b": [b"z" * size for size in sizes], "l": lists, "n": [0] * len(sizes)}
            return NewBatch("c", 0, len(sizes), Columns(pa.RecordBatch.from_pydict(columns)))

        arrow = table(1).payload.table.schema.serialize().to_pybytes()  # type: ignore[union-attr]
        spec = TopicSpec("c", 1, {"kind": "columns"}, arrow, event_bytes_max=108)
        channel = await site.channel(spec)
        answer = await channel.publish(Publish("p", 0, 0, [table(1, 2, 51, *[1] * 100)]))
        assert isinstance(answer, Refused), answer
        assert "event 2 has 110 bytes" in answer.reason
        await put(channel, 0, table(50, *[1] * 100, 50))

    @promise("a type is compared with every type the topic ever had, not only with the newest")
    async def test_evolution(self, site: Site) -> None:
        channel = await site.channel()

        def spec(**fields: str) -> TopicSpec:
            types = [{"name": name, "type": {"kind": kind}, "default": None} for name, kind in fields.items()]
            return TopicSpec("t", 1, {"kind": "struct", "name": "T", "fields": types})

        for fields in ({"k": "str", "n": "int"}, {"k": "str"}, {"k": "str", "n": "int"}, {"k": "str", "m": "str"}):
            await channel.open([spec(**fields)])
        other = await site.channel()
        for handle in (channel, other):
            with pytest.raises(SchemaIncompatible, match=r"n: was int"):
                await handle.open([spec(k="str", n="str")])
        assert (await other.open([spec(k="str", m="str")]))["t"].schema_id == 3

    @promise("two topics whose names differ only in case are refused")
    async def test_case_twin(self, site: Site) -> None:
        channel = await site.channel(TopicSpec("Orders", partitions=1))
        with pytest.raises(DeclaredDifferently, match="Orders"):
            await channel.open([TopicSpec("orders", partitions=1)])

    @promise("names that could be paths or that brokers cannot keep apart are refused")
    async def test_names(self, site: Site) -> None:
        channel = await site.channel(TopicSpec("a" * 200, partitions=1), TopicSpec("A.b_c-9", partitions=1))
        for name in ["", ".", "..", "a/b", "../a", "a b", "a\n", "ä", "a" * 201]:
            with pytest.raises(ConfigError):
                await channel.open([TopicSpec(name, partitions=1)])

    @promise("the ack of a publish tells each batch's first offset, and partitions count from 0 without a gap")
    async def test_offsets(self, site: Site) -> None:
        channel = await site.channel(TopicSpec("t", partitions=2), TopicSpec("u", partitions=1))
        first = await put(channel, 0, rows(b"a", b"b"), rows(b"c", partition=1), rows(b"d"))
        second = await put(channel, 1, rows(b"e", topic="u"), rows(b"f"))
        assert list(first.first) == [0, 0, 2]
        assert list(second.first) == [0, 3]
        assert not first.repeated

    @promise("what was acked is read back in order, from any offset, at most as many as asked for", needs=_replayable)
    async def test_read(self, site: Site) -> None:
        channel = await site.channel(RAW)
        await put(channel, 0, rows(b"0", b"1", b"2", b"3"))
        await put(channel, 1, rows(b"4", b"5"))
        assert [body for _, body in await stored(channel)] == [b"0", b"1", b"2", b"3", b"4", b"5"]
        middle = [e for batch in await channel.read("t", 0, 1, events_max=4) for e in numbered(batch)]
        assert middle == [(1, b"1"), (2, b"2"), (3, b"3"), (4, b"4")]
        assert list(await channel.read("t", 0, 6, events_max=10)) == []

    @promise("bodies with newlines, empty bodies and arbitrary bytes come back as they were", needs=_replayable)
    async def test_bytes(self, site: Site) -> None:
        channel = await site.channel(RAW)
        bodies = [b"", b"\n", b"a\nb", b"", bytes(range(256)), b"\n\n", b"end"]
        await put(channel, 0, rows(*bodies))
        assert [body for _, body in await stored(channel)] == bodies
        (tail,) = await channel.read("t", 0, 2, events_max=3)
        assert [body for _, body in numbered(tail)] == bodies[2:5]

    @promise("attributes travel with their events, also when a batch is cut", needs=_replayable)
    async def test_attributes(self, site: Site) -> None:
        channel = await site.channel(RAW)
        attributes: dict[str, list[Any]] = {
            "key": [b"k0", None, b"\x00\xff"],
            "id": ["x", "y", None],
            "time_us": [1, -5, None],
            "headers": [{"a": "1"}, None, {}],
        }
        batch = NewBatch("t", 0, 3, Rows.of([b"a", b"b", b"c"], attributes), time_min_us=-5, time_max_us=1)
        await put(channel, 0, batch)
        (whole,) = await channel.read("t", 0, 0, events_max=10)
        assert {name: list(v) for name, v in whole.payload.attributes.items()} == attributes
        assert (whole.time_min_us, whole.time_max_us) == (-5, 1)
        (part,) = await channel.read("t", 0, 1, events_max=1)
        assert {name: list(v) for name, v in part.payload.attributes.items()} == {
            n: v[1:2] for n, v in attributes.items()
        }

    @promise("columns come back as columns with the schema id they were written with", needs=_replayable)
    async def test_columns(self, site: Site) -> None:
        import pyarrow as pa  # noqa: PLC0415  heavy, loaded on use

        table = pa.RecordBatch.from_pydict({"n": [1, 2, 3], "s": ["a", None, "c"]})
        arrow = table.schema.serialize().to_pybytes()
        schema = {"type": "object", "fields": []}
        channel = await site.channel()
        spec = TopicSpec("c", partitions=1, schema=schema, arrow=arrow)
        schema_id = (await channel.open([spec]))["c"].schema_id
        assert schema_id > 0
        assert (await channel.open([spec]))["c"].schema_id == schema_id
        await put(channel, 0, NewBatch("c", 0, 3, Columns(table)))
        (whole,) = await channel.read("c", 0, 0, events_max=10)
        assert isinstance(whole.payload, Columns)
        assert whole.payload.table.equals(table)
        assert whole.schema_id == schema_id
        (part,) = await channel.read("c", 0, 1, events_max=1)
        assert isinstance(part.payload, Columns)
        assert part.payload.table.to_pylist() == [{"n": 2, "s": None}]

    @promise("columns other than the declared ones are refused with the difference named")
    async def test_other_columns(self, site: Site) -> None:
        import pyarrow as pa  # noqa: PLC0415  heavy, loaded on use

        declared = pa.schema([pa.field("n", pa.int64()), pa.field("s", pa.string())])
        spec = TopicSpec("c", partitions=1, schema={"type": "object"}, arrow=declared.serialize().to_pybytes())
        channel = await site.channel(spec, RAW)
        for topic, columns in (("c", {"n": [1]}), ("c", {"n": ["x"], "s": ["y"]}), ("t", {"n": [1], "s": ["y"]})):
            table = pa.RecordBatch.from_pydict(columns)
            answer = await channel.publish(Publish("p", 0, 0, [NewBatch(topic, 0, 1, Columns(table))]))
            assert isinstance(answer, Refused), (topic, columns)
            assert topic in answer.reason

    @promise("all batches of a publish in one partition count from one base, so that derived ids differ")
    async def test_base(self, site: Site) -> None:
        channel = await site.channel(RAW)
        await put(channel, 0, rows(b"a"))
        await put(channel, 1, rows(b"b", b"c"), rows(b"d"))
        batches = await channel.read("t", 0, 1, events_max=10)
        assert {batch.base for batch in batches} == {1}
        assert len({batch.origin for batch in batches}) == 1

    @promise("attributes that are arrays of integers come back as arrays, whole and cut", needs=_replayable)
    async def test_integer_attributes(self, site: Site) -> None:
        channel = await site.channel(RAW)
        causes = array("q", [7, -1, 2**62, 7])
        await put(channel, 0, NewBatch("t", 0, 4, Rows.of([b"a", b"b", b"c", b"d"], {"cause": causes})))
        (whole,) = await channel.read("t", 0, 0, events_max=10)
        assert whole.payload.attributes["cause"] == causes
        (part,) = await channel.read("t", 0, 1, events_max=2)
        assert part.payload.attributes["cause"] == causes[1:3]

    @promise("a publish over several topics is stored whole or not at all", power="step", needs=_replayable)
    async def test_atomic(self, site: Site) -> None:
        channel = await site.channel(RAW, TopicSpec("small", partitions=1, event_bytes_max=3))
        answer = await channel.publish(Publish("p", 0, 0, [rows(b"a"), rows(b"too long", topic="small")]))
        assert isinstance(answer, Refused), answer
        assert await stored(channel) == []
        await put(channel, 0, rows(b"a"), rows(b"abc", topic="small"))  # a refused publish has not used its sequence up
        assert await stored(channel) == [(0, b"a")]

    @promise("an oversized event is refused with the topic and the limit named", needs=_replayable)
    async def test_oversized(self, site: Site) -> None:
        channel = await site.channel(TopicSpec("t", partitions=1, event_bytes_max=10))
        answer = await channel.publish(Publish("p", 0, 0, [rows(b"x", b"y" * 11)]))
        assert isinstance(answer, Refused), answer
        assert "10" in answer.reason
        assert "t" in answer.reason
        await put(channel, 0, rows(b"y" * 10))
        assert await stored(channel) == [(0, b"y" * 10)]

    @promise("a publish that contradicts itself or names what is not there is refused or raised, never stored")
    async def test_malformed(self, site: Site) -> None:
        channel = await site.channel(RAW)
        wrong = [
            rows(b"a", topic="nowhere"),
            rows(b"a", partition=1),
            rows(b"a", partition=-1),
            NewBatch("t", 0, 2, Rows.of([b"a"])),
            NewBatch("t", 0, 1, Rows(b"abc", array("I", [2]))),
            NewBatch("t", 0, 2, Rows.of([b"a", b"b"], {"key": [b"only one"]})),
        ]
        for batch in wrong:
            try:
                answer = await channel.publish(Publish("p", 0, 0, [batch]))
            except (ConfigError, ValueError):
                continue
            assert isinstance(answer, Refused), batch
        assert list((await put(channel, 0, rows(b"right"))).first) == [0]

    @promise(
        "a repeated sequence is answered with the original offsets and stores nothing",
        power="idempotent_publish",
        needs=_both,
    )
    async def test_repeat(self, site: Site) -> None:
        channel = await site.channel(RAW)
        await put(channel, 0, rows(b"a", b"b"))
        await put(channel, 1, rows(b"c"))
        await put(channel, 0, rows(b"other"), producer="q")
        other = await site.channel()
        for handle in (channel, other):
            again = await put(handle, 0, rows(b"a", b"b"))
            assert again == Acked([0], repeated=True)
            assert list((await put(handle, 1, rows(b"c"))).first) == [2]
        assert len(await stored(channel)) == 4

    @promise("a sequence repeated with other content is refused", power="idempotent_publish", needs=_both)
    async def test_conflict(self, site: Site) -> None:
        channel = await site.channel(TopicSpec("t", partitions=2))
        await put(channel, 0, rows(b"a", b"b"))
        for other in (rows(b"a", b"c"), rows(b"a"), rows(b"a", b"b", partition=1)):
            answer = await channel.publish(Publish("p", 0, 0, [other]))
            assert isinstance(answer, Refused), other
            assert "p" in answer.reason
        assert await stored(channel) == [(0, b"a"), (1, b"b")]

    @promise(
        "the same bytes split into other events, or with other attributes, are other content",
        power="idempotent_publish",
        needs=_both,
    )
    async def test_conflict_of_shape(self, site: Site) -> None:
        channel = await site.channel(RAW)
        await put(channel, 0, NewBatch("t", 0, 2, Rows(b"a\nb\nc", array("I", [1, 3]), {"key": [b"x", b"y"]})))
        for other in (
            NewBatch("t", 0, 2, Rows(b"a\nb\nc", array("I", [3, 1]), {"key": [b"x", b"y"]})),
            NewBatch("t", 0, 2, Rows(b"a\nb\nc", array("I", [1, 3]), {"key": [b"x", b"z"]})),
        ):
            answer = await channel.publish(Publish("p", 0, 0, [other]))
            assert isinstance(answer, Refused), other

    @promise(
        "a sequence ahead of the next one is refused, and the gap can be closed",
        power="idempotent_publish",
        needs=_both,
    )
    async def test_sequence_gap(self, site: Site) -> None:
        channel = await site.channel(RAW)
        assert isinstance(await channel.publish(Publish("p", 0, 1, [rows(b"late")])), Refused)
        await put(channel, 0, rows(b"a"))
        assert isinstance(await channel.publish(Publish("p", 0, 2, [rows(b"late")])), Refused)
        await put(channel, 1, rows(b"b"))
        assert [body for _, body in await stored(channel)] == [b"a", b"b"]

    @promise("a newer epoch of a producer starts at 0 and ends the older one", power="fenced", needs=_both)
    async def test_producer_fenced(self, site: Site) -> None:
        channel = await site.channel(RAW)
        await put(channel, 0, rows(b"a"))
        other = await site.channel()
        await put(other, 0, rows(b"b"), epoch=1)
        answer = await channel.publish(Publish("p", 0, 1, [rows(b"c")]))
        assert isinstance(answer, Refused), answer
        assert answer.conflict == "epoch"
        assert "p" in answer.reason
        assert [body for _, body in await stored(channel)] == [b"a", b"b"]

    @promise(
        "a remembered sequence is answered whatever epochs have begun since, and other content under it is refused",
        power="idempotent_publish",
        needs=_both,
    )
    async def test_repeat_of_an_old_epoch(self, site: Site) -> None:
        channel = await site.channel(RAW)
        await put(channel, 0, rows(b"a"))
        await put(channel, 1, rows(b"b", b"c"))
        for epoch in (1, 7):
            await put(channel, 0, rows(b"new"), epoch=epoch)
        other = await site.channel()
        for handle in (channel, other):
            assert await put(handle, 1, rows(b"b", b"c")) == Acked([1], repeated=True)
            changed = await handle.publish(Publish("p", 0, 1, [rows(b"b", b"x")]))
            assert isinstance(changed, Refused), changed
            assert changed.conflict == "sequence"
        assert [body for _, body in await stored(channel)] == [b"a", b"b", b"c", b"new", b"new"]

    @promise(
        "a refusal says whether it is about the producer's other publishes or about the batches",
        power="idempotent_publish",
        needs=_both,
    )
    async def test_kinds_of_refusal(self, site: Site) -> None:
        channel = await site.channel(RAW)
        await put(channel, 0, rows(b"a"), epoch=1)
        for publish, conflict in (
            (Publish("p", 1, 1, [rows(b"x", topic="nowhere")]), ""),
            (Publish("p", 1, 2, [rows(b"early")]), "sequence"),
            (Publish("p", 1, 0, [rows(b"other")]), "sequence"),
            (Publish("p", 0, 5, [rows(b"nobody remembers epoch 0")]), "forgotten"),
            (Publish("q", 0, 5, [rows(b"nobody knows q")]), "forgotten"),
        ):
            answer = await channel.publish(publish)
            assert isinstance(answer, Refused), publish
            assert answer.conflict == conflict, answer
        assert len(await stored(channel)) == 1

    @promise("what one handle published, another one reads", needs=_replayable)
    async def test_two_handles(self, site: Site) -> None:
        one, two = await site.channel(RAW), await site.channel(RAW)
        await put(one, 0, rows(b"a"), producer="one")
        await put(two, 0, rows(b"b"), producer="two")
        await put(one, 1, rows(b"c"), producer="one")
        expected = [(0, b"a"), (1, b"b"), (2, b"c")]
        assert await stored(one) == expected
        assert await stored(two) == expected

    @promise("what was acked, and what was declared, is there after everybody has closed", power="durability")
    async def test_reopen(self, site: Site) -> None:
        if not self.durable:
            pytest.skip("the channel is gone with its process (D0)")
        channel = await site.channel(RAW)
        await put(channel, 0, rows(b"a", b"b"))
        await channel.close()
        again = await site.channel()
        with pytest.raises(DeclaredDifferently):
            await again.open([TopicSpec("t", partitions=9)])
        await again.open([RAW])
        assert await stored(again) == [(0, b"a"), (1, b"b")]
        assert (await put(again, 0, rows(b"a", b"b"))).repeated

    @promise(
        "a channel that cannot replay refuses to read", power="replayable", needs=lambda powers: not powers.replayable
    )
    async def test_read_unsupported(self, site: Site) -> None:
        channel = await site.channel(RAW)
        with pytest.raises(Unsupported):
            await channel.read("t", 0, 0, events_max=1)

    @promise("closing twice is allowed, and a closed channel refuses instead of storing")
    async def test_closed(self, site: Site) -> None:
        channel = await site.channel(RAW)
        other = await site.channel()
        await channel.close()
        await channel.close()
        with pytest.raises(Closed):
            await channel.publish(Publish("p", 0, 0, [rows(b"a")]))
        assert list((await put(other, 0, rows(b"a"))).first) == [0]
