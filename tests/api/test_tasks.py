"""`load_task` and `run`: the same tasks and runs as the command line's, from names, paths and objects."""

from __future__ import annotations

import importlib
import json
import runpy
import sys
from pathlib import Path
from types import ModuleType

import pytest
from typer.testing import CliRunner

import bench
from bench.baselines.reference.popularity import Popularity
from bench.cli import app
from bench.data.load import load_domain
from bench.errors import ConfigError, MethodError
from bench.runs.matrix import run_matrix
from bench.runs.runner import execute
from bench.runs.spec import RunSpec
from bench.testing import planted_domain

LEARNER = f"{Path(__file__).parents[1] / 'runs/run_methods.py'}:Learner"

METHOD = """
import numpy as np
from bench.methods import Family, Method, MethodConfig, Scores

class Settings(MethodConfig):
    shift: int = 0

class Own(Method):
    '''Its own.'''
    name, version, family, Config = "{name}", "1", Family.REFERENCE, Settings

    def fit(self, view, context):
        {fit}

    def score(self, requests, context):
        return Scores((requests.candidates * {factor} + self.config.shift).astype(np.float32))
"""


def write_method(path: Path, fit: str = "pass", factor: int = 1) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(METHOD.format(name=f"own-{path.stem}", fit=fit, factor=factor))


def cli(*words: str) -> str:
    result = CliRunner().invoke(app, list(words), prog_name="bench")
    assert result.exit_code == 0, result.stderr
    return result.stdout


def test_a_run_of_the_command_line_is_stored_for_python(home):
    words = ("--target", "ml100k-drama", "--set", "shrinkage=50", "--rivals", "none", "--json")
    told = json.loads(cli("run", "--method", "item-knn", *words))
    result = bench.run("item-knn", "ml100k-drama", overrides={"shrinkage": 50})
    assert (result.status, result.run.run_id) == ("stored", told["run_id"])
    assert {name: value["mean"] for name, value in result.figures.items()} == {
        name: value["mean"] for name, value in told["metrics"].items()
    }
    assert list(result.figures)[:2] == ["ndcg@1", "ndcg@3"]
    assert "NDCG@5" in repr(result) and len(repr(result)) < 150
    again = bench.run("item-knn", "ml100k-drama", overrides={"shrinkage": 50}, force=True)
    assert (again.status, again.run.run_id) == ("done", told["run_id"])


def test_a_task_is_that_of_the_command_line(home):
    task = bench.load_task("ml100k-drama", n_negatives=9, candidate_seed=3)
    words = ("--target", "ml100k-drama", "--n-negatives", "9", "--candidate-seed", "3", "--json")
    told = json.loads(cli("candidates", "hash", *words))
    mine = {name: getattr(task, name) for name in told if name != "guard"}
    assert mine | {"guard": task.task.guard} == told
    sizes = f"{told['n_users']} users, {told['n_items']} items"
    assert repr(task) == f"Task(ml100k-drama: {sizes}, leak guard none, {task.task_hash[:12]})"


def test_names_folders_and_domains_give_one_task(home, tmp_path, monkeypatch):
    by_name = bench.load_task("ml100k-drama")
    monkeypatch.delenv("BENCH_DATA_ROOT")
    folder = tmp_path / "data" / "ml100k-drama"
    tasks = [bench.load_task(folder), bench.load_task(f"{folder}/")]
    tasks.append(bench.load_task("ml100k-drama", data_root=str(tmp_path / "data")))
    domain = load_domain("ml100k-drama", data_root=str(tmp_path / "data"))
    tasks.append(bench.load_task(domain))
    assert {task.task_hash for task in tasks} == {by_name.task_hash}
    assert repr(domain).startswith("Domain(ml100k-drama: 60 users, ") and len(repr(domain)) < 70
    run = bench.run("popularity", tasks[-1], store=str(tmp_path / "a"))
    assert run.status == "done"
    assert bench.run("popularity", folder, store=tmp_path / "a").status == "stored"
    for wrong in ("./ml100k-drama", folder / "ml100k-drama.inter"):
        with pytest.raises(ConfigError, match="expected the folder of a domain"):
            bench.load_task(wrong)


def test_domains_in_memory_are_targets_and_sources_and_found_nowhere_else(home):
    target, source = planted_domain(name="near"), planted_domain(name="far", seed=1)
    task = bench.load_task(target, sources=[source])
    assert [domain.name for domain in task.with_sources().domains] == ["near", "far"]
    run = bench.run(LEARNER, task, overrides={"needs_sources": True}).run
    assert run.sources == ("far",)
    assert run.manifest["data"]["far"]["content_hash"] == source.content_hash
    with pytest.raises(ConfigError, match="unknown domain 'near'"):
        load_domain("near")
    with pytest.raises(ConfigError, match="unknown domain 'far'"):
        bench.load_task(target, sources=["far"])


