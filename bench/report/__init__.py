"""Stored runs to tables: :func:`bench.report.leaderboard.build_table` and its writers.

Reads runs through ``bench.runs.store`` and figures through ``bench.evaluation``; imports no method and
no deep-learning library, so that tables can be made anywhere.
"""
