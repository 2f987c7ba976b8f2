"""When a failed event is tried again: a pure policy of attempts and pauses."""

from __future__ import annotations

import msgspec

from penstock.errors import ConfigError


class Retry(msgspec.Struct, frozen=True):
    """Try an event up to `attempts` times in all, pausing `first_s`, then `factor` times longer each time.

    No pause is longer than `pause_max_s`. A handler's exception or the death of its process is an attempt.
    """

    attempts: int = 3
    first_s: float = 0.1
    factor: float = 2.0
    pause_max_s: float = 30.0

    def __post_init__(self) -> None:
        """Refuse what cannot be meant.

        Raises:
            ConfigError: naming the field.
        """
        if not isinstance(self.attempts, int) or isinstance(self.attempts, bool):  # pyright: ignore[reportUnnecessaryIsInstance]
            msg = f"{self.attempts!r}; expected a whole number of attempts, such as Retry(5)"
            raise ConfigError(msg, path="retry.attempts")
        if self.attempts < 1:
            msg = f"{self.attempts}; at least 1 attempt is needed"
            raise ConfigError(msg, path="retry.attempts")
        if self.first_s < 0 or self.pause_max_s < 0 or self.factor < 1:
            msg = f"first_s={self.first_s}, factor={self.factor}, pause_max_s={self.pause_max_s}; none may shrink"
            raise ConfigError(msg, path="retry")

    def pause_s(self, attempt: int) -> float | None:
        """Seconds to wait after failed attempt number `attempt` (1 is the first); None when it was the last."""
        if attempt >= self.attempts:
            return None
        return min(self.pause_max_s, self.first_s * self.factor ** min(attempt - 1, 64))
