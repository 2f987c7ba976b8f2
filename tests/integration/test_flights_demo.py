"""The flights pipeline on real data: against DuckDB on the CSV files, after every step, run again, published again."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import duckdb
import msgspec
import polars as pl
import pyarrow as pa
import pytest

from penstock.app.app import App
from penstock.app.opened import open_app
from penstock.app.plan import plan_app
from penstock.cli.demo.data import data_directory
from penstock.log import catalogue, progress
from penstock.log.api import StepRecord
from penstock.system.ports import real_system
from tests.integration import flights_kit
from tests.oracle import flights as oracle

COUNTS = {"flight_scheduled": 336_776, "flight_departed": 336_776, "flight_arrived": 327_346}
REJECTED = 8_255


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the pipeline has run once."""
    place = tmp_path_factory.mktemp("demo")
    report = flights_kit.flights_app(place).run(until_idle=True)
    assert {name: report.part(name).events for name in COUNTS} == COUNTS
    check = report.part("check")
    assert (check.events, check.dead) == (COUNTS["flight_departed"], REJECTED)
    return place


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> Iterator[duckdb.DuckDBPyConnection]:
    """What DuckDB reads straight from the CSV files."""
    connection = oracle.opened(data_directory(), tmp_path_factory.mktemp("csv"))
    yield connection
    connection.close()


def assert_results(out: Path, truth: duckdb.DuckDBPyConnection) -> None:
    """Both results are what the CSV files say."""
    assert _plain(flights_kit.departures(out)).equals(_plain(oracle.departures(truth)))
    found, expected = flights_kit.carrier_delay(out).to_pydict(), oracle.carrier_delay(truth).to_pydict()
    means, wanted = found.pop("mean_delay_min"), expected.pop("mean_delay_min")
    assert found == expected
    assert means == pytest.approx(wanted, rel=1e-12)


def _plain(table: pa.Table) -> pa.Table:
    """Times as microseconds and texts of one kind, so that equality is about values."""
    fields = [
        pa.field(f.name, pa.timestamp("us", "UTC") if pa.types.is_timestamp(f.type) else f.type) for f in table.schema
    ]
    fields = [pa.field(f.name, pa.int64()) if pa.types.is_integer(f.type) else f for f in fields]
    return table.cast(pa.schema(fields)).combine_chunks()


def test_the_example_is_the_demo() -> None:
    packaged = flights_kit.ROOT / "src" / "penstock" / "cli" / "demo" / "flights.py"
    assert packaged.read_bytes() == flights_kit.EXAMPLE.read_bytes()


def test_results_are_what_the_files_say(out: Path, truth: duckdb.DuckDBPyConnection) -> None:
    assert_results(out, truth)


def test_departures_come_truly_out_of_order(out: Path) -> None:
    frame = _frame(flights_kit.flights_app(out), "flight_departed")
    late = frame.select((pl.col("scheduled").cum_max() - pl.col("scheduled")).over("partition").max()).item()
    assert 21 < late.total_seconds() / 3600 <= 21.7


def test_what_never_departed_lies_among_the_dead_letters(out: Path, truth: duckdb.DuckDBPyConnection) -> None:
    keys = [msgspec.json.decode(body)["key"] for body, _ in _raw(flights_kit.flights_app(out), "check.dead")]
    reasons = {headers["reason"] for _, headers in _raw(flights_kit.flights_app(out), "check.dead")}
    assert sorted(keys) == oracle.rejected_keys(truth)
    assert reasons == {"never departed"}


def test_a_second_run_finds_nothing_new(out: Path, truth: duckdb.DuckDBPyConnection) -> None:
    report = flights_kit.flights_app(out).run(until_idle=True)
    assert [(part.name, part.events) for part in report.parts if part.events] == []
    assert_results(out, truth)


def test_published_again_the_log_answers_with_the_original_offsets(out: Path, truth: duckdb.DuckDBPyConnection) -> None:
    before = _tips(flights_kit.flights_app(out))
    report = flights_kit.flights_app(out).run(until_idle=True, republish=True)
    assert {name: (report.part(name).events, report.part(name).repeated) for name in COUNTS} == {
        name: (count, count) for name, count in COUNTS.items()
    }
    assert report.part("check").events == 0
    assert _tips(flights_kit.flights_app(out)) == before
    assert_results(out, truth)


