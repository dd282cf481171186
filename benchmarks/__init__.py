"""Measurements, each a ratio against a bare relay in the same run. `python -m benchmarks` runs them all."""
