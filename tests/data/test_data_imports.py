"""What an import says about what it did: counts by path, notes, refusals; several files; removal."""

from __future__ import annotations

import json
import zipfile

import polars as pl
import pytest

from bench.data.imports import import_domain, import_record, imported_names, remove_import
from bench.data.load import load_domain
from bench.data.raw import short_names
from bench.errors import ConfigError, DataError

HEAD = "user_id,item_id,timestamp\n"
ROWS = [f"u{u},i{i},{i}\n" for u in range(3) for i in range(4)]


def put(folder, name, text):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def warnings(name="mine"):
    return [note for note in import_record(name)["notes"] if note.startswith("warning:")]


def test_short_names_tell_paths_apart():
    assert short_names(["/x/a/d.csv", "/x/b/d.csv"]) == ["a/d.csv", "b/d.csv"]
    assert short_names(["/x/a.csv", "/y/z.zip!m/b.csv"]) == ["a.csv", "b.csv"]
    assert short_names(["d.csv", "x/d.csv"]) == ["d.csv", "x/d.csv"]


def test_skipped_lines_are_counted_by_path_and_known_to_the_domain(tmp_path):
    inter = put(tmp_path, "a/data.csv", HEAD + "".join(ROWS) + "u0,x1,never\nu0,x2,never\n")
    items = put(tmp_path, "b/data.csv", "item_id,title\ni0,A\ni1,B\nbroken\n")
    import_domain("mine", inter, items, on_error="skip")
    counts = load_domain("mine").provenance["counts"]
    assert counts["lines_skipped"]["a/data.csv"] == 2
    assert counts["lines_skipped"]["b/data.csv"] == 1
    assert counts["items_without_row"] == 2
    assert [source["name"] for source in import_record("mine")["sources"]] == [
        "a/data.csv",
        "b/data.csv",
    ]
    assert any("2 of 4 items have no row in data.csv (item 'i2'" in note for note in warnings())


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_float_ids_meet_whole_number_ids(tmp_path, form):
    inter = put(
        tmp_path,
        "e.csv",
        HEAD + "".join(f"{u}.0,{i}.0,{i}\n" for u in range(2) for i in range(3)) + "1.0,,9\n",
    )
    if form == "parquet":
        frame = pl.read_csv(inter)
        assert frame["item_id"].dtype == pl.Float64
        inter = tmp_path / "e.parquet"
        frame.write_parquet(inter)
    items = put(tmp_path, "i.csv", "item_id,title\n0,A\n1,B\n2,C\n")
    domain = import_domain("mine", inter, items, on_error="skip")
    assert domain.items.titles.to_list() == ["A", "B", "C"]
    assert domain.user_ids.to_list() == ["0", "1"]
    assert import_record("mine")["lines_skipped"][inter.name] == 1
    assert [note.split(" ids are")[0] for note in warnings()] == [
        "warning: the user",
        "warning: the item",
    ]


def test_ids_that_only_look_like_floats_stay(tmp_path):
    inter = put(tmp_path, "e.csv", HEAD + "u,1.0,1\nu,1.5,2\nu,2,3\n")
    assert import_domain("mine", inter).items.ids.to_list() == ["1.0", "1.5", "2"]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (["u,a,1", "u,b,2", "u,c,3", "v,a,1", "w,a,1", "w,b,2"], "2 of 3 users have 1 or 2 events"),
        (["u,a,1", "v,b,2"], "nobody is left"),
        (["u,a,5", "u,b,5", "u,c,5"], "all times are equal (5)"),
        (
            ["u,a,-62135596800000", "u,b,1504998400123", "u,c,1504998400124"],
            "1 times lie before 1970",
        ),
        (
            ["u,a,1504998400", "u,b,1504998400123", "u,c,1504998402"],
            "2 times look like seconds (1504998400) and 1 like milliseconds",
        ),
    ],
)
def test_losses_are_named(tmp_path, rows, said):
    import_domain("mine", put(tmp_path, "e.csv", HEAD + "\n".join(rows) + "\n"))
    (warning,) = warnings()
    assert said in warning


