"""Candidate files, exported requests, imported scores, and candidate sets written in bulk."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from protocol_domains import domain_blocks, make_domain, random_domain

from bench.data.domain import Domain
from bench.errors import ProtocolError
from bench.protocol import (
    ProtocolOptions,
    Task,
    build_task,
    export_candidates,
    export_requests,
    read_candidates,
    read_scores,
)
from bench.protocol.candidates import population
from bench.protocol.candidates_io import position_path, write_candidates
from bench.protocol.requests_io import meta_path
from bench.protocol.titles import title_groups

NINE = ProtocolOptions(n_negatives=9)
IMPORTED = ProtocolOptions(negatives="imported")


@pytest.fixture(scope="module")
def domain() -> Domain:
    return random_domain(11, n_users=25)


@pytest.fixture(scope="module")
def task(domain: Domain) -> Task:
    return build_task(domain, options=NINE)


def sets_of(task: Task) -> dict[str, list[tuple[list[int], int]]]:
    users = task.subset(None)
    found = {}
    for requests in (task.validation_set(users), task.test(users)):
        found[requests.split] = [
            (sorted(row.tolist()), int(row[position]))
            for part, labels in requests.chunks(10)
            for row, position in zip(part.candidates, labels.position, strict=True)
        ]
    return found


@pytest.mark.parametrize("name", ["c.csv", "c.tsv", "c.parquet"])
def test_exported_candidates_come_back_as_the_same_sets(
    task: Task, domain: Domain, tmp_path: Path, name: str
) -> None:
    export_candidates(task, tmp_path / name)
    imported = read_candidates(tmp_path / name)
    again = build_task(domain, options=IMPORTED, imported=imported)
    assert sets_of(again) == sets_of(task)
    assert again.options.candidates_file == imported.sha256
    assert again.task_hash != task.task_hash
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_imported_hash_ignores_the_form_of_the_file(
    task: Task, domain: Domain, tmp_path: Path
) -> None:
    export_candidates(task, tmp_path / "a.parquet")
    frame = pl.read_parquet(tmp_path / "a.parquet")
    shuffled = frame.sample(fraction=1.0, shuffle=True, seed=1)
    with gzip.open(tmp_path / "b.tsv.gz", "wt", encoding="utf-8") as stream:
        stream.write(shuffled.write_csv(separator="\t"))
    files = [read_candidates(tmp_path / n) for n in ("a.parquet", "b.tsv.gz")]
    assert files[0].sha256 == files[1].sha256
    tasks = [build_task(domain, options=IMPORTED, imported=f) for f in files]
    assert tasks[0].task_hash == tasks[1].task_hash
    users = tasks[0].subset(None)
    orders = [next(t.test(users).chunks(99)) for t in tasks]
    assert np.array_equal(orders[0][0].candidates, orders[1][0].candidates)
    other = frame.with_columns(
        pl.when(pl.int_range(pl.len()) == 3)
        .then(pl.lit("i0"))
        .otherwise("item_id")
        .alias("item_id")
    )
    other.write_parquet(tmp_path / "c.parquet")
    assert read_candidates(tmp_path / "c.parquet").sha256 != files[0].sha256
    with pytest.raises(
        ProtocolError, match="Use the candidate file that the options were made for"
    ):
        build_task(
            domain,
            options=ProtocolOptions(negatives="imported", candidates_file="0" * 64),
            imported=files[0],
        )


def test_the_positive_first_in_a_file_is_not_first_in_requests(
    domain: Domain, tmp_path: Path
) -> None:
    path = tmp_path / "first.csv"
    plain = build_task(domain, options=NINE)
    lines = ["user_id,item_id"]
    ((part, labels),) = list(plain.test(plain.subset(None)).chunks(99))
    for row, user in enumerate(part.users):
        own = part.candidates[row].tolist()
        own.insert(0, own.pop(int(labels.position[row])))
        lines += [f"{domain.user_ids[int(user)]},{domain.items.ids[i]}" for i in own]
    path.write_text("\n".join(lines), encoding="utf-8")
    task = build_task(domain, options=IMPORTED, imported=read_candidates(path))
    ((_, shuffled),) = list(task.test(task.subset(None)).chunks(99))
    assert len(set(shuffled.position.tolist())) > 5
    valid, _ = task.validation(task.subset(None))
    assert np.array_equal(valid.candidates, plain.validation(plain.subset(None))[0].candidates)


@pytest.fixture(scope="module")
def rows(task: Task, tmp_path_factory: pytest.TempPathFactory) -> pl.DataFrame:
    path = tmp_path_factory.mktemp("rows") / "c.parquet"
    export_candidates(task, path, splits=("test",))
    return pl.read_parquet(path)


def replace_item(rows: pl.DataFrame, row: int, item: str) -> pl.DataFrame:
    items = rows["item_id"].to_list()
    items[row] = item
    return rows.with_columns(pl.Series("item_id", items))


def history_item(rows: pl.DataFrame, domain: Domain) -> pl.DataFrame:
    """Replace a negative of user 0 by the first item of the user's history."""
    positive = domain.items.ids[int(domain.sequences[0][-1])]
    row = next(i for i in range(10) if rows["item_id"][i] != positive)
    return replace_item(rows, row, domain.items.ids[int(domain.sequences[0][0])])


