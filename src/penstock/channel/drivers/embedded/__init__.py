"""The embedded log as a channel: no server, one directory, every step one transaction."""

from penstock.channel.drivers.embedded.driver import EmbeddedChannel

__all__ = ["EmbeddedChannel"]