def test_times_of_another_form_are_pointed_to_the_option(tmp_path):
    path = put(tmp_path, "e.csv", HEAD + "u,a,31.12.2019\n")
    with pytest.raises(DataError, match=r"line 2: found '31.12.2019'.*another form: --time-format"):
        import_domain("mine", path)
    with pytest.raises(DataError, match=r"expected the form '%d/%m/%Y' \(--time-format\) as time"):
        import_domain("mine", path, time_format="%d/%m/%Y")


@pytest.mark.parametrize("name", ["all", "none"])
def test_the_words_of_the_option_sources_are_no_names(tmp_path, name):
    with pytest.raises(ConfigError, match="word of --sources"):
        import_domain(name, put(tmp_path, "e.csv", HEAD + "".join(ROWS)))


def test_titles_that_are_page_scripts_or_endless_are_named(tmp_path):
    titles = {
        "i0": "var aPageStart = (new Date()).getTime();",
        "i1": "word " * 900,
        "i2": "Fine",
        "i3": "Function of form",
    }
    items = put(
        tmp_path, "i.csv", "item_id,title\n" + "".join(f"{i},{t}\n" for i, t in titles.items())
    )
    import_domain("mine", put(tmp_path, "e.csv", HEAD + "".join(ROWS)), items)
    script, long = warnings()
    assert "1 titles are page scripts" in script and "'i0'" in script
    assert "1 titles have more than 200 words (item 'i1': 900 words)" in long


def test_well_formed_data_get_no_warning(tmp_path):
    import_domain("mine", put(tmp_path, "e.csv", HEAD + "".join(ROWS)))
    assert import_record("mine")["notes"] == []


def test_repeated_events_cannot_be_kept(tmp_path):
    path = put(tmp_path, "e.csv", HEAD + "".join(ROWS) + "u1,i2,99\n")
    with pytest.raises(DataError, match=r"1 of 13 events repeat.*'u1', item 'i2'.*--repeats first"):
        import_domain("mine", path, repeats="keep")
    assert import_domain("mine", path).provenance["counts"]["duplicates_dropped"] == 1
    import_domain("same", put(tmp_path, "f.csv", HEAD + "".join(ROWS)), repeats="keep")
    with pytest.raises(ConfigError, match="'last'"):
        import_domain("other", path, repeats="last")


def test_several_files_and_folders_of_parts_follow_one_another(tmp_path):
    one = put(tmp_path, "p/part-0.csv", "user_id,item_id\n" + "".join(f"u,{i}\n" for i in "cab"))
    two = put(tmp_path, "p/part-1.csv", "user_id,item_id\n" + "".join(f"u,{i}\n" for i in "ed"))
    put(tmp_path, "p/part-2.csv", "")
    put(tmp_path, "p/_SUCCESS", "")
    for files in ([one, two], tmp_path / "p"):
        domain = import_domain("mine", files, mapping={"time": "row"}, replace=True)
        ids = domain.items.ids.to_list()
        assert [ids[item] for item in domain.sequences[0]] == list("cabed")
    frame = pl.DataFrame({"user_id": ["u", "v"], "item_id": [1, 2], "timestamp": [1, 2]})
    for part in range(2):
        (tmp_path / "q").mkdir(exist_ok=True)
        frame[part : part + 1].write_parquet(tmp_path / "q" / f"part-{part}.snappy.parquet")
    assert import_domain("spark", tmp_path / "q").user_ids.to_list() == ["u", "v"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="folder without files"):
        import_domain("void", tmp_path / "empty")


def test_one_part_of_a_split_is_named(tmp_path):
    head = "user_id,parent_asin,rating,timestamp,history\n"
    parts = [
        put(tmp_path, f"Toys.{part}.csv", head + f"u,B{at},5,{at},\n")
        for at, part in enumerate(("train", "valid", "test"))
    ]
    import_domain("mine", parts[0])
    assert any("the events of valid and test are missing" in note for note in warnings())
    assert import_domain("mine", parts, replace=True).n_events == 3
    assert not any("split" in note for note in warnings())


