"""Delimited text: the quoting rule, separators, encodings, and that every bad row is one bad row."""

from __future__ import annotations

import csv
import gzip
import io
import zipfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.data.raw import LineErrors
from bench.data.readers import lines as lines_module
from bench.data.readers.delimited import Columns, Dialect, read_delimited
from bench.data.readers.tabular import TableOptions, read_tabular
from bench.errors import ConfigError, DataError

HEAD = "user_id,item_id,note,timestamp\n"


def put(folder, name, text, encoding="utf-8"):
    path = folder / name
    path.write_bytes(text.encode(encoding) if isinstance(text, str) else text)
    return path


def options(**dialect):
    return TableOptions(Dialect(**dialect))


def read_all(text, n, dialect=None, on_error="raise", name="f.csv"):
    errors = LineErrors(name, on_error)
    choose = lambda *_: Columns([(str(at), at) for at in range(n)], n, header=True)  # noqa: E731
    frame = read_delimited(io.BytesIO(text.encode()), dialect or Dialect(), choose, errors)
    return frame.rows(), errors.count


CELL = st.text(alphabet='ab,"\n; é', max_size=8)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(CELL, CELL, CELL), max_size=12), st.integers(5, 40))
def test_what_the_csv_module_writes_is_read_back_in_blocks_of_any_size(rows, block):
    rows = [row for row in rows if any(row)]
    buffer = io.StringIO(newline="")
    csv.writer(buffer, lineterminator="\n", quoting=csv.QUOTE_ALL).writerows(
        [("x", "y", "z"), *rows]
    )
    with pytest.MonkeyPatch.context() as small:
        small.setattr(lines_module, "BLOCK_BYTES", block)
        found, skipped = read_all(buffer.getvalue(), 3)
    assert [row[1:] for row in found] == rows
    assert skipped == 0


def test_a_record_is_called_by_the_line_where_it_begins():
    text = 'a,b\n1,"two\nlines"\n3,plain\n4,"again\nand\nagain"\n5,x\n'
    found, _ = read_all(text, 2)
    assert [(row[0], row[1]) for row in found] == [(2, "1"), (4, "3"), (5, "4"), (8, "5")]


@pytest.mark.parametrize("ending", ["tsv", "txt"])
def test_marks_of_tab_separated_files_are_characters(tmp_path, ending):
    head = "user_id\titem_id\ttimestamp\n"
    inter = put(tmp_path, f"e.{ending}", head + 'u\t"a\t1\nu\tb"\t2\nv\t"a\t3\n')
    items = put(tmp_path, f"i.{ending}", 'item_id\ttitle\n"a\t"Up" again\nb"\t12" disc\n')
    raw = read_tabular(inter, items)
    assert raw.events.rows() == [("u", '"a', 1.0), ("u", 'b"', 2.0), ("v", '"a', 3.0)]
    assert raw.items["title"].to_list() == ['"Up" again', '12" disc']


def test_a_quoted_header_says_that_a_tab_separated_file_is_quoted(tmp_path):
    path = put(tmp_path, "e.tsv", '"user_id"\t"item_id"\t"timestamp"\n"u 1"\t"a""b"\t"1"\n')
    assert read_tabular(path).events.rows() == [("u 1", 'a"b', 1.0)]
    asked = read_tabular(
        put(tmp_path, "g.tsv", "user_id\titem_id\ttimestamp\n" + '"u"\ti\t1\n'),
        options=options(quotes="csv"),
    )
    assert asked.events.rows() == [("u", "i", 1.0)]


SWALLOW = [f"u{u},i{i},shoe,{10 * u + i}" for u in range(4) for i in range(4)]


@pytest.mark.parametrize(
    ("cells", "bad"),
    [
        ({3: "u0,i3,\"red shoe,3", 9: 'u2,i1,size 12",21'}, [3]),  # one well-formed field of all rows between
        ({3: "u0,i3,\"red shoe,3", 4: 'u1,i0,size 12",10'}, [3]),  # two rows, none between
        ({3: "u0,i3,\"red shoe,3", 9: 'u2,i1,"blue,21'}, [3, 9]),
        ({5: "u1,i1,\"red shoe,11"}, [5]),  # never closes
        ({5: 'u1,i1,"red" shoe,11'}, [5]),  # goes on after it closed
    ],
)  # fmt: skip
def test_an_open_mark_is_one_bad_line_and_swallows_nothing(tmp_path, cells, bad):
    rows = [cells.get(at, row) for at, row in enumerate(SWALLOW)]
    path = put(tmp_path, "e.csv", HEAD + "\n".join(rows) + "\n")
    with pytest.raises(DataError, match=rf"e\.csv, line {bad[0] + 2}: .*balanced quotation marks"):
        read_tabular(path)
    raw = read_tabular(path, on_error="skip")
    assert raw.skipped == {"e.csv": len(bad)}
    kept = [row.split(",") for at, row in enumerate(rows) if at not in bad]
    assert raw.events.rows() == [(row[0], row[1], float(row[3])) for row in kept]


def test_texts_of_several_lines_are_no_swallowed_rows(tmp_path):
    path = put(
        tmp_path, "e.csv", HEAD + 'u,i,"fine, cheap, good\nand, well, 3\n",7\nu,j,"x\n\ny",8\n'
    )
    assert read_tabular(path).events["time"].to_list() == [7.0, 8.0]


