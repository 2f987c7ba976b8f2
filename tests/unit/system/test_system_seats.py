"""Seats of members, real files; and leases, on numbers alone."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from penstock.system.leases import GAP_S_MAX, Leases, Sign
from penstock.system.seats import Heart, Room, SeatFile


def full(_fd: int, _offset: int, _size: int) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def beating(leases: Leases, beats: list[int], every_s: float = 0.05) -> list[bool]:
    """Whether the member counts as living at each look."""
    return [
        "a" in leases.live({"a": Sign(locked=True, beat=beat)}, number * every_s) for number, beat in enumerate(beats)
    ]


def test_a_counter_that_stands_still_for_the_lease_is_a_stopped_process() -> None:
    assert all(beating(Leases(2.0), list(range(100))))
    still = beating(Leases(2.0), [7] * 60)
    assert still.index(False) == 40
    assert beating(Leases(2.0), [*[7] * 60, 8])[-1], "it goes on"


def test_a_lock_that_is_free_is_a_death_at_once() -> None:
    leases = Leases(2.0)
    assert leases.live({"a": Sign(locked=True, beat=1), "b": Sign(locked=False, beat=1)}, 5.0) == {"a"}


def test_an_observer_that_was_stopped_itself_has_seen_nothing_meanwhile() -> None:
    leases = Leases(2.0)
    for now_s in (0.0, 100.0, 200.0):
        assert leases.live({"a": Sign(locked=True, beat=1)}, now_s) == {"a"}
    now_s = 200.0
    while leases.live({"a": Sign(locked=True, beat=1)}, now_s):
        now_s += GAP_S_MAX
    assert now_s - 200.0 == pytest.approx(2.0 - 2 * GAP_S_MAX, abs=GAP_S_MAX)


def test_a_clock_that_goes_back_ends_no_lease() -> None:
    leases = Leases(2.0)
    for now_s in (50.0, 10.0, 49.0, -1e9):
        assert leases.live({"a": Sign(locked=True, beat=1)}, now_s) == {"a"}


def test_members_see_each_other_and_what_they_hold(tmp_path: Path) -> None:
    one, two = SeatFile(tmp_path, "worker ä", 3), SeatFile(tmp_path, "two", 3)
    one.mark(0, 5)
    one.mark(2, 0)
    room = Room(tmp_path, two)
    (seen,) = room.seats()
    assert (seen.name, seen.label, seen.pid, dict(seen.holds)) == (one.name, "worker ä", os.getpid(), {0: 5, 2: 0})
    one.mark(0, None)
    assert dict(room.seats()[0].holds) == {2: 0}
    assert dict(seen.holds) == {0: 5, 2: 0}
    one.close()
    one.close()
    assert room.seats() == []
    room.close()
    room.close()
    assert list(tmp_path.iterdir()) == []
    one.beat()
    one.mark(0, 1)


def test_what_a_dead_member_leaves_behind_is_removed(tmp_path: Path) -> None:
    code = "import sys; from pathlib import Path; from penstock.system.seats import SeatFile; import os\n"
    code += "s = SeatFile(Path(sys.argv[1]), 'dead', 2); s.mark(1, 3); print(s.name, flush=True); sys.stdin.read(1)\n"
    code += "os._exit(9)"
    room = Room(tmp_path)
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        name = process.stdout.readline().strip()
        assert [seen.name for seen in room.seats()] == [name]
        process.communicate("x")
    assert room.seats() == []
    assert list(tmp_path.iterdir()) == []
    room.close()


def test_two_who_probe_at_once_do_not_take_each_other_for_life(tmp_path: Path) -> None:
    seat = SeatFile(tmp_path, "dead", 1)
    one, two = Room(tmp_path), Room(tmp_path)
    assert one.seats() == two.seats() != []
    seat.let_go()
    assert two.seats() == one.seats() == []


def test_a_forked_child_does_not_keep_a_seat(tmp_path: Path) -> None:
    code = """
import os, sys
from pathlib import Path
from penstock.system.seats import Room, SeatFile
seat = SeatFile(Path(sys.argv[1]), "parent", 1)
reader, writer = os.pipe()
born, bear = os.pipe()
if os.fork() == 0:
    seat.beat()
    seat.mark(0, 1)
    os.write(bear, b"x")
    os.read(reader, 1)
    os._exit(0)
os.read(born, 1)
seat.let_go()
print(len(Room(Path(sys.argv[1])).seats()))
os.write(writer, b"x")
os.wait()
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout == "0\n"


def test_files_that_are_no_seats_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("hello")
    (tmp_path / "empty").touch()
    (tmp_path / "zeros").write_bytes(bytes(640))
    room = Room(tmp_path)
    assert room.seats() == []
    assert Room(tmp_path / "nowhere").seats() == []
    room.close()


def test_the_heart_beats_and_tells_of_changes(tmp_path: Path) -> None:
    own, other = SeatFile(tmp_path, "own", 1), SeatFile(tmp_path, "other", 1)
    mine = Room(tmp_path, own)
    theirs = Room(tmp_path, other)
    heart = Heart(beat_s=60.0)
    told: list[int] = []
    heart.add(mine, lambda: told.append(1))
    heart.once()
    heart.once()
    assert told == []
    other.mark(0, 2)
    heart.once()
    assert told == [1]
    assert own._words[1] == 3
    heart.remove(mine)
    heart.close()
    heart.once()
    assert own._words[1] == 3
    mine.close()
    theirs.close()


def test_without_file_descriptors_the_heart_beats_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A handler that leaks them must not look like dead to others; whom it has seen before it still sees."""
    one, two = SeatFile(tmp_path, "one", 1), SeatFile(tmp_path, "two", 1)
    mine, theirs = Room(tmp_path, one), Room(tmp_path, two)
    heart = Heart(beat_s=60.0)
    heart.add(mine, lambda: None)
    assert theirs.seats()

    def refuse(path: Path) -> list[str]:
        raise OSError(errno.EMFILE, "too many open files", str(path))

    with monkeypatch.context() as patched:
        patched.setattr(os, "listdir", refuse)
        for _ in range(3):
            before = one.path.read_bytes()
            heart.once()
            assert one.path.read_bytes() != before
        assert [seen.label for seen in mine.seats()] == ["two"]
        with pytest.raises(OSError, match="too many"):
            Room(tmp_path).seats()
    heart.close()
    for room in (mine, theirs):
        room.close()


@pytest.mark.parametrize("left", [0, 1])
def test_without_file_descriptors_nobody_is_told_that_nobody_is_there(tmp_path: Path, left: int) -> None:
    """Groups are expired, and put elsewhere, when they have no members. With one left a directory can be listed."""
    seat, observer = SeatFile(tmp_path, "one", 1), Room(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.open(os.devnull, os.O_RDONLY)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + 1 + left, hard))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            observer.seats()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        os.close(lowest)
    assert [seen.label for seen in observer.seats()] == ["one"]
    observer.close()
    seat.close()


def test_a_seat_without_room_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its file is mapped, and must not have holes: there would be no room for them at the first store."""
    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with pytest.raises(OSError, match="No space"):
        SeatFile(tmp_path, "worker", 4)
    assert list(tmp_path.iterdir()) == []
