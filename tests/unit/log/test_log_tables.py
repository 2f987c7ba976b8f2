"""The log's tables on SQLite in memory: places, sequences, progress, and that damage is named."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from penstock.errors import BlockDamaged, ConfigError, RecordDamaged, Rejected
from penstock.log import catalogue, placed, producers, progress
from penstock.log.api import (
    Advance,
    Append,
    Appended,
    Begin,
    Begun,
    Claim,
    Claimed,
    Overtaken,
    ProducerRow,
    Refusal,
    Result,
    Span,
)
from penstock.log.checks import row_check
from penstock.log.ddl import OFFSET_BITS, OFFSET_MAX, PID_MAX
from penstock.log.store import Store
from tests.unit.log.logs import append, block, bodies, declare_in, in_memory

DAY_US = 86_400 * 1_000_000


def apply(store: Store, *requests: Append | Begin | Advance | Claim, now_us: int = 0) -> list[Result]:
    return store.apply(requests, now_us=now_us)[0]


def span(pid: int, start: int = 0, end: int = OFFSET_MAX) -> Span:
    return Span(pid, start, end)


# -- places ------------------------------------------------------------------------------------------------------------


def test_blocks_follow_one_another_and_partitions_do_not_mix() -> None:
    store, (one, two) = in_memory(2)
    (first,) = apply(store, append(0, block(one, b"a", b"b"), block(two, b"x"), block(one, b"c")))
    assert first == Appended([0, 0, 2])
    apply(store, append(1, block(two, b"y"), block(one, b"d")))
    read = placed.read(store.db, span(one), events_max=100, bytes_max=1 << 20)
    assert bodies(read) == [b"a", b"b", b"c", b"d"]
    assert [(b.first, b.base) for b in read] == [(0, 0), (2, 0), (3, 3)]
    assert bodies(placed.read(store.db, span(two), events_max=100, bytes_max=1 << 20)) == [b"x", b"y"]


def test_reading_starts_at_the_block_that_holds_the_offset_and_stops_at_the_limits() -> None:
    store, (pid,) = in_memory()
    for sequence in range(5):
        apply(store, append(sequence, block(pid, b"%d" % (2 * sequence), b"%d" % (2 * sequence + 1))))

    def firsts(start: int, end: int = OFFSET_MAX, *, events: int = 100, size: int = 1 << 20) -> list[int]:
        return [b.first for b in placed.read(store.db, span(pid, start, end), events_max=events, bytes_max=size)]

    assert firsts(0) == [0, 2, 4, 6, 8]
    assert firsts(3) == [2, 4, 6, 8]
    assert firsts(3, 7) == [2, 4, 6]
    assert firsts(3, events=2) == [2, 4]
    assert firsts(0, size=1) == [0]
    assert firsts(10) == firsts(11) == []
    with pytest.raises(Rejected):
        placed.read(store.db, span(99), events_max=1, bytes_max=1)


def test_no_offset_passes_the_limit() -> None:
    store, (pid,) = in_memory()
    near = OFFSET_MAX - 2
    check = row_check(pid, 1, 0, near, 0)
    store.db.execute("UPDATE partition SET next = ?, chk = ? WHERE pid = ?", (near, check, pid))
    (refused,) = apply(store, append(0, block(pid, b"a", b"b", b"c")))
    assert isinstance(refused, Refusal)
    assert "limit" in refused.reason
    assert apply(store, append(0, block(pid, b"a", b"b"))) == [Appended([near])]
    assert bodies(placed.read(store.db, span(pid, near), events_max=9, bytes_max=99)) == [b"a", b"b"]
    assert isinstance(apply(store, append(1, block(pid, b"c")))[0], Refusal)


def test_no_partition_passes_the_limit() -> None:
    store, _ = in_memory()
    store.db.execute("INSERT INTO partition VALUES(?, 9, 0, 0, 0, 0)", (PID_MAX,))
    with pytest.raises(ConfigError, match="partitions"):
        store.write(lambda db: declare_in(db, "more", 2))
    assert catalogue.topic(store.db, "more") is None


@pytest.mark.parametrize("column", ["count", "schema_id", "recorded_us", "origin", "since", "size", "crc", "data"])
@pytest.mark.parametrize("value", ["7777", "x'00'", "'text'"])
def test_a_changed_block_is_named_and_the_others_are_read(column: str, value: str) -> None:
    store, (pid,) = in_memory()
    for sequence in range(3):
        apply(store, append(sequence, block(pid, b"a", b"b")))
    store.db.execute(f"UPDATE block SET {column} = {value} WHERE at & ? = 2", ((1 << OFFSET_BITS) - 1,))
    with pytest.raises(BlockDamaged, match=r"t/0, offsets 2 to .*backup"):
        placed.read(store.db, span(pid, 2), events_max=9, bytes_max=99, name="t/0")
    assert bodies(placed.read(store.db, span(pid, 0), events_max=2, bytes_max=99)) == [b"a", b"b"]


def test_a_missing_block_is_named_also_when_its_times_are_not_wanted() -> None:
    store, (pid,) = in_memory()
    for sequence in range(3):
        apply(store, append(sequence, block(pid, b"a", times=(sequence, sequence))))
    store.db.execute("DELETE FROM block WHERE at & ? = 1", ((1 << OFFSET_BITS) - 1,))
    before = placed.read(store.db, Span(pid, 0, OFFSET_MAX), events_max=9, bytes_max=99)
    assert bodies(before) == [b"a"]  # what can be read is; the next read begins behind it
    for wanted in (Span(pid, 1, OFFSET_MAX), Span(pid, 0, OFFSET_MAX, 2, None)):
        with pytest.raises(BlockDamaged, match="no block holds offset 1"):
            placed.read(store.db, wanted, events_max=9, bytes_max=99)


def test_blocks_outside_the_times_are_left_out_and_their_header_is_checked() -> None:
    store, (pid,) = in_memory()
    for sequence in range(4):
        apply(store, append(sequence, block(pid, b"%d" % sequence, times=(10 * sequence, 10 * sequence + 9))))
    read = placed.read(store.db, Span(pid, 0, OFFSET_MAX, 15, 30), events_max=9, bytes_max=99)
    assert bodies(read) == [b"1", b"2"]
    store.db.execute("UPDATE block SET time_max = 5 WHERE time_min = 10")
    with pytest.raises(BlockDamaged, match="header"):
        placed.read(store.db, Span(pid, 0, OFFSET_MAX, 15, 30), events_max=9, bytes_max=99)


# -- sequences ---------------------------------------------------------------------------------------------------------


def test_a_repetition_in_other_bytes_is_compared_with_what_lies_there() -> None:
    """Another version of the compression library writes other bytes for the same events."""
    store, (pid,) = in_memory()
    body = b"x" * 1000
    packed = block(pid, body)
    apply(store, append(0, packed))
    unpacked = _uncompressed(pid, body)
    assert unpacked.data != packed.data
    assert apply(store, append(0, unpacked)) == [Appended([0], repeated=True)]
    assert isinstance(apply(store, append(0, _uncompressed(pid, b"y" * 1000)))[0], Refusal)


def _uncompressed(pid: int, body: bytes):  # noqa: ANN202
    from unittest import mock  # noqa: PLC0415

    from penstock.log import blocks as module  # noqa: PLC0415

    with mock.patch.object(module, "COMPRESS_FROM", 1 << 30):
        return block(pid, body)


def test_answers_are_kept_for_the_horizon_and_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(producers, "SEQUENCES_KEPT", 3)
    store, (pid,) = in_memory()
    for sequence in range(5):
        apply(store, append(sequence, block(pid, b"%d" % sequence)))
    assert apply(store, append(2, block(pid, b"2"))) == [Appended([2], repeated=True)]
    (refused,) = apply(store, append(1, block(pid, b"1")))
    assert isinstance(refused, Refusal)
    assert "remembered" in refused.reason


def test_a_sequence_that_must_be_there_and_is_not_is_damage() -> None:
    store, (pid,) = in_memory()
    for sequence in range(3):
        apply(store, append(sequence, block(pid, b"a")))
    store.db.execute("DELETE FROM sequence WHERE number = 1")
    with pytest.raises(RecordDamaged, match="sequence 1"):
        apply(store, append(1, block(pid, b"a")))


@pytest.mark.parametrize("column", ["content", "ranges", "note"])
def test_a_changed_sequence_is_never_used(column: str) -> None:
    store, (pid,) = in_memory()
    apply(store, append(0, block(pid, b"a")))
    store.db.execute(f"UPDATE sequence SET {column} = 1")
    with pytest.raises(RecordDamaged):
        apply(store, append(0, block(pid, b"a")))
    with pytest.raises(RecordDamaged):
        producers.newest(store.db, "p")
    with pytest.raises(RecordDamaged):
        producers.notes(store.db, "p", epoch=0, start=0, count=1)


def test_unseen_producers_are_forgotten_in_slices_but_for_those_with_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(producers, "_ROWS_AT_ONCE", 2)
    store, (pid,) = in_memory()
    for sequence in range(5):
        apply(store, append(sequence, block(pid, b"a"), producer="gone"))
    apply(store, append(0, block(pid, b"a"), producer="source", note=b"here"))
    apply(store, append(0, block(pid, b"a"), producer="young"), now_us=20 * DAY_US)
    later = 31 * DAY_US
    touched = []
    while count := producers.expire(store.db, now_us=later):
        touched.append(count)
    assert touched == [1, 3, 3, 2]
    assert producers.newest(store.db, "gone") is None
    assert producers.newest(store.db, "source") == ProducerRow("source", 0, 0, b"here")
    assert producers.newest(store.db, "young") is not None
    assert store.db.execute("SELECT count(*) FROM sequence").fetchone() == (2,)


def test_an_epoch_is_begun_once_and_ends_the_lower_ones() -> None:
    store, (pid,) = in_memory()
    (first,) = apply(store, Begin("p"), now_us=77_000_000)
    assert first == Begun(77)
    apply(store, append(0, block(pid, b"a"), epoch=77))
    assert apply(store, Begin("p", after=77), now_us=1_000_000) == [Begun(78)]
    (late,) = apply(store, append(1, block(pid, b"late"), epoch=77))
    assert isinstance(late, Refusal)
    assert late.conflict == "epoch"
    assert apply(store, append(0, block(pid, b"a"), epoch=77)) == [Appended([0], repeated=True)]
    (overtaken,) = apply(store, Begin("p", after=77))
    assert isinstance(overtaken, Refusal)
    assert "77" in overtaken.reason
    assert producers.newest(store.db, "p") == ProducerRow("p", 78, -1, b"")


def test_a_producer_that_was_forgotten_gets_none_of_its_old_epochs_again() -> None:
    store, (pid,) = in_memory()
    apply(store, Begin("p"))
    apply(store, Begin("p"))
    live(store, pid, days=range(36))
    later = 36 * DAY_US
    assert producers.newest(store.db, "p") is None
    assert apply(store, Begin("p"), now_us=later) == [Begun(later // 1_000_000)]
    (late,) = apply(store, append(0, block(pid, b"late"), epoch=0))
    assert isinstance(late, Refusal)
    assert late.conflict == "forgotten"


def test_answers_of_old_epochs_are_bounded_per_producer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(producers, "SEQUENCES_KEPT", 6)
    store, (pid,) = in_memory()
    for epoch in range(1, 6):
        apply(store, Begin("p", after=epoch - 1))
        for sequence in range(4):
            apply(store, append(sequence, block(pid, b"%d %d" % (epoch, sequence)), epoch=epoch))
        assert store.db.execute("SELECT count(*) FROM sequence").fetchall()[0] <= (2 * 6,)

    def asked(epoch: int, sequence: int) -> str:
        (answer,) = apply(store, append(sequence, block(pid, b"%d %d" % (epoch, sequence)), epoch=epoch))
        if isinstance(answer, Refusal):
            return answer.conflict
        assert isinstance(answer, Appended)
        return "repeated" if answer.repeated else "stored"

    assert [asked(5, 3), asked(4, 3), asked(4, 0)] == ["repeated"] * 3
    assert [asked(3, 3), asked(1, 0)] == ["forgotten"] * 2
    assert [asked(4, 4), asked(5, 5), asked(5, 4)] == ["epoch", "sequence", "stored"]


def test_commits_forget_producers_by_themselves() -> None:
    store, (pid,) = in_memory()
    apply(store, append(0, block(pid, b"a"), producer="gone"))
    live(store, pid, days=range(30))
    assert producers.newest(store.db, "gone") is not None
    live(store, pid, days=range(30, 34))
    assert producers.newest(store.db, "gone") is None
    assert store.db.execute("SELECT count(*) FROM producer").fetchone() == (1,)


def live(store: Store, pid: int, *, days: Sequence[int]) -> None:
    """Another producer publishes twice a day."""
    for day in days:
        for half in range(2):
            new = append(2 * day + half, block(pid, b"a"), producer="other")
            apply(store, new, now_us=day * DAY_US + half * DAY_US // 2)


def test_a_publish_of_a_forgotten_producer_is_told_from_a_bad_one() -> None:
    """The client that was idle takes new numbers and goes on; a gap within what is known is a mistake."""
    store, (pid,) = in_memory()
    for sequence in range(2):
        apply(store, append(sequence, block(pid, b"a"), producer="idle"))
    live(store, pid, days=range(34))
    for sequence in (1, 2):
        (answer,) = apply(store, append(sequence, block(pid, b"a"), producer="idle"), now_us=34 * DAY_US)
        assert isinstance(answer, Refusal)
        assert answer.conflict == "forgotten"
        assert "forgotten" in answer.reason
    (gap,) = apply(store, append(99, block(pid, b"a"), producer="other"), now_us=34 * DAY_US)
    assert isinstance(gap, Refusal)
    assert gap.conflict == "sequence"


@pytest.mark.parametrize("jump", [-40 * 365, -1, 2, 40 * 365])
def test_a_clock_that_jumps_forgets_nobody(jump: int) -> None:
    """Not for this process, nor for another one that finds out later."""
    one, (pid,) = in_memory()
    other = Store(one.db)
    start = 50 * 365 * DAY_US
    apply(one, append(0, block(pid, b"a")), now_us=start)
    apply(other, append(0, block(pid, b"a"), producer="q"), now_us=start)
    for step in range(4):
        now_us = start + jump * DAY_US + step * 70_000_000
        apply(one, append(0, block(pid, b"a"), producer=f"new {step}"), now_us=now_us)
        apply(other, append(1 + step, block(pid, b"b"), producer="q"), now_us=now_us)
    assert producers.newest(one.db, "p") == ProducerRow("p", 0, 0, b"")
    assert apply(one, append(1, block(pid, b"c")), now_us=now_us)[0] == Appended([10])
    (begun,) = apply(other, Begin("named"), now_us=now_us)
    assert isinstance(begun, Begun)
    assert 0 <= begun.epoch - start // 1_000_000 <= 2 * 86_400


def test_time_goes_on_after_a_jump() -> None:
    store, (pid,) = in_memory()
    apply(store, append(0, block(pid, b"a"), producer="gone"))
    for day in range(34):
        new = append(day, block(pid, b"a"))
        apply(store, new, now_us=(365 * 50 if day > 3 else 0) * DAY_US + day * DAY_US)
        apply(store, Begin("x"), now_us=(365 * 50 if day > 3 else 0) * DAY_US + day * DAY_US)
    assert producers.newest(store.db, "gone") is None


@pytest.mark.parametrize("value", ["x", b"\x93\x01\x02\x03", b"", 7, None])
def test_a_changed_clock_is_never_used(value: object) -> None:
    store, (pid,) = in_memory()
    apply(store, append(0, block(pid, b"a")))
    store.db.execute("UPDATE meta SET value = ? WHERE key = 'producers'", (value,))
    with pytest.raises(RecordDamaged):
        apply(Store(store.db), append(1, block(pid, b"a")))


def test_answers_of_epochs_that_nobody_began_are_bounded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(producers, "SEQUENCES_KEPT", 3)
    store, (pid,) = in_memory()
    for epoch in range(20):
        for sequence in range(2):
            apply(store, append(sequence, block(pid, b"a"), epoch=epoch))
    assert store.db.execute("SELECT count(*) FROM sequence").fetchall()[0] <= (5,)


# -- progress ----------------------------------------------------------------------------------------------------------


def claimed(store: Store, pid: int) -> Advance:
    """A step from the floor of a fresh claim by one event, with a ledger entry."""
    group = store.write(lambda db: catalogue.declare_group(db, "g", b"{}"))[0]
    (answer,) = apply(store, Claim(group.id, [pid]))
    assert isinstance(answer, Claimed)
    held = answer.held[0]
    return Advance(group.id, pid, held.epoch, held.floor, held.floor + 1, ledger=[("s", b"k", b"v")], origin="g:t:0")


def test_a_step_is_recorded_with_what_it_wrote() -> None:
    store, (pid, out) = in_memory(2)
    apply(store, append(0, block(pid, b"a", b"b")))
    step = claimed(store, pid)
    work = Advance(step.group_id, pid, step.epoch, 0, 2, blocks=[block(out, b"A", b"B")], references=[(out, 0, 0)])
    assert apply(store, work) == [Appended([0])]
    (recorded,) = progress.steps_of(store.db, step.group_id, pid)
    assert (recorded.before, recorded.after, recorded.outputs) == (0, 2, [(out, 0, 2)])
    assert recorded.references == [(out, 0, 0)]


def test_a_later_claim_fences_the_earlier_one() -> None:
    store, (pid,) = in_memory()
    apply(store, append(0, block(pid, b"a")))
    step = claimed(store, pid)
    claimed(store, pid)
    (answer,) = apply(store, step)
    assert isinstance(answer, Overtaken)
    assert progress.all_progress(store.db)[0].floor == 0


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE progress SET floor = 7",
        "UPDATE progress SET epoch = epoch - 1",
        "UPDATE progress SET pid = pid + 64",
        "UPDATE ledger SET value = x'00'",
        "UPDATE ledger SET pid = pid + 64",
        "DELETE FROM ledger",
        "DELETE FROM progress WHERE pid = 1",
    ],
)
def test_damaged_or_lost_progress_is_never_used(sql: str) -> None:
    store, (pid, other) = in_memory(2)
    apply(store, append(0, block(pid, b"a"), block(other, b"a")))
    step = claimed(store, pid)
    apply(store, step)
    store.db.execute(sql)
    with pytest.raises(RecordDamaged):
        ledger(store, Claim(step.group_id, [pid]))


def ledger(store: Store, request: Claim, *, spaces: Sequence[str] = ()) -> list[progress.Entry]:
    """What a new owner is given."""
    (answer,) = apply(store, request)
    assert isinstance(answer, Claimed)
    reading = progress.LedgerReading(request.group_id, answer.held[0], spaces=spaces)
    reading.rest(lambda work: work(store.db))
    assert not reading.overtaken
    return reading.entries


def test_removed_and_changed_entries_keep_the_ledger_whole() -> None:
    store, (pid,) = in_memory()
    apply(store, append(0, *[block(pid, b"a") for _ in range(3)]))
    step = claimed(store, pid)
    for floor, (key, value) in enumerate([(b"k", b"1"), (b"k", b"2"), (b"k", None)]):
        work = Advance(step.group_id, pid, step.epoch, floor, floor + 1, ledger=[("s", key, value), ("s", b"x", b"y")])
        assert isinstance(apply(store, work)[0], Appended)
    assert ledger(store, Claim(step.group_id, [pid]), spaces=["s"]) == [("s", b"x", b"y")]


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 5])
def test_a_ledger_is_read_in_slices_while_others_write(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(progress, "ENTRIES_AT_ONCE", 2)
    store, (pid,) = in_memory()
    apply(store, append(0, block(pid, b"a")))
    step = claimed(store, pid)
    entries = [("\N{GREEK SMALL LETTER ALPHA}" if n == 4 else "s" * (n % 2 + 1), b"%d" % n, b"v") for n in range(count)]
    apply(store, Advance(step.group_id, pid, step.epoch, 0, 1, ledger=entries, origin="g:t:0"))
    (answer,) = apply(store, Claim(step.group_id, [pid]))
    assert isinstance(answer, Claimed)
    reading = progress.LedgerReading(step.group_id, answer.held[0])
    slices, more = 0, True
    while more:
        more = reading.more(lambda work: work(store.db))
        slices += 1
        assert isinstance(apply(store, append(slices, block(pid, b"b")))[0], Appended)
    assert (reading.entries, slices) == (sorted(entries), count // 2 + 1)


def test_a_ledger_that_another_owner_claims_meanwhile_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "ENTRIES_AT_ONCE", 2)
    store, (pid,) = in_memory()
    apply(store, append(0, block(pid, b"a", b"a")))
    step = claimed(store, pid)
    entries = [("s", b"%d" % n, b"v") for n in range(5)]
    apply(store, Advance(step.group_id, pid, step.epoch, 0, 1, ledger=entries, origin="g:t:0"))
    one, two = (apply(store, Claim(step.group_id, [pid]))[0] for _ in range(2))
    assert isinstance(one, Claimed)
    assert isinstance(two, Claimed)
    overtaken, reading = (progress.LedgerReading(step.group_id, answer.held[0]) for answer in (one, two))
    assert reading.more(lambda work: work(store.db))
    (third,) = apply(store, Claim(step.group_id, [pid]))
    assert isinstance(third, Claimed)
    change = [("s", b"4", None), ("s", b"9", b"new")]
    apply(store, Advance(step.group_id, pid, third.held[0].epoch, 1, 2, ledger=change, origin="g:t:1"))
    for late in (overtaken, reading):
        late.rest(lambda work: work(store.db))
        assert late.overtaken


def test_a_refused_request_harms_no_other_of_its_transaction() -> None:
    store, (pid,) = in_memory()
    answers = apply(store, append(0, block(pid, b"a")), append(7, block(pid, b"x")), append(1, block(pid, b"b")))
    assert [type(a) for a in answers] == [Appended, Refusal, Appended]
    assert bodies(placed.read(store.db, span(pid), events_max=9, bytes_max=99)) == [b"a", b"b"]


def test_a_lost_partition_is_damage() -> None:
    store, _ = in_memory(3)
    store.db.execute("UPDATE partition SET topic_id = topic_id + 1 WHERE number = 2 AND pid > 0")
    with pytest.raises(RecordDamaged, match="3 partitions were declared"):
        catalogue.topics(store.db)
