"""RecFormer as users run it: stages, checkpoints, resume, profiles, and a planted domain."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from killed_epoch import assert_resumes
from product_dtypes import product_dtypes
from recformer_parts import KINDS, QUICK, Parts, fitted
from safetensors.torch import load_file
from tiny_catalogue import sequences
from tiny_encoder import tiny_encoder
from tiny_group import titles_read, unlike_task
from torch.nn import functional
from torch.optim.optimizer import register_optimizer_step_pre_hook

from bench.baselines.recformer.config import RecFormerConfig
from bench.baselines.recformer.encoding import encode_sequences, item_vectors
from bench.baselines.recformer.method import RecFormer
from bench.baselines.recformer.model import from_authors
from bench.baselines.recformer.stages import Pretraining
from bench.baselines.text import load_encoder_model, resolve_encoder
from bench.baselines.text.title_tokens import TokenTable
from bench.data.domain import Sequences
from bench.errors import ConfigError
from bench.evaluation import metric_per_user, random_row
from bench.methods import Progress, ValidationFigures, resolve_config
from bench.testing import CHECKS, check_method, evaluate, make_context, planted_task


def test_stage_1_encodes_items_anew_and_stage_2_keeps_the_matrix(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[torch.Tensor] = []
    from bench.baselines.recformer import method as module

    def watched(*args: Any) -> torch.Tensor:
        made.append(item_vectors(*args))
        return made[-1]

    monkeypatch.setattr(module, "item_vectors", watched)
    method, _, _ = fitted(folders["bert"], tmp_path, stage2_epochs=2)
    assert len(made) == 2  # one per epoch of stage 1, none in stage 2
    assert not torch.allclose(made[0], made[1], atol=1e-4)
    kept = method.recformer.item_vectors
    assert any(torch.equal(kept, matrix) for matrix in made)
    assert method.report is not None
    assert set(method.report.stages) == {"pre-training", "stage 1"}
    assert len(method.report.history) == 2


def test_the_better_stage_is_kept(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = planted_task(n_users=40)
    figures = iter([0.5, 0.4, 0.1])
    states: list[dict[str, torch.Tensor]] = []
    config = RecFormerConfig(**{**QUICK, "encoder": str(folders["bert"]), "pretrain": "none"})
    method = RecFormer(config.model_copy(update={"steps": 2}))
    context = make_context(tmp_path, task)

    def validate(found: Any) -> Any:
        states.append({k: v.clone() for k, v in found.recformer.state_dict().items()})
        return ValidationFigures({5: next(figures)}, {}, 1)

    monkeypatch.setattr(type(context), "validate", lambda self, found: validate(found))
    method.fit(task.train_view(with_sources=False), context)
    assert method.report is not None
    assert method.report.stages["stage 1"]["kept"] is True
    for name, value in method.recformer.state_dict().items():
        torch.testing.assert_close(value, states[0][name], rtol=0, atol=0)


@pytest.mark.parametrize("killed_in", [2, 4, 6], ids=["pre-training", "stage-1", "stage-2"])
def test_a_killed_run_resumes_with_the_same_weights(
    folders: dict[str, Path], tmp_path: Path, killed_in: int
) -> None:
    """Two epochs of each stage, and stage 1 ends with item vectors that stage 2 has to keep."""
    task = planted_task(n_users=40, n_sources=1)

    def fit(name: str, progress: Progress) -> torch.nn.Module:
        method, _, _ = fitted(
            folders["bert"], tmp_path / name, task=task, progress=progress,
            pretrain_epochs=2, pretrain_steps=2, pretrain_batch_size=8, batch_size=16,
            stage2_epochs=2,
        )  # fmt: skip
        return method.recformer

    assert_resumes(fit, killed_in=killed_in)


@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_run_in_bfloat16_resumes_with_the_same_scores(
    folders: dict[str, Path], tmp_path: Path, kind: str
) -> None:
    """Runs are in bfloat16 unless users ask for another dtype; killed in stage 2."""
    assert RecFormer.run_defaults("cpu").dtype == "bfloat16"
    task = planted_task(n_users=30, n_sources=1)
    scores: list[np.ndarray] = []

    def fit(name: str, progress: Progress) -> torch.nn.Module:
        method, _, context = fitted(
            folders[kind], tmp_path / name, task=task, progress=progress, dtype="bfloat16",
            pretrain_epochs=1, pretrain_steps=2, pretrain_batch_size=8, batch_size=16,
            steps=2, epochs=1, stage2_epochs=2, attention_window=16,
        )  # fmt: skip
        requests, _ = task.validation(task.subset(None))
        scores.append(method.score(requests, context).values)
        return method.recformer

    with product_dtypes() as seen:
        assert_resumes(fit, killed_in=4)
    whole, resumed = scores
    assert seen == {torch.bfloat16}
    np.testing.assert_array_equal(resumed, whole)


def test_each_stage_has_a_schedule_of_learning_rates_of_its_own(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    """Two epochs of three steps, then three epochs: both rise over two steps and end above 0."""
    rates: list[float] = []
    hook = register_optimizer_step_pre_hook(
        lambda optimiser, *_: rates.append(optimiser.param_groups[0]["lr"])
    )
    try:
        fitted(
            folders["bert"], tmp_path, pretrain="none", learning_rate=4e-3, warmup=2,
            batch_size=16, steps=3, epochs=2, stage2_epochs=3, stage2_patience=3,
        )  # fmt: skip
    finally:
        hook.remove()
    first = [2, 4, 4, 3, 2, 1]
    second = [2, 4, *(4 * left / 7 for left in range(7, 0, -1))]
    assert rates == pytest.approx([rate / 1000 for rate in (*first, *second)])


def test_pretraining_reads_every_item_by_its_own_title(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With sources of unlike sizes and titles."""
    caught: list[tuple[TokenTable, Sequences]] = []

    def watched(self: Pretraining, _: Any, table: TokenTable, rows: Sequences, *__: Any) -> Any:
        caught.append((table, rows))
        return [self.head.bias.sum]

    monkeypatch.setattr(Pretraining, "losses", watched)
    view = unlike_task().train_view(with_sources=True)
    method = RecFormer(RecFormerConfig(**{**QUICK, "encoder": str(folders["bert"])}))
    context = make_context(tmp_path, adapters=RecFormer.adapter_store(tmp_path / "store"))
    method.first_weights(view, context)
    tokenizer = Parts(folders["bert"]).tokenizer
    expected = [
        tokenizer.convert_tokens_to_ids(tokenizer.tokenize(f"title {title}"))
        for title in titles_read(view.sources)
    ]
    table, rows = caught[0]
    found = [table.ids[table.offsets[i] : table.offsets[i + 1]].tolist() for i in rows.items]
    assert found == expected


