"""First stages of all methods that have one: a plan names what a fit makes, and what it depends on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fitted_method import fitted

from bench.baselines.first_stage import FirstStageMethod
from bench.baselines.llm_rec.method import LLMRec
from bench.baselines.mcrpl.method import MCRPL
from bench.baselines.pretraining import PretrainedStore
from bench.baselines.recformer.method import RecFormer
from bench.baselines.unisrec.method import UniSRec
from bench.baselines.vq_rec.method import VQRec
from bench.errors import MethodError
from bench.methods import AdapterUse, Job, Method, PlanSpec
from bench.methods.registry import resolve
from bench.protocol import Task, build_task
from bench.testing import make_domain, planted_domain, planted_sources, planted_task

SMALL_ENCODER = {"hidden_size": 16, "inner_size": 16, "epochs": 1, "pretrain_epochs": 1}
TEXTS = {"max_history": 5, "batch_size": 16, "steps": 1}
# Method, settings, the name of the setting for its text encoder, one more setting that the stage
# reads and some that it does not read.
CASES: dict[str, tuple[type[FirstStageMethod], dict[str, Any], str, dict[str, Any], dict[str, Any]]]
CASES = {
    "mcrpl": (
        MCRPL,
        {"hidden_size": 8, "max_history": 5, "epochs": 1, "pretrain_epochs": 1},
        "",
        {"pretrain_epochs": 2},
        {"epochs": 2, "diff_weight": 1.0, "freeze": "but-prompts-and-head"},
    ),
    "unisrec": (
        UniSRec,
        {**SMALL_ENCODER, "n_experts": 2},
        "text_encoder",
        {"text_pooling": "cls"},
        {"epochs": 2, "freeze": True, "mode": "inductive", "text_pooling": "mean"},
    ),
    "vq-rec": (
        VQRec,
        {**SMALL_ENCODER, "n_blocks": 4, "n_codes": 8},
        "text_encoder",
        {"rotations": 1},
        {"epochs": 2, "freeze": True, "alignment": "released"},
    ),
    "recformer": (
        RecFormer,
        {**TEXTS, "epochs": 1, "stage2_epochs": 0, "pretrain_steps": 1, "pretrain_epochs": 1},
        "encoder",
        {"mlm_weight": 0.5},
        {"steps": 2, "warmup": 1, "learning_rate": 1e-3, "stage2_epochs": 1},
    ),
    "llm-rec": (
        LLMRec,
        {**TEXTS, "check_steps": 1},
        "encoder",
        {"negatives": 3},
        {"epochs": 2, "patience": 1, "lora_alpha": 1.0, "validation_users": 50},
    ),
}


@pytest.fixture(scope="module")
def task() -> Task:
    return planted_task(n_users=40, n_sources=2)


def made(name: str, encoder_folder: str, **changes: Any) -> Method:
    cls, settings, setting, _, _ = CASES[name]
    text = {setting: encoder_folder} if setting else {}
    return cls(cls.Config(**{**settings, **text, **changes}))


def planned(method: Method, task: Task, **changes: Any) -> Job:
    view = task.train_view(with_sources=True)
    hashes = {domain.name: domain.training_hash for domain in (view.target, *view.sources)}
    names = tuple(domain.name for domain in view.sources)
    spec = {"training_hashes": hashes, "seed": 3, "init_seed": 5}
    job, *others = method.plan(PlanSpec(view.target.name, names, "cpu", **(spec | changes)))
    assert job.kind == "adapter"
    assert [other.kind for other in others] == ["fit", "score"]
    return job


@pytest.mark.parametrize("name", CASES)
def test_a_plan_names_the_stage_that_a_fit_makes(
    name: str, encoder: str, task: Task, tmp_path: Path
) -> None:
    store = PretrainedStore(tmp_path / "store")
    uses: list[AdapterUse] = []
    store.watch(lambda used, _seconds, _cpu: uses.extend(used))
    method = fitted(made(name, encoder), task, tmp_path, store=store, seed=3, init_seed=5)
    job = planned(method, task)
    assert job.known
    assert [(use.adapter_id, use.label) for use in uses] == [(job.key, job.label)]
    assert store.has(job.key)


@pytest.mark.parametrize("name", CASES)
def test_only_what_the_stage_reads_makes_another_one(name: str, encoder: str, task: Task) -> None:
    *_, read, unread = CASES[name]
    job = planned(made(name, encoder), task)
    assert planned(made(name, encoder, **read), task).key != job.key
    assert planned(made(name, encoder), task, dtype="bfloat16").key != job.key
    assert planned(made(name, encoder), task, seed=4, init_seed=6).key != job.key
    for setting, value in unread.items():
        assert planned(made(name, encoder, **{setting: value}), task).key == job.key, setting


@pytest.mark.parametrize("name", CASES)
def test_what_a_plan_cannot_know_it_says(name: str, encoder: str, task: Task) -> None:
    assert not planned(made(name, encoder), task, training_hashes={}).known
    setting = CASES[name][2]
    if setting:
        # The asset is not in this cache; asking about it neither fails nor fetches it.
        assert not planned(made(name, "all-minilm-l6-v2"), task).known
        assert not planned(made(name, "some/encoder"), task).known


def test_a_plugin_shares_no_stage_with_the_method_that_it_changes(
    encoder: str, task: Task, tmp_path: Path
) -> None:
    keys = [planned(made("unisrec", encoder), task).key]
    for weight in (0, 2):
        file = tmp_path / "mine.py"
        file.write_text(
            "from bench.baselines.unisrec.method import UniSRec\n"
            "class Mine(UniSRec):\n    name = 'mine'\n"
            f"    def _contrast(self, *args):\n        return {weight} * super()._contrast(*args)\n"
        )
        cls = resolve(f"{file}:Mine")
        method = cls(made("unisrec", encoder).config)
        store = PretrainedStore(tmp_path / "store")
        fitted(method, task, tmp_path / str(weight), store=store, seed=3, init_seed=5)
        keys.append(planned(method, task).key)
        assert store.has(keys[-1])
    assert len(set(keys)) == 3


@pytest.mark.parametrize("name", ["mcrpl", "unisrec", "vq-rec"])
def test_a_target_without_sequences_is_refused_before_the_stage(
    name: str, encoder: str, tmp_path: Path
) -> None:
    # Of three events, two are held out.
    short = make_domain(
        "short", [[u % 40, (u + 1) % 40, (u + 2) % 40] for u in range(9)], n_items=40
    )
    task = build_task(short, sources=planted_sources(1, n_users=20))
    store = PretrainedStore(tmp_path / "store")
    with pytest.raises(MethodError, match="sequences of two items or more; short has 0"):
        fitted(made(name, encoder), task, tmp_path, store=store)
    assert not store.root.exists()


@pytest.mark.parametrize("name", ["unisrec", "vq-rec", "recformer"])
def test_one_sequence_is_nothing_to_contrast(name: str, encoder: str, tmp_path: Path) -> None:
    rows = [[u, u + 1, u + 2] for u in range(3)] + [[3, 4, 5, 6]]
    source = make_domain("one", rows, n_items=40)
    task = build_task(planted_domain(n_users=20), sources=[source])
    store = PretrainedStore(tmp_path / "store")
    with pytest.raises(MethodError, match=r"at least 2 training sequences.*one has 1"):
        fitted(made(name, encoder), task, tmp_path, store=store)
    assert not store.root.exists()


@pytest.mark.parametrize("name", ["unisrec", "vq-rec", "recformer"])
def test_without_pretraining_there_is_none(name: str, encoder: str) -> None:
    jobs = made(name, encoder, pretrain="none").plan(PlanSpec("a", ("b",), "cpu", 0))
    assert [job.kind for job in jobs] == ["fit", "score"]
