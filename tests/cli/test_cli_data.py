"""`bench domains` and `bench data` on a small imported domain and on the catalogue."""

from __future__ import annotations

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest


def test_import_reports_counts_and_is_found_by_name(cli, tiny):
    listed = {row["name"]: row for row in json.loads(cli("domains", "--json").stdout)}
    assert listed["tiny"]["here"]
    assert not listed["amazon-beauty"]["here"]
    stats = json.loads(cli("data", "stats", tiny, "--json").stdout)
    assert stats["users"] == 60
    assert stats["items"] == 45
    assert stats["placeholder_titles"] == 0
    assert f"{stats['events']:,}" in cli("domains", tiny).stdout
    assert json.loads(cli("data", "show", tiny, "--json").stdout) == stats


def test_columns_are_mapped_by_role(cli, tmp_path):
    path = tmp_path / "mine.tsv"
    rows = [f"r{u}\tp{(u + k) % 7}\t{k}" for u in range(6) for k in range(5)]
    path.write_text("\n".join(["reviewer\tasin\twhen", *rows]) + "\n")
    words = ("data", "import", "mine", path)
    mapping = ("--column", "user=reviewer", "--column", "item=asin", "--column", "time=when")
    assert "6 users, 7 items, 30 events" in cli(*words, *mapping).stdout
    refused = cli(*words, "--replace", "--column", "user", code=2).stderr
    assert "ROLE=COLUMN" in refused
    refused = cli(*words, "--replace", "--column", "usr=reviewer", code=2).stderr
    assert "Did you mean 'user'" in refused


def test_a_malformed_line_is_named_and_can_be_skipped(cli, tmp_path):
    path = tmp_path / "bad.csv"
    rows = [f"u{u},i{(u + k) % 7},{k}" for u in range(6) for k in range(5)]
    rows.insert(3, "u0,i5,yesterday")
    path.write_text("\n".join(["user_id,item_id,timestamp", *rows]) + "\n")
    refused = cli("data", "import", "bad", path, code=1).stderr
    assert "bad.csv, line 5" in refused
    assert "yesterday" in refused
    assert "--on-error skip" in refused
    accepted = cli("data", "import", "bad", path, "--on-error", "skip").stdout
    assert "30 events" in accepted
    assert "lines skipped in bad.csv: 1" in accepted


def test_nothing_left_after_the_k_core_says_what_to_do(cli, tmp_path):
    path = tmp_path / "thin.csv"
    path.write_text("user_id,item_id,timestamp\nu1,i1,1\nu1,i2,2\nu2,i1,1\n")
    refused = cli("data", "import", "thin", path, "--k-core", 5, code=1).stderr
    assert "nothing is left" in refused
    assert "--k-core" in refused


def test_a_name_is_not_taken_twice_nor_from_the_catalogue(cli, tiny, tmp_path):
    path = tmp_path / "tiny.csv"
    assert "--replace" in cli("data", "import", tiny, path, code=2).stderr
    assert "catalogue" in cli("data", "import", "ml-1m", path, code=2).stderr


def test_verify_finds_a_changed_file(cli, tiny, tmp_path):
    assert "tiny: as expected" in cli("data", "verify").stdout
    file = next((tmp_path / "cache/domains/tiny").glob("tiny.inter*"))
    file.write_text(file.read_text() + "u000\ti044\t99.0\n")
    result = cli("data", "verify", tiny, code=1)
    assert "tiny: differs" in result.stdout
    assert "SHA-256" in result.stderr


def test_catalogue_states_addresses_terms_and_the_papers_counts(cli):
    entries = {entry["name"]: entry for entry in json.loads(cli("data", "list", "--json").stdout)}
    beauty = entries["amazon-beauty"]
    assert beauty["expected"] == {"users": 22363, "items": 12101, "events": 198502}
    assert all(file["url"].startswith("https://") for file in beauty["files"])
    shown = cli("data", "show", "amazon-beauty").stdout
    for part in ("reviews_Beauty_5.json.gz", "do not redistribute"):
        assert part in shown
    assert re.search(r"^on this machine +no$", shown, re.M)


@pytest.mark.parametrize("verb", [("data", "show"), ("data", "download"), ("data", "stats")])
def test_unknown_names_are_suggested(cli, verb):
    assert "'amazon-beauty'" in cli(*verb, "amazon-beuty", code=2).stderr


def test_embedded_domains_have_nothing_to_download(cli):
    assert "bench assets pull ml-100k" in cli("data", "download", "ml100k-drama", code=2).stderr


