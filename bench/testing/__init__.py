"""The conformance kit: what every method must satisfy, and small things for tests of methods."""

from bench.methods import QuietProgress
from bench.testing.context import TestContext, evaluate, make_context
from bench.testing.kit import CHECKS, assert_conforms, check_method
from bench.testing.planted import make_domain, planted_domain, planted_sources, planted_task
from bench.testing.results import CheckResult
from bench.testing.tripwire import Tripwire, held_out_paths, make_tripwire

__all__ = [
    "CHECKS",
    "CheckResult",
    "QuietProgress",
    "TestContext",
    "Tripwire",
    "assert_conforms",
    "check_method",
    "evaluate",
    "held_out_paths",
    "make_context",
    "make_domain",
    "make_tripwire",
    "planted_domain",
    "planted_sources",
    "planted_task",
]
