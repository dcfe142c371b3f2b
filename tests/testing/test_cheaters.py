"""A gallery of methods that go for the answers: each is caught, with the message that fits.

Every cheater is a plugin file. Unless it is caught, it puts the held-out item first. `bench check` runs it
on planted data, `bench run` on a small domain of raw files.
"""

import random
import re
from pathlib import Path

import numpy as np
import pytest

from bench.enclosure import Code
from bench.errors import MethodError
from bench.evaluation import metric_per_user
from bench.methods import resolve
from bench.runs.runner import execute
from bench.runs.spec import RunSpec
from bench.runs.store import RunStore
from bench.testing import check_method

N_USERS, N_ITEMS = 60, 70

HEAD = '''
import ctypes, gc, os, subprocess, sys
from pathlib import Path

import numpy as np
import polars as pl
from polars import read_csv as early_reader

from bench.baselines.reference.markov import Markov
from bench.data.load import load_domain
from bench.methods import Capabilities, Scores
from bench.protocol import keys
from bench.protocol.candidates import position_of
from bench.protocol.task import Task


def first(values, requests, items):
    """Puts these items, one for each request, first."""
    values = values.copy()
    values[requests.candidates == np.asarray(items)[:, None]] = 10.0
    return Scores(values)


def newest(path, reader, requests):
    """The last item of every user of an atomic file, as item indices."""
    table = reader(path, separator="\\t", has_header=True)
    return last_of(table["user_id:token"].to_list(), table["item_id:token"].to_list(), requests)


def last_of(users, items, requests):
    last = dict(zip(users, items))
    order = sorted(last)
    known = sorted(set(items))
    place = {item: index for index, item in enumerate(known)}
    return [place[last[order[user]]] if user < len(order) else -1 for user in requests.users]


def inter(requests):
    name = requests.domain
    folder = Path(os.environ.get("BENCH_DATA_ROOT") or Path(os.environ["BENCH_CACHE"]) / "domains")
    return folder / name / f"{name}.inter"


class Cheater(Markov):
    """Markov, until it scores."""

    name = "cheater"

    def score(self, requests, context):
        values = super().score(requests, context).values
        return self.cheat(values, requests, context)
'''

