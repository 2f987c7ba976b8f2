"""Rows to stdout or a file, batch by batch: NDJSON, CSV, Parquet. A file appears under its name when it is complete."""

from __future__ import annotations

import csv
import os
import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from datetime import date, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, TextIO

import pyarrow as pa
import pyarrow.parquet as pq

from penstock.cli import output
from penstock.cli.cells import storable, storable_type, values
from penstock.errors import ConfigError
from penstock.telemetry.emit import clean


class Writer(Protocol):
    """Takes batches of one schema, in order; used with `with`, which completes or removes what was written."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def begin(self, schema: pa.Schema) -> None:
        """The columns; called once, first."""
        ...

    def write(self, batch: pa.RecordBatch) -> None:
        """More rows."""
        ...


class _Lines:
    """Text to stdout, or to a file beside its final name."""

    def __init__(self, target: Path | None = None) -> None:
        self._target = target
        self._out: TextIO = sys.stdout

    def __enter__(self) -> Self:
        if self._target is not None:
            self._out = _partial(self._target).open("w", encoding="utf-8", newline="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._target is None:
            self._out.flush()
            return
        with _completing(self._target, failed=kind is not None):
            self._out.close()


class JsonLines(_Lines):
    """One JSON object a row."""

    def begin(self, schema: pa.Schema) -> None:
        """Nothing to write before the rows."""

    def write(self, batch: pa.RecordBatch) -> None:
        names = batch.schema.names
        rows = zip(*map(values, batch.columns), strict=True)
        self._out.writelines(output.to_json(dict(zip(names, row, strict=True))) + "\n" for row in rows)


class CsvLines(_Lines):
    """CSV with a header: moments in UTC, what is nested as JSON. On a terminal control characters are escaped."""

    def begin(self, schema: pa.Schema) -> None:
        self._csv = csv.writer(self._out, lineterminator="\n")
        self._csv.writerow(self._safe(schema.names))

    def write(self, batch: pa.RecordBatch) -> None:
        rows = zip(*map(values, batch.columns), strict=True)
        self._csv.writerows(self._safe([_csv_cell(v) for v in row]) for row in rows)

    def _safe(self, cells: Sequence[Any]) -> Sequence[Any]:
        if not self._out.isatty():
            return cells
        return [clean(cell) if isinstance(cell, str) else cell for cell in cells]


def _csv_cell(value: Any) -> Any:
    match value:
        case datetime():
            return value.isoformat().replace("+00:00", "Z")
        case bytes():
            return value.decode(errors="backslashreplace")
        case timedelta() | list() | dict():
            return output.to_json(value).strip('"')
        case bool():
            return str(value).lower()
        case date():
            return value.isoformat()
        case _:
            return value


class ParquetFile:
    """A Parquet file."""

    def __init__(self, target: Path) -> None:
        self._target = target
        self._writer: pq.ParquetWriter | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        with _completing(self._target, failed=kind is not None or self._writer is None):
            if self._writer is not None:
                self._writer.close()

    def begin(self, schema: pa.Schema) -> None:
        self._schema = pa.schema([field.with_type(storable_type(field.type)) for field in schema])
        try:
            self._writer = pq.ParquetWriter(_partial(self._target), self._schema, compression="zstd")
        except pa.ArrowException as exc:
            msg = f"Parquet cannot hold these columns: {exc}; cast them, or write .csv or .ndjson"
            raise ConfigError(msg, path="--output") from exc

    def write(self, batch: pa.RecordBatch) -> None:
        assert self._writer is not None
        for field, column in zip(batch.schema, batch.columns, strict=True):
            try:
                batch = batch.set_column(batch.schema.get_field_index(field.name), field.name, storable(column))
            except ValueError as exc:
                raise ConfigError(f"column {field.name}: {exc}", path="--output") from exc
        self._writer.write_batch(batch.cast(self._schema))


_BY_SUFFIX: dict[str, Callable[[Path], Writer]] = {
    ".parquet": ParquetFile,
    ".csv": CsvLines,
    ".ndjson": JsonLines,
    ".jsonl": JsonLines,
}


def file_writer(target: Path) -> Writer:
    """The writer for a file's suffix.

    Raises:
        ConfigError: the folder is not there.
    """
    if not target.parent.is_dir():
        msg = f"{target.parent} is no folder; make it, or write somewhere else"
        raise ConfigError(msg, path="--output")
    return _BY_SUFFIX[target.suffix](target)


def _partial(target: Path) -> Path:
    return target.with_name(f".{target.name}.part")


@contextmanager
def _completing(target: Path, *, failed: bool) -> Generator[None]:
    """Close what was written in the block; then it gets its name, or is removed where anything has failed."""
    try:
        yield
        if not failed:
            os.replace(_partial(target), target)
    finally:
        _partial(target).unlink(missing_ok=True)
