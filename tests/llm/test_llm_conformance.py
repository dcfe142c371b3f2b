"""Every LLM method before the conformance kit, with a random tiny backbone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench.methods.config import resolve_config
from bench.methods.registry import resolve
from bench.testing import CHECKS, check_method

LEARNS = "learns-planted-pattern"

# Enough for whatever does not ask what is learnt.
SMALL: dict[str, Any] = {"train_examples": 12, "max_history": 3, "validation_users": 10}
# A random model of 30,000 weights has to learn from nothing what a pretrained one begins with.
LARGE: dict[str, Any] = {
    "train_examples": 300,
    "max_history": 3,
    "validation_users": 10,
    "training.epochs": 12,
    "training.learning_rate": 0.01,
}
ADAPTED = {"requests_per_domain": 6, "adapt.steps": 2, "adapt.batch_requests": 4}

CASES = [
    pytest.param("target-only", {}, id="target-only"),
    *(
        pytest.param(name, changes, id=label, marks=pytest.mark.slow)
        for label, name, changes in (
            ("zero-shot", "llm-zero-shot", {}),
            ("all-data", "all-data", {}),
            ("source-only", "source-only", {}),
            ("tallrec-pointwise", "tallrec", {"variant": "pointwise"}),
            ("tallrec-listwise", "tallrec", {"variant": "listwise"}),
            ("merge-average", "merge-average", {}),
            ("merge-dare", "merge-dare", {}),
            ("adamerging", "adamerging", ADAPTED),
            ("weaverec", "weaverec", {}),
            ("weaverec-by-validation", "weaverec", {"weights": "validation"}),
            ("hybrid-only", "hybrid-only", {}),
            ("seed-average", "seed-average", {}),
            ("all-data-average", "all-data-average", {}),
            ("molorec", "molorec", ADAPTED),
        )
    ),
]


def failures(name: str, backbone: Path, values: dict[str, Any], checks: list[str]) -> list[str]:
    """The failed checks of a method, each with its reason."""
    method_cls = resolve(name)
    known = set(method_cls.Config.model_fields)
    values = {key: value for key, value in values.items() if key.partition(".")[0] in known}
    values |= {"backbone": str(backbone), "batch_tokens": 4096}
    config = resolve_config(method_cls, overrides=values)
    results = check_method(method_cls, config, checks=checks)
    assert len(results) == len(checks)
    return [f"{result.id}: {result.reason}" for result in results if result.status == "fail"]


@pytest.mark.parametrize(("name", "changes"), CASES)
def test_the_kit_finds_no_fault(name: str, changes: dict[str, Any], tiny_llama: Path) -> None:
    checks = ["declarations", *(check for check in CHECKS if check != LEARNS)]
    assert failures(name, tiny_llama, {**SMALL, **changes}, checks) == []


@pytest.mark.slow
def test_the_kit_finds_no_fault_in_generated_lists(tiny_llama: Path) -> None:
    """A minute of generation for every check; these are the ones that lists could fail by themselves."""
    checks = ["scores-form", "candidate-set-sizes", "empty-history", "candidate-order-invariance"]
    changes = {**SMALL, "prompt": "listwise", "scorer": "generate", "title_tokens": 8}
    assert failures("llm-zero-shot", tiny_llama, changes, checks) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "changes"),
    [("target-only", {}), ("all-data", {}), ("weaverec", {"weights": "validation"})],
)
def test_it_learns_the_pattern_of_the_target(
    name: str, changes: dict[str, Any], tiny_llama: Path
) -> None:
    """Adapters of a random backbone go far from their common start, and an average of them loses most of
    what they know; so WeaveRec chooses its weights here, and its plain average is for real backbones."""
    assert failures(name, tiny_llama, {**LARGE, **changes}, [LEARNS]) == []


@pytest.mark.slow
def test_an_adapter_of_another_domain_is_not_expected_to(tiny_llama: Path) -> None:
    """The kit holds the declaration to be true: a source's adapter that passed would be a fault."""
    assert failures("source-only", tiny_llama, SMALL, [LEARNS]) == []
    assert LEARNS in resolve("source-only").expected_failures
