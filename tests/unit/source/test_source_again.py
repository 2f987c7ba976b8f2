"""Chunks that were recorded are read again up to where they ended, whatever was added since."""

from __future__ import annotations

import gzip
import random
from pathlib import Path

import pytest

from penstock.errors import CorruptionError
from penstock.source.api import Chunk, Source
from penstock.source.files import Csv, Files, files
from penstock.source.files import marks as positions
from tests.unit.source.reading import BID, LIMIT, bads, bid, bodies, chunks, lines, opened, read

LIMITS = (7, 900)


def recorded(spec: Files, base: Path, position: bytes = b"") -> list[Chunk]:
    """What one run reads and stores."""
    return chunks(opened(spec, base, position), events_max=LIMITS[0], bytes_max=LIMITS[1])


def reread(source: Source, found: list[Chunk]) -> list[Chunk]:
    """The same chunks once more, from the beginning."""
    again: list[Chunk] = []
    source.open(BID, b"")
    for chunk in found:
        more = source.read(events_max=LIMITS[0], bytes_max=LIMITS[1], until=chunk.position)
        assert more is not None
        again.append(more)
    source.close()
    return again


def assert_alike(again: list[Chunk], found: list[Chunk]) -> None:
    for one, other in zip(again, found, strict=True):
        assert bodies([one]) == bodies([other])
        assert (one.bad, one.position) == (other.bad, other.position)


def test_a_file_that_grew_and_one_that_came_before_it(tmp_path: Path) -> None:
    (tmp_path / "b.ndjson").write_bytes(lines(1, 2) + bid(3))
    found = recorded(files("*"), tmp_path)
    (tmp_path / "a.ndjson").write_bytes(lines(0))
    (tmp_path / "b.ndjson").write_bytes(lines(1, 2, 3, 4, 5))
    found += recorded(files("*"), tmp_path, found[-1].position)
    (tmp_path / "0.ndjson").write_bytes(lines(7))
    (tmp_path / "b.ndjson").write_bytes(lines(1, 2, 3, 4, 5, 6))
    source = opened(files("*"), tmp_path)
    assert_alike(reread(source, found), found)
    assert bodies(read(files("*"), tmp_path, found[-1].position)) == [bid(7), bid(6)]


def test_an_edited_file_stops_or_shows_other_events(tmp_path: Path) -> None:
    """Where the checksums tell, the file is named; an edit far from its ends is left to whoever compares events."""
    path = tmp_path / "a.ndjson"
    path.write_bytes(lines(*range(10, 50)))
    found = recorded(files("*"), tmp_path)
    for after, message in (
        (path.read_bytes().replace(b'"id":30', b'"id":99'), "another content now"),
        (path.read_bytes()[:-1], "has 879 bytes now, and had 880"),
    ):
        path.write_bytes(after)
        with pytest.raises(CorruptionError, match=rf"a\.ndjson.*{message}"):
            reread(opened(files("*"), tmp_path), found)
        path.write_bytes(lines(*range(10, 50)))
    path.unlink()
    (tmp_path / "b.ndjson").write_bytes(lines(1))
    with pytest.raises(CorruptionError, match=r"a\.ndjson is not there"):
        reread(opened(files("*"), tmp_path), found)


def test_an_edit_far_from_the_ends_of_chunks_shows_in_the_events(tmp_path: Path) -> None:
    """The channel compares them."""
    path = tmp_path / "a.ndjson"
    path.write_bytes(lines(*range(1000, 3000)))
    found = chunks(opened(files("*"), tmp_path), events_max=1000)
    path.write_bytes(path.read_bytes().replace(b'"id":1500', b'"id":9999'))
    again = reread(opened(files("*"), tmp_path), found)
    assert [one for one, other in zip(bodies(again), bodies(found), strict=True) if one != other] == [bid(9999)]


def test_gzip_that_is_another_stops(tmp_path: Path) -> None:
    path = tmp_path / "a.ndjson.gz"
    path.write_bytes(gzip.compress(lines(*range(10, 50))))
    found = recorded(files("*"), tmp_path)
    assert_alike(reread(opened(files("*"), tmp_path), found), found)
    path.write_bytes(gzip.compress(bid(1, "x" * 200) + b"\n" + lines(*range(10, 50))))
    with pytest.raises(CorruptionError, match=r"a\.ndjson\.gz:\d+ does not end where it ended when it was read"):
        reread(opened(files("*"), tmp_path), found)


