from __future__ import annotations

import gzip
import json
import multiprocessing
import os
import time

import numpy as np
import pytest

from bench import assets
from bench.data import cache
from bench.data.catalogue import CATALOGUE
from bench.data.imports import import_domain, remove_import, verify
from bench.data.load import is_available, known_names, load_domain, missing_domains
from bench.data.sources import stored_names
from bench.data.stats import domain_stats, overlap
from bench.errors import ConfigError, DataError, MissingExtraError, ResultError
from bench.partial import older
from bench.sealed import locate, remove

INTER = "user_id:token\titem_id:token\ttimestamp:float\n"
ITEM = "item_id:token\ttitle:token_seq\n"


def write_domain(root, name="toy", rows=(("u", "a", 2), ("u", "b", 1), ("v", "a", 3))):
    folder = root / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.inter").write_text(INTER + "".join(f"{u}\t{i}\t{t}\n" for u, i, t in rows))
    items = sorted({i for _, i, _ in rows})
    (folder / f"{name}.item").write_text(ITEM + "".join(f"{i}\tTitle {i}\n" for i in items))
    return folder


@pytest.fixture
def root(tmp_path):
    made = tmp_path / "root"
    write_domain(made)
    return made


def count_builds(monkeypatch):
    built = []
    original = cache.save_folder
    monkeypatch.setattr(cache, "save_folder", lambda d, f: (built.append(d.name), original(d, f)))
    return built


def test_a_folder_of_atomic_files_is_found_by_name(root, monkeypatch):
    domain = load_domain("toy", data_root=root)
    assert domain.items.titles.to_list() == ["Title a", "Title b"]
    assert domain.sequences[0].tolist() == [1, 0]
    assert domain.namespace is None
    monkeypatch.setenv("BENCH_DATA_ROOT", str(root))
    assert load_domain("toy").content_hash == domain.content_hash
    assert stored_names() == ("toy",)
    assert known_names()[-1] == "toy"
    assert is_available("toy") and not is_available("other")


