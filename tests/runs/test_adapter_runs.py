"""Runs of methods with adapters: who trains, what a run says it cost, what a kill leaves, what is planned."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from bench.llm.adapters import AdapterStore
from bench.methods import RunDefaults, resolve
from bench.runs.matrix import expand
from bench.runs.planning import plan_runs
from bench.runs.results import run_json
from bench.runs.runner import execute
from bench.runs.store import RunStore

FILE = Path(__file__).with_name("adapter_methods.py")
ADAPTED, ALONE = f"{FILE}:Adapted", f"{FILE}:Alone"
PAUSE = 0.4


@pytest.fixture(autouse=True)
def _own_adapters(tmp_path, monkeypatch):
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def log(tmp_path) -> Path:
    return tmp_path / "log"


@pytest.fixture
def spec(make_spec, log):
    def make(target="alpha", method=ADAPTED, **overrides):
        sources = () if method == ALONE else tuple({"alpha", "beta"} - {target})
        spec = make_spec(target=target, sources=sources, overrides={"log": str(log), **overrides})
        return spec.model_copy(update={"method": method})

    return make


def trainings(log: Path) -> list[str]:
    lines = log.read_text().splitlines() if log.exists() else []
    return [line.removeprefix("train ") for line in lines if line.startswith("train ")]


def test_two_targets_share_the_hybrid_of_their_domains(spec, store, log):
    first = execute(spec("alpha"), store)
    assert trainings(log) == ["alpha", "beta"]
    second = execute(spec("beta"), store)
    assert trainings(log) == ["alpha", "beta"], "nothing is trained for the second target"
    (made,), (found,) = first.manifest["adapters"], second.manifest["adapters"]
    assert made["adapter_id"] == found["adapter_id"]
    assert (made["trained_now"], found["trained_now"]) == (True, False)
    assert made["label"] == "alpha + beta, next, 3 + 3 examples"
    assert made["tokens"] == 1000


def timed(wanted, store):
    """The manifest of a run, and the wall seconds that it took with everything."""
    began = time.perf_counter()
    manifest = execute(wanted, store).manifest
    return manifest, time.perf_counter() - began


def test_own_seconds_leave_the_training_of_adapters_out_and_the_total_counts_it_for_everyone(
    spec, store
):
    first, first_took = timed(spec("alpha", pause=PAUSE), store)
    second, second_took = timed(spec("beta", pause=PAUSE), store)
    cost = first["adapters"][0]["seconds"]
    assert cost >= 2 * PAUSE
    for manifest, took in ((first, first_took - cost), (second, second_took)):
        seconds = manifest["seconds"]
        assert seconds["total"] <= took
        assert seconds["fit"] + seconds["score"] <= seconds["total"] + 0.002
        assert seconds["adapters"] == pytest.approx(cost)
        assert seconds["total_with_adapters"] == pytest.approx(seconds["total"] + cost, abs=0.002)
        cpu = manifest["cpu_seconds"]
        assert cpu["total_with_adapters"] == pytest.approx(
            cpu["total"] + cpu["adapters"], abs=0.002
        )
        assert min(seconds.values()) >= 0
        assert min(cpu.values()) >= 0


def test_json_of_a_run_holds_the_total_with_adapters(spec, store):
    record = run_json(execute(spec(pause=PAUSE), store))
    assert set(record["seconds"]) == {"fit", "score", "total_with_adapters"}
    assert record["seconds"]["total_with_adapters"] >= 2 * PAUSE + record["seconds"]["fit"]


def test_a_method_without_adapters_has_an_empty_list_and_equal_totals(make_spec, store):
    manifest = execute(make_spec(), store).manifest
    assert manifest["adapters"] == []
    assert manifest["seconds"]["adapters"] == 0
    assert manifest["seconds"]["total_with_adapters"] == manifest["seconds"]["total"]


def test_another_domain_trains_only_what_is_new(spec, store, log):
    execute(spec("alpha"), store)
    execute(spec("alpha", method=ALONE), store)
    assert trainings(log) == ["alpha", "beta", "alpha"]
    execute(spec("alpha", method=ALONE).model_copy(update={"seed": 1}), store)
    assert len(AdapterStore().list()) == 3, "another seed is another adapter"


def test_interrupted_training_goes_on_from_its_checkpoint_and_keeps_its_cost(spec, store, log):
    began = time.perf_counter()
    with pytest.raises(KeyboardInterrupt):
        execute(spec(pause=PAUSE, fault="train"), store)
    assert AdapterStore().list() == []
    # The second domain is interrupted as well, after its checkpoint.
    with pytest.raises(KeyboardInterrupt):
        execute(spec(pause=PAUSE, fault="train"), store)
    run = execute(spec(pause=PAUSE, fault="train"), store)
    took = time.perf_counter() - began
    assert trainings(log) == ["alpha", "beta"]
    (use,) = run.manifest["adapters"]
    assert use["trained_now"]
    assert use["seconds"] >= 2 * PAUSE, "the cost of all attempts"
    own = run.manifest["seconds"]["total"]
    assert own <= took - use["seconds"], "interrupted training is no time of the run's own either"
    assert AdapterStore().list()[0].metadata["cost"]["attempts"] == 3


def test_a_run_interrupted_while_scoring_says_that_it_trained_its_adapter(spec, store, log):
    wanted = spec(fault="score")  # Ctrl-C at the second chunk, as long as a mark is in the scratch
    with pytest.raises(KeyboardInterrupt):
        execute(wanted, store, checkpoint_seconds=0.0)
    before = log.read_text().splitlines()
    (mark,) = (store.root / ".work").glob("*/scratch/scored")
    for _ in range(20):
        mark.unlink()
        try:
            run = execute(wanted, store, checkpoint_seconds=0.0)
            break
        except KeyboardInterrupt:
            assert mark.exists()
    else:
        pytest.fail("the run does not get on: every attempt begins anew")
    after = log.read_text().splitlines()[len(before) :]
    assert trainings(log) == ["alpha", "beta"]
    assert after[0] == "load", "the fitted model is loaded, not fitted again"
    (use,) = run.manifest["adapters"]
    assert use["trained_now"]
    # Every chunk of eight users once; the interrupted ones were not answered.
    answered = [line for line in after if line == "score 8"]
    n_rows = 2 * run.n_users  # a plugin scores the users once more, on secret candidates
    assert len(answered) < 2 * n_rows // 8
    assert run.manifest["tokens"] == 10 * run.n_users


def test_scores_are_saved_every_few_users_and_not_repeated(spec, store, log):
    wanted = spec()
    whole = execute(wanted, RunStore(store.root / "whole"))
    rows = [int(line.split()[1]) for line in log.read_text().splitlines() if "score" in line]
    n_validation = rows[0]
    once = [8] * (whole.n_users // 8) + [whole.n_users % 8] * bool(whole.n_users % 8)
    assert rows[1:] == 2 * once, "every user once, and once more on secret candidates"
    assert n_validation > 8, "validation is one call"


def test_saved_scores_of_other_chunks_are_not_mixed_in(spec, store, log, monkeypatch):
    wanted = spec(fault="score")
    with pytest.raises(KeyboardInterrupt):
        execute(wanted, store, checkpoint_seconds=0.0)
    (mark,) = (store.root / ".work").glob("*/scratch/scored")
    mark.unlink()
    with pytest.raises(KeyboardInterrupt):
        execute(wanted, store, checkpoint_seconds=0.0)  # eight users are saved now
    assert list((store.root / ".work").glob("*/parts/*.npz"))
    monkeypatch.setattr(resolve(ADAPTED), "score_rows", 100)
    mark.unlink()
    with pytest.raises(
        KeyboardInterrupt
    ):  # at the secret candidates, which a plugin scores as well
        execute(wanted, store, checkpoint_seconds=0.0)
    mark.unlink()
    run = execute(wanted, store, checkpoint_seconds=0.0)
    calls = log.read_text().splitlines()[-4:]
    assert calls[0] == f"score {run.n_users}", "all of them, in one chunk"
    assert run.manifest["tokens"] == 10 * run.n_users
    assert len(run.outcomes()) == run.n_users


def test_defaults_of_the_method_are_explicit_in_the_specification(data_root, make_spec, store):
    common = {"data_root": data_root, "threads": 1}
    adapted, plain = expand([ALONE, "popularity"], ["alpha"], **common)
    assert (adapted.limit_users, adapted.dtype) == (20, "bfloat16")
    assert (plain.limit_users, plain.dtype) == (None, "float32")
    (paper,) = expand([ALONE], ["alpha"], profile="paper", **common)
    assert (paper.limit_users, paper.dtype) == (None, "float32")
    (given,) = expand([ALONE], ["alpha"], limit_users=None, dtype="float32", **common)
    assert (given.limit_users, given.dtype) == (None, "float32")
    # Spelling the default out is the same run.
    explicit = make_spec(method="popularity", limit_users=None, dtype="float32")
    assert execute(plain, store).run_id == execute(explicit, store).run_id
    assert RunDefaults() == RunDefaults(limit_users=None, dtype="float32")


def test_plan_tells_stored_shared_and_new_adapters_apart(spec, store, log):
    specs = [spec("alpha"), spec("beta"), spec("alpha", method=ALONE)]
    states = [[p.state for p in plan.jobs] for plan in plan_runs(specs, store)]
    assert states == [["to do", "to do"], ["shared", "to do"], ["to do", "to do"]]
    assert not trainings(log)
    run = execute(specs[0], store)
    first, second, _ = plan_runs(specs, store)
    assert first.jobs[0].job.key == run.manifest["adapters"][0]["adapter_id"]
    assert (first.stored, [p.state for p in first.jobs]) == (True, ["stored", "stored"])
    assert [p.state for p in second.jobs] == ["stored", "to do"]
    assert second.seconds == 0.5 * 40
    forced = plan_runs(specs, store, force=True)[0]
    assert [p.state for p in forced.jobs] == ["stored", "to do"], "adapters are kept"


def test_an_estimate_is_absent_where_the_method_offers_none(spec, store):
    (plan,) = plan_runs([spec(estimate=False)], store)
    assert plan.seconds is None
    (plan,) = plan_runs([spec()], store)
    assert plan.seconds == 90.0 + 0.5 * 40


def test_total_counts_adapters_that_only_the_stored_model_remembers(spec, store):
    wanted = spec(pause=PAUSE).model_copy(update={"keep_model": True})
    cost = execute(wanted, store).manifest["adapters"][0]["seconds"]
    AdapterStore().remove(AdapterStore().list()[0].adapter_id)
    more = execute(wanted.model_copy(update={"extra_candidate_seeds": (1,)}), store)
    assert more.manifest["seconds"]["adapters"] == pytest.approx(cost)
    assert AdapterStore().list() == [], "the model was loaded, nothing was trained"


def test_waiting_for_another_process_is_no_time_of_the_run(spec, store, tmp_path, monkeypatch):
    """The other process is played by a lock that is held for a while."""
    import subprocess
    import sys

    (plan,) = plan_runs([spec()], store)
    folder = AdapterStore().root / ".work" / plan.jobs[0].job.key
    script = (
        "import sys, time; from pathlib import Path; from bench.io import lock\n"
        "with lock(Path(sys.argv[1])):\n    print('held', flush=True); time.sleep(1.0)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(folder)], stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        began = time.perf_counter()
        manifest = execute(spec(), store).manifest
        waited = time.perf_counter() - began
    assert waited > 0.8
    assert manifest["seconds"]["total"] < waited - 0.5
