"""Malformed inputs of the data room, one table: each is an error that says where and what to do.

Every case writes its files below a folder of its own, calls one reader or loader, and names the
error class and the fragments that the message must hold: the place, and the way out.
"""

from __future__ import annotations

import gzip
import io
import json
import re
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from bench.data.imports import import_domain, verify
from bench.data.load import load_domain
from bench.data.readers.amazon import read_amazon
from bench.data.readers.atomic import read_atomic
from bench.data.readers.delimited import Dialect
from bench.data.readers.movielens import read_movielens
from bench.data.readers.tabular import ColumnMapping, TableOptions, read_tabular
from bench.errors import BenchError, ConfigError, DataError, ResultError

HEAD = "user_id:token\titem_id:token\ttimestamp:float\n"
ROW = "u\ti\t1\n"
ITEMS = "item_id:token\ttitle:token_seq\n"
CSV = "user_id,item_id,timestamp\n"
REVIEW = json.dumps({"reviewerID": "u", "asin": "i", "unixReviewTime": 1}) + "\n"
PNG = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"
Case = tuple[str, Callable[[Path], object], type[BenchError], list[str]]


def put(path: Path, data: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def inter(data, name="d.inter"):
    return lambda folder: read_atomic(put(folder / name, data))


def item(data, rows=ROW):
    return lambda folder: read_atomic(
        put(folder / "d.inter", HEAD + rows), put(folder / "d.item", data)
    )


def domain(rows, items=None, name="toy", **options):
    def run(folder):
        put(folder / name / f"{name}.inter", HEAD + rows)
        if items is not None:
            put(folder / name / f"{name}.item", items)
        return load_domain(name, data_root=folder, **options)

    return run


def reviews(data, name="reviews_X_5.json.gz"):
    packed = data if isinstance(data, bytes) else gzip.compress(data.encode())
    return lambda folder: read_amazon(put(folder / name, packed))


def meta(data):
    def run(folder):
        first = put(folder / "reviews_X_5.json.gz", gzip.compress(REVIEW.encode()))
        packed = gzip.compress(data if isinstance(data, bytes) else data.encode())
        return read_amazon(first, put(folder / "meta_X.json.gz", packed))

    return run


def movies(**files):
    def run(folder):
        folder.mkdir(exist_ok=True)
        for name, data in files.items():
            put(folder / name.replace("_", "."), data)
        return read_movielens(folder)

    return run


def archive(members):
    def run(folder):
        with zipfile.ZipFile(folder / "ml.zip", "w") as packed:
            for name, data in members:
                packed.writestr(name, data)
        return read_movielens(folder / "ml.zip")

    return run


def broken_member(folder):
    path = folder / "ml.zip"
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr("ml/ratings.dat", "1::1::5::1\n" * 50)
        packed.writestr("ml/movies.dat", "1::A::B\n")
    data = path.read_bytes()
    path.write_bytes(data.replace(b"1::1::5::1\n1::1", b"1::2::5::1\n1::1", 1))
    return read_movielens(path)


def encrypted_member(folder):
    path = folder / "ml.zip"
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr("ml/ratings.dat", "1::1::5::1\n")
        packed.writestr("ml/movies.dat", "1::A::B\n")
    data = bytearray(path.read_bytes())
    for signature, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        for found in re.finditer(re.escape(signature), bytes(data)):
            struct.pack_into("<H", data, found.start() + flags, 1)
    path.write_bytes(bytes(data))
    return read_movielens(path)


def table(data, name="d.csv", **options):
    return lambda folder: read_tabular(put(folder / name, data), **options)


def item_table(data):
    return lambda folder: read_tabular(
        put(folder / "i.csv", CSV + "u,i,1\n"), put(folder / "t.csv", data)
    )


def parquet(columns):
    def run(folder):
        pl.DataFrame(columns).write_parquet(folder / "d.parquet")
        return read_tabular(folder / "d.parquet")

    return run


def imported(data, name="mine", **options):
    return lambda folder: import_domain(name, put(folder / "i.csv", data), **options)


def damaged_import(text, check=load_domain):
    def run(folder):
        import_domain("mine", put(folder / "i.csv", CSV + "u,i,1\n"))
        put(folder / "cache" / "domains" / "mine" / "import.json", text)
        return check("mine")

    return run


def truncated(text):
    return gzip.compress(text.encode() * 500)[:-20]


def zipped(*members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as packed:
        for member in members:
            packed.writestr(member, CSV)
    return buffer.getvalue()


LITERAL = "one Python literal of a dictionary"
# fmt: off
CASES: list[Case] = [
    # RecBole atomic files
    ("atomic: no such file", lambda f: read_atomic(f / "x.inter"), DataError, ["x.inter", "check the path"]),
    ("atomic: a folder", lambda f: read_atomic(f), DataError, ["cannot be read"]),
    ("atomic: empty file", inter(""), DataError, ["d.inter", "empty", "user_id:token"]),
    ("atomic: blank header", inter("\n" + ROW), DataError, ["line 1", "header is empty"]),
    ("atomic: header only", inter(HEAD), DataError, ["d.inter", "no interactions", "complete"]),
    ("atomic: no types", inter("user_id\titem_id\ttimestamp\n"), DataError, ["line 1", "'user_id'", "NAME:TYPE", "bench data import"]),
    ("atomic: unknown type", inter(HEAD.replace(":float", ":date") + ROW), DataError, ["line 1", "'timestamp:date'"]),
    ("atomic: time is a token", inter(HEAD.replace(":float", ":token") + ROW), DataError, ["line 1", "'timestamp'", "Correct the header"]),
    ("atomic: user is a float", inter(HEAD.replace("user_id:token", "user_id:float") + ROW), DataError, ["line 1", "'user_id'", "'float'"]),
    ("atomic: no time column", inter("user_id:token\titem_id:token\nu\ti\n"), DataError, ["line 1", "'timestamp'", "column mapping"]),
    ("atomic: column twice", inter(HEAD.strip() + "\titem_id:token\n"), DataError, ["line 1", "occurs twice", "Rename"]),
    ("atomic: comma-separated", inter(HEAD.replace("\t", ",")), DataError, ["line 1", "separated by tabs"]),
    ("atomic: short line", inter(HEAD + ROW + "u\ti\n"), DataError, ["d.inter, line 3", "3 fields", "not 2", "--on-error skip"]),
    ("atomic: long line", inter(HEAD + ROW + ROW + "u\ti\t1\tx\n"), DataError, ["line 4", "not 4"]),
    ("atomic: time is a word", inter(HEAD + ROW + "u\tj\tyesterday\n"), DataError, ["line 3", "'yesterday'", "finite number"]),
    ("atomic: time is NaN", inter(HEAD + "u\tj\tnan\n"), DataError, ["line 2", "'nan'", "finite number"]),
    ("atomic: time is infinite", inter(HEAD + ROW * 3 + "u\tj\t1e999\n"), DataError, ["line 5", "1e999"]),
    ("atomic: no time", inter(HEAD + "u\tj\t\n"), DataError, ["line 2", "finite number"]),
    ("atomic: no user", inter(HEAD + "\tj\t1\n"), DataError, ["line 2", "non-empty user id"]),
    ("atomic: blank item", inter(HEAD + "u\t \t1\n"), DataError, ["line 2", "non-empty item id"]),
    ("atomic: binary", inter(PNG), DataError, ["d.inter, line 1", "0x89", "Convert"]),
    ("atomic: NUL byte", inter(HEAD + ROW + "u\tj\x00\t2\n"), DataError, ["d.inter, line 3", "NUL", "right file"]),
    ("atomic: random bytes", inter(HEAD.encode() + b"u\t\xff\xfe\t1\n"), DataError, ["line 2", "0xff", "utf-8"]),
    ("atomic: Latin-1", inter(HEAD.encode() + "Jos\u00e9\ti\t1\n".encode("latin-1")), DataError, ["line 2", "0xe9", "--encoding"]),
    ("atomic: truncated gzip", inter(truncated(HEAD), "d.inter.gz"), DataError, ["d.inter.gz", "truncated", "again"]),
    ("atomic: gzip by name only", inter(HEAD + ROW, "d.inter.gz"), DataError, ["d.inter.gz", "gzip"]),
    ("atomic: gzip without ending", inter(gzip.compress(np.random.default_rng(0).bytes(400))), DataError, ["d.inter, line"]),
    ("item file: empty", item(""), DataError, ["d.item", "empty"]),
    ("item file: header only", item(ITEMS), DataError, ["d.item", "no items", "one line per item"]),
    ("item file: no id column", item("title:token_seq\nT\n"), DataError, ["d.item, line 1", "'item_id'"]),
    ("item file: title is a float", item("item_id:token\ttitle:float\ni\t1\n"), DataError, ["d.item, line 1", "'title'"]),
    ("item file: two rows of one item", item(ITEMS + "i\tA\nj\tB\ni\tC\n"), DataError, ["d.item, line 4", "'i'", "one row per item"]),
    ("item file: no id", item(ITEMS + "\tA\n"), DataError, ["d.item, line 2", "non-empty item id"]),
    ("item file: tab in a title", item(ITEMS + "i\tA\tB\n"), DataError, ["d.item, line 2", "2 fields"]),
    ("domain: item without a row", domain(ROW + "u\tj\t2\n", ITEMS + "i\tI\n"), DataError, ["'j'", "toy.item", "--on-error skip"]),
    ("domain: nothing after 5-core", domain(ROW, name="amazon-beauty"), DataError, ["amazon-beauty", "5-core", "--k-core"]),
    ("domain: unknown tie rule", domain(ROW, ties="random"), ConfigError, ["'random'", "--ties"]),
    ("domain: unknown error rule", domain(ROW, on_error="warn"), ConfigError, ["'warn'", "'skip'"]),
    ("domain: name is a path", lambda f: load_domain("../x", data_root=f), ConfigError, ["'../x'", "another name"]),
    ("domain: no such root", lambda f: load_domain("x", data_root=f / "no"), ConfigError, ["--data-root", "correct the path"]),
    # Amazon 2014
    ("reviews: empty", reviews(""), DataError, ["reviews_X_5.json.gz", "no interactions"]),
    ("reviews: cut line", reviews(REVIEW + REVIEW[:-9] + "\n"), DataError, ["line 2", "one JSON object", "--on-error skip"]),
    ("reviews: Python literal", reviews("{'reviewerID': 'u'}\n"), DataError, ["line 1", "one JSON object"]),
    ("reviews: NaN is not JSON", reviews(REVIEW.replace("1}", "NaN}")), DataError, ["line 1", "one JSON object"]),
    ("reviews: a list", reviews("[1]\n"), DataError, ["line 1", "one JSON object"]),
    ("reviews: two objects", reviews(REVIEW.strip() + REVIEW), DataError, ["line 1", "one JSON object"]),
    ("reviews: nested too deep", reviews("[" * 100_000 + "\n"), DataError, ["line 1", "one JSON object"]),
    ("reviews: no user", reviews('{"asin": "i", "unixReviewTime": 1}\n'), DataError, ["line 1", "'reviewerID'"]),
    ("reviews: id is a number", reviews(REVIEW.replace('"i"', "7")), DataError, ["line 1", "'asin'"]),
    ("reviews: half a character", reviews(REVIEW.replace('"i"', '"\\ud800"')), DataError, ["line 1", "'asin'"]),
    ("reviews: time is a text", reviews(REVIEW.replace("1}", '"1"}')), DataError, ["line 1", "'unixReviewTime'"]),
    ("reviews: time is true", reviews(REVIEW.replace("1}", "true}")), DataError, ["line 1", "'unixReviewTime'"]),
    ("reviews: infinite time", reviews(REVIEW.replace("1}", "1e999}")), DataError, ["line 1", "finite number"]),
    ("reviews: truncated gzip", reviews(truncated(REVIEW)), DataError, ["truncated", "download it again"]),
    ("meta: a call", meta("{'asin': 'i', 'title': print('x')}\n"), DataError, ["meta_X.json.gz, line 1", LITERAL, "no expressions"]),
    ("meta: a comprehension", meta("{'asin': 'i', 'title': [c for c in 'x']}\n"), DataError, ["line 1", LITERAL]),
    ("meta: cut line", meta("{'asin': 'i', 'title': 'x\n"), DataError, ["line 1", LITERAL]),
    ("meta: no id", meta("{'title': 'x'}\n"), DataError, ["line 1", "'asin'"]),
    ("meta: a list", meta("['asin']\n"), DataError, ["line 1", LITERAL]),
    ("meta: title is a number", meta("{'asin': 'i', 'title': 5}\n"), DataError, ["line 1", "'title'"]),
    ("meta: nested too deep", meta("{'asin': 'i', 'x': " + "[" * 5000 + "\n"), DataError, ["line 1", LITERAL]),
    ("meta: unhashable key", meta("{'asin': 'i', []: 1}\n"), DataError, ["line 1", LITERAL]),
    ("meta: not UTF-8", meta(b"{'asin': 'i', 'title': '\xe9'}\n"), DataError, ["line 1", "0xe9"]),
    # MovieLens
    ("movielens: empty folder", movies(), DataError, ["no MovieLens ratings", "u.data"]),
    ("movielens: no movies", movies(ratings_dat="1::1::5::1\n"), DataError, ["movies.dat is missing", "again"]),
    ("movielens: neither", lambda f: read_movielens(f / "no.zip"), DataError, ["no.zip", "check the path"]),
    ("movielens: not a zip", lambda f: read_movielens(put(f / "ml.zip", b"junk")), DataError, ["ml.zip", "zip file", "again"]),
    ("movielens: zip without members", archive([]), DataError, ["ml.zip", "no MovieLens ratings"]),
    ("movielens: zip-slip", archive([("../ratings.dat", "x")]), DataError, ["'../ratings.dat'", "outside the archive", "official"]),
    ("movielens: absolute member", archive([("/etc/ratings.dat", "x")]), DataError, ["outside the archive"]),
    ("movielens: backslash zip-slip", archive([("..\\ratings.dat", "x")]), DataError, ["outside the archive"]),
    ("movielens: two data sets", archive([("a/u.data", ""), ("b/u.data", "")]), DataError, ["u.data occurs twice", "Unpack"]),
    ("movielens: damaged member", broken_member, DataError, ["ml.zip!ml/ratings.dat", "again"]),
    ("movielens: encrypted member", encrypted_member, DataError, ["ml.zip!ml/ratings.dat", "encrypted"]),
    ("movielens: 1M as tabs", movies(ratings_dat="1\t1\t5\t1\n", movies_dat="1::A::B\n"), DataError, ["ratings.dat, line 1", "'::'"]),
    ("movielens: single colons", movies(ratings_dat="1::1::5::1\n2:1:5:1\n", movies_dat="1::A::B\n"), DataError, ["line 2", "4 fields"]),
    ("movielens: no header", movies(ratings_csv="1,1,5,1\n", movies_csv="movieId,title,genres\n"), DataError, ["ratings.csv, line 1", "userId,movieId", "bench data import"]),
    ("movielens: movie twice", movies(ratings_dat="1::1::5::1\n", movies_dat="1::A::B\n1::A::B\n"), DataError, ["movies.dat, line 2", "one row per movie"]),
    ("movielens: movie fields", movies(u_data="1\t1\t5\t1\n", u_item="1|A\n"), DataError, ["u.item, line 1", "24 fields"]),
    ("movielens: open quote", movies(ratings_csv="userId,movieId,rating,timestamp\n1,1,5,1\n", movies_csv='movieId,title,genres\n1,"A,B\n'), DataError, ["movies.csv, line 2", "quotation marks"]),
    ("movielens: unquoted comma", movies(ratings_csv="userId,movieId,rating,timestamp\n1,1,5,1\n", movies_csv="movieId,title,genres\n1,A, The,B\n"), DataError, ["movies.csv, line 2", "3 fields"]),
    ("movielens: 20M in Latin-1", movies(ratings_csv="userId,movieId,rating,timestamp\n1,1,5,1\n", movies_csv="movieId,title,genres\n1,\u00e9,B\n".encode("latin-1")), DataError, ["movies.csv, line 2", "0xe9"]),
    # CSV, TSV, Parquet and mappings
    ("table: unsupported ending", table(CSV, "d.xlsx"), DataError, ["d.xlsx", "'.xlsx'", ".parquet", "convert"]),
    ("table: empty", table(""), DataError, ["d.csv", "empty", "header"]),
    ("table: header only", table(CSV), DataError, ["d.csv", "no interactions"]),
    ("table: missing column", table("user_id,item,timestamp\nu,i,1\n"), DataError, ["line 1", "'item_id'", "Did you mean 'item'", "--column item="]),
    ("table: column twice", table("user_id,item_id,item_id,timestamp\n"), DataError, ["line 1", "occurs twice"]),
    ("table: quoted column twice", table('user_id,"item_id",item_id,timestamp\n'), DataError, ["line 1", "occurs twice"]),
    ("table: short line", table(CSV + "u,i,1\nu,i\n"), DataError, ["d.csv, line 3", "3 fields"]),
    ("table: short quoted line", table(CSV + '"u",i,1\nu,i\n'), DataError, ["d.csv, line 3", "3 fields"]),
    ("table: open quote", table(CSV + '"u,i,1\nu,i,2\n'), DataError, ["d.csv, line", "quotation marks", "Repair"]),
    ("table: text after a quote", table(CSV + '"u"x,i,1\n'), DataError, ["d.csv, line 2", "quotation marks"]),
    ("table: date of no standard", table(CSV + "u,i,23/01/2014\n"), DataError, ["line 2", "'23/01/2014'", "finite number", "2023-09-15T"]),
    ("table: tab in an id", table(CSV + "u\tx,i,1\n"), DataError, ["line 2", "without tabs"]),
    ("table: binary", table(PNG), DataError, ["d.csv, line 1", "0x89"]),
    ("table: UTF-16", table((CSV + "u,i,1\n").encode("utf-16")), DataError, ["d.csv, line 1"]),
    ("table: unknown encoding", table(CSV, options=TableOptions(Dialect(encoding="utf-99"))), ConfigError, ["'utf-99'", "try utf-8"]),
    ("item table: no title column", item_table("item_id,name\ni,N\n"), DataError, ["t.csv, line 1", "'title'", "--column title="]),
    ("item table: item twice", item_table("item_id,title\ni,A\ni,B\n"), DataError, ["t.csv, line 3", "one row per item"]),
    ("item table: no id", item_table("item_id,title\n,A\n"), DataError, ["t.csv, line 2", "non-empty item id"]),
    ("parquet: not Parquet", table("junk", "d.parquet"), DataError, ["d.parquet", "not a readable Parquet", "convert"]),
    ("parquet: missing column", parquet({"user_id": ["u"], "timestamp": [1]}), DataError, ["d.parquet", "'item_id'", "--column"]),
    ("parquet: float ids", parquet({"user_id": [1.5], "item_id": ["i"], "timestamp": [1]}), DataError, ["'user_id'", "Float64", "Cast"]),
    ("parquet: time is a word", parquet({"user_id": ["u"], "item_id": ["i"], "timestamp": ["soon"]}), DataError, ["line 1", "'soon'", "finite number"]),
    ("parquet: time is a list", parquet({"user_id": ["u"], "item_id": ["i"], "timestamp": [[1]]}), DataError, ["'timestamp'", "List", "Cast"]),
    ("parquet: time is null", parquet({"user_id": ["u", "u"], "item_id": ["i", "j"], "timestamp": [1, None]}), DataError, ["line 2", "finite number"]),
    ("parquet: user is null", parquet({"user_id": ["u", None], "item_id": ["i", "j"], "timestamp": [1, 2]}), DataError, ["line 2", "non-empty user id"]),
    ("records: no object", table('{"user_id": "u"', "d.jsonl"), DataError, ["d.jsonl, line 1", "one JSON object"]),
    ("records: missing keys", table('{"user": "u", "item": "i"}\n', "d.jsonl"), DataError, ["'user_id'", "'item_id'", "'timestamp'", "--column user=user", "--column time=row"]),
    ("records: truncated gzip", table(truncated('{"user_id": "u", "item_id": "i", "timestamp": 1}\n'), "d.jsonl.gz"), DataError, ["d.jsonl.gz", "truncated", "again"]),
    ("table: data as header", table("u,i,1\nu,j,2\n"), DataError, ["line 1", "looks like data", "--no-header"]),
    ("table: zip of two files", table(zipped("a.csv", "b.csv"), "d.csv.zip"), DataError, ["holds 2 files", "a.csv", "Unpack"]),
    ("table: zip of nothing", table(zipped(), "d.csv.zip"), DataError, ["holds 0 files"]),
    ("table: folder without files", lambda f: read_tabular(f), DataError, ["folder without files"]),
    ("mapping: unknown field", lambda f: ColumnMapping.from_pairs({"usr": "u"}), ConfigError, ["'usr'", "Did you mean 'user'"]),
    ("mapping: no column", lambda f: ColumnMapping.from_pairs({"user": ""}), ConfigError, ["user", "user=COLUMN"]),
    # imports
    ("import: catalogue name", imported(CSV, "ml-1m"), ConfigError, ["'ml-1m'", "another name"]),
    ("import: name with a blank", imported(CSV, "my data"), ConfigError, ["'my data'", "letters"]),
    ("import: k of zero", imported(CSV + "u,i,1\n", k_core=0), ConfigError, ["k_core is 0"]),
    ("import: nothing after k-core", imported(CSV + "u,i,1\n", k_core=2), DataError, ["mine", "2-core", "--k-core"]),
    ("import: damaged record", damaged_import("{}"), DataError, ["import.json", "damaged", "again"]),
    ("import: record is no JSON", damaged_import("{"), DataError, ["import.json", "Import mine again"]),
    ("import: record without files", damaged_import('{"options": {"k_core": null, "namespace": null, "group": null}, "sources": [], "lines_skipped": {}}', verify), ResultError, ["import.json", "again"]),
]
# fmt: on


@pytest.mark.parametrize(
    ("run", "error", "fragments"), [c[1:] for c in CASES], ids=[c[0] for c in CASES]
)
def test_malformed_input(run, error, fragments, tmp_path, monkeypatch):
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("BENCH_DATA_ROOT", raising=False)
    with pytest.raises(error) as caught:
        run(tmp_path)
    message = str(caught.value)
    assert type(caught.value) is error
    for fragment in fragments:
        assert fragment in message
    assert len(message) < 900  # a bad line is quoted, not dumped


def test_the_table_is_long_enough_and_its_names_are_distinct():
    names = [case[0] for case in CASES]
    assert len(names) >= 40
    assert len(set(names)) == len(names)