@pytest.mark.parametrize("mark", ['"', ""])
def test_fields_may_be_longer_than_the_csv_modules_limit(tmp_path, mark):
    limit = csv.field_size_limit()
    history = mark + "B00000000 " * 14_000 + mark
    path = put(tmp_path, "e.csv", HEAD + f"u,i,{history},1\nu,j,{mark}{mark},2\n")
    assert read_tabular(path).events["item"].to_list() == ["i", "j"]
    assert csv.field_size_limit() == limit


def test_backslashes_before_marks_are_understood_where_the_row_fits_no_other_way(tmp_path):
    rows = '"u";"i";"1"\n"u";"a \\"b\\"; c";"2"\n"u";"x\\";\\"y";"3"\n'
    path = put(tmp_path, "e.csv", "user_id;item_id;timestamp\n" + rows)
    assert read_tabular(path).events["item"].to_list() == ["i", 'a "b"; c', 'x";"y']


@pytest.mark.parametrize(
    ("name", "by", "dialect"),
    [
        ("e.csv", ";", {}),
        ("e.csv", "\t", {}),
        ("e.txt", ",", {}),
        ("e.txt", " ", {}),
        ("e.dat", "::", {}),
        ("e.csv", "|", {}),
        ("e.data", "^", {"separator": "^"}),
    ],
)
def test_separators_are_found_or_given(tmp_path, name, by, dialect):
    rows = [("user_id", "item_id", "timestamp"), ("u", "i", "1"), ("v", "j", "2")]
    path = put(tmp_path, name, "".join(by.join(row) + "\n" for row in rows))
    expected = [("u", "i", 1.0), ("v", "j", 2.0)]
    assert read_tabular(path, options=options(**dialect)).events.rows() == expected


def test_quoted_fields_need_a_separator_of_one_character(tmp_path):
    path = put(tmp_path, "e.dat", "user_id::item_id::timestamp\nu::i::1\n")
    with pytest.raises(ConfigError, match="one character"):
        read_tabular(path, options=options(separator="::", quotes="csv"))


def test_lines_of_another_encoding_are_bad_lines(tmp_path):
    data = (HEAD + "u,i,caf\xe9,1\nu,j,x,2\n").encode("latin-1") + b"v,k,\x00,3\nv,l,x,4\n"
    path = put(tmp_path, "e.csv", data)
    with pytest.raises(DataError, match=r"line 2: byte 0xe9 is not utf-8"):
        read_tabular(path)
    raw = read_tabular(path, on_error="skip")
    assert raw.events["item"].to_list() == ["j", "l"]
    assert raw.skipped == {"e.csv": 2}
    assert read_tabular(path, options=options(encoding="latin-1"), on_error="skip").events[
        "item"
    ].to_list() == ["i", "j", "l"]


def test_wide_encodings_are_read(tmp_path):
    path = put(tmp_path, "e.tsv", "user_id\titem_id\ttimestamp\nJos\xe9\ti\t1\n", "utf-16")
    assert read_tabular(path, options=options(encoding="utf-16")).events["user"].to_list() == [
        "Jos\xe9"
    ]
    with pytest.raises(DataError, match=r"--encoding"):
        read_tabular(
            put(tmp_path, "c.tsv", path.read_bytes()[:-1]), options=options(encoding="utf-16")
        )


@pytest.mark.parametrize("mark", ["", '"'])
def test_unused_columns_may_share_a_name(tmp_path, mark):
    head = "user_id,item_id,timestamp,note,note,,\n"
    path = put(tmp_path, "e.csv", head + f"u,i,1,{mark}a{mark},b,,\n")
    assert read_tabular(path).events.rows() == [("u", "i", 1.0)]
    twice = put(tmp_path, "t.csv", "user_id,item_id,item_id,timestamp\nu,i,i,1\n")
    with pytest.raises(DataError, match="'item_id' occurs twice"):
        read_tabular(twice)


def test_a_table_may_lie_alone_in_a_zip_file(tmp_path):
    path = tmp_path / "e.csv.zip"
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr("folder/e.csv", "user_id,item_id,timestamp\nu,i,1\n")
        packed.writestr("__MACOSX/e.csv", b"junk")
    assert read_tabular(path).events.rows() == [("u", "i", 1.0)]
    with zipfile.ZipFile(path, "a") as packed:
        packed.writestr("other.csv", "x\n")
    with pytest.raises(DataError, match=r"holds 2 files.*Unpack it"):
        read_tabular(path)
    cut = put(tmp_path, "f.csv.zip", path.read_bytes()[:40])
    with pytest.raises(DataError, match="not a readable zip"):
        read_tabular(cut)


def test_a_repeated_header_is_a_bad_line_of_concatenated_files(tmp_path):
    path = put(
        tmp_path, "e.csv.gz", gzip.compress((HEAD + "u,i,x,1\n" + HEAD + "u,j,x,2\n").encode())
    )
    raw = read_tabular(path, on_error="skip")
    assert raw.events["item"].to_list() == ["i", "j"]
    assert raw.skipped == {"e.csv.gz": 1}
