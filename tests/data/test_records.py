"""Lines of records: each line says itself whether it is JSON or a Python dictionary."""

from __future__ import annotations

import gzip
import json

import pytest

from bench.data.raw import LineErrors
from bench.data.readers.amazon import read_amazon
from bench.data.readers.records import Fields, read_records
from bench.data.readers.tabular import ColumnMapping, TableOptions, read_tabular
from bench.data.readers.where import parse_condition
from bench.errors import DataError


def put(folder, name, *lines):
    path = folder / name
    text = "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines)
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return path


REVIEWS = [
    {"reviewerID": f"A{u}", "asin": f"B{i}", "unixReviewTime": u + i}
    for u in range(2)
    for i in range(3)
]
META_2018 = [
    '{"category": ["Cards", "A &amp; B"], "title": "12\\" steel \\ud83d\\udd25 \\u00e9", "brand": "Acme\\/Co", "asin": "B0"}',
    '{"category": [], "title": "it\'s", "brand": null, "price": null, "new": true, "asin": "B1"}',
    '{"category": [], "title": null, "asin": "B2"}',
    '{"title": "listed again", "asin": "B0"}',
]  # fmt: skip


@pytest.mark.parametrize("reader", [read_amazon, read_tabular])
def test_metadata_of_2018_is_strict_json(tmp_path, reader):
    files = put(tmp_path, "r.json.gz", *REVIEWS), put(tmp_path, "m.json.gz", *META_2018)
    raw = reader(*files)
    assert raw.events.height == 6
    rows = {row["item"]: row for row in raw.items.rows(named=True)}
    assert rows["B0"]["title"] == json.loads(META_2018[0])["title"] == '12" steel \N{FIRE} \xe9'
    assert rows["B0"]["category"] == "Cards > A &amp; B"
    assert (rows["B0"]["brand"], rows["B1"]["brand"]) == ("Acme/Co", "")
    assert (rows["B1"]["title"], rows["B2"]["title"]) == ("it's", "")
    assert len(rows) == 3


def test_a_json_line_is_never_read_as_python(tmp_path):
    # As a Python literal this line would keep the backslashes of "\/" and drop half of the escape.
    path = put(
        tmp_path,
        "x.json",
        '{"item": "i", "title": "a\\/b \\ud83d\\udd25"}',
        '{"item": "j", "title": True}',
    )
    errors = LineErrors(str(path), "skip")
    frame = read_records(path, Fields({"item": "item", "title": "title"}), errors)
    assert frame.rows() == [(1, "i", "a/b \N{FIRE}")]
    assert errors.count == 1


def test_python_dictionaries_of_reviews_are_read_but_not_evaluated(tmp_path):
    rows = [
        "{u'username': u'ann', u'product_id': u'70', u'date': u'2017-12-25', u'text': u'it\\'s \"ok\"'}",
        "{'username': 'bob', 'product_id': '71', 'date': '2017-12-26', 'early': False}",
        "{'username': str(1), 'product_id': '71', 'date': '2017-12-26'}",
    ]
    games = [
        "{u'id': u'70', u'app_name': u'Seventy', u'genres': [u'Action']}",
        "{u'id': u'71', u'app_name': None}",
    ]
    raw = read_tabular(
        put(tmp_path, "r.json.gz", *rows), put(tmp_path, "g.json", *games), on_error="skip"
    )
    assert raw.events.rows() == [("ann", "70", 1514160000.0), ("bob", "71", 1514246400.0)]
    assert raw.items.select("item", "title").rows() == [("70", "Seventy"), ("71", "")]
    assert raw.skipped == {"r.json.gz": 1, "g.json": 0}
    assert [note.partition(":")[0] for note in raw.notes] == [
        "read as Steam reviews",
        "read as Steam games",
    ]


def test_keys_are_mapped_and_conditions_compare_any_value(tmp_path):
    rows = [
        {"who": 5, "what": "a", "at": "2020-01-01", "stars": 4.5, "real": True},
        {"who": 5, "what": "b", "at": "2020-01-02", "stars": 5, "real": False},
        {"who": "x", "what": "c", "at": 3, "stars": None, "real": True},
        {"who": "x", "what": "d", "at": "2020-01-03", "stars": 5, "real": True},
    ]
    mapping = ColumnMapping(user="who", item="what", time="at")
    options = TableOptions(where=[parse_condition("stars >= 4"), parse_condition("real == true")])
    raw = read_tabular(put(tmp_path, "e.jsonl", *rows), mapping=mapping, options=options)
    assert [(user, item) for user, item, _ in raw.events.rows()] == [("5", "a"), ("x", "d")]
    assert raw.left_out == 2
    with pytest.raises(DataError, match=r"no column 'whom' \(mapped to user\).*Did you mean 'who'"):
        read_tabular(
            put(tmp_path, "e.jsonl", *rows),
            mapping=ColumnMapping(user="whom", item="what", time="at"),
        )


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (['[{"user_id": 1}]'], r"line 1: found .*expected one JSON object.*one object per line \(jq -c"),
        (["{", '"user_id": 1', "}"], r"line 1: found '{'.*one object per line \(jq -c"),
        (["", ""], "no records found"),
        ([{"user_id": "u", "item_id": "i", "timestamp": 1}, {"user_id": "u", "item_id": ["i"], "timestamp": 1}], r"line 2: found \['i'\] under the key 'item_id'"),
        ([{"user_id": "u", "item_id": "i", "timestamp": 1}, {"user_id": "u", "item_id": "i"}], r"line 2: found None under the key 'timestamp'; expected a time"),
    ],
)  # fmt: skip
def test_what_is_no_record_is_named(tmp_path, lines, message):
    with pytest.raises(DataError, match=message):
        read_tabular(put(tmp_path, "e.json", *lines))
