"""Methods of several branches: what is trained, what is shared, and what the merge serves."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.errors import ConfigError, InUseError
from bench.evaluation import metric_per_user
from bench.io import lock
from bench.llm.adapters import AdapterStore
from bench.llm.methods.branches import AdapterMethod, Branch
from bench.merging import MERGERS, read_adapter
from bench.merging.registry import merging_name
from bench.methods.config import resolve_config
from bench.methods.registry import resolve
from bench.protocol.task import Task, build_task
from bench.testing import evaluate, make_context
from bench.testing.planted import planted_domain
from bench.waiting import patience

BUDGET = {
    "train_examples": 12,
    "max_history": 5,
    "validation_users": 20,
    "lora.r": 4,
    "training.learning_rate": 0.01,
}
DOMAINS = ("north", "east", "south", "west")
MERGES = tuple(map(merging_name, MERGERS))


def make(name: str, backbone: Path, **changes: Any) -> AdapterMethod:
    method_cls = resolve(name)
    method = method_cls(
        resolve_config(method_cls, overrides={**BUDGET, "backbone": str(backbone), **changes})
    )
    assert isinstance(method, AdapterMethod)
    return method


def task_of(target: str, sources: tuple[str, ...]) -> Task:
    """A task of one domain of the study group; the domains differ in their users' walks."""
    made = {
        name: planted_domain(name, n_users=40, n_items=45, seed=number)
        for number, name in enumerate(DOMAINS)
    }
    return build_task(made[target], sources=[made[name] for name in sources])


def others(target: str) -> tuple[str, ...]:
    return tuple(name for name in DOMAINS if name != target)


def run(method: AdapterMethod, task: Task, folder: Path, store: AdapterStore, **changes: Any):
    context = make_context(folder, task, validation_users=20, adapters=store, **changes)
    needs = type(method).capabilities(method.config).needs_sources
    method.fit(task.train_view(with_sources=needs), context)
    return context


def trained(store: AdapterStore) -> int:
    """How many adapters were trained through this instance of the store."""
    return sum(use.kind == "trained" and use.trained_now for use in store.used)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "adapters"


def test_a_branch_that_is_in_work_elsewhere_is_left_for_the_end(tiny_llama, tmp_path, root):
    """Held by "another process" until the other branch is trained; then it is trained here as well."""
    method, task = make("merge-average", tiny_llama), task_of("north", ("east",))
    store = AdapterStore(root)
    context = make_context(tmp_path / "plan", task, validation_users=20, adapters=store)
    view = task.train_view(with_sources=True)
    first = method._recipe(Branch(("north",)), context)
    wanted = first.spec([("north", view.target.training_hash)]).adapter_id
    stack = ExitStack()
    stack.enter_context(lock(root / ".work" / wanted))
    order: list[str] = []

    def note(uses, seconds: float, cpu_seconds: float) -> None:
        order.extend(use.label.partition(",")[0] for use in uses if use.kind == "trained")
        if order:
            stack.close()

    store.watch(note)
    run(method, task, tmp_path / "run", store)
    assert order[:2] == ["east", "north"]
    assert trained(store) == 2
    # Alone, there is nothing else to do: it waits, and no longer than it was told to.
    other = AdapterStore(tmp_path / "other")
    with (
        lock(other.root / ".work" / wanted),
        patience(0.1),
        pytest.raises(InUseError, match=f"adapter {wanted[:8]}"),
    ):
        run(make("target-only", tiny_llama), task, tmp_path / "alone", other)


def test_four_targets_train_four_single_and_six_hybrid_adapters(tiny_llama, tmp_path, root):
    counts = []
    for target in DOMAINS:
        store = AdapterStore(root)
        task = task_of(target, others(target))
        run(make("weaverec", tiny_llama), task, tmp_path / target, store)
        counts.append(trained(store))
    assert counts == [4, 3, 2, 1]
    kinds = [a for a in AdapterStore(root).list() if a.kind == "trained"]
    assert len(kinds) == 10


def test_all_data_is_trained_once_for_all_targets_with_equal_shares(tiny_llama, tmp_path, root):
    counts = []
    for target in DOMAINS:
        store = AdapterStore(root)
        task = task_of(target, others(target))
        run(make("all-data", tiny_llama), task, tmp_path / target, store)
        counts.append(trained(store))
        run(make("target-only", tiny_llama), task, tmp_path / target / "alone", store)
    assert counts == [1, 0, 0, 0]
    adapters = [a for a in AdapterStore(root).list() if a.kind == "trained"]
    (whole,) = (a for a in adapters if len(a.metadata["recipe"]["mixture"]) == 4)
    assert {part["n_examples"] for part in whole.metadata["recipe"]["mixture"]} == {12}
    # Every domain gives the examples that its own adapter is trained on.
    tokens = [a.metadata["report"]["tokens"] for a in adapters if a is not whole]
    assert len(tokens) == 4
    assert whole.metadata["report"]["tokens"] == sum(tokens)
    # All begin with the same stored draw.
    assert len({a.metadata["init_hash"] for a in adapters}) == 1


