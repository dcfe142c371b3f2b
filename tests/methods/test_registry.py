"""Names to classes: built-ins, plugins, files; what fails, and how it says so."""

import hashlib
import subprocess
import sys
import textwrap
from importlib.metadata import EntryPoint

import pytest

from bench.errors import ConfigError, MethodError
from bench.methods import Family, Method, registry, source_sha256
from bench.methods.listing import listings
from bench.methods.registry import BUILT_INS
from bench.registry import Registry

FILE = textwrap.dedent(
    '''
    """A plugin."""
    from bench.methods import Family, Method, Scores

    class Mine(Method):
        """Mine, in one line.

        More.
        """
        name = "mine"
        version = "3"
        family = Family.REFERENCE

        def fit(self, view, context): ...
        def score(self, requests, context): ...
    '''
)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "plugin.py"
    path.write_text(FILE)
    return path


def in_process(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout.strip()


def test_listing_imports_no_method_and_nothing_heavy():
    heavy = ["torch", "scipy", "pandas", "recbole", "transformers", "polars"]
    code = (
        "import sys; from bench.methods import names; names(); "
        f"print([m for m in sys.modules if m.startswith('bench.baselines.reference.') or m in {heavy}])"
    )
    assert in_process(code) == "[]"


def test_names_hold_the_built_ins_and_the_recbole_allow_list():
    names = registry.names()
    assert names == sorted(names)
    assert set(BUILT_INS) <= set(names)
    assert sum(name.startswith("recbole:") for name in names) >= 8
    assert not any(name.startswith("recbole:") for name in registry.names(recbole=False))


@pytest.mark.parametrize("name", ["random", "popularity", "markov", "item-knn", "ease"])
def test_built_in_resolves_to_its_own_name(name):
    cls = registry.resolve(name)
    assert cls.name == name
    assert source_sha256(cls) is None


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("popularty", "popularity"), ("itemknn", "item-knn"), ("recbole:NARMS", "recbole:NARM")],
)
def test_unknown_name_suggests(typed, meant):
    with pytest.raises(ConfigError, match="Did you mean") as caught:
        registry.resolve(typed)
    assert meant.removeprefix("recbole:") in str(caught.value)


def test_file_with_and_without_class_name(file):
    cls = registry.resolve(f"{file}:Mine")
    assert (cls.name, cls.version) == ("mine", "3")
    assert registry.resolve(str(file)) is cls
    assert source_sha256(cls) == hashlib.sha256(file.read_bytes()).hexdigest()


def test_edited_file_is_loaded_anew_and_leaves_no_bytecode(file):
    first = registry.resolve(f"{file}:Mine")
    file.write_text(FILE.replace('version = "3"', 'version = "4"'))
    second = registry.resolve(f"{file}:Mine")
    assert (first.version, second.version) == ("3", "4")
    assert source_sha256(first) != source_sha256(second)
    assert [path.name for path in file.parent.iterdir()] == ["plugin.py"]


def test_file_neither_shadows_nor_joins_the_path(file):
    before = list(sys.path)
    registry.resolve(f"{file}:Mine")
    assert sys.path == before
    assert "plugin" not in sys.modules


def test_describe_file(file):
    info = registry.describe(f"{file}:Mine")
    assert info.summary == "Mine, in one line."
    assert info.family is Family.REFERENCE
    assert info.origin == str(file)
    assert info.source_sha256


@pytest.mark.parametrize(
    ("source", "suffix", "error", "message"),
    [
        (None, ":Mine", ConfigError, "cannot read the method's file"),
        (FILE, ":Mime", ConfigError, "Did you mean 'Mine'"),
        ("x = 1\n", "", ConfigError, r"0 method classes \(none\), expected one"),
        (FILE + "class Other(Mine):\n    name = 'o'\n", "", ConfigError, "2 method classes"),
        ("x = 1\n", ":x", MethodError, "expected a subclass of"),
        ("import no_such_module_1\n", ":Mine", MethodError, "line 1.*ModuleNotFoundError"),
        ("\n\n1 / 0\n", ":Mine", MethodError, "line 3.*ZeroDivisionError"),
        ("def f(:\n", ":Mine", MethodError, "line 1.*SyntaxError"),
        (FILE.replace('version = "3"', ""), ":Mine", MethodError, "`version` is None"),
        (FILE.replace("Family.REFERENCE", "'ref'"), ":Mine", MethodError, "`family` is 'ref'"),
        (FILE.replace('"mine"', '"my method"'), ":Mine", MethodError, "`name` is 'my method'"),
        (
            FILE.replace('"mine"', '"popularity"'),
            ":Mine",
            ConfigError,
            "taken.*Change the attribute",
        ),
    ],
)
def test_what_is_wrong_with_a_file_is_said(tmp_path, source, suffix, error, message):
    path = tmp_path / "plugin.py"
    if source is not None:
        path.write_text(source)
    with pytest.raises(error, match=message) as caught:
        registry.resolve(f"{path}{suffix}")
    assert str(path) in str(caught.value)


