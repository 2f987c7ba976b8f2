"""Seeded chance: the same seed gives the same draws on every machine and Python version that we support."""

from __future__ import annotations

from random import Random

__all__ = ["Random", "seeded"]


def seeded(*parts: int | str) -> Random:
    """A source of chance of its own for these parts, such as a seed and a purpose."""
    return Random("/".join(map(str, parts)))
