"""The sink suite: every sink runs it and thereby shows that nothing is lost, doubled or seen too early.

A sink's test file holds a class with a constructor and an out-of-band reader:

    class TestParquet(SinkConformance):
        sink_name = "parquet"
        def make_sink(self, place): ...
        def read(self, place): ...

Crashes are images: at every named point (`penstock.system.points`) the target's directory is copied, which is what
kill -9 there would have left, and a new owner goes on from each copy. Pauses are takeovers: at every point of a
commit another owner does all the rest before the first one goes on.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import ClassVar

import pyarrow as pa
import pytest

from penstock.channel.api import Owned
from penstock.errors import Fenced, LogRegressed, SinkFull, TimedOut, TransientError
from penstock.sink.api import Claim, Sink, Staged
from penstock.system.points import hooked
from penstock.testing.conformance import report

TOPIC = "delays"
PIPELINE = "hourly"
TIP = 12
COMMITS = (4, 9, TIP)
_PARTITION_STRIDE = 1000
_START = datetime(2013, 1, 1, tzinfo=UTC)
_SCHEMA = pa.schema(
    {"id": pa.int64(), "text": pa.string(), "amount": pa.decimal128(10, 2), "at": pa.timestamp("us", "UTC")}
)

Row = tuple[int, str]


def rows(end: int, *, first: int = 0, partition: int = 0) -> list[Row]:
    """What a reader must find of the offsets [first, end)."""
    ids = range(partition * _PARTITION_STRIDE + first, partition * _PARTITION_STRIDE + end)
    return [(number, f"event {number}") for number in ids]


def staged(owned: Owned, first: int, end: int) -> Staged:
    """The offsets [first, end) as columns `id`, `text`, `amount`, `at`."""
    found = rows(end, first=first, partition=owned.partition)
    columns = [
        [number for number, _ in found],
        [text for _, text in found],
        [Decimal(number) / 4 for number, _ in found],
        [_START + timedelta(minutes=number) for number, _ in found],
    ]
    arrays = [pa.array(values, field.type) for values, field in zip(columns, _SCHEMA, strict=True)]
    return Staged(owned, first, end, pa.RecordBatch.from_arrays(arrays, schema=_SCHEMA))


class SinkConformance:
    """All promises of `penstock.sink.api`. A sink with a key must be made with the key ``id``."""

    sink_name: ClassVar[str] = ""

    def make_sink(self, place: Path) -> Sink:
        """A new sink, as another process would have, on the target in the directory `place`."""
        raise NotImplementedError

    def read(self, place: Path) -> list[Row]:
        """(id, text) of all rows that a reader of the target sees, in any order; empty when there is no target."""
        raise NotImplementedError

    def no_room(self, point: str) -> Exception:
        """What the target's own library raises at `point` (see `penstock.system.points`) when the disk is full."""
        return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), point)

    @pytest.fixture(autouse=True)
    def _finding(self, request: pytest.FixtureRequest) -> None:
        text = str(request.function.__doc__).strip().rstrip(".")
        finding = report.Finding(f"sink/{self.sink_name}", text, "always", "kept", passed=False)
        report.begin(request.node.nodeid, finding)

    def test_a_new_target_starts_at_the_floor(self, tmp_path: Path) -> None:
        """A target without a position starts at the floor of the claim."""
        with self._claimed(tmp_path, floor=3, starts=3):
            assert self.read(tmp_path) == []

    def test_staged_rows_are_invisible_until_the_commit(self, tmp_path: Path) -> None:
        """What is staged is invisible, what is committed is visible, each event once."""
        with self._claimed(tmp_path) as (sink, owned):
            sink.write(staged(owned, 0, 3))
            sink.write(staged(owned, 3, 5))
            assert self._seen(tmp_path) == []
            assert sink.commit(owned) == 5
            assert self._seen(tmp_path) == rows(5)
            assert sink.commit(owned) == 5, "nothing is staged: nothing changes"
            assert self._seen(tmp_path) == rows(5)

    def test_events_may_have_no_rows(self, tmp_path: Path) -> None:
        """A batch without rows moves the position alone."""
        with self._claimed(tmp_path) as (sink, owned):
            empty = staged(owned, 0, 0).table
            sink.write(Staged(owned, 0, 4, empty))
            assert sink.commit(owned) == 4
            assert self._seen(tmp_path) == []
        self._rest(tmp_path, epoch=2, starts=4)
        assert self._seen(tmp_path) == rows(TIP, first=4)

    def test_a_gap_is_a_mistake(self, tmp_path: Path) -> None:
        """Offsets that do not follow what is staged are refused."""
        with self._claimed(tmp_path) as (sink, owned):
            sink.write(staged(owned, 0, 3))
            with pytest.raises(ValueError, match="do not follow 3"):
                sink.write(staged(owned, 4, 5))
            with pytest.raises(ValueError, match="do not follow 3"):
                sink.write(staged(owned, 0, 3))

    def test_the_next_owner_goes_on_at_the_position(self, tmp_path: Path) -> None:
        """A new owner starts at what was committed; what was only staged is gone."""
        with self._claimed(tmp_path) as (sink, owned):
            sink.write(staged(owned, 0, 4))
            sink.commit(owned)
            sink.write(staged(owned, 4, 6))
            self._rest(tmp_path, epoch=2, starts=4)
        assert self._seen(tmp_path) == rows(TIP)

    def test_close_drops_what_is_staged(self, tmp_path: Path) -> None:
        """Closing, also twice, drops what is staged and nothing else."""
        with self._claimed(tmp_path) as (sink, owned):
            sink.write(staged(owned, 0, 4))
            sink.commit(owned)
            sink.write(staged(owned, 4, 6))
            sink.close()
            assert self._seen(tmp_path) == rows(4)
        self._rest(tmp_path, epoch=2, starts=4)
        assert self._seen(tmp_path) == rows(TIP)

    def test_partitions_are_independent(self, tmp_path: Path) -> None:
        """Partitions are claimed, committed and fenced one by one."""
        sink = self.make_sink(tmp_path)
        one, two = Owned(TOPIC, 0, 1), Owned(TOPIC, 1, 1)
        for owned in (one, two):
            assert sink.claim(self._claim(owned)) == 0
            sink.write(staged(owned, 0, 4))
        sink.commit(two)
        assert self._seen(tmp_path) == rows(4, partition=1)
        sink.commit(one)
        self._rest(tmp_path, epoch=2, starts=4)
        sink.write(staged(two, 4, TIP))
        assert sink.commit(two) == TIP
        sink.close()
        assert self._seen(tmp_path) == rows(TIP) + rows(TIP, partition=1)

    def test_pipelines_share_a_target(self, tmp_path: Path) -> None:
        """Two pipelines write one target, each with its own position."""
        first, second = self.make_sink(tmp_path), self.make_sink(tmp_path)
        owned, other = Owned(TOPIC, 0, 1), Owned("arrivals", 1, 7)
        assert first.claim(self._claim(owned)) == 0
        assert second.claim(self._claim(other, pipeline="daily")) == 0
        first.write(staged(owned, 0, 4))
        second.write(staged(other, 0, TIP))
        assert first.commit(owned) == 4
        assert second.commit(other) == TIP
        assert self._seen(tmp_path) == rows(4) + rows(TIP, partition=1)
        self._rest(tmp_path, epoch=2, starts=4)
        for sink in (first, second):
            sink.close()
        assert self._seen(tmp_path) == rows(TIP) + rows(TIP, partition=1)

    def test_an_older_epoch_cannot_claim(self, tmp_path: Path) -> None:
        """A claim under an epoch below the target's is refused."""
        self._rest(tmp_path, epoch=5, starts=0)
        sink = self.make_sink(tmp_path)
        with pytest.raises(Fenced, match="5"):
            sink.claim(self._claim(Owned(TOPIC, 0, 4)))
        sink.close()
        self._rest(tmp_path, epoch=5, starts=TIP)

    @pytest.mark.parametrize(
        "change", [{"tip": 11}, {"log": "another"}, {"log": "new", "epoch": 1}, {"incarnation": 2}], ids=str
    )
    def test_another_history_is_refused(self, tmp_path: Path, change: dict[str, str | int]) -> None:
        """A target ahead of the log, or of another log or incarnation, is refused and stays as it is."""
        self._rest(tmp_path, epoch=2, starts=0)
        sink = self.make_sink(tmp_path)
        base = self._claim(Owned(TOPIC, 0, int(change.get("epoch", 3))))
        claim = Claim(
            base.pipeline,
            base.owned,
            str(change.get("log", base.log)),
            int(change.get("incarnation", base.incarnation)),
            base.floor,
            int(change.get("tip", base.tip)),
        )
        with pytest.raises(LogRegressed):
            sink.claim(claim)
        sink.close()
        assert self._seen(tmp_path) == rows(TIP)
        self._rest(tmp_path, epoch=2, starts=TIP)

    def test_a_fenced_owner_writes_nothing(self, tmp_path: Path) -> None:
        """An owner that was overtaken cannot make anything visible, however often it tries."""
        with self._claimed(tmp_path) as (sink, owned):
            sink.write(staged(owned, 0, 4))
            sink.commit(owned)
            sink.write(staged(owned, 4, 8))
            newer = self.make_sink(tmp_path)
            successor = Owned(TOPIC, 0, 2)
            assert newer.claim(self._claim(successor)) == 4
            for _ in range(2):
                with pytest.raises(Fenced):
                    sink.commit(owned)
            with pytest.raises(Fenced):
                sink.write(staged(owned, 8, 9))
            assert self._seen(tmp_path) == rows(4)
            newer.write(staged(successor, 4, TIP))
            assert newer.commit(successor) == TIP
            newer.close()
        assert self._seen(tmp_path) == rows(TIP)

    def test_a_crash_anywhere_loses_and_doubles_nothing(self, tmp_path: Path) -> None:
        """After a crash at any point the next owner ends with every event once; readers saw whole commits only."""
        place, images = tmp_path / "target", tmp_path / "images"
        place.mkdir()
        states = [rows(end) for end in (0, *COMMITS)]
        taken = _images(place, images, lambda: self._life(place))
        assert len(taken) > len(COMMITS)
        for point, image in taken:
            assert self._seen(image) in states, f"a reader sees a part of a commit at {point}"
            start = self._rest(image, epoch=10)
            assert start in {0, *COMMITS}, f"{point}: position {start}"
            assert self._seen(image) == rows(TIP), f"after a crash at {point}"
            shutil.rmtree(image)

    def test_a_commit_that_failed_can_be_repeated(self, tmp_path: Path) -> None:
        """A commit that raised TransientError at any point is repeated until it is through: each event once."""
        for number in range(1000):
            place = tmp_path / str(number)
            with self._claimed(place) as (sink, owned):
                sink.write(staged(owned, 0, 7))
                try:
                    with hooked(_at(number, _time_out)):
                        assert sink.commit(owned) == 7
                    assert number > 0, "no point was visited"
                    return  # every point has had its turn
                except TransientError:
                    assert self._seen(place) in ([], rows(7))
                assert sink.commit(owned) == 7
                assert self._seen(place) == rows(7)
            self._rest(place, epoch=2, starts=7)
            assert self._seen(place) == rows(TIP)
        raise AssertionError("the commit has more points than are looked at")

    def test_a_full_disk_anywhere_is_waited_for(self, tmp_path: Path) -> None:
        """A disk that is full at any point is no failure: with room again all goes on, each event once."""
        for number in range(1000):
            place = tmp_path / str(number)
            place.mkdir()
            full = _Full(self.no_room)
            sink = self.make_sink(place)
            with hooked(_at(number, full)):
                self._patient(sink)
            assert self._seen(place) == rows(TIP), f"no room at {full.point}"
            sink.close()
            if not full.point:
                assert number > 0, "no point was visited"
                return
        raise AssertionError("there are more points than are looked at")

    def _patient(self, sink: Sink) -> None:
        """Everything, as the engine writes it, on a disk that is full once."""
        for epoch in (1, 2):
            owned = Owned(TOPIC, 0, epoch)
            try:
                start = _again(lambda owned=owned: sink.claim(self._claim(owned)))
                for first, end in ((0, COMMITS[0]), (COMMITS[0], TIP)):
                    if start <= first:
                        sink.write(staged(owned, first, end))
                assert _again(lambda owned=owned: sink.commit(owned), but=SinkFull) == TIP
            except SinkFull:
                with pytest.raises(Fenced):
                    sink.commit(owned)
                continue
            return
        raise AssertionError("the disk was full once, the sink gave up more often")

    def test_an_owner_overtaken_anywhere_in_its_commit(self, tmp_path: Path) -> None:
        """An owner that stops at any point of its commit, while another does the rest, and goes on: each event once."""
        for number in range(1000):
            place = tmp_path / str(number)
            overtaken = _Overtaking(lambda place=place: self._rest(place, epoch=2))
            with self._claimed(place) as (sink, owned):
                sink.write(staged(owned, 0, 7))
                try:
                    with hooked(_at(number, overtaken)):
                        sink.commit(owned)
                except (Fenced, TransientError):
                    assert overtaken.tried
            if not overtaken.tried:
                assert number > 0, "no point was visited"
                return
            self._rest(place, epoch=3)
            assert self._seen(place) == rows(TIP), f"overtaken at {overtaken.point}"
        raise AssertionError("the commit has more points than are looked at")

    def _life(self, place: Path) -> None:
        """Two owners, three commits, four points of view for a crash in each."""
        with self._claimed(place) as (sink, owned):
            sink.write(staged(owned, 0, 4))
            sink.commit(owned)
            sink.write(staged(owned, 4, 6))
            sink.write(staged(owned, 6, 9))
            sink.commit(owned)
        self._rest(place, epoch=2, starts=9)

    def _rest(self, place: Path, *, epoch: int, starts: int | None = None) -> int:
        """Claim with `epoch` and write all that is missing; returns where it began."""
        owned = Owned(TOPIC, 0, epoch)
        sink = self.make_sink(place)
        try:
            start = sink.claim(self._claim(owned))
            assert starts is None or start == starts
            if start < TIP:
                sink.write(staged(owned, start, TIP))
            assert sink.commit(owned) == TIP
        finally:
            sink.close()
        return start

    @contextmanager
    def _claimed(self, place: Path, *, floor: int = 0, starts: int = 0) -> Generator[tuple[Sink, Owned]]:
        owned = Owned(TOPIC, 0, 1)
        place.mkdir(exist_ok=True)
        sink = self.make_sink(place)
        try:
            assert sink.claim(self._claim(owned, floor=floor)) == starts
            yield sink, owned
        finally:
            sink.close()

    def _claim(self, owned: Owned, *, pipeline: str = PIPELINE, floor: int = 0) -> Claim:
        return Claim(pipeline, owned, "log-1", 1, floor, TIP)

    def _seen(self, place: Path) -> list[Row]:
        return sorted(self.read(place))