def test_a_folded_file_that_has_another_name_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two runs, and since: nothing of it is published twice, and what was is found."""
    monkeypatch.setattr(positions, "FULL_BYTES_MAX", 0)
    for number in range(10):
        (tmp_path / f"{number}.ndjson").write_bytes(lines(number))
    found = recorded(files("*"), tmp_path)
    (tmp_path / "3.ndjson").rename(tmp_path / "c.ndjson")
    (tmp_path / "d.ndjson").write_bytes(lines(10))
    found += recorded(files("*"), tmp_path, found[-1].position)
    (tmp_path / "c.ndjson").rename(tmp_path / "e.ndjson")
    assert bodies(found) == [bid(number) for number in range(11)]
    (tmp_path / "d.ndjson").rename(tmp_path / "f.ndjson")
    again = reread(opened(files("*"), tmp_path), found)
    assert bodies(again[1:]) == bodies(found[1:])
    (tmp_path / "e.ndjson").unlink()
    with pytest.raises(CorruptionError, match="a file of 21 bytes, whose name is not there now"):
        reread(opened(files("*"), tmp_path), found)


def test_after_an_error_reading_again_begins_anew(tmp_path: Path) -> None:
    (tmp_path / "a.ndjson").write_bytes(lines(*range(20)))
    found = recorded(files("*"), tmp_path)
    source = opened(files("*"), tmp_path)
    with pytest.raises(CorruptionError, match="recorded position"):
        source.read(events_max=7, bytes_max=900, until=b"12")
    assert_alike(reread(source, found), found)


class History:
    """Files that grow, come and are renamed between runs, at random; they hold all that lines can be."""

    def __init__(self, base: Path, seed: int, *, follow: bool, renames: bool) -> None:
        self.base = base
        self.chance = random.Random(seed)
        self.follow = follow
        self.renames = renames
        self.number = 0
        self.spec = files("*", follow=follow, csv=Csv(unknown="ignore"))

    def line(self, *, csv: bool) -> bytes:
        self.number += 1
        n = self.number
        good = b'%d,"a\nb, ""c"""' % n if csv and n % 3 == 0 else b"%d,who" % n if csv else bid(n, "w" * (n % 90))
        kinds = (good, good, good, good, b"", b"bad", b"x" * (LIMIT + n % 5), b'{"id":"1"}')
        return self.chance.choice(kinds) + self.chance.choice((b"\n", b"\n", b"\r\n"))

    def grow(self, path: Path) -> None:
        csv = ".csv" in path.name
        begin = b"" if path.exists() else b"id,who\n" if csv else b""
        before = path.read_bytes() if path.exists() else b""
        body = begin + b"".join(self.line(csv=csv) for _ in range(self.chance.randrange(12)))
        if path.suffix == ".gz":
            path.write_bytes(before + gzip.compress(body))
            return
        if before and not before.endswith(b"\n"):
            body = b"\n" + body if not self.follow else b' "torn"}\n' + body
        torn = self.chance.random() < 0.4 and not csv
        path.write_bytes(before + body + (bid(self.number + 1000) if torn else b""))

    def change(self) -> None:
        paths = sorted(self.base.iterdir())
        for path in self.chance.sample(paths, len(paths) // 2):
            self.grow(path)
        for _ in range(self.chance.randrange(1, 5)):
            suffix = self.chance.choice((".ndjson", ".csv", ".ndjson.gz", ".ndjson"))
            self.grow(self.base / f"{self.chance.choice('amz')}{len(list(self.base.iterdir()))}{suffix}")
        for path in self.chance.sample(paths, min(len(paths), self.chance.randrange(2))) if self.renames else ():
            path.rename(path.with_name(f"{self.chance.choice('bny')}-{path.name}"))


@pytest.mark.parametrize("follow", [False, True])
@pytest.mark.parametrize("full", [300, 1 << 14])
def test_any_history_can_be_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, follow: bool, full: int
) -> None:
    """Several runs over files that change between them; what they stored is found again, chunk by chunk.

    Of a folded file only the hash of the name is known, and one that was renamed and continued is not found: there
    nothing is renamed.
    """
    monkeypatch.setattr(positions, "FULL_BYTES_MAX", full)
    for seed in range(12):
        base = tmp_path / str(seed)
        base.mkdir()
        history = History(base, seed, follow=follow, renames=full > 300)
        found: list[Chunk] = []
        for _ in range(6):
            history.change()
            source = opened(history.spec, base, found[-1].position if found else b"")
            found += chunks(source, events_max=LIMITS[0], bytes_max=LIMITS[1])
        history.change()
        assert len(found) > 10, seed
        assert len(bads(found)) > 5, seed
        assert_alike(reread(opened(history.spec, base), found), found)
        assert len(bodies(read(history.spec, base, found[-1].position))) > 0, seed
