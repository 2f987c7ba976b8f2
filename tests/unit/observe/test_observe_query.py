"""SQL over topics: the same answers as DuckDB gives over the same data in memory, from as little as the query needs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock.channel.api import Scan
from penstock.channel.typed import TypedTopic
from penstock.errors import BlockDamaged, ConfigError
from penstock.event.batch import Columns
from penstock.log import blocks
from penstock.observe.query import SqlError, Tables
from penstock.schema import schema_of
from penstock.telemetry import emit
from tests.unit.observe.observe_kit import DAY, Flight, Kit, flight_topic, flights


@asynccontextmanager
async def session(kit: Kit) -> AsyncIterator[Tables]:
    tables = Tables(kit.channel, kit.channel.topics(), kit.system)
    try:
        yield tables
    finally:
        await tables.close()


async def ask(kit: Kit, sql: str) -> list[dict[str, Any]]:
    """All rows of a query."""
    async with session(kit) as tables:
        answer = await tables.query(sql)
        rows: list[dict[str, Any]] = []
        while (batch := await answer.next()) is not None:
            rows += batch.to_pylist(maps_as_pydicts="lossy")
        return rows


class Seen:
    """What was decoded meanwhile: blocks handed to the query, and the columns that were read out of each."""

    def __init__(self) -> None:
        self.columns: list[list[str] | None] = []

    @property
    def blocks(self) -> int:
        return len(self.columns)


@contextmanager
def watched(monkeypatch: pytest.MonkeyPatch) -> Iterator[Seen]:
    """Count what is really decoded, below everything that could pretend."""
    seen = Seen()
    decode = blocks.decode

    def counting(data: bytes, **how: Any) -> Any:
        payload = decode(data, **how)
        seen.columns.append(payload.table.schema.names if isinstance(payload, Columns) else None)
        return payload

    with monkeypatch.context() as patched:
        patched.setattr(blocks, "decode", counting)
        yield seen


# -- the same answers ------------------------------------------------------------------------------------------------

EVENTS = flights(400)
_NUMBER = st.integers(-2, 410)
_MINUTE = _NUMBER.map(lambda n: f"TIMESTAMPTZ '2013-01-01 00:00:00Z' + to_minutes({n})")
_COMPARED = st.sampled_from(["<", "<=", ">", ">=", "=", "<>"])
_LEAF = st.one_of(
    st.builds(lambda op, v: f"id {op} {v}", _COMPARED, _NUMBER),
    st.builds(lambda op, v: f"due {op} {v}", _COMPARED, _MINUTE),
    st.builds(lambda a, b: f"due BETWEEN {a} AND {b}", _MINUTE, _MINUTE),
    st.builds(lambda op, v: f"delay_min {op} {v / 4}", _COMPARED, _NUMBER),
    st.builds(lambda v: f"carrier = 'C{v}'", st.integers(0, 8)),
    st.builds(lambda v: f"carrier LIKE '%{v}'", st.integers(0, 8)),
    st.builds(lambda vs: f"id IN ({', '.join(map(str, vs))})", st.lists(_NUMBER, min_size=1, max_size=4)),
    st.sampled_from(["delay_min IS NULL", "delay_min IS NOT NULL", "id % 3 = 1"]),
)
CONDITIONS = st.recursive(
    _LEAF,
    lambda inner: (
        st.builds(lambda parts: "(" + " AND ".join(parts) + ")", st.lists(inner, min_size=2, max_size=3))
        | st.builds(lambda parts: "(" + " OR ".join(parts) + ")", st.lists(inner, min_size=2, max_size=3))
        | st.builds(lambda one: f"NOT ({one})", inner)
    ),
    max_leaves=5,
)
SHOWN = st.sampled_from(["id", "*", "carrier, delay_min", "due, id", "count(*) AS n", "max(delay_min) AS most"])


@pytest.fixture(scope="module")
def memory() -> Iterator[duckdb.DuckDBPyConnection]:
    """The same events as a plain table."""
    with duckdb.connect() as db:
        db.execute("SET TimeZone = 'UTC'")
        table = schema_of(Flight).to_columns(EVENTS)
        db.register("flights", pa.Table.from_batches([table]))
        yield db


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[asyncio.Runner, Kit, Tables]]:
    """The events in a log, half as rows and half as columns, in blocks of 25; a session for all examples."""
    with asyncio.Runner() as runner:

        async def make() -> tuple[Kit, Tables]:
            kit = Kit(tmp_path_factory.mktemp("query") / "log")
            await kit.open(flight_topic())
            for start in range(0, 400, 50):
                await kit.rows(EVENTS[start : start + 25])
                await kit.columns(EVENTS[start + 25 : start + 50])
            return kit, Tables(kit.channel, kit.channel.topics(), kit.system)

        kit, tables = runner.run(make())
        yield runner, kit, tables
        runner.run(tables.close())
        runner.run(kit.close())


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=80)
@given(condition=CONDITIONS, shown=SHOWN)
def test_answers_are_those_of_the_same_data_in_memory(
    both: tuple[asyncio.Runner, Kit, Tables], memory: duckdb.DuckDBPyConnection, condition: str, shown: str
) -> None:
    """Whatever the filter and the columns, the log's pruning changes nothing."""
    runner, _, tables = both
    fields = "id, carrier, due, delay_min" if shown == "*" else shown
    sql = f"SELECT {fields} FROM flights WHERE {condition} ORDER BY ALL"
    expected = memory.execute(sql).fetchall()

    async def found() -> list[tuple[Any, ...]]:
        answer = await tables.query(sql)
        rows: list[tuple[Any, ...]] = []
        while (batch := await answer.next()) is not None:
            rows += zip(*(column.to_pylist() for column in batch.columns), strict=True)
        return rows

    assert runner.run(found()) == expected