def test_encodings_concern_every_text_format(tmp_path):
    latin = {
        "e.inter": "user_id:token\titem_id:token\ttimestamp:float\nJos\xe9\ti\t1\n",
        "e.csv": HEAD + "Jos\xe9,i,1\n",
        "e.jsonl": json.dumps(
            {"user_id": "Jos\xe9", "item_id": "i", "timestamp": 1}, ensure_ascii=False
        ),
    }
    for name, text in latin.items():
        path = tmp_path / name
        path.write_bytes(text.encode("latin-1"))
        with pytest.raises(DataError):
            import_domain("mine", path)
        assert (
            import_domain("mine", path, encoding="latin-1", replace=True).user_ids[0] == "Jos\xe9"
        )
        remove_import("mine")
    folder = tmp_path / "ml"
    put(folder, "ratings.dat", "1::1::5::1\n")
    (folder / "movies.dat").write_bytes("1::Am\xe9lie::Drama\n".encode("latin-1"))
    with pytest.raises(DataError, match="--encoding"):
        import_domain("films", folder)
    assert import_domain("films", folder, encoding="latin-1").items.titles[0] == "Am\xe9lie"
    with pytest.raises(ConfigError, match="unknown encoding"):
        import_domain("films", folder, encoding="utf-99", replace=True)


def test_removed_imports_are_gone_and_others_stay(tmp_path, own_cache):
    path = put(tmp_path, "e.csv", HEAD + "".join(ROWS))
    for name in ("mine", "mine-2", "other"):
        import_domain(name, path)
    assert imported_names() == ("mine", "mine-2", "other")
    remove_import("mine")
    assert imported_names() == ("mine-2", "other")
    prepared = sorted(f.name[:-25] for f in (own_cache / "domains-cache").glob("*-*") if f.is_dir())
    assert prepared == ["mine-2", "other"]
    remove_import("mine-2")
    assert [entry.name for entry in (own_cache / "domains").iterdir() if entry.is_dir()] == [
        "other"
    ]
    with pytest.raises(ConfigError, match=r"no imported domain 'othr'.*Did you mean 'other'"):
        remove_import("othr")


def test_the_words_of_a_condition_that_nothing_meets(tmp_path):
    path = put(tmp_path, "e.csv", "user_id,item_id,stars,timestamp\nu,i,3,1\n")
    with pytest.raises(DataError, match="no row meets --where; 1 rows were left out"):
        import_domain("mine", path, where=["stars > 3"])
    with pytest.raises(DataError, match=r"no column 'star' \(--where\).*Did you mean 'stars'"):
        import_domain("mine", path, where=["star > 3"])
    import_domain("mine", path, where=["stars >= 3"])
    assert import_record("mine")["reading"]["where"] == ["stars >= 3"]


@pytest.mark.parametrize("role", ["title", "item_id", "brand", "category"])
def test_columns_of_items_need_a_table_of_items(tmp_path, role):
    inter = put(tmp_path, "e.csv", HEAD + "".join(ROWS))
    with pytest.raises(
        ConfigError, match=rf"--column {role}=title names a column of the item table"
    ):
        import_domain("mine", inter, mapping={role: "title"})
    assert "mine" not in imported_names()


def test_a_table_of_events_may_bring_the_titles_itself(tmp_path):
    rows = "".join(f"u{u},i{i},Title {i},{i}\n" for u in range(2) for i in range(3))
    path = put(tmp_path, "e.csv", "user_id,item_id,title,timestamp\n" + rows)
    domain = import_domain("mine", path, path)
    assert domain.items.titles.to_list() == ["Title 0", "Title 1", "Title 2"]


def test_only_ratings_and_movies_together_are_movielens(tmp_path):
    put(tmp_path, "ml/ratings.dat", "1::10::5::978300100\n1::11::4::978300101\n")
    assert import_domain("alone", tmp_path / "ml").n_events == 2
    put(tmp_path, "ml/movies.dat", "10::Ten::Drama\n11::Eleven::War\n")
    assert import_domain("films", tmp_path / "ml").items.titles.to_list() == ["Ten", "Eleven"]
    path = tmp_path / "books.zip"
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr("ratings.csv", "user_id,book_id,rating\n")
        packed.writestr("books.csv", "book_id,title\n")
    with pytest.raises(DataError, match=r"holds 2 files \(ratings.csv, books.csv\).*Unpack it"):
        import_domain("books", path)
