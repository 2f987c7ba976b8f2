"""Files that grow, shrink, are replaced, renamed or lost between two looks at them; and broken gzip."""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from penstock.errors import ConfigError, CorruptionError
from penstock.event import Rows
from penstock.source.api import Source
from penstock.source.files import Gzip, files
from penstock.source.files import marks as positions
from tests.unit.source.reading import bads, bid, bodies, chunks, lines, opened, read


def some(source: Source) -> list[bytes] | None:
    """The next chunk's events."""
    chunk = source.read(events_max=2, bytes_max=10_000)
    if chunk is None:
        return None
    assert isinstance(chunk.events, Rows)
    return chunk.events.bodies()


def test_a_source_that_is_dropped_goes_on_where_the_log_says(tmp_path: Path) -> None:
    """No chunk is lost or read twice, whichever position was the last that was stored."""
    for name in ("a.ndjson", "b.ndjson.gz", "c.ndjson"):
        body = lines(*range(5))
        (tmp_path / name).write_bytes(gzip.compress(body) if name.endswith(".gz") else body)
    stored, got = b"", list[bytes]()
    for _ in range(8):
        source = opened(files("*"), tmp_path, stored)
        first = source.read(events_max=2, bytes_max=10_000)
        second = source.read(events_max=2, bytes_max=10_000)
        assert first is not None
        assert second is not None or len(got) + first.count == 15
        got += bodies([first])
        stored = first.position
        source.close()
    assert got == [bid(n) for n in range(5)] * 3
    assert some(opened(files("*"), tmp_path, stored)) is None


def test_open_again_goes_back(tmp_path: Path) -> None:
    (tmp_path / "a.ndjson").write_bytes(lines(1, 2, 3))
    source = opened(files("a*"), tmp_path)
    assert some(source) == [bid(1), bid(2)]
    source.open(None, b"")
    assert some(source) == [bid(1), bid(2)]
    source.close()
    source.close()


def test_what_was_added_is_read_by_the_next_run(tmp_path: Path) -> None:
    path = tmp_path / "b.ndjson"
    path.write_bytes(lines(1, 2))
    end = read(files("*"), tmp_path)[-1].position
    assert read(files("*"), tmp_path, end) == []
    path.write_bytes(lines(1, 2, 3))
    (tmp_path / "a.ndjson").write_bytes(lines(0))
    (tmp_path / "c.ndjson").write_bytes(lines(4))
    assert bodies(read(files("*"), tmp_path, end)) == [bid(0), bid(3), bid(4)]


def test_a_finished_file_may_go_and_come_back(tmp_path: Path) -> None:
    path = tmp_path / "a.ndjson"
    path.write_bytes(lines(1, 2))
    (tmp_path / "b.ndjson").write_bytes(lines(3))
    end = read(files("*"), tmp_path)[-1].position
    path.rename(tmp_path / "away")
    (tmp_path / "c.ndjson").write_bytes(lines(4))
    found = read(files("*.ndjson"), tmp_path, end)
    assert bodies(found) == [bid(4)]
    (tmp_path / "away").rename(path)
    assert read(files("*.ndjson"), tmp_path, found[-1].position) == []


def test_a_run_can_find_nothing_new(tmp_path: Path) -> None:
    path = tmp_path / "a.ndjson"
    path.write_bytes(lines(1))
    end = read(files("*"), tmp_path)[-1].position
    path.unlink()
    assert read(files("*"), tmp_path, end) == []


BEFORE = lines(*range(10))


@pytest.mark.parametrize(
    ("after", "message"),
    [
        (BEFORE[:-1], "has 209 bytes now, and had 210"),
        (b"", "has 0 bytes now"),
        (BEFORE.replace(b"ann", b"bob"), "another content"),
        (BEFORE.replace(b"ann", b"bob") + lines(11), "another content"),
        (b"\n" + BEFORE, "another content"),
        (None, "gone, and was not read to its end"),
    ],
    ids=["cut", "emptied", "replaced", "replaced by more", "shifted", "lost"],
)
def test_another_file_in_its_place_stops_the_source(tmp_path: Path, after: bytes | None, message: str) -> None:
    """Nothing is skipped and nothing read twice; controls: the same positions go on with the file as it was."""
    path = tmp_path / "a.ndjson"
    path.write_bytes(BEFORE)
    assert len(BEFORE) == 210
    source = opened(files("*"), tmp_path)
    some(source)
    half = source.read(events_max=2, bytes_max=10_000)
    assert half is not None
    end = chunks(source)[-1].position
    assert bodies(read(files("*"), tmp_path, half.position)) == [bid(n) for n in range(4, 10)]
    if after is None:
        path.unlink()
        with pytest.raises(CorruptionError, match=rf"a\.ndjson, of which 4 lines \(84 bytes\) were read.*{message}"):
            opened(files("*"), tmp_path, half.position)
        return
    path.unlink()
    path.write_bytes(after)
    with pytest.raises(CorruptionError, match=rf"a\.ndjson, of which 10 lines.*{message}.*under another source name"):
        opened(files("*"), tmp_path, end)


