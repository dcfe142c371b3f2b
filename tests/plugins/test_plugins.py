"""Plugins of an installed package: found by name, used by the command line, part of what a run is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from plugin_package import beside, entry_points, install, project, write_modules

from bench.data import reading
from bench.data.raw import RawData
from bench.data.readers import Reader, Reading
from bench.errors import MethodError
from bench.evaluation import Metric, Outcomes, metrics
from bench.merging import MergeConfig
from bench.registry import Registry

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture
def package(tmp_path):
    install(tmp_path / "site")
    return tmp_path / "site"


def test_a_reader_and_a_metric_of_a_package_serve_import_and_leaderboard(package, tmp_path):
    lines = [
        f"u{user} likes i{(user * user + 3 * step) % 40}" for step in range(6) for user in range(20)
    ]
    (tmp_path / "log.likes").write_text("\n".join(lines) + "\n")
    found = beside(
        package,
        """
        from bench.io import store_root
        from bench.runs.store import RunStore

        imported = bench("data", "import", "liked", "log.likes", "--reader", "likes")
        unknown = bench("data", "import", "other", "log.likes", "--reader", "lines")
        broken = bench("data", "import", "other", "log.likes", "--reader", "broken")
        table = bench("data", "import", "other", "log.likes")
        columns = bench("data", "import", "other", "log.likes", "--reader", "likes", "--no-header")
        ran = bench("run", "--method", "popularity", "--target", "liked", "--n-negatives", 9, "--quiet")
        words = ("leaderboard", "--target", "liked", "--format", "json")
        shown = bench(*words, "--metrics", "rbp@3,ahead,ndcg@10,hr@10")
        cut = bench(*words, "--metrics", "ahead@3")
        (run,) = (r for r in RunStore(store_root()).list() if r.method == "popularity")
        outcomes = run.outcomes()
        print(json.dumps({
            "imported": imported.output,
            "unknown": unknown.output,
            "broken": broken.output,
            "table": table.exit_code,
            "columns": columns.output,
            "ran": ran.output if ran.exit_code else "",
            "shown": json.loads(shown.stdout),
            "cut": cut.output,
            "ranks": (outcomes.n_better + 1).tolist(),
            "tied": outcomes.n_tied.tolist(),
        }))
        """,
        tmp_path,
    )
    assert "liked: 20 users" in found["imported"]
    assert "read by likes of package likes-plugin 1.2, source " in found["imported"]
    assert "unknown reader 'lines'. Did you mean 'likes'" in found["unknown"]
    assert "Known: broken, likes, movielens, table." in found["unknown"]
    assert "package likes-plugin 1.2" in found["broken"]
    assert "cannot be imported" in found["broken"]
    assert found["table"] == 1  # a package that is installed does not change how a file is read
    assert "the columns of this format are known" in found["columns"]
    assert not found["ran"]
    (row,) = (r for r in found["shown"]["blocks"][0]["rows"] if r["method"] == "popularity")
    # By hand: the mean over the places of each tie group, of 0.2 * 0.8^(rank - 1) up to rank 3.
    gains = [
        sum(0.2 * 0.8 ** (place - 1) * (place <= 3) for place in range(rank, rank + tied + 1))
        / (tied + 1)
        for rank, tied in zip(found["ranks"], found["tied"], strict=True)
    ]
    assert row["metrics"]["rbp@3"]["mean"] == pytest.approx(sum(gains) / len(gains), abs=1e-12)
    assert row["metrics"]["ahead"]["mean"] == pytest.approx(
        1 - sum(found["ranks"]) / len(found["ranks"]), abs=1e-12
    )
    assert list(found["shown"]["metrics"]) == ["rbp@3", "ahead", "ndcg@10", "hr@10", "ndcg@5"]
    assert "unknown metric 'ahead@3'" in found["cut"]


def test_a_merger_of_a_package_is_a_method_a_choice_and_a_line_of_the_help(package, tmp_path):
    program = """
    from functools import partial
    import torch
    from bench.merging import Adapter, AdapterConfig, Factors, merge
    from bench.baselines.text.passes import pool
    from bench.methods.registry import describe, names
    from bench.runs.resolve import resolve_spec
    from bench.runs.spec import RunSpec

    pair = Factors(torch.ones(2, 3), torch.full((4, 2), 0.5))
    adapter = Adapter({"m": pair}, AdapterConfig(r=2, alpha=2))
    made = merge([adapter, adapter], "scaled", {"by": 3})
    weave = {"method": "weaverec", "target": "ml100k-drama", "sources": ["ml100k-comedy"]}
    spec = RunSpec(**weave, overrides={"merger": "scaled", "merge.by": 4})
    own = RunSpec(**{**weave, "method": "merge-scaled"}, overrides={"merge.by": 5})
    plain = RunSpec(**weave, overrides={"merger": "ties"})
    planned = partial(resolve_spec, planning=True)
    info = describe("merge-scaled")
    wrong = bench("run", "--method", "weaverec", "--target", "ml100k-drama", "--set", "merger=scald")
    print(json.dumps({
        "delta": made.delta("m").flatten().tolist(),
        "runs": [[dict(r.content), r.plugin_sha256] for r in map(planned, (spec, own, plain))],
        "info": [info.name, info.summary, info.origin],
        "keys": [f"{f.name}={f.default}" for f in info.fields if f.name.startswith("merge.")],
        "help": "".join(bench("merge", "--help").stdout.split()),
        "wrong": wrong.output,
        "listed": names(),
        "pooled": pool(torch.arange(12.0).reshape(1, 3, 4), None, "last").tolist(),
        "doctor": bench("doctor").output,
    }))
    """
    found = beside(package, program, tmp_path)
    assert found["delta"] == [3.0] * 12
    source = found["runs"][0][0]["merger"]
    assert len(source) == 64
    assert found["runs"] == [[{"merger": source}, None], [{}, source], [{}, None]]
    assert found["pooled"] == [[8.0, 9.0, 10.0, 11.0]]
    assert found["info"] == [
        "merge-scaled", "The first adapter, so many times.", "package likes-plugin 1.2",
    ]  # fmt: skip
    assert found["keys"] == ["merge.by=2.0"]
    assert "dare,ext-sub,lora-lego,scaled,task-arithmetic,ties,weight-average" in found["help"]
    assert "Did you mean 'scaled'" in found["wrong"]
    assert "merge-scaled" in found["listed"]
    assert "ties (package likes-plugin 1.2): merger name 'ties'" in found["doctor"]
    assert "is taken by" in found["doctor"]
    assert "the group 'weavebench.reader' is unknown. Did you mean 'readers'" in found["doctor"]


def test_a_merger_that_does_not_say_how_it_merges_is_refused():
    with pytest.raises(MethodError, match=r"merger MergeConfig does not say how .* define parts"):
        MergeConfig().parts([], None)


def test_other_code_under_the_same_name_is_another_merge(package, tmp_path):
    program = """
    from bench.llm.merge import Merge, merge_spec

    print(json.dumps([
        merge_spec(["a", "b"], Merge(name, {}), seed=0).adapter_id for name in ("scaled", "ties")
    ]))
    """
    scaled, ties = beside(package, program, tmp_path)
    file = package / "likes_plugin/merger.py"
    file.write_text(file.read_text() + "\n# other\n")
    again = beside(package, program, tmp_path)
    assert again[0] != scaled
    assert again[1] == ties


@pytest.mark.parametrize(
    ("metric", "asked", "message"),
    [
        (Metric("nothing"), "odd", "with either gain or values"),
        (Metric("short", values=lambda outcomes, ties: np.zeros(1)), "odd", r"shape \(1,\)"),
        (Metric("nan", gain=lambda rank: float("nan")), "odd@4", "4 of them not finite"),
        (5, "odd@5", "found 5"),
    ],
)
def test_a_plugin_that_is_no_metric_is_refused(monkeypatch, metric, asked, message):
    table = Registry("metric", {}, discover=list)
    table.register("odd", metric, origin="package odd 1")
    monkeypatch.setattr(metrics, "METRIC_KINDS", table)
    outcomes = Outcomes(*np.zeros((2, 3), np.int32), np.full(3, 30, np.int32), np.ones(3, np.bool_))
    with pytest.raises(MethodError, match=message):
        metrics.metric_per_user(outcomes, asked)


def test_a_reader_that_returns_other_tables_is_refused(monkeypatch, tmp_path):
    class Odd(Reader):
        def read(self, files):
            return RawData(pl.DataFrame({"user": [1], "item": ["i"], "time": [0.0]}), None, ())

    table = Registry("reader", {}, discover=list)
    table.register("odd", Odd, origin="package odd 1")
    monkeypatch.setattr(reading, "READERS", table)
    with pytest.raises(MethodError, match=r"package odd 1\) returned .*'user': Int64"):
        reading.read_files("d", [tmp_path], None, None, Reading(reader="odd"))


@pytest.mark.slow
def test_the_same_package_installed_by_pip(tmp_path):
    source = tmp_path / "source"
    write_modules(source)
    site = tmp_path / "site"
    build = '[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n\n'
    (source / "pyproject.toml").write_text(build + project())
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", site, source],
        check=True,
        timeout=600,
    )
    found = beside(
        site,
        """
        from bench.registry import KINDS, registry_of
        print(json.dumps({
            kinds: {n: registry_of(kinds).origin(n) for n in registry_of(kinds)} for kinds in KINDS
        }))
        """,
        tmp_path,
    )
    for group, points in entry_points().items():
        for name in points:
            assert found[group.removeprefix("weavebench.")][name] == "package likes-plugin 1.2"
    assert found["methods"]["merge-scaled"] == "package likes-plugin 1.2"


def test_the_tables_of_the_pages_are_what_the_registries_give():
    subprocess.run([sys.executable, DOCS / "tables.py", "--check"], check=True, timeout=120)
