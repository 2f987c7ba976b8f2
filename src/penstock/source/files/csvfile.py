"""CSV: records of quoted or plain fields, as the JSON lines of the topic's type.

Source: RFC 4180, and strictly so where fields are quoted. A quote inside a field that does not begin with one is text.
A field may be as large as the record that it is part of.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from typing import Any

import msgspec

from penstock.errors import ConfigError
from penstock.schema import Hiding, Invalid, Schema
from penstock.source.api import Bad
from penstock.source.files.cells import LEFT_OUT
from penstock.source.files.config import Csv
from penstock.source.files.header import Column, Table, table_of
from penstock.source.files.lines import Lines
from penstock.source.files.part import WINDOW_BYTES, Part, long_line, window

_BOM = b"\xef\xbb\xbf"
# How the schema's messages name the field at fault: by its name in JSON at the end, or in Python at the beginning.
_FIELD = re.compile(r"at `\$\.([^`.\[]+)|\A\w+\.(\w+)")
_UNCLOSED = "unexpected end of data"
# Python's parser gives a field up in its middle, at 131,072 characters by default, and its other lines would be taken
# for records. The limit is one for the whole process, so it is only ever raised.
_FIELD_CHARS_MAX = 2**31 - 1


class Record(msgspec.Struct, frozen=True):
    """One record: its fields, or why it has none; `size` bytes in `lines` lines."""

    fields: list[str] | None
    size: int
    lines: int
    reason: str = ""


class CsvReader:
    """The events of one file, as records. `start` is at the file's beginning; `lines` where reading goes on.

    Args:
        start: for the header; None when `lines` is at the beginning itself.
    """

    def __init__(
        self, lines: Lines, start: Lines | None, *, name: str, schema: Schema[Any], config: Csv, line_bytes_max: int
    ) -> None:
        self.lines = lines
        self._name = name
        self._schema = schema
        self._hiding = Hiding.of(schema.shape)
        self._config = config
        self._limit = line_bytes_max
        csv.field_size_limit(_FIELD_CHARS_MAX)
        self._encode = msgspec.json.Encoder().encode
        self._table = self._header(start or lines)
        columns = {column.wire: column for column in (self._table.columns if self._table else ())}
        named = {field.name: columns[field.wire] for field in schema.fields if field.wire in columns}
        self._by_field = named | columns

    def _header(self, lines: Lines) -> Table | None:
        """The columns; None while the file has no complete first line."""
        begin = lines.peek(len(_BOM))
        if begin.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise ConfigError("is UTF-16; save the file as UTF-8", path=self._name)
        if begin == _BOM:
            if not self._config.bom:
                msg = "begins with a byte order mark; save the file without one, or accept it with Csv(bom=True)"
                raise ConfigError(msg, path=self._name)
            lines.advance(len(_BOM), 0)
        if self._config.names:
            return table_of(self._config.names, self._schema, self._config, where=self._name)
        room = max(self._limit, WINDOW_BYTES)
        records = self._records(lines.block(room), 1)
        where = f"{self._name}:{lines.line + 1}"
        if not records:
            if lines.complete(room) and not lines.ended:
                raise ConfigError("the header does not end (a quote that is not closed?)", path=where)
            return None
        if records[0].fields is None:
            raise ConfigError(f"the header is no record: {records[0].reason}", path=where)
        table = table_of(records[0].fields, self._schema, self._config, where=where)
        lines.advance(records[0].size, records[0].lines)
        return table

    def take(self, events_max: int, bytes_max: int) -> Part:
        """The next records within the limits; see `Reader`."""
        part = Part()
        if self._table is None:
            return part
        while part.lines < events_max:
            left = bytes_max - part.size
            records = self._records(self.lines.block(window(left, events_max - part.lines)), events_max - part.lines)
            if not records:
                records = self._records(self.lines.block(left), events_max - part.lines)
            if not records:
                break
            self._convert(records, part, self._table)
        if not part.lines:
            self._single(part, self._table)
        return part

    def _single(self, part: Part, table: Table) -> None:
        """One record that is longer than a whole chunk, or that never ends: then its first line alone is bad."""
        block = self.lines.block(self._limit + 2)
        records = self._records(block, 1)
        if records:
            self._convert(records, part, table)
            return
        if not self.lines.complete(self._limit + 2):
            return
        where = f"{self._name}:{self.lines.line + 1}"
        if block:
            line = block[: block.find(b"\n") + 1] or block
            reason = (
                f"a quoted field begins here and is not closed within {len(block)} bytes; only this line is left out"
            )
            part.bad.append(Bad(where, line.rstrip(b"\r\n"), reason))
            self.lines.advance(len(line), 1)
        elif not self.lines.ended:
            long = self.lines.skip_long(self._limit)
            if long is None:
                return
            part.bad.append(long_line(where, long.head, long.size, self._limit))
        else:
            return
        part.lines += 1

    def _records(self, block: bytes, count_max: int) -> list[Record]:
        """The complete records at the beginning of complete lines, at most `count_max`."""
        if not block:
            return []
        found = block.split(b"\n")
        ends = [len(line) + 1 for line in found]
        if found[-1]:
            ends[-1] -= 1
        else:
            found.pop()
        try:
            texts = b"\n".join(found).decode().split("\n")
        except UnicodeDecodeError:
            texts = b"\n".join(found).decode(errors="surrogateescape").split("\n")
        return _parsed(texts, ends, self._config.delimiter, count_max)

    def _convert(self, records: Sequence[Record], part: Part, table: Table) -> None:
        """Consume the records: each becomes an event, or bad, or is an empty line."""
        good: list[tuple[Record, int, int]] = []
        bodies: list[bytes] = []
        line, offset = self.lines.line + 1, 0
        raw = self.lines.peek(sum(record.size for record in records))
        bads: list[tuple[int, Bad]] = []
        for record in records:
            body = raw[offset : offset + record.size]
            if record.fields:
                try:
                    bodies.append(self._body(record.fields, table))
                    good.append((record, line, offset))
                except _BadCell as exc:
                    bads.append((line, self._bad(line, exc.column, body, exc.reason)))
            elif record.fields is None:
                bads.append((line, self._bad(line, None, body, record.reason)))
            line += record.lines
            offset += record.size
        part.bodies += self._checked(bodies, good, raw, bads)
        part.bad += [bad for _, bad in sorted(bads, key=lambda entry: entry[0])]
        self.lines.advance(offset, sum(record.lines for record in records))
        part.lines += len(records)
        part.size += offset

    def _body(self, fields: list[str], table: Table) -> bytes:
        if len(fields) != table.width:
            raise _BadCell(None, f"{len(fields)} fields; expected {table.width}, as the header has")
        row: dict[str, Any] = {}
        shape = self._schema.shape
        if shape.tag_field is not None:
            row[shape.tag_field] = shape.tag
        for column in table.columns:
            cell = fields[column.index]
            try:
                value = cell if column.convert is None else column.convert(cell)
            except ValueError as exc:
                raise _BadCell(column, str(exc)) from exc
            if value is not LEFT_OUT:
                row[column.wire] = value
        try:
            return self._encode(row)
        except UnicodeEncodeError as exc:
            raise _BadCell(None, "not UTF-8: save the file as UTF-8") from exc

    def _checked(
        self, bodies: list[bytes], good: list[tuple[Record, int, int]], raw: bytes, bads: list[tuple[int, Bad]]
    ) -> list[bytes]:
        """The bodies as the schema writes them; those it refuses join `bads`."""
        checked = self._schema.validate_lines(bodies)
        if not isinstance(checked, Invalid):
            written = self._schema.encode_all(checked)
            if max(map(len, written), default=0) <= self._limit:
                return written
            events, reasons = list[Any](checked), dict[int, str]()
        else:
            events, reasons = list[Any](checked.events), dict(checked.reasons)
        out: list[bytes] = []
        for index, (event, (record, line, offset)) in enumerate(zip(events, good, strict=True)):
            body = b"" if event is None else self._schema.encode(event)
            reason = reasons.get(index)
            if reason is None and len(body) > self._limit:
                reason = f"an event of {len(body)} bytes; the topic takes at most {self._limit}"
            if reason is None:
                out.append(body)
                continue
            match = _FIELD.search(reason)
            column = self._by_field.get(match[1] or match[2]) if match else None
            if event is None and self._hiding is not None:
                reason = self._hiding.from_texts(bodies[index])(reason)
            bads.append((line, self._bad(line, column, raw[offset : offset + record.size], reason)))
        return out

    def _bad(self, line: int, column: Column | None, body: bytes, reason: str) -> Bad:
        where = f"{self._name}:{line}" + (f":{column.name}" if column is not None else "")
        body = body.removesuffix(b"\n").removesuffix(b"\r")
        if len(body) > self._limit:
            reason = f"{reason} (a record of {len(body)} bytes, of which the first {self._limit} are kept)"
        return Bad(where, body[: self._limit], reason)


class _BadCell(Exception):
    """A record cannot become JSON."""

    def __init__(self, column: Column | None, reason: str) -> None:
        super().__init__(reason)
        self.column = column
        self.reason = reason


def _parsed(texts: list[str], sizes: list[int], delimiter: str, count_max: int) -> list[Record]:
    """The records of complete lines; an incomplete one at the end is left for later."""
    out: list[Record] = []
    done = 0
    while done < len(texts) and len(out) < count_max:
        text = texts[done]
        record = _plain(text, sizes[done], delimiter) if '"' not in text else _quoted(texts, sizes, delimiter, done)
        if record is None:
            break
        out.append(record)
        done += record.lines
    return out


def _plain(text: str, size: int, delimiter: str) -> Record:
    text = text.removesuffix("\r")
    if "\r" in text:
        return Record(None, size, 1, "a carriage return inside a field: quote the field, or end lines with a newline")
    return Record(text.split(delimiter) if text else [], size, 1)


def _quoted(texts: list[str], sizes: list[int], delimiter: str, done: int) -> Record | None:
    """The record that begins in line `done`; None when its last line is not there."""
    parser = csv.reader((texts[i] + "\n" for i in range(done, len(texts))), delimiter=delimiter, strict=True)
    fields: list[str] | None = None
    reason = ""
    try:
        fields = next(parser)
    except csv.Error as exc:
        if str(exc) == _UNCLOSED:
            return None
        reason = f"no CSV: {exc}"
    return Record(fields, sum(sizes[done : done + parser.line_num]), parser.line_num, reason)
