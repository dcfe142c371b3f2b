"""Which column holds what: known layouts in one command, and one error that names all that is missing."""

from __future__ import annotations

import itertools
import re
import shlex

import pytest

from bench.data.imports import import_domain, import_record
from bench.errors import ConfigError, DataError

USERS, ITEMS = 4, 5


def put(folder, name, text):
    path = folder / name
    path.write_text(text)
    return path


def table(head, row, by=","):
    rows = [row(u, i) for u in range(USERS) for i in range(ITEMS)]
    return (head + "\n" if head else "") + "".join(by.join(map(str, r)) + "\n" for r in rows)


def asin(i):
    return f"B00000000{i}"


def reviewer(u):
    return f"A00000000000{u}"


@pytest.mark.parametrize(
    ("name", "text", "note"),
    [
        ("ratings.csv", table("", lambda u, i: (asin(i), reviewer(u), "5.0", 10**9 + i)), "Amazon ratings in the order of 2018"),
        ("ratings.csv", table("", lambda u, i: (reviewer(u), asin(i), "5.0", 10**9 + i)), "Amazon ratings in the order of 2014"),
        ("r.csv", table("user_id,parent_asin,rating,timestamp", lambda u, i: (u, asin(i), 5, i)), "Amazon reviews 2023"),
        ("hm.csv", table("t_dat,customer_id,article_id,price", lambda u, i: (f"2020-01-0{i + 1}", u, i, 1)), "H&M transactions"),
        ("go.txt", table("", lambda u, i: (u, f"2010-10-1{i}T00:00:00Z", 1.5, -2, i), "\t"), "check-ins of Gowalla"),
        ("u.data.txt", table("", lambda u, i: (u, i, 5, 881250949 + i), "\t"), "MovieLens u.data"),
        ("sas.txt", table("", lambda u, i: (u, i), " "), "'user item' lines, oldest first"),
        ("kuai.csv", table("user_id,video_id,time,timestamp", lambda u, i: (u, i, "", i)), "KuaiRec"),
        ("bx.csv", table('"User-ID";"ISBN";"Book-Rating"', lambda u, i: (f'"{u}"', f'"{i}"', '"5"'), ";"), "Book-Crossing ratings"),
    ],
)  # fmt: skip
def test_known_layouts_need_no_options(tmp_path, name, text, note):
    domain = import_domain("mine", put(tmp_path, name, text))
    assert (domain.n_users, domain.n_items, domain.n_events) == (USERS, ITEMS, USERS * ITEMS)
    assert domain.sequences[0].tolist() == list(range(ITEMS))  # oldest first
    assert any(f"read as {note}" in line for line in import_record("mine")["notes"])


def test_item_tables_of_known_layouts_bring_their_titles(tmp_path):
    inter = put(
        tmp_path, "r.csv", table("userId,movieId,rating,timestamp", lambda u, i: (u, i, 5, i))
    )
    items = put(
        tmp_path,
        "m.csv",
        "movieId,title,genres\n" + "".join(f'{i},"T, {i}",War\n' for i in range(ITEMS)),
    )
    domain = import_domain("mine", inter, items)
    assert domain.items.titles[0] == "T, 0"
    assert domain.items.extra["category"][0] == "War"


def test_a_header_above_known_values_stays_a_header(tmp_path):
    text = table("uid,iid,stars,sec", lambda u, i: (u, i, 5, 881250949 + i), "\t")
    with pytest.raises(
        DataError, match=r"no column 'user_id' .*the columns are 'uid', 'iid', 'stars', 'sec'"
    ):
        import_domain("mine", put(tmp_path, "u.tsv", text))


def test_all_missing_columns_are_named_with_a_command_that_works(tmp_path):
    text = table("customer,sku,when,price", lambda u, i: (u, i, i, 1))
    path = put(tmp_path, "e.csv", text)
    with pytest.raises(DataError) as caught:
        import_domain("mine", path, on_error="skip", encoding="latin-1")
    message = str(caught.value)
    for part in (
        "'user_id' (mapped to user)",
        "'item_id' (mapped to item)",
        "'timestamp' (mapped to time)",
    ):
        assert part in message
    command = shlex.split(message.partition("Name them: ")[2])
    assert command[:6] == ["bench", "data", "import", "mine", str(path), "--encoding"]
    pairs = dict(
        word.split("=") for flag, word in itertools.pairwise(command) if flag == "--column"
    )
    assert pairs == {"user": "customer", "item": "sku", "time": "when"}
    assert import_domain("mine", path, mapping=pairs).n_events == USERS * ITEMS


