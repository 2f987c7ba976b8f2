"""Attempt slots: what was being handled is there after the worker's death, and nobody writes over it."""

from __future__ import annotations

import errno
import fcntl
import os
import threading
from pathlib import Path

import pytest

from penstock.system.slots import FileRecords, MemoryRecords, MemorySlot, PartitionSlot


def full(_fd: int, _offset: int, _size: int) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def handling(records: FileRecords | MemoryRecords, partition: int, offset: int) -> None:
    records.words[1] = offset
    records.words[0] = partition + 1


def test_what_a_dead_worker_was_at_is_found_by_the_next_owner_of_its_partition(tmp_path: Path) -> None:
    dead = FileRecords(tmp_path)
    handling(dead, 3, 77)
    dead.let_go()
    heir = FileRecords(tmp_path)
    assert PartitionSlot(heir, 2).left() is None
    slot = PartitionSlot(heir, 3)
    assert slot.left() == (3, 77)
    assert PartitionSlot(FileRecords(tmp_path), 3).clears == slot.clears > 0
    slot.clear()
    assert (slot.left(), slot.clears) == (None, 0)
    assert not (tmp_path / dead.name).exists()


def test_workers_do_not_write_over_one_another(tmp_path: Path) -> None:
    one, two = FileRecords(tmp_path), FileRecords(tmp_path)
    handling(one, 0, 5)
    handling(two, 1, 9)
    three = FileRecords(tmp_path)
    assert [PartitionSlot(three, p).left() for p in range(3)] == [(0, 5), (1, 9), None]
    assert PartitionSlot(one, 0).left() is None, "what this worker is at itself is nobody's death"


def test_a_worker_that_starts_while_others_tidy_up_waits_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever starts looks whether records were left behind: for that moment it holds the lock of a new one, too."""
    opened = os.open

    def open_and_tidy(path: Path, flags: int, mode: int = 0o777) -> int:
        fd = opened(path, flags, mode)
        if flags & os.O_EXCL:
            probe = opened(path, os.O_RDWR)
            fcntl.flock(probe, fcntl.LOCK_EX | fcntl.LOCK_NB)
            threading.Timer(0.05, os.close, [probe]).start()
        return fd

    monkeypatch.setattr(os, "open", open_and_tidy)
    records = FileRecords(tmp_path)
    assert (tmp_path / records.name).exists()
    records.close()


def test_two_deaths_at_one_event_are_two(tmp_path: Path) -> None:
    numbers: set[int] = set()
    for _ in range(2):
        dead = FileRecords(tmp_path)
        handling(dead, 0, 5)
        dead.let_go()
        slot = PartitionSlot(FileRecords(tmp_path), 0)
        numbers.add(slot.clears)
        slot.clear()
    assert len(numbers) == 2


def test_a_zombie_that_was_charged_goes_on_and_ends_clean(tmp_path: Path) -> None:
    zombie, heir = FileRecords(tmp_path), FileRecords(tmp_path)
    handling(zombie, 0, 5)
    slot = PartitionSlot(heir, 0)
    before = slot.clears
    slot.clear()
    assert (tmp_path / zombie.name).exists(), "it lives"
    handling(zombie, 0, 6)
    assert (slot.left(), slot.clears) == ((0, 6), before + 1)
    zombie.words[0] = 0
    zombie.close()
    zombie.close()
    assert slot.left() is None
    heir.close()
    assert list(tmp_path.iterdir()) == []


def test_records_that_say_nothing_do_not_pile_up(tmp_path: Path) -> None:
    for _ in range(5):
        FileRecords(tmp_path).let_go()
    last = FileRecords(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [last.name]


def test_a_record_outlives_a_close_in_the_middle_of_an_event(tmp_path: Path) -> None:
    records = FileRecords(tmp_path)
    handling(records, 1, 4)
    PartitionSlot(records, 1).close()
    assert PartitionSlot(FileRecords(tmp_path), 1).left() == (1, 4)


def test_a_forked_child_does_not_keep_a_record_locked(tmp_path: Path) -> None:
    records = FileRecords(tmp_path)
    reader, writer = os.pipe()
    born, bear = os.pipe()
    if os.fork() == 0:
        os.write(bear, b"x")
        os.read(reader, 1)
        os._exit(0)
    os.read(born, 1)
    records.let_go()
    FileRecords(tmp_path).close()
    assert list(tmp_path.iterdir()) == []
    os.write(writer, b"x")
    os.wait()


def test_records_in_memory() -> None:
    shared: dict[str, bytearray] = {}
    one, two = MemoryRecords(shared, "a/1", 1), MemoryRecords(shared, "b/2", 2)
    handling(one, 0, 5)
    slot = PartitionSlot(two, 0)
    assert (slot.left(), slot.clears) == ((0, 5), 1 << 32)
    slot.clear()
    assert slot.left() is None
    slot.close()


@pytest.mark.parametrize("shared", [True, False])
def test_a_slot_in_memory_may_be_shared(shared: bool) -> None:
    words = bytearray(32) if shared else None
    slot = MemorySlot(words)
    slot.words[1], slot.words[0] = 5, 1
    assert slot.left() == (0, 5)
    assert MemorySlot(words).left() == ((0, 5) if shared else None)
    slot.clear()
    assert slot.left() is None
    slot.close()


def test_a_record_without_room_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a seat: see there."""
    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with pytest.raises(OSError, match="No space"):
        FileRecords(tmp_path)
    assert list(tmp_path.iterdir()) == []
