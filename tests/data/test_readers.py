from __future__ import annotations

import datetime
import gzip
import io
import json
import zipfile

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.data.raw import LineErrors
from bench.data.readers.amazon import read_amazon, read_meta
from bench.data.readers.atomic import read_atomic
from bench.data.readers.delimited import Dialect
from bench.data.readers.lines import iter_lines, split_fields
from bench.data.readers.movielens import read_movielens
from bench.data.readers.tabular import ColumnMapping, TableOptions, read_tabular
from bench.errors import ConfigError, DataError

INTER = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"


def events(raw):
    return raw.events.rows()


@settings(max_examples=150, deadline=None)
@given(st.text(alphabet="ab,é日\n", max_size=60), st.integers(1, 20))
def test_blocks_of_any_size_give_the_same_lines_with_their_numbers(text, block_bytes):
    runs = list(iter_lines(io.BytesIO(text.encode()), LineErrors("f"), block_bytes=block_bytes))
    found = [(run.first + row, line) for run in runs for row, line in enumerate(run.text.to_list())]
    expected = text.removesuffix("\n").split("\n") if text else []
    assert found == list(enumerate(expected, 1))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text(alphabet="ab|", max_size=8), max_size=12))
def test_split_fields_equals_str_split_and_counts_the_rest(rows):
    text = "".join(f"{row}\n" for row in rows)
    errors = LineErrors("f", "skip")
    parts = [
        split_fields(run, "|", 3, [("x", 0), ("z", 2)], errors)
        for run in iter_lines(io.BytesIO(text.encode()), errors, block_bytes=5)
    ]
    found = [row for part in parts for row in part.rows()]
    cells = [(number, row.split("|")) for number, row in enumerate(rows, 1) if row]
    assert found == [(number, c[0], c[2]) for number, c in cells if len(c) == 3]
    assert errors.count == sum(len(c) != 3 for _, c in cells)


@pytest.mark.parametrize("compress", [False, True])
def test_atomic_files_are_split_at_tabs_only(tmp_path, compress):
    inter = INTER + 'u1\ti"1\t5\t978300019.001\nu2\ti 2\t3\t-1\n\n'
    item = (
        'item_id:token\tmovie_title:token_seq\tclass:token_seq\ni"1\tThe "Best", of\tA B\ni 2\t\t\n'
    )
    paths = []
    for name, text in (("d.inter", inter), ("d.item", item)):
        data = text.encode()
        path = tmp_path / (name + ".gz" * compress)
        path.write_bytes(gzip.compress(data) if compress else data)
        paths.append(path)
    raw = read_atomic(*paths)
    assert events(raw) == [("u1", 'i"1', 978300019.001), ("u2", "i 2", -1.0)]
    assert raw.items.rows(named=True) == [
        {"item": 'i"1', "title": 'The "Best", of', "category": "A B"},
        {"item": "i 2", "title": "", "category": ""},
    ]
    assert set(raw.skipped.values()) == {0}


def test_atomic_windows_line_ends_and_byte_order_mark(tmp_path):
    path = tmp_path / "d.inter"
    text = "\ufeffuser_id:token\titem_id:token\ttimestamp:float\r\nu\ti\t1\r\n"
    path.write_bytes(text.encode())
    assert events(read_atomic(path)) == [("u", "i", 1.0)]


def test_skipped_lines_are_counted_per_file(tmp_path):
    inter, item = tmp_path / "d.inter", tmp_path / "d.item"
    inter.write_text(INTER + "u\ti\t5\t1\nbroken\nu\tj\t5\tnan\n\tj\t5\t3\nu\tk\t5\t4\n")
    item.write_text("item_id:token\ttitle:token\ni\tI\ni\tagain\nk\tK\n")
    raw = read_atomic(inter, item, on_error="skip")
    assert events(raw) == [("u", "i", 1.0), ("u", "k", 4.0)]
    assert raw.skipped == {"d.inter": 3, "d.item": 1}
    assert raw.items["title"].to_list() == ["I", "K"]


def write_amazon(folder, reviews, meta_lines):
    lines = [
        json.dumps(dict(zip(("reviewerID", "asin", "unixReviewTime"), r, strict=True)))
        for r in reviews
    ]
    files = folder / "reviews_X_5.json.gz", folder / "meta_X.json.gz"
    for path, rows in zip(files, (lines, meta_lines), strict=True):
        path.write_bytes(gzip.compress("\n".join([*rows, ""]).encode()))
    return files


