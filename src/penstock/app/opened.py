"""An open channel with an app's topics: the place that turns a declaration into a driver."""

from __future__ import annotations

from typing import Any

from penstock.app.declared import Program
from penstock.app.plan import AnySchema, Plan
from penstock.channel.drivers.embedded import EmbeddedChannel
from penstock.channel.typed import TypedTopic
from penstock.errors import ConfigError
from penstock.log.log import LogConfig
from penstock.system.ports import System


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

    async def identity(self, name: str | None) -> tuple[str, int, int]:
        """(producer, epoch, next sequence): a new name, or a named one with its next epoch: the fence."""
        if name is None:
            return self.system.new_id(), 0, 0
        last = await self.channel.producer(name)
        return name, 0 if last is None else last.epoch + 1, 0

    async def close(self) -> None:
        """Let the channel go; may be called twice."""
        await self.channel.close()


async def open_app(app: Program, plan: Plan, system: System) -> Opened:
    """Open the app's log and declare the plan's topics there.

    Raises:
        ConfigError, ConflictError, CorruptionError, SchemaIncompatible: why it cannot be opened; nothing was changed.
    """
    channel = EmbeddedChannel(app.directory, system=system, config=LogConfig(durability=app.durability))
    try:
        found = await channel.open(list(plan.topics.values()))
    except BaseException:
        await channel.close()
        raise
    schemas: dict[str, AnySchema | None] = plan.schemas
    topics = {name: TypedTopic(topic, schemas[name]) for name, topic in found.items()}
    return Opened(channel, topics, system)
