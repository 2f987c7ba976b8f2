"""NDJSON: bytes stay as they are, what no consumer could read is bad, and any border is a place to go on from."""

from __future__ import annotations

import gzip
import tempfile
import tracemalloc
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from penstock.errors import ConfigError, DecodeError
from penstock.schema import schema_of
from penstock.source.files import Gzip, files
from penstock.source.files.ndjson import invalid
from tests.unit.source.reading import BID, bads, bid, bodies, chunks, lines, opened, read


def test_lines_are_events_byte_for_byte(tmp_path: Path) -> None:
    odd = b' {"who" : "b", "id": 1}'
    (tmp_path / "a.ndjson").write_bytes(bid(0) + b"\n" + odd + b"\r\n\n \t\n\r\n" + bid(2))
    found = read(files("a.ndjson"), tmp_path)
    assert bodies(found) == [bid(0), odd, bid(2)]
    assert bads(found) == []


def test_files_come_in_the_order_of_their_names(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    for number, name in enumerate(("d/a.jsonl", "d/b.ndjson", "d/c.json", "d/d.ndjson.gz")):
        body = lines(number)
        (tmp_path / name).write_bytes(gzip.compress(body) if name.endswith(".gz") else body)
    (tmp_path / "d" / "sub.ndjson").mkdir()
    found = read(files("d/*"), tmp_path)
    assert bodies(found) == [bid(n) for n in range(4)]
    assert len(found) == 1, "a chunk holds as many files as it has room for"
    source = opened(files("d/*"), tmp_path)
    assert [chunk.count for chunk in chunks(source, events_max=3)] == [3, 1]


BAD: list[tuple[str, bytes, str]] = [
    ("not JSON", b"hello", "no JSON: Expecting value"),
    ("another type", b'{"id":"x","who":"a"}', r"Expected `int`.*\$\.id"),
    ("a missing field", b'{"id":1}', "missing required field `who`"),
    ("twice", b'{"id":1,"id":2,"who":"a"}', "'id' appears twice"),
    ("twice elsewhere", b'{"id":1,"who":"a","x":{"y":1,"y":2}}', "'y' appears twice"),
    ("not UTF-8", b'{"id":1,"who":"\xff"}', "(?i)utf-8"),
    ("not UTF-8 in another field", b'{"id":1,"who":"a","x":"\xff"}', "(?i)utf-8"),
    ("half a surrogate", b'{"id":1,"who":"\\ud800"}', "surrogate"),
    ("NaN", b'{"id":1,"who":"a","x":NaN}', "NaN is no number"),
    ("too large", b'{"id":9223372036854775808,"who":"a"}', "64 bits"),
    ("too large elsewhere", b'{"id":1,"who":"a","x":18446744073709551616}', "64 bits"),
    ("two", bid(1) + b" " + bid(2), "no JSON: Extra data"),
    ("half", b'{"id":1,', "no JSON: Expecting"),
    ("other half", b'"who":"a"}', "no JSON: Extra data"),
    ("nested", b'{"id":1,"who":"a","x":' + b"[" * 400 + b"]" * 400 + b"}", "deep"),
    ("BOM", b"\xef\xbb\xbf" + bid(1), "byte order mark"),
    ("long", bid(1, "x" * 2000), "a line of 2017 bytes, of which the first 1000 are kept.*at most 1000"),
]


@pytest.mark.parametrize(("line", "reason"), [pytest.param(line, reason, id=name) for name, line, reason in BAD])
def test_a_bad_line_is_kept_with_its_place_and_the_others_go_on(tmp_path: Path, line: bytes, reason: str) -> None:
    (tmp_path / "a.ndjson").write_bytes(bid(0) + b"\n\n" + line + b"\n" + bid(2) + b"\n")
    found = read(files("a.ndjson"), tmp_path)
    assert bodies(found) == [bid(0), bid(2)]
    (bad,) = bads(found)
    assert (bad.where, bad.body) == ("a.ndjson:3", line[:1000])
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(bad.reason)


def test_a_topic_without_a_type_takes_every_line(tmp_path: Path) -> None:
    (tmp_path / "a.ndjson").write_bytes(b"x\n\n\xff\n")
    assert bodies(read(files("a.ndjson"), tmp_path, schema=None)) == [b"x", b"\xff"]


@pytest.mark.parametrize(
    ("name", "body", "message"),
    [
        ("a.json", b'[\n{"id":1}\n]', "one JSON document over many lines"),
        ("a.json", b'{\n "id":1\n}', "one JSON document"),
        ("a.ndjson", b"\xef\xbb\xbf" + bid(1), "byte order mark.*UTF-8 without"),
        ("a.ndjson", "x".encode("utf-16"), "UTF-16"),
        ("a.ndjson", gzip.compress(bid(1)), "is gzip; end its name in .gz"),
        ("a.ndjson.gz", bid(1), "is not gzip"),
        ("a.txt", bid(1), "suffix says no format.*format='ndjson'"),
    ],
)
def test_a_file_of_another_kind_stops_before_the_first_event(
    tmp_path: Path, name: str, body: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(body)
    with pytest.raises(ConfigError, match=rf"{name}.*{message}"):
        opened(files("*"), tmp_path)


def test_nothing_found_names_the_pattern_and_the_place(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"'x/\*\.ndjson' in {tmp_path}"):
        opened(files("x/*.ndjson"), tmp_path)
    assert chunks(opened(files("x/*.ndjson", follow=True), tmp_path)) == []


def test_a_pattern_is_also_a_name(tmp_path: Path) -> None:
    (tmp_path / "a[1].ndjson").write_bytes(lines(1))
    assert bodies(read(files("a[1].ndjson"), tmp_path)) == [bid(1)]
    assert bodies(read(files(tmp_path / "a[[]1].ndjson"), Path("/"))) == [bid(1)]


def test_names_cannot_forge_messages(tmp_path: Path) -> None:
    (tmp_path / "a\n\x1b[31m.ndjson").write_bytes(b"x\n")
    (bad,) = bads(read(files("a*"), tmp_path))
    assert bad.where == r"a\n\x1b[31m.ndjson:1"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "xml"}, "files.format: 'xml'; expected one of ndjson, csv"),
        ({"compression": "zip"}, "files.compression"),
    ],
)
def test_options_are_checked(options: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        files("x", **options)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="empty"):
        files("")