class _Full:
    """A disk that has no room, once."""

    def __init__(self, error: Callable[[str], Exception]) -> None:
        self._error = error
        self.point = ""

    def __call__(self, point: str) -> None:
        self.point = point
        raise self._error(point)


def _again(act: Callable[[], int], *, but: type[Exception] | None = None) -> int:
    """What `act` returns, at the second try if need be; `but` is not tried again."""
    try:
        return act()
    except TransientError as exc:
        if but is not None and isinstance(exc, but):
            raise
        return act()


class _Overtaking:
    """What another process does while the first one is stopped; where it finds the target held, it comes later."""

    def __init__(self, work: Callable[[], object]) -> None:
        self._work = work
        self.tried = False
        self.point = ""

    def __call__(self, point: str) -> None:
        self.tried = True
        self.point = point
        try:
            self._work()
        except TransientError:
            return


def _time_out(point: str) -> None:
    msg = f"injected at {point}"
    raise TimedOut(msg)


def _at(number: int, act: Callable[[str], None]) -> Callable[[str], None]:
    """A hook that acts at the point of this number, counted from 0, and at no other."""
    visited = -1
    acting = False

    def hook(name: str) -> None:
        nonlocal visited, acting
        if acting:
            return
        visited += 1
        if visited == number:
            acting = True
            try:
                act(name)
            finally:
                acting = False

    return hook


def _images(place: Path, images: Path, work: Callable[[], None]) -> list[tuple[str, Path]]:
    """Do `work` and copy the directory `place` at every point, and once more at the end."""
    taken: list[tuple[str, Path]] = []

    def copy(name: str) -> None:
        image = images / str(len(taken))
        shutil.copytree(place, image)
        taken.append((name, image))

    with hooked(copy):
        work()
    copy("the end")
    return taken
