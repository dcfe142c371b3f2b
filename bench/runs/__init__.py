"""Runs: one method trained and scored on one task, a matrix of them, and the store they live in."""
