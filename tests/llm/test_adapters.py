"""The adapter store: identity, once and whole, costs, lineage, damage, export."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from pydantic import BaseModel
from safetensors.numpy import load_file, save_file

from bench.errors import ConfigError, MethodError, MissingAdapterError, ResultError
from bench.llm.adapter_files import CONFIG, METADATA, WEIGHTS
from bench.llm.adapters import (
    AdapterSpec,
    AdapterStore,
    InitSpec,
    MergedSpec,
    MixturePart,
    adapters_of,
)
from bench.testing import make_context

WORKER = Path(__file__).with_name("adapter_worker.py")

BEAUTY = MixturePart(domain="beauty", training_hash="1" * 64, n_examples=400)
SPORTS = MixturePart(domain="sports", training_hash="2" * 64, n_examples=400)


def recipe(*parts: MixturePart, **changes) -> AdapterSpec:
    values = {
        "backbone": "toy",
        "backbone_hash": "b" * 64,
        "mixture": parts or (BEAUTY,),
        "objective": "sequence",
        "label": "title",
        "template": "sequence",
        "template_hash": "t" * 64,
        "text": {"max_history": 15, "title_tokens": 24},
        "lora": {"r": 2, "alpha": 4.0},
        "training": {"epochs": 1, "learning_rate": 5e-4},
        "trainer_version": 1,
        **changes,
    }
    return AdapterSpec(**values)


def write(out: Path, value: float = 1.0, **config) -> None:
    save_file({"w": np.full((2, 3), value, dtype=np.float32)}, out / WEIGHTS)
    (out / CONFIG).write_text(json.dumps({"peft_type": "LORA", "r": 2, **config}))


class Maker:
    """Counts how often it makes something."""

    def __init__(self, value: float = 1.0, report=None, seconds: float = 0.0) -> None:
        self.calls = 0
        self.value = value
        self.report = {} if report is None else report
        self.seconds = seconds

    def __call__(self, out: Path, checkpoints: Path):
        self.calls += 1
        time.sleep(self.seconds)
        write(out, self.value)
        return self.report


@pytest.fixture
def store(tmp_path) -> AdapterStore:
    return AdapterStore(tmp_path / "adapters")


# --- identity -------------------------------------------------------------------------------------


def test_the_hybrid_of_two_domains_is_one_adapter_whoever_asks():
    one, other = recipe(BEAUTY, SPORTS), recipe(SPORTS, BEAUTY)
    assert one == other
    assert one.adapter_id == other.adapter_id
    assert one.domains == other.domains == ("beauty", "sports")
    assert len({recipe(BEAUTY).adapter_id, recipe(SPORTS).adapter_id, one.adapter_id}) == 3


def test_a_domain_named_twice_counts_twice():
    twice = recipe(BEAUTY, BEAUTY)
    assert len(twice.mixture) == 2
    assert twice.adapter_id != recipe(BEAUTY).adapter_id


@pytest.mark.parametrize(
    "change",
    [
        {"backbone_hash": "c" * 64},
        {"mixture": (BEAUTY.model_copy(update={"training_hash": "3" * 64}),)},
        {"mixture": (BEAUTY.model_copy(update={"n_examples": 401}),)},
        {"mixture": (BEAUTY.model_copy(update={"domain": "beauty2"}),)},
        {"objective": "listwise"},
        {"label": "top5"},
        {"template_hash": "u" * 64},
        {"text": {"max_history": 16, "title_tokens": 24}},
        {"lora": {"r": 2, "alpha": 8.0}},
        {"training": {"epochs": 2, "learning_rate": 5e-4}},
        {"init_seed": 1},
        {"order_seed": 1},
        {"negatives_seed": 1},
        {"trainer_version": 2},
        {"dtype": "bfloat16"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_whatever_decides_the_weights_changes_the_identity(change):
    assert recipe(**change).adapter_id != recipe().adapter_id


@pytest.mark.parametrize("change", [{"backbone": "/home/me/toy"}, {"template": "mine.j2"}])
def test_names_do_not_change_the_identity(change):
    assert recipe(**change).adapter_id == recipe().adapter_id


def test_settings_may_be_models_or_mappings():
    class Lora(BaseModel):
        r: int = 2
        alpha: float = 4.0

    assert recipe(lora=Lora()).adapter_id == recipe().adapter_id


def test_kinds_never_share_an_id():
    shared = {"backbone_hash": "b" * 64, "lora": {"r": 2}, "init_seed": 0}
    merged = MergedSpec(method="ties", parents=("0" * 16,), parameters=shared)
    assert merged.adapter_id != InitSpec(**shared).adapter_id


def test_roles_in_a_merge_are_told_apart_and_its_name_is_not():
    a, b = "a" * 16, "b" * 16
    one = MergedSpec(method="ext-sub", parents=(a, b), name="for people")
    assert one.adapter_id == MergedSpec(method="ext-sub", parents=(a, b)).adapter_id
    assert one.adapter_id != MergedSpec(method="ext-sub", parents=(b, a)).adapter_id
    assert one.adapter_id != MergedSpec(method="ties", parents=(a, b)).adapter_id
    assert MergedSpec(method="ties", parents=(a, b, a)).lineage == (a, b)


# --- once and whole -------------------------------------------------------------------------------


def test_an_adapter_is_made_once_and_found_by_every_later_store(store):
    make = Maker(3.0, {"tokens": np.int64(120), "loss": (2.5, np.float32(1.5))}, seconds=0.1)
    assert not store.has(recipe().adapter_id)
    assert store.find(recipe().adapter_id) is None
    made = store.obtain(recipe(), make)
    again = AdapterStore(store.root)
    found = again.obtain(recipe(), make)
    assert make.calls == 1
    assert found.folder == made.folder == store.root / recipe().adapter_id
    assert load_file(found.folder / WEIGHTS)["w"].tolist() == [[3.0] * 3] * 2
    assert sorted(p.name for p in found.folder.iterdir()) == sorted([CONFIG, WEIGHTS, METADATA])
    assert found.metadata["report"] == {"tokens": 120, "loss": [2.5, 1.5]}
    assert found.seconds >= 0.1
    assert (store.used[0].trained_now, again.used[0].trained_now) == (True, False)
    assert again.used[0].seconds == found.seconds
    assert [a.adapter_id for a in again.list()] == [made.adapter_id]
    assert not store.unfinished()
    assert sorted(p.name for p in store.root.iterdir()) == [".work", recipe().adapter_id]
    assert list((store.root / ".work").iterdir()) == []


def test_looking_whether_it_is_there_is_no_use(store):
    store.obtain(recipe(), Maker())
    other = AdapterStore(store.root)
    assert other.has(recipe().adapter_id)
    assert other.used == ()
    assert other.find(recipe().adapter_id) is not None
    assert [use.adapter_id for use in other.used] == [recipe().adapter_id]


def test_watchers_hear_of_every_use_and_of_time_that_was_spent_in_vain(store):
    heard = []
    store.watch(lambda *told: heard.append(told))
    with pytest.raises(KeyboardInterrupt):
        store.obtain(recipe(), _interrupted(0.2))
    store.obtain(recipe(), Maker())
    store.obtain(recipe(), Maker())
    (none, wasted, _), ((made,), spent, cpu), ((found,), idle, idle_cpu) = heard
    assert none == ()
    assert wasted >= 0.2
    assert made.trained_now
    assert spent > 0
    assert cpu >= 0
    assert found == made, "what this run trained stays trained by it"
    assert (idle, idle_cpu) == (0.0, 0.0)


def _interrupted(seconds: float = 0.0, error: BaseException | None = None):
    def make(out: Path, checkpoints: Path):
        time.sleep(seconds)
        (checkpoints / "step-1").write_text("so far")
        write(out)
        raise KeyboardInterrupt if error is None else error

    return make


class OutOfMemoryError(RuntimeError):
    """Has the name of torch's exception for a full accelerator."""


