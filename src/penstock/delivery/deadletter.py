"""Dead letters: an event that was given up, with its original bytes and the reason, as an event of its own topic."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from penstock.channel.api import TOGETHER_BYTES_MAX, TopicSpec
from penstock.delivery.lot import REASON_MAX, TRIES_KEPT, Try
from penstock.event.batch import NewBatch, Rows

SUFFIX = ".dead"
TEXT_MAX = 8_000
NAME_MAX = 200


class DeadLetter(msgspec.Struct, frozen=True):
    """One event given up by `group`. `body` is the event's original bytes; `reason` is for people.

    `tries` are the failed attempts, oldest first. `holds`: its key waits for a redrive or a skip (policy *block*).
    `again` counts how often the event was redriven before this letter.
    """

    group: str
    topic: str
    partition: int
    offset: int
    body: bytes
    reason: str
    error: str
    stack: str = ""
    attempts: int = 1
    key: bytes | None = None
    id: str = ""
    tries: Sequence[Try] = ()
    again: int = 0
    holds: bool = False

    def headers(self) -> dict[str, str]:
        """What is stored beside the body; texts are bounded."""
        headers = {
            "group": self.group,
            "topic": self.topic,
            "partition": str(self.partition),
            "offset": str(self.offset),
            "reason": storable(self.reason[:TEXT_MAX]),
            "error": storable(self.error),
            "stack": storable(self.stack[-TEXT_MAX:]),
            "attempts": str(self.attempts),
            "id": storable(self.id),
        }
        if self.tries:
            headers["tries"] = storable(msgspec.json.encode(list(self.tries)).decode())
        if self.again:
            headers["again"] = str(self.again)
        if self.holds:
            headers["holds"] = "1"
        return headers


def text_of(error: BaseException) -> str:
    """What an exception says; its type's name when it says nothing, or cannot even say that. It can be stored."""
    try:
        return storable(str(error)) or name_of(error)
    except Exception:  # noqa: BLE001 - a user's __str__ may raise anything
        return name_of(error)


def name_of(error: BaseException) -> str:
    """The name of an exception's type, bounded: a class may have been made with any."""
    return type(error).__name__[:NAME_MAX]


def with_try(tries: Sequence[Try], error: BaseException, at_us: int, hide: Callable[[str], str]) -> tuple[Try, ...]:
    """The failed attempts and one more; of many the last ones. `hide` takes out of the reason what is personal."""
    return (*tries, Try(at_us, name_of(error), hide(text_of(error))[:REASON_MAX]))[-TRIES_KEPT:]


def storable(text: str) -> str:
    """Text that can be stored: half a surrogate, as in odd file names, is shown as an escape."""
    return str.encode(text, errors="backslashreplace").decode()  # of a class of its own, it may do anything else


def dead_letter_topic(group: str, *, partitions: int) -> TopicSpec:
    """The declaration of a group's dead letters: raw bytes, partitioned as its input is.

    A letter may be longer than its event was allowed to be (a row of columns becomes text), and one that cannot be
    laid aside would stop the group for good: it may be as long as anything that is published.
    """
    return TopicSpec(group + SUFFIX, partitions=partitions, event_bytes_max=TOGETHER_BYTES_MAX, internal=True)


def to_batch(letters: Sequence[DeadLetter], *, topic: str, partition: int) -> NewBatch:
    """The letters of one step as one batch, in offset order."""
    ordered = sorted(letters, key=lambda letter: letter.offset)
    attributes: dict[str, list[Any]] = {"headers": [letter.headers() for letter in ordered]}
    if ordered and ordered[0].offset >= 0:  # a source's letters were never recorded: no event is their cause
        attributes["cause"] = [letter.offset for letter in ordered]
    if any(letter.again for letter in ordered):  # ids are derived from cause and number: each letter has its own
        attributes["number"] = [letter.again for letter in ordered]
    if any(letter.key is not None for letter in ordered):
        attributes["key"] = [letter.key for letter in ordered]
    return NewBatch(topic, partition, len(ordered), Rows.of([letter.body for letter in ordered], attributes))


def from_row(body: bytes, headers: dict[str, str], key: bytes | None = None) -> DeadLetter:
    """Read a stored dead letter back."""
    return DeadLetter(
        group=headers["group"],
        topic=headers["topic"],
        partition=int(headers["partition"]),
        offset=int(headers["offset"]),
        body=body,
        reason=headers["reason"],
        error=headers["error"],
        stack=headers.get("stack", ""),
        attempts=int(headers.get("attempts", "1")),
        key=key,
        id=headers.get("id", ""),
        tries=msgspec.json.decode(headers.get("tries", "[]"), type=list[Try]),
        again=int(headers.get("again", "0")),
        holds=headers.get("holds") == "1",
    )
