"""Benchmarks: every figure stands beside a floor that was measured in the same run; `python -m bench` prints them."""