def test_sources_are_named_or_the_study_group(home):
    settings = {"needs_sources": True}
    named = bench.load_task("ml100k-drama", sources=["ml100k-comedy"])
    assert bench.run(LEARNER, named, overrides=settings).run.sources == ("ml100k-comedy",)
    assert bench.run("popularity", named).run.sources == ()
    both = bench.load_task(planted_domain(name="near"), sources=["ml100k-drama", "ml100k-comedy"])
    with pytest.raises(ConfigError, match=r"takes one source, and the task has 2"):
        bench.run(LEARNER, both, overrides={**settings, "single_source": True})


def test_a_method_is_its_class_and_configuration(home):
    task = bench.load_task("ml100k-drama")
    assert bench.run(Popularity(), task).run.run_id == bench.run("popularity", task).run.run_id
    write_method(home / "own_file.py")
    own = importlib.import_module("own_file")
    try:
        plain = bench.run(own.Own(), task)
        assert bench.run("own_file.py:Own", task).run.run_id == plain.run.run_id
        assert plain.run.manifest["spec"]["overrides"] == {}
        moved = bench.run(own.Own(own.Settings(shift=3)), task)
        assert moved.run.config == {"shift": 3}
        # What the file holds now counts, not what was imported.
        write_method(home / "own_file.py", factor=-1)
        turned = bench.run(own.Own(), task)
        assert turned.run.run_id != plain.run.run_id
        assert turned.figures["auc"]["mean"] == pytest.approx(1 - plain.figures["auc"]["mean"])
        with pytest.raises(ConfigError, match="give one of the two"):
            bench.run(own.Own(), task, overrides={"shift": 1})
    finally:
        del sys.modules["own_file"]


CALLER = """
import bench
from own_package.method import Own

def study():
    return bench.run(Own(), "ml100k-drama", force=True)
"""


def test_code_of_a_package_may_run_its_own_method_and_the_method_may_not_read_runs(home):
    package = home / "own_package"
    write_method(package / "method.py")
    (package / "__init__.py").write_text("")
    (package / "study.py").write_text(CALLER)
    study = importlib.import_module("own_package.study")
    try:
        first = study.study()
        write_method(package / "method.py", factor=-1)
        importlib.reload(sys.modules["own_package.method"])
        second = importlib.reload(study).study()
        assert second.figures["auc"]["mean"] == pytest.approx(1 - first.figures["auc"]["mean"])
        for fit in (
            "import bench; bench.load_runs('bench-runs')[0].outcomes()",
            "import bench; bench.run('popularity', 'ml100k-drama', store='bench-runs')",
            "import own_package.method as m, bench; "
            "bench.run(m.Own(m.Settings(shift=9)), 'ml100k-drama', store='bench-runs')",
        ):
            write_method(package / "method.py", fit=fit)
            importlib.reload(sys.modules["own_package.method"])
            with pytest.raises(MethodError, match=r"fit\(\) reads .*, which belongs to"):
                importlib.reload(study).study()
    finally:
        for name in [name for name in sys.modules if name.startswith("own_package")]:
            del sys.modules[name]


def test_scripts_may_define_a_method_and_sessions_may_not(home, monkeypatch):
    write_method(home / "script.py")
    with (home / "script.py").open("a") as stream:
        stream.write("\nimport bench\nresult = bench.run(Own(), 'ml100k-drama')\n")
    ran = runpy.run_path("script.py", run_name="__main__")
    assert ran["result"].status == "done"
    session = ModuleType("session")
    monkeypatch.setitem(sys.modules, "session", session)
    with pytest.raises(MethodError, match="no source file"):
        exec((home / "script.py").read_text().replace("own-script", "own-session"), vars(session))


def test_a_failure_is_raised_and_recorded(home):
    with pytest.raises(MethodError, match="planted failure in fit"):
        bench.run(LEARNER, "ml100k-drama", overrides={"fault": "fit"}, store="kept")
    assert list((home / "kept/failed/ml100k-drama").iterdir())
    with pytest.raises(ConfigError, match="expected cpu, cuda"):
        bench.run("popularity", "ml100k-drama", device="gpu")


def test_wrong_options_are_refused(home):
    with pytest.raises(ConfigError, match="a file replaces the draw"):
        bench.load_task("ml100k-drama", candidates="x.csv", negatives="popularity")
    with pytest.raises(ConfigError, match="Did you mean 'ml100k-drama'"):
        bench.load_task("ml100k-dramma")
    with pytest.raises(AttributeError, match="no attribute 'leaderbord'"):
        getattr(bench, "leader" + "bord")


def test_specifications_and_stores_take_texts(home, tmp_path):
    spec = RunSpec(method="popularity", target="ml100k-drama", data_root=str(tmp_path / "data"))
    assert spec.data_root == tmp_path / "data"
    run = execute(spec, "texts")
    assert run.path.is_relative_to("texts")
    (result,) = run_matrix([spec], str(home / "texts"))
    assert (result.status, result.run.run_id) == ("stored", run.run_id)
    assert repr(run) == f"StoredRun(popularity on ml100k-drama, seed 0, {run.run_id[:8]})"


def test_progress_is_shown_where_it_is_asked_for(home, capsys):
    bench.run("popularity", "ml100k-drama", progress=True)
    assert "popularity on ml100k-drama" in capsys.readouterr().err
    bench.run("item-knn", "ml100k-drama")
    assert capsys.readouterr() == ("", "")
