"""LLM-Rec: texts, in-domain choices, the shared model, and the method on a planted domain."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_encoder import tiny_encoder
from torch.nn import functional

from bench.baselines.domains import UnionVocabulary, union_domains, union_sequences
from bench.baselines.llm_rec.config import LLMRecConfig
from bench.baselines.llm_rec.method import LLMRec
from bench.baselines.llm_rec.model import TextEncoder, TextWriter, title_table
from bench.baselines.llm_rec.rows import BatchStream, InDomainNegatives, choices, split_rows
from bench.baselines.llm_rec.training import add_lora, merge_lora
from bench.baselines.schedules import adamw, linear_rate, scheduled, steps_taken
from bench.baselines.text import load_encoder_model, resolve_encoder
from bench.data.domain import Sequences
from bench.errors import ConfigError, MethodError
from bench.evaluation import metric_per_user, random_row
from bench.methods import TrainView, resolve_config
from bench.testing import CHECKS, check_method, evaluate, make_context, planted_task

TITLES = [
    "red toy story",
    "blue hand cream",
    "green body wash large pack",
    "star wars",
    "small hair lotion set",
    "red toy story",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_encoder(tmp_path_factory.mktemp("encoders") / "bert")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))


def sequences(*rows: list[int]) -> Sequences:
    flat = [item for row in rows for item in row]
    return Sequences(
        np.cumsum([0, *map(len, rows)]).astype(np.int64), np.array(flat, dtype=np.int32)
    )


class Parts:
    """An encoder, titles and a writer."""

    def __init__(self, folder: Path, *, pooling: Any = "cls", temperature: Any = None) -> None:
        backbone, self.tokenizer = load_encoder_model(resolve_encoder(str(folder)))
        self.model = TextEncoder(backbone, pooling=pooling, temperature=temperature)
        self.table = title_table(TITLES, self.tokenizer, title_tokens=40)
        self.writer = TextWriter(2, 0, 400)


@pytest.fixture
def parts(folder: Path) -> Parts:
    return Parts(folder)


class TestTexts:
    def test_a_user_is_the_first_token_and_the_titles_oldest_first(self, parts: Parts) -> None:
        ids, mask = parts.writer.write(parts.table, sequences([3, 0, 1], [2], []))

        def tokens(*history: int) -> list[int]:
            words = [parts.tokenizer.tokenize(TITLES[item] + "; ") for item in history]
            flat = [piece for title in words for piece in title]
            return [parts.tokenizer.cls_token_id, *parts.tokenizer.convert_tokens_to_ids(flat)]

        for row, history in enumerate([(3, 0, 1), (2,), ()]):
            expected = tokens(*history)
            assert ids[row, : len(expected)].tolist() == expected
            assert (ids[row, len(expected) :] == parts.tokenizer.pad_token_id).all()
            assert int(mask[row].sum()) == len(expected)
        assert not (ids == parts.tokenizer.sep_token_id).any()

    def test_titles_are_cut(self, parts: Parts) -> None:
        table = title_table(["toy " * 60], parts.tokenizer, title_tokens=40)
        assert table.lengths.tolist() == [40]

    @pytest.mark.parametrize("pooling", ["cls", "mean"])
    def test_padding_changes_no_vector(self, pooling: str, folder: Path) -> None:
        parts = Parts(folder, pooling=pooling, temperature=0.05)
        alone = parts.writer.write(parts.table, sequences([3]))
        wide = parts.writer.write(parts.table, sequences([3], [0, 1, 2, 4]))
        with torch.inference_mode():
            torch.testing.assert_close(
                parts.model(*alone)[0], parts.model(*wide)[0], rtol=0, atol=1e-5
            )

    @pytest.mark.parametrize("pooling", ["cls", "mean"])
    def test_vectors_are_those_of_transformers(self, pooling: str, folder: Path) -> None:
        parts = Parts(folder, pooling=pooling)
        pieces = parts.tokenizer.tokenize(TITLES[2] + "; " + TITLES[1] + "; ")
        ids = torch.tensor([[2, *parts.tokenizer.convert_tokens_to_ids(pieces)]])
        with torch.inference_mode():
            states = parts.model.backbone(input_ids=ids).last_hidden_state[0]
            expected = states[0] if pooling == "cls" else states.mean(0)
            found = parts.model.encode(parts.writer, parts.table, sequences([2, 1]))
            torch.testing.assert_close(found[0], expected, rtol=0, atol=1e-5)

    def test_groups_of_like_length_give_each_row_its_own_vector(self, parts: Parts) -> None:
        rows = sequences([3, 0, 1], [2], [], [4, 4, 4, 4, 4, 4], [5])
        with torch.inference_mode():
            together = parts.model.encode(parts.writer, parts.table, rows)
            for row in range(len(rows)):
                alone = parts.model.encode(parts.writer, parts.table, rows.take(np.array([row])))
                torch.testing.assert_close(together[row], alone[0], rtol=0, atol=1e-5)

    def test_an_item_alone_and_in_the_matrix_are_the_same(self, parts: Parts) -> None:
        with torch.inference_mode():
            matrix = parts.model.encode_items(parts.writer, parts.table, np.arange(6))
            alone = parts.model.encode_items(parts.writer, parts.table, np.array([4]))
        torch.testing.assert_close(matrix[4], alone[0], rtol=0, atol=1e-5)
        torch.testing.assert_close(matrix[0], matrix[5], rtol=0, atol=1e-5)


class TestScores:
    def test_plain_products_over_the_root_of_the_dimension(self, parts: Parts) -> None:
        users, items = torch.randn(3, 16), torch.randn(5, 16)
        torch.testing.assert_close(parts.model.scores(users, items), users @ items.T / 4)
        assert parts.model.scale() == 1.0

    def test_cosines_over_the_temperature(self, folder: Path) -> None:
        parts = Parts(folder, pooling="mean", temperature=0.05)
        with torch.inference_mode():
            vectors = parts.model.encode_items(parts.writer, parts.table, np.arange(6))
            scores = parts.model.scores(vectors, vectors)
        expected = functional.cosine_similarity(vectors[:, None], vectors[None], dim=-1) / 0.05
        torch.testing.assert_close(scores, expected, rtol=0, atol=1e-3)

    @pytest.mark.parametrize("temperature", [None, 0.05])
    def test_the_loss_is_the_cross_entropy_of_the_target(
        self, temperature: float | None, folder: Path
    ) -> None:
        parts = Parts(folder, temperature=temperature)
        items, label = np.array([[0, 1, 3], [4, 5, 2]]), np.array([2, 0])
        first, place = parts.table.distinct()
        history = sequences([1, 2], [3])
        with torch.inference_mode():
            found = parts.model.loss(parts.writer, parts.table, first[place], history, items, label)
            users = parts.model.encode(parts.writer, parts.table, history)
            vectors = parts.model.encode_items(parts.writer, parts.table, np.arange(6))
            logits = (users[:, None] * vectors[items]).sum(-1) / (temperature or 1.0)
        expected = functional.cross_entropy(logits, torch.from_numpy(label))
        assert float(found) == pytest.approx(float(expected), rel=1e-4)

    def test_every_text_of_a_batch_is_encoded_once(
        self, parts: Parts, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        counts: list[int] = []
        forward = parts.model.forward
        monkeypatch.setattr(
            parts.model, "forward", lambda ids, mask: counts.append(len(ids)) or forward(ids, mask)
        )
        first, place = parts.table.distinct()
        items = np.array([[0, 1, 5], [5, 1, 0]])  # 0 and 5 have one title
        parts.model.loss(
            parts.writer, parts.table, first[place], sequences([1], [3]), items, np.zeros(2, int)
        )
        assert sum(counts) == 2 + 2

    def test_equal_vectors_cost_the_log_of_the_choices(
        self, parts: Parts, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(parts.model, "forward", lambda ids, mask: torch.ones(len(ids), 4))
        items = np.tile(np.arange(6), 2)[None, :11]
        loss = parts.model.loss(
            parts.writer, parts.table, np.arange(6), sequences([1]), items, np.zeros(1, int)
        )
        assert float(loss) == pytest.approx(math.log(11), abs=1e-5)


UNION = sequences([0, 1, 2], [3, 1], [10, 12, 11], [13, 10, 19, 14])
DOMAIN_OF_ROW = np.array([0, 0, 1, 1])
OFFSETS = np.array([0, 6, 20])


class TestRows:
    def test_negatives_are_uniform_over_the_rest_of_the_domain(self) -> None:
        sampler = InDomainNegatives(UNION, DOMAIN_OF_ROW, OFFSETS)
        drawn = sampler.draw(np.arange(4), 6000, np.random.default_rng(0))
        assert drawn.shape == (4, 6000)
        for row, allowed in enumerate(
            [{3, 4, 5}, {0, 2, 4, 5}, set(range(13, 20)), set(range(10, 20)) - {13, 10, 19, 14}]
        ):
            # The second domain begins at item 6; nobody trained on 6 to 9.
            allowed = allowed | (set(range(6, 10)) if row >= 2 else set())
            found, counts = np.unique(drawn[row], return_counts=True)
            assert set(found.tolist()) == allowed
            assert counts / 6000 == pytest.approx([1 / len(allowed)] * len(allowed), abs=0.025)

    def test_a_user_with_every_item_is_refused(self) -> None:
        with pytest.raises(MethodError, match="holds all 2 items of its domain"):
            InDomainNegatives(sequences([0, 1]), np.array([0]), np.array([0, 2]))

    def test_the_target_stands_at_a_uniform_place_and_the_label_points_at_it(self) -> None:
        rows, _ = split_rows(UNION, max_history=10, holdout_share=0.0, seed=0)
        sampler = InDomainNegatives(UNION, DOMAIN_OF_ROW, OFFSETS)
        chosen = np.tile(np.arange(len(rows)), 1000)
        found = choices(UNION, rows, chosen, sampler, 10, np.random.default_rng(0))
        assert found.items.shape == (len(chosen), 11)
        target = UNION.items[rows.end[chosen]]
        assert (found.items[np.arange(len(chosen)), found.label] == target).all()
        assert ((found.items == target[:, None]).sum(axis=1) == 1).all()
        shares = np.bincount(found.label, minlength=11) / len(chosen)
        assert shares == pytest.approx([1 / 11] * 11, abs=0.015)

    def test_rows_are_every_prefix_of_every_domain(self) -> None:
        rows, held = split_rows(UNION, max_history=2, holdout_share=0.0, seed=0)
        assert len(held) == 0
        found = {
            (tuple(UNION.items[a:b].tolist()), int(UNION.items[b]))
            for a, b in zip(rows.start, rows.end, strict=True)
        }
        expected = {
            (tuple(row[max(0, t - 2) : t]), row[t])
            for row in ([0, 1, 2], [3, 1], [10, 12, 11], [13, 10, 19, 14])
            for t in range(1, len(row))
        }
        assert found == expected

    def test_held_out_rows_are_last_items_of_some_users(self) -> None:
        many = sequences(*([[0, 1, 2, 3]] * 500))
        rows, held = split_rows(many, max_history=10, holdout_share=0.1, seed=3)
        assert len(rows) + len(held) == 1500
        assert len(held) == pytest.approx(50, abs=20)
        assert (many.items[held.end] == 3).all()
        assert not set(rows.end.tolist()) & set(held.end.tolist())
        again, _ = split_rows(many, max_history=10, holdout_share=0.1, seed=3)
        assert (again.end == rows.end).all()

    def test_batches_are_found_by_number(self) -> None:
        make = {"batch_size": 4, "mixing": "proportional", "seed": 1}
        stream = BatchStream(np.zeros(10, int), **make)  # type: ignore[arg-type]
        assert stream.per_pass == 3
        whole = stream.take(0, 6)
        assert sorted(np.concatenate(whole[:3]).tolist()) == list(range(10))
        assert [b.tolist() for b in whole[:3]] != [b.tolist() for b in whole[3:]]
        later = BatchStream(np.zeros(10, int), **make).take(2, 3)  # type: ignore[arg-type]
        assert [b.tolist() for b in later] == [b.tolist() for b in whole[2:5]]


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
        # Theirs spends its first step at a rate of 0.
        ours = [linear_rate(step, warmup=3, total=9) for step in range(8)]
        assert ours[:3] == pytest.approx(rates[1:4])
        assert [linear_rate(step, warmup=3, total=9) for step in range(3, 9)] == pytest.approx(
            rates[3:]
        )

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


QUICK = {
    "learning_rate": 3e-3,
    "max_history": 3,
    "steps": 4,
    "check_steps": 2,
    "batch_size": 32,
}


def fitted(
    folder: Path, scratch: Path, *, task: Any = None, view: Any = None, **changes: Any
) -> tuple[LLMRec, Any, Any]:
    task = task or planted_task(n_users=60, n_sources=2)
    method = LLMRec(LLMRecConfig(**{**QUICK, "encoder": str(folder), **changes}))
    store = LLMRec.adapter_store(scratch.parent / "store")
    context = make_context(scratch, task, adapters=store)
    method.fit(view or task.train_view(with_sources=True), context)
    return method, task, context


def test_one_model_serves_all_targets_of_a_group(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = planted_task(n_users=60, n_sources=2)
    view = task.train_view(with_sources=True)
    first, _, context = fitted(folder, tmp_path / "a", task=task)
    from bench.baselines.llm_rec import method as module

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("trained a second time")

    monkeypatch.setattr(module, "train_shared", refuse)
    swapped = TrainView(view.sources[1], (view.target, view.sources[0]))
    uses: list[Any] = []
    second = LLMRec(first.config)
    store = LLMRec.adapter_store(tmp_path / "store")
    store.watch(lambda used, *_: uses.extend(used))
    context = make_context(tmp_path / "b", task, adapters=store)
    monkeypatch.setattr(type(context), "validate", lambda *_: None)
    second.fit(swapped, context)
    assert first.model is not None
    assert second.model is not None
    for name, value in first.model.state_dict().items():
        torch.testing.assert_close(second.model.state_dict()[name], value, rtol=0, atol=0)
    (use,) = uses
    assert not use.trained_now
    assert use.cpu_seconds > 0
    with pytest.raises(AssertionError, match="a second time"):
        fitted(folder, tmp_path / "c", task=task, learning_rate=1e-3)


def test_training_rows_hold_every_domain_and_nothing_held_out() -> None:
    task = planted_task(n_users=40, n_sources=2)
    view = task.train_view(with_sources=True)
    union, domain_of_row = union_sequences(view, include_target=True, include_sources=True)
    domains = union_domains(view)
    rows, _ = split_rows(union, max_history=10, holdout_share=0.0, seed=0)
    assert set(domain_of_row[rows.sequence].tolist()) == {0, 1, 2}
    vocabulary = UnionVocabulary.of(domains)
    names = [domain.name for domain in domains]
    pairs = {(int(row), int(item)) for row, item in zip(union.rows, union.items, strict=True)}
    first = int(np.flatnonzero(domain_of_row == names.index(view.target.name))[0])
    # Every pair of the union is a training pair of its own domain, and no held-out one of the target.
    for number, domain in enumerate(domains):
        own = domain.sequences
        start = int(np.flatnonzero(domain_of_row == number)[0])
        known = {
            (start + int(row), int(item))
            for row, item in zip(
                own.rows, vocabulary.local_to_union(domain.name, own.items), strict=True
            )
        }
        assert {pair for pair in pairs if domain_of_row[pair[0]] == number} == known
    chunks = [task.validation(task.subset(None)), *task.test(task.subset(None)).chunks(10**6)]
    for requests, labels in chunks:
        positives = requests.candidates[np.arange(len(labels)), labels.position]
        items = vocabulary.local_to_union(view.target.name, positives)
        held_out = {(first + int(u), int(i)) for u, i in zip(requests.users, items, strict=True)}
        assert not pairs & held_out


def test_full_fine_tuning_changes_every_weight(folder: Path, tmp_path: Path) -> None:
    method, _, _ = fitted(folder, tmp_path / "run", learning_rate=1e-2)
    start = load_encoder_model(resolve_encoder(str(folder)))[0].state_dict()
    assert method.model is not None
    same = [
        name
        for name, value in method.model.backbone.state_dict().items()
        if torch.equal(value, start[name]) and "position_ids" not in name
    ]
    assert same == []


def test_lora_trains_the_factors_alone(parts: Parts) -> None:
    start = {k: v.clone() for k, v in parts.model.backbone.state_dict().items()}
    add_lora(parts.model, LLMRecConfig(lora_rank=4), seed=0)
    trained = [n for n, p in parts.model.named_parameters() if p.requires_grad]
    assert trained
    assert all("lora_" in name for name in trained)
    optimiser = adamw(parts.model, learning_rate=0.05)
    items, label = np.array([[0, 1, 3]]), np.array([2])
    for _ in range(2):
        parts.model.loss(
            parts.writer, parts.table, np.arange(6), sequences([1, 2]), items, label
        ).backward()
        optimiser.step()
    for name, value in parts.model.backbone.state_dict().items():
        plain = name.removeprefix("base_model.model.").replace(".base_layer", "")
        if "lora_" not in name:
            assert torch.equal(value, start[plain]), name
    parts.model.eval()
    history = sequences([1, 2])
    with torch.inference_mode():
        adapted = parts.model.encode(parts.writer, parts.table, history)
        merge_lora(parts.model)
        merged = parts.model.encode(parts.writer, parts.table, history)
    torch.testing.assert_close(merged, adapted, rtol=0, atol=1e-4)
    changed = [
        name
        for name, value in parts.model.backbone.state_dict().items()
        if not torch.equal(value, start[name])
    ]
    assert changed
    assert all("attention.self" in name for name in changed)


def test_lora_is_an_option(folder: Path, tmp_path: Path) -> None:
    method, task, context = fitted(folder, tmp_path / "run", lora_rank=2)
    requests, _ = task.validation(task.subset(None))
    assert np.isfinite(method.score(requests, context).values).all()


def test_held_out_loss_chooses_the_weights(folder: Path, tmp_path: Path) -> None:
    method, _, _ = fitted(folder, tmp_path / "run", holdout_share=0.5, steps=6)
    assert method.report is not None
    figures = [entry["minus held-out loss"] for entry in method.report["history"]]
    assert len(figures) == 3
    assert method.report["best_epoch"] == 1 + int(np.argmax(figures))
    plain, _, _ = fitted(folder, tmp_path / "other", steps=5)
    assert plain.report is not None
    assert plain.report["best_epoch"] == 3
    assert "minus held-out loss" not in plain.report["history"][0]


def test_a_killed_training_resumes_with_the_same_weights(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = planted_task(n_users=60, n_sources=1)
    whole, _, _ = fitted(folder, tmp_path / "one" / "run", task=task)
    take, calls = BatchStream.take, []

    def killed(self: BatchStream, first: int, count: int) -> Any:
        calls.append(first)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return take(self, first, count)

    with monkeypatch.context() as patch:
        patch.setattr(BatchStream, "take", killed)
        with pytest.raises(KeyboardInterrupt):
            fitted(folder, tmp_path / "two" / "run", task=task)
    assert calls == [0, 2]
    again, _, _ = fitted(folder, tmp_path / "two" / "run", task=task)
    assert whole.model is not None
    assert again.model is not None
    for name, value in whole.model.state_dict().items():
        torch.testing.assert_close(again.model.state_dict()[name], value, rtol=0, atol=0)


def test_texts_longer_than_the_encoder_reads_are_refused(tmp_path: Path) -> None:
    folder = tiny_encoder(tmp_path / "short", positions=64)
    with pytest.raises(ConfigError, match="reads 63 behind its first"):
        fitted(folder, tmp_path / "run", title_tokens=40)


def test_profiles_and_notes() -> None:
    paper = resolve_config(LLMRec, profile="paper")
    assert (paper.title_tokens, paper.max_history, paper.negatives) == (40, 10, 10)
    assert (paper.pooling, paper.temperature) == ("cls", None)
    assert LLMRec.row_note(LLMRecConfig()) == "MiniLM"
    assert LLMRec.row_note(paper) == ""


LEARNS = {"steps": 150, "check_steps": 75, "learning_rate": 3e-3}


def test_learns_a_planted_pattern(folder: Path, tmp_path: Path) -> None:
    method, task, context = fitted(
        folder, tmp_path / "run", task=planted_task(n_sources=2), **LEARNS
    )
    outcomes = evaluate(method, task.test(task.subset(None)), context)
    figure = float(metric_per_user(outcomes, "ndcg@5").mean())
    assert figure > random_row(30)["ndcg@5"] + 0.25


def test_conforms(folder: Path) -> None:
    config = LLMRecConfig(**{**QUICK, "encoder": str(folder)})
    # The pattern takes a longer training, in the test above.
    checks = [check for check in CHECKS if check != "learns-planted-pattern"]
    failed = [r for r in check_method(LLMRec, config, checks=checks) if r.status == "fail"]
    assert not failed, failed


def test_other_candidates_of_the_same_users_need_no_encoding(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    method, task, context = fitted(folder, tmp_path / "run")
    requests, _ = task.validation(task.subset(None))
    first = method.score(requests, context).values
    monkeypatch.setattr(method.model, "forward", lambda ids, mask: 1 / 0)
    swapped = replace(requests, candidates=requests.candidates[:, ::-1].copy())
    np.testing.assert_array_equal(method.score(swapped, context).values, first[:, ::-1])