def test_another_source_trains_only_its_own_hybrid(tiny_llama, tmp_path, root):
    for sources, expected in ((("east",), 2), (("east", "south"), 1), (("south",), 0)):
        store = AdapterStore(root)
        run(
            make("weaverec", tiny_llama),
            task_of("north", sources),
            tmp_path / "-".join(sources),
            store,
        )
        assert trained(store) == expected


def test_without_sources_it_is_target_only(tiny_llama, tmp_path, root):
    task = task_of("north", ())
    served = []
    for name, changes in (
        ("weaverec", {}),
        ("weaverec", {"weights": "validation"}),
        ("target-only", {}),
    ):
        method = make(name, tiny_llama, **changes)
        run(method, task, tmp_path / name, AdapterStore(root))
        served.append(method.adapter)
    assert len(set(served)) == 1


@pytest.mark.parametrize("space", ["factor", "product"])
def test_all_weight_on_the_target_scores_as_target_only(space, tiny_llama, tmp_path, root):
    task = task_of("north", ("east", "south"))
    values = []
    requests, _ = task.validation(task.subset(10))
    for name, changes in (("weaverec", {"alpha": 0.0, "space": space}), ("target-only", {})):
        method = make(name, tiny_llama, **changes)
        context = run(method, task, tmp_path / f"{name}-{space}", AdapterStore(root))
        values.append(method.score(requests, context).values)
    if space == "factor":
        assert np.array_equal(*values)
    else:  # the same update, written with a larger rank: other sums, other rounding
        np.testing.assert_allclose(*values, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "option"), [("weaverec", "weights"), ("all-data-average", "general")]
)
def test_what_validation_chose_is_told_and_described_last(
    name, option, tiny_llama, tmp_path, root, monkeypatch
):
    task = task_of("north", ("east",))
    method = make(name, tiny_llama, **{option: "validation", "prior_share": 0.0})
    figures = []
    context = make_context(tmp_path, task, validation_users=20, adapters=AdapterStore(root))
    validate = type(context).validate

    def noting(self, one):
        found = validate(self, one)
        figures.append(found.ndcg[1])
        return found

    monkeypatch.setattr(type(context), "validate", noting)
    method.fit(task.train_view(with_sources=True), context)
    assert method.report is not None
    tried = method.report["validation_ndcg@1_by_merge"]
    assert len(tried) == 5 == len(figures) - 1
    assert list(tried.values()) == pytest.approx(figures[:-1], abs=1e-6)
    assert tried[method.report["chosen_by_validation"]] == max(tried.values())
    assert figures[-1] == pytest.approx(max(tried.values()), abs=1e-6)


def test_options_that_do_not_fit_the_branches_are_refused_before_training(
    tiny_llama, tmp_path, root
):
    task = task_of("north", ("east", "south"))
    for number, (name, changes, message) in enumerate(
        (
            ("merge-average", {"merge.weights": [0.5, 0.5]}, "2 weights for 3 adapters"),
            ("merge-task-arithmetic", {"merge.reference": 7}, "at most 2"),
            ("merge-lora-lego", {"merge.k": 100}, "choose k of at most 12"),
            ("weaverec", {"merger": "dare", "merge.weights": [1.0]}, "1 weights for 3"),
        )
    ):
        store = AdapterStore(root)
        with pytest.raises(ConfigError, match=message):
            run(make(name, tiny_llama, **changes), task, tmp_path / str(number), store)
        assert not trained(store)


def test_a_merge_tells_what_it_lost(tiny_llama, tmp_path, root, caplog):
    task = task_of("north", ("east",))
    empty = make("merge-ties", tiny_llama, **{"merge.trim": "global", "merge.density": 0.01})
    cut = make("merge-average", tiny_llama, **{"merge.space": "product", "merge.rank": 1})
    for number, method in enumerate((empty, empty, cut)):
        # A merge that is found in the store is told of as well.
        run(method, task, tmp_path / str(number), AdapterStore(root))
        assert method.report is not None
        told = method.report["merge"]
        if method is empty:
            assert "left nothing of B" in told["warnings"][0]
        else:
            assert 0 < told["error"] < 1
    assert sum("left nothing of B" in record.message for record in caplog.records) == 2