@pytest.mark.parametrize(
    "error",
    [
        KeyboardInterrupt(),
        OSError(28, "No space left on device"),
        MemoryError(),
        OutOfMemoryError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_may_pass_keeps_checkpoints_and_cost(store, error):
    with pytest.raises(type(error)):
        store.obtain(recipe(), _interrupted(0.2, error))
    assert not store.has(recipe().adapter_id)
    assert [p.name for p in store.unfinished()] == [recipe().adapter_id]
    seen = []

    def make(out: Path, checkpoints: Path):
        seen.extend(p.name for p in checkpoints.iterdir())
        assert list(out.iterdir()) == [], "half-written files are gone"
        write(out)
        return {}

    cost = store.obtain(recipe(), make).metadata["cost"]
    assert seen == ["step-1"]
    assert cost["seconds"] >= 0.2
    assert cost["attempts"] == 2
    assert not store.unfinished()


def test_a_training_that_fails_by_itself_leaves_nothing(store):
    with pytest.raises(ValueError, match="planted"):
        store.obtain(recipe(), _interrupted(error=ValueError("planted")))
    assert not store.unfinished()
    assert list(store.root.rglob("*")) == [store.root / ".work"]


def test_a_report_that_knows_of_earlier_attempts_is_believed(store):
    report = {"seconds": 5000.0, "cpu_seconds": 9000.0, "tokens": 7}
    cost = store.obtain(recipe(), Maker(report=report)).metadata["cost"]
    assert (cost["seconds"], cost["cpu_seconds"], cost["tokens"]) == (5000.0, 9000.0, 7)
    low = store.obtain(recipe(SPORTS), Maker(report={"seconds": 0.0}, seconds=0.1))
    assert low.seconds >= 0.1


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({}, "no adapter_config.json and no adapter_model.safetensors"),
        ({CONFIG: "{}"}, "no adapter_model.safetensors"),
        ({CONFIG: "{}", WEIGHTS: "x", "optimizer.bin": "x"}, "optimizer.bin"),
    ],
)
def test_what_is_no_peft_adapter_is_refused(store, files, words):
    def make(out: Path, checkpoints: Path):
        for name, text in files.items():
            (out / name).write_text(text)
        return {}

    with pytest.raises(MethodError, match=words):
        store.obtain(recipe(), make)
    assert not store.has(recipe().adapter_id)