def test_download_prints_progress_and_the_folder(cli, tmp_path, monkeypatch):
    from bench.data import catalogue

    payload = bytes(range(256)) * 4000

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", str(len(payload)))
            self.end_headers()
            self.wfile.write(payload)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        url = f"http://127.0.0.1:{server.server_port}/fake.zip"
        entry = catalogue.CatalogueEntry(
            name="fake",
            title="Fake",
            group=None,
            namespace=None,
            kind="movielens",
            homepage=url,
            terms="None at all.",
            files=(catalogue.RemoteFile("fake.zip", url),),
        )
        monkeypatch.setitem(catalogue.CATALOGUE, "fake", entry)
        result = cli("data", "download", "fake", "--folder", tmp_path / "raw")
    finally:
        server.shutdown()
        server.server_close()
    assert (tmp_path / "raw/fake/fake.zip").read_bytes() == payload
    assert "None at all." in result.stderr
    assert f"{len(payload)}/{len(payload)} bytes (100 %)" in result.stderr
    assert str(tmp_path / "raw/fake") in result.stdout


def test_options_of_import_reach_the_readers(cli, tmp_path):
    path = tmp_path / "mine.dat"
    rows = [f"u{u}|i{i}|{i + 1}|0{i + 1}/02/2020" for u in range(3) for i in range(5)]
    path.write_text("\n".join([*rows, "u0|i0|5|09/02/2020"]) + "\n")
    words = (
        "data",
        "import",
        "mine",
        path,
        "--separator",
        "pipe",
        "--no-header",
        "--quotes",
        "none",
    )
    roles = ("--column", "user=1", "--column", "item=2", "--column", "time=4")
    more = ("--time-format", "%d/%m/%Y", "--where", "3 >= 2")
    done = cli(*words, *roles, *more)
    assert "3 users, 5 items, 13 events" in done.stdout
    assert "left out by --where: 3" in done.stdout
    refused = cli(*words, *roles, *more, "--replace", "--repeats", "keep", code=0)
    assert "13 events" in refused.stdout
    path.write_text("\n".join([*rows, "u0|i1|5|09/02/2020"]) + "\n")
    refused = cli(*words, *roles, *more, "--replace", "--repeats", "keep", code=1).stderr
    assert "--repeats first" in refused
    lines = tmp_path / "lines.txt"
    lines.write_text("7 1 2 3\n8 2 1 3\n")
    assert "2 users, 3 items, 6 events" in cli("data", "import", "seq", lines, "--sequences").stdout


def test_warnings_go_to_standard_error(cli, tmp_path):
    path = tmp_path / "short.csv"
    path.write_text("user_id,item_id,timestamp\nu,a,1\nu,b,2\nu,c,3\nv,a,1\n")
    done = cli("data", "import", "short", path)
    assert "warning: 1 of 2 users have 1 or 2 events" in done.stderr
    assert "warning" not in done.stdout


def test_imports_are_listed_and_removed(cli, tiny, tmp_path):
    (row,) = (line for line in cli("data", "list").stdout.splitlines() if line.startswith("tiny "))
    assert "60" in row and "45" in row and "imported from tiny.csv" in row
    (entry,) = (e for e in json.loads(cli("data", "list", "--json").stdout) if e["name"] == tiny)
    assert entry["kind"] == "import"
    assert entry["counts"]["users"] == 60
    assert str(tmp_path / "cache/domains/tiny") in cli("data", "rm", tiny).stdout
    assert not (tmp_path / "cache/domains/tiny").exists()
    assert "tiny" not in cli("data", "list").stdout
    assert "no imported domain 'tiny'" in cli("data", "rm", tiny, code=2).stderr


def test_skipped_lines_of_an_import_are_in_its_stats(cli, tmp_path):
    for folder, text in (
        ("a", "user_id,item_id,timestamp\nu,i,1\nu,j,2\nu,k,3\nu,l,never\n"),
        ("b", "item_id,title\ni,I\nj,J\nk,K\n"),
    ):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "data.csv").write_text(text)
    files = (tmp_path / "a/data.csv", "--items", tmp_path / "b/data.csv")
    done = cli("data", "import", "mine", *files, "--on-error", "skip").stdout
    assert "lines skipped in a/data.csv: 1" in done
    assert re.search(r"^preparation: lines skipped +1$", cli("data", "stats", "mine").stdout, re.M)
