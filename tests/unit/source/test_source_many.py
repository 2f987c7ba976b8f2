"""Thousands of files in one position: what is kept of each, what is still noticed, and where it ends."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import msgspec
import pytest

from penstock.channel.api import NOTE_BYTES_MAX
from penstock.errors import ConfigError, CorruptionError
from penstock.source.files import files, folded
from penstock.source.files import marks as positions
from penstock.source.files.marks import Mark, Marks
from tests.unit.source.reading import bid, bodies, chunks, lines, opened, read

MANY = 3000


def name_of(number: int) -> str:
    return f"part-{number:05d}-of-events.ndjson"


def write(base: Path, numbers: range) -> None:
    for number in numbers:
        (base / name_of(number)).write_bytes(lines(number))


@pytest.fixture
def few_in_full(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that some twenty files are enough to be folded."""
    monkeypatch.setattr(positions, "FULL_BYTES_MAX", 200)


def test_three_thousand_files_killed_in_the_middle_and_resumed(tmp_path: Path) -> None:
    """Each event once, whichever chunk was the last that was stored, and then one old file is changed."""
    write(tmp_path, range(MANY))
    stored, got, sizes = b"", list[bytes](), list[int]()
    for _ in range(6):
        source = opened(files("*"), tmp_path, stored)
        first = source.read(events_max=700, bytes_max=1 << 20)
        if first is None:
            break
        source.read(events_max=700, bytes_max=1 << 20)  # read, and lost with the process
        source.close()
        stored, got = first.position, got + bodies([first])
        sizes.append(len(stored))
    assert got == [bid(n) for n in range(MANY)]
    assert max(sizes) < 16 * MANY + positions.FULL_BYTES_MAX < NOTE_BYTES_MAX
    (tmp_path / name_of(17)).write_bytes(lines(18))
    with pytest.raises(CorruptionError, match=r"part-00017-of-events\.ndjson.*another content now"):
        opened(files("*"), tmp_path, stored)
    (tmp_path / name_of(17)).write_bytes(lines(17))
    write(tmp_path, range(MANY, MANY + 2))
    assert bodies(read(files("*"), tmp_path, stored)) == [bid(MANY), bid(MANY + 1)]


@pytest.mark.usefixtures("few_in_full")
@pytest.mark.parametrize(
    ("after", "message"),
    [(lines(4)[:-1], "has 20 bytes now, and had 21"), (lines(5), "another content"), (lines(5, 6), "another content")],
)
def test_a_folded_file_that_is_another_stops_the_source(tmp_path: Path, after: bytes, message: str) -> None:
    write(tmp_path, range(20))
    end = read(files("*"), tmp_path)[-1].position
    (tmp_path / name_of(4)).write_bytes(after)
    with pytest.raises(CorruptionError, match=rf"part-00004.*{message}"):
        opened(files("*"), tmp_path, end)


@pytest.mark.usefixtures("few_in_full")
def test_a_folded_file_may_grow_go_come_back_and_be_renamed(tmp_path: Path) -> None:
    write(tmp_path, range(20))
    (tmp_path / "old.ndjson.gz").write_bytes(gzip.compress(lines(100)))
    (tmp_path / "open.ndjson").write_bytes(lines(200) + bid(201))
    write(tmp_path, range(20, 40))
    end = read(files("*"), tmp_path)[-1].position
    known = positions.decode(end, "s")
    assert len(known.full) < 10 < len(known.entries)
    grown = tmp_path / name_of(3)
    grown.write_bytes(lines(3, 1003) + b"bad\n")
    (tmp_path / name_of(5)).rename(tmp_path / "zzz.ndjson")
    away = (tmp_path / name_of(6)).rename(tmp_path / "away")
    with open(tmp_path / "old.ndjson.gz", "ab") as more:
        more.write(gzip.compress(lines(101)))
    with open(tmp_path / "open.ndjson", "ab") as more:
        more.write(b"\n" + lines(202) + b"bad\n")
    found = read(files("*.nd*"), tmp_path, end)
    assert bodies(found) == [bid(101), bid(202), bid(1003)]
    assert [bad.where for chunk in found for bad in chunk.bad] == ["open.ndjson:4", f"{name_of(3)}:3"]
    away.rename(tmp_path / name_of(6))
    assert read(files("*.nd*"), tmp_path, found[-1].position) == []


