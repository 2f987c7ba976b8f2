"""What the log is asked and what it answers, as values: requests are applied together in one transaction.

The log speaks of partition ids (`pid`, one number per topic and partition) and of encoded blocks; names, types and
handlers are the business of the layers above.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from penstock.log.decide import Conflict, Horizon

Range = tuple[int, int, int]
"""(partition id, first offset, count)."""


Mark = tuple[int, int, bytes]
"""An event's index in its block, and digests: half that of its id, then the other half and that of its content.

The first half is what is looked up, as a signed integer.
"""


class Ids(msgspec.Struct, frozen=True):
    """Of a topic that records each id once: the block's marks, in order, and for how long they are remembered."""

    marks: Sequence[Mark]
    horizon: Horizon


class Block(msgspec.Struct, frozen=True):
    """Encoded events for one partition, not yet placed.

    `size` is the uncompressed payload size in bytes, `crc` the CRC-32 of `data`: taken where the block is encoded, so
    that the commit thread need not touch the bytes.
    """

    pid: int
    count: int
    schema_id: int
    size: int
    data: bytes
    crc: int
    time_min_us: int | None = None
    time_max_us: int | None = None
    ids: Ids | None = None


class Append(msgspec.Struct, frozen=True):
    """Publish blocks as (producer, epoch, sequence); `note` is remembered with the producer's newest sequence."""

    producer: str
    epoch: int
    sequence: int
    blocks: Sequence[Block]
    note: bytes = b""


class Begin(msgspec.Struct, frozen=True):
    """Begin the producer's next epoch, which ends the lower ones; of the owner of `after` only if it is the newest."""

    producer: str
    after: int | None = None


class Advance(msgspec.Struct, frozen=True):
    """One step of a group on one partition: outputs, ledger and progress, all or nothing.

    `ledger` holds (space, key, value or None to remove); `references` further inputs that the outputs depend on.
    `number` and `oldest`: see `decide.Move`.
    """

    group_id: int
    pid: int
    epoch: int
    before: int
    after: int
    holes: Sequence[int] = ()
    references: Sequence[Range] = ()
    blocks: Sequence[Block] = ()
    ledger: Sequence[tuple[str, bytes, bytes | None]] = ()
    origin: str = ""
    number: int | None = None
    oldest: int | None = None


class Claim(msgspec.Struct, frozen=True):
    """Become the owner of these partitions for the group: every epoch goes up by one."""

    group_id: int
    pids: Sequence[int]


class Appended(msgspec.Struct, frozen=True):
    """Where each block of the request lies now, in the request's order."""

    first: Sequence[int]
    repeated: bool = False


class Begun(msgspec.Struct, frozen=True):
    """The epoch that has begun."""

    epoch: int


class Repeated(msgspec.Struct, frozen=True):
    """An event of a request, by its block and its index there, whose id is recorded already: there, and as the same."""

    block: int
    index: int
    partition: int
    offset: int
    same: bool


class Refusal(msgspec.Struct, frozen=True):
    """Nothing of this request was stored; the others of the transaction were. `conflict`: see `decide.Conflict`."""

    reason: str
    conflict: Conflict = ""
    repeated: Sequence[Repeated] = ()


class Overtaken(msgspec.Struct, frozen=True):
    """The epoch or the floor is not what the log has: another owner was here. Nothing was stored."""

    reason: str


class Held(msgspec.Struct, frozen=True):
    """A claimed partition: its new epoch and its progress; `number` is that of the next step, `oldest` see `Move`."""

    pid: int
    epoch: int
    floor: int
    holes: Sequence[int]
    number: int = 0
    oldest: int | None = None


class Claimed(msgspec.Struct, frozen=True):
    """Every claimed partition, in the request's order."""

    held: Sequence[Held]


Request = Append | Begin | Advance | Claim
Result = Appended | Begun | Refusal | Overtaken | Claimed


class Stored(msgspec.Struct, frozen=True):
    """A block as it lies in the log; the checksum has been verified.

    `base` is the first offset that the request which wrote it got in this partition.
    """

    pid: int
    first: int
    count: int
    schema_id: int
    recorded_us: int
    origin: str
    base: int
    data: bytes
    time_min_us: int | None
    time_max_us: int | None


class Span(msgspec.Struct, frozen=True):
    """Part of a partition: offsets from `start` to before `end`, of blocks whose event times meet [from, to).

    A limit that is None does not limit; a block whose event times are unknown meets every range.
    """

    pid: int
    start: int
    end: int
    time_from_us: int | None = None
    time_to_us: int | None = None


class ProducerRow(msgspec.Struct, frozen=True):
    """The newest stored publish of a producer (sequence -1: its epoch has begun, no more), and the newest note."""

    name: str
    epoch: int
    sequence: int
    note: bytes


class StepRecord(msgspec.Struct, frozen=True):
    """A step that was committed: what it settled and what it wrote, for replay and lineage."""

    group_id: int
    pid: int
    number: int
    epoch: int
    before: int
    after: int
    outputs: Sequence[Range]
    references: Sequence[Range]
    at_us: int


class TopicRow(msgspec.Struct, frozen=True):
    """A declared topic: its id, its declaration (JSON), its current schema id, its partition ids in order."""

    id: int
    name: str
    spec: bytes
    schema_id: int
    pids: Sequence[int]


class GroupRow(msgspec.Struct, frozen=True):
    """A declared consumer group and its declaration (JSON); `warned_us`: see `living`."""

    id: int
    name: str
    spec: bytes
    warned_us: int = 0


class ProgressRow(msgspec.Struct, frozen=True):
    """How far a group is on one partition; `oldest` is the lowest offset below the floor that it still refers to.

    `kept` is the number of the first step that is still recorded, `seen_us` when a member of the group was here last,
    in the log's own time (see `ages`; 0: nobody knows).
    """

    group_id: int
    pid: int
    epoch: int
    floor: int
    holes: Sequence[int]
    oldest: int | None = None
    kept: int = 0
    seen_us: int = 0
