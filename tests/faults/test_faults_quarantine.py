"""Damage that somebody decides to pass over: nothing before the command, only what is damaged, counted, bytes kept."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from penstock import Acked, App, OnFailure, Retry, parquet
from penstock.cli import exits
from penstock.cli.entry import outcome
from penstock.cli.program import load_app
from penstock.errors import BlockDamaged, ConfigError, CorruptionError, PermanentError
from penstock.log import catalogue, quarantine
from penstock.log.log import Log
from penstock.log.quarantining import damaged, pass_over
from penstock.log.verify import Place, Verified, verify
from penstock.telemetry import emit
from tests.faults import logwork
from tests.faults.appwork import Order
from tests.faults.report import FaultReport
from tests.faults.test_faults_damage import edit


def damaged_at(*firsts: int) -> str:
    """Changes the bytes of the blocks that begin at these offsets of partition id 1."""
    return f"UPDATE block SET data = x'00' WHERE at IN ({', '.join(str(1 << 46 | first) for first in firsts)})"


def ten_blocks(directory: Path) -> int:
    """A topic of one partition with ten blocks of two events; its partition id."""
    with logwork.opened(directory) as log:
        [pid] = logwork.declare(log, "t", 1)
        for number in range(10):
            logwork.publish(log, pid, number, [b"%d-a" % number, b"%d-b" % number])
    return pid


def passed_over(log: Log, first: int, end: int) -> None:
    wanted = damaged(log.look, Place("t", 0, 1), first, end, now_us=1)
    logwork.write(log, lambda db: pass_over(db, wanted))


def test_each_damage_is_listed_with_its_place_and_the_way_out(tmp_path: Path, fault_report: FaultReport) -> None:
    tally = fault_report("A5", "A6")
    logwork.run(tmp_path, logwork.Job(), lambda _: None)
    statements = {
        "UPDATE block SET data = x'00' WHERE at = (SELECT max(at) FROM block WHERE at < 2 << 46)": "offsets 15 to 19",
        "DELETE FROM block WHERE at = (1 << 46) + 5": "no block holds offsets 5 to 9",
        "UPDATE progress SET floor = floor - 5 WHERE pid = 1": "progress of group",
        "UPDATE ledger SET value = x'30' WHERE pid = 2": "ledger of group",
        "UPDATE step SET after = after + 1 WHERE pid = 2 AND number = 1": "step 1 of group",
        "INSERT INTO schema(topic_id, description, chk) SELECT id, '{}', 7 FROM topic WHERE name = 'in'": "schema id",
        "UPDATE sequence SET content = content + 1 WHERE number = 2": "sequence 2",
        "INSERT INTO block SELECT 99 << 46, count, schema_id, recorded_us, time_min, time_max, size, origin, since, "
        "crc, chk, data FROM block LIMIT 1": "blocks of partition id 99",
    }
    for sql in statements:
        edit(tmp_path, sql)
    with logwork.opened(tmp_path) as log:
        found = verify(log.look)
    told = [f"{damage.what} | {damage.way_out}" for damage in found.damages]
    for said in statements.values():
        tally.points += 1
        tally.contradicts(said, [] if any(said in text for text in told) else [f"not among {told}"])
    assert all(damage.way_out for damage in found.damages)
    assert any("penstock log quarantine in/0 --offsets 15:19 --yes" in text for text in told)
    assert tally.clean, tally.told


def test_a_ledger_that_lost_a_row_is_found(tmp_path: Path, fault_report: FaultReport) -> None:
    tally = fault_report("A6")
    logwork.run(tmp_path, logwork.Job(), lambda _: None)
    edit(tmp_path, "DELETE FROM ledger WHERE pid = 1")
    with logwork.opened(tmp_path) as log:
        found = verify(log.look)
    tally.points += 1
    tally.contradicts("a lost row", [] if any("entries are missing" in d.what for d in found.damages) else ["unseen"])
    assert tally.clean, tally.told


def test_readers_stop_until_somebody_says_so(tmp_path: Path, fault_report: FaultReport) -> None:
    tally = fault_report("A5")
    pid = ten_blocks(tmp_path)
    edit(tmp_path, damaged_at(6, 8, 18))
    before = emit.counters().get(("penstock_events_quarantined_total", (("partition", f"partition id {pid}"),)), 0)
    with logwork.opened(tmp_path) as log:
        with pytest.raises(BlockDamaged, match="offsets 6 to 7"):
            logwork.contents(log, pid)
        tally.note("nothing is skipped by itself", lost=0)
        for first, end in ((0, 2), (4, 8), (6, 11), (6, 6), (20, 22)):
            with pytest.raises(ConfigError, match=r"not all damaged; .* are: 6:7, 8:9, 18:19"):
                passed_over(log, first, end)
            tally.points += 1
        passed_over(log, 6, 10)
        with pytest.raises(BlockDamaged, match="offsets 18 to 19"):
            logwork.contents(log, pid)
        passed_over(log, 18, 20)
        expected = [b"%d-%s" % (n, c) for n in range(10) for c in (b"a", b"b") if n not in (3, 4, 9)]
        tally.compare(expected, logwork.contents(log, pid))
        found: Verified = verify(log.look)
        assert (found.damages, found.events) == ([], 14)
        assert [(one.first, one.end) for one in found.quarantined] == [(6, 10), (18, 20)]
        kept = log.look(lambda db: db.execute("SELECT count(*) FROM block WHERE data = x'00'").fetchall())
        assert kept == [(3,)]
        assert log.look(lambda db: quarantine.covering(db, pid, 10)) is None
    counted = emit.counters()[("penstock_events_quarantined_total", (("partition", f"partition id {pid}"),))]
    assert counted - before >= 6
    assert tally.clean, tally.told


def test_a_damaged_page_hides_its_blocks_and_no_others(tmp_path: Path, fault_report: FaultReport) -> None:
    tally = fault_report("A5")
    with logwork.opened(tmp_path) as log:
        [pid] = logwork.declare(log, "t", 1)
        for number in range(400):
            logwork.publish(log, pid, number, [b"%03d" % number * 30])
    edit(tmp_path, "PRAGMA wal_checkpoint(TRUNCATE)")
    code = "import apsw, sys; print(*[r[0] for r in apsw.Connection(sys.argv[1]).execute(sys.argv[2])])"
    sql = "SELECT pageno FROM dbstat WHERE name = 'block' AND pagetype = 'leaf' ORDER BY path"
    command = [sys.executable, "-c", code, str(tmp_path / "log.db"), sql]
    run = subprocess.run(command, check=False, capture_output=True, text=True)
    if run.returncode:
        pytest.skip("this SQLite cannot tell which page holds what")
    page = int(run.stdout.split()[1])
    with (tmp_path / "log.db").open("r+b") as file:
        file.seek((page - 1) * 16384)
        file.write(b"\xff" * 100)
    with logwork.opened(tmp_path) as log:
        found = verify(log.look)
        tally.points += 1
        [damage] = [damage for damage in found.damages if damage.topic]
        assert found.events == 400 - (damage.end - damage.first)
        assert 10 < damage.end - damage.first < 200
        passed_over(log, damage.first, damage.end)
        assert len(logwork.contents(log, pid)) == found.events
    assert tally.clean, tally.told


def test_groups_and_sinks_go_on_behind_it_and_not_before_the_command(
    tmp_path: Path, fault_report: FaultReport, capsys: pytest.CaptureFixture[str]
) -> None:
    tally = fault_report("A5")
    app = App("orders", path=tmp_path / "log")
    orders = app.topic("orders", Order, key="customer", partitions=1)
    seen: list[int] = []

    @app.handle(orders)
    def note(order: Order) -> None:
        seen.append(order.number)

    app.flow("all", orders).to(parquet(str(tmp_path / "lake")))
    with app.client() as client:
        for number in range(10):
            client.publish(orders, Order(number, "c", number))
    with logwork.opened(tmp_path / "log") as log:
        [pid] = next(row.pids for row in log.look(catalogue.topics) if row.name == "orders")
    low = pid << 46
    edit(tmp_path / "log", f"UPDATE block SET data = x'00' WHERE at IN ({low | 4}, {low | 5}, {low | 9})")
    with pytest.raises(CorruptionError, match="offsets 4 to 4"):
        app.run(until_idle=True)
    tally.compare([0, 1, 2, 3], seen)
    for offsets in ("4:5", "9:9"):
        tally.points += 1
        command = ["log", "quarantine", "orders/0", "--offsets", offsets, "--yes", "--log", str(tmp_path / "log")]
        assert outcome(command) == exits.DONE
    app.run(until_idle=True)
    tally.compare([0, 1, 2, 3, 6, 7, 8], seen)
    with app.client() as client:
        client.publish(orders, Order(10, "c", 10))
    app.run(until_idle=True)
    tally.compare([0, 1, 2, 3, 6, 7, 8, 10], seen)
    tally.compare([0, 1, 2, 3, 6, 7, 8, 10], app.read("all")["number"].to_list())
    assert outcome(["log", "verify", "--log", str(tmp_path / "log")]) == exits.DONE
    assert "quarantined: topic orders/0, offsets 4 to 5" in capsys.readouterr().out
    assert tally.clean, tally.told


@pytest.mark.parametrize("concurrency", [1, 4])
def test_damage_stops_its_partition_and_nothing_else(
    tmp_path: Path, fault_report: FaultReport, concurrency: int
) -> None:
    """All that can be read is handled, what lies before the damage too; a running program goes on once it is mended."""
    tally = fault_report("A5")
    app = App("orders", path=tmp_path / "log")
    orders = app.topic("orders", Order, key="customer", partitions=4)
    others = app.topic("others", Order, key="customer", partitions=1)
    seen: list[int] = []
    other: list[int] = []

    @app.handle(orders, concurrency=concurrency)
    async def note(order: Order) -> None:
        seen.append(order.number)

    @app.handle(others)
    async def slow(order: Order) -> None:
        await asyncio.sleep(0.02)
        other.append(order.number)

    places: dict[int, tuple[int, int]] = {}

    def publish(numbers: range) -> None:
        with app.client() as client:
            for number in numbers:
                acked = client.publish(orders, Order(number, f"c{number % 8}", number))
                assert isinstance(acked, Acked)
                places[number] = acked.partition, acked.offset
                client.publish(others, Order(number, "c", number))

    publish(range(80))
    damaged_in, at = places[40]
    before = [number for number, (partition, offset) in places.items() if partition != damaged_in or offset < at]
    damage(tmp_path / "log", damaged_in, at)
    with pytest.raises(BlockDamaged, match=f"orders/{damaged_in}, offsets {at} to {at}"):
        app.run(until_idle=True)
    tally.compare(sorted(before), sorted(seen))
    tally.compare(range(80), other)
    assert tally.clean, tally.told

    async def beside() -> None:
        stop = asyncio.Event()
        serving = asyncio.ensure_future(app.serve(stop))
        await asyncio.to_thread(publish, range(80, 100))
        await until(lambda: len(other) == 100 or serving.done())
        assert not serving.done(), serving.exception()
        command = ["log", "quarantine", f"orders/{damaged_in}", "--offsets", f"{at}:{at}", "--yes"]
        assert await asyncio.to_thread(outcome, [*command, "--log", str(tmp_path / "log")]) == exits.DONE
        await until(lambda: len(seen) == 99)
        stop.set()
        await serving

    asyncio.run(beside())
    tally.points += 1
    tally.compare([number for number in range(100) if number != 40], sorted(seen))
    for key in range(8):
        tally.compare(sorted(n for n in seen if n % 8 == key), [n for n in seen if n % 8 == key])
    assert tally.clean, tally.told


PROGRAM = """
import asyncio
from pathlib import Path
import msgspec
from penstock import App