def test_a_file_that_failed_can_be_repaired(file):
    file.write_text("1 / 0\n")
    with pytest.raises(MethodError):
        registry.resolve(str(file))
    file.write_text(FILE)
    assert registry.resolve(str(file)).name == "mine"


class One(Method):
    """One."""

    name = "one"
    version = "1"
    family = Family.REFERENCE

    def fit(self, view, context): ...

    def score(self, requests, context): ...


class Two(One):
    """Two."""


def test_register_twice_is_fine_and_a_conflict_is_not():
    table = Registry("method", {}, discover=list)
    table.register("one", One)
    table.register("one", One)
    with pytest.raises(ConfigError, match=r"'one'.*is taken by .*:One"):
        table.register("one", Two)
    assert table.load("one") is One


@pytest.mark.parametrize("name", ["", "has blank", "-x", "recbole:Mine", "a/b"])
def test_malformed_names_are_refused(name):
    with pytest.raises(ConfigError, match="method name"):
        Registry("method", {}, reserved="recbole:").register(name, One)


def entry(name: str, value: str) -> EntryPoint:
    return EntryPoint(name=name, value=value, group=registry.METHODS.group)


def test_plugins_are_discovered_once_and_lazily():
    calls = []

    def discover():
        calls.append(1)
        return [entry("lazy", "no_such_module_2:X")]

    table = Registry("method", {"popularity": BUILT_INS["popularity"]}, discover=discover)
    assert not calls
    assert table.names() == ["lazy", "popularity"]
    assert table.names() == ["lazy", "popularity"]
    assert len(calls) == 1


def test_broken_plugin_breaks_only_itself(monkeypatch):
    points = [entry("broken", "no_such_module_2:X"), entry("popularity", "json:loads")]
    table = Registry("method", {"popularity": BUILT_INS["popularity"]}, discover=lambda: points)
    monkeypatch.setattr(registry, "METHODS", table)
    with pytest.raises(MethodError, match=r"'broken'.*cannot be imported.*no_such_module_2"):
        registry.resolve("broken")
    infos, problems = registry.describe_all()
    assert [info.name for info in infos] == ["popularity"]
    assert {p.name: p.reason for p in problems}.keys() == {"broken", "popularity"}
    assert any("is taken by" in p.reason for p in problems)


def test_the_list_says_what_the_classes_declare():
    infos, _ = registry.describe_all()
    found, problems = listings()
    assert [(info.name, info.family, info.summary) for info in infos] == found
    assert problems == list(registry.problems())


def test_plugins_are_listed_beside_what_is_built_in(monkeypatch):
    points = [entry("broken", "no_such_module_2:X")]
    table = Registry("method", {"ease": BUILT_INS["ease"]}, discover=lambda: points)
    table.register("one", One)
    monkeypatch.setattr(registry, "METHODS", table)
    found, problems = listings()
    assert [one.name for one in found] == ["ease", "one"]
    assert [problem.name for problem in problems] == ["broken"]


def test_plugin_with_another_name_than_announced(monkeypatch):
    table = Registry("method", {}, discover=list)
    table.register("uno", One)
    monkeypatch.setattr(registry, "METHODS", table)
    with pytest.raises(MethodError, match="says name = 'one'"):
        registry.resolve("uno")


def test_package_hash_covers_every_module(tmp_path, monkeypatch):
    package = tmp_path / "some_plugin_pkg"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "helper.py").write_text("x = 1\n")
    (package / "method.py").write_text(FILE)
    monkeypatch.syspath_prepend(str(tmp_path))
    from importlib import import_module

    cls = import_module("some_plugin_pkg.method").Mine
    before = source_sha256(cls)
    assert before == source_sha256(cls)
    (package / "helper.py").write_text("x = 2\n")
    assert source_sha256(cls) != before


def test_class_without_source_cannot_be_identified():
    cls = type("Ghost", (One,), {"__module__": "no_such_module_3"})
    with pytest.raises(MethodError, match="no source file"):
        source_sha256(cls)


def test_every_built_in_says_what_it_is():
    infos, problems = registry.describe_all(["random", "popularity", "markov", "item-knn", "ease"])
    assert not problems
    for info in infos:
        assert len(info.summary) > 20
        assert {"cpu", "paper"} <= set(info.profiles)
        assert all(field.description for field in info.fields)
    assert infos[0].known_below_popularity


def test_a_built_in_choice_is_not_imported_for_its_identity():
    code = (
        "import sys; from bench.methods.config import chosen_plugins, resolve_config; "
        "from bench.methods.registry import resolve; "
        "cls = resolve('title-knn'); "
        "print(chosen_plugins(resolve_config(cls, overrides={'pooling': 'cls'})), "
        "'torch' in sys.modules)"
    )
    assert in_process(code) == "{} False"
