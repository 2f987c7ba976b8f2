"""The channel contract: where events wait, who owns a partition, and how a step becomes permanent.

A driver implements `Channel` and `Intake`, five methods each, and states its powers in `Capabilities`; the
published suite `penstock.testing.conformance.channel` tests both what it has and that what it lacks is refused.

Words: a *partition* is the unit of order and ownership; its owner holds an *epoch*, which every commit carries and
the channel checks inside the commit. A *step* is the unit of progress: what is settled, what is written, what is
remembered, as one value. Progress is a *floor* (everything below is settled) plus a bounded set of *holes* above it
that are settled too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

import msgspec

from penstock.channel.bounds import Horizon, Retention
from penstock.errors import CorruptionError
from penstock.event.batch import Delivered, NewBatch
from penstock.log import decide

HOLES_MAX = decide.HOLES_MAX
NOTE_BYTES_MAX = 192 * 1024
PARTITIONS_DEFAULT = 4
PARTITIONS_MAX = 4096
EVENT_BYTES_MAX_DEFAULT = 1_000_000
TOGETHER_BYTES_MAX = 256 * 1024 * 1024
"""What one publish or one step may write, uncompressed."""


class Capabilities(msgspec.Struct, frozen=True):
    """What a channel promises, as data.

    order: within a key, within a partition, or none. replayable: old events can be read again from any offset.
    step: `atomic` when outputs, ledger and progress change together, `ordered` when outputs, then ledger, then ack.
    holds: what can be held back while the rest goes on. ledger: kept by the channel or by an external store.
    idempotent_publish: a (producer, epoch, sequence) published twice is stored once and answered alike.
    durability: D0 memory, D1 survives the process, D2 survives a power loss of one disk, D3 replicated.
    remembers_producers: has `Producers`. blocking: has `Blocking`. columnar: has `Columnar`. deduplicates: topics may
    declare `TopicSpec.dedupe`. Without the power the method is missing or raises `Unsupported`.
    """

    order: Literal["key", "partition", "none"]
    replayable: bool
    holds: Literal["none", "event", "key"]
    counts_deliveries: bool
    step: Literal["atomic", "ordered"]
    exclusive_partitions: bool
    ledger: Literal["channel", "external"]
    idempotent_publish: bool
    fenced: bool
    durability: Literal["D0", "D1", "D2", "D3"]
    remembers_producers: bool = False
    blocking: bool = False
    columnar: bool = False
    deduplicates: bool = False


class TopicSpec(msgspec.Struct, frozen=True):
    """What a program declares of a topic; the channel records it and refuses a different declaration.

    `schema` is the description of the topic's type (`penstock.schema`), None for raw bytes; `arrow` its
    Arrow schema, serialised (what blocks of columns are read with). `key` and `time` name
    fields of the type. `disorder_s` says how late an event of this topic may be. `internal` topics are made by flows.
    `retention` and `dedupe` None leave what is recorded as it is.
    """

    name: str
    partitions: int = PARTITIONS_DEFAULT
    schema: Mapping[str, Any] | None = None
    arrow: bytes | None = None
    key: str | None = None
    time: str | None = None
    disorder_s: float | None = None
    event_bytes_max: int = EVENT_BYTES_MAX_DEFAULT
    internal: bool = False
    retention: Retention | None = None
    dedupe: Horizon | None = None


class Topic(msgspec.Struct, frozen=True):
    """A topic as the channel has it: the declaration, and the id of the schema now written with."""

    spec: TopicSpec
    schema_id: int = 0


class Publish(msgspec.Struct, frozen=True):
    """One publish: batches of any topics and partitions that become permanent together.

    `sequence` counts up by one per publish of this (producer, epoch). A repeated sequence is answered with the
    original offsets and stores nothing, for as long as it is remembered and whatever epochs have begun since; the same
    sequence with other content is refused. Nothing new is stored under an epoch lower than the newest.
    `note` (at most NOTE_BYTES_MAX) becomes permanent with the events, as the producer's newest: a source keeps its
    position there. It is no part of the content.
    """

    producer: str
    epoch: int
    sequence: int
    batches: Sequence[NewBatch]
    note: bytes = b""


class Acked(msgspec.Struct, frozen=True):
    """Stored, at the channel's durability. `first` is the offset of each batch's first event, in their order."""

    first: Sequence[int]
    repeated: bool = False


class Duplicate(msgspec.Struct, frozen=True):
    """An event of a publish (its batch, and its index there) whose id the topic holds already, and where.

    `same`: with the same body and key; else two events go by one id, and the new one must not be stored.
    """

    batch: int
    index: int
    partition: int
    offset: int
    same: bool


class Refused(msgspec.Struct, frozen=True):
    """Nothing of it was stored now; the reason names the field or the limit and the way out.

    `conflict` tells refusals that are about the producer's other publishes from those that are about the batches (""):
    ``epoch``: a newer epoch has begun, and this sequence was not stored before; it never will be: this is the fence.
    ``sequence``: it is not the next one, or it was stored with other content. ``forgotten``: it may have been stored
    once, longer ago than answers (or the producer itself) are remembered; who publishes it for the first time takes
    another producer, or a new epoch, and publishes it there. ``id``: of a topic with `TopicSpec.dedupe`, ids of these
    `duplicates` are recorded already; the others are to be published under the same sequence, which was not used up.
    """

    reason: str
    conflict: decide.Conflict = ""
    duplicates: Sequence[Duplicate] = ()


class Unknown(msgspec.Struct, frozen=True):
    """It may or may not be stored. Publishing the same sequence again is safe and tells."""

    reason: str


class ProducerState(msgspec.Struct, frozen=True):
    """The newest stored publish of a producer (sequence -1: its epoch has begun, no more), and the newest note."""

    epoch: int
    sequence: int
    note: bytes


class Scan(msgspec.Struct, frozen=True):
    """What to read of a partition, for a query.

    Offsets from `start` to before `end` (None: as far as recorded). `columns` names the columns wanted (None: all).
    A time range [`time_from_us`, `time_to_us`) in event time leaves out whatever lies outside it *for certain*.
    """

    topic: str
    partition: int
    start: int = 0
    end: int | None = None
    columns: Sequence[str] | None = None
    time_from_us: int | None = None
    time_to_us: int | None = None


class GroupSpec(msgspec.Struct, frozen=True):
    """What a program declares of a consumer group; the name is its identity. `kind`: handler, flow or sink.

    `together`: one member at a time has all partitions, as a target with a single owner needs it.
    """

    name: str
    topic: str
    kind: str = "handler"
    start: Literal["earliest", "latest"] = "earliest"
    together: bool = False


class Subscription(msgspec.Struct, frozen=True):
    """Join `group` as one more member. `member` names this one in messages to people.

    `ledger_spaces` limits what `Assigned.ledger` restores to these spaces at least; empty means all.
    """

    group: GroupSpec
    member: str = ""
    ledger_spaces: Sequence[str] = ()


class Owned(msgspec.Struct, frozen=True):
    """One partition as this member owns it; the epoch is the fence."""

    topic: str
    partition: int
    epoch: int


class LedgerWrite(msgspec.Struct, frozen=True):
    """One entry of the group's ledger for the step's partition; `value` None removes it. Bytes are opaque here."""

    space: str
    key: bytes
    value: bytes | None


class Settle(msgspec.Struct, frozen=True):
    """How progress moves: everything in [floor_before, floor_after) is settled, and each of `holes` above it.

    `floor_before` must be what the channel has: a step is applied once or not at all. A step that moves no floor is
    told by its `number` from its own repetition, and from the one that begins where it began: the number must be the
    partition's next one (None: not compared).
    `oldest` is the lowest offset that the ledger still refers to (a parked event, settled or not), None when there is
    none: retention stops there. `references` are further positions the step's outputs depend on (topic, partition,
    first, end), for lineage.
    """

    floor_before: int
    floor_after: int
    holes: Sequence[int] = ()
    references: Sequence[tuple[str, int, int, int]] = ()
    number: int | None = None
    oldest: int | None = None


class Step(msgspec.Struct, frozen=True):
    """All that working on deliveries of one partition did, as one value. Dead letters are outputs."""

    group: str
    owned: Owned
    settle: Settle
    outputs: Sequence[NewBatch] = ()
    ledger: Sequence[LedgerWrite] = ()


class Assigned(msgspec.Struct, frozen=True):
    """This member now owns the partition: read on from `floor`, skipping `holes`; `ledger` as last committed.

    `number` is that of the partition's next step, `oldest` what the last one said (see `Settle`). `incarnation` and
    `log` identify the log that the offsets belong to.
    """

    owned: Owned
    floor: int
    holes: Sequence[int]
    ledger: Sequence[tuple[str, bytes, bytes]]
    log: str
    incarnation: int
    number: int = 0
    oldest: int | None = None


class Revoking(msgspec.Struct, frozen=True):
    """Finish what is in flight and commit it: the partition goes to another member when this one answers `leave`.

    Nothing more of it is delivered. Other partitions of this member are not concerned.
    """

    owned: Owned


class Lost(msgspec.Struct, frozen=True):
    """The partition is gone: drop what is in flight of it, commits of this epoch are refused.

    It may be assigned to this member again, at a higher epoch. Other partitions are not concerned.
    """

    owned: Owned
    reason: str


class Idle(msgspec.Struct, frozen=True):
    """Nothing to hand out within the stated wait. `reason` says why when it is not merely quiet (another owner).

    `behind` names what other members of the group have not settled yet; empty when they have nothing left that can be
    read. `damaged` says what stops a partition, of this member or another: its next events cannot be read, and none is
    skipped.
    """

    reason: str = ""
    behind: str = ""
    damaged: CorruptionError | None = None


class Delivery(msgspec.Struct, frozen=True):
    """Recorded events of one owned partition, in order; at most what was asked for, at least one event."""

    owned: Owned
    batches: Sequence[Delivered]


class Committed(msgspec.Struct, frozen=True):
    """The step is permanent. `first` is the offset given to each output batch, in their order."""

    first: Sequence[int] = ()


class FencedOff(msgspec.Struct, frozen=True):
    """Refused inside the commit: another owner has the partition. Nothing of the step was stored."""

    reason: str


Taken = Assigned | Delivery | Revoking | Lost | Idle


class Intake(Protocol):
    """One member's way into a consumer group. Called from one task; `commit` may overlap `next`."""

    async def next(self, *, events_max: int, bytes_max: int, wait_s: float) -> Taken:
        """The next thing that concerns this member, waiting at most `wait_s`.

        Promises: assignments come before deliveries of that partition; deliveries of a partition come in offset order
        without a gap or repetition within one assignment, and none comes after `Revoking` or `Lost`; a delivery holds
        at most `events_max` events (and about `bytes_max` bytes, though always one block). Holes of the assignment are
        delivered too where the log has them: the member leaves them out. A cancelled call loses nothing. Where the next
        events of a partition cannot be read, what lies before them is delivered, and the other partitions go on;
        `Idle.damaged` tells of it. They are looked at again now and then: somebody may have mended them.

        Raises:
            Closed: this member has left, or the channel was closed.
            CorruptionError: what is recorded of the group is not what was stored.
        """
        ...

    async def commit(self, step: Step) -> Committed | FencedOff | Unknown:
        """Make the step permanent. Commits of one partition are applied in the order they were called.

        After `FencedOff` or `Unknown` later steps of the same assignment are refused too, and `next` tells of the
        partition `Lost`; it may be assigned again, at a higher epoch. After `leave` every step is answered `FencedOff`.

        Raises:
            Rejected: the step breaks a rule by itself (a floor that moves back, too many holes, an output over its
                topic's limit); nothing of it was stored and the assignment goes on.
            TransientError: nothing of it was stored (LogFull: make room; LogBusy: another process holds the log);
                commit the same step again, and then those behind it: they are answered alike.
        """
        ...

    async def extend(self, owned: Owned, references: Sequence[int], for_s: float) -> None:
        """Keep deliveries invisible to others for `for_s` more seconds; does nothing where the log keeps ownership."""
        ...

    def pause(self, owned: Owned, *, on: bool) -> None:
        """Begin no (or again) deliveries of one partition; those of the others go on, and it stays owned.

        One that was on its way may still come. Nothing is passed over: deliveries go on where they ended. Does nothing
        for a partition that is not owned at this epoch; a new assignment is not paused.
        """
        ...

    def asked(self) -> Sequence[Owned]:
        """Partitions that are asked back, or lost: `next` says so too, but who works on a long delivery asks here.

        May be called often; it does not wait.
        """
        ...

    async def leave(self, owned: Owned | None = None) -> None:
        """Give one partition up (the answer to `Revoking`), or all and the membership with them.

        Uncommitted work is delivered again to the next owner: commit first. May be called twice, and for a partition
        that is not owned any more.
        """
        ...