def test_amazon_files(tmp_path):
    reviews = [("A1", "B1", 1390435200), ("A2", "B2", 1390435200.0), ("A1", "B3", 5)]
    meta = [
        "{'asin': 'B1', 'title': 'It\\'s &amp; \"fine\" \\&', 'brand': 'Q', 'categories': [['S', 'T'], ['U']]}",
        "{'asin': 'NOT-NEEDED', 'title': broken",
        "{'title': \"B2's\", 'asin': 'B2'}",
        "{'asin': 'B1', 'title': 'second line of B1'}",
    ]
    raw = read_amazon(*write_amazon(tmp_path, reviews, meta))
    assert events(raw) == [(u, i, float(t)) for u, i, t in reviews]
    rows = {row["item"]: row for row in raw.items.rows(named=True)}
    assert rows["B1"] == {
        "item": "B1",
        "title": 'It\'s &amp; "fine" \\&',
        "brand": "Q",
        "category": "S > T",
    }
    assert rows["B2"]["title"] == "B2's"
    assert set(rows) == {"B1", "B2"}
    assert not raw.complete_items


def test_metadata_lines_are_never_evaluated(tmp_path):
    marker = tmp_path / "evaluated"
    line = f"{{'asin': 'B1', 'title': open({str(marker)!r}, 'w').write('x')}}"
    path = tmp_path / "meta.json"
    path.write_text(line + "\n")
    with pytest.raises(DataError, match=r"line 1.*Python literal"):
        read_meta(path, LineErrors(str(path)), {"B1"})
    assert not marker.exists()


def test_half_a_character_in_a_title_is_replaced(tmp_path):
    files = write_amazon(tmp_path, [("A", "B", 1)], ["{'asin': 'B', 'title': 'x\\ud800'}"])
    assert read_amazon(*files).items["title"].to_list() == ["x?"]


ML_100K = {
    "u.data": b"196\t242\t3\t881250949\n186\t302\t3\t891717742\n",
    "u.item": (
        "242|Misérables, Les (1995)|01-Jan-1995||http://x|"
        + "|".join("0" * 5 + "1" + "0" * 13)
        + "\n"
        "302|L.A. (1997)|01-Jan-1997||http://y|"
        + "|".join("0" * 6 + "1" + "0" * 9 + "1" + "00")
        + "\n"
    ).encode("latin-1"),
}
ML_1M = {
    "ratings.dat": b"196::242::3::881250949\n186::302::3::891717742\n",
    "movies.dat": "242::Misérables, Les (1995)::Comedy\n302::L.A. (1997)::Crime|Thriller\n".encode(
        "latin-1"
    ),
    "users.dat": b"196::F::1::10::48067\n",
}
ML_10M = {
    "ratings.dat": b"196::242::3.5::881250949\n186::302::3::891717742\n",
    "movies.dat": "242::Misérables, Les (1995)::Comedy\n302::L.A. (1997)::Crime|Thriller\n".encode(),
}
ML_20M = {
    "ratings.csv": b"userId,movieId,rating,timestamp\r\n196,242,3.5,881250949\r\n186,302,3.0,891717742\r\n",
    "movies.csv": (
        'movieId,title,genres\r\n242,"Misérables, Les (1995)",Comedy\r\n302,L.A. (1997),Crime|Thriller\r\n'
    ).encode(),
}


@pytest.mark.parametrize("packed", ["folder", "zip", "zip without a folder"])
@pytest.mark.parametrize(
    "files", [ML_100K, ML_1M, ML_10M, ML_20M], ids=["100k", "1m", "10m", "20m"]
)
def test_every_movielens_release_reads_the_same(tmp_path, files, packed):
    if packed == "folder":
        place = tmp_path / "ml"
        place.mkdir()
        for name, data in files.items():
            (place / name).write_bytes(data)
    else:
        place = tmp_path / "ml.zip"
        with zipfile.ZipFile(place, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in files.items():
                archive.writestr(("ml-x/" if packed == "zip" else "") + name, data)
            archive.writestr("__MACOSX/ml-x/ratings.csv", b"junk")
    before = sorted(tmp_path.rglob("*"))
    raw = read_movielens(place)
    assert events(raw) == [("196", "242", 881250949.0), ("186", "302", 891717742.0)]
    assert raw.items.rows() == [
        ("242", "Misérables, Les (1995)", "Comedy"),
        ("302", "L.A. (1997)", "Crime Thriller"),
    ]
    assert sorted(tmp_path.rglob("*")) == before  # nothing is extracted


def test_no_genres_listed_is_an_empty_category(tmp_path):
    (tmp_path / "ratings.csv").write_bytes(ML_20M["ratings.csv"])
    (tmp_path / "movies.csv").write_text(
        "movieId,title,genres\n242,A,(no genres listed)\n302,B,War\n242,A again,War\n"
    )
    raw = read_movielens(tmp_path, on_error="skip")
    assert raw.items["category"].to_list() == ["", "War"]
    assert raw.skipped["movies.csv"] == 1


MAPPING = ColumnMapping(user="who", item="what", time="when", title="name", item_id="id", brand="b")


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".txt", ".csv.gz", ".tsv.gz", ".parquet"])
def test_tables_with_a_column_mapping(tmp_path, ending):
    inter = pl.DataFrame({"extra": [1, 2], "when": [5.5, 4.0], "what": [7, 8], "who": ["u", "v"]})
    items = pl.DataFrame({"id": [7, 8], "name": ["Plain", None], "b": ["B1", "B2"]})
    paths = tmp_path / f"inter{ending}", tmp_path / f"items{ending}"
    for path, frame in zip(paths, (inter, items), strict=True):
        if ending == ".parquet":
            frame.write_parquet(path)
            continue
        text = frame.write_csv(separator="," if "csv" in ending else "\t").encode()
        path.write_bytes(gzip.compress(text) if ending.endswith("gz") else text)
    raw = read_tabular(*paths, mapping=MAPPING)
    assert events(raw) == [("u", "7", 5.5), ("v", "8", 4.0)]
    assert raw.items.rows(named=True) == [
        {"item": "7", "title": "Plain", "brand": "B1"},
        {"item": "8", "title": "", "brand": "B2"},
    ]


