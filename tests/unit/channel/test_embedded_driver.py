"""What the embedded driver does beside the contract: back-pressure, full disks in mid-stream, other programs' types."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import apsw
import msgspec
import pyarrow as pa
import pytest

from penstock.channel.api import (
    Acked,
    Assigned,
    Committed,
    FencedOff,
    GroupSpec,
    Idle,
    Intake,
    LedgerWrite,
    Lost,
    Owned,
    Publish,
    Refused,
    Settle,
    Step,
    Subscription,
    TopicSpec,
    Unknown,
)
from penstock.channel.drivers.embedded import EmbeddedChannel
from penstock.channel.drivers.embedded import port as port_module
from penstock.channel.drivers.embedded.port import Disk, InlinePort, RealPort
from penstock.errors import Closed, ConfigError, LogFull, LogRegressed, OutcomeUnknown, SchemaIncompatible
from penstock.event.batch import Columns, NewBatch, Rows
from penstock.log import log as log_module
from penstock.log import progress, quarantine
from penstock.log.api import Advance, Append, Claim, Request
from penstock.log.log import LogConfig
from penstock.system import System, real_system

T = TypeVar("T")
RAW = TopicSpec("t", partitions=1)


@pytest.fixture
def system() -> Iterator[System]:
    made = real_system()
    yield made
    made.offload.close()


@asynccontextmanager
async def opened(directory: Path, system: System, *specs: TopicSpec) -> AsyncIterator[EmbeddedChannel]:
    channel = EmbeddedChannel(directory, system=system)
    await channel.open(specs)
    try:
        yield channel
    finally:
        await channel.close()


def rows(*bodies: bytes, topic: str = "t") -> NewBatch:
    return NewBatch(topic, 0, len(bodies), Rows.of(bodies))


async def owner(channel: EmbeddedChannel) -> tuple[Intake, Owned]:
    intake = await channel.join(Subscription(GroupSpec("g", "t")))
    taken = await intake.next(events_max=10, bytes_max=1 << 20, wait_s=0)
    assert isinstance(taken, Assigned)
    return intake, taken.owned


async def bodies(channel: EmbeddedChannel, topic: str = "t") -> list[bytes]:
    found = await channel.read(topic, 0, 0, events_max=10_000)
    return [body for batch in found if isinstance(batch.payload, Rows) for body in batch.payload.bodies()]


class Failing(RealPort):
    """A log whose next requests of one kind fail with the given errors."""

    def __init__(self, directory: Path, system: System, kind: type) -> None:
        super().__init__(directory, system)
        self.kind = kind
        self.errors: list[Exception] = []

    async def queue(self, request: Request) -> Any:
        if not isinstance(request, self.kind) or not self.errors:
            return await super().queue(request)
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        answer.set_exception(self.errors.pop(0))
        return answer


async def test_publishes_keep_their_order_while_the_queue_is_full(
    tmp_path: Path, system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_module, "QUEUED_BYTES_MAX", 0)
    async with opened(tmp_path, system, RAW) as channel:
        calls = [channel.publish(Publish("p", 0, n, [rows(b"%d" % n)])) for n in range(50)]
        answers = await asyncio.gather(*calls)
        assert all(isinstance(answer, Acked) for answer in answers)
        assert await bodies(channel) == [b"%d" % n for n in range(50)]


async def test_a_cancelled_publish_harms_no_other(tmp_path: Path, system: System) -> None:
    async with opened(tmp_path, system, RAW) as channel:
        tasks = [asyncio.ensure_future(channel.publish(Publish(f"p{n}", 0, 0, [rows(b"%d" % n)]))) for n in range(20)]
        await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(answer, Acked) for answer in answers[1::2])
        again = [await channel.publish(Publish(f"p{n}", 0, 0, [rows(b"%d" % n)])) for n in range(20)]
        assert all(isinstance(answer, Acked) for answer in again)
        assert sorted(await bodies(channel)) == sorted(b"%d" % n for n in range(20))


async def test_a_full_disk_fails_the_steps_in_flight_and_the_same_steps_can_be_committed_again(
    tmp_path: Path, system: System
) -> None:
    port = Failing(tmp_path, system, Advance)
    channel = EmbeddedChannel(None, system=system, port=port)
    await channel.open([RAW, TopicSpec("out", partitions=1)])
    await channel.publish(Publish("p", 0, 0, [rows(b"a", b"b", b"c")]))
    intake, owned = await owner(channel)
    steps = [Step("g", owned, Settle(n, n + 1), [rows(b"%d" % n, topic="out")]) for n in range(3)]
    port.errors = [LogFull("full")]
    answers = await asyncio.gather(*[intake.commit(step) for step in steps], return_exceptions=True)
    assert [type(answer) for answer in answers] == [LogFull] * 3
    for step in steps:
        assert isinstance(await intake.commit(step), Committed)
    assert await bodies(channel, "out") == [b"0", b"1", b"2"]
    await channel.close()


async def test_after_an_unknown_step_the_partition_is_lost_and_comes_back_as_the_log_has_it(
    tmp_path: Path, system: System
) -> None:
    port = Failing(tmp_path, system, Advance)
    channel = EmbeddedChannel(None, system=system, port=port)
    await channel.open([RAW])
    await channel.publish(Publish("p", 0, 0, [rows(b"a", b"b")]))
    intake, owned = await owner(channel)
    port.errors = [OutcomeUnknown("the wire was cut")]
    assert isinstance(await intake.commit(Step("g", owned, Settle(0, 1))), Unknown)
    assert isinstance(await intake.commit(Step("g", owned, Settle(0, 1))), FencedOff)
    taken = [await intake.next(events_max=10, bytes_max=1 << 20, wait_s=0) for _ in range(2)]
    assert isinstance(taken[0], Lost)
    assert isinstance(taken[1], Assigned)
    assert taken[1].floor == 0
    assert taken[1].owned.epoch > owned.epoch
    assert isinstance(await intake.commit(Step("g", taken[1].owned, Settle(0, 1))), Committed)
    await channel.close()


async def test_an_unknown_publish_is_said_to_be_unknown(tmp_path: Path, system: System) -> None:
    port = Failing(tmp_path, system, Append)
    channel = EmbeddedChannel(None, system=system, port=port)
    await channel.open([RAW])
    port.errors = [OutcomeUnknown("the wire was cut"), LogFull("full")]
    publish = Publish("p", 0, 0, [rows(b"a")])
    assert isinstance(await channel.publish(publish), Unknown)
    with pytest.raises(LogFull):
        await channel.publish(publish)
    assert await channel.publish(publish) == Acked([0])
    await channel.close()


async def test_a_group_that_is_ahead_of_the_log_stops_and_skips_nothing(tmp_path: Path, system: System) -> None:
    from penstock.log.api import ProgressRow  # noqa: PLC0415

    async with opened(tmp_path, system, RAW) as channel:
        await channel.publish(Publish("p", 0, 0, [rows(b"a")]))
        intake = await channel.join(Subscription(GroupSpec("g", "t")))
        row = channel.row("t")
        ahead = progress._Row(ProgressRow(1, row.pids[0], 0, 7, ()), 0, 0)
        await channel.port.write(lambda db: progress._write(db, ahead))
        with pytest.raises(LogRegressed, match="older copy"):
            await intake.next(events_max=1, bytes_max=1, wait_s=0)


class Between(RealPort):
    """Does something before every look, also in the middle of a ledger."""

    before: Callable[[int], None] = staticmethod(lambda look: None)
    looks = 0

    def look(self, work: Callable[[apsw.Connection], T]) -> T:
        self.looks += 1
        self.before(self.looks)
        return super().look(work)


@pytest.mark.parametrize("claimed_at", [0, 1, 3])
async def test_a_claim_lets_others_write_and_one_that_was_overtaken_starts_again(
    tmp_path: Path, system: System, monkeypatch: pytest.MonkeyPatch, claimed_at: int
) -> None:
    """A large ledger is read in slices outside the transaction; the epoch says whether they belong together."""
    monkeypatch.setattr(progress, "ENTRIES_AT_ONCE", 2)
    entries = [LedgerWrite("s", b"%d" % n, b"v") for n in range(7)]
    async with opened(tmp_path, system, RAW) as other:
        await other.publish(Publish("p", 0, 0, [rows(b"a", b"b")]))
        intake, owned = await owner(other)
        assert isinstance(await intake.commit(Step("g", owned, Settle(0, 1), ledger=entries)), Committed)
        await intake.leave()
        port = Between(tmp_path, system)
        channel = EmbeddedChannel(None, system=system, port=port)
        await channel.open([])
        heir = await channel.join(Subscription(GroupSpec("g", "t")))
        sequences: list[int] = []

        def write(look: int) -> None:
            sequences.append(len(sequences) + 1)
            assert isinstance(other.publish_blocking(Publish("p", 0, sequences[-1], [rows(b"c")])), Acked)
            if look == claimed_at:
                other.port.apply(Claim(1, other.row("t").pids))

        port.looks, port.before = 0, write
        first = await heir.next(events_max=1, bytes_max=1, wait_s=0)
        assert claimed_at or len(sequences) >= 4
        if claimed_at:
            assert isinstance(first, Idle)
            assert first.behind == "partition 0 of group g is not settled; nobody has it"
            first = await heir.next(events_max=1, bytes_max=1, wait_s=0)
        assert isinstance(first, Assigned)
        assert list(first.ledger) == [(w.space, w.key, w.value) for w in entries]
        assert isinstance(await heir.commit(Step("g", first.owned, Settle(1, 2))), Committed)
        await channel.close()


async def test_what_is_quarantined_at_the_end_is_nobodys_to_settle(tmp_path: Path, system: System) -> None:
    """Another member waits for what can be settled, and not for what nobody is ever given."""
    async with opened(tmp_path, system, RAW) as channel:
        for sequence in range(3):
            await channel.publish(Publish("p", 0, sequence, [rows(b"a", b"b")]))
        intake, owned = await owner(channel)
        other = await channel.join(Subscription(GroupSpec("g", "t")))
        [pid] = channel.row("t").pids

        async def behind() -> str:
            taken = await other.next(events_max=1, bytes_max=1, wait_s=0)
            assert isinstance(taken, Idle)
            return taken.behind

        one = quarantine.Quarantined(pid, 3, 6, 0, "damaged")
        await channel.port.write(lambda db: quarantine.record(db, one))
        assert isinstance(await intake.commit(Step("g", owned, Settle(0, 1, holes=[4]))), Committed)
        assert await behind() == "partition 0 of group g is not settled; another member has it"
        assert isinstance(await intake.commit(Step("g", owned, Settle(1, 3, holes=[4]))), Committed)
        assert await behind() == ""
        await channel.publish(Publish("p", 0, 3, [rows(b"c")]))
        assert await behind()


def _spec(fields: Sequence[tuple[str, pa.DataType]], description: dict[str, Any]) -> TopicSpec:
    return TopicSpec("c", 1, description, pa.schema(list(fields)).serialize().to_pybytes())


async def test_each_program_writes_the_type_it_declared_and_blocks_keep_theirs(
    tmp_path: Path, system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    import penstock.schema  # noqa: PLC0415

    monkeypatch.setattr(penstock.schema, "check_backward", lambda old, new: [])
    old = _spec([("n", pa.int64())], {"v": 1})
    new = _spec([("n", pa.int64()), ("s", pa.string())], {"v": 2})
    one = pa.RecordBatch.from_pydict({"n": [1]})
    two = pa.RecordBatch.from_pydict({"n": [2], "s": ["x"]})
    async with opened(tmp_path, system, old) as elder, opened(tmp_path, system, new) as younger:
        elder.refresh()
        for sequence, (channel, table) in enumerate([(elder, one), (younger, two), (elder, one)]):
            batch = NewBatch("c", 0, 1, Columns(table))
            answer = await channel.publish(Publish("p", 0, sequence, [batch]))
            assert answer == Acked([sequence])
        for channel in (elder, younger):
            found = await channel.read("c", 0, 0, events_max=10)
            tables = [batch.payload.table.to_pylist() for batch in found if isinstance(batch.payload, Columns)]
            assert tables == [[{"n": 1}], [{"n": 2, "s": "x"}], [{"n": 1}]]
        refused = await elder.publish(Publish("p", 0, 3, [NewBatch("c", 0, 1, Columns(two))]))
        assert isinstance(refused, Refused)
        assert "s: string" in refused.reason


async def test_a_type_that_could_not_read_what_is_recorded_is_refused_with_the_way_out(
    tmp_path: Path, system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    import penstock.schema  # noqa: PLC0415

    class Change(msgspec.Struct):
        path: str = "n"
        what: str = "int became str"
        way_out: str = "use another field"

    monkeypatch.setattr(penstock.schema, "check_backward", lambda old, new: [Change()])
    async with opened(tmp_path, system, _spec([("n", pa.int64())], {"v": 1})):
        other = EmbeddedChannel(tmp_path, system=system)
        fresh = TopicSpec("fresh", partitions=1)
        with pytest.raises(SchemaIncompatible, match=r"int became str.*another field"):
            await other.open([fresh, _spec([("n", pa.string())], {"v": 2})])
        assert set(other.topics()) == {"c"}
        await other.close()


async def test_what_is_declared_already_is_opened_without_a_commit(tmp_path: Path, system: System) -> None:
    async with opened(tmp_path, system, RAW) as channel:
        before = _size(tmp_path / "log.db-wal")
        await channel.open([RAW])
        async with opened(tmp_path, system, RAW):
            assert _size(tmp_path / "log.db-wal") == before


def _names(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir()]


def _size(path: Path) -> int:
    return path.stat().st_size


async def test_publishing_several_topics_wakes_a_member_in_another_handle_at_once(
    tmp_path: Path, system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the safety look: the wake-up itself comes."""
    monkeypatch.setattr("penstock.channel.drivers.embedded.intake.SAFETY_LOOK_S", 60.0)
    wide = TopicSpec("t", partitions=300)
    async with opened(tmp_path, system, wide) as one, opened(tmp_path, system, wide) as two:
        intake = await one.join(Subscription(GroupSpec("g", "t")))
        for _ in range(300):
            assert isinstance(await intake.next(events_max=1, bytes_max=1, wait_s=0), Assigned)
        waiting = asyncio.ensure_future(intake.next(events_max=9, bytes_max=99, wait_s=60.0))
        await asyncio.sleep(0)
        await two.publish(Publish("p", 0, 0, [NewBatch("t", 299, 1, Rows.of([b"news"]))]))
        taken = await asyncio.wait_for(waiting, 20)
        assert taken.owned.partition == 299  # type: ignore[union-attr]


