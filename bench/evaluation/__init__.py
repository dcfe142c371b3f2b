"""Scores to metrics: ranks with ties, per-user metrics, intervals, tests. NumPy and SciPy only."""
