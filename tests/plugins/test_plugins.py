"""Plugins of an installed package: found by name, used by the command line, part of what a run is."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from plugin_package import ENTRY_POINTS, beside, install, write_modules


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
        shown = bench(*words, "--metrics", "rbp@3,better,ndcg@10,hr@10")
        cut = bench(*words, "--metrics", "better@3")
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
    assert row["metrics"]["better"]["mean"] == pytest.approx(
        sum(found["ranks"]) / len(found["ranks"]) - 1, abs=1e-12
    )
    assert list(found["shown"]["metrics"]) == ["rbp@3", "better", "ndcg@10", "hr@10", "ndcg@5"]
    assert "unknown metric 'better@3'" in found["cut"]


def test_a_merger_of_a_package_is_a_method_a_choice_and_a_line_of_the_help(package, tmp_path):
    program = """
    import torch
    from bench.llm.merge import Merge, merge_spec
    from bench.merging import Adapter, AdapterConfig, Factors, merge
    from bench.methods.registry import describe
    from bench.runs.resolve import resolve_spec
    from bench.runs.spec import RunSpec

    pair = Factors(torch.ones(2, 3), torch.full((4, 2), 0.5))
    adapter = Adapter({"m": pair}, AdapterConfig(r=2, alpha=2))
    made = merge([adapter, adapter], "scaled", {"by": 3})
    weave = {"method": "weaverec", "target": "ml100k-drama", "sources": ["ml100k-comedy"]}
    spec = RunSpec(**weave, overrides={"merger": "scaled", "merge.by": 4})
    own = RunSpec(**{**weave, "method": "merge-scaled"}, overrides={"merge.by": 5})
    plain = RunSpec(**weave, overrides={"merger": "ties"})
    info = describe("merge-scaled")
    wrong = bench("run", "--method", "weaverec", "--target", "ml100k-drama", "--set", "merger=scald")
    ids = [merge_spec(["a", "b"], Merge(name, {}), seed=0).adapter_id for name in ("scaled", "ties")]
    print(json.dumps({
        "delta": made.delta("m").flatten().tolist(),
        "content": [dict(resolve_spec(one, planning=True).content) for one in (spec, own, plain)],
        "plugin": [resolve_spec(one, planning=True).plugin_sha256 for one in (spec, own, plain)],
        "info": [info.name, info.summary, info.origin],
        "keys": [f"{f.name}={f.default}" for f in info.fields if f.name.startswith("merge.")],
        "help": "".join(bench("merge", "--help").stdout.split()),
        "wrong": wrong.output,
        "listed": bench("methods").stdout,
        "ids": ids,
        "doctor": bench("doctor").output,
    }))
    """
    found = beside(package, program, tmp_path)
    assert found["delta"] == [3.0] * 12
    (weave, own, plain) = found["content"]
    assert list(weave) == ["merger"]
    assert len(weave["merger"]) == 64
    assert own == plain == {}
    assert found["plugin"] == [None, weave["merger"], None]
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
    # Other code under the same name is another merge and another run.
    file = package / "likes_plugin/merger.py"
    file.write_text(file.read_text() + "\n# other\n")
    again = beside(package, program, tmp_path)
    assert again["content"][0]["merger"] != weave["merger"]
    assert again["ids"][0] != found["ids"][0]
    assert again["ids"][1] == found["ids"][1]


@pytest.mark.slow
def test_the_same_package_installed_by_pip(tmp_path):
    source = tmp_path / "source"
    write_modules(source)
    groups = [
        f'[project.entry-points."weavebench.{kinds}"]\n'
        + "\n".join(f'{name} = "{at}"' for name, at in points.items())
        for kinds, points in ENTRY_POINTS.items()
    ]
    (source / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n'
        '[project]\nname = "likes-plugin"\nversion = "1.2"\n' + "\n".join(groups) + "\n"
    )
    site = tmp_path / "site"
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
    for kinds, points in ENTRY_POINTS.items():
        for name in points:
            if kinds in found and name != "ties":
                assert found[kinds][name] == "package likes-plugin 1.2"
    assert json.dumps(found).count("likes-plugin") == 7