def test_the_second_load_is_memory_mapped_and_equal(root, monkeypatch):
    built = count_builds(monkeypatch)
    first, second = (load_domain("toy", data_root=root) for _ in range(2))
    assert built == ["toy"]
    assert first.content_hash == second.content_hash
    assert first.provenance == second.provenance
    for array in (second.timestamps, second.sequences.items, second.items.titles.data):
        assert not array.flags.writeable
        assert isinstance(array.base, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        second.timestamps[0] = 0


def test_content_and_options_choose_the_cached_folder(root, monkeypatch):
    built = count_builds(monkeypatch)
    load_domain("toy", data_root=root)
    load_domain("toy", data_root=root, ties="hash")
    load_domain("toy", data_root=root, on_error="skip")
    assert len(built) == 3
    write_domain(root, rows=(("u", "a", 2), ("u", "b", 9), ("v", "a", 3)))
    assert load_domain("toy", data_root=root).sequences[0].tolist() == [0, 1]
    assert len(built) == 4
    write_domain(root)
    load_domain("toy", data_root=root)
    assert len(built) == 4  # the old content is still cached


def test_moved_and_touched_files_are_the_same_content(root, tmp_path, monkeypatch):
    built = count_builds(monkeypatch)
    load_domain("toy", data_root=root)
    os.utime(root / "toy" / "toy.inter", (1, 1))
    load_domain("toy", data_root=root)
    root.rename(tmp_path / "moved")
    load_domain("toy", data_root=tmp_path / "moved")
    assert len(built) == 1


def test_unchanged_files_are_not_hashed_again(root, monkeypatch):
    hashed = []
    original = cache.sha256_file
    monkeypatch.setattr(cache, "sha256_file", lambda path: (hashed.append(path), original(path))[1])
    real_time = time.time
    monkeypatch.setattr(cache.time, "time", lambda: real_time() + 60)
    load_domain("toy", data_root=root)
    assert len(hashed) == 2
    load_domain("toy", data_root=root)
    assert len(hashed) == 2
    write_domain(root, rows=(("u", "a", 2), ("u", "b", 9), ("v", "a", 3)))  # the same size
    load_domain("toy", data_root=root)
    assert len(hashed) == 4


def test_a_file_written_a_moment_ago_is_hashed_each_time(root, monkeypatch):
    hashed = []
    original = cache.sha256_file
    monkeypatch.setattr(cache, "sha256_file", lambda path: (hashed.append(path), original(path))[1])
    load_domain("toy", data_root=root)
    load_domain("toy", data_root=root)
    assert len(hashed) == 4


def _flip(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damage",
    [
        "json",
        "missing array",
        "short array",
        "half an array",
        "an event",
        "a title",
        "an id",
        "the group",
        "the seal",
        "no seal to read",
    ],
)
def test_a_damaged_cache_is_refused_until_it_is_removed(root, own_cache, damage):
    expected = load_domain("toy", data_root=root).content_hash
    (folder,) = (own_cache / "domains-cache").glob("toy-*[!k]")
    target = folder / "items.npy"
    if damage == "json":
        (folder / "domain.json").write_text("{")
    elif damage == "missing array":
        target.unlink()
    elif damage == "short array":
        np.save(target, np.zeros(1, np.int32))
    elif damage == "half an array":
        target.write_bytes(target.read_bytes()[:-2])
    elif damage == "the group":
        text = (folder / "domain.json").read_text()
        (folder / "domain.json").write_text(text.replace('"group": null', '"group": "x"'))
    elif damage == "the seal":
        text = (folder / "seal.json").read_text()
        (folder / "seal.json").write_text(text.replace("1", "2", 1))
    elif damage == "no seal to read":
        (folder / "seal.json").write_text("[]")
    else:
        names = {"an event": "items", "a title": "titles", "an id": "item_ids"}
        _flip(folder / f"{names[damage]}.npy")
    with pytest.raises(ResultError, match="damaged") as caught:
        load_domain("toy", data_root=root)
    assert f"bench cache rm {folder.name}" in str(caught.value)
    remove(locate(folder.name))
    assert load_domain("toy", data_root=root).content_hash == expected


def test_a_domain_that_an_earlier_version_prepared_is_prepared_again(root, own_cache):
    expected = load_domain("toy", data_root=root).content_hash
    (folder,) = (own_cache / "domains-cache").glob("toy-*[!k]")
    (folder / "seal.json").unlink()
    _flip(folder / "items.npy")
    assert load_domain("toy", data_root=root).content_hash == expected
    assert (folder / "seal.json").is_file()


def test_files_that_differ_from_their_import_are_refused(tmp_path):
    table = tmp_path / "t.csv"
    table.write_text("user_id,item_id,timestamp\nx,y,1\nx,z,2\n")
    import_domain("mine", table)
    (file,) = cache.cache_root().glob("domains/mine/mine.inter")
    file.write_text(file.read_text().replace("z", "w"))
    with pytest.raises(DataError, match=r"changed since .* import\.json: .* --replace"):
        load_domain("mine")
    import_domain("mine", table, replace=True)
    assert load_domain("mine").n_events == 2


def test_an_import_whose_replacement_never_came_is_still_the_domain(tmp_path):
    table = tmp_path / "t.csv"
    table.write_text("user_id,item_id,timestamp\nx,y,1\n")
    expected = import_domain("mine", table).content_hash
    folder = cache.cache_root() / "domains" / "mine"
    folder.rename(older(folder))
    assert load_domain("mine").content_hash == expected
    assert "mine" in stored_names()


def test_an_edited_asset_is_refused(own_cache):
    folder = own_cache / "assets" / "ml-100k"
    folder.mkdir(parents=True)
    for kind in ("inter", "item"):
        (folder / f"ml-100k.{kind}").write_text("edited")
    files = {f"ml-100k.{kind}": "0" * 64 for kind in ("inter", "item")}
    cache.write_json(folder / assets.RECORD, {"files": files})
    with pytest.raises(DataError, match="bench assets pull --force ml-100k"):
        load_domain("ml100k-drama")
    with pytest.raises(ResultError, match="bench assets pull --force ml-100k"):
        assets.path("ml-100k")


def load_in_child(root, queue):
    queue.put(load_domain("toy", data_root=root).content_hash)


def test_several_processes_may_load_the_same_domain_at_once(root):
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    children = [context.Process(target=load_in_child, args=(root, queue)) for _ in range(3)]
    for child in children:
        child.start()
    found = {queue.get(timeout=120) for _ in children}
    for child in children:
        child.join()
    assert found == {load_domain("toy", data_root=root).content_hash}


def test_the_data_root_comes_before_imports(root, tmp_path):
    table = tmp_path / "t.csv"
    table.write_text("user_id,item_id,timestamp\nx,y,1\n")
    import_domain("toy", table)
    assert load_domain("toy").n_events == 1
    assert load_domain("toy", data_root=root).n_events == 3


def test_one_message_names_every_way_to_a_missing_domain(own_cache):
    with pytest.raises(DataError) as caught:
        load_domain("amazon-beauty")
    message = str(caught.value)
    for part in (
        "not on this machine: amazon-beauty",
        str(own_cache / "domains"),
        "bench data download amazon-beauty",
        "BENCH_DATA_ROOT",
        "ml100k-drama",
    ):
        assert part in message
    with pytest.raises(DataError, match="bench assets pull ml-100k"):
        load_domain("ml100k-drama")
    assert missing_domains(["amazon-toys", "ml-1m"]) == ("amazon-toys", "ml-1m")


def test_unknown_names_and_roots_are_wrong_use(root, monkeypatch):
    with pytest.raises(ConfigError, match="Did you mean 'amazon-beauty'"):
        load_domain("amazon-beuty")
    with pytest.raises(ConfigError, match="1 to 64 letters"):
        load_domain("../toy", data_root=root)
    with pytest.raises(ConfigError, match=r"--data-root is .* no folder"):
        load_domain("toy", data_root=root / "absent")
    monkeypatch.setenv("BENCH_DATA_ROOT", str(root / "absent"))
    with pytest.raises(ConfigError, match="BENCH_DATA_ROOT is"):
        load_domain("toy")
    with pytest.raises(ConfigError, match="on_error"):
        load_domain("toy", data_root=root, on_error="ignore")


def test_official_amazon_files_below_the_data_root(tmp_path):
    folder = tmp_path / "root" / "amazon-beauty"
    folder.mkdir(parents=True)
    rows = [
        {"reviewerID": f"U{u}", "asin": f"B{i}", "unixReviewTime": 86400 * (u + i)}
        for u in range(6)
        for i in range(5)
    ]
    rows.append({"reviewerID": "U-few", "asin": "B0", "unixReviewTime": 1})
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "reviews_Beauty_5.json.gz").write_bytes(gzip.compress(text.encode()))
    meta = "".join(f"{{'asin': 'B{i}', 'title': 'T{i} &amp; co'}}\n" for i in range(5))
    (folder / "meta_Beauty.json.gz").write_bytes(gzip.compress(meta.encode()))
    domain = load_domain("amazon-beauty", data_root=tmp_path / "root")
    assert (domain.n_users, domain.n_items, domain.n_events) == (6, 5, 30)
    assert domain.items.titles[0] == "T0 & co"
    assert (domain.namespace, domain.group) == ("amazon-2014", "amazon-4")
    assert domain.provenance["counts"]["k_core_dropped"] == 1
    assert domain.provenance["options"] == {"k_core": 5, "ties": "file"}
    assert verify("amazon-beauty", data_root=tmp_path / "root") == [
        "amazon-beauty: counts differ from the catalogue (users: 6 instead of 22363, "
        "items: 5 instead of 12101, events: 30 instead of 198502)"
    ]


