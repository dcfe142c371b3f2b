"""The command line: one file per group of verbs, each verb a thin call into the package."""

from bench.cli.streams import silent_interrupt

with silent_interrupt():
    from bench.cli.app import app, main

__all__ = ["app", "main"]