def test_scores_are_cosines_of_user_and_item_over_the_temperature(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    """After a stage too weak to part the item vectors from the encoder; 3 items are read."""
    method, task, context = fitted(
        folders["bert"], tmp_path, pretrain="none", temperature=0.1,
        epochs=1, stage2_epochs=0, steps=1, learning_rate=1e-12,
    )  # fmt: skip
    requests, _ = next(task.test(task.subset(None)).chunks(100))
    found = method.score(requests, context).values
    assert found.shape == (len(requests), 30)
    assert np.abs(found).max() <= 1 / 0.1 + 1e-4
    texts, writer = method._fitted()
    newest_first = [requests.history[row][-3:][::-1].tolist() for row in range(len(requests))]
    with torch.inference_mode():
        items = item_vectors(method.recformer, writer, texts)
        users = encode_sequences(method.recformer, writer, texts, sequences(*newest_first))
    cosines = functional.cosine_similarity(users[:, None], items[requests.candidates], dim=2)
    assert cosines.std(dim=1).min() > 1e-3
    np.testing.assert_allclose(found, cosines.numpy() / 0.1, rtol=0, atol=1e-4)


def test_word_vectors_are_frozen_in_pretraining_only(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    start = load_encoder_model(resolve_encoder(str(folders["bert"])))[0]
    words = start.embeddings.word_embeddings.weight
    for frozen in (True, False):
        made, _, _ = fitted(
            folders["bert"], tmp_path / str(frozen), pretrain="sources", freeze_words=frozen
        )
        (stored,) = (tmp_path / str(frozen) / "adapters").rglob("*.safetensors")
        (name,) = [key for key in load_file(stored) if key.endswith("word_embeddings.weight")]
        assert torch.equal(load_file(stored)[name], words) is frozen
        assert not torch.equal(made.recformer.words.weight, words)


@pytest.mark.parametrize("prefix", ["longformer.", "model.longformer."])
def test_the_authors_checkpoint_replaces_the_encoder(
    prefix: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    source = Parts(tiny_encoder(tmp_path / "other", architecture="longformer", seed=5)).model
    state = {
        prefix
        + name.removeprefix("backbone.").replace(
            "item_positions.weight", "embeddings.item_position_embeddings.weight"
        ): value
        for name, value in source.state_dict().items()
        if name != "item_vectors"
    }
    file = tmp_path / "pretrained.bin"
    torch.save({"state_dict": {**state, "lm_head.bias": torch.zeros(3)}}, file)
    target = Parts(folders["longformer"]).model
    own = from_authors(state, "test")
    assert set(own) == set(source.state_dict()) - {"item_vectors"}
    target.load_state_dict(own, strict=False)
    method, _, _ = fitted(
        folders["longformer"],
        tmp_path,
        checkpoint=str(file),
        attention_window=16,
        pooling="cls",
        steps=1,
        epochs=1,
        learning_rate=1e-12,
        stage2_epochs=0,
    )
    found = method.recformer.state_dict()
    for name, value in own.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-6)


def test_other_checkpoints_are_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="found 0 tensors named"):
        from_authors({"embeddings.word_embeddings.weight": torch.zeros(2)}, "x.bin")
    config = RecFormerConfig(encoder=str(folders["bert"]), checkpoint=str(tmp_path / "no.bin"))
    assert config.pretrain == "none"
    with pytest.raises(ConfigError, match="no such file"):
        RecFormer.require(config)
    with pytest.raises(ValueError, match="two starts"):
        RecFormerConfig(checkpoint="x.bin", pretrain="sources")


def test_sequences_longer_than_the_encoder_reads_are_refused(
    tmp_path: Path,
) -> None:
    folder = tiny_encoder(tmp_path / "short", positions=64)
    with pytest.raises(ConfigError, match="reads at most 64 tokens"):
        fitted(folder, tmp_path, pretrain="none", max_tokens=65)


def test_profiles_and_notes() -> None:
    paper = resolve_config(RecFormer, profile="paper")
    assert (paper.max_history, paper.attribute_tokens, paper.max_tokens) == (50, 32, 1024)
    assert paper.batch_size * paper.accumulate == 128
    assert paper.temperature == 0.05
    assert RecFormer.row_note(RecFormerConfig()) == "source pre-trained, MiniLM"
    assert RecFormer.row_note(RecFormerConfig(pretrain="none")) == "no pre-training, MiniLM"
    assert RecFormer.row_note(RecFormerConfig(checkpoint="x", encoder=paper.encoder)) == ""


def test_learns_a_planted_pattern(folders: dict[str, Path], tmp_path: Path) -> None:
    method, task, context = fitted(
        folders["bert"], tmp_path, task=planted_task(n_sources=2), **{**QUICK, "epochs": 4}
    )
    outcomes = evaluate(method, task.test(task.subset(None)), context)
    figure = float(metric_per_user(outcomes, "ndcg@5").mean())
    assert figure > random_row(30)["ndcg@5"] + 0.25


@pytest.mark.parametrize("kind", KINDS)
def test_conforms(kind: str, folders: dict[str, Path]) -> None:
    config = RecFormerConfig(
        **{**QUICK, "encoder": str(folders[kind]), "steps": 2, "pretrain_steps": 2},
        attention_window=16,
    )
    # The pattern takes a longer training, in the test above.
    checks = [check for check in CHECKS if check != "learns-planted-pattern"]
    if kind == "longformer":
        checks = ["fits", "scores-form", "empty-history", "batch-invariance"]
    failed = [r for r in check_method(RecFormer, config, checks=checks) if r.status == "fail"]
    assert not failed, failed


def test_tables_survive_saving(folders: dict[str, Path], tmp_path: Path) -> None:
    method, task, context = fitted(folders["bert"], tmp_path)
    folder = tmp_path / "saved"
    folder.mkdir()
    method.save(folder)
    again = RecFormer(method.config)
    again.load(folder)
    texts, other = method._fitted()[0], again._fitted()[0]
    assert isinstance(other, TokenTable)
    np.testing.assert_array_equal(texts.ids, other.ids)
    requests, _ = task.validation(task.subset(None))
    np.testing.assert_allclose(
        again.score(requests, context).values, method.score(requests, context).values, atol=1e-5
    )


def test_other_candidates_of_the_same_users_need_no_encoding(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    method, task, context = fitted(folders["bert"], tmp_path)
    requests, _ = task.validation(task.subset(None))
    first = method.score(requests, context).values
    monkeypatch.setattr(method.recformer, "forward", lambda batch: 1 / 0)
    swapped = replace(requests, candidates=requests.candidates[:, ::-1].copy())
    np.testing.assert_array_equal(method.score(swapped, context).values, first[:, ::-1])
