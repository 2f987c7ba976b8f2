"""CSV: every kind of field, every way of being wrong with file, line and column, quotes over chunk borders."""

from __future__ import annotations

import csv
import enum
import gzip
import io
import tempfile
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.errors import ConfigError
from penstock.schema import scale, schema_of
from penstock.source.files import Csv, files
from tests.unit.source.reading import BID, Bid, bads, bid, bodies, chunks, opened, read


class Color(enum.Enum):
    RED = "red"


class Place(msgspec.Struct):
    x: int


class Everything(msgspec.Struct, kw_only=True):
    """One field of each kind."""

    flag: bool
    number: int
    ratio: float
    price: Decimal
    cents: Annotated[Decimal, scale(2)]
    name: str
    raw: bytes
    day: date
    at: datetime
    took: timedelta
    uid: UUID
    color: Color
    level: Literal[1, 2]
    tags: list[str]
    places: dict[str, Place]
    maybe: int | None
    note: str | None = "none"
    count: int = 7


EVERYTHING = schema_of(Everything)
GOOD: dict[str, str] = {
    "flag": "TRUE",
    "number": "-42",
    "ratio": "1.50",
    "price": "12.345",
    "cents": "1.20",
    "name": "NA",
    "raw": "AAE=",
    "day": "2013-01-01",
    "at": "2013-01-01T05:00:00+05:00",
    "took": "PT90S",
    "uid": "00000000-0000-0000-0000-000000000001",
    "color": "red",
    "level": "2",
    "tags": '["a", "b"]',
    "places": '{"here": {"x": 1}}',
    "maybe": "",
    "note": "NA",
    "count": "",
}


def written(*rows: dict[str, str], dialect: str = "unix") -> bytes:
    """A CSV file of these rows."""
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]), dialect=dialect, quoting=csv.QUOTE_MINIMAL)
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue().encode()