def test_imports_are_found_by_name_and_keep_their_options(tmp_path, own_cache):
    inter, items = tmp_path / "i.csv", tmp_path / "t.csv"
    events = [(u, i, f"{1e9 + 0.001 * (u + i)!r}") for u in range(4) for i in range(3)]
    inter.write_text(
        "who,what,when\n" + "".join(f"{u},i {i},{t}\n" for u, i, t in events) + "lonely,i 0,5\n"
    )
    items.write_text('what,name\n"i 0","Two\nlines\t&amp;amp;"\ni 1,\ni 2,Z\nunused,U\n')
    mapping = {"user": "who", "item": "what", "time": "when", "title": "name"}
    made = import_domain("mine", inter, items, mapping, k_core=3, namespace="ns", group="g")
    domain = load_domain("mine")
    assert domain.content_hash == made.content_hash
    assert (domain.n_users, domain.n_items) == (4, 3)
    assert domain.items.titles[0] == "Two lines &amp;"
    assert domain.items.n_placeholders == 1
    assert (domain.namespace, domain.group) == ("ns", "g")
    assert domain.timestamps.tolist() == [float(t) for _, _, t in events]
    assert domain.provenance["import"]["imported_from"][0]["name"] == "i.csv"
    assert verify("mine") == []
    assert "mine" in known_names()
    with pytest.raises(ConfigError, match="--replace"):
        import_domain("mine", inter, items, mapping)
    assert import_domain("mine", inter, items, mapping, replace=True).n_users == 5
    stored = own_cache / "domains" / "mine" / "mine.item"
    stored.write_text(stored.read_text().replace("Z", "Y"))
    assert verify("mine") == [f"{stored}: content differs from the recorded SHA-256"]
    remove_import("mine")
    assert not is_available("mine")


