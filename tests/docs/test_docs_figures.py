"""What the README compares is measured by make bench, and shown as it was measured."""

from __future__ import annotations

from bench.rows import all_rows
from tests.docs.figures import COMPARED, Figure, figures


def test_every_figure_is_a_row_of_make_bench() -> None:
    """A renamed row would leave the README without its figure."""
    named = {name for _, ours, _ in COMPARED for name in ours}
    measured = {row.name if not f.label else f"{row.name}/{f.label}" for row in all_rows() for f in row.figures}
    assert named <= measured


def test_figures_are_shown_in_their_unit_and_missing_ones_left_out() -> None:
    """Two digits of millions, whole thousands, hundredths of milliseconds."""
    rows = [
        Figure("publish-one-by-one", 1_234_567, "events/s"),
        Figure("handle-rows", 987_654, "events/s"),
        Figure("latency/p50", 0.3456, "ms"),
    ]
    text = figures({row.name: row for row in rows})
    assert "1.2 M (pipelined)" in text
    assert "988 k (sync, JSON)" in text
    assert "0.35 (p50)" in text
    assert "async" not in text