LINE = st.sampled_from([bid(1), bid(2, "x" * 30), b"", b"bad", bid(3, "y" * 90), b"\r", b'{"id": 4, "who": "z"}\r'])


@settings(max_examples=60)
@given(
    st.lists(LINE, max_size=12),
    st.booleans(),
    st.sampled_from(["a.ndjson", "a.ndjson.gz"]),
    st.tuples(st.integers(1, 6), st.integers(1, 150)),
    st.tuples(st.integers(1, 6), st.integers(1, 150)),
)
def test_any_lines_any_limits(
    content: list[bytes], newline: bool, name: str, one: tuple[int, int], two: tuple[int, int]
) -> None:
    """Chunks joined are the lines; from any border, with any limits, the rest is the rest."""
    body = b"\n".join(content) + (b"\n" if newline else b"")
    expected = [line.removesuffix(b"\r") for line in content]
    spec = files("a*", format="ndjson")
    with tempfile.TemporaryDirectory() as directory:
        base = Path(directory)
        (base / name).write_bytes(gzip.compress(body) if name.endswith("gz") else body)

        def rest(position: bytes, limits: tuple[int, int]) -> list[tuple[list[bytes], list[tuple[str, bytes]], bytes]]:
            source = opened(spec, base, position, limit=60)
            found = chunks(source, events_max=limits[0], bytes_max=limits[1])
            return [(bodies([c]), [(b.where, b.body) for b in c.bad], c.position) for c in found]

        whole = rest(b"", one)
        good = [b for part in whole for b in part[0]]
        bad = [b for part in whole for b in part[1]]
        assert good == [line for line in expected if line.startswith(b"{") and len(line) <= 60]
        assert [b for _, b in bad] == [line[:60] for line in expected if line == b"bad" or len(line) > 60]
        assert all(expected[int(where.split(":")[1]) - 1].startswith(b) for where, b in bad)
        assert rest(b"", one) == whole
        for index, (_, _, position) in enumerate(whole):
            assert rest(position, one) == whole[index + 1 :]
            other = rest(position, two)
            assert [b for part in other for b in part[0]] == [b for part in whole[index + 1 :] for b in part[0]]
            assert [b for part in other for b in part[1]] == [b for part in whole[index + 1 :] for b in part[1]]