MEMBERS = {
    "raw-file": """
    def cheat(self, values, requests, context):
        lines = inter(requests).read_text().splitlines()[1:]
        users, items = zip(*(line.split("\\t")[:2] for line in lines))
        return first(values, requests, last_of(users, items, requests))
""",
    "load-domain": """
    def cheat(self, values, requests, context):
        domain = load_domain(requests.domain)
        ends = domain.sequences.offsets[1:][requests.users]
        return first(values, requests, domain.sequences.items[ends - 1])
""",
    "swallowed": """
    def cheat(self, values, requests, context):
        try:
            domain = load_domain(requests.domain)
        except BaseException:
            return Scores(values)
        ends = domain.sequences.offsets[1:][requests.users]
        return first(values, requests, domain.sequences.items[ends - 1])
""",
    "memory-map": """
    def cheat(self, values, requests, context):
        for folder in Path(os.environ["BENCH_CACHE"]).glob(f"domains*/{requests.domain}*"):
            np.memmap(folder / "items.npy", mode="r")
        return Scores(values)
""",
    "polars": """
    def cheat(self, values, requests, context):
        return first(values, requests, newest(inter(requests), pl.read_csv, requests))
""",
    "early-polars": """
    def cheat(self, values, requests, context):
        return first(values, requests, newest(inter(requests), early_reader, requests))
""",
    "child": """
    def cheat(self, values, requests, context):
        command = f"cat $BENCH_DATA_ROOT/{requests.domain}/{requests.domain}.inter"
        found = subprocess.run(["sh", "-c", command], capture_output=True, text=True).stdout
        users, items = zip(*(line.split("\\t")[:2] for line in found.splitlines()[1:]))
        return first(values, requests, last_of(users, items, requests))
""",
    "program": """
    def cheat(self, values, requests, context):
        subprocess.run(["sh", "-c", f"cat <'{inter(requests)}'"], capture_output=True)
        return Scores(values)
""",
    "shell": """
    def cheat(self, values, requests, context):
        os.system(f"cat {inter(requests)} > {context.scratch}/copy")
        return Scores(values)
""",
    "exclusive": """
    def cheat(self, values, requests, context):
        os.close(os.open(inter(requests), os.O_RDONLY | os.O_EXCL))
        return Scores(values)
""",
    "open-folder": """
    def cheat(self, values, requests, context):
        path = inter(requests)
        above = os.open(path.parents[2], os.O_RDONLY)
        try:
            os.close(os.open(path.relative_to(path.parents[2]), os.O_RDONLY, dir_fd=above))
        finally:
            os.close(above)
        return Scores(values)
""",
    "second-name": """
    def cheat(self, values, requests, context):
        os.link(inter(requests), context.scratch / "copy")
        return Scores(values)
""",
    "c-library": """
    def cheat(self, values, requests, context):
        ctypes.CDLL(None).open(os.fsencode(inter(requests)), 0)
        return Scores(values)
""",
    "c-frames": """
    def cheat(self, values, requests, context):
        look = ctypes.pythonapi.PyEval_GetFrame
        return Scores(values)
""",
    "memory-file": """
    def cheat(self, values, requests, context):
        with open("/proc/self/mem", "rb"):
            return Scores(values)
""",
    "store": """
    def cheat(self, values, requests, context):
        pattern = f"{os.environ['BENCH_STORE']}/{requests.domain}/*/per_user.parquet"
        earlier = pl.read_parquet(pattern)
        return Scores(values)
""",
    "published": """
    def cheat(self, values, requests, context):
        import bench

        results = Path(bench.__file__).parents[1] / "leaderboards" / "results"
        pl.scan_parquet(f"{results}/*/*/per_user.parquet")
        return Scores(values)
""",
    "collector": """
    def cheat(self, values, requests, context):
        for task in gc.get_objects():
            if isinstance(task, Task) and task.target == requests.domain:
                labels = dict(zip(task._part.split.users.tolist(), task._part.split.test.tolist()))
                return first(values, requests, [labels[u] for u in requests.users.tolist()])
        return Scores(values)
""",
    "frames": """
    def cheat(self, values, requests, context):
        frame = sys._getframe()
        while frame is not None:
            run = frame.f_locals.get("self")
            if hasattr(run, "_prepared"):
                part = run._prepared.loaded.task._part
                labels = dict(zip(part.split.users.tolist(), part.split.test.tolist()))
                return first(values, requests, [labels[u] for u in requests.users.tolist()])
            frame = frame.f_back
        return Scores(values)
""",
    "traceback": """
    def cheat(self, values, requests, context):
        try:
            raise ValueError
        except ValueError as error:
            frame = error.__traceback__.tb_frame
        return Scores(values)
""",
    "generator-frames": """
    def cheat(self, values, requests, context):
        def walk():
            yield generator.gi_frame.f_back

        generator = walk()
        frame = next(generator)
        frames = []
        while frame is not None:
            frames.append(frame)
            frame = frame.f_back
        for frame in frames:
            run = frame.f_locals.get("self")
            if hasattr(run, "_prepared"):
                part = run._prepared.loaded.task._part
                if part.domain.n_items and len(part.split.users) >= len(requests):
                    sets = run._prepared.loaded.task._test_sets
                    labels = dict(zip(part.split.users.tolist(), sets.positives.tolist()))
                    return first(values, requests, [labels[u] for u in requests.users.tolist()])
        return Scores(values)
""",
    "cached-task": """
    def cheat(self, values, requests, context):
        if CACHE and CACHE[-1].target == requests.domain:
            part = CACHE[-1]._part
            labels = dict(zip(part.split.users.tolist(), part.split.test.tolist()))
            return first(values, requests, [labels[u] for u in requests.users.tolist()])
        return Scores(values)


CACHE = []
plain = Task.test


def test(self, *args, **kwargs):
    CACHE.append(self)
    return plain(self, *args, **kwargs)


Task.test = test
""",
    "numpy-function": """
    def cheat(self, values, requests, context):
        plain = np.greater
        if isinstance(plain, np.ufunc):
            np.greater = lambda *args, **kwargs: plain(*args, **kwargs)
        return Scores(values)
""",
    "partial": """
    def cheat(self, values, requests, context):
        from functools import partial

        import bench.validation

        bench.validation.rank_outcomes = partial(bench.validation.rank_outcomes)
        return Scores(values)
""",
    "array-class": """
    def cheat(self, values, requests, context):
        return Scores(values.view(Ranked))


class Ranked(np.ndarray):
    def __array_ufunc__(self, ufunc, method, *inputs, out=None, **kwargs):
        plain = [np.asarray(x) if isinstance(x, Ranked) else x for x in inputs]
        result = getattr(ufunc, method)(*plain, **kwargs, **({"out": out} if out else {}))
        if ufunc is np.greater and out:
            out[0][...] = False
        return result
""",
    "mutated-requests": """
    def cheat(self, values, requests, context):
        requests.candidates.flags.writeable = True
        requests.candidates[:, 1:] = requests.candidates[:, :1]
        return Scores(values)
""",
    "mutated-history": """
    def cheat(self, values, requests, context):
        requests.history.items.flags.writeable = True
        requests.history.items[:] = 0
        return Scores(values)
""",
    "positions": """
    def cheat(self, values, requests, context):
        pattern = "user{:05d}" if requests.domain == "planted" else "u{:03d}"
        ids = keys.StringColumn.from_list([pattern.format(u) for u in requests.users.tolist()])
        salt = keys.salt64("candidates", 0, "test", requests.domain)
        place = position_of(keys.stream_keys(keys.id_hashes(ids), salt), values.shape[1] - 1)
        values = values.copy()
        values[np.arange(len(values)), place] = 10.0
        return Scores(values)
""",
    "negatives": '''
    def cheat(self, values, requests, context):
        """Draws the negatives again: what is left is the answer, whatever the order."""
        from bench.protocol.candidates import draw_negatives, population

        pattern = "user{:05d}" if requests.domain == "planted" else "u{:03d}"
        ids = keys.StringColumn.from_list([pattern.format(u) for u in requests.users.tolist()])
        salt = keys.salt64("candidates", 0, "test", requests.domain)
        drawn = draw_negatives(
            population(np.arange(len(self.popularity), dtype=np.int32)),
            keys.stream_keys(keys.id_hashes(ids), salt),
            requests.history,
            values.shape[1] - 1,
        )
        values = values.copy()
        for row, negatives in enumerate(drawn):
            values[row, ~np.isin(requests.candidates[row], negatives)] += 10.0
        return Scores(values)
''',
}

