"""What one conformance check reports."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["CheckFailed", "CheckResult", "CheckSkipped", "Status"]

Status = Literal["pass", "fail", "skip"]


@dataclass(frozen=True, slots=True)
class CheckResult:
    """Outcome of one named check.

    Attributes:
        id: name of the check.
        status: ``pass``, ``fail`` or ``skip`` (does not apply, or a failure that the method declares
            and explains in ``expected_failures``).
        reason: for ``fail`` what was found, what was expected and what to do; for ``skip`` why; for
            ``pass`` what was measured, or "".
        seconds: wall time, fits included that this check was the first to need.
    """

    id: str
    status: Status
    reason: str
    seconds: float


class CheckFailed(Exception):  # noqa: N818 - an outcome, not an error of this package
    """The method broke the rule; the message says what, what was expected and what to do."""


class CheckSkipped(Exception):  # noqa: N818 - likewise
    """The check does not apply to this method."""
