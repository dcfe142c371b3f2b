"""The shared schedule of learning rates, and AdamW."""

from __future__ import annotations

import pytest
import torch

from bench.baselines.schedules import adamw, linear_rate, scheduled, steps_taken


class TestSchedule:
    def test_rises_and_falls(self) -> None:
        rates = [linear_rate(step, warmup=2, total=6) for step in range(8)]
        assert rates == pytest.approx([0.5, 1, 1, 0.75, 0.5, 0.25, 0, 0])

    def test_no_warmup(self) -> None:
        assert linear_rate(0, warmup=0, total=4) == 1

    def test_equals_transformers_schedule_from_its_second_step_on(self) -> None:
        from transformers import get_linear_schedule_with_warmup

        weight = torch.nn.Parameter(torch.zeros(1))
        optimiser = torch.optim.SGD([weight], lr=1.0)
        theirs = get_linear_schedule_with_warmup(optimiser, 3, 9)
        rates = []
        for _ in range(9):
            rates.append(theirs.get_last_lr()[0])
            optimiser.step()
            theirs.step()
        ours = [linear_rate(step, warmup=3, total=9) for step in range(9)]
        # Theirs spends its first step at a rate of 0, and is at the peak a step later.
        assert ours[:3] == pytest.approx(rates[1:4])
        assert ours[3:] == pytest.approx(rates[3:])

    def test_the_optimiser_counts_the_steps(self) -> None:
        model = torch.nn.Linear(2, 2)
        optimiser = adamw(model, learning_rate=0.1)
        rates = []

        def loss() -> torch.Tensor:
            rates.append(optimiser.param_groups[0]["lr"])
            return model(torch.ones(1, 2)).sum()

        for step in scheduled([loss] * 3, optimiser, learning_rate=0.1, warmup=2, total=4):
            step().backward()
            optimiser.step()
        assert rates == pytest.approx([0.05, 0.1, 0.1])
        assert steps_taken(optimiser) == 3
        resumed = adamw(model, learning_rate=0.1)
        assert steps_taken(resumed) == 0
        resumed.load_state_dict(optimiser.state_dict())
        assert steps_taken(resumed) == 3

    def test_vectors_are_not_decayed_and_frozen_ones_not_trained(self) -> None:
        model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.LayerNorm(3))
        model[0].bias.requires_grad_(False)
        decayed, plain = adamw(model, learning_rate=0.1, weight_decay=0.2).param_groups
        assert [p.shape for p in decayed["params"]] == [(3, 2)]
        assert [p.shape for p in plain["params"]] == [(3,), (3,)]
        assert (decayed["weight_decay"], plain["weight_decay"]) == (0.2, 0.0)
