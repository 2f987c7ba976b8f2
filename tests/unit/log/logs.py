"""What the log's tests share: a log in a directory, blocks of rows, requests."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from zlib import crc32

import apsw

from penstock.event.batch import Rows
from penstock.log import blocks, catalogue
from penstock.log.api import Append, Block, Stored
from penstock.log.log import Log, LogConfig
from penstock.log.store import Store
from penstock.system import real_system

SYSTEM = real_system()


@contextmanager
def opened(directory: Path, config: LogConfig | None = None) -> Generator[Log, None, None]:
    """An open log."""
    log = Log.open(directory, SYSTEM, config)
    try:
        yield log
    finally:
        log.close()


def in_memory(partitions: int = 1) -> tuple[Store, Sequence[int]]:
    """The log's tables without a file, with one topic; its partition ids."""
    store = Store(apsw.Connection(":memory:"))
    store.create("test", now_us=0)
    return store, declare_in(store.db, "t", partitions)


def declare_in(db: apsw.Connection, name: str, partitions: int) -> Sequence[int]:
    """Create a topic, or find it; its partition ids."""
    if catalogue.topic(db, name) is None:
        catalogue.create_topic(db, name, b"{}", partitions=partitions)
    row = catalogue.topic(db, name)
    assert row is not None
    return row.pids


def declare(log: Log, name: str = "t", partitions: int = 1) -> Sequence[int]:
    """As `declare_in`, in the log."""
    return log.write(lambda db: declare_in(db, name, partitions)).result()


def block(pid: int, *bodies: bytes, times: tuple[int | None, int | None] = (None, None)) -> Block:
    """A block of raw events."""
    data, size = blocks.encode_rows(Rows.of(bodies))
    return Block(pid, len(bodies), 0, size, data, crc32(data), *times)


def append(sequence: int, *new: Block, producer: str = "p", epoch: int = 0, note: bytes = b"") -> Append:
    """One publish."""
    return Append(producer, epoch, sequence, new, note)


def bodies(stored: Sequence[Stored]) -> list[bytes]:
    """The events of blocks of rows."""
    out: list[bytes] = []
    for one in stored:
        rows = blocks.decode(one.data, arrow=None)
        assert isinstance(rows, Rows)
        out += rows.bodies()
    return out


def contents(log: Log, pid: int) -> list[bytes]:
    """Every event of a partition."""
    return bodies(log.read(pid, 0, events_max=1 << 30, bytes_max=1 << 40))