def test_atomic_files_can_be_imported_too(root, tmp_path):
    made = import_domain("copy", root / "toy" / "toy.inter", root / "toy" / "toy.item")
    again = load_domain("toy", data_root=root)
    assert made.items.titles.to_list() == again.items.titles.to_list()
    assert made.sequences.items.tolist() == again.sequences.items.tolist()
    with pytest.raises(DataError, match=r"line 1: no column 'x' \(mapped to user\)"):
        import_domain("other", root / "toy" / "toy.inter", mapping={"user": "x"})


def test_other_amazon_categories_and_movielens_releases_can_be_imported(tmp_path):
    review = {"reviewerID": "U", "asin": "B", "unixReviewTime": 1}
    reviews, meta = tmp_path / "reviews_Pets_5.json.gz", tmp_path / "meta_Pets.json.gz"
    reviews.write_bytes(gzip.compress((json.dumps(review) + "\nbroken\n").encode()))
    meta.write_bytes(gzip.compress(b"{'asin': 'B', 'title': 'Bone', 'categories': [['P', 'Q']]}\n"))
    pets = import_domain("pets", reviews, meta, namespace="amazon-2014", on_error="skip")
    assert pets.items.titles.to_list() == ["Bone"]
    assert pets.items.extra["category"].to_list() == ["P > Q"]
    assert pets.namespace == "amazon-2014"
    assert pets.provenance["import"]["lines_skipped"]["reviews_Pets_5.json.gz"] == 1

    folder = tmp_path / "ml-tiny"
    folder.mkdir()
    (folder / "ratings.dat").write_text("1::10::5::100\n")
    (folder / "movies.dat").write_text("10::Café (1999)::Drama\n11::Unseen::War\n")
    assert import_domain("films", folder).items.titles.to_list() == ["Café (1999)"]
    with pytest.raises(ConfigError, match="brings its titles"):
        import_domain("films-2", folder, meta)
    with pytest.raises(ConfigError, match=r"leave the mapping \(--column\) out"):
        import_domain("films-2", folder, mapping={"user": "x"})