def test_quoted_csv_fields_may_hold_separators_quotes_and_line_ends(tmp_path):
    inter, items = tmp_path / "i.csv", tmp_path / "t.csv"
    inter.write_text("user_id,item_id,timestamp\nu,i,1\n")
    items.write_text(
        '\ufeffitem_id,title\ni,"A ""quoted"", title\nin two lines"\n', encoding="utf-8"
    )
    raw = read_tabular(inter, items)
    assert raw.items["title"].to_list() == ['A "quoted", title\nin two lines']


def test_quoted_and_plain_csv_agree(tmp_path):
    rows = "".join(f"u{i % 3},i{i % 5},{i}\n" for i in range(40))
    plain, quoted = tmp_path / "p.csv", tmp_path / "q.csv"
    plain.write_text("user_id,item_id,timestamp\n" + rows)
    quoted.write_text('user_id,item_id,timestamp\n"u9",i9,99\n' + rows)
    assert events(read_tabular(quoted))[1:] == events(read_tabular(plain))


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2001-01-02", 978393600.0),
        ("2001-01-02 03:04:05", 978404645.0),
        ("2001-01-02T03:04:05.250000Z", 978404645.25),
        ("2001-01-02T03:04:05+02:00", 978397445.0),
        ("978404645", 978404645.0),
        ("20010102", 20010102.0),
    ],
)
def test_times_are_numbers_or_dates_of_iso_8601(tmp_path, text, seconds):
    path = tmp_path / "events.csv"
    path.write_text(f"user_id,item_id,timestamp\nu,i,{text}\nu,j, {text} \n")
    assert read_tabular(path).events["time"].to_list() == [seconds, seconds]


@pytest.mark.parametrize("texts", [("2001-01-02", "978404645"), ("1", "2001-01-02"), ("now", "1")])
def test_times_of_two_kinds_are_malformed(tmp_path, texts):
    path = tmp_path / "events.csv"
    rows = "".join(f"u,i{at},{text}\n" for at, text in enumerate(texts))
    path.write_text(f"user_id,item_id,timestamp\n{rows}")
    with pytest.raises(DataError, match=r"expected a finite number, or a date like .* as time"):
        read_tabular(path)
    assert read_tabular(path, on_error="skip").events.height == 1


def test_row_order_stands_in_for_a_missing_time(tmp_path):
    path = tmp_path / "i.csv"
    path.write_text("user_id,item_id\nu,b\nu,a\n")
    mapping = ColumnMapping.from_pairs({"time": "row"})
    assert [item for _, item, _ in events(read_tabular(path, mapping=mapping))] == ["b", "a"]
    times = read_tabular(path, mapping=mapping).events["time"].to_list()
    assert times == sorted(times)


def test_parquet_dates_become_unix_seconds(tmp_path):
    path = tmp_path / "i.parquet"
    when = [datetime.datetime(2001, 1, 2, 3, 4, 5, 500000)]  # noqa: DTZ001 - naive means UTC here
    pl.DataFrame({"user_id": ["u"], "item_id": ["i"], "timestamp": when}).write_parquet(path)
    seconds = when[0].replace(tzinfo=datetime.UTC).timestamp()
    assert events(read_tabular(path)) == [("u", "i", seconds)]


def test_latin_1_tables_need_their_encoding(tmp_path):
    path = tmp_path / "i.csv"
    path.write_bytes("user_id,item_id,timestamp\nJosé,i,1\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"line 2: byte 0xe9 is not utf-8.*--encoding"):
        read_tabular(path)
    assert events(read_tabular(path, options=TableOptions(Dialect(encoding="latin-1")))) == [
        ("José", "i", 1.0)
    ]
    with pytest.raises(ConfigError, match="unknown encoding"):
        read_tabular(path, options=TableOptions(Dialect(encoding="no-such")))
