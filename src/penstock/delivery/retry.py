"""When a failed event is tried again: pure policies of attempts, pauses and error types.

Source of the full jitter: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import msgspec

from penstock.errors import ConfigError

ATTEMPTS_DEFAULT = 3
WARN_S_DEFAULT = 60.0
SECONDS_MAX = 1_000_000_000
"""No pause is longer: it is written down in microseconds."""
FACTOR_MAX = 1_000
_DOUBLINGS_MAX = 64


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check(name: str, value: object, least: float, most: float) -> None:
    if not _is_number(value) or not least <= value <= most:  # type: ignore[operator]
        raise ConfigError(f"{value!r}; expected a number from {least:,} to {most:,}", path=f"retry.{name}")


class Retry(msgspec.Struct, frozen=True):
    """Try an event up to `attempts` times in all, pausing `first_s`, then `factor` times longer each time.

    A handler's exception or the death of its process is an attempt. A pause is over at the next multiple of 10 ms.

    Attributes:
        attempts: 3 by default; one more than the pauses of a `schedule`.
        first_s: the first pause in seconds; `factor` 1 makes all of them alike.
        factor: by how much each pause is longer than the one before.
        pause_max_s: no pause is longer.
        jitter: full jitter: each pause is drawn evenly from zero to what it would have been.
        schedule: the pauses themselves in seconds, instead of the four above.
        total_s: no attempt when the pauses, this one with them, would be longer in all; how long the calls take does
            not count.
        timeout_s: how long one call may take; then it is cancelled and fails with `TimeoutError`. A plain handler needs
            ``concurrency=`` for that: its process is ended.
        warn_s: a call that takes longer is named in the log, and again each time that it has taken twice as long; None:
            never. Nothing is done to the call; calls of handlers only, not of functions in flows.
    """

    attempts: int = cast("int", None)
    first_s: float = 0.1
    factor: float = 2.0
    pause_max_s: float = 30.0
    jitter: bool = False
    schedule: tuple[float, ...] = ()
    total_s: float | None = None
    timeout_s: float | None = None
    warn_s: float | None = WARN_S_DEFAULT

    def __post_init__(self) -> None:
        """Refuse what cannot be meant.

        Raises:
            ConfigError: naming the field.
        """
        if not isinstance(self.schedule, list | tuple):  # pyright: ignore[reportUnnecessaryIsInstance]
            msg = f"{self.schedule!r}; expected pauses in seconds, such as (1, 10, 60)"
            raise ConfigError(msg, path="retry.schedule")
        msgspec.structs.force_setattr(self, "schedule", tuple(self.schedule))
        counted = len(self.schedule) + 1 if self.schedule else ATTEMPTS_DEFAULT
        if self.attempts is None:  # pyright: ignore[reportUnnecessaryComparison]
            msgspec.structs.force_setattr(self, "attempts", counted)
        if not isinstance(self.attempts, int) or isinstance(self.attempts, bool):  # pyright: ignore[reportUnnecessaryIsInstance]
            msg = f"{self.attempts!r}; expected a whole number of attempts, such as Retry(5)"
            raise ConfigError(msg, path="retry.attempts")
        if self.attempts < 1:
            msg = f"{self.attempts}; at least 1 attempt is needed, and Retry(1) tries nothing again"
            raise ConfigError(msg, path="retry.attempts")
        if self.schedule and self.attempts != counted:
            msg = f"{self.attempts} attempts and a schedule of {len(self.schedule)} pauses; leave attempts out"
            raise ConfigError(msg, path="retry.attempts")
        _check("first_s", self.first_s, 0, SECONDS_MAX)
        _check("pause_max_s", self.pause_max_s, 0, SECONDS_MAX)
        _check("factor", self.factor, 1, FACTOR_MAX)
        for number, pause_s in enumerate(self.schedule):
            _check(f"schedule[{number}]", pause_s, 0, SECONDS_MAX)
        for name in ("total_s", "timeout_s", "warn_s"):
            limit = getattr(self, name)
            if limit is not None and not (_is_number(limit) and limit > 0):
                msg = f"{limit!r}; expected seconds above 0, or None for no limit"
                raise ConfigError(msg, path=f"retry.{name}")

    def pause_s(self, attempt: int, *, since_s: float = 0.0, chance: Callable[[], float] | None = None) -> float | None:
        """Seconds to wait after failed attempt number `attempt` (1 is the first); None when it was the last.

        Args:
            attempt: how many there have been.
            since_s: how long the pauses were that there have been.
            chance: gives a number from 0 to 1, for jitter.
        """
        if attempt >= self.attempts:
            return None
        pause = self.backoff_s(attempt)
        if self.jitter and chance is not None:
            pause *= chance()
        return None if self.total_s is not None and since_s + pause > self.total_s else pause

    def backoff_s(self, failed: int) -> float:
        """The pause after `failed` failures in a row, however many attempts there may be."""
        if self.schedule:
            return self.schedule[min(failed, len(self.schedule)) - 1]
        return min(self.pause_max_s, self.first_s * self.factor ** min(failed - 1, _DOUBLINGS_MAX))


class Retries(msgspec.Struct, frozen=True):
    """Policies by type of exception: the closest base class of what was raised decides, `default` otherwise."""

    default: Retry
    by_type: Mapping[type[BaseException], Retry] = {}

    @classmethod
    def of(cls, given: Retry | Mapping[type[BaseException], Retry] | None, *, path: str = "retry") -> Retries:
        """What a program declares as ``retry=``: one policy, or one per type of exception.

        Raises:
            ConfigError: it is neither, or limits calls by what they will fail with.
        """
        if given is None:
            return cls(Retry())
        if isinstance(given, Retry):
            return cls(given)
        pairs: list[tuple[Any, Any]] = list(given.items()) if isinstance(given, Mapping) else []  # pyright: ignore[reportUnnecessaryIsInstance]
        fine = all(isinstance(t, type) and issubclass(t, BaseException) and isinstance(r, Retry) for t, r in pairs)
        if not pairs or not fine:
            msg = f"{given!r}; expected Retry(…), such as Retry(5), or a policy per type: {{TimeoutError: Retry(10)}}"
            raise ConfigError(msg, path=path)
        by_type = dict(pairs)
        default = by_type.get(Exception) or by_type.get(BaseException) or Retry()
        for kind, policy in by_type.items():
            for name, left_out in (("timeout_s", None), ("warn_s", WARN_S_DEFAULT)):
                if getattr(policy, name) not in (left_out, getattr(default, name)):
                    msg = "nobody knows with what a call will fail while it runs: give it to the policy for Exception"
                    raise ConfigError(msg, path=f"{path}.{kind.__name__}.{name}")
        return cls(default, by_type)

    def for_error(self, error: BaseException) -> Retry:
        """The policy for what was raised."""
        for kind in type(error).__mro__:
            if kind in self.by_type:
                return self.by_type[kind]
        return self.default

    @property
    def timeout_s(self) -> float | None:
        """How long one call may take: before it fails nobody knows with what, so it is the default policy's."""
        return self.default.timeout_s

    @property
    def warn_s(self) -> float | None:
        """How long one call may take before the log names its event: the default policy's, as with `timeout_s`."""
        return self.default.warn_s
