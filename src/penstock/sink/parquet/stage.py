"""The temporary Parquet files of one claimed partition, written as batches come."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from zlib import crc32

import pyarrow as pa
import pyarrow.parquet as pq

from penstock.sink.parquet.layout import TEMPORARY, Part
from penstock.system.files import sync_directory, sync_file
from penstock.system.points import reached

ROW_GROUP_ROWS = 128 * 1024
ROW_GROUP_BYTES = 32 * 1024 * 1024


class Stage:
    """Staged batches of one claim, in offset order. Owns its files until they are sealed and committed.

    Batches gather in memory up to one row group; a new file begins when the columns change.
    """

    def __init__(self, scratch: Path, tag: str, *, zstd_level: int, naming: Callable[[int, int], str]) -> None:
        self._scratch = scratch
        self._tag = tag
        self._zstd_level = zstd_level
        self._naming = naming
        self._open: _OpenFile | None = None
        self._parts: list[Part] = []

    def add(self, first: int, end: int, batch: pa.RecordBatch) -> None:
        """Stage a batch; an empty one only moves the offsets of the open file."""
        current = self._open
        if batch.num_rows and (current is None or not current.schema.equals(batch.schema)):
            self._close_file()
            path = self._scratch / f"{self._tag}-{first}{TEMPORARY}"
            current = self._open = _OpenFile(path, batch.schema, first, self._zstd_level)
        if current is not None:
            current.add(batch, end)

    def seal(self) -> tuple[Part, ...]:
        """Complete and sync every file; calling it again gives the same parts."""
        self._close_file()
        for part in self._parts:
            sync_file(self._scratch / part.temporary)
        if self._parts:
            sync_directory(self._scratch)
        return tuple(self._parts)

    def abandon(self) -> None:
        """Close without completing; files stay where they are, for the next owner to judge."""
        if self._open is not None:
            self._open.abandon()
            self._open = None

    def clear(self) -> None:
        """Forget sealed parts: they are committed."""
        self._parts.clear()

    def drop(self) -> None:
        """Remove all that is staged."""
        names = [part.temporary for part in self._parts]
        if self._open is not None:
            names.append(self._open.path.name)
        self.abandon()
        self.clear()
        for name in names:
            (self._scratch / name).unlink(missing_ok=True)

    def _close_file(self) -> None:
        if self._open is None:
            return
        self._parts.append(self._open.complete(self._naming))
        self._open = None


class _OpenFile:
    """One Parquet file being written: sequential bytes through a descriptor that also counts and checks them."""

    def __init__(self, path: Path, schema: pa.Schema, first: int, zstd_level: int) -> None:
        self.path = path
        self.schema = schema
        self._first = self._end = first
        self._waiting: list[pa.RecordBatch] = []
        self._waiting_rows = self._waiting_bytes = self._rows = 0
        reached(f"parquet.create:{path.name}")
        self._file = _CountedFile(path)
        try:
            self._writer = pq.ParquetWriter(
                pa.PythonFile(self._file, mode="w"),
                schema,
                compression="zstd",
                compression_level=zstd_level,
                write_statistics=True,
            )
        except BaseException:  # it begins to write at once, and nobody else knows of the file yet
            self._file.close()
            path.unlink(missing_ok=True)
            raise

    def add(self, batch: pa.RecordBatch, end: int) -> None:
        self._end = end
        if batch.num_rows == 0:
            return
        self._waiting.append(batch)
        self._waiting_rows += batch.num_rows
        self._waiting_bytes += batch.nbytes
        if self._waiting_rows >= ROW_GROUP_ROWS or self._waiting_bytes >= ROW_GROUP_BYTES:
            self._write_waiting()

    def complete(self, naming: Callable[[int, int], str]) -> Part:
        self._write_waiting()
        reached(f"parquet.complete:{self.path.name}")
        if self._writer.is_open:
            self._writer.close()
        self._file.close()
        name = naming(self._first, self._end)
        return Part(name, self.path.name, self._rows, self._file.size, self._file.check)

    def abandon(self) -> None:
        self._waiting.clear()
        self._file.closing = True
        self._writer.close()
        self._file.close()

    def _write_waiting(self) -> None:
        if not self._waiting:
            return
        reached(f"parquet.write:{self.path.name}")
        table = pa.Table.from_batches(self._waiting, self.schema)
        self._writer.write_table(table, row_group_size=2 * ROW_GROUP_ROWS)
        self._rows += table.num_rows
        self._waiting.clear()
        self._waiting_rows = self._waiting_bytes = 0


class _CountedFile:
    """What `pa.PythonFile` needs of a file, with the size and the CRC-32 of all that was written."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        self.size = 0
        self.check = 0
        self.closed = False
        self.closing = False  # set when what the writer still says is of no interest any more

    def write(self, data: bytes) -> int:
        view = memoryview(data)
        if not self.closing:
            self.check = crc32(view, self.check)
            self.size += len(view)
            while view:
                view = view[os.write(self._fd, view) :]
        return len(data)

    def tell(self) -> int:
        return self.size

    def flush(self) -> None:
        """Nothing is kept back."""

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            os.close(self._fd)