@pytest.mark.parametrize("ending", ["inter", "tsv"])
@pytest.mark.parametrize(
    ("head", "needed"),
    [
        ("user_id:token\tproduct_id:token\ttimestamp:float", {"item": "product_id"}),
        ("user_id:token\titem_id:token\trating:float", {"time": "row"}),
        ("user_id\titem_id\ttimestamp", {}),
    ],
)
def test_atomic_files_of_other_names_or_without_times_or_types(tmp_path, ending, head, needed):
    path = put(tmp_path, f"e.{ending}", table(head, lambda u, i: (u, i, i), "\t"))
    if needed:
        words = " ".join(f"--column {role}={column}" for role, column in needed.items())
        with pytest.raises(DataError, match=re.escape(f"bench data import mine {path} {words}")):
            import_domain("mine", path)
    assert import_domain("mine", path, mapping=needed or None).n_events == USERS * ITEMS


HEADLESS = table("", lambda u, i: (f"u{u}", f"i{i}", i + 5))


def test_conditions_on_files_without_a_header_name_numbers(tmp_path):
    path = put(tmp_path, "r.csv", table("", lambda u, i: (asin(i), reviewer(u), i, 10**9)))
    with pytest.raises(DataError, match="called by their numbers"):
        import_domain("mine", path, where=["rating >= 2"])
    assert import_domain("mine", path, where=["3 >= 2"]).n_events == USERS * (ITEMS - 2)


@pytest.mark.parametrize(
    "mapping",
    [
        {"user": "u0", "item": "i0", "time": "5"},
        {"user": "u0", "item": "i0", "time": "row"},
        None,
    ],
)
def test_the_first_row_is_never_taken_for_a_header(tmp_path, mapping):
    path = put(tmp_path, "e.csv", HEADLESS)
    with pytest.raises(DataError, match="--no-header --column user="):
        import_domain("mine", path, mapping=mapping)
    numbers = {"user": "1", "item": "2", "time": "3"}
    for header in (None, False):
        made = import_domain("mine", path, mapping=numbers, header=header, replace=True)
        assert made.n_events == USERS * ITEMS


def test_numbers_may_be_names_if_the_user_says_so(tmp_path):
    path = put(tmp_path, "e.csv", table("0,1,2", lambda u, i: (f"u{u}", f"i{i}", i)))
    mapping = {"user": "0", "item": "1", "time": "2"}
    with pytest.raises(DataError, match="--header"):
        import_domain("mine", path, mapping=mapping)
    assert import_domain("mine", path, mapping=mapping, header=True).n_events == USERS * ITEMS


def test_lines_of_a_user_and_his_items(tmp_path):
    path = put(tmp_path, "s.txt", "7 3 1 2\n8 1\n9 2 3\n")
    with pytest.raises(DataError, match="--sequences"):
        import_domain("mine", path)
    with pytest.raises(ConfigError, match="leave --column and --where out"):
        import_domain("mine", path, sequences=True, mapping={"user": "1"})
    domain = import_domain("mine", path, sequences=True)
    assert [domain.sequences[row].tolist() for row in range(3)] == [[2, 0, 1], [0], [1, 2]]


MIND = """1\tU1\t11/12/2019 9:05:58 AM\tN5 N4\tN6-1 N3-0
2\tU2\t11/12/2019 6:11:30 PM\t\tN2-0 N3-1 N8-1
3\tU1\t11/11/2019 9:05:58 PM\tN5 N4\tN9-1
"""


def test_mind_gives_the_history_and_the_clicked_news(tmp_path):
    news = "".join(
        f'N{n}\tsport\tgolf\tTitle "{n}\tabstract\thttp://x\t[]\t[]\n' for n in range(2, 10)
    )
    domain = import_domain(
        "mind", put(tmp_path, "behaviors.tsv", MIND), put(tmp_path, "news.tsv", news)
    )
    ids = domain.items.ids.to_list()
    rows = [[ids[item] for item in domain.sequences[row]] for row in range(2)]
    assert rows == [["N5", "N4", "N9", "N6"], ["N3", "N8"]]
    assert domain.items.titles[0] == 'Title "3'
