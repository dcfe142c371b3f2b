"""The engine on a trained model with real words; needs ``bench assets pull smollm2-135m``."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from test_engine_scoring import separate, separate_choice, worst, write_adapter

from bench.errors import MissingExtraError
from bench.llm.backbones import load_model, load_tokenizer, require_backbone, resolve_backbone
from bench.llm.engines.transformers import TransformersEngine

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning"),
]

HISTORIES = (
    "The customer bought: Dove Men+Care Body Wash, 18 oz || Neutrogena Hand Cream. Next:",
    "Films that I liked: Toy Story (1995) || The Lion King (1994) || Heat (1995). The next one is",
)
TITLES = (
    " Neutrogena Hand Cream\n",
    " Neutrogena Hand Soap, Fragrance Free\n",
    " Star Wars (1977)\n",
    " Star Trek: First Contact (1996)\n",
    " Titanic (1997)\n",
    " Coleman 4-Person Camping Tent with Rainfly\n",
)


@pytest.fixture(scope="module")
def backbone():
    try:
        require_backbone("smollm2-135m")
    except MissingExtraError as error:
        pytest.skip(str(error))
    return resolve_backbone("smollm2-135m")


def texts(backbone) -> tuple[list, list]:
    tokenizer = load_tokenizer(backbone)

    def ids(text: str) -> np.ndarray:
        return np.array(tokenizer(text, add_special_tokens=False)["input_ids"], dtype=np.int32)

    return [ids(h) for h in HISTORIES], [[ids(t) for t in TITLES]] * len(HISTORIES)


def test_smollm2_equals_separate_forwards(backbone) -> None:
    prompts, branches = texts(backbone)
    model = load_model(backbone)
    expected = separate(model, prompts, branches)
    choice = separate_choice(model, prompts, branches)
    engine = TransformersEngine(model)
    found = engine.branch_log_probs(prompts, branches, adapter=None)
    assert worst(found, expected) < 1e-4
    asked = engine.branch_choice(prompts, branches, (7, 300, 12), adapter=None)
    assert worst(asked, choice) < 1e-4
    # It has read something: films after films, hand cream after cosmetics.
    assert found[0].argmax() in (0, 1)
    assert found[1].argmax() in (2, 3, 4)

    rounded = load_model(backbone, dtype="bfloat16")
    plain = separate(rounded, prompts, branches)
    half = TransformersEngine(rounded).branch_log_probs(prompts, branches, adapter=None)
    error, usual = (
        np.sqrt(np.mean((np.concatenate(x) - np.concatenate(expected)) ** 2)) for x in (half, plain)
    )
    assert error < max(1.2 * usual, 0.1)
    assert worst(half, expected) < 1.0


def test_the_unknown_way_agrees_on_smollm2(backbone) -> None:
    prompts, branches = texts(backbone)
    known, unknown = (TransformersEngine(load_model(backbone)) for _ in range(2))
    unknown._llama = None
    found = unknown.branch_log_probs(prompts, branches, adapter=None)
    assert worst(found, known.branch_log_probs(prompts, branches, adapter=None)) < 1e-4


def test_the_example_of_the_documentation_runs(backbone, tmp_path, monkeypatch) -> None:
    page = Path(__file__).resolve().parents[2] / "docs" / "scoring.md"
    code = re.search(r"^```python\n(.*?)^```", page.read_text(), re.M | re.S)[1]
    write_adapter(tmp_path / "some-adapter", backbone.folder, 0)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, str(page), "exec"), {})