class Channel(Protocol):
    """A place where events wait. `capabilities` is true before `open`."""

    capabilities: Capabilities

    async def open(self, topics: Sequence[TopicSpec]) -> Mapping[str, Topic]:
        """Declare topics, creating what is missing. May be called again with more topics.

        Raises:
            DeclaredDifferently: a topic exists with another declaration; the difference is named.
            SchemaIncompatible: the type changed so that recorded events could not be read.
            Unsupported: a topic declares what this channel has not the power to do.
        """
        ...

    async def publish(self, publish: Publish) -> Acked | Refused | Unknown:
        """Store one publish, atomically where `step` is atomic. Cancelling the call leaves the outcome unknown.

        Raises:
            TransientError: nothing of it was stored (LogFull: make room; LogBusy: another process holds the log);
                publish the same sequence again.
            CorruptionError: the log is not what it was; open it again to see.
            Closed: the channel was closed.
        """
        ...

    async def join(self, subscription: Subscription) -> Intake:
        """Become a member of a group (and declare it).

        Raises:
            DeclaredDifferently: the group exists on another topic.
            Unsupported: the channel has no groups.
        """
        ...

    async def read(self, topic: str, partition: int, offset: int, *, events_max: int) -> Sequence[Delivered]:
        """Recorded events from `offset` on, outside any group; empty at the end.

        Raises:
            OffsetOutOfRange: retention has removed the event with this offset.
            Unsupported: where the channel is not `replayable`.
        """
        ...

    async def close(self) -> None:
        """Let everything go: members leave, waiting calls end with `Closed`; acked work stays. May be called twice."""
        ...