class Order(msgspec.Struct):
    number: int
    customer: str
    cents: int


app = App("orders", path=Path(__file__).parent / "log")
orders = app.topic("orders", Order, key="customer", partitions=4)
done = app.topic("done", Order, partitions=1)


@app.handle(orders, into=done)
async def slow(order: Order) -> Order:
    await asyncio.sleep(0.01)
    return order
"""


@pytest.mark.parametrize("second", [["--until-idle"], []], ids=["until idle", "on"])
def test_workers_do_not_wait_for_each_other_s_damage(
    tmp_path: Path, fault_report: FaultReport, second: list[str]
) -> None:
    """Each has partitions that are stopped, and nobody will settle them: a run until idle ends, with the error."""
    tally = fault_report("A5")
    file = tmp_path / "program.py"
    file.write_text(PROGRAM)
    app = load_app(file)
    with app.client() as client:
        places = [
            client.publish("orders", {"number": number, "customer": f"c{number % 16}", "cents": 1})
            for number in range(160)
        ]
    counts = Counter(place.partition for place in places if isinstance(place, Acked))
    assert len(counts) == 4
    for partition, count in counts.items():
        damage(tmp_path / "log", partition, count // 2)
    command = [str(Path(sys.executable).with_name("penstock")), "run", str(file)]
    with subprocess.Popen([*command, *second], stderr=subprocess.PIPE, text=True) as other:
        try:
            ended = subprocess.run([*command, "--until-idle"], check=False, capture_output=True, text=True, timeout=30)
            if not second:
                assert other.poll() is None  # it goes on, and waits for somebody to decide
                other.terminate()
            _, told = other.communicate(timeout=30)
        finally:
            other.kill()
    tally.points += 1
    assert (ended.returncode, other.returncode) == (exits.FAILED, exits.FAILED if second else exits.DONE)
    assert all("partition stopped" in stderr for stderr in (ended.stderr, told))
    assert "these events cannot be read" in ended.stderr
    assert len(app.read("done")) == sum(count // 2 for count in counts.values())
    assert tally.clean, tally.told


@pytest.mark.parametrize("concurrency", [1, 4])
def test_redrive_commands_that_cannot_be_read_stop_nothing_else(
    tmp_path: Path, fault_report: FaultReport, concurrency: int
) -> None:
    """Events go on, and what was said of other partitions; a run until idle does not end as if all was well."""
    tally = fault_report("A5")
    app = App("orders", path=tmp_path / "log")
    orders = app.topic("orders", Order, key="customer", partitions=2)
    seen: list[int] = []
    failing = set(range(8))
    places: dict[int, int] = {}

    @app.handle(orders, concurrency=concurrency)
    async def note(order: Order) -> None:
        if order.number in failing:
            raise PermanentError
        seen.append(order.number)

    def publish(numbers: range) -> None:
        with app.client() as client:
            for number in numbers:
                acked = client.publish(orders, Order(number, f"c{number % 8}", number))
                assert isinstance(acked, Acked)
                places[number] = acked.partition

    def ask(*arguments: str) -> None:
        assert outcome([*arguments, "--log", str(tmp_path / "log")]) == exits.DONE

    publish(range(8))
    app.run(until_idle=True)
    ask("dlq", "redrive", "note", "--all")
    failing.clear()
    damage(tmp_path / "log", 0, 0, topic="note.redrive")
    publish(range(8, 20))
    with pytest.raises(BlockDamaged, match=r"note\.redrive/0, offsets 0 to"):
        app.run(until_idle=True)
    tally.points += 1
    again = [number for number in range(8) if places[number] == 1]
    assert 0 < len(again) < 8
    tally.compare([*again, *range(8, 20)], sorted(seen))
    ask("log", "quarantine", "note.redrive/0", "--offsets", f"0:{7 - len(again)}", "--yes")
    ask("dlq", "redrive", "note", "--all")
    app.run(until_idle=True)
    tally.compare(range(20), sorted(seen))
    assert tally.clean, tally.told


async def until(true: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 20
    while not true() and time.monotonic() < deadline_s:
        await asyncio.sleep(0.02)


def damage(log_directory: Path, partition: int, offset: int, *, topic: str = "orders") -> None:
    """The block of a topic that begins at this offset is not what was stored."""
    with logwork.opened(log_directory) as log:
        pids = next(row.pids for row in log.look(catalogue.topics) if row.name == topic)
    edit(log_directory, f"UPDATE block SET data = x'00' WHERE at = {pids[partition] << 46 | offset}")


def lost(log_directory: Path, offsets: Iterable[int]) -> None:
    """These events of orders/0 are damaged, each in a block of its own, and quarantined."""
    for offset in offsets:
        damage(log_directory, 0, offset)
        command = ["log", "quarantine", "orders/0", "--offsets", f"{offset}:{offset}", "--yes"]
        assert outcome([*command, "--log", str(log_directory)]) == exits.DONE


@pytest.mark.parametrize("concurrency", [1, 4])
@pytest.mark.parametrize("damaged_offsets", [(4,), (0, 4), (6, 8)])
def test_a_key_whose_parked_events_are_quarantined_goes_on_with_the_others(
    tmp_path: Path, fault_report: FaultReport, damaged_offsets: tuple[int, ...], concurrency: int
) -> None:
    """The event that waits for its next attempt, one behind it, or the last ones."""
    tally = fault_report("A5")
    app = App("orders", path=tmp_path / "log")
    orders = app.topic("orders", Order, key="customer", partitions=1)
    seen: list[int] = []
    stop, fails = asyncio.Event(), [True]

    @app.handle(orders, retry=Retry(50, first_s=0.2), concurrency=concurrency)
    async def note(order: Order) -> None:
        if fails[0] and order.customer == "a":
            raise ValueError("not yet")
        seen.append(order.number)
        if order.number == 9:
            stop.set()

    with app.client() as client:
        for number in range(10):
            client.publish(orders, Order(number, "ab"[number % 2], number))
    asyncio.run(app.serve(stop))
    fails[0] = False
    lost(tmp_path / "log", damaged_offsets)
    app.run(until_idle=True)
    tally.points += 1
    tally.compare(
        [number for number in range(0, 10, 2) if number not in damaged_offsets], [n for n in seen if not n % 2]
    )
    assert tally.clean, tally.told


@pytest.mark.parametrize("concurrency", [1, 4])
def test_a_breaker_is_not_left_open_when_all_that_waited_is_quarantined(
    tmp_path: Path, fault_report: FaultReport, concurrency: int
) -> None:
    """It is tried with what waits; with none of that, nobody would ever try it again."""
    tally = fault_report("A5")
    app = App("orders", path=tmp_path / "log")
    orders = app.topic("orders", Order, key="customer", partitions=1)
    seen: list[int] = []
    stop, fails = asyncio.Event(), [True]
    calls: list[int] = []

    @app.handle(orders, retry=Retry(50, first_s=0.2), on_failure=OnFailure(breaker=2), concurrency=concurrency)
    async def note(order: Order) -> None:
        if fails[0]:
            calls.append(order.number)
            if len(calls) > 3:  # both have failed, and the first of them again
                stop.set()
            raise ConnectionError("down")
        seen.append(order.number)

    with app.client() as client:
        for number in range(2):
            client.publish(orders, Order(number, "ab"[number], number))
    asyncio.run(app.serve(stop))
    fails[0] = False
    lost(tmp_path / "log", range(2))
    with app.client() as client:
        client.publish(orders, Order(2, "c", 2))

    async def until_handled() -> None:
        done = asyncio.Event()
        serving = asyncio.ensure_future(app.serve(done))
        deadline_s = time.monotonic() + 10
        while not seen and time.monotonic() < deadline_s:
            await asyncio.sleep(0.02)
        done.set()
        await serving

    asyncio.run(until_handled())
    tally.points += 1
    tally.compare([2], seen)
    assert tally.clean, tally.told
