"""AdaMerging as users run it: on planted domains, with a random tiny backbone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.errors import ConfigError, MethodError
from bench.llm.adapters import AdapterStore
from bench.llm.methods.adamerging import AdaMerging
from bench.merging import read_adapter
from bench.methods import PlanSpec
from bench.methods.config import resolve_config
from bench.methods.registry import resolve
from bench.protocol.task import Task, build_task
from bench.testing import evaluate, make_context
from bench.testing.planted import planted_domain

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")

DOMAINS = ("north", "east", "south")
BUDGET = {
    "train_examples": 12,
    "max_history": 5,
    "validation_users": 20,
    "lora.r": 4,
    "training.learning_rate": 0.01,
    "requests_per_domain": 6,
    "adapt.steps": 4,
    "adapt.batch_requests": 3,
    "adapt.learning_rate": 0.1,
}


def make(backbone: Path, **changes: Any) -> AdaMerging:
    values = {**BUDGET, "backbone": str(backbone), **changes}
    return AdaMerging(resolve_config(AdaMerging, overrides=values))


def task_of(target: str, sources: tuple[str, ...]) -> Task:
    made = {
        name: planted_domain(name, n_users=40, n_items=45, seed=number)
        for number, name in enumerate(DOMAINS)
    }
    return build_task(made[target], sources=[made[name] for name in sources])


def fitted(method: AdaMerging, task: Task, folder: Path, store: AdapterStore, **changes: Any):
    needs = type(method).capabilities(method.config)
    context = make_context(folder, task, validation_users=20, adapters=store, **changes)
    method.fit(
        task.train_view(with_sources=True, transductive=needs.transductive),
        context,
    )
    return context


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store in which equal adapters are trained once for several tests."""
    return tmp_path_factory.mktemp("shared") / "adapters"


def made_now(store: AdapterStore, kind: str) -> int:
    return sum(use.kind == kind and use.trained_now for use in store.used)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"entropy": "token", "first_tokens": 2},
        {"adapt_on": "test", "adapt.layer_wise": False},
        {"prompt": "listwise", "max_history": 3, "train_examples": 4},
        {"prompt": "pointwise", "train_examples": 4},
        {"normalise": "tokens"},
    ],
)
def test_it_fits_and_scores_like_any_method(changes, tiny_llama, tmp_path, shared):
    task = task_of("north", ("east",))
    store = AdapterStore(shared)
    method = make(tiny_llama, **changes)
    context = fitted(method, task, tmp_path / "c", store)
    assert made_now(store, "merged") == 1
    outcomes = evaluate(method, task.test(task.subset(10)), context)
    assert len(outcomes) == 10
    assert (outcomes.ranked).all()
    (merged,) = [a for a in store.list() if a.folder == method.adapter]
    report = merged.metadata["report"]
    assert len(report["entropies"]) == 4
    assert {name: len(users) for name, users in report["users"].items()} == {"north": 6, "east": 6}
    assert read_adapter(merged.folder).config.r == 8


def test_no_label_and_no_figure_is_asked_for(tiny_llama, tmp_path):
    """``fit`` sees views of requests only; a context that cannot validate is enough for it."""
    task = task_of("north", ("east",))
    context = make_context(
        tmp_path / "c", task, validation_users=20, adapters=AdapterStore(tmp_path / "adapters")
    )
    blind = replace(context, validator=None)
    method = make(tiny_llama, prior_share=0.0)
    method.fit(task.train_view(with_sources=True), blind)
    with pytest.raises(MethodError, match="cannot validate"):
        blind.validate(method)


def test_the_order_of_candidates_tells_it_nothing(tiny_llama, tmp_path):
    """Candidates in another order, as a label in a fixed place would be: the same coefficients."""
    task = task_of("north", ("east",))
    view = task.train_view(with_sources=True)
    found = []
    for name, turn in (("a", 0), ("b", 7)):
        validation = view.target.validation
        turned = replace(validation, candidates=np.roll(validation.candidates, turn, axis=1))
        store = AdapterStore(tmp_path / name)
        context = make_context(tmp_path / f"c{name}", task, validation_users=20, adapters=store)
        method = make(tiny_llama)
        method.fit(replace(view, target=replace(view.target, validation=turned)), context)
        (merged,) = [a for a in store.list() if a.kind == "merged"]
        found.append(merged.metadata["report"]["weights"])
    for module, row in found[0].items():
        assert row == pytest.approx(found[1][module], abs=1e-4)


