"""NDJSON: one JSON object a line, kept byte for byte, checked in bulk.

Source: https://github.com/ndjson/ndjson-spec: lines end in a newline, which a carriage return may precede; lines that
hold nothing are ignored.
"""

from __future__ import annotations

from operator import itemgetter
from typing import Any

from penstock.errors import ConfigError, DecodeError
from penstock.schema import Invalid, Schema, strict
from penstock.schema.shapes import Type
from penstock.source.api import Bad
from penstock.source.files.lines import Lines
from penstock.source.files.part import WINDOW_BYTES, Part, long_line, window

_BOM = b"\xef\xbb\xbf"
_BLANKS = b" \t\r"


class NdjsonReader:
    """The events of one file, as lines. Without a schema every line that is not empty is an event."""

    def __init__(self, lines: Lines, name: str, schema: Schema[Any] | None, *, line_bytes_max: int) -> None:
        self.lines = lines
        self._name = name
        self._schema = schema
        self._limit = line_bytes_max
        if lines.offset == 0:
            self._check_beginning()

    def _check_beginning(self) -> None:
        """Refuse what is plainly not NDJSON, before each of its lines is found to be bad."""
        begin = self.lines.peek(WINDOW_BYTES)
        if begin.startswith(_BOM):
            msg = "begins with a byte order mark, which not all parsers ignore; save the file as UTF-8 without one"
            raise ConfigError(msg, path=self._name)
        if begin.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise ConfigError("is UTF-16; save the file as UTF-8", path=self._name)
        if begin.partition(b"\n")[0].strip(_BLANKS) in {b"[", b"{"}:
            msg = "is one JSON document over many lines; expected one object a line, as `jq -c '.[]'` writes it"
            raise ConfigError(msg, path=self._name)

    def take(self, events_max: int, bytes_max: int) -> Part:
        """The next lines within the limits; see `Reader`."""
        part = Part()
        while part.lines < events_max:
            left = bytes_max - part.size
            block = self.lines.block(window(left, events_max - part.lines)) or self.lines.block(left)
            if not block:
                break
            found = block.split(b"\n")
            if not found[-1]:
                found.pop()
            size = len(block)
            if len(found) > events_max - part.lines:
                del found[events_max - part.lines :]
                size = sum(map(len, found)) + len(found)
            self._check([line.removesuffix(b"\r") for line in found] if b"\r" in block else found, part)
            self.lines.advance(size, len(found))
            part.lines += len(found)
            part.size += size
        if not part.lines:
            self._single(part)
        return part

    def _single(self, part: Part) -> None:
        """One line that is longer than a whole chunk."""
        block = self.lines.block(self._limit + 2)
        if block:
            line = block[: block.find(b"\n") + 1] or block
            self._check([line.removesuffix(b"\n").removesuffix(b"\r")], part)
            self.lines.advance(len(line), 1)
        elif self.lines.complete(self._limit + 2) and not self.lines.ended:
            where = f"{self._name}:{self.lines.line + 1}"
            long = self.lines.skip_long(self._limit)
            if long is None:
                return
            part.bad.append(long_line(where, long.head, long.size, self._limit))
        else:
            return
        part.lines += 1

    def _check(self, found: list[bytes], part: Part) -> None:
        """Sort the lines that follow into events, bad ones, and those that hold nothing."""
        numbers: range | list[int] = range(self.lines.line + 1, self.lines.line + 1 + len(found))
        bad: list[tuple[int, Bad]] = []
        if b"" in found or max(map(len, found), default=0) > self._limit:
            kept: list[tuple[int, bytes]] = []
            for number, line in zip(numbers, found, strict=True):
                if len(line) > self._limit:
                    where = f"{self._name}:{number}"
                    bad.append((number, long_line(where, line[: self._limit], len(line), self._limit)))
                elif line:
                    kept.append((number, line))
            numbers, found = [number for number, _ in kept], [line for _, line in kept]
        reasons = {} if self._schema is None else invalid(self._schema, found)
        for index, reason in reasons.items():
            if found[index].strip(_BLANKS):
                bad.append((numbers[index], Bad(f"{self._name}:{numbers[index]}", found[index], reason)))
        part.bodies += [line for index, line in enumerate(found) if index not in reasons] if reasons else found
        part.bad += [entry for _, entry in sorted(bad, key=itemgetter(0))]


def invalid(schema: Schema[Any], bodies: list[bytes]) -> dict[int, str]:
    """Why each of the bodies that a strict reader refuses is no event, by index.

    What our own encoder would write, up to blanks, is read alike by every parser, and so is a flat object without
    escapes that has only fields of the type, each once; only the others need a parser that looks at everything.
    """
    checked = schema.validate_lines(bodies)
    reasons = dict(checked.reasons) if isinstance(checked, Invalid) else {}
    events: list[Any] = checked.events if isinstance(checked, Invalid) else checked
    if not reasons:
        written = b"\n".join(schema.encode_all(events))
        read = b"\n".join(bodies)
        if written == read or _squeezed(written) == _squeezed(read):
            return reasons
    flat = all(_flat(field.type) for field in schema.fields)
    keys = [b'"%b":' % field.wire.encode() for field in schema.fields]
    for index, (body, event) in enumerate(zip(bodies, events, strict=True)):
        if event is not None and (
            (flat and _keys_once(_squeezed(body), keys)) or _squeezed(schema.encode(event)) == _squeezed(body)
        ):
            continue
        # Also for what was refused: that it is no JSON at all says more than where it fails the type.
        try:
            strict.verify(body)
        except DecodeError as exc:
            reasons[index] = f"{schema.name}: {exc}"
    return reasons


def _flat(kind: Type) -> bool:
    return kind.kind not in {"dict", "struct", "union"} and (kind.item is None or _flat(kind.item))


def _keys_once(body: bytes, keys: list[bytes]) -> bool:
    """Whether valid JSON without blanks has only these keys, and none twice.

    Without escapes a quote and a colon always end a key, and a key is found by its quotes: as many ends as different
    keys means that each is there once.
    """
    return b"\\" not in body and body.count(b'":') == sum([key in body for key in keys])


def _squeezed(body: bytes) -> bytes:
    return body.translate(None, _BLANKS)
