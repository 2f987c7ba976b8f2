"""Marks of one partition: which tokens a group has handled there, each settled in one step with its event's effect.

Pure: it decides and remembers, and says what the ledger has to be told. A mark is *held* while its event is in hand,
and *kept* from the step that settles the event; whatever is not settled lets its marks go.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Sequence, Set
from hashlib import blake2b

SPACE = "once"
"""Ledger: a token's digest → the offset (8 bytes, big-endian) from which its horizon counts."""
ONCE_EVENTS = 100_000
"""A mark is remembered for so many offsets behind the floor."""
TOKENS_MAX = 100
"""Of one event."""
GONE_MAX = 1_000
"""So many marks more than a step adds may be removed in it."""
DIGEST_BYTES = 16

Mark = tuple[int, bytes]
"""An offset and a token's digest."""


def digest_of(token: str | bytes) -> bytes:
    """What a token is told by; text stands for its bytes in UTF-8.

    Raises:
        TypeError, ValueError: it is no token; the message says what would be one.
    """
    if not isinstance(token, str | bytes):  # pyright: ignore[reportUnnecessaryIsInstance]
        msg = f"ctx.once({token!r:.80}): a token is str or bytes; pass text, such as ctx.once(f'mail/{{order.id}}')"
        raise TypeError(msg)
    if not token:
        msg = "ctx.once with an empty token; pass what tells this effect from others, such as ctx.once(order.id)"
        raise ValueError(msg)
    raw = token.encode(errors="surrogatepass") if isinstance(token, str) else token
    return blake2b(raw, digest_size=DIGEST_BYTES).digest()


class Marks:
    """See the module. Owned by the partition's owner; not thread-safe."""

    def __init__(self, floor: int = 0, entries: Iterable[tuple[bytes, bytes]] = ()) -> None:
        self.floor = floor
        self._kept = {key: int.from_bytes(value) for key, value in entries}
        self._oldest = [(at, key) for key, at in self._kept.items()]
        heapq.heapify(self._oldest)
        self._held: dict[bytes, int] = {}
        self._begun: dict[int, list[bytes]] = {}
        self._aside: Set[int] = frozenset()
        self._rejected: Sequence[tuple[int, object]] = ()
        self._looked = 0

    def take(self, token: str | bytes, offset: int) -> bool:
        """Whether the event at `offset` is the first with this token; then it holds the token.

        Raises:
            TypeError, ValueError: it is no token, or the event has too many of them.
        """
        key = digest_of(token)
        if key in self._held:
            self._let_rejected_go()
            if key in self._held:
                return False
        at = self._kept.get(key)
        if at is not None and at >= max(offset, self.floor) - ONCE_EVENTS:
            return False
        keys = self._begun.setdefault(offset, [])
        if len(keys) >= TOKENS_MAX:
            msg = f"ctx.once with more than {TOKENS_MAX} tokens for one event; make one token of what belongs together"
            raise ValueError(msg)
        keys.append(key)
        self._held[key] = offset
        return True

    # -- events that are handled one after the other ---------------------------------------------------------------

    def begin(self, rejected: Sequence[tuple[int, object]]) -> None:
        """A run of calls begins; `rejected` will have the offsets of the events that are refused in it."""
        self._rejected, self._looked = rejected, 0
        self._aside = frozenset(self._begun)

    def land(self, settled: Callable[[int], bool]) -> list[Mark]:
        """The run has ended: the marks of its events that are settled are kept, all others are let go."""
        if not self._begun:
            return []
        self._let_rejected_go()
        out: list[Mark] = []
        for offset in [offset for offset in self._begun if offset not in self._aside]:
            if settled(offset):
                out += self.settle(offset)
            else:
                self.drop(offset)
        return out

    def _let_rejected_go(self) -> None:
        """The run goes on behind a rejected event: those that come later may take its tokens."""
        for offset, _ in self._rejected[self._looked :]:
            self.drop(offset)
        self._looked = len(self._rejected)

    # -- one event -------------------------------------------------------------------------------------------------

    def settle(self, offset: int) -> list[Mark]:
        """The event's effect is part of the next step: its marks are kept, and are to be part of it too.

        The horizon of a parked event's mark counts from the floor that has passed the event meanwhile.
        """
        keys = self._begun.pop(offset, None)
        if keys is None:
            return []
        at = max(offset, self.floor)
        for key in keys:
            del self._held[key]
            self._kept[key] = at
            heapq.heappush(self._oldest, (at, key))
        return [(offset, key) for key in keys]

    def drop(self, offset: int) -> None:
        """The event is not settled, or not with its effect: whoever comes next may take its tokens."""
        for key in self._begun.pop(offset, ()):
            del self._held[key]

    # -- what it says ----------------------------------------------------------------------------------------------

    def writes(self, marks: Sequence[Mark], refused: Iterable[int]) -> list[tuple[bytes, bytes | None]]:
        """What the ledger has to be told in a step with these marks.

        Args:
            marks: as `settle` and `land` gave them.
            refused: offsets of events that became dead letters after all, for their results cannot be published.
        """
        out: list[tuple[bytes, bytes | None]] = []
        unsettled = set(refused)
        for offset, key in marks:
            at = self._kept.pop(key, None) if offset in unsettled else self._kept.get(key)
            out.append((key, None if at is None or offset in unsettled else at.to_bytes(8)))
        horizon, oldest, gone = self.floor - ONCE_EVENTS, self._oldest, GONE_MAX + len(marks)
        while gone and oldest and oldest[0][0] < horizon:
            at, key = heapq.heappop(oldest)
            gone -= 1
            if self._kept.get(key) == at:
                del self._kept[key]
                out.append((key, None))
        return out


__all__ = ["DIGEST_BYTES", "GONE_MAX", "ONCE_EVENTS", "SPACE", "TOKENS_MAX", "Mark", "Marks", "digest_of"]
