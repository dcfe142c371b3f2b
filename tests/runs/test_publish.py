"""A published result is one that the gate lets through, or nothing is written and the reason is said."""

from __future__ import annotations

import json
import re

import pytest
from typer.testing import CliRunner

from bench.cli.app import app
from bench.errors import ResultError
from bench.report.verify import verify_folder
from bench.runs.archive import reproduce_spec
from bench.runs.privacy import private_values, without_paths
from bench.runs.results import export_result
from bench.runs.runner import execute, prepare
from bench.runs.stored import read_run, write_manifest

METHODS = '''
import hashlib
from pathlib import Path

import numpy as np

from bench.methods import Family, Method, MethodConfig, Scores


class Inner(MethodConfig):
    weights: str = ""


class Settings(MethodConfig):
    weights: str = ""
    inner: Inner = Inner()
    model: str = ""
    said: str = ""


class Constant(Method):
    """Scores by item index; reads the file that it names."""

    name = "constant"
    version = "1"
    family = Family.REFERENCE
    Config = Settings

    @classmethod
    def content_hashes(cls, config):
        named = {"weights": config.weights, "inner.weights": config.inner.weights}
        return {
            key: hashlib.sha256(Path(path).read_bytes()).hexdigest()
            for key, path in named.items()
            if path
        }

    def fit(self, view, context):
        context.log.info("reading %s", self.config.weights)

    def score(self, requests, context):
        values = -requests.candidates.astype(np.float32)
        return Scores(values, diagnostics={"said": self.config.said})
'''


@pytest.fixture
def run_with(tmp_path, make_spec, store):
    file = tmp_path / "clients" / "constant_method.py"
    file.parent.mkdir()
    file.write_text(METHODS)

    def run(**overrides):
        spec = make_spec("random", overrides=overrides)
        return execute(spec.model_copy(update={"method": f"{file}:Constant"}), store)

    return run


@pytest.fixture
def weights(tmp_path):
    file = tmp_path / "acme-project" / "weights.bin"
    file.parent.mkdir()
    file.write_bytes(b"1234")
    return file


def _published(run, tmp_path):
    published = export_result(run, tmp_path / "results")
    assert verify_folder(tmp_path / "results").problems == ()
    text = (published.path / "manifest.json").read_text()
    for secret in (str(tmp_path), "acme-project", "clients"):
        assert secret not in text
    return published


@pytest.mark.parametrize("setting", ["weights", "inner.weights"])
@pytest.mark.parametrize("relative", [False, True])
def test_a_path_with_hashed_content_is_published_by_its_name(
    run_with, weights, tmp_path, monkeypatch, setting, relative
):
    monkeypatch.chdir(tmp_path)
    named = weights.relative_to(tmp_path) if relative else weights
    run = run_with(**{setting: str(named)})
    published = _published(run, tmp_path)
    assert published.run_id == run.run_id
    config = published.config
    assert (config["inner"] if "." in setting else config)["weights"] == "weights.bin"
    assert published.manifest["spec"]["overrides"] == {setting: "weights.bin"}
    assert published.manifest["method"]["requested_as"] == "constant_method.py:Constant"
    assert list(published.manifest["method"]["content"]) == [setting]
    # The run of this machine still knows where the file lies.
    assert reproduce_spec(run).overrides == {setting: str(named)}


def test_the_run_id_is_that_of_the_content_wherever_it_lies(run_with, weights, tmp_path):
    run = run_with(weights=str(weights))
    elsewhere = tmp_path / "other" / "weights.bin"
    elsewhere.parent.mkdir()
    elsewhere.write_bytes(weights.read_bytes())
    assert run_with(weights=str(elsewhere)).run_id == run.run_id
    elsewhere.write_bytes(b"others")
    assert run_with(weights=str(elsewhere)).run_id != run.run_id


