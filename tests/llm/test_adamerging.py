"""AdaMerging: the mixture against the folded adapter and the engine, and the method as users run it."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench.errors import ConfigError, MethodError
from bench.io import sha256_file
from bench.llm.adamerging import AdaptationSpec, Question, adapt, entropy, question_entropy
from bench.llm.adapters import AdapterStore
from bench.llm.backbones import load_model, resolve_backbone
from bench.llm.engines.transformers import TransformersEngine
from bench.llm.lora import LoraSpec, write_init
from bench.llm.methods.adamerging import AdaMerging
from bench.llm.weighted_adapters import Mixture, recompute_layers
from bench.merging import Adapter, Factors, merge, read_adapter, write_adapter
from bench.merging.registry import fold_weights
from bench.methods import PlanSpec, QuietProgress
from bench.methods.config import resolve_config
from bench.methods.registry import resolve
from bench.protocol.task import Task, build_task
from bench.testing import evaluate, make_context
from bench.testing.planted import planted_domain

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")

LOG = logging.getLogger("test")
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


@pytest.fixture(scope="module")
def adapters(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three random adapters of one initialisation, of ranks' worth of effect on the logits."""
    folder = tmp_path_factory.mktemp("adapters")
    backbone = resolve_backbone(str(tiny_llama))
    write_init(backbone, LoraSpec(r=4, alpha=8.0), 0, folder / "init")
    first = read_adapter(folder / "init")
    generator = torch.Generator().manual_seed(7)
    made = []
    for number in range(3):
        factors = {
            name: Factors(
                a + 0.1 * torch.randn(a.shape, generator=generator),
                0.2 * torch.randn(b.shape, generator=generator),
            )
            for name, (a, b) in first.factors.items()
        }
        made.append(folder / str(number))
        write_adapter(Adapter(factors, first.config), made[-1])
    return made


@pytest.fixture
def model(tiny_llama: Path) -> Any:
    return load_model(resolve_backbone(str(tiny_llama)), attention="eager")


@pytest.fixture(scope="module")
def questions() -> list[Question]:
    """Requests of random tokens whose answers share beginnings; the last has one answer of one token."""
    rng = np.random.default_rng(3)
    found = []
    for _ in range(6):
        prompt = rng.integers(3, 300, size=int(rng.integers(3, 12))).astype(np.int32)
        answers = [
            np.array([*rng.integers(3, 6, size=int(rng.integers(0, 4))), 300 + i], dtype=np.int32)
            for i in range(5)
        ]
        found.append(Question(prompt, answers, np.ones(5)))
    return found


def mean_entropy(mixture: Mixture, questions: list[Question]) -> float:
    with torch.no_grad(), mixture.attached():
        return float(np.mean([float(question_entropy(mixture, q)[0]) for q in questions]))


def adapted(mixture: Mixture, questions: list[Question], folder: Path, **changes: Any):
    spec = AdaptationSpec(**{"steps": 10, "batch_requests": 3, "learning_rate": 0.1, **changes})
    return adapt(
        mixture,
        questions,
        spec,
        seed=0,
        checkpoints=folder,
        progress=QuietProgress(),
        log=LOG,
        checkpoint_seconds=0.0,
    )


def folded(mixture: Mixture, adapters: list[Path]) -> Adapter:
    return fold_weights([read_adapter(a) for a in adapters], mixture.weights_by_module())


def set_logits(mixture: Mixture, values: Any) -> None:
    with torch.no_grad():
        mixture.logits.copy_(torch.as_tensor(values))


def random_mixture(model: Any, adapters: list[Path], **settings: Any) -> Mixture:
    mixture = Mixture(model, adapters, **settings)
    generator = torch.Generator().manual_seed(1)
    set_logits(mixture, 2 * torch.randn(mixture.logits.shape, generator=generator))
    return mixture


def test_entropy_of_known_distributions():
    assert float(entropy(torch.zeros(8))) == pytest.approx(np.log(8))
    p = np.array([0.5, 0.25, 0.25])
    assert float(entropy(torch.tensor(np.log(p)) + 3.0)) == pytest.approx(-(p * np.log(p)).sum())
    assert float(entropy(torch.tensor([0.0, -1e9]))) == 0.0


