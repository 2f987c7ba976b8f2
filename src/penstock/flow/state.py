"""Rows of partial aggregates by key: append-only frames with an index, so that a step costs what it changes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import polars as pl

_DEAD_ROWS_MIN = 65_536


class KeyedRows:
    """The latest row of every key. Memory: at most about twice the live rows (plus 64 Ki), and the index."""

    def __init__(self, schema: pl.Schema) -> None:
        self._schema = schema
        self._index: dict[bytes, int] = {}
        self._runs: list[pl.DataFrame] = []
        self._height = 0

    def __len__(self) -> int:
        return len(self._index)

    def keys(self) -> Iterable[bytes]:
        """Every key, in no promised order."""
        return self._index.keys()

    def find(self, keys: Sequence[bytes]) -> pl.DataFrame:
        """One row per key, in order; all null where the key is new."""
        at = pl.Series(list(map(self._index.get, keys)), dtype=pl.get_index_type())
        if not self._runs or at.null_count() == len(keys):
            return pl.DataFrame(schema=self._schema).clear(len(keys))
        return pl.concat(self._runs, rechunk=False).select(pl.all().gather(at))

    def put(self, keys: Sequence[bytes], rows: pl.DataFrame) -> None:
        """These are the keys' rows from now on; keys are distinct."""
        self._index.update(zip(keys, range(self._height, self._height + len(keys)), strict=True))
        self._runs.append(rows)
        self._height += len(keys)
        # Runs grow geometrically, so that looking up meets few of them and every row is copied rarely.
        while len(self._runs) > 1 and self._runs[-2].height < 4 * self._runs[-1].height:
            last, before = self._runs.pop(), self._runs.pop()
            self._runs.append(pl.concat([before, last], rechunk=True))
        if self._height > 2 * len(self._index) + _DEAD_ROWS_MIN:
            self._compact()

    def _compact(self) -> None:
        live = self.find(list(self._index))
        self._index = dict(zip(self._index, range(live.height), strict=True))
        self._runs, self._height = [live], live.height
