"""What a log and its disk promise, found out by asking and trying; nothing is changed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from penstock.channel.drivers.embedded.upkeep import LOCK as UPKEEP
from penstock.errors import PenstockError
from penstock.log import ballast
from penstock.log.guard import DATABASE
from penstock.log.opening import NETWORK_FILE_SYSTEMS, file_system
from penstock.log.witness import NAME as WITNESS
from penstock.observe.inventory import group_facts
from penstock.system.files import remove, write_synced
from penstock.system.locks import FairLock, FileLock

if TYPE_CHECKING:
    import apsw

    from penstock.channel.drivers.embedded import EmbeddedChannel
    from penstock.system import System

State = Literal["ok", "warning", "bad"]
FREE_BYTES_BAD, FREE_BYTES_WARN = 50_000_000, 1_000_000_000
SYNCS = 9
WAL_BYTES_WARN = 128_000_000
SYNC_S_HONEST = 0.00002
MEMORY_FILE_SYSTEMS = frozenset({"tmpfs", "ramfs"})


class Finding(msgspec.Struct, frozen=True):
    """One thing that was looked at: `detail` says what was found and, unless it is ok, the way out."""

    check: str
    state: State
    detail: str


def look_at_disk(directory: Path, system: System) -> Iterator[Finding]:
    """The directory's file system, its room and its syncs, and who holds the writers' lock."""
    kind = file_system(directory)
    if kind in NETWORK_FILE_SYSTEMS:
        yield Finding("file system", "bad", f"{kind}: locks and syncs cannot be trusted there; move the log to a disk")
    elif kind in MEMORY_FILE_SYSTEMS:
        yield Finding("file system", "warning", f"{kind} is memory: what is acked is gone when the machine stops (D1)")
    else:
        yield Finding("file system", "ok", kind)
    yield _room(directory)
    yield _sync(directory, system)
    yield _holder(directory)
    yield _upkeep(directory)


def _holder(directory: Path) -> Finding:
    """Who has the writers' lock."""
    try:
        lock = FairLock(directory)
    except OSError as exc:
        return Finding("writers' lock", "bad", f"its files cannot be opened for writing: {exc.strerror}")
    with closing(lock):
        free = lock.try_acquire()
        pid, held_s = lock.holder()
        if free:
            lock.release()
            return Finding("writers' lock", "ok", "free")
    detail = f"held by process {pid} for {held_s:.1f} s; a stopped process holds it until it goes on or dies"
    return Finding("writers' lock", "ok" if held_s < 1 else "warning", detail)


def _room(directory: Path) -> Finding:
    usage = shutil.disk_usage(directory)
    state: State = "ok"
    if usage.free < FREE_BYTES_WARN:
        state = "warning" if usage.free >= FREE_BYTES_BAD else "bad"
    way_out = "" if state == "ok" else "; free some: a full disk refuses every publish (nothing is lost)"
    return Finding("free room", state, f"{_told(usage.free)} of {_told(usage.total)}{way_out}")