def test_a_file_cut_while_it_is_read_stops_the_source(tmp_path: Path) -> None:
    path = tmp_path / "a.ndjson"
    path.write_bytes(lines(*range(40_000)))
    source = opened(files("*"), tmp_path)
    assert source.read(events_max=20_000, bytes_max=10_000_000) is not None
    os.truncate(path, 1000)
    with pytest.raises(CorruptionError, match="was cut to 1000 bytes after"):
        chunks(source, events_max=20_000)
    source.close()


def test_a_last_line_without_a_newline_counts_and_may_not_be_continued(tmp_path: Path) -> None:
    path = tmp_path / "a.ndjson"
    path.write_bytes(lines(1) + bid(2))
    found = read(files("*"), tmp_path)
    assert bodies(found) == [bid(1), bid(2)]
    for newline in (b"\n", b"\r\n"):
        path.write_bytes(lines(1) + bid(2) + newline + b"bad\n" + lines(3))
        more = read(files("*"), tmp_path, found[-1].position)
        assert bodies(more) == [bid(3)]
        assert [bad.where for bad in bads(more)] == ["a.ndjson:3"]
    path.write_bytes(lines(1) + bid(2) + b" \n")
    with pytest.raises(CorruptionError, match=r"a\.ndjson:2: .*has been continued since.*follow=True"):
        read(files("*"), tmp_path, found[-1].position)


def test_follow_takes_complete_lines_only(tmp_path: Path) -> None:
    path = tmp_path / "a.ndjson"
    source = opened(files("*", follow=True), tmp_path)
    assert not source.finite
    got: list[list[bytes] | None] = []
    written = lines(1, 2, 3) + bid(4) + b"\n" + b"x" * 5000 + b"\n" + lines(5)
    for size in (0, 5, 30, 61, 70, 80, 100, 2000, 5084, 5085, len(written)):
        path.write_bytes(written[:size])
        while (chunk := some(source)) is not None:
            got.append(chunk)
    source.close()
    assert [b for chunk in got if chunk for b in chunk] == [bid(n) for n in range(1, 6)]
    assert [] in got, "the long line is bad once its end is there"
    assert bodies(read(files("*"), tmp_path)) == [bid(n) for n in range(1, 6)]


def test_follow_sees_new_files_and_checks_old_ones(tmp_path: Path) -> None:
    source = opened(files("*", follow=True), tmp_path)
    assert some(source) is None
    (tmp_path / "a.ndjson").write_bytes(lines(1))
    assert some(source) == [bid(1)]
    (tmp_path / "b.ndjson.gz").write_bytes(gzip.compress(bid(2)))
    assert some(source) == [bid(2)], "gzip appears complete: its last line needs no newline"
    assert some(source) is None
    (tmp_path / "a.ndjson").write_bytes(lines(7))
    with pytest.raises(CorruptionError, match="another content"):
        source.read(events_max=2, bytes_max=100)
    source.close()


def test_a_rotated_file_is_known_by_its_inode_and_content(tmp_path: Path) -> None:
    now = tmp_path / "log.ndjson"
    now.write_bytes(lines(1, 2))
    source = opened(files("log*", format="ndjson", follow=True), tmp_path)
    first = source.read(events_max=10, bytes_max=1000)
    assert first is not None
    with open(now, "ab") as late:
        late.write(lines(3))
    now.rename(tmp_path / "log.ndjson.1")
    now.write_bytes(lines(4))
    rest = chunks(source)
    assert bodies(rest) == [bid(4), bid(3)]
    again = opened(files("log*", format="ndjson", follow=True), tmp_path, first.position)
    assert bodies(chunks(again)) == [bid(4), bid(3)]
    (tmp_path / "log.ndjson.1").rename(tmp_path / "log.ndjson.2")
    now.rename(tmp_path / "log.ndjson.1")
    now.write_bytes(lines(5))
    end = rest[-1].position
    assert bodies(chunks(opened(files("log*", format="ndjson", follow=True), tmp_path, end))) == [bid(5)]


def test_a_rotation_out_of_sight_stops_the_source(tmp_path: Path) -> None:
    now = tmp_path / "log.ndjson"
    now.write_bytes(lines(1, 2))
    end = read(files("log.ndjson"), tmp_path)[-1].position
    now.rename(tmp_path / "elsewhere")
    now.write_bytes(lines(4, 5, 6))
    with pytest.raises(CorruptionError, match="another content"):
        opened(files("log.ndjson", follow=True), tmp_path, end)


def test_the_same_content_under_a_used_inode_is_another_file(tmp_path: Path) -> None:
    """An inode is given again by the file system; the time of writing tells that the file is new."""
    (tmp_path / "a.ndjson").write_bytes(lines(1))
    end = read(files("*"), tmp_path)[-1].position
    (tmp_path / "a.ndjson").rename(tmp_path / "b.ndjson")
    assert read(files("*"), tmp_path, end) == []
    os.utime(tmp_path / "b.ndjson", ns=(1, 1))
    assert bodies(read(files("*"), tmp_path, end)) == [bid(1)]