def test_a_line_of_50_mb_is_bad_and_never_in_memory(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "a.ndjson.gz", "wb", compresslevel=1) as out:
        out.write(bid(0) + b"\n")
        for number in range(50):
            out.write(b"%d" % number * 500_000)
        out.write(b"\n" + bid(2))
    source = opened(files("a*.gz", gzip=Gzip(ratio_max=1100)), tmp_path)
    tracemalloc.start()
    try:
        found = chunks(source, bytes_max=10_000)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert bodies(found) == [bid(0), bid(2)]
    (bad,) = bads(found)
    assert bad.where == "a.ndjson.gz:2"
    assert len(bad.body) == 1000
    assert "a line of 45000000 bytes" in bad.reason
    assert peak < 5_000_000


def test_any_number_of_lines_needs_the_memory_of_a_chunk(tmp_path: Path) -> None:
    block = lines(*range(20_000))
    with open(tmp_path / "a.ndjson", "wb") as out:
        for _ in range(10):
            out.write(block)
    source = opened(files("a.ndjson"), tmp_path)
    tracemalloc.start()
    try:
        count = 0
        while (chunk := source.read(events_max=10_000, bytes_max=500_000)) is not None:
            count += chunk.count
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        source.close()
    assert count == 200_000
    assert peak < 8_000_000


def test_the_schema_is_the_topic_s(tmp_path: Path) -> None:
    """What comes out of a source is what `validate_lines` lets through: the topic refuses nothing of it."""
    (tmp_path / "a.ndjson").write_bytes(lines(*range(50)))
    assert isinstance(BID.validate_lines(bodies(read(files("a.ndjson"), tmp_path))), list)


class Loose(msgspec.Struct):
    """A flat type with defaults: fields may be left out, so counting keys alone proves nothing."""

    a: int
    aa: str = ""
    b: list[str] = []
    c: float | None = None


class Deep(msgspec.Struct):
    a: int
    inner: Loose
    more: dict[str, int] = {}


KEY = st.sampled_from(['"a"', '"aa"', '"b"', '"c"', '"x"', '"inner"', '"more"', r'"\u0061"', r'"x\"c"'])
VALUE = st.sampled_from(
    ["1", '"t"', '"a\\":"', "[]", '["u"]', "null", "1e5", "1e999", '{"a":1}', '{"a":1,"a":2}', "{}"]
)
OBJECT = st.tuples(st.sampled_from([":", " : "]), st.lists(st.tuples(KEY, VALUE), max_size=5))


@settings(max_examples=300)
@example([(":", [('"a"', "1"), (r'"x\"c"', "18446744073709551616")])], Loose)
@given(st.lists(OBJECT, min_size=1, max_size=4), st.sampled_from([Loose, Deep]))
def test_the_bulk_check_refuses_exactly_what_the_strict_one_does(
    objects: list[tuple[str, list[tuple[str, str]]]], kind: type
) -> None:
    schema: Any = schema_of(kind)
    lines_ = [("{" + ",".join(f"{k}{colon}{v}" for k, v in pairs) + "}").encode() for colon, pairs in objects]
    refused = set[int]()
    for index, line in enumerate(lines_):
        try:
            schema.decode_strict(line)
        except DecodeError:
            refused.add(index)
    assert set(invalid(schema, lines_)) == refused
