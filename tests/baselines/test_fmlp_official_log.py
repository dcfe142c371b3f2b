"""FMLP-Rec against the log that its authors ship: Amazon Beauty, 99 uniform negatives, validation.

About ten minutes on one thread. The log counts epochs from 0; its negatives and its order of events of
one day are not ours, hence the tolerance.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.baselines.fmlp.method import FMLPRec, FMLPRecConfig
from bench.data.load import load_domain
from bench.evaluation import Outcomes, metric_per_user
from bench.methods import ValidationFigures
from bench.protocol import ProtocolOptions, build_task
from bench.testing import evaluate, make_context

TOLERANCE = 0.02
COLUMNS = ("hr@1", "hr@5", "ndcg@5", "hr@10", "mrr")
# The training log that the authors' repository holds, after so many epochs of training.
OFFICIAL_LOG = {
    1: (0.0851, 0.2547, 0.1710, 0.3631, 0.1776),
    5: (0.1518, 0.3614, 0.2602, 0.4678, 0.2587),
    10: (0.1950, 0.3990, 0.3019, 0.4954, 0.2995),
}


def figures(outcomes: Outcomes) -> dict[str, float]:
    values = {name: float(metric_per_user(outcomes, name).mean()) for name in COLUMNS[:-1]}
    # Mean reciprocal rank without a cut-off; ties do not occur among real-valued scores.
    values["mrr"] = float(np.mean(1 / (1 + outcomes.n_better)))
    return values


@dataclass
class LoggingContext:
    """The test context, but every validation covers all users and all columns of the log."""

    inner: Any
    requests: Any
    labels: Any
    curve: list[dict[str, float]] = field(default_factory=list)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def validate(self, method: Any) -> ValidationFigures:
        row = figures(evaluate(method, [(self.requests, self.labels)], self.inner))
        self.curve.append(row)
        print(len(self.curve), {name: round(value, 4) for name, value in row.items()}, flush=True)
        return ValidationFigures({5: row["ndcg@5"]}, {}, len(self.requests))


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.timeout(4 * 3600)
@pytest.mark.skipif(not os.environ.get("BENCH_DATA_ROOT"), reason="BENCH_DATA_ROOT is not set")
def test_the_authors_log_on_beauty_is_reproduced(tmp_path: Path) -> None:
    # The authors know no leak guard between domains.
    options = ProtocolOptions(n_negatives=99, keep_leak=True)
    task = build_task(load_domain("amazon-beauty"), options=options)
    requests, labels = task.validation(task.subset(None))
    context: Any = LoggingContext(make_context(tmp_path), requests, labels)
    epochs = max(OFFICIAL_LOG)
    method = FMLPRec(FMLPRecConfig(epochs=epochs, patience=epochs))
    method.fit(task.train_view(with_sources=False), context)

    assert method.report is not None
    for row in method.report.history:
        print(row)
    for epoch, official in OFFICIAL_LOG.items():
        found = context.curve[epoch - 1]
        for name, expected in zip(COLUMNS, official, strict=True):
            assert found[name] == pytest.approx(expected, abs=TOLERANCE), (epoch, name)