def test_a_report_without_json_form_is_refused(store):
    with pytest.raises(MethodError, match="not JSON"):
        store.obtain(recipe(), Maker(report={"loss": float("nan")}))
    with pytest.raises(MethodError, match="list"):
        store.obtain(recipe(), Maker(report=[1]))


# --- two processes, and kills ---------------------------------------------------------------------


def worker(store: AdapterStore, log: Path, *words: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(WORKER), str(store.root), str(log), *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def test_two_processes_that_ask_for_one_adapter_train_it_once(store, tmp_path):
    log = tmp_path / "log"
    both = [worker(store, log, "train", 3, 0.3) for _ in range(2)]
    answers = [process.communicate(timeout=60) for process in both]
    assert [process.returncode for process in both] == [0, 0], answers
    told = [json.loads(out) for out, _ in answers]
    assert sorted(one["trained_now"] for one in told) == [False, True]
    assert log.read_text().splitlines() == ["step 1", "step 2", "step 3"]
    waited = next(one for one in told if not one["trained_now"])
    # The one that waited says so, or came when all was done.
    assert waited["status"] in ([], ["waiting"])


def test_a_killed_training_leaves_no_adapter_and_its_checkpoints_serve_the_next(store, tmp_path):
    log = tmp_path / "log"
    process = worker(store, log, "train", 50, 0.1)
    deadline = time.monotonic() + 60
    while not (log.exists() and "step 3" in log.read_text()):
        assert time.monotonic() < deadline, process.communicate()
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    done = len(log.read_text().splitlines())
    assert 3 <= done < 50
    assert store.list() == []
    (left,) = store.unfinished()
    told = json.loads(worker(store, log, "train", 50, 0.0).communicate(timeout=60)[0])
    assert told["trained_now"]
    steps = log.read_text().splitlines()
    # At most the step that was being written when the kill came is done again.
    assert len(steps) in (50, 51)
    assert steps[-1] == "step 50"
    assert not left.exists()
    assert store.list()[0].metadata["report"] == {"steps": 50}


def test_kill_at_any_write_leaves_nothing_or_all(store, tmp_path):
    """The worker is killed before its n-th change to the disk, for every n until it gets through."""
    done = subprocess.run(
        [sys.executable, str(WORKER), str(tmp_path), "-", "kill-everywhere"],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert json.loads(done.stdout)["writes"] > 15


def test_an_adapter_that_is_being_made_is_neither_cleaned_nor_listed(store, tmp_path):
    log = tmp_path / "log"
    process = worker(store, log, "train", 10, 0.2)
    deadline = time.monotonic() + 60
    while not log.exists():
        assert time.monotonic() < deadline, process.communicate()
        time.sleep(0.02)
    assert store.list() == []
    assert store.clean() == []
    assert len(store.unfinished()) == 1
    assert process.communicate(timeout=60)[0]
    assert len(store.list()) == 1


# --- lineage --------------------------------------------------------------------------------------


def parents(store: AdapterStore) -> list[str]:
    a = store.obtain(recipe(BEAUTY), Maker(report={"tokens": 10, "seconds": 100.0}))
    b = store.obtain(recipe(BEAUTY, SPORTS), Maker(report={"tokens": 20, "seconds": 200.0}))
    return [a.adapter_id, b.adapter_id]


def test_a_merged_adapter_brings_the_costs_of_what_it_was_merged_from(store):
    ids = parents(store)
    merge = MergedSpec(method="weight-average", parents=tuple(ids), parameters={"space": "factor"})
    make = Maker(2.0)
    store.obtain(merge, make)
    later = AdapterStore(store.root)
    merged = later.obtain(merge, make)
    assert make.calls == 1
    assert merged.kind == "merged"
    assert [use.adapter_id for use in later.used] == [*ids, merged.adapter_id]
    assert sum(use.seconds for use in later.used) == pytest.approx(300.0, abs=5)
    assert sum(use.tokens for use in later.used) == 30
    # Also when they have been removed meanwhile, and when it is merged again.
    twice = later.obtain(MergedSpec(method="ties", parents=(merged.adapter_id, ids[0])), Maker())
    for one in ids:
        later.remove(one)
    last = AdapterStore(store.root)
    assert last.find(twice.adapter_id) is not None
    assert [use.adapter_id for use in last.used] == [*ids, merged.adapter_id, twice.adapter_id]


def test_a_merge_of_something_that_is_not_stored_is_refused(store):
    with pytest.raises(ResultError, match="0000000000000000 is to be merged"):
        store.obtain(MergedSpec(method="ties", parents=("0" * 16,)), Maker())
    assert not store.unfinished()


def test_hashes_that_a_merger_asks_for_are_in_the_metadata(store):
    factors = "f" * 64

    def init(out: Path) -> str:
        write(out, 0.0)
        return factors

    folder = store.init("b" * 64, recipe().lora, 0, init)
    assert store.init("b" * 64, recipe().lora, 0, init) == folder
    assert store.init("b" * 64, recipe().lora, 1, init) != folder
    trained = store.obtain(recipe(), Maker())
    other = store.obtain(recipe(SPORTS, init_seed=2), Maker())
    assert (trained.metadata["base_hash"], trained.metadata["init_hash"]) == ("b" * 64, factors)
    assert store.get(folder.name).metadata["init_hash"] == factors
    assert other.metadata["init_hash"] is None, "its initialisation is not stored"
    assert [use.kind for use in store.used] == ["trained", "trained"]

    def merge(out: Path, checkpoints: Path):
        write(out)
        own = {"init_hash": factors, "truncation": {"relative_error": 0.25}}
        (out / METADATA).write_text(json.dumps(own))
        return {}

    spec = MergedSpec(method="ties", parents=(trained.adapter_id, other.adapter_id))
    merged = store.obtain(spec, merge)
    assert merged.metadata["init_hash"] == factors
    assert merged.metadata["base_hash"] == "b" * 64
    assert merged.metadata["origin"]["truncation"] == {"relative_error": 0.25}
    assert merged.metadata["adapter_id"] == spec.adapter_id


# --- damage, removal ------------------------------------------------------------------------------


def _edit(folder: Path, **changes) -> None:
    metadata = json.loads((folder / METADATA).read_text())
    (folder / METADATA).write_text(json.dumps({**metadata, **changes}))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda f: (f / WEIGHTS).write_bytes(b"x"), f"{WEIGHTS} was changed"),
        (lambda f: (f / CONFIG).unlink(), f"{CONFIG} is missing"),
        (lambda f: (f / METADATA).unlink(), "no such file"),
        (lambda f: (f / METADATA).write_text("{"), "not valid JSON"),
        (lambda f: (f / METADATA).write_text("[]"), "expected an object"),
        (lambda f: (f / METADATA).write_text("{}"), "no format number"),
        (lambda f: _edit(f, adapter_id="0" * 16), "belongs to adapter '0000000000000000'"),
        (lambda f: _edit(f, cost={}), "cost or lineage is incomplete"),
        (lambda f: _edit(f, lineage=[{"adapter_id": "x"}]), "cost or lineage is incomplete"),
        (lambda f: _edit(f, files={}), "does not list"),
        (lambda f: _edit(f, files=[]), "field 'files' is list, expected dict"),
    ],
)
def test_damage_is_named_with_the_command_that_helps(store, damage, words):
    folder = store.obtain(recipe(), Maker()).folder
    damage(folder)
    with pytest.raises(ResultError, match="damaged adapter") as caught:
        AdapterStore(store.root).obtain(recipe(), Maker())
    assert words in str(caught.value)
    assert f"bench adapters rm {folder.name}" in str(caught.value)
    store.remove(folder.name)
    assert AdapterStore(store.root).obtain(recipe(), Maker()).folder == folder


