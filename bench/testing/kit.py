"""The conformance kit: named checks that every method has to pass."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from bench.errors import MissingExtraError, unknown_name
from bench.methods import resolve_config
from bench.methods.registry import check_class
from bench.testing import answers, declarations, fitting, scoring
from bench.testing.results import CheckFailed, CheckResult, CheckSkipped
from bench.testing.session import Session, describe

__all__ = ["CHECKS", "assert_conforms", "check_method"]

CHECKS: Mapping[str, Callable[[Session], str]] = {
    "config-round-trip": declarations.check_config,
    "unknown-keys-rejected": declarations.check_unknown_keys,
    "capabilities": declarations.check_capabilities,
    "plan": declarations.check_plan,
    "fits": fitting.check_fits,
    "scores-form": scoring.check_form,
    "candidate-set-sizes": scoring.check_set_sizes,
    "unseen-items": scoring.check_unseen_items,
    "empty-history": scoring.check_empty_history,
    "repeatable-scores": scoring.check_repeatable,
    "batch-invariance": scoring.check_batches,
    "row-order": scoring.check_row_order,
    "candidate-order-invariance": scoring.check_candidate_order,
    "same-seed-same-scores": fitting.check_same_seed,
    "seed-used": fitting.check_seed_used,
    "inputs-unchanged": fitting.check_inputs,
    "global-state-unchanged": fitting.check_global_state,
    "writes-in-scratch-only": fitting.check_writes,
    "nothing-printed": fitting.check_prints,
    "held-out-not-reachable": fitting.check_held_out_reach,
    "held-out-not-used": fitting.check_held_out_changed,
    "answers-not-known": answers.check_answers_changed,
    "candidate-rule-not-known": answers.check_candidate_rule,
    "save-load-round-trip": fitting.check_save_load,
    "learns-planted-pattern": fitting.check_learns,
}
"""Checks that need a configured method, in the order in which they run. ``declarations`` comes first
and stands apart, because without it nothing else can."""

DECLARATIONS = "declarations"

NEVER_EXPLAINED = frozenset(
    {
        "fits",
        "inputs-unchanged",
        "held-out-not-reachable",
        "held-out-not-used",
        "answers-not-known",
        "candidate-rule-not-known",
    }
)
"""Checks without which a figure means nothing; no ``expected_failures`` excuses them."""


def check_method(
    cls: type[Any],
    config: BaseModel | None = None,
    *,
    profile: str = "cpu",
    checks: Iterable[str] | None = None,
) -> list[CheckResult]:
    """Run the conformance checks on a method.

    A method may explain failures that belong to its nature in the class attribute
    ``expected_failures: ClassVar[Mapping[str, str]]`` (check id -> reason). They are reported as
    skipped with the reason; an explained check that passes is a failure, so that the list stays true.
    :data:`NEVER_EXPLAINED` are not excused.

    Args:
        cls: the class; it need not be registered, nor well formed.
        config: its configuration; None resolves ``profile``.
        profile: profile for ``config=None``.
        checks: ids to run; None runs all.

    Returns:
        one result per check, in order.

    Raises:
        ConfigError: an unknown check id or profile.
    """
    wanted = [DECLARATIONS, *CHECKS] if checks is None else list(checks)
    for name in wanted:
        if name != DECLARATIONS and name not in CHECKS:
            raise unknown_name("check", name, [DECLARATIONS, *CHECKS])
    declared = _run(DECLARATIONS, lambda: declarations.check_declared(cls))
    results = [declared] if DECLARATIONS in wanted else []
    if declared.status == "fail" and not _usable(cls):
        reason = "the class is incomplete, see the check `declarations`"
        return [*results, *(CheckResult(n, "skip", reason, 0.0) for n in wanted if n in CHECKS)]
    resolved = config if config is not None else resolve_config(cls, profile=profile)
    with tempfile.TemporaryDirectory(prefix="weavebench-check-") as folder:
        session = Session(cls, resolved, Path(folder))
        expected: Mapping[str, str] = getattr(cls, "expected_failures", {})
        for name in wanted:
            if name in CHECKS:
                session.check = name
                result = _run(name, lambda check=CHECKS[name]: check(session))  # type: ignore[misc]
                results.append(_expect(result, expected.get(name)))
    for name in sorted(set(expected) - set(CHECKS)):
        text = f"expected_failures names the check {name!r}, which does not exist. Remove it."
        results.append(CheckResult(name, "fail", text, 0.0))
    return results


def assert_conforms(
    cls: type[Any],
    config: BaseModel | None = None,
    *,
    profile: str = "cpu",
    checks: Iterable[str] | None = None,
) -> None:
    """Raise AssertionError with every failed check; for the tests of a method.

    Raises:
        AssertionError: at least one check failed.
    """
    results = check_method(cls, config, profile=profile, checks=checks)
    failed = [f"{result.id}: {result.reason}" for result in results if result.status == "fail"]
    if failed:
        raise AssertionError(f"{cls.__qualname__} does not conform:\n" + "\n".join(failed))


def _usable(cls: Any) -> bool:
    """Whether the only fault is missing documentation, so that the other checks can run."""
    try:
        check_class(cls, "")
    except Exception:
        return False
    return True


def _run(name: str, check: Callable[[], str]) -> CheckResult:
    start = time.perf_counter()
    try:
        status, reason = "pass", check()
    except CheckFailed as failure:
        status, reason = "fail", str(failure)
    except CheckSkipped as skipped:
        status, reason = "skip", str(skipped)
    except MissingExtraError as missing:
        status, reason = "skip", f"something optional is not installed: {missing}"
    except Exception as error:  # a method may raise anything; the other checks go on
        status, reason = "fail", f"raised {describe(error)}"
    return CheckResult(name, status, reason, time.perf_counter() - start)  # type: ignore[arg-type]


def _expect(result: CheckResult, reason: str | None) -> CheckResult:
    if reason is None or result.status == "skip":
        return result
    if result.id in NEVER_EXPLAINED:
        text = f"expected_failures names {result.id!r}, which nothing excuses. Remove that entry."
        return CheckResult(result.id, "fail", f"{result.reason} {text}".strip(), result.seconds)
    if result.status == "fail":
        return CheckResult(result.id, "skip", f"expected to fail: {reason}", result.seconds)
    text = f"passes, but expected_failures says: {reason}. Remove that entry."
    return CheckResult(result.id, "fail", text, result.seconds)