@pytest.mark.parametrize("choices", [None, (7, 9)])
@pytest.mark.parametrize("architecture", ["tiny_llama", "tiny_qwen2"])
def test_candidate_entropy_is_that_of_the_engines_scores(
    choices, architecture, request, tmp_path, questions
):
    backbone = resolve_backbone(str(request.getfixturevalue(architecture)))
    write_init(backbone, LoraSpec(r=4, alpha=8.0), 0, tmp_path / "init")
    start = read_adapter(tmp_path / "init")
    for number in range(2):
        factors = {
            name: Factors(a, torch.full_like(b, 0.1 * (number - 0.4)))
            for name, (a, b) in start.factors.items()
        }
        write_adapter(Adapter(factors, start.config), tmp_path / str(number))
    folders = [tmp_path / "0", tmp_path / "1"]
    mixture = random_mixture(load_model(backbone, attention="eager"), folders)
    write_adapter(folded(mixture, folders), tmp_path / "folded")
    engine = TransformersEngine(load_model(backbone))
    lengths = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    for question in questions:
        asked = replace(question, choices=choices, lengths=lengths)
        prompts, branches = [asked.prompt], [asked.answers]
        if choices is None:
            (scores,) = engine.branch_log_probs(prompts, branches, adapter=tmp_path / "folded")
            scores = scores / lengths
        else:
            (odds,) = engine.branch_choice(prompts, branches, choices, adapter=tmp_path / "folded")
            scores = (odds[:, 0] - odds[:, 1]).astype(np.float64)
        p = np.exp(scores - scores.max())
        p /= p.sum()
        expected = -(p * np.log(p)).sum()
        assert mean_entropy(mixture, [asked]) == pytest.approx(expected, abs=1e-4)


def test_token_entropy_is_that_of_the_models_greedy_answer(model, adapters, questions, tmp_path):
    mixture = random_mixture(model, adapters)
    write_adapter(folded(mixture, adapters), tmp_path / "folded")
    from peft import PeftModel

    reference = PeftModel.from_pretrained(
        load_model(resolve_backbone(model.name_or_path)), tmp_path / "folded"
    )
    prompt = questions[0].prompt
    ids, found = torch.from_numpy(prompt.astype(np.int64))[None], []
    for _ in range(3):
        with torch.no_grad():
            logits = reference(input_ids=ids).logits[0, -1].double()
        p = torch.softmax(logits, dim=-1)
        found.append(float(-(p * p.log()).sum()))
        ids = torch.cat((ids, logits.argmax()[None, None]), dim=1)
    for n in (1, 3):
        asked = Question(prompt, n_tokens=n)
        assert mean_entropy(mixture, [asked]) == pytest.approx(np.mean(found[:n]), abs=1e-4)
    # A title that ends after its first token has no second one.
    stopping = Question(prompt, n_tokens=3, stop=(int(ids[0, len(prompt)]),))
    assert mean_entropy(mixture, [stopping]) == pytest.approx(found[0], abs=1e-4)


def test_the_folded_adapter_has_the_mixtures_logits(model, adapters, tmp_path):
    mixture = random_mixture(model, adapters)
    write_adapter(folded(mixture, adapters), tmp_path / "folded")
    from peft import PeftModel

    tokens = torch.arange(5, 45)
    with torch.no_grad(), mixture.attached():
        ours = mixture.forward(tokens, None, None, torch.arange(40))
    plain = load_model(resolve_backbone(model.name_or_path))
    reference = PeftModel.from_pretrained(plain, tmp_path / "folded")
    with torch.no_grad():
        theirs = reference(input_ids=tokens[None]).logits[0]
    assert float((ours - theirs).abs().max()) < 1e-4


@pytest.mark.parametrize("layer_wise", [True, False])
@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_gradients_are_finite_differences(layer_wise, temperature, model, adapters, questions):
    mixture = random_mixture(model, adapters, layer_wise=layer_wise, temperature=temperature)
    assert mixture.logits.shape == ((14 if layer_wise else 1), 3)
    question = questions[0]
    with mixture.attached():
        question_entropy(mixture, question)[0].backward()
    gradient = mixture.logits.grad.clone()
    start = mixture.logits.detach().clone()
    rng = np.random.default_rng(0)
    for _ in range(4):
        direction = torch.from_numpy(rng.standard_normal(start.shape).astype(np.float32))
        values = []
        for step in (0.02, -0.02):
            set_logits(mixture, start + step * direction)
            values.append(mean_entropy(mixture, [question]))
        slope = (values[0] - values[1]) / 0.04
        assert slope == pytest.approx(float((gradient * direction).sum()), rel=0.02, abs=2e-4)


def test_no_step_is_the_average_of_the_products(model, adapters, questions, tmp_path):
    mixture = Mixture(model, adapters)
    assert adapted(mixture, questions, tmp_path, steps=0).entropies == []
    ours = folded(mixture, adapters)
    theirs = merge([read_adapter(a) for a in adapters], "weight-average", {"space": "product"})
    for module in theirs.modules:
        torch.testing.assert_close(ours.delta(module), theirs.delta(module), atol=1e-6, rtol=1e-6)


def test_the_order_of_the_adapters_changes_nothing(model, adapters, questions, tmp_path):
    found = []
    for order in ([0, 1, 2], [2, 0, 1]):
        mixture = Mixture(model, [adapters[i] for i in order])
        folder = tmp_path / str(order[0])
        folder.mkdir()
        adapted(mixture, questions, folder, steps=4)
        found.append(folded(mixture, [adapters[i] for i in order]))
    for module in found[0].modules:
        torch.testing.assert_close(*(f.delta(module) for f in found), atol=1e-5, rtol=1e-3)