def test_a_file_name_that_leads_out_of_the_folder_is_damage(store):
    adapter = store.obtain(recipe(), Maker())
    files = {**adapter.metadata["files"], "../../secret": "0" * 64}
    _edit(adapter.folder, files=files)
    with pytest.raises(ResultError, match="leads out of the folder"):
        store.find(adapter.adapter_id)


def test_a_newer_format_is_refused(store):
    folder = store.obtain(recipe(), Maker()).folder
    _edit(folder, format=2)
    with pytest.raises(ResultError, match="adapter format 2; this version reads up to 1"):
        store.find(folder.name)


def test_damaged_adapters_do_not_hide_the_others(store):
    store.obtain(recipe(), Maker())
    broken = store.obtain(recipe(SPORTS), Maker()).folder
    (broken / METADATA).write_text("{")
    damaged: list[str] = []
    assert [a.adapter_id for a in store.list(damaged)] == [recipe().adapter_id]
    assert len(damaged) == 1
    with pytest.raises(ResultError):
        store.list()


def test_names_are_ids_or_their_first_digits(store):
    ids = parents(store)
    assert store.get(ids[0][:6]).adapter_id == ids[0]
    with pytest.raises(MissingAdapterError, match="no adapter 'zzz' among the 2"):
        store.get("zzz")
    with pytest.raises(MissingAdapterError, match="no adapter ''"):
        store.get("")
    shutil.copytree(store.root / ids[0], store.root / (ids[0][:15] + "x"))
    assert len(store.folders()) == 2, "no adapter: not 16 hex digits"
    twin = ids[0][:15] + ("0" if ids[0][15] != "0" else "1")
    shutil.copytree(store.root / ids[0], store.root / twin)
    with pytest.raises(MissingAdapterError, match="means 2 adapters"):
        store.remove(ids[0][:15])
    store.remove(ids[0])
    assert not store.has(ids[0])
    assert [f for f in store.root.rglob("*") if "trash" in f.name] == []


