"""A fit that is killed in the middle of an epoch, and one that goes on from what it left."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import count
from typing import Any

import pytest
import torch

from bench.methods import Method, Progress, QuietProgress, ValidationFigures
from bench.testing import TestContext


class Epochs(QuietProgress):
    """Counts the epochs of all stages of a fit, and kills one of them after its first step.

    Args:
        killed_in: the epoch, from 1; None for a fit that runs to its end.
    """

    def __init__(self, killed_in: int | None = None) -> None:
        self.begun = 0
        self.killed_in = killed_in

    def track(
        self, items: Iterable[Any], *, total: Any = None, description: str = "", more: int = 0
    ) -> Any:
        if not description.startswith("epoch "):
            return items
        self.begun += 1
        return self._killed(items) if self.begun == self.killed_in else items

    def _killed(self, items: Iterable[Any]) -> Iterator[Any]:
        yield next(iter(items))
        raise KeyboardInterrupt


def assert_resumes(fit: Callable[[str, Progress], torch.nn.Module], *, killed_in: int) -> None:
    """A killed fit goes on with the epoch that it was killed in, to the weights of a whole fit.

    Validation figures rise from epoch to epoch, so that the last weights are those that are kept.

    Args:
        fit: fits a method below the named folder, reporting to the progress, and returns its model.
        killed_in: epoch over all stages, from 1.
    """
    undisturbed, resumed = Epochs(), Epochs()
    validate, figures = TestContext.validate, count()

    def rising(self: TestContext, method: Method) -> Any:
        validate(self, method)
        return ValidationFigures({5: float(next(figures))}, {}, 1)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TestContext, "validate", rising)
        whole = fit("whole", undisturbed).state_dict()
        with pytest.raises(KeyboardInterrupt):
            fit("killed", Epochs(killed_in))
        again = fit("killed", resumed).state_dict()
    assert resumed.begun == undisturbed.begun - killed_in + 1
    assert whole.keys() == again.keys()
    assert [name for name in whole if not torch.equal(whole[name], again[name])] == []
