"""How much of a topic is kept, and for how long the ids of its events are remembered."""

from __future__ import annotations

from math import inf

import msgspec

from penstock.config import duration_s, size_bytes
from penstock.errors import ConfigError


class Retention(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How much of a topic is kept: events younger than `age`, and at most `bytes` on the disk; without either, all.

    What a consumer group has not settled yet is kept whatever this says.

    Attributes:
        age: a duration such as ``"7d"``, or seconds. An event is removed some time after that, never before.
        bytes: a size such as ``"10GB"``, or a number of bytes: of all partitions together, as they lie on the disk.
    """

    age: str | float | None = None
    bytes: str | int | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be meant.

        Raises:
            ConfigError: naming the field.
        """
        if self.age is not None and not self.age_s:
            raise ConfigError(f"{self.age!r}; expected more than 0, or None for no limit", path="retention.age")
        if self.bytes is not None and not self.bytes_max:
            raise ConfigError(f"{self.bytes!r}; expected more than 0, or None for no limit", path="retention.bytes")

    @property
    def age_s(self) -> float | None:
        """The age in seconds."""
        return None if self.age is None else duration_s(self.age, path="retention.age")

    @property
    def bytes_max(self) -> int | None:
        """The size in bytes."""
        return None if self.bytes is None else size_bytes(self.bytes, path="retention.bytes")


class Horizon(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """For how long the ids of a topic's events are remembered, so that each is recorded once.

    An id is forgotten when it lies behind *both*: never by the wall clock.

    Attributes:
        events: of how many events, the newest of each partition, ids are remembered; 0 for none.
        time: how much older in event time it may be than the newest event of its partition, a duration such as
            ``"1d"``, or seconds; None to go by `events` alone. A batch goes by its latest event time, and a time in
            the future counts as now.
    """

    events: int = 1_000_000
    time: str | float | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be meant.

        Raises:
            ConfigError: naming the field.
        """
        if isinstance(self.events, bool) or not isinstance(self.events, int) or self.events < 0:  # pyright: ignore[reportUnnecessaryIsInstance]
            msg = f"{self.events!r}; expected how many events, 0 for none"
            raise ConfigError(msg, path="deduplicate.events")
        if self.time is not None and (not self.time_s or self.time_s == inf):
            raise ConfigError(f"{self.time!r}; expected more than 0 and an end, or None", path="deduplicate.time")

    @property
    def time_s(self) -> float | None:
        """The time in seconds."""
        return None if self.time is None else duration_s(self.time, path="deduplicate.time")