def without_positive(rows: pl.DataFrame, domain: Domain) -> pl.DataFrame:
    own = domain.sequences[0]
    row = rows["item_id"].to_list()[:10].index(domain.items.ids[int(own[-1])])
    free = set(range(domain.n_items)) - set(own.tolist())
    used = set(rows["item_id"].to_list()[:10])
    item = next(domain.items.ids[i] for i in sorted(free) if domain.items.ids[i] not in used)
    return replace_item(rows, row, item)


BAD_CANDIDATES: dict[str, tuple[Callable[[pl.DataFrame, Domain], pl.DataFrame], str]] = {
    "missing user": (lambda r, d: r[10:], "1 of 25 evaluated users have no candidates"),
    "unequal": (lambda r, d: r[1:], "user 'u0' has 9 candidates, others have 10"),
    "unknown user": (
        lambda r, d: pl.concat([r, r[:10].with_columns(user_id=pl.lit("nobody"))]),
        "1 users are not in the domain, for example user 'nobody'",
    ),
    "unknown item": (lambda r, d: replace_item(r, 3, "nothing"), "items are not in the vocabulary"),
    "twice": (lambda r, d: replace_item(r, 1, r["item_id"][0]), "hold an item twice"),
    "history": (history_item, "hold an item of the user's own history"),
    "no positive": (without_positive, "lack the held-out item"),
    "split": (lambda r, d: r.with_columns(split=pl.lit("train")), "row 1: split 'train'; expected"),
    "no test": (lambda r, d: r.with_columns(split=pl.lit("valid")), "no rows of split 'test'"),
    "column": (lambda r, d: r.drop("item_id"), "columns item_id are missing; found split, user_id"),
    "blank": (lambda r, d: replace_item(r, 4, None), "row 5 of the data: no item_id"),  # type: ignore[arg-type]
    "empty": (lambda r, d: r[:0], "no rows; expected one per user and candidate"),
    "single": (lambda r, d: r.unique("user_id"), "one candidate per user"),
}


@pytest.mark.parametrize("case", BAD_CANDIDATES)
def test_bad_candidate_files(rows: pl.DataFrame, domain: Domain, tmp_path: Path, case: str) -> None:
    spoil, message = BAD_CANDIDATES[case]
    spoil(rows, domain).write_parquet(tmp_path / "c.parquet")
    with pytest.raises(ProtocolError, match=message):
        build_task(domain, options=IMPORTED, imported=read_candidates(tmp_path / "c.parquet"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("c.xlsx", b"", "unknown kind of table"),
        ("c.csv", None, "no such file"),
        ("c.parquet", b"not parquet", "not readable as parquet"),
        ("c.csv", b"", "not readable as csv"),
    ],
)
def test_unreadable_tables(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ProtocolError, match=message):
        read_candidates(tmp_path / name)


def test_ids_stay_text(tmp_path: Path) -> None:
    """'007' and '7' are different users, and quotation marks are part of a TSV id."""
    events = {u: [f"{i:03}" for i in range(s, s + 4)] for u, s in (("007", 0), ("7", 3), ('"x', 6))}
    domain = make_domain(events, items=[f"{i:03}" for i in range(30)])
    task = build_task(domain, options=NINE)
    for name in ("c.tsv", "c.csv"):
        export_candidates(task, tmp_path / name)
        again = build_task(domain, options=IMPORTED, imported=read_candidates(tmp_path / name))
        assert sets_of(again) == sets_of(task)