@pytest.mark.parametrize(
    "path",
    ["/srv/acme-project/model.bin", "acme-project/weights.bin", "../acme-project", "~/model"],
)
def test_a_path_whose_content_is_not_hashed_is_refused(run_with, tmp_path, path):
    run = run_with(model=path)
    with pytest.raises(ResultError, match=r"config\.model of .*a path of a machine"):
        export_result(run, tmp_path / "results")
    assert not (tmp_path / "results").exists()


def test_the_name_of_a_folder_here_is_a_path_and_that_of_a_hub_is_none(
    run_with, tmp_path, monkeypatch, weights
):
    monkeypatch.chdir(tmp_path)
    _published(run_with(model="owner/model"), tmp_path)
    (tmp_path / "acme-project" / "llm").mkdir()
    with pytest.raises(ResultError, match=r"config\.model .* 'acme-project/llm'"):
        export_result(run_with(model="acme-project/llm"), tmp_path / "more")


@pytest.mark.parametrize(
    ("said", "what"),
    [
        ("kept in /home/someone/x", "a path of a machine"),
        ("see ../acme-project/notes", "a path of a machine"),
        ("reviewer A1B2C3D4E5F6G", "a reviewer id"),
        ("ask someone@example.org", "an e-mail address"),
    ],
)
def test_what_a_method_reports_is_searched(run_with, tmp_path, said, what):
    run = run_with()
    manifest = json.loads((run.path / "manifest.json").read_text())
    write_manifest(run.path, manifest | {"diagnostics": {"note": said}})
    with pytest.raises(ResultError, match=f"looks like {what}"):
        export_result(read_run(run.path), tmp_path / "results")
    assert not (tmp_path / "results").exists()


def test_a_whole_value_that_is_a_path_is_cut_to_its_name_outside_the_configuration(
    run_with, tmp_path
):
    run = run_with()
    manifest = json.loads((run.path / "manifest.json").read_text())
    write_manifest(run.path, manifest | {"diagnostics": {"note": "/srv/acme-project/x.txt"}})
    assert _published(read_run(run.path), tmp_path).manifest["diagnostics"] == {"note": "x.txt"}


def test_a_run_id_made_of_folders_is_refused(run_with, weights, tmp_path):
    """As an older version stored it."""
    run = run_with(weights=str(weights))
    manifest = json.loads((run.path / "manifest.json").read_text())
    write_manifest(run.path, manifest | {"run_id": "0" * 16})
    with pytest.raises(ResultError, match="took folders into the run id"):
        export_result(read_run(run.path), tmp_path / "results")
    assert not (tmp_path / "results").exists()


def test_nothing_is_written_if_one_of_several_runs_is_refused(run_with, tmp_path, store):
    good, bad = run_with(), run_with(model="/srv/acme-project/model.bin")
    out = tmp_path / "results"
    words = ["runs", "export", good.run_id, bad.run_id, "--publish", "--out", str(out)]
    done = CliRunner().invoke(app, [*words, "--store", str(store.root)])
    assert done.exit_code == 1
    assert not out.exists()


@pytest.mark.parametrize(
    ("value", "private"),
    [
        ("HuggingFaceTB/SmolLM2-135M", False),
        ("BAAI/bge-small-en-v1.5", False),
        ("/no_think", False),
        ("Answer yes/no, with title/brand/price of the item.", False),
        ("https://example.org/a/b", False),
        ("0.5", False),
        ("a/b/c", True),
        ("/", False),
        ("dir\\model", True),
        ("/srv/x", True),
        ("/srv/my files/x", True),
        ("C:\\Users\\x", True),
        ("dir\\model.gguf", True),
        ("./model", True),
        ("plugins/method.py:Mine", True),
    ],
)
def test_settings_that_are_paths(value, private):
    found = [("config.a[0].b", value, "a path of a machine")] if private else []
    assert list(private_values({"config": {"a": [{"b": value}]}}, here=True)) == found


