"""Threads of the tests themselves wait as those of the command line do; before any test loads torch."""

from bench.process import quiet_threads

quiet_threads()