@pytest.mark.parametrize("name", ["r.jsonl", "r.parquet"])
@pytest.mark.parametrize("titles", [False, True])
def test_exported_requests_hold_no_label(
    task: Task, domain: Domain, tmp_path: Path, name: str, titles: bool
) -> None:
    path = tmp_path / name
    users = task.subset(7)
    meta = export_requests(task, task.test(users), path, titles=titles)
    rows = (
        [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        if name.endswith("jsonl")
        else pl.read_parquet(path).to_dicts()
    )
    ((part, _),) = list(task.test(users).chunks(99))
    ids = domain.items.ids.to_list()
    assert len(rows) == 7
    for row, user in enumerate(users):
        expected = {
            "user_id": domain.user_ids[int(user)],
            "history": [ids[i] for i in part.history[row]],
            "candidates": [ids[i] for i in part.candidates[row]],
        }
        if titles:
            expected["history_titles"] = [f"T {i}" for i in expected["history"]]
            expected["candidate_titles"] = [f"T {i}" for i in expected["candidates"]]
        assert rows[row] == expected
    assert json.loads(meta_path(path).read_text(encoding="utf-8")) == meta
    assert meta["task_hash"] == task.task_hash
    assert meta["users_hash"] == task.users_hash(users)


def test_full_ranking_is_not_exported(task: Task, tmp_path: Path) -> None:
    with pytest.raises(ProtocolError, match="not exported"):
        export_requests(task, task.test(task.subset(2), full=True), tmp_path / "r.jsonl")
    with pytest.raises(ProtocolError, match=r"expected a name ending in \.jsonl"):
        export_requests(task, task.test(task.subset(2)), tmp_path / "r.csv")


@pytest.fixture(scope="module")
def scores(task: Task, domain: Domain) -> pl.DataFrame:
    ((part, _),) = list(task.test(task.subset(6)).chunks(99))
    ids = domain.items.ids.to_list()
    return pl.DataFrame(
        [
            {
                "user_id": domain.user_ids[int(user)],
                "item_id": ids[item],
                "score": user + item / 100,
            }
            for row, user in enumerate(part.users)
            for item in part.candidates[row].tolist()
        ]
    )


@pytest.mark.parametrize("name", ["s.csv", "s.tsv", "s.parquet"])
def test_scores_are_aligned_by_ids(
    task: Task, scores: pl.DataFrame, tmp_path: Path, name: str
) -> None:
    shuffled = scores.sample(fraction=1.0, shuffle=True, seed=3)
    path = tmp_path / name
    if name.endswith("parquet"):
        shuffled.write_parquet(path)
    else:
        shuffled.write_csv(path, separator="," if name.endswith("csv") else "\t")
    users = task.subset(6)[::-1]
    values = read_scores(path, task.test(users))
    ((part, _),) = list(task.test(users).chunks(99))
    expected = part.users[:, None] + part.candidates / 100
    assert values.dtype == np.float64
    assert np.array_equal(values, expected)


def with_score(scores: pl.DataFrame, row: int, value: float | None) -> pl.DataFrame:
    values = scores["score"].to_list()
    values[row] = value
    return scores.with_columns(pl.Series("score", values, dtype=pl.Float64))


BAD_SCORES: dict[str, tuple[Callable[[pl.DataFrame], pl.DataFrame], str]] = {
    "user missing": (lambda s: s[10:], "1 of 6 users have no scores, for example"),
    "candidate missing": (lambda s: s[1:], r"no score for candidate .* \(1 of 10 are missing\)"),
    "unknown user": (
        lambda s: pl.concat([s, s[:1].with_columns(user_id=pl.lit("nobody"))]),
        "1 rows name a user that toy does not have, for example 'nobody'",
    ),
    "unknown item": (
        lambda s: pl.concat([s, s[:1].with_columns(item_id=pl.lit("nothing"))]),
        "1 rows name an item that toy does not have, for example 'nothing'",
    ),
    "repeated": (lambda s: pl.concat([s, s[:2]]), "2 repeated rows"),
    "nan": (lambda s: with_score(s, 4, float("nan")), "row 5 of the data: score nan"),
    "infinite": (lambda s: with_score(s, 0, float("inf")), "not a finite 64-bit number"),
    "blank": (lambda s: with_score(s, 2, None), "row 3 of the data: score None"),
    "text": (lambda s: s.with_columns(score=pl.lit("high")), "score 'high'"),
    "column": (lambda s: s.rename({"score": "value"}), "columns score are missing"),
}


@pytest.mark.parametrize("case", BAD_SCORES)
def test_bad_score_files(task: Task, scores: pl.DataFrame, tmp_path: Path, case: str) -> None:
    spoil, message = BAD_SCORES[case]
    spoil(scores).write_parquet(tmp_path / "s.parquet")
    with pytest.raises(ProtocolError, match=message):
        read_scores(tmp_path / "s.parquet", task.test(task.subset(6)))


def test_extra_and_missing_scores_by_permission(
    task: Task, domain: Domain, scores: pl.DataFrame, tmp_path: Path
) -> None:
    path = tmp_path / "s.parquet"
    strangers = pl.DataFrame({"user_id": ["nobody"], "item_id": ["i1"], "score": [1.0]})
    pl.concat([with_score(scores, 2, None)[1:], strangers]).write_parquet(path)
    users = task.subset(5)
    values = read_scores(path, task.test(users), may_leave_unranked=True, ignore_extra=True)
    left_out = set(scores["user_id"].to_list()) - {domain.user_ids[int(u)] for u in users}
    first_two = {(scores["user_id"][i], scores["item_id"][i]) for i in (0, 2)}
    expected = sum(user not in left_out for user, _ in first_two)
    assert int(np.isnan(values).sum()) == expected
    with pytest.raises(ProtocolError, match="1 users are not among the requests"):
        scores.write_parquet(path)
        read_scores(path, task.test(users))
    extra = next(i for i in domain.items.ids if i not in set(scores["item_id"][:10].to_list()))
    more = pl.DataFrame({"user_id": [scores["user_id"][0]], "item_id": [extra], "score": [1.0]})
    pl.concat([scores, more]).write_parquet(path)
    with pytest.raises(ProtocolError, match="1 scores are for items that are no candidates"):
        read_scores(path, task.test(task.subset(6)))
    assert np.isfinite(read_scores(path, task.test(task.subset(6)), ignore_extra=True)).all()


def test_bulk_files_equal_the_task(tmp_path: Path) -> None:
    domain = random_domain(4, n_users=60, n_items=90, shortest=1, longest=8)
    task = build_task(domain)
    pop = population(title_groups(domain.items.titles))
    for split, requests in (
        ("valid", task.validation_set(task.subset(None))),
        ("test", task.test(task.subset(None))),
    ):
        path = tmp_path / f"{split}.npy"
        blocks = domain_blocks(domain, split, size=13)  # type: ignore[arg-type]
        write_candidates(path, blocks, pop, n_users=task.n_users, domain="toy", split=split)  # type: ignore[arg-type]
        ((part, labels),) = list(requests.chunks(999))
        candidates = np.load(path, mmap_mode="r")
        assert candidates.dtype == np.int32
        assert np.array_equal(candidates, part.candidates)
        assert np.array_equal(np.load(position_path(path)), labels.position)


@pytest.mark.parametrize(
    ("name", "n_users", "n_negatives", "message"),
    [
        ("c.bin", 60, 29, "expected `.npy`"),
        ("c.npy", 61, 29, "61 users announced, 60 came"),
        ("c.npy", 60, 85, "85 negatives asked for"),
    ],
)
def test_bulk_files_are_complete_or_absent(
    tmp_path: Path, name: str, n_users: int, n_negatives: int, message: str
) -> None:
    domain = random_domain(4, n_users=60, n_items=90)
    pop = population(title_groups(domain.items.titles))
    with pytest.raises(ProtocolError, match=message):
        write_candidates(
            tmp_path / name,
            domain_blocks(domain, "test"),
            pop,
            n_users=n_users,
            domain="toy",
            n_negatives=n_negatives,
        )
    assert not list(tmp_path.iterdir())
