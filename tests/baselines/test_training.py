"""The shared training loop: early stopping, best weights, resume, isolation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import Tensor, nn  # noqa: E402

from bench.baselines.training import LoopConfig, TrainingReport, isolated_randomness, train  # noqa: E402
from bench.errors import MethodError  # noqa: E402
from bench.methods import ValidationFigures  # noqa: E402
from bench.testing import make_context  # noqa: E402


class Killed(BaseException):
    """Stands for a process that dies."""


def noisy_steps(
    model: nn.Module,
) -> Callable[[np.random.Generator], Sequence[Callable[[], Tensor]]]:
    """A regression whose data come from NumPy's and whose noise from torch's generator."""

    def steps(rng: np.random.Generator) -> Sequence[Callable[[], Tensor]]:
        def step() -> Tensor:
            x = torch.from_numpy(rng.normal(size=(16, 3)).astype(np.float32))
            y = x.sum(1, keepdim=True)
            noise = nn.functional.dropout(torch.ones(16, 1), 0.3)
            return ((model(x) - y) * noise).square().mean()

        return [step] * 5

    return steps


def linear(seed: int = 0) -> nn.Linear:
    with isolated_randomness(seed):
        return nn.Linear(3, 1)


def test_a_killed_run_resumes_with_the_result_of_an_uninterrupted_one(tmp_path: Path) -> None:
    config = LoopConfig(epochs=6, patience=6, learning_rate=0.05)

    def run(folder: Path, die_after: int | None) -> nn.Module:
        folder.mkdir(exist_ok=True)
        model, calls = linear(), []

        def validate() -> float:
            calls.append(1)
            if die_after is not None and len(calls) > die_after:
                raise Killed
            return -float((model.weight - 1).abs().sum().detach())

        train(
            model,
            noisy_steps(model),
            config=config,
            context=make_context(folder),
            validate=validate,
        )
        return model

    whole = run(tmp_path / "whole", None)
    for die_after in (1, 3):
        folder = tmp_path / f"killed-{die_after}"
        with pytest.raises(Killed):
            run(folder, die_after)
        resumed = run(folder, None)
        assert torch.equal(whole.weight, resumed.weight)
        assert torch.equal(whole.bias, resumed.bias)


def test_the_best_weights_survive_a_kill_in_a_later_epoch(tmp_path: Path) -> None:
    config = LoopConfig(epochs=3, learning_rate=0.05)

    def run(name: str, *figures: float) -> nn.Module:
        """Ends by a kill where the figures do."""
        model, left = linear(), list(figures)

        def validate() -> float:
            if not left:
                raise Killed
            return left.pop(0)

        context = make_context(tmp_path / name)
        report = train(model, noisy_steps(model), config=config, context=context, validate=validate)
        assert report.best_epoch == 1
        return model

    whole = run("whole", 0.9, 0.1, 0.2)
    with pytest.raises(Killed):
        run("killed", 0.9)
    resumed = run("killed", 0.1, 0.2)
    assert torch.equal(whole.weight, resumed.weight)
    assert torch.equal(whole.bias, resumed.bias)


def test_stops_after_patience_and_restores_the_best_weights(tmp_path: Path) -> None:
    model = linear()
    figures = iter([0.1, 0.5, 0.3, 0.4, 0.2, 0.9])
    seen: list[Tensor] = []

    def validate() -> float:
        seen.append(model.weight.detach().clone())
        return next(figures)

    report = train(
        model,
        noisy_steps(model),
        config=LoopConfig(epochs=50, patience=3),
        context=make_context(tmp_path),
        validate=validate,
    )
    assert (report.best_epoch, len(report.history), report.stopped) == (2, 5, "patience")
    assert torch.equal(model.weight, seen[1])
    assert not torch.equal(model.weight, seen[4])
    assert not model.training


def test_a_stage_without_validation_trains_all_epochs_and_keeps_the_last_weights(
    tmp_path: Path,
) -> None:
    def run(folder: Path, epochs: int) -> tuple[nn.Linear, TrainingReport]:
        model = linear()
        report = train(
            model,
            noisy_steps(model),
            config=LoopConfig(epochs=epochs, patience=1, learning_rate=0.05),
            context=make_context(tmp_path),
            validate=None,
            folder=folder,
            seed=7,
        )
        return model, report

    whole, report = run(tmp_path / "a", 5)
    assert (report.best_epoch, report.stopped) == (5, "epochs")
    assert all("ndcg@5" not in entry for entry in report.history)
    shorter, _ = run(tmp_path / "b", 3)
    assert not torch.equal(whole.weight, shorter.weight)
    resumed, _ = run(tmp_path / "b", 5)
    assert torch.equal(whole.weight, resumed.weight)
    assert not (tmp_path / "checkpoint.pt").exists()


def test_stages_differ_by_their_seed(tmp_path: Path) -> None:
    def weights(seed: int | None, name: str) -> Tensor:
        model = linear()
        train(
            model,
            noisy_steps(model),
            config=LoopConfig(epochs=1),
            context=make_context(tmp_path, seed=3),
            validate=None,
            folder=tmp_path / name,
            seed=seed,
        )
        return model.weight.detach()

    assert torch.equal(weights(3, "a"), weights(None, "b"))
    assert not torch.equal(weights(3, "c"), weights(4, "d"))


def test_runs_out_of_epochs(tmp_path: Path) -> None:
    model = linear()
    figures = iter([0.1, 0.2, 0.3])
    report = train(
        model,
        noisy_steps(model),
        config=LoopConfig(epochs=3, patience=2),
        context=make_context(tmp_path),
        validate=lambda: next(figures),
    )
    assert (report.best_epoch, report.stopped) == (3, "epochs")
    assert [h["epoch"] for h in report.history] == [1, 2, 3]


def test_a_diverged_loss_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    model = linear()

    def steps(rng: np.random.Generator) -> Sequence[Callable[[], Tensor]]:
        return [lambda: model.weight.sum() * float("nan")]

    with pytest.raises(MethodError, match=r"nan in epoch 1, step 1.*learning rate"):
        train(
            model,
            steps,
            config=LoopConfig(),
            context=make_context(tmp_path),
            validate=lambda: 0.0,
        )


def test_nothing_to_train_on_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(MethodError, match="nothing to train on"):
        train(
            linear(),
            lambda rng: [],
            config=LoopConfig(),
            context=make_context(tmp_path),
            validate=lambda: 0.0,
        )


def test_torch_generators_are_left_as_they_were() -> None:
    before = torch.get_rng_state()
    with isolated_randomness(7, 3):
        inside = torch.rand(3)
    assert torch.equal(before, torch.get_rng_state())
    with isolated_randomness(7, 3):
        assert torch.equal(inside, torch.rand(3))
    with isolated_randomness(7, 4):
        assert not torch.equal(inside, torch.rand(3))


def figures(ndcg5: float, *, n_users: int = 900) -> ValidationFigures:
    """Validation figures of 30 candidates, where equal scores give 0.0983."""
    return ValidationFigures({5: ndcg5}, {}, n_users, {5: 0.0983})


def trained(
    folder: Path, ndcg5: Sequence[float], *, loss: float, chance_loss: float | None
) -> TrainingReport:
    """The report of a training that has these figures, one per epoch, and a constant loss."""
    model, left = linear(), iter(ndcg5)

    def step() -> Tensor:
        return model.weight.sum() * 0 + loss

    return train(
        model,
        lambda rng: [step] * 4,
        config=LoopConfig(epochs=len(ndcg5)),
        context=make_context(folder),
        validate=lambda: figures(next(left)),
        chance_loss=chance_loss,
    )


def test_a_training_that_has_left_chance_has_no_warning(tmp_path: Path) -> None:
    report = trained(tmp_path, [0.2, 0.3], loss=3.0, chance_loss=4.0)
    assert report.warnings == []
    assert "warnings" not in report.as_dict()
    assert [entry["steps"] for entry in report.history] == [4, 4]


def test_a_loss_near_that_of_equal_scores_is_a_warning_in_log_and_report(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    report = trained(tmp_path, [0.2, 0.3], loss=3.9, chance_loss=4.0)
    (text,) = report.as_dict()["warnings"]
    assert "after 8 steps" in text and "3.900" in text and "4.000" in text
    assert text in caplog.text
    # Without the loss of equal scores there is nothing to compare with.
    assert trained(tmp_path / "b", [0.3], loss=3.9, chance_loss=None).warnings == []


def test_a_validation_figure_that_may_be_chance_is_a_warning(tmp_path: Path) -> None:
    # 900 users: 0.0983 and three times 0.0099.
    (text,) = trained(tmp_path / "a", [0.10, 0.12], loss=1.0, chance_loss=4.0).warnings
    assert "0.1200" in text and "0.1281" in text
    assert trained(tmp_path / "b", [0.10, 0.14], loss=1.0, chance_loss=4.0).warnings == []


def test_a_training_that_was_killed_after_its_last_epoch_has_the_same_warnings(
    tmp_path: Path,
) -> None:
    first = trained(tmp_path, [0.10, 0.12], loss=3.9, chance_loss=4.0)
    again = trained(tmp_path, [0.90, 0.90], loss=1.0, chance_loss=4.0)
    assert again.history == first.history
    assert again.warnings == first.warnings != []


def test_warnings_of_stages_stand_beside_those_of_the_training() -> None:
    stage = TrainingReport([{"epoch": 1}], 1, "epochs", warnings=["too short"]).as_dict()
    report = TrainingReport([{"epoch": 1}], 1, "epochs", {"stage-1": stage}, ["at chance"])
    stored = report.as_dict()
    assert stored["warnings"] == ["stage-1: too short", "at chance"]
    assert TrainingReport.from_dict(stored) == report


def test_all_users_are_one_setting_however_it_is_written() -> None:
    every = [LoopConfig(), *(LoopConfig(validation_users=users) for users in ("all", None))]
    assert all(config.identity()["validation_users"] is None for config in every)
    assert LoopConfig(validation_users=12).validation_users == 12
    for wrong in (0, "some"):
        with pytest.raises(ValueError, match="validation_users"):
            LoopConfig(validation_users=wrong)
