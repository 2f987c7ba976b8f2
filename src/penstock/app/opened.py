"""An open channel with an app's topics: the place that turns a declaration into a driver."""

from __future__ import annotations

import asyncio
import os
from typing import Any, Protocol
from weakref import WeakSet

from penstock.app.declared import Program
from penstock.app.plan import AnySchema, Plan
from penstock.channel import api
from penstock.channel.drivers.embedded import EmbeddedChannel
from penstock.channel.typed import TypedTopic
from penstock.errors import ConfigError, Fenced
from penstock.log.log import LogConfig
from penstock.system.ports import System

SOURCES = "source."
"""How the names of the producers begin under which sources publish."""


class Numbering:
    """Under which producer, epoch and sequence a client publishes next: one publish at a time.

    `unsure` says that nobody knows how the last publish ended (or that there are no numbers yet): what came next under
    the same sequence could be answered as a repetition of it, so it takes new numbers first (`renew`). Whoever
    publishes sets it beforehand; `settle` takes it back.
    """

    def __init__(self, channel: api.Producers, system: System, name: str | None) -> None:
        self._channel = channel
        self._system = system
        self._name = name
        self._turn = asyncio.Lock()
        self._mine: int | None = None
        self.producer = name or ""
        self.epoch = 0
        self.sequence = 0
        self.unsure = True

    async def renew(self) -> None:
        """Take numbers nobody ever used: those of a new producer, or of the next epoch of the named one: its fence.

        Raises:
            Fenced: a newer client has begun an epoch of this name since.
        """
        async with self._turn:  # a caller that was interrupted has left its call running
            if not self.unsure:
                return
            if self._name is None:
                self.producer = self._system.new_id()
            else:
                self.epoch = self._mine = await self._channel.new_epoch(self._name, after=self._mine)
            self.sequence, self.unsure = 0, False

    def settle(self, answer: api.Acked | api.Refused | api.Unknown) -> bool:
        """Note the answer to the publish under these numbers.

        Returns:
            Whether it is to be published again: under new numbers, for the log has forgotten this producer, or under
            the same without its duplicates.

        Raises:
            Fenced: a newer client has begun an epoch of this name.
        """
        if isinstance(answer, api.Acked):
            self.sequence += 1
            self.unsure = False
        elif isinstance(answer, api.Refused):
            if answer.conflict == "forgotten" and self.sequence > 0:
                return True
            if answer.conflict == "id":
                self.unsure = False
                return True
            if answer.conflict:
                raise Fenced(answer.reason)
            self.unsure = False
        return False


class Opened:
    """The channel of an app and its topics, ready to use. The owner closes it."""

    def __init__(self, channel: EmbeddedChannel, topics: dict[str, TypedTopic[Any]], system: System) -> None:
        self.channel = channel
        self.system = system
        self._topics = topics

    def topic(self, name: str) -> TypedTopic[Any]:
        """An open topic.

        Raises:
            ConfigError: this app does not declare it.
        """
        found = self._topics.get(name)
        if found is None:
            msg = f"this program does not declare it; it has {', '.join(sorted(self._topics)) or 'no topic'}"
            raise ConfigError(msg, path=f"topics.{name}")
        return found

    async def numbering(self, name: str | None) -> Numbering:
        """The numbers of one client: of a new producer, or of the next epoch of the one with this name.

        Raises:
            ConfigError: no client may have this name.
        """
        if name is not None and not isinstance(name, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigError(f"{name!r}; expected a name such as 'till-1', or None", path="client.producer")
        if name is not None and name.startswith(SOURCES):
            msg = f"{name!r}; names that begin with {SOURCES!r} are those of sources: take another"
            raise ConfigError(msg, path="client.producer")
        numbers = Numbering(self.channel, self.system, name)
        await numbers.renew()
        return numbers

    async def close(self) -> None:
        """Let the channel go; may be called twice."""
        await self.channel.close()


class Forkable(Protocol):
    """What must not be used in a forked child."""

    def forked(self) -> None:
        """Told in the child: behave as closed, and touch nothing of the parent's."""
        ...


_FORKABLE: WeakSet[Forkable] = WeakSet()


def tell_when_forked(client: Forkable) -> None:
    """From now on the client is told so in every forked child."""
    _FORKABLE.add(client)


def _after_fork_in_child() -> None:
    for client in list(_FORKABLE):
        client.forked()


os.register_at_fork(after_in_child=_after_fork_in_child)


async def open_app(app: Program, plan: Plan, system: System) -> Opened:
    """Open the app's log and declare the plan's topics there.

    Raises:
        ConfigError, ConflictError, CorruptionError, SchemaIncompatible: why it cannot be opened; nothing was changed.
    """
    config = LogConfig(durability=app.durability)
    channel = EmbeddedChannel(app.directory, system=system, config=config, lease_s=app.lease_s)
    try:
        found = await channel.open(list(plan.topics.values()))
    except BaseException:
        await channel.close()
        raise
    schemas: dict[str, AnySchema | None] = plan.schemas
    topics = {name: TypedTopic(topic, schemas[name]) for name, topic in found.items()}
    return Opened(channel, topics, system)