# -- from as little as needed ----------------------------------------------------------------------------------------


async def in_blocks(kit: Kit, count: int = 20) -> None:
    """Columns in `count` blocks of 50 minutes, in one partition."""
    await kit.open(flight_topic(partitions=1))
    for start in range(0, 50 * count, 50):
        await kit.columns(flights(50, start=start))


async def test_only_the_columns_asked_for_are_read(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the select list and of the filter, and nothing else."""
    await in_blocks(kit, 3)
    with watched(monkeypatch) as seen:
        await ask(kit, "SELECT max(delay_min) FROM flights WHERE id > 10")
    assert seen.columns == [["id", "delay_min"]] * 3
    with watched(monkeypatch) as seen:
        rows = await ask(kit, "SELECT _offset, _partition FROM flights")
    assert seen.columns == [[]] * 3, "what the log knows needs nothing of the events"
    assert [row["_offset"] for row in rows] == list(range(150))


async def test_only_the_blocks_of_the_time_range_are_read(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty blocks of 50 minutes each: minutes 120 to 160 lie in two of them."""
    await in_blocks(kit)
    with watched(monkeypatch) as seen:
        rows = await ask(
            kit, "SELECT id FROM flights WHERE due >= '2013-01-01 02:00:00Z' AND due < '2013-01-01 02:40:00Z'"
        )
    assert [row["id"] for row in rows] == list(range(120, 160))
    assert seen.blocks == 2
    with watched(monkeypatch) as seen:
        assert await ask(kit, "SELECT id FROM flights WHERE due > '2014-01-01' AND carrier = 'C1'") == []
    assert seen.blocks == 0


async def test_only_the_offsets_and_partitions_asked_for_are_read(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    await in_blocks(kit)
    with watched(monkeypatch) as seen:
        rows = await ask(kit, "SELECT id FROM flights WHERE _offset BETWEEN 95 AND 104")
    assert [row["id"] for row in rows] == list(range(95, 105))
    assert seen.blocks == 2
    with watched(monkeypatch) as seen:
        assert await ask(kit, "SELECT id FROM flights WHERE _partition = 3") == []
    assert seen.blocks == 0


async def test_a_limit_ends_the_reading(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not asked for is not read: the topic is never in memory as a whole."""
    await kit.open(flight_topic(partitions=1))
    for start in range(0, 60_000, 3_000):
        await kit.columns(flights(3_000, start=start))
    with watched(monkeypatch) as seen:
        assert len(await ask(kit, "SELECT * FROM flights LIMIT 5")) == 5
    assert seen.blocks < 10


async def test_reads_are_counted(kit: Kit) -> None:
    """Telemetry says how many blocks and events a query took."""
    await in_blocks(kit, 4)
    emit.reset()
    await ask(kit, "SELECT id FROM flights WHERE due < '2013-01-01 01:00:00Z'")
    counters = emit.counters()
    assert counters["penstock_query_blocks_total", (("topic", "flights"),)] == 2
    assert counters["penstock_query_events_total", (("topic", "flights"),)] == 100


# -- what is a table -------------------------------------------------------------------------------------------------


async def test_metadata_beside_the_fields(filled: Kit) -> None:
    """Keys as text, ids as the event's own or derived, headers as a map."""
    rows = await ask(filled, "SELECT * EXCLUDE (_recorded_time) FROM raw ORDER BY _offset")
    assert rows[0] == {
        "body": b"plain", "_partition": 0, "_offset": 0, "_key": None, "_id": "r-1", "_headers": {"from": "a"}
    }  # fmt: skip
    assert rows[1]["_id"].startswith("kit/1/")
    assert rows[1]["_headers"] is None
    keys = await ask(filled, "SELECT DISTINCT _key, carrier FROM flights ORDER BY 1")
    assert keys == [{"_key": f"C{n}", "carrier": f"C{n}"} for n in range(7)]
    recent = await ask(filled, "SELECT count(*) AS n FROM flights WHERE _recorded_time > now() - INTERVAL 1 HOUR")
    assert recent == [{"n": 100}]


async def test_dead_letters_are_a_table(filled: Kit) -> None:
    """With the reason and the original bytes, quoted or not."""
    rows = await ask(filled, 'SELECT * EXCLUDE (_recorded_time, _id, _headers) FROM "check.dead" WHERE "offset" = 9')
    assert rows == [
        {
            "group": "check", "topic": "flights", "partition": 1, "offset": 9, "reason": "never departed",
            "error": "Reject", "attempts": 3, "stack": "Traceback\n  boom", "id": "event-9", "body": b'{"id":9}',
            "_partition": 1, "_offset": 0, "_key": "C2",
        }
    ]  # fmt: skip
    assert await ask(filled, 'SELECT count(*) AS n FROM "check".dead') == [{"n": 4}]


async def test_what_a_flow_made_is_a_table(filled: Kit) -> None:
    rows = await ask(filled, "SELECT carrier, flights, mean_min, _key FROM delays ORDER BY flights")
    assert rows == [
        {"carrier": "AA", "flights": 3, "mean_min": 1.5, "_key": "AA"},
        {"carrier": "UA", "flights": 4, "mean_min": None, "_key": "UA"},
    ]


async def test_topics_join(filled: Kit) -> None:
    """Two topics in one query, one of them twice."""
    sql = """
        SELECT a.id FROM flights a JOIN flights b ON a.id = b.id + 1
        WHERE b.id IN (SELECT "offset" FROM "check.dead") ORDER BY 1
    """
    assert await ask(filled, sql) == [{"id": 1}, {"id": 2}, {"id": 3}, {"id": 10}]


class Later(Flight):
    """`Flight` when it had got one field more."""

    gate: str = "unknown"


async def test_older_columns_are_read_by_the_newest_type(kit: Kit) -> None:
    """A field that came later has its default in what was written before."""
    await in_blocks(kit, 1)
    schema = schema_of(Later)
    await kit.open(
        msgspec.structs.replace(flight_topic(partitions=1), schema=schema.describe(), arrow=schema.arrow_bytes())
    )
    later = TypedTopic(kit.channel.topic("flights"), schema)
    await kit.publish(later.pack_columns(schema.to_columns([Later(50, "C1", DAY, gate="B7")])))
    rows = await ask(kit, "SELECT gate, count(*) AS n FROM flights GROUP BY ALL ORDER BY 1")
    assert rows == [{"gate": "B7", "n": 1}, {"gate": "unknown", "n": 50}]


async def test_several_statements_and_files(filled: Kit, tmp_path: Path) -> None:
    """A session can keep results in tables and files; it is the user's machine."""
    target = tmp_path / "c0.parquet"
    made = f"CREATE TABLE c0 AS FROM flights WHERE carrier = 'C0'; COPY c0 TO '{target}'"
    sql = f"{made}; SELECT count(*) AS n FROM '{target}'"
    assert await ask(filled, sql) == [{"n": 15}]
    assert await ask(filled, "SET threads = 1") == []


# -- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sql", "kind", "said"),
    [
        ("SELECT * FROM flihgts", ConfigError, "no topic 'flihgts' here; did you mean flights"),
        ("SELEC 1", SqlError, "Parser Error: syntax error"),
        ("SELECT nope FROM flights", SqlError, 'Referenced column "nope" not found'),
        ("SELECT carrier::INT FROM flights", SqlError, "Conversion Error"),
        ("SELECT * FROM kit", ConfigError, "no topic 'kit' here"),
    ],
)
async def test_a_wrong_query_is_told_in_its_own_words(filled: Kit, sql: str, kind: type[Exception], said: str) -> None:
    """DuckDB's message, no traceback; variables of this program are no tables."""
    with pytest.raises(kind) as caught:
        await ask(filled, sql)
    assert said in str(caught.value)
    assert "Traceback" not in str(caught.value)


async def test_a_log_cannot_be_changed_by_sql(filled: Kit) -> None:
    with pytest.raises(SqlError):
        await ask(filled, "DELETE FROM flights")
    assert await ask(filled, "SELECT count(*) AS n FROM flights") == [{"n": 100}]


async def test_damage_is_an_error_and_never_a_gap(filled: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    """The log's own error reaches the caller, with the offsets it names, through DuckDB."""
    scan = filled.channel.scan

    async def damaged(what: Scan, *, events_max: int) -> Any:
        if what.partition == 1:
            raise BlockDamaged("topic flights/1, offsets 0 to 24: damaged")
        return await scan(what, events_max=events_max)

    monkeypatch.setattr(filled.channel, "scan", damaged)
    with pytest.raises(BlockDamaged, match="offsets 0 to 24"):
        await ask(filled, "SELECT sum(id) FROM flights")
    with pytest.raises(BlockDamaged, match="offsets 0 to 24"):
        await ask(filled, "SELECT id FROM flights ORDER BY id")


async def test_an_interrupted_query_lets_everything_go(filled: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cancelled while DuckDB waits for the log: the session closes at once, and the log can be used on."""
    waiting = asyncio.Event()
    scan = filled.channel.scan

    async def stuck(what: Scan, *, events_max: int) -> Any:
        waiting.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(filled.channel, "scan", stuck)
    async with session(filled) as tables:
        asked = asyncio.ensure_future(_all(tables, "SELECT sum(id) FROM flights"))
        await waiting.wait()
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
    monkeypatch.setattr(filled.channel, "scan", scan)
    assert await ask(filled, "SELECT count(*) AS n FROM flights") == [{"n": 100}]


async def _all(tables: Tables, sql: str) -> None:
    answer = await tables.query(sql)
    while await answer.next() is not None:
        pass
