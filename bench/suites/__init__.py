"""Suites: the tables of a paper as YAML files, and the figures it printed. Imports no other room."""

from bench.suites.load import Scale, Suite, load_suite, suite_names

__all__ = ["Scale", "Suite", "load_suite", "suite_names"]
