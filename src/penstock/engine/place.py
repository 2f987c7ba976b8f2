"""One partition as a handler owns it: what is parked there, what died, which commands were taken."""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Sequence
from itertools import islice, takewhile
from typing import Any

from penstock.channel.api import Assigned, LedgerWrite
from penstock.channel.typed import TypedTopic
from penstock.delivery import lot as lots
from penstock.delivery import once
from penstock.delivery.lot import Head, Lot, Now, OnFailure
from penstock.delivery.once import Marks
from penstock.delivery.redrive import LETTERS_SPACE, POSITION_SPACE, Command
from penstock.delivery.retry import Retry
from penstock.engine.again import Line
from penstock.engine.commands import Commands
from penstock.engine.parts import Part, Picker, in_its_envelope, redriven
from penstock.engine.work import Read
from penstock.errors import CorruptionError, OffsetOutOfRange
from penstock.event.batch import Delivered

ATTEMPTS = "attempts"
SPACES = (ATTEMPTS, lots.SPACE, POSITION_SPACE, LETTERS_SPACE, once.SPACE)
"""What a handler keeps in its ledger."""
KEPT_BYTES_MAX = 32_000_000
"""Of parts in which events wait."""
READ_EVENTS = 1_000
"""How many are read where one is wanted that is not in memory: the next one is likely to be near."""
READ_BYTES_MAX = 32_000_000
"""Of batches that are read from the log for one run of calls."""
ASKED_MAX = 100_000


