"""Deterministic simulation: your pipeline, our faults, a fault-free twin as the oracle, a seed that replays."""