@pytest.mark.parametrize("position", [b"\x00", b"12", b"\x92\x07\x80"])
def test_a_position_of_something_else_is_refused(tmp_path: Path, position: bytes) -> None:
    (tmp_path / "a.ndjson").write_bytes(lines(1))
    with pytest.raises(CorruptionError, match=r"source s: the recorded position"):
        opened(files("*"), tmp_path, position)


def test_what_is_no_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "a.ndjson")
    with pytest.raises(ConfigError, match="no regular file"):
        opened(files("*"), tmp_path)
    monkeypatch.setattr(positions, "FILES_MAX", 0)
    with pytest.raises(ConfigError, match="1 files match; at most 0"):
        opened(files("*"), tmp_path)


# -- gzip --------------------------------------------------------------------------------------------------------------


def test_members_padding_and_growth(tmp_path: Path) -> None:
    path = tmp_path / "a.ndjson.gz"
    first = gzip.compress(lines(1, 2)) + gzip.compress(b"") + gzip.compress(lines(3)[:7])
    path.write_bytes(first + gzip.compress(lines(3)[7:]) + b"\0" * 600)
    found = read(files("*"), tmp_path)
    assert bodies(found) == [bid(1), bid(2), bid(3)]
    path.write_bytes(path.read_bytes() + gzip.compress(lines(4)))
    assert bodies(read(files("*"), tmp_path, found[-1].position)) == [bid(4)]


def test_an_empty_file_holds_nothing(tmp_path: Path) -> None:
    for name in ("a.ndjson", "b.ndjson.gz"):
        (tmp_path / name).write_bytes(b"")
    assert read(files("*"), tmp_path) == []


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda raw: raw[:-1], "ends in the middle"),
        (lambda raw: raw[:-20], "ends in the middle"),
        (lambda raw: raw[:12], "ends in the middle"),
        (lambda raw: raw[:3], "ends in the middle"),
        (lambda raw: raw[:-8] + b"\0\0\0\0" + raw[-4:], "incorrect data check"),
        (lambda raw: raw[:20] + b"\xff\xff\xff" + raw[23:], "damaged gzip"),
        (lambda raw: raw + b"rubbish", "damaged gzip"),
    ],
)
def test_damaged_gzip_names_the_file(tmp_path: Path, break_it: Callable[[bytes], bytes], message: str) -> None:
    raw = gzip.compress(lines(*range(200)))
    (tmp_path / "a.ndjson.gz").write_bytes(break_it(raw))
    with pytest.raises(CorruptionError, match=rf"a\.ndjson\.gz: .*{message}"):
        read(files("*"), tmp_path)


def test_other_content_in_a_half_read_gzip_stops_the_source(tmp_path: Path) -> None:
    path = tmp_path / "a.ndjson.gz"
    path.write_bytes(gzip.compress(lines(*range(10))))
    source = opened(files("*"), tmp_path)
    chunk = source.read(events_max=3, bytes_max=1000)
    source.close()
    assert chunk is not None
    assert len(bodies(read(files("*"), tmp_path, chunk.position))) == 7
    path.write_bytes(gzip.compress(lines(7, *range(1, 10))))
    with pytest.raises(CorruptionError, match=r"first 63 bytes of content.*others now"):
        read(files("*"), tmp_path, chunk.position)
    path.write_bytes(gzip.compress(lines(0)))
    with pytest.raises(CorruptionError, match=r"first 63 bytes of content.*others now"):
        read(files("*"), tmp_path, chunk.position)


def test_bombs_go_off_outside(tmp_path: Path) -> None:
    """100 MB out of 100 KB: stopped by the ratio, or by the size where that is smaller; memory is a block's."""
    press = zlib.compressobj(9, wbits=31)
    bomb = b"".join(press.compress(b"x" * 1_000_000) for _ in range(100)) + press.flush()
    assert len(bomb) < 200_000
    (tmp_path / "a.ndjson.gz").write_bytes(bomb)
    with pytest.raises(ConfigError, match=r"gzip\.ratio_max: a\.ndjson\.gz gave .*decompression bomb"):
        read(files("*"), tmp_path)
    with pytest.raises(ConfigError, match=r"gzip\.bytes_max: a\.ndjson\.gz holds more than 9000 bytes"):
        read(files("*", gzip=Gzip(bytes_max=9000)), tmp_path)
    (bad,) = bads(read(files("*", gzip=Gzip(ratio_max=2000)), tmp_path))
    assert "a line of 100000000 bytes" in bad.reason
    with pytest.raises(ConfigError, match=r"files\.gzip"):
        files("*", gzip=Gzip(ratio_max=0))


def test_the_option_beats_the_suffix(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(gzip.compress(lines(1)))
    (tmp_path / "b.ndjson.gz").write_bytes(lines(1))
    assert bodies(read(files("a.txt", format="ndjson", compression="gzip"), tmp_path)) == [bid(1)]
    assert bodies(read(files("b*", compression="none"), tmp_path)) == [bid(1)]
