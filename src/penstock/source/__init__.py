"""Where events come from: one contract, and files."""

from penstock.source.api import Bad, Chunk, Source, SourceSpec

__all__ = ["Bad", "Chunk", "Source", "SourceSpec"]
