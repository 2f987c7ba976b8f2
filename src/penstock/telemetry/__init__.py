"""Emits spans, counters and log fields at every boundary; exporters live elsewhere."""