def test_skipped_lines_of_an_import_stay_known(tmp_path):
    inter = tmp_path / "i.csv"
    inter.write_text("user_id,item_id,timestamp\nu,a,1\nu,b\nv,a,never\nv,b,2\n")
    import_domain("mine", inter, on_error="skip")
    assert load_domain("mine").provenance["import"]["lines_skipped"] == {"i.csv": 2}


def test_failed_imports_leave_nothing(tmp_path, own_cache):
    inter = tmp_path / "i.csv"
    inter.write_text("user_id,item_id,timestamp\nu,a,1\n")
    with pytest.raises(DataError, match="5-core"):
        import_domain("mine", inter, k_core=5)
    assert not is_available("mine")
    with pytest.raises(ConfigError, match="catalogue name"):
        import_domain("ml-1m", inter)
    with pytest.raises(ConfigError, match="no imported domain"):
        remove_import("mine")


@pytest.fixture
def embedded():
    """The ml-100k asset: from the user's cache, else from an installed RecBole of that version."""
    with pytest.MonkeyPatch.context() as usual:
        usual.delenv("BENCH_CACHE")
        if assets.is_present("ml-100k"):
            return assets.path("ml-100k")
    if assets.is_present("recbole"):
        return assets.path("recbole") / "dataset_example" / "ml-100k"
    pytest.skip("needs MovieLens 100K: bench assets pull ml-100k")


def test_embedded_domains_have_the_expected_counts(embedded, committed_hashes, monkeypatch):
    monkeypatch.setattr(assets, "is_present", lambda name: name == "ml-100k")
    monkeypatch.setattr(assets, "location", lambda name: embedded)
    found = {}
    for name in ("ml100k-drama", "ml100k-comedy", "ml100k-action"):
        domain = load_domain(name)
        found[name] = (domain.n_users, domain.n_items)
        assert {domain.content_hash} == committed_hashes[name]
        assert domain.n_events == CATALOGUE[name].expected.events
        assert domain.items.n_placeholders == 0
        assert min(domain.sequences.lengths) >= 5
        assert np.bincount(domain.sequences.items).min() >= 5
        genres = {category.split()[0] for category in domain.items.extra["category"]}
        assert genres == {CATALOGUE[name].genre}
    assert found == {
        "ml100k-drama": (874, 392),
        "ml100k-comedy": (778, 347),
        "ml100k-action": (846, 221),
    }


def test_an_embedded_domain_without_its_asset_names_the_command():
    with pytest.raises(MissingExtraError, match="bench assets pull ml-100k"):
        assets.path("ml-100k")


def test_stats_of_a_domain_counted_by_hand(root):
    rows = [("u", "a", 1), ("u", "b", 1), ("u", "c", 5), ("v", "a", 2)]
    folder = write_domain(root, "tiny", rows)
    (folder / "tiny.item").write_text(ITEM + "a\tOne two\nb\tone TWO\nc\t\n")
    stats = domain_stats(load_domain("tiny", data_root=root))
    assert (stats.users, stats.items, stats.events) == (2, 3, 4)
    assert stats.density == pytest.approx(4 / 6)
    assert (stats.length_mean, stats.length_median) == (2.0, 2.0)
    assert (stats.length_min, stats.length_max) == (1, 3)
    assert (stats.item_events_median, stats.items_below_5) == (1.0, 3)
    assert stats.title_words_mean == pytest.approx((2 + 2 + 3) / 3)
    assert (stats.placeholder_titles, stats.equal_titles, stats.tied_events) == (1, 2, 2)
    assert (stats.time_first, stats.time_last) == (1.0, 5.0)


def test_overlap_counts_shared_ids_and_events(root):
    write_domain(root, "one", [("u", "a", 1), ("u", "b", 2), ("v", "a", 3), ("w", "c", 1)])
    write_domain(root, "two", [("u", "a", 9), ("v", "b", 2), ("x", "c", 3)])
    shared = overlap(*(load_domain(name, data_root=root) for name in ("one", "two")))
    assert (shared.users, shared.items, shared.events) == (2, 3, 1)