# --- context, imports -----------------------------------------------------------------------------


def test_a_context_without_the_store_says_what_is_missing(store, tmp_path):
    assert adapters_of(make_context(tmp_path / "a", adapters=store)) is store
    with pytest.raises(MethodError, match=r"NoneType.*adapter_store"):
        adapters_of(make_context(tmp_path / "b"))


def test_the_standard_place_follows_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "elsewhere"))
    assert AdapterStore().root == tmp_path / "elsewhere" / "adapters"


def test_importing_the_store_loads_no_torch():
    code = (
        "import sys, bench.llm.adapters, bench.llm.adapter_export, bench.cli.adapters; "
        "print([m for m in ('torch', 'transformers', 'peft') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"


# --- export ---------------------------------------------------------------------------------------


def secretive(store: AdapterStore):
    """An adapter whose every free-text corner holds something that must not leave."""
    spec = recipe(
        BEAUTY,
        SPORTS,
        backbone="/home/secret/models/toy-model",
        template="/home/secret/prompt.j2",
    )

    def make(out: Path, checkpoints: Path):
        write(out, 5.0, base_model_name_or_path="/home/secret/models/toy-model")
        (out / "README.md").write_text("secret card")
        (out / METADATA).write_text(json.dumps({"inputs": ["/home/secret/a"], "error": 0.5}))
        return {
            "loss": [2.0, 1.0],
            "examples": ["secret title"],
            "nested": {"user": "secret", "steps": 3},
        }

    return store.obtain(spec, make)


def test_an_export_holds_the_recipe_and_nothing_private(store, tmp_path):
    adapter = secretive(store)
    out = store.export(adapter.adapter_id[:5], tmp_path / "out")
    names = sorted(path.name for path in out.iterdir())
    assert names == sorted([CONFIG, WEIGHTS, METADATA, "README.md"])
    for path in out.iterdir():
        assert b"secret" not in path.read_bytes(), path.name
    assert (out / WEIGHTS).read_bytes() == (adapter.folder / WEIGHTS).read_bytes()
    config = json.loads((out / CONFIG).read_text())
    assert config == {"peft_type": "LORA", "r": 2, "base_model_name_or_path": "toy-model"}
    told = json.loads((out / METADATA).read_text())
    assert told["report"] == {"loss": [2.0, 1.0], "examples": [], "nested": {"steps": 3}}
    assert told["origin"] == {"inputs": [], "error": 0.5}
    assert told["base_hash"] == "b" * 64
    card = (out / "README.md").read_text()
    for part in (
        "toy-model", "b" * 64, "| beauty | 400 |", "| sports | 400 |", "1" * 64, "2" * 64,
        "sequence", "epochs 1", "## Licence", "s wall",
    ):  # fmt: skip
        assert part in card, part


def test_an_export_never_overwrites_and_checks_the_files_first(store, tmp_path):
    adapter = store.obtain(recipe(), Maker())
    taken = tmp_path / "taken"
    taken.mkdir()
    store.export(adapter.adapter_id, taken)
    with pytest.raises(ConfigError, match="no empty folder"):
        store.export(adapter.adapter_id, taken)
    (adapter.folder / WEIGHTS).write_bytes(b"x")
    with pytest.raises(ResultError, match="was changed"):
        store.export(adapter.adapter_id, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_hostile_names_stay_text_in_the_card(store, tmp_path):
    part = MixturePart(domain="a|b<script>\n# x", training_hash="1" * 64, n_examples=1)
    spec = recipe(part, backbone='me/model"\nlicense: mit', objective="a|b")
    out = store.export(store.obtain(spec, Maker()).adapter_id, tmp_path / "out")
    card = (out / "README.md").read_text()
    assert "<script>" not in card
    assert "a\\|b&lt;script> # x" in card
    front = card.split("---")[1]
    import yaml

    assert set(yaml.safe_load(front)) == {"base_model", "library_name", "tags"}


def test_the_card_of_a_merged_adapter_names_what_it_was_merged_from(store, tmp_path):
    ids = parents(store)
    merged = store.obtain(MergedSpec(method="ties", parents=tuple(ids)), Maker())
    card = (store.export(merged.adapter_id, tmp_path / "out") / "README.md").read_text()
    assert all(one in card for one in ids)
    assert "| method | ties |" in card


# PEFT asks transformers for an attribute that transformers has renamed.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_an_export_loads_in_peft_and_computes_the_same(store, tmp_path):
    torch = pytest.importorskip("torch")
    peft = pytest.importorskip("peft")
    transformers = pytest.importorskip("transformers")
    torch.set_num_threads(1)
    settings = transformers.LlamaConfig(
        vocab_size=32, hidden_size=16, intermediate_size=32, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=2,
    )  # fmt: skip

    def base():
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return transformers.LlamaForCausalLM(settings).eval()

    lora = peft.LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj"], task_type="CAUSAL_LM")
    model = peft.get_peft_model(base(), lora)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "lora_B" in name:
                value.fill_(0.3)

    def make(out: Path, checkpoints: Path):
        model.save_pretrained(out)
        return {"tokens": 1}

    adapter = store.obtain(recipe(backbone="toy"), make)
    assert not (adapter.folder / "README.md").exists()
    out = store.export(adapter.adapter_id, tmp_path / "out")
    tokens = torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        expected = model.eval()(tokens).logits
        loaded = peft.PeftModel.from_pretrained(base(), str(out)).eval()(tokens).logits
        plain = base()(tokens).logits
    torch.testing.assert_close(loaded, expected)
    assert not torch.allclose(plain, expected)