class Place:
    """See the module. Everything here is forgotten with the assignment; the ledger has it."""

    def __init__(self, assigned: Assigned, policy: OnFailure, commands: Commands, now: Now) -> None:
        self.owned = assigned.owned
        self.partition = assigned.owned.partition
        self.policy = policy
        self.aside: Sequence[Delivered] = ()
        """What was delivered and not taken on, for the partition is paused."""
        self.was_paused = False
        """Whether it was paused when the engine last asked."""
        self.deaths: dict[int, int] = {}
        """By offset: how often the process died while it was handled; such an event runs alone."""
        self.charged: dict[int, bytes] = {}
        """By offset: the slot's mark when the last of its deaths was charged."""
        self.commands = commands
        self.open = False
        """The breaker: the target fails, not the events."""
        self.doubted = False
        """Whether it may fail: that is known at the next event."""
        self.named: dict[Any, bytes] = {}
        """Keys that wait, as events hold them, by what they are told by in the lot."""
        self._unnamed: set[bytes] = set()
        self._asked: set[Any] = set()
        self._keys: dict[bytes, Any] = {}
        self._row = self._probes = 0
        self._probe_s = float("-inf")
        self._kept: dict[int, Picker] = {}
        self._firsts: list[int] = []
        self._bytes = 0
        self._read: Sequence[Delivered] = ()
        self._picker: Picker | None = None
        self._passed = range(0)  # offsets that are quarantined, of those that were asked for last
        parked: list[tuple[bytes, bytes]] = []
        marked: list[tuple[bytes, bytes]] = []
        for space, key, value in assigned.ledger:
            if space == ATTEMPTS:
                offset = int.from_bytes(key)
                self.deaths[offset], self.charged[offset] = int.from_bytes(value[:4]), value[4:]
            elif space == lots.SPACE:
                parked.append((key, value))
            elif space == once.SPACE:
                marked.append((key, value))
        self.marks = Marks(assigned.floor, marked)
        self.lot = Lot.restore(parked, now)
        # An owner before this one may have met a target that fails: that is known again at the first event.
        failing = [head.row for head in self.lot.heads.values() if head.transient and not head.held]
        self._row = max(len(failing), *failing, 0)
        self.open = self._row >= policy.breaker
        self._unnamed.update(ident for ident in self.lot.heads if ident[:1] in b"kd")

    # -- who waits -------------------------------------------------------------------------------------------------

    def hold(self, part: Part, since: int | None = None) -> None:
        """Tell a part which of its events, from offset `since` on, wait behind parked ones."""
        if not self.lot.heads:
            part.hold({}, since)
            return
        self._unnamed &= self.lot.heads.keys()
        if self._unnamed:  # parked by an owner before this one: nobody has seen their keys yet
            self._name(part)
        part.hold(self.named, since)

    def _name(self, part: Part) -> None:
        fresh = set(part.keys) - self._asked
        for key in fresh:
            ident = part.ident(part.first + part.keys.index(key))
            if key is not None and ident in self._unnamed:
                self._name_key(key, ident)
                self._unnamed.discard(ident)
        self._asked = self._asked | fresh if len(self._asked) < ASKED_MAX else set()

    def _name_key(self, key: Any, ident: bytes) -> None:
        self.named[key], self._keys[ident] = ident, key

    def settle(self, head: Head, now: Now, *, through: int | None = None) -> int:
        """The head is settled, and what waits behind it up to `through`: its key waits for the next event, or no more.

        Returns how many events were settled.
        """
        count = self.lot.settle(head.ident, now, through=through)
        if head.ident not in self.lot.heads and head.ident in self._keys:
            del self.named[self._keys.pop(head.ident)]
        return count

    def follow(self, part: Part, start: int, end: int) -> None:
        """The events of [start, end) that wait are parked behind their keys."""
        behind: dict[bytes, list[int]] = {}
        keys, first, named = part.keys, part.first, self.named
        for offset in part.waiting(start, end):
            behind.setdefault(named[keys[offset - first]], []).append(offset)
        for ident, offsets in behind.items():
            self.lot.follow(ident, offsets)
        if not all(self.lot.heads[ident].held for ident in behind):
            self.keep(part)

    def park(self, part: Part, offset: int, head: Head, pause_s: float | None, now: Now) -> None:
        """The event's key waits: so long, or with None until a person says more."""
        self.lot.park(head, pause_s, now)
        key = part.keys[offset - part.first]
        if key is not None:
            self._name_key(key, head.ident)
            part.hold_behind(offset)
        if not head.held:
            self.keep(part)

    def new_head(self, part: Part, offset: int) -> Head:
        """The event as the head of its key, before it is parked."""
        key = part.key(offset)
        return Head(lots.ident_of(key, offset), key if key is None else key[: lots.KEY_BYTES_SHOWN], offset)

    def release(self, now: Now) -> None:
        """Under the policy *continue* no key waits for people: what was held under another one goes on, in order."""
        for head in [head for head in self.lot.heads.values() if head.held]:
            self.settle(head, now)

    # -- events again ----------------------------------------------------------------------------------------------

    def keep(self, part: Part) -> None:
        """Keep a part's bytes: some of its events wait, and will be wanted soon.

        Not as objects: those of the next parts would be made in fresh memory instead of the processor's cache.
        """
        if part.first not in self._kept:
            self._kept[part.first] = part.picker
            self._bytes += part.picker.size
            while self._bytes > KEPT_BYTES_MAX and len(self._kept) > 1:
                gone = next(iter(self._kept))
                self._bytes -= self._kept.pop(gone).size
                self._firsts.remove(gone)
            insort(self._firsts, part.first)

    async def fetch(self, head: Head, topic: TypedTopic[Any], read: Read) -> Part | None:
        """A part that holds the event, decoded anew: a handler may have changed what it was given before.

        None: it is quarantined, and passed over.
        """
        offset = head.offset
        if head.body is None:
            picker = await self.picker(offset, topic, read)
            return None if picker is None else Part(picker.one(offset), topic)
        event = redriven(topic.name, self.partition, offset=offset, body=head.body, key=head.key, identity=head.id)
        try:
            picker = await self.picker(offset, topic, read)
        except (OffsetOutOfRange, CorruptionError):  # it has gone; the letter is still there
            picker = None
        return Part(event if picker is None else in_its_envelope(event, picker.one(offset), topic), topic)

    def line_of(self, head: Head, room: int) -> Line:
        """The head and what waits behind it: at most `room` events, up to one that killed the process.

        Behind a head that has failed, and may again, only what is likely to be in memory.
        """
        offsets, followers = [head.offset], self.lot.followers(head.ident)
        if followers and not (head.attempts and self._kept_at(followers[0]) is None):
            offsets += islice(followers, max(0, room - 1))
            if self.deaths:
                offsets = list(takewhile(lambda offset: offset not in self.deaths, offsets))
        return Line(head, offsets)

    async def pickers(
        self, lines: Sequence[Line], topic: TypedTopic[Any], read: Read
    ) -> tuple[dict[int, Picker], int, int | None]:
        """For each event of these lines, in offset order, a batch that holds it, as far as there is room.

        Returns them, how many bytes were read for that, and from which offset on there are none. What is quarantined
        has none either.
        """
        found: dict[int, Picker] = {}
        picker, end, size = None, 0, 0
        for offset in sorted(offset for line in lines for offset in line.offsets):
            if picker is None or offset >= end:
                if size >= READ_BYTES_MAX:
                    return found, size, offset
                kept = self._kept_at(offset)
                picker = kept or await self.picker(offset, topic, read)
                if picker is None:
                    continue
                end = picker.delivered.end
                size += picker.size if kept is None else 0
            found[offset] = picker
        return found, size, None

    async def picker(self, offset: int, topic: TypedTopic[Any], read: Read) -> Picker | None:
        """A batch that holds the event of this offset; None where it is quarantined, for nothing else is left out."""
        kept = self._kept_at(offset)
        if kept is not None or offset in self._passed:
            return kept
        batch = self._read_at(offset)
        if batch is None:
            self._read = found = await read(topic.name, self.partition, offset, events_max=READ_EVENTS)
            batch = self._read_at(offset)
            if batch is None:
                self._passed = range(offset, found[0].first if found else offset + 1)
                return None
        if self._picker is None or self._picker.delivered is not batch:
            self._picker = Picker(batch)
        return self._picker

    def let_go(self) -> None:
        """What was read for those that were due is not wanted any more, for the others wait for people, if any do."""
        if self.lot.next_due_s() is None and not self.has_commands():
            self._read, self._picker = (), None

    def _read_at(self, offset: int) -> Delivered | None:
        at = bisect_right(self._read, offset, key=lambda batch: batch.first) - 1
        return self._read[at] if at >= 0 and offset < self._read[at].end else None

    def _kept_at(self, offset: int) -> Picker | None:
        at = bisect_right(self._firsts, offset) - 1
        picker = self._kept[self._firsts[at]] if at >= 0 else None
        return None if picker is None or offset >= picker.delivered.end else picker

    # -- the breaker -----------------------------------------------------------------------------------------------

    def failed(self, head: Head) -> None:
        """One more key has failed, and none succeeded since the last one; its head tells the next owner."""
        if head.transient:
            self._row += 1
            if self._row >= self.policy.breaker:
                self.open, self.doubted = True, False
        else:
            self.succeeded()
        head.row = self._row

    def succeeded(self) -> None:
        """An event was handled, or failed by itself: the target works."""
        self._row = self._probes = 0
        self.open = self.doubted = False

    def doubt(self) -> None:
        """An open breaker lets the next event try the target: it may be that nobody waits for it any more.

        One more failure says that it still fails.
        """
        if not self.open:
            return
        self._row = self.policy.breaker - 1
        self.open, self.doubted = False, True

    def probed(self, policy: Retry, now: Now) -> float:
        """The breaker let one event through, and it failed: so many seconds until the next one is tried."""
        self._probes += 1
        pause_s = policy.backoff_s(self._probes)
        self._probe_s = now.s + pause_s
        return pause_s

    def next_due_s(self) -> float | None:
        """When (monotonic) the next parked event is due; None when none ever is by itself."""
        due_s = self.lot.next_due_s()
        return max(due_s, self._probe_s) if due_s is not None and self.open else due_s

    def with_aside(self, batches: Sequence[Delivered]) -> Sequence[Delivered]:
        """These batches behind what was put aside, which is not any more."""
        aside, self.aside = self.aside, ()
        return [*aside, *batches]

    def put_aside(self, batches: Sequence[Delivered]) -> None:
        """Take these on when the partition is not paused any more."""
        self.aside = batches

    def paused(self) -> str:
        """Why nothing more is taken on; empty when it is."""
        if self.policy.order == "partition":
            head = next((head for head in self.lot.heads.values() if not head.held), None)
            if head is not None:
                return (
                    f"partition {self.partition}: offset {head.offset} is tried again (on_failure.order is partition)"
                )
        if self.open:
            head = min(self.lot.heads.values(), key=lambda head: head.offset, default=None)
            last = "" if head is None or not head.tries else f": {head.tries[-1].error} {head.tries[-1].reason}"
            return f"partition {self.partition}: the target fails ({self._row} keys in a row{last})"
        full = self.lot.full(self.policy)
        return f"partition {self.partition}: {full}; redrive or skip what was given up, or raise it" if full else ""

    # -- the ledger ------------------------------------------------------------------------------------------------

    def writes(self) -> list[LedgerWrite]:
        """What is parked, as far as the ledger does not have it yet."""
        return [LedgerWrite(lots.SPACE, key, value) for key, value in self.lot.writes()]

    def charge(self, offset: int, mark: bytes) -> LedgerWrite:
        """The process died while this event was handled."""
        self.deaths[offset] = count = self.deaths.get(offset, 0) + 1
        self.charged[offset] = mark
        return LedgerWrite(ATTEMPTS, offset.to_bytes(8), count.to_bytes(4) + mark)

    def forgive(self, offset: int) -> list[LedgerWrite]:
        """The event is settled, or its deaths are counted in the lot: they are over."""
        if self.deaths.pop(offset, None) is None:
            return []
        self.charged.pop(offset, None)
        return [LedgerWrite(ATTEMPTS, offset.to_bytes(8), None)]

    def has_room(self, command: Command) -> bool:
        """Whether the command can be taken now: one that is about a key that waits, or parks nothing, always can.

        When all that fills the lot waits for people, room comes by the commands behind this one: it is taken as well.
        """
        if command.action == "skip":  # of a letter that is handled again just now, what comes of it is waited for
            asked = self._asked_for(command)
            return asked is None or not self.lot.lent(asked)
        if not self.lot.full(self.policy):
            return True
        return self.lot.holding(command.offset) is not None or self.lot.next_due_s() is None

    def has_commands(self) -> bool:
        """Whether there is something to do about commands now: to take one, or to look for more."""
        left = self.commands.left
        return self.has_room(left[0]) if left and left[0] is not None else bool(left) or self.commands.more

    def take(self, command: Command, now: Now) -> list[LedgerWrite]:
        """Do what a command says, once: a letter that was dealt with stays as it is, one in hand can be skipped."""
        asked = self._asked_for(command)
        if asked is not None and command.action == "skip":
            self.doubt()  # it may be all that tried the target
            self.settle(asked, now)
            return [*self.forgive(asked.offset), self.commands.resolve(command.letter, b"skipped")]
        head = self.lot.holding(command.offset)
        holds = head is not None and head.held
        if command.letter in self.commands.letters or any(h.letter == command.letter for h in self.lot.heads.values()):
            return []
        if command.action == "skip":
            if head is not None and holds:
                self.settle(head, now)
            return [self.commands.resolve(command.letter, b"skipped")]
        if head is None or not holds:
            head = Head(lots.ident_apart(command.letter), command.key, command.offset)
            self._redriven(head, command)
            self.lot.park(head, 0.0, now)
        else:
            self._redriven(head, command)
            self.lot.postpone(head, 0.0, now)
        return []

    def _asked_for(self, command: Command) -> Head | None:
        """The head that is the command's letter: it was asked to be handled again, and waits for that."""
        return next((head for head in self.lot.heads.values() if head.letter == command.letter), None)

    @staticmethod
    def _redriven(head: Head, command: Command) -> None:
        head.body, head.key, head.id = command.body, command.key, command.id
        head.letter, head.again = command.letter, command.again
        head.attempts, head.waited_s, head.tries, head.transient, head.row = 0, 0.0, (), False, 0


__all__ = ["ATTEMPTS", "SPACES", "Place"]