class Producers(Protocol):
    """A channel that remembers its producers: the power `remembers_producers`."""

    async def new_epoch(self, name: str, *, after: int | None = None) -> int:
        """Begin the producer's next epoch: higher than every one before, and no other caller is given it.

        From now on nothing new is stored under a lower epoch; what was is still answered. Notes stay.

        Args:
            name: the producer.
            after: only if no newer epoch than this one, the caller's own, has begun.

        Raises:
            Fenced: a newer one has begun.
            ConfigError: nobody can have this name.
            TransientError: as for `Channel.publish`; an epoch that was begun and not told harms nobody.
        """
        ...

    async def producer(self, name: str) -> ProducerState | None:
        """The newest stored publish of the producer; None when it never published, or is forgotten.

        A producer that has sent a note is not forgotten.
        """
        ...

    async def notes(self, name: str, epoch: int, *, start: int, count: int) -> Sequence[tuple[int, bytes]]:
        """What came as the note with each remembered sequence of this epoch from `start` on: (sequence, note).

        Ascending, at most `count`, empty when there is none (more). What is remembered has no gap: where the first
        one found is above `start`, those before it were forgotten (or this epoch never had them).
        """
        ...


class Blocking(Protocol):
    """A channel that publishes without an event loop: the power `blocking`."""

    def publish_blocking(self, publish: Publish) -> Acked | Refused | Unknown:
        """As `Channel.publish`, and blocks; may be called from any thread while the channel is open.

        It commits in the calling thread when nobody else is committing: no hand-over between threads.
        """
        ...


class Columnar(Protocol):
    """A channel that reads parts of what is recorded, for queries: the power `columnar`."""

    async def scan(self, scan: Scan, *, events_max: int) -> Sequence[Delivered]:
        """Recorded events that the scan may want, in offset order, whole blocks cut to its offsets.

        At most about `events_max` events, though always one block; empty when there is nothing (more). Go on with
        `start` = the end of the last one. There may be gaps between them: blocks outside the time range are left out
        unread, and what retention has removed is not there (unlike `Channel.read`, which says so). Events outside it
        that lie in a block which meets it are delivered: X

        Raises:
            ConfigError: no such topic or partition.
            CorruptionError: stored data is not what was stored; nothing is skipped.
        """
        ...

    async def tips(self, topic: str) -> Sequence[int]:
        """Of each partition the offset that its next event will get."""
        ...