LOOKS = "looks through the running process"
KIT = {
    "raw-file": ("answers-not-known", r"reads .*planted\.inter.*held-out events"),
    "load-domain": ("answers-not-known", r"reads .*planted.*held-out events"),
    "swallowed": ("answers-not-known", r"reads .*planted.*held-out events"),
    "memory-map": ("answers-not-known", r"reads .*domains.*held-out events"),
    "polars": ("answers-not-known", r"reads .*planted\.inter.*held-out events"),
    "early-polars": (
        "answers-not-known",
        r"other held-out items.*scores change.*a road of their own",
    ),
    "child": ("answers-not-known", r"other held-out items.*scores change.*a road of their own"),
    "program": ("answers-not-known", r"reads .*planted\.inter.*held-out events"),
    "shell": ("answers-not-known", r"reads .*planted\.inter.*held-out events"),
    "exclusive": ("answers-not-known", r"reads .*planted\.inter.*held-out events"),
    "open-folder": ("answers-not-known", r"reads .*planted\.inter.*held-out events"),
    "second-name": ("answers-not-known", r"reads .*planted\.inter.*held-out events"),
    "c-library": ("answers-not-known", rf"{LOOKS} \(open by ctypes\)"),
    "c-frames": ("answers-not-known", rf"{LOOKS} \(PyEval_GetFrame by ctypes\)"),
    "memory-file": ("answers-not-known", r"reads /proc/\d+/mem, the memory of a process"),
    "numpy-function": ("answers-not-known", r"in the place of the harness's \(numpy.greater\)"),
    "partial": ("answers-not-known", r"in the place of .* \(bench.validation.rank_outcomes\)"),
    "array-class": ("candidate-rule-not-known", r"Scores.values is Ranked, expected a plain"),
    "store": ("answers-not-known", r"reads .*belongs to stored runs: their ranks"),
    "published": ("answers-not-known", r"reads .*leaderboards/results.*stored runs: their ranks"),
    "collector": ("answers-not-known", rf"{LOOKS} \(gc.get_objects\)"),
    "frames": ("answers-not-known", rf"{LOOKS} \(sys._getframe\)"),
    "traceback": ("answers-not-known", rf"{LOOKS} \(the frames of a traceback\)"),
    "generator-frames": ("answers-not-known", r"other held-out items.*scores change"),
    "cached-task": (
        "answers-not-known",
        r"in the place of the harness's \(bench.protocol.task.Task.test",
    ),
    "mutated-requests": ("inputs-unchanged", r"score changed requests.candidates"),
    "mutated-history": ("inputs-unchanged", r"score changed requests.history.items"),
    "positions": ("candidate-rule-not-known", r"knows the public rule .*NDCG@5 is 1\.000"),
    "negatives": ("candidate-rule-not-known", r"knows the public rule .*NDCG@5 is 0\.[789]"),
}
RUN = {
    "raw-file": r"score\(\) reads .*tiny\.inter.*held-out events",
    "load-domain": r"score\(\) reads .*tiny.*held-out events.*view",
    "swallowed": r"score\(\) reads .*tiny.*held-out events",
    "memory-map": r"score\(\) reads .*held-out events",
    "polars": r"score\(\) reads .*tiny\.inter",
    "early-polars": r"score\(\) reads .*tiny\.inter",  # its module is imported under watch
    "program": r"score\(\) reads .*tiny\.inter",
    "shell": r"score\(\) reads .*tiny\.inter",
    "exclusive": r"score\(\) reads .*tiny\.inter",
    "open-folder": r"score\(\) reads .*tiny\.inter",
    "second-name": r"score\(\) reads .*tiny\.inter",
    "c-library": rf"{LOOKS} \(open by ctypes\)",
    "c-frames": rf"{LOOKS} \(PyEval_GetFrame by ctypes\)",
    "memory-file": r"reads /proc/\d+/mem, the memory of a process",
    "numpy-function": r"its own code in the harness \(numpy.greater\)",
    "partial": r"its own code in the harness \(bench.validation.rank_outcomes\)",
    "array-class": r"Scores.values is Ranked, expected a plain",
    "store": r"score\(\) reads .*stored runs: their ranks",
    "published": r"score\(\) reads .*leaderboards/results.*their ranks",
    "collector": rf"{LOOKS} \(gc.get_objects\)",
    "frames": rf"{LOOKS} \(sys._getframe\)",
    "traceback": rf"{LOOKS} \(the frames of a traceback\)",
    "cached-task": r"its own code in the harness \(bench.protocol.task.Task.test",
    "mutated-requests": r"score\(\) changed what it was given \(requests.candidates\)",
    "mutated-history": r"score\(\) changed what it was given \(requests.history.items\)",
    "negatives": r"knows the public rule of candidate sets: over 60 users",
}