def test_targets_of_a_group_share_the_adapted_merge(tiny_llama, tmp_path):
    """Validation requests are the same whoever is the target, so one adaptation serves all."""
    root, counts, served = tmp_path / "adapters", [], set()
    for target in DOMAINS:
        store = AdapterStore(root)
        method = make(tiny_llama)
        others = tuple(name for name in DOMAINS if name != target)
        fitted(method, task_of(target, others), tmp_path / target, store)
        counts.append((made_now(store, "trained"), made_now(store, "merged")))
        served.add(method.adapter)
    assert counts == [(3, 1), (0, 0), (0, 0)]
    assert len(served) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"adapt.steps": 5},
        {"adapt.layer_wise": False},
        {"entropy": "token"},
        {"adapt_on": "test"},
        {"requests_per_domain": 5},
        {"normalise": "bytes"},
    ],
)
def test_other_settings_give_another_adapter(changes, tiny_llama, tmp_path, shared):
    task = task_of("north", ("east",))
    store = AdapterStore(shared)
    served = []
    for number, settings in enumerate(({}, changes)):
        method = make(tiny_llama, **settings)
        fitted(method, task, tmp_path / str(number), store)
        served.append(method.adapter)
    assert served[0] != served[1]


def test_the_branches_of_weaverec_are_merged_where_asked(tiny_llama, tmp_path, shared):
    task = task_of("north", ("east", "south"))
    store = AdapterStore(shared)
    method = make(tiny_llama, adapters="woven")
    fitted(method, task, tmp_path / "c", store)
    (merged,) = [one for one in store.list() if one.folder == method.adapter]
    parents = {store.get(use["adapter_id"]).domains for use in merged.metadata["lineage"]}
    assert parents == {("north",), ("east", "north"), ("north", "south")}


def test_without_sources_it_is_target_only(tiny_llama, tmp_path):
    task = task_of("north", ())
    store = AdapterStore(tmp_path / "adapters")
    method = make(tiny_llama)
    fitted(method, task, tmp_path / "a", store)
    target_only = resolve("target-only")
    keys = {k: v for k, v in BUDGET.items() if not k.startswith(("adapt", "requests"))}
    alone = target_only(
        resolve_config(target_only, overrides={**keys, "backbone": str(tiny_llama)})
    )
    alone.fit(
        task.train_view(with_sources=False), make_context(tmp_path / "b", task, adapters=store)
    )
    assert method.adapter == alone.adapter


def test_test_requests_make_it_transductive_and_are_counted(tiny_llama, tmp_path):
    task = task_of("north", ("east",))
    method = make(tiny_llama, adapt_on="test")
    assert AdaMerging.capabilities(method.config).transductive
    assert not AdaMerging.capabilities(make(tiny_llama).config).transductive
    store = AdapterStore(tmp_path / "adapters")
    context = fitted(method, task, tmp_path / "c", store)
    (merged,) = [a for a in store.list() if a.kind == "merged"]
    users = merged.metadata["report"]["users"]["north"]
    (requests, _labels), *_ = task.test(task.subset(40)).chunks(1000)
    assert np.isfinite(method.score(requests, context).values).all()
    assert method.report is not None
    assert method.report["adapted_on_users"] == sorted(users)
    assert len(users) == 6
    with pytest.raises(MethodError, match="needs the unlabelled test requests"):
        make(tiny_llama, adapt_on="test").fit(task.train_view(with_sources=True), context)


def test_a_saved_method_scores_the_same(tiny_llama, tmp_path):
    task = task_of("north", ("east",))
    method = make(tiny_llama, adapt_on="test")
    context = fitted(method, task, tmp_path / "c", AdapterStore(tmp_path / "adapters"))
    requests, _ = next(iter(task.test(task.subset(8)).chunks(8)))
    expected = method.score(requests, context)
    (tmp_path / "saved").mkdir()
    method.save(tmp_path / "saved")
    again = make(tiny_llama, adapt_on="test")
    again.load(tmp_path / "saved")
    found = again.score(requests, context)
    assert np.array_equal(found.values, expected.values)


def test_the_plan_names_the_adaptation(tiny_llama):
    hashes = {"north": "0" * 64, "east": "1" * 64}
    method = make(tiny_llama)
    jobs = method.plan(PlanSpec("north", ("east",), "cpu", 0, training_hashes=hashes))
    assert [job.kind for job in jobs] == ["adapter", "adapter", "fit", "validate", "score"]
    wanted = "adapt the merge of 2 adapters on 12 validation requests, 4 steps of 3"
    assert jobs[2].label == wanted
    alone = method.plan(PlanSpec("north", (), "cpu", 0, training_hashes=hashes))
    assert [job.kind for job in alone] == ["adapter", "validate", "score"]


def test_token_entropy_of_yes_no_questions_is_refused(tiny_llama):
    with pytest.raises(ConfigError, match="entropy=token"):
        make(tiny_llama, entropy="token", prompt="pointwise")
