"""The table of a run under its former name; `benchmarks/step.py` is the last to use it."""

from tasks.run.table import CSVMetrics

__all__ = ["CSVMetrics"]