@pytest.mark.parametrize(
    "path",
    [
        *("/srv/acme/x", "/acme/x.bin", "/gpfs/acme", "//host/acme/x", "file:///srv/acme/x"),
        *("file:/srv/acme/x", "FILE://host/acme/x", "s3://acme/x", "~/acme/x", "~me/acme"),
        *("$HOME/acme", "${HOME}/acme/x", "../acme", "./acme", "acme/models/x.bin", "acme/x.csv"),
        *("C:\\acme\\x", "c:\\acme\\x", "D:/acme/x", "\\\\host\\acme\\x", "..\\acme\\x"),
        *("%USERPROFILE%\\acme", "C:\\\\acme\\\\x", "https://me:word@acme/x"),
    ],
)
@pytest.mark.parametrize(
    "place", ["{}", "read {} twice", "no file '{}'", "from={}", "first\n{}", "({})"]
)
def test_a_path_is_cut_or_found_in_whatever_form_and_place(path, place):
    text = place.format(path)
    for record in ({"a": [text]}, {"a": {text: 1}}, {"a": {"b": {text: {"c": None}}}}):
        for left in (record, without_paths(record)):
            found = list(private_values(left))
            assert found or not re.search(r"[\\/]", str(left))
        assert list(private_values(record))


@pytest.mark.parametrize(
    "text",
    [
        *("and so on ... /x", "1/2", "2026-01-01T00:00:00Z", "weights 0.4, 0.3/0.1", "a.b/c"),
        *("2026/01/31", "Yes/no. /no_think", "<b>x</b>", "see https://example.org/a/b.json twice"),
        *("~5/10 users", "$10/month", "Answer: A\nB: yes/no/maybe?", "50%/50%", "hf://a/b"),
    ],
)
def test_ordinary_text_is_not_private(text):
    assert list(private_values({text: text})) == []


def test_what_a_method_reports_of_a_declared_path_is_cut_too(
    run_with, weights, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    run = run_with(weights="acme-project/weights.bin")
    manifest = json.loads((run.path / "manifest.json").read_text())
    said = {"note": "read acme-project/weights.bin twice"}
    write_manifest(run.path, manifest | {"diagnostics": said})
    found = _published(read_run(run.path), tmp_path).manifest["diagnostics"]
    assert found["note"] == "read weights.bin twice"


def test_a_key_of_the_configuration_that_is_a_path_is_refused(run_with, tmp_path):
    run = run_with()
    manifest = json.loads((run.path / "manifest.json").read_text())
    write_manifest(run.path, manifest | {"config": {"weights": {"acme/a/adapter": 0.5}}})
    with pytest.raises(ResultError, match=r"a key of config\.weights .*'acme/a/adapter'"):
        export_result(read_run(run.path), tmp_path / "results")


def test_the_gate_finds_a_path_in_the_configuration_of_a_published_result(run_with, tmp_path):
    published = export_result(run_with(), tmp_path / "results")
    manifest = json.loads((published.path / "manifest.json").read_text())
    manifest["config"]["model"] = "acme-project/model.bin"
    write_manifest(published.path, manifest)
    found = {p.check for p in verify_folder(tmp_path / "results").problems}
    assert "privacy" in found


def test_an_identity_without_paths_is_what_it_was(make_spec):
    """Of a built-in method: computed by the definition in docs/runs.md, field by field."""
    import hashlib

    prepared = prepare(make_spec("item-knn"))
    resolved = prepared.resolved
    identity = {
        "identity": 1,
        "task_hash": prepared.loaded.task.task_hash,
        "users_hash": prepared.users_hash,
        "method": "item-knn",
        "version": resolved.method_cls.version,
        "plugin_sha256": None,
        "config": resolved.config_values,
        "sources": [],
        "seed": 0,
        "init_seed": 0,
        "dtype": "float32",
    }
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert prepared.run_id == hashlib.sha256(text.encode()).hexdigest()[:16]
