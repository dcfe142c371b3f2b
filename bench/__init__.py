"""Benchmark harness for cross-domain sequential recommendation."""

__version__ = "0.1.0"
__all__ = ["__version__"]
