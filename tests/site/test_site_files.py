"""The site's files: bundled libraries, same bytes, safe folders, escaping by construction."""

from __future__ import annotations

import hashlib
import json
import re
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from site_pages import site_of

from bench.errors import ConfigError
from bench.report.markup import data_block, document, el, slugs
from bench.report.site import write_site
from bench.report.site.parts import POLICY, Scale, short_time
from bench.report.table import FAMILIES

ASSETS = Path(str(resources.files("bench.report.site") / "assets"))
VENDOR = ASSETS / "vendor"


def test_bundled_files_are_those_whose_checksums_are_recorded():
    recorded = dict(
        reversed(line.split("  ", 1)) for line in (VENDOR / "SHA256SUMS").read_text().splitlines()
    )
    found = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in VENDOR.iterdir()
        if path.name != "SHA256SUMS"
    }
    assert found == recorded


def test_every_library_has_its_licence_and_all_are_small():
    scripts = {path.name.split(".")[0].lower() for path in VENDOR.glob("*.js")}
    licences = {path.stem.removeprefix("LICENSE-") for path in VENDOR.glob("LICENSE-*")}
    assert scripts == licences
    assert sum(path.stat().st_size for path in ASSETS.rglob("*") if path.is_file()) < 1_000_000


def test_families_have_colours():
    sheet = (ASSETS / "site.css").read_text()
    for family in FAMILIES:
        assert f".family-{family} " in sheet
        assert f"--{family}: light-dark(" in sheet


class Links(HTMLParser):
    """Collects what a page refers to."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.inline: list[str] = []

    def handle_starttag(self, tag, attrs):
        named = dict(attrs)
        self.found += [named[key] for key in ("href", "src") if named.get(key)]
        self.inline += [key for key in named if key.startswith("on") or key == "style"]
        if tag == "style" or (tag == "script" and "src" not in named):
            self.inline += [] if named.get("type") == "application/json" else [tag]


def test_every_reference_is_a_file_of_the_site_and_nothing_is_inline(site):
    pages = [*site.parent.rglob("*.html")]
    assert len(pages) == 5
    for page in pages:
        links = Links()
        links.feed(page.read_text())
        assert links.inline == []
        for reference in links.found:
            path, _, anchor = reference.partition("#")
            target = (page.parent / path) if path else page
            assert target.is_file(), reference
            assert site.parent in target.resolve().parents, reference
            if anchor:
                assert f'id="{anchor}"' in target.read_text(), reference


def test_policy_names_no_host():
    assert "http" not in POLICY
    assert "unsafe" not in POLICY
    assert "default-src 'none'" in POLICY


def test_the_same_runs_give_the_same_bytes(runs, tmp_path):
    one = site_of(runs, tmp_path / "one", ["toyland", "bookshop"]).parent
    two = site_of(list(reversed(runs)), tmp_path / "two", ["toyland", "bookshop"]).parent
    names = sorted(p.relative_to(one) for p in one.rglob("*") if p.is_file())
    assert names == sorted(p.relative_to(two) for p in two.rglob("*") if p.is_file())
    assert all((one / name).read_bytes() == (two / name).read_bytes() for name in names)


def test_figures_are_those_of_the_table(site):
    table = json.loads((site.parent / "tables/toyland.json").read_text())
    page = site.read_text()
    section = page[page.index('id="toyland"') :]
    for block in table["blocks"]:
        for row in block["rows"]:
            figure = row["metrics"]["ndcg@5"]
            assert f"{figure['mean']:.4f}" in section
            assert repr(figure["mean"]) in section


def test_a_star_stands_behind_its_figure(tmp_path):
    import numpy as np
    from report_runs import RunWriter, outcomes_with_ranks

    write = RunWriter(tmp_path / "store")
    rng = np.random.default_rng(0)
    ranks = rng.integers(1, 31, 400)
    runs = [
        write("good", outcomes_with_ranks(np.maximum(ranks // 4, 1)), trainable=False),
        write("poor", outcomes_with_ranks(ranks), trainable=False),
    ]
    page = site_of(runs, tmp_path / "site", ["toyland"]).read_text()
    rows = re.findall(r"<tr data-family.*?</tr>", page, flags=re.S)
    starred = [row for row in rows if '<sup class="sign">*</sup>' in row]
    assert len(starred) == 1
    assert ">good</a>" in starred[0]
    assert '<strong class="best">' in starred[0]


def test_a_site_replaces_a_site_and_nothing_else(runs, tmp_path):
    folder = tmp_path / "site"
    folder.mkdir()
    index = site_of(runs, folder, ["toyland"])  # an empty folder may be filled
    assert not (folder / "tables/bookshop.csv").exists()
    site_of(runs, folder, ["bookshop"])
    assert index.is_file()
    assert not (folder / "tables/toyland.csv").exists()
    home = tmp_path / "home"
    home.mkdir()
    (home / "thesis.tex").write_text("years of work")
    with pytest.raises(ConfigError, match="does not hold a site"):
        site_of(runs, home, ["toyland"])
    assert (home / "thesis.tex").read_text() == "years of work"
    with pytest.raises(ConfigError, match="does not hold a site"):
        site_of(runs, home / "thesis.tex", ["toyland"])


def test_a_site_needs_tables(tmp_path):
    with pytest.raises(ConfigError, match="one or more distinct targets"):
        write_site([], [], tmp_path / "site")


@given(st.text())
def test_any_text_comes_back_as_that_text(text):
    class Reader(HTMLParser):
        def __init__(self):
            super().__init__()
            self.texts, self.tags, self.titles = "", [], []

        def handle_starttag(self, tag, attrs):
            self.tags.append(tag)
            self.titles += [value for name, value in attrs if name == "title"]

        def handle_data(self, data):
            self.texts += data

    reader = Reader()
    reader.feed(document(el("b", text, title=text)))
    reader.close()
    expected = "".join(c if c >= " " or c in "\n\t" else "\ufffd" for c in text)
    assert reader.tags == ["b"]
    assert reader.texts.strip("\n") == expected.strip("\n")
    assert reader.titles == [expected]


@given(st.text())
def test_no_text_ends_a_block_of_data(text):
    page = document(data_block("x", {"a": text}))
    inside = page[page.index(">", page.index("<script")) + 1 : page.rindex("</script>")]
    assert not set(inside) & set("<>&")
    assert json.loads(inside) == {"a": text}


@given(st.lists(st.text(max_size=80), unique=True))
def test_slugs_are_distinct_safe_names(names):
    found = slugs(names)
    assert set(found) == set(names)
    assert len(set(found.values())) == len(names)
    assert all(re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", slug) for slug in found.values())


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (None, "–"), (0.0, "< 1 ms"), (0.0345, "34 ms"), (0.1, "0.1 s"), (99.4, "99.4 s"),
        (99.6, "2 min"), (2040, "34 min"), (5400, "90 min"), (36000, "10.0 h"),
    ],
)  # fmt: skip
def test_durations(seconds, shown):
    assert short_time(seconds) == shown


def test_a_scale_of_one_value_has_a_width():
    assert Scale.of([], "ndcg@5") == Scale(0.0, 1.0)
    scale = Scale(0.5, 0.5 + 1e-4)
    assert scale.x(0.5) < scale.x(0.5001)