def test_equal_adapters_stay_what_they_are(model, adapters, questions, tmp_path):
    mixture = Mixture(model, [adapters[0]] * 3)
    with mixture.attached():
        question_entropy(mixture, questions[0])[0].backward()
    alone = Mixture(model, adapters)
    with alone.attached():
        question_entropy(alone, questions[0])[0].backward()
    assert float(mixture.logits.grad.abs().max()) < 1e-5 * float(alone.logits.grad.abs().max())
    set_logits(mixture, torch.linspace(-1, 2, 42).view(14, 3))
    merged, single = folded(mixture, [adapters[0]] * 3), read_adapter(adapters[0])
    for module in single.modules:
        torch.testing.assert_close(merged.delta(module), single.delta(module), atol=1e-5, rtol=0)


def test_all_weight_on_one_adapter_is_that_adapter(model, adapters):
    mixture = Mixture(model, adapters)
    set_logits(mixture, torch.tensor([[-200.0, 200.0, -200.0]]).expand(14, 3))
    merged, single = folded(mixture, adapters), read_adapter(adapters[1])
    for module in single.modules:
        assert torch.equal(merged.delta(module), single.delta(module))


@pytest.mark.parametrize("layer_wise", [True, False])
def test_adapting_makes_answers_surer_and_touches_nothing_else(
    layer_wise, model, adapters, questions, tmp_path
):
    before = {name: p.clone() for name, p in model.named_parameters()}
    files = [sha256_file(a / "adapter_model.safetensors") for a in adapters]
    mixture = Mixture(model, adapters, layer_wise=layer_wise)
    stacks = [(s.a.clone(), s.b.clone()) for s in mixture._stacks]
    start = mean_entropy(mixture, questions)
    report = adapted(mixture, questions, tmp_path, steps=12, batch_requests=6)
    assert report.entropies[0] == pytest.approx(start, abs=1e-5)
    assert mean_entropy(mixture, questions) < 0.9 * start
    assert np.mean(report.entropies[-5:]) < np.mean(report.entropies[:5])
    weights = mixture.weights().detach()
    assert weights.shape == (14, 3)
    assert bool(((weights >= 0) & (weights <= 1)).all())
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(14))
    assert bool((weights == weights[0]).all()) is not layer_wise
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert not any(p.requires_grad for p in model.parameters())
    assert not any(m._forward_hooks for m in model.modules())
    for stack, (a, b) in zip(mixture._stacks, stacks, strict=True):
        assert torch.equal(stack.a, a)
        assert torch.equal(stack.b, b)
    assert files == [sha256_file(a / "adapter_model.safetensors") for a in adapters]


class KilledError(Exception):
    """Stands for a process that dies."""


def test_a_killed_adaptation_goes_on_with_the_same_bits(model, adapters, questions, tmp_path):
    whole, broken = Mixture(model, adapters), Mixture(model, adapters)
    (tmp_path / "a").mkdir()
    expected = adapted(whole, questions, tmp_path / "a", steps=6)

    class Kill(QuietProgress):
        def track(self, items, *, total=None, description=""):
            for number, item in enumerate(items):
                if number == 3:
                    raise KilledError
                yield item

    (tmp_path / "b").mkdir()
    spec = AdaptationSpec(steps=6, batch_requests=3, learning_rate=0.1)
    common = {"seed": 0, "checkpoints": tmp_path / "b", "log": LOG, "checkpoint_seconds": 0.0}
    with pytest.raises(KilledError):
        adapt(broken, questions, spec, progress=Kill(), **common)
    again = Mixture(model, adapters)
    report = adapt(again, questions, spec, progress=QuietProgress(), **common)
    assert (report.resumed, report.steps) == (1, 6)
    assert report.entropies == expected.entropies
    assert torch.equal(again.logits, whole.logits)


def test_recomputing_layers_changes_no_gradient(model, adapters, questions):
    calls: list[int] = []
    model.model.layers[1].mlp.register_forward_pre_hook(lambda *_: calls.append(1))
    found = []
    for expected in (1, 3):
        mixture = random_mixture(model, adapters)
        with mixture.attached():
            question_entropy(mixture, questions[1])[0].backward()
        found.append(mixture.logits.grad)
        assert len(calls) == expected  # the second time once forwards and once again backwards
        recompute_layers(model)
    torch.testing.assert_close(*found)


def test_a_request_longer_than_the_model_is_refused(model, adapters, questions):
    model.config.max_position_embeddings = 8
    mixture = Mixture(model, adapters)
    long = replace(questions[0], prompt=np.full(9, 5, dtype=np.int32))
    with pytest.raises(MethodError, match="reads at most 8"), mixture.attached():
        question_entropy(mixture, long)


def test_adapters_of_other_layers_are_refused(model, adapters, tmp_path):
    whole = read_adapter(adapters[0])
    some = {name: whole.factors[name] for name in whole.modules[:3]}
    write_adapter(Adapter(some, whole.config), tmp_path / "some")
    with pytest.raises(ConfigError, match="adapts 3 layers"):
        Mixture(model, [adapters[0], tmp_path / "some"])


# The method.


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
