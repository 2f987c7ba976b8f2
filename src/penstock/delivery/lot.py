"""The parking lot of one partition: keys that wait because an event of theirs failed, and what waits behind it.

A *head* is the event a key waits for: the one that failed, or after it was settled the next one of its followers.
*Followers* are later events of the key, in offset order; they are kept as offsets, their bytes lie in the log. A head
is due at some time, or *held*: it was given up under the policy *block* and waits for a redrive or a skip.

Pure: it decides and remembers, and says what has to be written into the ledger for that to be permanent. Heads lie in
pages of the ledger (many fail and recover together, and one write then serves them all), followers in one page per
step. A follower's page is not rewritten: followers at or below their key's head are settled, and a page goes when all
of its are.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from typing import Any, Literal, cast, get_args

import msgspec

from penstock.errors import ConfigError, TransientError

SPACE = "parked"
PAGE_HEADS_MAX = 256
KEY_BYTES_SHOWN = 64
TRIES_KEPT = 20
GRAIN_S = 0.01
"""Pauses end at multiples of it: what is due by then is handled, and made permanent, together."""
REASON_MAX = 300
_HEADS, _FOLLOWERS = b"h", b"f"
_APART = b"r"

Write = tuple[bytes, bytes | None]
"""One entry of the ledger in `SPACE`: key and value, None to remove it."""


Order = Literal["key", "partition"]
GivenUp = Literal["continue", "block"]


def _is_exception_type(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseException)


class OnFailure(msgspec.Struct, frozen=True):
    """What waits while an event is retried, and what becomes of its key when it is given up.

    Past the bounds the partition pauses, says so, and loses nothing.

    Attributes:
        given_up: what becomes of the key of an event that goes to the dead letters after its last attempt:
            ``continue``, it goes on, or ``block``, it waits until the letter is redriven or skipped.
        order: what waits while an event is retried: ``key``, the later events of its key, or ``partition``, all of it.
        keys_max: keys that wait.
        events_max: events that wait behind them.
        breaker: when so many different keys fail in a row with a transient error, it is the target that fails and not
            the events: the partition pauses and tries one event now and then, uncharged, until one succeeds.
        transient: exception types that count as transient, beside `TransientError` and `OSError` (which every
            connection error and timeout of the standard library is).
    """

    given_up: GivenUp = "continue"
    order: Order = "key"
    keys_max: int = 1_000
    events_max: int = 1_000_000
    breaker: int = 20
    transient: tuple[type[BaseException], ...] = ()

    def __post_init__(self) -> None:
        """Refuse what cannot be meant.

        Raises:
            ConfigError: naming the field.
        """
        for name in ("keys_max", "events_max", "breaker"):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < 1:
                raise ConfigError(f"{getattr(self, name)!r}; expected at least 1", path=f"on_failure.{name}")
        kinds: Any = self.transient
        if not isinstance(kinds, tuple | list) or not all(
            _is_exception_type(kind) for kind in cast("list[Any]", kinds)
        ):
            msg = f"{kinds!r}; expected types of exceptions, such as (ServerDown,)"
            raise ConfigError(msg, path="on_failure.transient")
        for name, known in (("given_up", get_args(GivenUp)), ("order", get_args(Order))):
            if getattr(self, name) not in known:
                msg = f"{getattr(self, name)!r}; expected {' or '.join(map(repr, known))}"
                raise ConfigError(msg, path=f"on_failure.{name}")

    def is_transient(self, error: BaseException) -> bool:
        """Whether the error tells of a target rather than of the event."""
        return isinstance(error, (TransientError, OSError, *self.transient))


class Try(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A failed attempt: when (microseconds since 1970, UTC), and with what."""

    at_us: int
    error: str
    reason: str


class Head(msgspec.Struct, array_like=True, gc=False):
    """The event a key waits for. `attempts` of it have failed; `due_us` is by the wall clock, for who comes after.

    `waited_s` is the sum of its pauses: how long ago it failed first, whatever the wall clock did meanwhile.

    `body` is what to handle instead of what lies in the log: a redriven event. `letter` is the dead letter it comes
    from, -1 when it is none; `again` counts how often the event was redriven. `transient`: its last failure was.
    `row`: so many keys had failed in a row by then.
    """

    ident: bytes
    key: bytes | None
    offset: int
    attempts: int = 0
    waited_s: float = 0.0
    due_us: int = 0
    pause_s: float = 0.0
    held: bool = False
    tries: tuple[Try, ...] = ()
    body: bytes | None = None
    letter: int = -1
    again: int = 0
    id: str = ""
    transient: bool = False
    row: int = 0

    @property
    def apart(self) -> bool:
        """Whether it is a redriven event for which nobody waits: its key has gone on without it."""
        return self.ident[:1] == _APART


_encode = msgspec.msgpack.Encoder().encode
_heads = msgspec.msgpack.Decoder(list[Head]).decode
_followers = msgspec.msgpack.Decoder(list[tuple[bytes, list[int]]]).decode


class Now(msgspec.Struct, frozen=True):
    """The two clocks at one moment: the wall clock is only written down, what waits, waits by the other."""

    us: int
    s: float


