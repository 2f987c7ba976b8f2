"""The embedded log: blocks, offsets, transactions in one SQLite file; knows nothing of flows."""
