"""Every row runs end to end on the product, with few events: what it gives has a shape, its speed is not looked at."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from bench.row import Row
from bench.rows import all_rows
from bench.runner import name_of, run_row


@pytest.mark.parametrize("row", all_rows(), ids=lambda row: row.name)
def test_a_row_measures_the_product(row: Row, tmp_path: Path) -> None:
    results = run_row(row, tmp_path, pairs=1, quick=True, progress=lambda _: None)
    assert [result.name for result in results] == [name_of(row, figure) for figure in row.figures]
    for result in results:
        assert result.value is not None
        assert result.ratio is not None
        assert all(math.isfinite(number) and number > 0 for number in (result.value, result.floor, result.ratio))
        assert isinstance(result.met, bool)
        assert result.quick
        assert len(result.pairs) == 1
    assert list(tmp_path.iterdir()) == []