async def test_a_channel_that_is_not_open_says_so(tmp_path: Path, system: System) -> None:
    channel = EmbeddedChannel(tmp_path, system=system)
    with pytest.raises(ConfigError, match="open"):
        await channel.read("t", 0, 0, events_max=1)
    await channel.close()
    with pytest.raises(Closed):
        await channel.open([])
    with pytest.raises(Closed):
        channel.publish_blocking(Publish("p", 0, 0, [rows(b"a")]))
    assert _names(tmp_path) == []


async def test_durability_is_stated() -> None:
    system = real_system()
    normal = EmbeddedChannel(None, system=system, config=LogConfig(durability="normal"))
    assert normal.capabilities.durability == "D1"
    assert EmbeddedChannel(None, system=system).capabilities.durability == "D2"
    system.offload.close()


async def test_the_inline_port_is_the_same_log_without_files(system: System) -> None:
    disk = Disk()
    ports = InlinePort(disk, system), InlinePort(disk, system)
    one, two = (EmbeddedChannel(None, system=system, port=port) for port in ports)
    for channel in (one, two):
        await channel.open([RAW])
    assert one.publish_blocking(Publish("p", 0, 0, [rows(b"a")])) == Acked([0])
    intake, owned = await owner(two)
    waiting = await one.join(Subscription(GroupSpec("g", "t")))
    assert "owned by" in (await waiting.next(events_max=1, bytes_max=1, wait_s=0)).reason  # type: ignore[union-attr]
    ports[1].die()
    assert isinstance(await waiting.next(events_max=1, bytes_max=1, wait_s=0), Assigned)
    assert isinstance(await intake.commit(Step("g", owned, Settle(0, 1))), FencedOff)
    assert isinstance(await intake.next(events_max=1, bytes_max=1, wait_s=0), Lost)
    await two.close()
    with pytest.raises(Closed):
        await intake.next(events_max=1, bytes_max=1, wait_s=0)
    await one.close()
    assert disk.tables["1"].seats() == []


def test_the_look_at_a_full_queue_is_short() -> None:
    assert port_module.FULL_LOOK_S <= 0.01
