"""What one benchmark is: a workload with a floor and a measurement, and the figures both of them give."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bench.stats import Better

Figures = Mapping[str, float]
"""Name of a figure (see `Figure.key`) → what was measured, in the figure's unit; always more than 0."""


class NotBuilt(Exception):
    """The product cannot do this yet; the row shows its floor and says so."""


@dataclass(frozen=True, slots=True)
class Budget:
    """A limit for the ratio to the floor, or for the value itself; at least or at most follows from `Figure.better`."""

    limit: float
    of: Literal["ratio", "value"] = "ratio"


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the result.

    `key` names the entry of `measure()`; `floor` the entry of `floor()`, the same name unless said otherwise. `label`
    is appended to the row's name when the row has several figures.
    """

    key: str
    unit: str
    better: Better
    budget: Budget
    floor: str = ""
    label: str = ""

    @property
    def floor_key(self) -> str:
        """The entry of `floor()` this figure is compared with."""
        return self.floor or self.key


class Row(ABC):
    """One workload. The runner calls `setup` once, then `floor` and `measure` in turn, then `close`.

    `floor` and `measure` do the same work, on the same data and disk, in as many processes; each call starts afresh
    and returns every figure's entry. With `any_of` the row is met when one of its budgets is.
    """

    name: str
    workload: str
    figures: tuple[Figure, ...]
    any_of: bool = False

    @abstractmethod
    def setup(self, directory: Path, *, quick: bool) -> None:
        """Prepare data, unmeasured. `directory` is empty, on a real disk, and removed afterwards."""

    @abstractmethod
    def floor(self) -> Figures:
        """Do the work with nothing around it."""

    @abstractmethod
    def measure(self) -> Figures:
        """Do the work with Penstock.

        Raises:
            NotBuilt: the product cannot do it yet.
        """

    def close(self) -> None:  # noqa: B027 - most rows own nothing
        """Release what `setup` opened; called also after a failure, and then perhaps before `setup` ended."""