def _told(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"  # noqa: PLR2004


def _sync(directory: Path, system: System) -> Finding:
    scratch = directory / "doctor.tmp"
    taken: list[float] = []
    try:
        for _ in range(SYNCS):
            started = system.clock.monotonic_s()
            write_synced(scratch, b"\0" * 4096)
            taken.append(system.clock.monotonic_s() - started)
    except OSError as exc:
        return Finding("sync", "bad", f"a file could not be written and synced there: {exc.strerror}")
    finally:
        with suppress(OSError):  # on a read-only file system not even that which is not there can be removed
            remove(scratch)
    middle = median(taken)
    if middle < SYNC_S_HONEST:
        detail = f"{middle * 1e6:.0f} us per sync: no disk is that fast; it may lie about power losses (D1)"
        return Finding("sync", "warning", detail)
    return Finding("sync", "ok", f"{middle * 1000:.2f} ms per sync of 4 KB (median of {SYNCS})")


def look_at_log(channel: EmbeddedChannel, directory: Path, system: System) -> Iterator[Finding]:
    """An open log: which one it is, how large, and what it promises. That it could be opened is its witness's word."""
    import apsw  # noqa: PLC0415 - kept from the start of commands that need no log

    identity = channel.port.identity
    detail = f"{identity.log}, incarnation {identity.incarnation}, format {identity.format_version}"
    yield Finding("identity", "ok", detail)
    yield Finding("witness", "ok", "the log holds every commit that its witness has seen")
    yield Finding("SQLite", "ok", apsw.sqlite_lib_version())
    yield _pragmas(channel)
    durable = channel.capabilities.durability
    if file_system(directory) in MEMORY_FILE_SYSTEMS:
        detail = "D1, whatever programs ask for: the directory is memory; move the log to a disk"
        yield Finding("durability", "warning", detail)
    else:
        detail = f'{durable} for programs with durability="full": acked survives a power loss'
        yield Finding("durability", "ok", detail)
    yield _ballast(directory)
    yield _write_ahead_log(directory)
    yield from _quiet(channel, now_us=system.clock.now_us())
    sizes = {name: _size(directory / name) for name in (DATABASE, f"{DATABASE}-wal", WITNESS)}
    yield Finding("files", "ok", ", ".join(f"{name} {count / 1e6:.1f} MB" for name, count in sizes.items()))


def _pragmas(channel: EmbeddedChannel) -> Finding:
    """What this log's connection really does, read back from it."""

    def look(db: apsw.Connection) -> dict[str, Any]:
        return {name: db.execute(f"PRAGMA {name}").fetchall()[0][0] for name in ("journal_mode", "synchronous")}

    found = channel.port.look(look)
    told = ", ".join(f"{name} {value}" for name, value in found.items())
    if found == {"journal_mode": "wal", "synchronous": 2}:
        return Finding("pragmas", "ok", f"{told}: every commit is synced")
    return Finding("pragmas", "bad", f"{told}; expected wal and 2: the log was changed by another program")


def _ballast(directory: Path) -> Finding:
    free, found = ballast.free_bytes(directory), ballast.held(directory)
    if found or not ballast.wanted(free):
        told = f"{found / 1e6:.1f} MB held for a full disk" if found else "none: so small a disk has no room for it"
        return Finding("ballast", "ok" if found else "warning", told)
    return Finding("ballast", "ok", "not there yet; a program that runs for a while makes it, or penstock log trim")


def _write_ahead_log(directory: Path) -> Finding:
    size = _size(directory / f"{DATABASE}-wal")
    if size <= WAL_BYTES_WARN:
        return Finding("write-ahead log", "ok", f"{size / 1e6:.1f} MB")
    detail = f"{size / 1e6:.0f} MB: a reader has kept it from being emptied; end long queries and stopped processes"
    return Finding("write-ahead log", "warning", detail)


def _upkeep(directory: Path) -> Finding:
    """Who looks after the log: trims, compacts, gives pages back."""
    with closing(FileLock(directory / UPKEEP)) as lock:
        try:
            free = not (directory / UPKEEP).exists() or lock.try_acquire()
        except OSError as exc:
            return Finding("upkeep", "bad", f"its lock cannot be opened for writing: {exc.strerror}")
    return Finding("upkeep", "ok", "nobody at it just now" if free else "a process is at it")


def durability_of(findings: Sequence[Finding]) -> tuple[str, str]:
    """The level that probes leave of D2, and why."""
    by_name = {finding.check: finding for finding in findings}
    for check in ("file system", "sync", "pragmas"):
        found = by_name.get(check)
        if found is not None and found.state != "ok":
            return "D1", found.detail
    told = [
        f"{name} {by_name[name].detail}" for name in ("file system", "sync", "SQLite", "pragmas") if name in by_name
    ]
    return "D2", "; ".join(told)


def _quiet(channel: EmbeddedChannel, *, now_us: int) -> Iterator[Finding]:
    """Groups that were not here for long: what becomes of what they have not settled."""
    for fact in group_facts(channel, now_us=now_us):
        if fact.state == "gone":
            what = "soon holds retention up no more" if fact.holds else "holds retention up no more"
            detail = f"{fact.name} has no member and has committed nothing for days, and {what}; run it, or let it go"
            yield Finding("group", "warning", detail)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def cannot_open(error: PenstockError) -> Finding:
    """The finding for a log that refused to open."""
    return Finding("log", "bad", str(error))
