from __future__ import annotations

import gzip
import io
import json
import shutil
import tarfile
from pathlib import Path

import pytest

from bench.errors import ConfigError, ResultError
from bench.methods import MethodConfig
from bench.methods.config import config_dict, resolve_config
from bench.methods.registry import resolve
from bench.runs.archive import export_runs, import_runs, reproduce_spec
from bench.runs.results import export_result
from bench.runs.runner import execute
from bench.runs.store import RunStore
from bench.runs.stored import read_run


@pytest.fixture
def run(store, make_spec):
    return execute(make_spec(keep_model=True, extra_candidate_seeds=(1,)), store)


def _content(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("name", ["runs.tar.gz", "runs.tgz", "folder"])
def test_export_and_import_round_trip(run, tmp_path, name):
    exported = export_runs([run], tmp_path / name)
    other = RunStore(tmp_path / "other")
    (imported,) = import_runs(exported, other)
    assert imported.path.relative_to(other.root) == run.path.relative_to(run.path.parents[1])
    assert _content(imported.path) == _content(run.path)
    assert import_runs(exported, other)[0].path == imported.path, "equal runs are kept"


def test_equal_runs_export_to_equal_bytes(run, tmp_path):
    one = export_runs([run], tmp_path / "one.tar.gz").read_bytes()
    assert export_runs([run], tmp_path / "two.tar.gz").read_bytes() == one
    with pytest.raises(ResultError, match="exists already"):
        export_runs([run], tmp_path / "one.tar.gz")


def test_conflicting_run_is_not_replaced_unless_asked(run, tmp_path, make_spec):
    exported = export_runs([run], tmp_path / "runs.tar.gz")
    other = RunStore(tmp_path / "other")
    here = execute(make_spec(), other)
    assert here.run_id == run.run_id
    with pytest.raises(ResultError, match="another result of the same run"):
        import_runs(exported, other)
    assert other.get(run.run_id).manifest == here.manifest
    import_runs(exported, other, replace=True)
    assert other.get(run.run_id).manifest == run.manifest


def _tar(path, members):
    with tarfile.open(path, "w:gz") as archive:
        for info, content in members:
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def _link(name, target, kind):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize(
    ("member", "expected"),
    [
        (tarfile.TarInfo("../escaped"), "outside"),
        (tarfile.TarInfo("alpha/../../escaped"), "outside"),
        (tarfile.TarInfo("/tmp/escaped"), "outside"),
        (tarfile.TarInfo("alpha\\..\\escaped"), "outside"),
        (tarfile.TarInfo("C:escaped"), "outside"),
        (_link("alpha/link", "/etc/passwd", tarfile.SYMTYPE), "link or a device"),
        (_link("alpha/link", "alpha/file", tarfile.LNKTYPE), "link or a device"),
        (_link("alpha/fifo", "", tarfile.FIFOTYPE), "link or a device"),
        (_link("alpha/dev", "", tarfile.CHRTYPE), "link or a device"),
    ],
    ids=lambda value: value.name if isinstance(value, tarfile.TarInfo) else "",
)
def test_unsafe_archives_write_nothing(tmp_path, member, expected):
    good = tarfile.TarInfo("alpha/harmless.txt")
    archive = _tar(tmp_path / "bad.tar.gz", [(good, b"x"), (member, b"")])
    store = RunStore(tmp_path / "store")
    with pytest.raises(ResultError, match=expected):
        import_runs(archive, store)
    assert [p for p in store.root.rglob("*") if p.is_file()] == []
    assert not (tmp_path / "escaped").exists()


@pytest.mark.parametrize("cut", [0, 10, 0.5, "text", "gzip of text"])
def test_broken_archives_are_refused(run, tmp_path, cut):
    path = export_runs([run], tmp_path / "runs.tar.gz")
    content = path.read_bytes()
    broken = {
        "text": b"no archive at all",
        "gzip of text": gzip.compress(b"no archive at all" * 100),
    }.get(cut) or content[: int(cut * len(content)) if isinstance(cut, float) else int(cut)]
    path.write_bytes(broken)
    store = RunStore(tmp_path / "other")
    with pytest.raises(ResultError, match=r"runs\.tar\.gz"):
        import_runs(path, store)
    assert store.list() == []


def test_changed_file_in_an_export_is_refused(run, tmp_path):
    folder = export_runs([run], tmp_path / "folder")
    (changed,) = folder.rglob("weights.npy")
    changed.write_bytes(changed.read_bytes() + b"x")
    with pytest.raises(ResultError, match=r"weights\.npy was changed"):
        import_runs(folder, RunStore(tmp_path / "other"))


def test_links_in_an_imported_folder_are_refused(run, tmp_path):
    folder = export_runs([run], tmp_path / "folder")
    (file,) = folder.rglob("log.txt")
    moved = tmp_path / "elsewhere"
    shutil.move(file, moved)
    file.symlink_to(moved)
    with pytest.raises(ResultError, match="a link"):
        import_runs(folder, RunStore(tmp_path / "other"))


def test_import_of_nothing_is_an_error(tmp_path):
    (tmp_path / "empty").mkdir()
    for name, expected in (("empty", "no runs"), ("absent", "no such file")):
        with pytest.raises(ResultError, match=expected):
            import_runs(tmp_path / name, RunStore(tmp_path / "store"))
    with pytest.raises(ResultError, match="nothing to export"):
        export_runs([], tmp_path / "x.tar.gz")


def test_run_is_reproduced_from_its_manifest(run, tmp_path, data_root):
    spec = reproduce_spec(run, data_root=data_root)
    again = execute(spec, RunStore(tmp_path / "again"))
    assert again.run_id == run.run_id
    assert again.manifest["files"]["per_user.parquet"] == run.manifest["files"]["per_user.parquet"]


def test_a_run_is_repeated_with_the_threads_that_it_had(run, monkeypatch):
    monkeypatch.setattr("bench.runs.archive.usable_cpus", lambda: 8)
    manifest = json.loads(json.dumps(run.manifest))
    manifest |= {"threads": 4, "spec": {**manifest["spec"], "threads": None}}
    left_to_us = type(run)(run.path, manifest, run.metrics)
    assert reproduce_spec(left_to_us).threads == 4
    monkeypatch.setattr("bench.runs.archive.usable_cpus", lambda: 2)
    assert reproduce_spec(left_to_us).threads == 2
    assert reproduce_spec(run).threads == 1, "as it was asked for"


RESULTS = Path(__file__).resolve().parents[2] / "leaderboards" / "results"


def test_committed_runs_are_repeated_with_the_configuration_that_they_had():
    """Profiles change; what a run was made with does not."""
    pinned = set()
    for manifest in sorted(RESULTS.glob("*/*/manifest.json")):
        run = read_run(manifest.parent)
        spec = reproduce_spec(run)
        cls = resolve(spec.method)
        config = resolve_config(cls, profile=spec.profile, overrides=spec.overrides)
        values = config.identity() if isinstance(config, MethodConfig) else config_dict(config)
        assert values == run.config, manifest
        if spec.overrides != run.manifest["spec"]["overrides"]:
            pinned.add(run.method)
    # Trained with other limits than today, the first two also with a frozen encoder.
    limited = {"gru4rec", "sasrec", "bert4rec", "fmlp-rec", "mcrpl", "recformer", "llm-rec"}
    assert pinned == {"unisrec", "vq-rec"} | limited


def test_manifest_that_cannot_be_reproduced_says_why(run):
    manifest = json.loads(json.dumps(run.manifest))
    manifest["spec"]["unknown"] = 1
    broken = type(run)(run.path, manifest, run.metrics)
    with pytest.raises(ConfigError, match="unknown"):
        reproduce_spec(broken)
    del manifest["spec"]["unknown"]
    manifest["spec"]["protocol"]["negatives"] = "imported"
    with pytest.raises(ConfigError, match="--candidates FILE"):
        reproduce_spec(broken)


def test_published_copy_reads_like_the_run_and_names_no_folder_of_this_machine(
    run, tmp_path, data_root, methods_file
):
    published = export_result(run, tmp_path / "results")
    assert published.metrics == run.metrics
    assert (published.outcomes().n_better == run.outcomes().n_better).all()
    assert {p.name for p in published.path.iterdir()} == {
        "manifest.json",
        "metrics.json",
        "per_user.parquet",
        "sets",
    }
    text = "".join(p.read_text() for p in published.path.glob("*.json"))
    for secret in (str(tmp_path), str(data_root), str(methods_file.parent)):
        assert secret not in text
    assert "run_methods.py:Learner" in text
    assert export_result(run, tmp_path / "results").path == published.path


def test_published_results_are_never_replaced(run, store, tmp_path, make_spec):
    export_result(run, tmp_path / "results")
    other = execute(make_spec(extra_candidate_seeds=(1, 2)), store)
    with pytest.raises(ResultError, match="superseded, never edited"):
        export_result(other, tmp_path / "results")