@pytest.fixture(autouse=True)
def private_folders(tmp_path, monkeypatch):
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("BENCH_STORE", str(tmp_path / "runs"))
    monkeypatch.delenv("BENCH_DATA_ROOT", raising=False)
    code = Code.now()
    yield
    code.restored()


@pytest.fixture
def data_root(tmp_path) -> Path:
    """A domain in which the next item says little, so that only the answers give high figures."""
    draw = random.Random(3)
    folder = tmp_path / "data" / "tiny"
    folder.mkdir(parents=True)
    lines = ["user_id:token\titem_id:token\ttimestamp:float"]
    for user in range(N_USERS):
        for at, item in enumerate(draw.sample(range(N_ITEMS), 8)):
            lines.append(f"u{user:03d}\ti{item:03d}\t{at}")
    (folder / "tiny.inter").write_text("\n".join(lines) + "\n")
    items = [f"i{item:03d}\tTitle {item}" for item in range(N_ITEMS)]
    (folder / "tiny.item").write_text("item_id:token\ttitle:token_seq\n" + "\n".join(items) + "\n")
    return tmp_path / "data"


def write(tmp_path, body, head=HEAD) -> str:
    path = tmp_path / "cheater.py"
    path.write_text(head + body)
    return f"{path}:Cheater"


