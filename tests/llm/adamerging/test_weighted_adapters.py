"""Mixtures of adapters against PEFT, the folded adapter and its single parts."""

from __future__ import annotations

import pytest
import torch
from adapter_mixtures import folded, random_mixture, set_logits

from bench.errors import ConfigError
from bench.llm.adamerging import question_entropy
from bench.llm.backbones import load_model, resolve_backbone
from bench.llm.own_forward import recompute_layers
from bench.llm.weighted_adapters import Mixture
from bench.merging import Adapter, read_adapter, write_adapter

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")


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


def test_adapters_of_other_layers_are_refused(model, adapters, tmp_path):
    whole = read_adapter(adapters[0])
    some = {name: whole.factors[name] for name in whole.modules[:3]}
    write_adapter(Adapter(some, whole.config), tmp_path / "some")
    with pytest.raises(ConfigError, match="adapts 3 layers"):
        Mixture(model, [adapters[0], tmp_path / "some"])