def ident_apart(letter: int) -> bytes:
    """What a redriven event is told by whose key has gone on without it."""
    return _APART + letter.to_bytes(8)


def ident_of(key: bytes | None, offset: int) -> bytes:
    """What a key is told by in the lot; an event without a key has nobody behind it."""
    if key is None:
        return b"o" + offset.to_bytes(8)
    return b"k" + key if len(key) <= KEY_BYTES_SHOWN else b"d" + blake2b(key, digest_size=16).digest()


class Lot:
    """See the module. Not thread-safe; owned by the partition's owner."""

    def __init__(self) -> None:
        self.heads: dict[bytes, Head] = {}
        self.events = 0
        """Followers of all keys."""
        self._followers: dict[bytes, deque[int]] = {}
        self._due: list[tuple[float, int, bytes]] = []
        self._due_s: dict[bytes, float] = {}
        self._page_of: dict[bytes, int] = {}
        self._pages: dict[int, set[bytes]] = {}
        self._dirty: set[int] = set()
        self._page = 0
        self._new: dict[bytes, list[int]] = {}
        self._follower_pages: dict[int, set[bytes]] = {}
        self._pages_behind: dict[bytes, deque[tuple[int, int]]] = {}  # page, and the last of the key's offsets there
        self._gone: set[int] = set()
        self._follower_page = 0

    @classmethod
    def restore(cls, entries: Iterable[tuple[bytes, bytes]], now: Now) -> Lot:
        """The lot as its ledger entries say. A pause that has begun goes on, and is never longer than it was."""
        lot = cls()
        rows = sorted(entries)
        for key, value in rows:
            if key[:1] == _HEADS:
                lot._restore_heads(int.from_bytes(key[1:]), _heads(value), now)
        for key, value in rows:
            if key[:1] == _FOLLOWERS:
                lot._restore_followers(int.from_bytes(key[1:]), _followers(value))
        return lot

    def _restore_heads(self, page: int, heads: list[Head], now: Now) -> None:
        self._page = max(self._page, page + 1)
        self._pages[page] = {head.ident for head in heads}
        for head in heads:
            self.heads[head.ident] = head
            self._page_of[head.ident] = page
            left_s = min(max(0.0, (head.due_us - now.us) / 1e6), head.pause_s)
            self._wait(head, now.s + left_s)

    def _restore_followers(self, page: int, followers: list[tuple[bytes, list[int]]]) -> None:
        self._follower_page = max(self._follower_page, page + 1)
        idents: set[bytes] = set()
        for ident, offsets in followers:
            head = self.heads.get(ident)
            waiting = [] if head is None else [offset for offset in offsets if offset > head.offset]
            if waiting:
                self._followers.setdefault(ident, deque()).extend(waiting)
                self._pages_behind.setdefault(ident, deque()).append((page, waiting[-1]))
                self.events += len(waiting)
                idents.add(ident)
        self._follower_pages[page] = idents
        if not idents:
            self._gone.add(page)

    # -- what changes ----------------------------------------------------------------------------------------------

    def park(self, head: Head, pause_s: float | None, now: Now) -> None:
        """The key waits from now on; with `pause_s` None until somebody redrives or skips the event."""
        assert head.ident not in self.heads
        self.heads[head.ident] = head
        if len(self._pages.get(self._page, ())) >= PAGE_HEADS_MAX:
            self._page += 1
        self._page_of[head.ident] = self._page
        self._pages.setdefault(self._page, set()).add(head.ident)
        if head.body is not None:  # a page is written as a whole
            self._page += 1
        self.postpone(head, pause_s, now)

    def postpone(self, head: Head, pause_s: float | None, now: Now) -> None:
        """The head waits (on): so long, or with None until it is redriven or skipped."""
        head.held = pause_s is None
        head.pause_s = pause_s or 0.0
        head.waited_s += head.pause_s
        head.due_us = now.us + int(head.pause_s * 1e6)
        self._dirty.add(self._page_of[head.ident])
        self._wait(head, now.s + head.pause_s)

    def lend(self, head: Head) -> None:
        """The head is being handled: it is not due until it is settled or postponed."""
        self._due_s.pop(head.ident, None)

    def lent(self, head: Head) -> bool:
        """Whether the head is being handled."""
        return not head.held and head.ident not in self._due_s

    def _wait(self, head: Head, due_s: float) -> None:
        if head.held:
            self._due_s.pop(head.ident, None)
            return
        due_s = math.ceil(due_s / GRAIN_S) * GRAIN_S if head.pause_s else due_s
        self._due_s[head.ident] = due_s
        heapq.heappush(self._due, (due_s, head.offset, head.ident))

    def follow(self, ident: bytes, offsets: Sequence[int]) -> None:
        """Events of a key that waits, in order: they wait behind it."""
        self._followers.setdefault(ident, deque()).extend(offsets)
        self._new.setdefault(ident, []).extend(offsets)
        self.events += len(offsets)

    def settle(self, ident: bytes, now: Now, *, through: int | None = None) -> int:
        """The head is settled: the next follower is the head, and due; or the key waits no more.

        Args:
            ident: whose head.
            now: when.
            through: the followers up to this offset are settled with it.

        Returns:
            How many events were settled.
        """
        head = self.heads[ident]
        self._dirty.add(self._page_of[ident])
        followers = self._followers.get(ident)
        count = 1
        while followers and through is not None and followers[0] <= through:
            followers.popleft()
            count += 1
        self.events -= count - 1
        if followers:
            self.heads[ident] = following = Head(ident, head.key, followers.popleft())
            self.events -= 1
            self.postpone(following, 0.0, now)
            self._leave_pages(ident, following.offset)
            return count
        del self.heads[ident]
        self._due_s.pop(ident, None)
        self._pages[self._page_of.pop(ident)].discard(ident)
        self._followers.pop(ident, None)
        self._new.pop(ident, None)
        self._leave_pages(ident, None)
        return count

    def _leave_pages(self, ident: bytes, head: int | None) -> None:
        """The key needs no page of which all its followers lie at or below its head (None: it needs none)."""
        pages = self._pages_behind.get(ident)
        while pages and (head is None or pages[0][1] <= head):
            page, _ = pages.popleft()
            self._follower_pages[page].discard(ident)
            if not self._follower_pages[page]:
                self._gone.add(page)
        if not pages:
            self._pages_behind.pop(ident, None)

    # -- what it says ----------------------------------------------------------------------------------------------

    @property
    def oldest(self) -> int | None:
        """The lowest offset that somebody will still read from the log; None when there is none."""
        needed = (
            self._followers[ident][0] if head.body is not None or head.held else head.offset
            for ident, head in self.heads.items()
            if (head.body is None and not head.held) or self._followers.get(ident)
        )
        return min(needed, default=None)

    def next_due_s(self) -> float | None:
        """When (monotonic) the next head is due; None when none ever is by itself."""
        while self._due:
            due_s, _, ident = self._due[0]
            if self._due_s.get(ident) == due_s:
                return due_s
            heapq.heappop(self._due)
        return None

    def due(self, now_s: float) -> Iterator[Head]:
        """Heads that are due, the earliest first; each must be settled or postponed before the next is asked for."""
        while (due_s := self.next_due_s()) is not None and due_s <= now_s:
            yield self.heads[self._due[0][2]]

    def holding(self, offset: int) -> Head | None:
        """The head that is this event."""
        return next((head for head in self.heads.values() if head.offset == offset), None)

    def waits(self, offset: int) -> bool:
        """Whether the event is a head, or waits behind one."""
        return self.holding(offset) is not None or any(offset in behind for behind in self._followers.values())

    def below(self, offset: int) -> int:
        """How many events before `offset` wait that nothing else tells of: those given up have a dead letter."""
        heads = sum(head.offset < offset for head in self.heads.values() if head.letter < 0 and not head.held)
        return heads + sum(one < offset for behind in self._followers.values() for one in behind)

    def followers(self, ident: bytes) -> Sequence[int]:
        """Offsets of the events that wait behind the key's head, in order."""
        return self._followers.get(ident, ())

    def full(self, policy: OnFailure) -> str:
        """Why no more can be parked; empty when there is room."""
        if len(self.heads) >= policy.keys_max:
            return f"{len(self.heads)} keys wait, on_failure.keys_max is {policy.keys_max}"
        if self.events >= policy.events_max:
            return f"{self.events} events wait behind failed ones, on_failure.events_max is {policy.events_max}"
        return ""

    @property
    def dirty(self) -> bool:
        """Whether the ledger has to be told something."""
        return bool(self._dirty or self._new or self._gone)

    def writes(self) -> list[Write]:
        """What the ledger has to be told since this was asked last."""
        out: list[Write] = []
        for page in sorted(self._dirty):
            members = [self.heads[ident] for ident in sorted(self._pages[page])]
            out.append((_HEADS + page.to_bytes(8), _encode(members) if members else None))
            if not members:
                del self._pages[page]
        if self._dirty:
            self._page += 1  # heads that are parked from now on will be due at another time
        for page in sorted(self._gone):
            out.append((_FOLLOWERS + page.to_bytes(8), None))
            del self._follower_pages[page]
        if self._new:
            page, self._follower_page = self._follower_page, self._follower_page + 1
            out.append((_FOLLOWERS + page.to_bytes(8), _encode(sorted(self._new.items()))))
            self._follower_pages[page] = set(self._new)
            for ident, offsets in self._new.items():
                self._pages_behind.setdefault(ident, deque()).append((page, offsets[-1]))
        self._dirty.clear()
        self._gone.clear()
        self._new.clear()
        return out


def heads_of(entries: Iterable[tuple[bytes, bytes]]) -> list[tuple[Head, int]]:
    """For people: every head of a ledger's entries, and how many events wait behind it."""
    lot = Lot.restore(entries, Now(0, 0.0))
    return [(head, len(lot.followers(ident))) for ident, head in sorted(lot.heads.items())]


__all__ = ["SPACE", "Head", "Lot", "Now", "OnFailure", "Try", "Write", "heads_of", "ident_apart", "ident_of"]