def run(name, data_root, tmp_path, **fields):
    spec = RunSpec(method=name, target="tiny", data_root=data_root, threads=1, **fields)
    return execute(spec, RunStore(tmp_path / "runs"))


@pytest.mark.parametrize("member", MEMBERS)
def test_bench_check_names_the_cheater(tmp_path, member):
    check, message = KIT[member]
    (result,) = check_method(resolve(write(tmp_path, MEMBERS[member])), checks=[check])
    assert result.status == "fail", result
    assert re.search(message, result.reason, re.DOTALL), result.reason


@pytest.mark.parametrize("member", RUN)
def test_bench_run_ends_with_the_cheater_named(tmp_path, data_root, member):
    name = write(tmp_path, MEMBERS[member])
    with pytest.raises(MethodError, match=f"(?s){RUN[member]}"):
        run(name, data_root, tmp_path)
    assert RunStore(tmp_path / "runs").list() == []


# The stack of a process cannot be hidden from itself: a walk that asks nobody is named by the kit alone.
@pytest.mark.parametrize("member", sorted(set(MEMBERS) - set(RUN) - {"generator-frames"}))
def test_in_a_run_the_other_roads_lead_to_no_answer(tmp_path, data_root, member):
    """Decoys, or a secret order, stand where these look; the kit names them."""
    honest = run(
        write(
            tmp_path,
            "    def cheat(self, values, requests, context):\n        return Scores(values)\n",
        ),
        data_root,
        tmp_path,
    )
    found = run(write(tmp_path, MEMBERS[member]), data_root, tmp_path)
    figures = [metric_per_user(one.outcomes(), "ndcg@5").mean() for one in (honest, found)]
    assert figures[1] < figures[0] + 0.15


def test_arrays_lead_to_no_file(tmp_path, data_root):
    """Three lines once were enough: the file behind a view's array lies beside the answers."""
    body = """
    def fit(self, view, context):
        super().fit(view, context)
        self.files = []
        for array in (view.target.items.titles.data, view.target.items.ids.offsets):
            while array is not None:
                self.files.append(str(getattr(array, "filename", "")))
                array = getattr(array, "base", None)

    def cheat(self, values, requests, context):
        assert not any(self.files), self.files
        return Scores(values)
"""
    run(write(tmp_path, body), data_root, tmp_path)


def test_a_module_that_reads_the_answers_on_import_is_named(tmp_path, data_root, monkeypatch):
    monkeypatch.setenv("BENCH_DATA_ROOT", str(data_root))
    body = MEMBERS["raw-file"] + '\n\nANSWERS = load_domain("tiny")\n'
    with pytest.raises(MethodError, match=r"the import reads .*held-out events"):
        run(write(tmp_path, body), data_root, tmp_path)


BETWEEN = {
    "report": """
    @property
    def report(self):
        return self

    def as_dict(self):
        return {"read": PATH.read_text()[:1]}
""",
    "log": """
    def fit(self, view, context):
        super().fit(view, context)
        handler = logging.Handler()
        handler.emit = lambda record: PATH.read_text()
        context.log.addHandler(handler)
""",
    "pool": """
    def fit(self, view, context):
        super().fit(view, context)
        pool = ThreadPoolExecutor(1)
        pool.submit(started.wait)
        self.text = pool.submit(PATH.read_text)

    @property
    def report(self):
        started.set()
        self.text.exception()
        return None


started = threading.Event()
""",
    "require": """
    @classmethod
    def require(cls, config):
        PATH.read_text()
""",
}


@pytest.mark.parametrize("member", BETWEEN)
def test_what_a_plugin_reads_outside_of_fit_and_score_is_named(tmp_path, data_root, member):
    """Its code may be called by the harness at any time, and its threads go on."""
    head = "import logging, threading\nfrom concurrent.futures import ThreadPoolExecutor\n" + HEAD
    place = f"\n\nPATH = Path({str(data_root / 'tiny' / 'tiny.inter')!r})\n"
    honest = "\n    def cheat(self, values, requests, context):\n        return Scores(values)\n"
    name = write(tmp_path, honest + BETWEEN[member] + place, head)
    with pytest.raises(MethodError, match=r"(between its phases, it|import) reads .*tiny\.inter"):
        run(name, data_root, tmp_path)
    assert RunStore(tmp_path / "runs").list() == []