def test_a_factor_average_keeps_the_rank(tiny_llama, tmp_path, root):
    store = AdapterStore(root)
    task = task_of("north", ("east", "south"))
    for space, rank in (("factor", 4), ("product", 12)):
        method = make("weaverec", tiny_llama, space=space)
        run(method, task, tmp_path / space, store)
        assert method.adapter is not None
        (merged,) = [a for a in store.list() if a.folder == method.adapter]
        assert merged.kind == "merged"
        assert read_adapter(merged.folder).config.r == rank


def test_weights_by_validation_are_never_worse_there_than_either_end(tiny_llama, tmp_path, root):
    task = task_of("north", ("east",))

    def validated(**changes: Any) -> float:
        method = make("weaverec", tiny_llama, **changes)
        name = "-".join(f"{k}{v}" for k, v in changes.items())
        context = run(method, task, tmp_path / name, AdapterStore(root))
        return context.validate(method).ndcg[1]

    chosen = validated(weights="validation")
    assert chosen >= max(validated(alpha=0.0), validated(alpha=1.0), validated(alpha=0.5))


@pytest.mark.parametrize("name", MERGES)
def test_merging_baselines_share_the_single_domain_adapters(name, tiny_llama, tmp_path, root):
    task = task_of("north", ("east", "south"))
    first = AdapterStore(root)
    run(make("target-only", tiny_llama), task, tmp_path / "t", first)
    store = AdapterStore(root)
    method = make(name, tiny_llama)
    context = run(method, task, tmp_path / name, store)
    assert trained(store) == 2  # one per source; the target's is shared
    outcomes = evaluate(method, task.test(task.subset(10)), context)
    assert np.isfinite(metric_per_user(outcomes, "ndcg@5")).all()


def test_ties_can_measure_factors_against_the_initialisation(tiny_llama, tmp_path, root):
    task = task_of("north", ("east",))
    served = []
    for reference in ("zero", "init"):
        method = make("merge-ties", tiny_llama, **{"merge.factor_reference": reference})
        run(method, task, tmp_path / reference, AdapterStore(root))
        served.append(method.adapter)
    assert served[0] != served[1]


def test_any_merger_takes_the_place_of_the_average(tiny_llama, tmp_path, root):
    task = task_of("north", ("east",))
    store = AdapterStore(root)
    folders = set()
    for merger, options in (
        ("weight-average", {}),
        ("ties", {"merge.density": 0.5}),
        ("lora-lego", {}),
        ("dare", {"merge.drop_rate": 0.1}),
    ):
        method = make("weaverec", tiny_llama, merger=merger, **options)
        run(method, task, tmp_path / merger, store)
        folders.add(method.adapter)
    assert len(folders) == 4
    assert trained(store) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"merger": "ties", "alpha": 0.5}, "alpha and weights belong to weight-average"),
        ({"merge.density": 0.2}, "takes alpha, weights and space"),
        ({"merger": "ties", "merge.densty": 0.2}, "densty"),
        ({"merger": "ties", "space": "product"}, "merge.space"),
        ({"alpha": 0.5, "weights": "validation"}, "alpha fixes the weights"),
    ],
)
def test_options_that_contradict_each_other_are_refused(changes, message, tiny_llama):
    with pytest.raises(ConfigError, match=message):
        make("weaverec", tiny_llama, **changes)


def test_controls_train_what_they_say(tiny_llama, tmp_path, root):
    task = task_of("north", ("east", "south"))
    store = AdapterStore(root)
    run(make("weaverec", tiny_llama), task, tmp_path / "w", store)
    steps = sum(a.metadata["report"]["steps"] for a in store.list() if a.kind == "trained")
    before = {a.adapter_id for a in store.list()}
    run(make("hybrid-only", tiny_llama), task, tmp_path / "h", store)
    (hybrid,) = [a for a in store.list() if a.kind == "trained" and a.adapter_id not in before]
    # Every training rounds its last, partial batch up.
    assert abs(hybrid.metadata["report"]["steps"] - steps) <= 3
    assert len(hybrid.metadata["recipe"]["mixture"]) == 5
    fresh = AdapterStore(root)
    run(make("seed-average", tiny_llama), task, tmp_path / "s", fresh)
    assert trained(fresh) == 1
    ids = {use.adapter_id for use in fresh.used if use.kind == "trained"}
    two = [a for a in fresh.list() if a.adapter_id in ids]
    assert len({a.metadata["recipe"]["order_seed"] for a in two}) == 2
    assert len({a.metadata["init_hash"] for a in two}) == 1