def test_the_running_aggregate_equals_a_batch_query_after_every_step(out: Path) -> None:
    app = flights_kit.flights_app(out)
    named = _frame(app, "named").select("partition", "offset", "carrier", "delay_min")
    partials = _frame(app, "carrier_delay.partials").select("partition", "offset", "carrier")
    results = _frame(app, "carrier_delay")
    first, second = _steps(app, "carrier_delay.partials"), _steps(app, "carrier_delay")
    assert len(second) > 50
    # Which partial row stands for which input events: those its step read, of its carrier.
    inputs = [
        named.filter(pl.col("partition") == place[1], pl.col("offset").is_between(step.before, step.after - 1))
        .join(_outputs(partials, step, pids), on="carrier", how="inner")
        .select("carrier", "delay_min", "into_partition", "into_offset")
        for place, step, pids in first
    ]
    contributed = pl.concat(inputs)
    assert contributed.height == named.height
    for (_, partition), step, pids in second:
        so_far = contributed.filter(pl.col("into_partition") == partition, pl.col("into_offset") < step.after)
        batch = _batch_query(so_far)
        upserted = _outputs_until(results, step, pids).unique("carrier", keep="last").sort("carrier")
        assert upserted.select("carrier", "flights", "max_delay_min").equals(
            batch.select("carrier", "flights", "max_delay_min")
        ), f"after step {step.number} of partition {partition}"
        assert upserted["mean_delay_min"].to_list() == pytest.approx(batch["mean_delay_min"].to_list(), rel=1e-12)


def _batch_query(rows: pl.DataFrame) -> pl.DataFrame:
    return (
        rows.group_by("carrier")
        .agg(
            flights=pl.len().cast(pl.Int64),
            mean_delay_min=pl.col("delay_min").mean(),
            max_delay_min=pl.col("delay_min").max(),
        )
        .sort("carrier")
    )


def _outputs(rows: pl.DataFrame, step: StepRecord, pids: dict[int, int]) -> pl.DataFrame:
    """The rows that the step wrote, with their place."""
    parts = [
        rows.filter(pl.col("partition") == pids[pid], pl.col("offset").is_between(start, start + count - 1))
        for pid, start, count in step.outputs
    ]
    return pl.concat([rows.clear(), *parts]).rename({"partition": "into_partition", "offset": "into_offset"})


def _outputs_until(rows: pl.DataFrame, step: StepRecord, pids: dict[int, int]) -> pl.DataFrame:
    """What the step's partition has written up to and with this step: carriers of one partition stay in one."""
    (pid, start, count), *others = step.outputs
    assert not others
    return rows.filter(pl.col("partition") == pids[pid], pl.col("offset") < start + count)


# -- the log, looked at from outside the pipeline ------------------------------------------------------------------


def _in_log(app: App, work):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    async def run():  # type: ignore[no-untyped-def]  # noqa: ANN202
        system = real_system()
        opened = await open_app(app, plan_app(app), system)
        try:
            return await work(opened)
        finally:
            await opened.close()
            system.offload.close()

    return asyncio.run(run())


async def _blocks(opened, name: str):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    for partition in range(opened.topic(name).spec.partitions):
        offset = 0
        while batches := await opened.channel.read(name, partition, offset, events_max=100_000):
            for batch in batches:
                yield batch
            offset = batches[-1].end


def _frame(app: App, name: str) -> pl.DataFrame:
    async def work(opened) -> pl.DataFrame:  # type: ignore[no-untyped-def]  # noqa: ANN001
        frames = []
        async for batch in _blocks(opened, name):
            frame = pl.DataFrame(opened.topic(name).table(batch))
            place = [pl.lit(batch.partition).alias("partition"), pl.int_range(batch.first, batch.end).alias("offset")]
            frames.append(frame.with_columns(place))
        return pl.concat(frames)

    return _in_log(app, work)


def _raw(app: App, name: str) -> list[tuple[bytes, dict[str, str]]]:
    async def work(opened) -> list[tuple[bytes, dict[str, str]]]:  # type: ignore[no-untyped-def]  # noqa: ANN001
        return [
            pair
            async for batch in _blocks(opened, name)
            for pair in zip(batch.payload.bodies(), batch.payload.attributes["headers"], strict=True)
        ]

    return _in_log(app, work)


def _tips(app: App) -> dict[str, list[int]]:
    async def work(opened) -> dict[str, list[int]]:  # type: ignore[no-untyped-def]  # noqa: ANN001
        return {name: list(await opened.channel.tips(name)) for name in opened.channel.topics()}

    return _in_log(app, work)


def _steps(app: App, group: str) -> list[tuple[tuple[str, int], StepRecord, dict[int, int]]]:
    """Every recorded step of a group: ((topic, partition), step, partition id → number)."""

    async def work(opened):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
        look = opened.channel.port.look
        topics = look(catalogue.topics)
        places = {pid: (row.name, number) for row in topics for number, pid in enumerate(row.pids)}
        numbers = {pid: number for pid, (_, number) in places.items()}
        (identity,) = [row.id for row in look(catalogue.groups) if row.name == group]
        rows = [row for row in look(progress.all_progress) if row.group_id == identity]
        return [
            (places[row.pid], step, numbers)
            for row in rows
            for step in look(lambda db, row=row: progress.steps_of(db, identity, row.pid, count_max=100_000))
        ]

    return _in_log(app, work)