def test_no_excuse_covers_a_leak(tmp_path):
    body = (
        '    expected_failures = {"answers-not-known": "it has to look"}\n' + MEMBERS["load-domain"]
    )
    cls = resolve(write(tmp_path, body))
    (result,) = check_method(cls, checks=["answers-not-known"])
    assert result.status == "fail"
    assert "nothing excuses" in result.reason


def test_what_a_method_keeps_mapped_beside_the_answers_is_found(tmp_path):
    folder = tmp_path / "domain-1"
    folder.mkdir()
    (folder / "domain.json").write_text("{}")
    np.save(folder / "titles.npy", np.zeros(4096, dtype=np.uint8))
    body = f"""
    def fit(self, view, context):
        import mmap
        super().fit(view, context)
        self.mapped = np.load({str(folder / "titles.npy")!r}, mmap_mode="r")
        with open({str(folder / "titles.npy")!r}, "rb") as stream:
            self.raw = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
"""
    cls = resolve(write(tmp_path, body))
    (result,) = check_method(cls, checks=["held-out-not-reachable"])
    assert result.status == "fail"
    assert "method.mapped: a memory map of" in result.reason
    assert "method.raw: a memory map of" in result.reason


HARD_CODED = '''
class Cheater(Markov):
    """A network of fixed seed that calls itself deterministic."""

    name = "cheater"

    def fit(self, view, context):
        super().fit(view, context)
        self.weights = self.drawn(view.target.n_items)

    def score(self, requests, context):
        values = super().score(requests, context).values
        return Scores((values + 0.1 * self.weights[requests.candidates]).astype(np.float32))
'''
DRAWS = {
    "numpy": "        return np.random.default_rng(0).random(n)\n",
    "early-name": "        return early_rng(0).random(n)\n",
    "random-state": "        return np.random.RandomState(0).rand(n)\n",
    "bit-generator": "        return np.random.Generator(np.random.PCG64(0)).random(n)\n",
    "random": "        draw = random.Random(0)\n        return np.array([draw.random() for _ in range(n)])\n",
    "torch": ("        return torch.rand(n, generator=torch.Generator().manual_seed(0)).numpy()\n"),
    "torch-fork": (
        "        with torch.random.fork_rng():\n"
        "            torch.manual_seed(0)\n"
        "            return torch.nn.Linear(n, 1).weight[0].detach().numpy()\n"
    ),
}
OPTIMISER = """
        weight = torch.nn.Parameter(torch.zeros(n))
        optimiser = torch.optim.SGD([weight], lr=0.1)
        (weight - torch.arange(n)).square().sum().backward()
        optimiser.step()
        return weight.detach().numpy()
"""
DRAW_HEAD = (
    HEAD + "\nimport random\nimport torch\nfrom numpy.random import default_rng as early_rng\n"
)


@pytest.mark.parametrize("kind", DRAWS)
def test_a_fit_that_draws_from_a_seed_of_its_own_is_trainable(tmp_path, kind):
    body = HARD_CODED + "\n    def drawn(self, n):\n" + DRAWS[kind]
    cls = resolve(write(tmp_path, body, DRAW_HEAD))
    (result,) = check_method(cls, checks=["seed-used"])
    assert result.status == "fail"
    assert re.search("seed of its own.*do not say `trainable`", result.reason), result.reason


def test_a_fit_that_runs_an_optimiser_is_trainable_in_check_and_run(tmp_path, data_root):
    name = write(tmp_path, HARD_CODED + "\n    def drawn(self, n):" + OPTIMISER, DRAW_HEAD)
    (result,) = check_method(resolve(name), checks=["seed-used"])
    assert result.status == "fail"
    assert "runs an optimiser (SGD)" in result.reason
    with pytest.raises(MethodError, match=r"runs an optimiser \(SGD\).*trainable=True"):
        run(name, data_root, tmp_path)
