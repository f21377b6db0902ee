"""Timings and memory, as ratios to peers. `python -m benchmarks.NAME [--json]`; exit code 1: a goal missed.

Timings live here and never in tests: a test must not fail because the machine is busy.
"""