@pytest.mark.usefixtures("few_in_full")
def test_the_same_content_in_a_new_file_is_new(tmp_path: Path) -> None:
    """A folded file that is gone is only known again under another name if it was not written since."""
    write(tmp_path, range(20))
    end = read(files("*"), tmp_path)[-1].position
    (tmp_path / name_of(5)).rename(tmp_path / "zzz.ndjson")
    os.utime(tmp_path / "zzz.ndjson", ns=(1, 1))
    assert bodies(read(files("*"), tmp_path, end)) == [bid(5)]


@pytest.mark.usefixtures("few_in_full")
def test_follow_reads_on_in_folded_files(tmp_path: Path) -> None:
    write(tmp_path, range(20))
    source = opened(files("*", follow=True), tmp_path)
    assert source.read(events_max=100, bytes_max=10_000) is not None
    for round_ in range(1, 4):
        for number in range(20):
            with open(tmp_path / name_of(number), "ab") as more:
                more.write(lines(round_ * 100 + number))
        chunk = source.read(events_max=100, bytes_max=10_000)
        assert chunk is not None
        assert bodies([chunk]) == [bid(round_ * 100 + number) for number in range(20)]
        assert source.read(events_max=100, bytes_max=10_000) is None
    source.close()


def test_what_is_gone_is_forgotten_where_there_is_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that are there never are; files in the middle are kept in full, until there are too many of them."""
    monkeypatch.setattr(positions, "FILES_MAX", 100)
    marks = Marks()
    names = [name_of(number) for number in range(150)]
    for name in names:
        marks.put(name, Mark(offset=21, line=1, known=21, ended=True))
    present = names[:20] + names[140:]
    monkeypatch.setattr(positions, "FULL_BYTES_MAX", 0)
    again = positions.decode(positions.encode(marks, present), "s")
    assert len(again.entries) == 100
    assert all(name in again for name in present)
    assert [name for name in names if name not in again] == names[20:70]
    for number in range(10_000):
        marks.put(f"torn-{number}", Mark(offset=21, line=1, known=21))
    with pytest.raises(ConfigError, match=r"files\.pattern: .* are not read to their end.*narrower pattern"):
        positions.encode(marks, present)


def test_the_most_files_that_there_may_be_have_room() -> None:
    marks = Marks()
    for number in range(positions.FILES_MAX):
        marks.put(
            "d" * 60 + f"/{number}", Mark(2**40, 2**31, 2**40 - 1, 2**32 - 1, 2**32 - 1, None, True, True, 9**19, 9**19)
        )
    position = positions.encode(marks, ())
    assert len(position) < NOTE_BYTES_MAX - 16 * 1024
    again = positions.decode(position, "s")
    assert len(again.full) + len(again.entries) == positions.FILES_MAX
    entry = again.folded("d" * 60 + "/17")
    assert entry is not None
    assert entry.known == 2**40 - 1


def test_two_names_with_one_hash_are_not_both_folded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folded, "key", lambda name: b"12345")
    monkeypatch.setattr(positions, "FULL_BYTES_MAX", 0)
    marks = Marks()
    for name in ("a", "b"):
        marks.put(name, Mark(offset=21, line=1, known=21, ended=True))
    again = positions.decode(positions.encode(marks, ("a", "b")), "s")
    assert (len(again.entries), list(again.full)) == (1, ["b"])


@pytest.mark.parametrize("blob", [b"x", b"x" * 17])
def test_a_folded_part_of_another_length_is_refused(tmp_path: Path, blob: bytes) -> None:
    (tmp_path / "a.ndjson").write_bytes(lines(1))
    with pytest.raises(CorruptionError, match="source s: the recorded position is none of files"):
        opened(files("*"), tmp_path, msgspec.msgpack.encode([2, {}, blob]))


def test_what_stands_before_a_broken_file_comes_first(tmp_path: Path) -> None:
    """A chunk that spans files ends before one that cannot be read, and the reason comes with the next read."""
    (tmp_path / "a.ndjson").write_bytes(lines(1, 2))
    (tmp_path / "b.ndjson.gz").write_bytes(gzip.compress(lines(3)))
    (tmp_path / "c.ndjson").write_bytes(lines(4))
    source = opened(files("*"), tmp_path)
    (tmp_path / "b.ndjson.gz").write_bytes(gzip.compress(lines(3))[:-9])
    first = source.read(events_max=100, bytes_max=10_000)
    assert first is not None
    assert bodies([first]) == [bid(1), bid(2)]
    for _ in range(2):
        with pytest.raises(CorruptionError, match=r"b\.ndjson\.gz"):
            source.read(events_max=100, bytes_max=10_000)
        (tmp_path / "b.ndjson.gz").write_bytes(gzip.compress(lines(3)))
    source.open(None, first.position)
    assert bodies(chunks(source)) == [bid(3), bid(4)]
