"""Publishing lines to a topic by its recorded type: one transaction per handful, an answer per line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import msgspec

from penstock.channel.api import Acked, Publish, Refused, Unknown
from penstock.channel.typed import Packed, TypedTopic
from penstock.cli.lines import Line
from penstock.cli.options import Log, opened
from penstock.errors import DecodeError, PenstockError
from penstock.schema.strict import verify

EVENTS_MAX = 5_000
BYTES_MAX = 1_000_000


class Told(msgspec.Struct, frozen=True, omit_defaults=True):
    """What became of one line."""

    line: int
    outcome: Literal["acked", "rejected", "unknown"]
    partition: int | None = None
    offset: int | None = None
    reason: str = ""


class Publisher:
    """One producer of one topic; `key` and `headers` go with every event."""

    def __init__(self, log: Log, topic: TypedTopic[Any], *, key: str | None, headers: Mapping[str, str]) -> None:
        self._log = log
        self._topic = topic
        self._key = key
        self._headers = dict(headers)
        self._producer = log.system.new_id()
        self._sequence = 0

    async def publish(self, lines: Sequence[Line]) -> list[Told]:
        """Publish one handful of lines as one transaction, those that a consumer could not decode left out.

        Returns:
            One answer per line, in their order.

        Raises:
            PenstockError: nothing of these lines was stored.
        """
        foreign = {} if self._topic.schema is None else _refused(lines, self._topic)
        told = [Told(number, "rejected", reason=reason) for number, reason in foreign.items()]
        told += await self._published([line for line in lines if line.number not in foreign])
        return sorted(told, key=lambda one: one.line)

    async def _published(self, lines: Sequence[Line]) -> list[Told]:
        if not lines:
            return []
        count = len(lines)
        attributes: dict[str, list[Any]] = {"headers": [self._headers] * count} if self._headers else {}
        keys = None if self._key is None else [self._key] * count
        packed = self._topic.pack([line.body for line in lines], keys=keys, attributes=attributes)
        if not packed.batches:
            return _answers(lines, packed, Refused(""))
        publish = Publish(self._producer, 1, self._sequence, packed.batches)
        answer = await self._log.channel.publish(publish)
        if isinstance(answer, Unknown):
            answer = await self._asked_again(publish, answer)
        if isinstance(answer, Acked):
            self._sequence += 1
        return _answers(lines, packed, answer)

    async def _asked_again(self, publish: Publish, answer: Unknown) -> Acked | Refused | Unknown:
        """The same sequence again, on the log opened anew: that is safe, and tells what was stored."""
        try:
            async with opened(self._log.directory) as again:
                return await again.channel.publish(publish)
        except PenstockError:
            return answer


def _refused(lines: Sequence[Line], topic: TypedTopic[Any]) -> dict[int, str]:
    """Lines that two readers could understand differently (a key twice, half a surrogate), by number."""
    found: dict[int, str] = {}
    for line in lines:
        try:
            verify(line.body)
        except DecodeError as exc:
            found[line.number] = topic.hide(line.body)(str(exc))
    return found


def handfuls(lines: Sequence[Line]) -> Iterator[list[Line]]:
    """The lines in portions for one transaction each."""
    part: list[Line] = []
    size = 0
    for line in lines:
        if part and (len(part) >= EVENTS_MAX or size + line.size > BYTES_MAX):
            yield part
            part, size = [], 0
        part.append(line)
        size += line.size
    if part:
        yield part


def _answers(lines: Sequence[Line], packed: Packed, answer: Acked | Refused | Unknown) -> list[Told]:
    told: list[Told] = []
    for index, line in enumerate(lines):
        if index in packed.refused:
            told.append(Told(line.number, "rejected", reason=packed.refused[index]))
            continue
        number, position = packed.place(index)
        match answer:
            case Acked():
                partition = packed.batches[number].partition
                told.append(Told(line.number, "acked", partition, answer.first[number] + position))
            case Refused():
                told.append(Told(line.number, "rejected", reason=answer.reason))
            case Unknown():
                told.append(Told(line.number, "unknown", reason=answer.reason))
    return told
