"""Runs: one run, a matrix of runs, the store."""
