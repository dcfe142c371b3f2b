"""Entropies against the engine and finite differences, and the adaptation that lowers them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from adapter_mixtures import LOG, adapted, folded, mean_entropy, random_mixture, set_logits

from bench.errors import MethodError
from bench.io import sha256_file
from bench.llm.adamerging import AdaptationSpec, Question, adapt, entropy, question_entropy
from bench.llm.backbones import load_model, resolve_backbone
from bench.llm.engines.transformers import TransformersEngine
from bench.llm.lora import LoraSpec, write_init
from bench.llm.weighted_adapters import Mixture
from bench.merging import Adapter, Factors, merge, read_adapter, write_adapter
from bench.methods import QuietProgress

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")


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


def test_a_request_longer_than_the_model_is_refused(model, adapters, questions):
    model.config.max_position_embeddings = 8
    mixture = Mixture(model, adapters)
    long = replace(questions[0], prompt=np.full(9, 5, dtype=np.int32))
    with pytest.raises(MethodError, match="reads at most 8"), mixture.attached():
        question_entropy(mixture, long)
