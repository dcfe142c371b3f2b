"""The parts that plugins run behind: orders, stand-ins, places, the watch."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from bench.data.load import load_domain
from bench.enclosure import (
    Places,
    Watch,
    enclose_run,
    known_formula,
    replaced_code,
    restored,
    shuffled,
    watched,
    with_other_answers,
    write_decoy,
)
from bench.errors import MethodError
from bench.methods import Scores
from bench.protocol.types import Requests
from bench.testing import planted_domain, planted_task


@pytest.fixture(autouse=True)
def private_folders(tmp_path, monkeypatch):
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("BENCH_STORE", str(tmp_path / "runs"))
    monkeypatch.delenv("BENCH_DATA_ROOT", raising=False)


@pytest.fixture(scope="module")
def requests() -> Requests:
    task = planted_task(n_users=50)
    return next(task.test(task.subset(None)).chunks(100))[0]


# -- orders -----------------------------------------------------------------------------------------


def test_scores_of_a_secret_order_come_back_to_their_candidates(requests):
    given, order = shuffled(requests, np.random.default_rng())
    assert not np.array_equal(given.candidates, requests.candidates)
    assert np.array_equal(np.sort(given.candidates), np.sort(requests.candidates))
    slots = np.tile(np.array([4, -1, 0, -3], dtype=np.int16), (len(given), 1))
    scores = restored(Scores(given.candidates.astype(np.float32), slots), order)
    assert np.array_equal(scores.values, requests.candidates.astype(np.float32))
    assert scores.slots.dtype == np.int16
    rows = np.arange(len(given))
    for column in (0, 2):
        named = requests.candidates[rows, scores.slots[:, column]]
        assert np.array_equal(named, given.candidates[rows, slots[:, column]])
    assert np.array_equal(scores.slots[:, [1, 3]], slots[:, [1, 3]])


def test_every_place_is_as_likely_for_the_positive(requests):
    one = requests.take(np.zeros(6000, dtype=np.int64))
    given, _ = shuffled(one, np.random.default_rng(0))
    places = (given.candidates == one.candidates[0, 3]).argmax(axis=1)
    counts = np.bincount(places, minlength=30)
    assert ((counts - 200) ** 2 / 200).sum() < 65  # chi-square, 29 degrees, p 1e-4


def test_the_whole_catalogue_keeps_its_order_and_costs_no_memory():
    task = planted_task(n_users=50)
    full, _ = next(task.test(task.subset(None), full=True).chunks(100))
    assert shuffled(full, np.random.default_rng(0)) == (full, None)


def test_honest_differences_are_no_knowledge_of_the_rule():
    rng = np.random.default_rng(0)
    for n in (20, 100, 300):
        for _ in range(300):
            public, secret = rng.random(n), rng.random(n)
            assert known_formula(public, secret) == ""
    assert known_formula(np.ones(19), np.zeros(19)) == "", "too few users to say"
    assert "over 20 users" in known_formula(np.ones(20), np.zeros(20))
    assert known_formula(np.full(300, 0.31), np.full(300, 0.3)) == "", "no gain worth the name"


# -- stand-ins --------------------------------------------------------------------------------------


def test_a_stand_in_differs_from_its_domain_in_the_answers_alone(tmp_path):
    domain = planted_domain("planted")
    decoy = write_decoy(tmp_path / "decoy", [domain], seed=3, method="mine")
    before = dict(os.environ)
    with decoy.shown():
        found = load_domain("planted")
    assert dict(os.environ) == before
    assert found.user_ids.to_list() == domain.user_ids.to_list()
    other = with_other_answers(domain, np.random.default_rng(3))
    last = domain.sequences.offsets[1:] - 1
    assert (other.sequences.items[last] != domain.sequences.items[last]).all()
    assert (other.sequences.items[last - 1] != domain.sequences.items[last - 1]).all()
    kept = np.ones(domain.n_events, dtype=bool)
    kept[[*last, *(last - 1)]] = False
    assert np.array_equal(other.sequences.items[kept], domain.sequences.items[kept])


def test_assets_and_vectors_are_linked_and_data_are_not(tmp_path):
    cache = tmp_path / "cache"
    for name in ("text-vectors/a", "assets/encoder", "assets/ml-100k", "domains/x", "conformance"):
        (cache / name).mkdir(parents=True)
    decoy = write_decoy(tmp_path / "decoy", [], seed=0, method="mine")
    found = {path.relative_to(decoy.cache).as_posix() for path in decoy.cache.glob("*/*")}
    assert found == {"text-vectors/a", "assets/encoder"}
    assert (decoy.cache / "text-vectors").resolve() == (cache / "text-vectors").resolve()


def test_a_run_finds_what_it_stores_in_the_cache_again(tmp_path):
    class Mine:
        name = "mine"

    folders = {"data_root": None, "store": tmp_path / "runs", "free": ()}
    with enclose_run("mine", Mine, [planted_domain()], **folders) as enclosure:
        with enclosure.phase("fit"):
            folder = Path(os.environ["BENCH_CACHE"]) / "text-vectors" / "mine"
            folder.mkdir()
            (folder / "vectors.npy").touch()
        root = enclosure.decoy.root
    assert (tmp_path / "cache" / "text-vectors" / "mine" / "vectors.npy").exists()
    assert not root.exists()


# -- places and watch -------------------------------------------------------------------------------


@pytest.fixture
def places(tmp_path) -> Places:
    for name in ("domains/a", "runs/x", "runs/.work/1/scratch", "elsewhere", "domains-of-others"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "file").write_text("1")
    return Places(
        (tmp_path / "domains",), (tmp_path / "runs",), (tmp_path / "runs/.work/1/scratch",)
    ).resolved()


def test_of_nested_places_the_innermost_counts(tmp_path, places):
    def kind(name):
        return places.kind(os.path.realpath(tmp_path / name))

    assert kind("domains/a/file") == "data"
    assert kind("runs/x/file") == kind("runs") == "runs"
    assert kind("runs/.work/1/scratch/file") == "free"
    assert kind("elsewhere/file") == kind("domains-of-others/file") == ""


READS = {
    "open": lambda p: p.read_text(),
    "link": lambda p: (p.parents[2] / "link" / "file").read_text(),
    "list": lambda p: os.listdir(p.parent),  # noqa: PTH208 - one of the two ways to list
    "scan": lambda p: list(p.parent.iterdir()),
    "numpy": lambda p: np.memmap(p, dtype=np.uint8, mode="r"),
    "polars": lambda p: pl.read_csv(p),
    "pattern": lambda p: pl.scan_csv(str(p.parents[1] / "*" / "file")),
    "keyword": lambda p: pl.read_csv(source=str(p)),
}


@pytest.mark.parametrize("read", READS.values(), ids=READS)
@pytest.mark.parametrize(("where", "what"), [("domains/a", "held-out"), ("runs/x", "ranks")])
def test_reading_is_refused_and_swallowing_the_error_helps_nothing(
    tmp_path, places, read, where, what
):
    (tmp_path / "link").symlink_to(tmp_path / where)
    path = tmp_path / where / "file"
    watch = Watch("mine", "", places)
    with pytest.raises(MethodError, match=f"mine reads .*{what}"), watched(watch):
        read(path)
    with pytest.raises(MethodError, match=f"mine reads .*{what}"), watched(watch):
        try:
            read(path)
        except Exception:
            swallowed = True
    assert swallowed


def test_what_is_free_and_what_is_written_anew_is_let_through(tmp_path, places):
    with watched(Watch("mine", "", places)):
        for name in ("elsewhere", "runs/.work/1/scratch", "domains-of-others"):
            assert (tmp_path / name / "file").read_text() == "1"
            assert os.listdir(tmp_path / name) == ["file"]  # noqa: PTH208 - likewise
        (tmp_path / "runs" / "new").write_text("x")
        assert pl.read_csv(tmp_path / "elsewhere" / "file", has_header=False).height == 1
    assert (tmp_path / "domains/a/file").read_text() == "1", "nothing is refused afterwards"
    assert pl.read_csv.__module__.startswith("polars")


def test_only_the_plugins_own_looks_are_refused(places):
    watch = Watch("mine", __name__.partition(".")[0], places)
    with pytest.raises(MethodError, match=r"looks through .*sys\._getframe"), watched(watch):
        sys._getframe()
    with watched(watch):
        subprocess.run(["true"], check=True)  # the library looks at whatever it needs
        try:
            raise ValueError("an error of the method, told by the library")
        except ValueError:
            import traceback

            assert "told by the library" in traceback.format_exc()


def test_code_in_the_place_of_the_package_is_found(monkeypatch):
    own = __name__.partition(".")[0]
    assert replaced_code("") == []
    assert replaced_code(own) == []
    monkeypatch.setattr("bench.protocol.task.Task.test", lambda self: None)
    monkeypatch.setattr("bench.protocol.task.Task.domains", property(lambda self: ()))
    monkeypatch.setattr("bench.protocol.task.build_task", lambda: None)
    assert replaced_code(own) == [
        "bench.protocol.task.Task.test",
        "bench.protocol.task.Task.domains",
        "bench.protocol.task.build_task",
    ]


def test_code_that_asked_for_a_run_is_no_part_of_the_method_and_code_that_it_calls_is(tmp_path):
    file = tmp_path / "runs" / "metrics.json"
    file.parent.mkdir()
    file.write_text("{}")
    places = Places((), (file.parent,), ()).resolved()

    def watch() -> Watch:
        return Watch("mine", __name__, places, threading.get_ident())

    def reads() -> str:
        return file.read_text()

    def runs_and_reads() -> None:
        with watched(watch()):
            file.read_text()

    with watched(watch()):
        assert file.read_text() == "{}"
    for deed in (reads, runs_and_reads):
        with pytest.raises(MethodError, match=r"mine reads .*stored runs"), watched(watch()):
            deed()