def test_every_kind(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(written(GOOD, GOOD | {"maybe": "3", "note": "x", "count": "1"}, dialect="excel"))
    found = read(files("a.csv"), tmp_path, schema=EVERYTHING)
    assert bads(found) == []
    first, second = map(EVERYTHING.decode_strict, bodies(found))
    expected = Everything(
        flag=True,
        number=-42,
        ratio=1.5,
        price=Decimal("12.345"),
        cents=Decimal("1.20"),
        name="NA",
        raw=b"\x00\x01",
        day=date(2013, 1, 1),
        at=datetime(2013, 1, 1, tzinfo=UTC),
        took=timedelta(seconds=90),
        uid=UUID(int=1),
        color=Color.RED,
        level=2,
        tags=["a", "b"],
        places={"here": Place(1)},
        maybe=None,
        note=None,
        count=7,
    )
    assert first == expected
    assert second == msgspec.structs.replace(expected, maybe=3, note="x", count=1)
    assert bodies(found)[0] == EVERYTHING.encode(first), "what is stored is what our own encoder writes"


BAD: list[tuple[str, str, str]] = [
    ("flag", "yes", "'yes' is no bool; expected true, false, 1 or 0"),
    ("number", "4.0", "'4.0' is no integer"),
    ("number", " 4", "' 4' is no integer"),
    ("number", "1_000", "no integer"),
    ("number", "٣", "no integer"),
    ("number", "9223372036854775808", "64 bits"),
    ("number", "9" * 5000, "no integer"),
    ("number", "", "'' stands for null, and the field is not Optional"),
    ("number", "NA", "'NA' stands for null"),
    ("ratio", "nan", "no number.*no NaN"),
    ("ratio", "1,5", "no number"),
    ("ratio", "1e999", "beyond the largest float"),
    ("price", "12.3.4", "(?i)decimal"),
    ("cents", "1.234", "3 digits after the point"),
    ("raw", "??", "(?i)base64"),
    ("day", "2013-02-30", "(?i)date"),
    ("day", "", "stands for null"),
    ("at", "2013-01-01T05:00:00", "time zone|timezone"),
    ("at", "yesterday", "(?i)RFC3339"),
    ("took", "90", "(?i)duration|ISO8601"),
    ("uid", "1", "(?i)uuid"),
    ("color", "blue", "blue"),
    ("level", "3", "3"),
    ("tags", "a", "expected JSON"),
    ("tags", '["a"],"number":1,"x":[1]', "expected JSON"),
    ("tags", "[1]", "Expected `str`"),
    ("places", '{"a":{"x":1},"a":{"x":2}}', "'a' appears twice"),
    ("maybe", "x", "no integer"),
]


@pytest.mark.parametrize(("column", "cell", "reason"), BAD)
def test_a_bad_cell_is_named_by_file_line_and_column(tmp_path: Path, column: str, cell: str, reason: str) -> None:
    body = written(GOOD, GOOD | {column: cell}, GOOD)
    (tmp_path / "a.csv").write_bytes(body)
    found = read(files("a.csv"), tmp_path, schema=EVERYTHING)
    assert len(bodies(found)) == 2
    (bad,) = bads(found)
    assert bad.where == f"a.csv:3:{column}"
    assert bad.body == body.split(b"\n")[2][:1000]
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(bad.reason)


HEAD = b"id,who\n"
BAD_FILES: list[tuple[str, bytes, str]] = [
    ("duplicate", b"id,who,id\n", r"a\.csv:1: the column 'id' appears twice \(columns 1 and 3\)"),
    ("missing", b"id\n1\n", r"a\.csv:1: no column for who of Bid; found 'id'.*rename"),
    ("unknown", b"id,who,x\n", r"a\.csv:1: the column 'x' is no field of Bid, which has id, who.*unknown='ignore'"),
    ("empty header", b"\n1,a\n", "no column for id, who"),
    ("another delimiter", b"id;who\n", "the column 'id;who' is no field"),
    ("BOM", b"\xef\xbb\xbf" + HEAD, r"byte order mark.*bom=True"),
    ("UTF-16", "id,who".encode("utf-16"), "UTF-16"),
    ("unclosed", b'"id,who\n1,a\n', "header does not end"),
    ("no CSV", b'"id"x,who\n1,a\n', "header is no record"),
    ("not UTF-8", b"id,wh\xff\n", "is no field"),
]


@pytest.mark.parametrize(("body", "message"), [pytest.param(b, m, id=n) for n, b, m in BAD_FILES])
@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz"])
def test_a_wrong_header_stops_before_the_first_event(tmp_path: Path, name: str, body: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(gzip.compress(body) if name.endswith("gz") else body)
    with pytest.raises(ConfigError, match=message.replace(r"a\.csv", name)):
        opened(files("*"), tmp_path)


def test_csv_needs_a_type(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(HEAD)
    with pytest.raises(ConfigError, match=r"a\.csv: CSV needs the topic to have a type"):
        opened(files("*"), tmp_path, schema=None)
    with pytest.raises(ConfigError, match=r"files\.csv\.delimiter: ''"):
        files("*", csv=Csv(delimiter=""))
    with pytest.raises(ConfigError, match=r"files\.csv\.unknown"):
        files("*", csv=Csv(unknown="drop"))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("record", "where", "reason"),
    [
        (b"1,a,b", "2", "3 fields; expected 2, as the header has"),
        (b"1", "2", "1 fields; expected 2"),
        (b"1,\xff", "2", "not UTF-8"),
        (b"1,a\rb", "2", "carriage return"),
        (b'1,"a"b', "2", "no CSV: ',' expected after '\"'"),
        (b"1," + b"x" * 2000, "2", "an event of 2017 bytes; the topic takes at most 1000|a line of"),
        (b"1," + b'"' * 700, "2", ""),
    ],
)
def test_a_bad_record_leaves_the_others_alone(tmp_path: Path, record: bytes, where: str, reason: str) -> None:
    (tmp_path / "a.csv").write_bytes(HEAD + record + b"\n\n3,c\n4," + b'"d\n"')
    found = read(files("*"), tmp_path)
    assert bodies(found)[-2:] == [bid(3, "c"), b'{"id":4,"who":"d\\n"}']
    if reason:
        (bad,) = bads(found)
        assert bad.where == f"a.csv:{where}"
        assert bad.body == record[:1000]
        if len(record) > 1000:
            assert f"{len(record)} bytes, of which the first 1000 are kept" in bad.reason
        with pytest.raises(AssertionError, match=reason):
            raise AssertionError(bad.reason)


def test_a_quote_that_is_never_closed_costs_its_own_line(tmp_path: Path) -> None:
    many = b"".join(b"%d,x\n" % n for n in range(2, 500))
    (tmp_path / "a.csv").write_bytes(HEAD + b'1,"a\n' + many)
    found = read(files("*"), tmp_path)
    (bad,) = bads(found)
    assert (bad.where, bad.body) == ("a.csv:2", b'1,"a')
    assert "not closed within" in bad.reason
    assert bodies(found) == [bid(n, "x") for n in range(2, 500)]


def test_a_field_may_be_as_large_as_its_record(tmp_path: Path) -> None:
    """Beyond the limit of Python's parser too; lines of a field are no records, and a quote costs no others' lines."""
    text = "2,not an event\n" * 20_000
    many = b"".join(b"%d,x\n" % n for n in range(2, 30_000))
    for name, body in (("a", b'1,"%b"\n3,x\n' % text.encode()), ("b", b'1,"a\n' + many)):
        (tmp_path / f"{name}.csv").write_bytes(HEAD + body)
    found = chunks(opened(files("a.*"), tmp_path, limit=1_000_000), bytes_max=4_000_000)
    assert (bodies(found), bads(found)) == ([BID.encode(Bid(1, text)), bid(3, "x")], [])
    found = chunks(opened(files("b.*"), tmp_path, limit=1_000_000), bytes_max=4_000_000)
    assert (len(bodies(found)), [bad.body for bad in bads(found)]) == (29_998, [b'1,"a'])


def test_options(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"\xef\xbb\xbfNumber;x;name\n1;?;null\n2;?;b,c\n")
    chosen = Csv(delimiter=";", rename={"Number": "id", "name": "who"}, unknown="ignore", bom=True)
    assert bodies(read(files("*", csv=chosen), tmp_path)) == [bid(1, "null"), bid(2, "b,c")]
    with pytest.raises(ConfigError, match="the column 'no' is no field"):
        opened(files("*", csv=Csv(delimiter=";", rename={"x": "no"}, unknown="ignore", bom=True)), tmp_path)
    same = Csv(rename={"Number": "id", "name": "id"}, delimiter=";", unknown="ignore", bom=True)
    with pytest.raises(ConfigError, match="the columns 'Number' and 'name' are the same field of Bid"):
        opened(files("*", csv=same), tmp_path)
    (tmp_path / "a.csv").write_bytes(b"x,id,who,id\n")
    with pytest.raises(ConfigError, match=r"'id' appears twice \(columns 2 and 4\)"):
        opened(files("*", csv=Csv(unknown="ignore")), tmp_path)
    (tmp_path / "a.csv").write_bytes(b"1,a\n2,b\n")
    assert bodies(read(files("*", csv=Csv(names=("id", "who"))), tmp_path)) == [bid(1, "a"), bid(2, "b")]


class Renamed(msgspec.Struct, rename="camel", tag="renamed"):
    some_number: int
    other: str | None = None


def test_fields_go_by_either_name_and_keep_their_tag(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"some_number\n1\n")
    (tmp_path / "b.csv").write_bytes(b"someNumber,other\n2,\n3,x\n")
    schema: Any = schema_of(Renamed)
    found = bodies(read(files("*"), tmp_path, schema=schema))
    assert list(map(schema.decode_strict, found)) == [Renamed(1), Renamed(2), Renamed(3, "x")]


def test_follow_waits_for_header_and_record(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    source = opened(files("*", follow=True), tmp_path)
    whole = b'id,who\n1,a\n2,"b\n\nc"\n3,d\n'
    got: list[bytes] = []
    for size in range(len(whole) + 1):
        path.write_bytes(whole[:size])
        while (chunk := source.read(events_max=5, bytes_max=1000)) is not None:
            got += bodies([chunk])
            assert not chunk.bad
    source.close()
    assert got == [bid(1, "a"), b'{"id":2,"who":"b\\n\\nc"}', bid(3, "d")]


CELL = st.text(st.sampled_from('a,"\n é'), max_size=8)


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.integers(-5, 5), CELL), max_size=8),
    st.sampled_from(["\n", "\r\n"]),
    st.booleans(),
    st.tuples(st.integers(1, 5), st.integers(1, 80)),
)
def test_any_records_any_limits(
    rows: list[tuple[int, str]], newline: str, zipped: bool, limits: tuple[int, int]
) -> None:
    """What any CSV writer wrote comes back, from any border on."""
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator=newline)
    writer.writerow(("id", "who"))
    writer.writerows(rows)
    body = out.getvalue().encode()
    with tempfile.TemporaryDirectory() as directory:
        base = Path(directory)
        (base / ("a.csv.gz" if zipped else "a.csv")).write_bytes(gzip.compress(body) if zipped else body)
        whole = chunks(opened(files("*"), base), events_max=limits[0], bytes_max=limits[1])
        assert bads(whole) == []
        assert [tuple(msgspec.json.decode(b).values()) for b in bodies(whole)] == rows
        for index, chunk in enumerate(whole):
            rest = chunks(opened(files("*"), base, chunk.position), events_max=limits[0], bytes_max=limits[1])
            assert [(bodies([c]), c.position) for c in rest] == [(bodies([c]), c.position) for c in whole[index + 1 :]]


def test_the_topic_refuses_nothing_of_it(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(written(GOOD))
    found = bodies(read(files("*"), tmp_path, schema=EVERYTHING))
    assert isinstance(EVERYTHING.validate_lines(found), list)
    assert isinstance(BID.validate_lines([bid(1)]), list)
