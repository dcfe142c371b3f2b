from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bench.runs.spec import RunSpec
from bench.runs.store import RunStore

METHODS = Path(__file__).with_name("run_methods.py")


def write_domain(root: Path, name: str, seed: int, n_users: int = 40, n_items: int = 60) -> None:
    """A random domain as atomic files; every user has 5 to 9 events."""
    rng = np.random.default_rng(seed)
    folder = root / name
    folder.mkdir(parents=True)
    lines = ["user_id:token\titem_id:token\ttimestamp:float"]
    for user in range(n_users):
        items = rng.permutation(n_items)[: int(rng.integers(5, 10))]
        lines += [f"u{user}\ti{item}\t{1000 * user + at}" for at, item in enumerate(items)]
    (folder / f"{name}.inter").write_text("\n".join(lines) + "\n", encoding="utf-8")
    titles = ["item_id:token\ttitle:token_seq"]
    titles += [f"i{item}\tTitle {name} {item}" for item in range(n_items)]
    (folder / f"{name}.item").write_text("\n".join(titles) + "\n", encoding="utf-8")


@pytest.fixture(scope="session")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("run-data")
    write_domain(root, "alpha", 1)
    write_domain(root, "beta", 2)
    return root


@pytest.fixture(scope="session")
def run_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("run-cache")


@pytest.fixture(autouse=True)
def _environment(run_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_CACHE", str(run_cache))
    monkeypatch.delenv("BENCH_DATA_ROOT", raising=False)
    monkeypatch.delenv("BENCH_STORE", raising=False)


@pytest.fixture(scope="session")
def methods_file() -> Path:
    return METHODS


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return RunStore(tmp_path / "store")


@pytest.fixture
def make_spec(data_root: Path) -> Callable[..., RunSpec]:
    def make(method: str = "Learner", target: str = "alpha", **fields: object) -> RunSpec:
        named = f"{METHODS}:{method}" if method[0].isupper() else method
        overrides = fields.pop("overrides", {})
        values = {"threads": 1, "data_root": data_root, **fields}
        return RunSpec(method=named, target=target, overrides=overrides, **values)

    return make
