"""The site in a real browser, opened from a file as a reader would."""

from __future__ import annotations

import functools
import http.server
import json
import threading

import pytest
from report_runs import RunWriter, random_outcomes, scored_on
from site_pages import site_of

from bench.evaluation import metric_per_user

PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}


def column(page, table: str, index: int) -> list[str]:
    cells = page.locator(f"#{table} tbody tr > :nth-child({index})")
    return [text.strip() for text in cells.all_inner_texts()]


def heads(page, table: str) -> list[str]:
    return [
        text.split("\n")[0].strip() for text in page.locator(f"#{table} thead th").all_inner_texts()
    ]


def head(page, table: str, title: str):
    return page.locator(f"#{table} thead th").filter(has_text=title).first


def sorted_by(page, table: str, title: str, direction: str | None) -> None:
    """Wait until a column says that it is sorted this way: the table sorts after the click."""
    page.wait_for_function(
        """([table, title, direction]) =>
          [...document.querySelectorAll(`#${table} thead th`)]
            .find((th) => th.textContent.includes(title))
            .getAttribute('aria-sort') === direction""",
        arg=[table, title, direction],
    )


def visible_methods(page, table: str = "toyland-table-0") -> list[str]:
    return column(page, table, 1)


def test_page_loads_with_tables_and_plots(site, visit):
    page = visit().open(site)
    assert page.title() == page.locator("h1").inner_text() == "Leaderboards"
    assert visible_methods(page) == ["item-knn", "popularity", "random (closed form)", "sasrec"]
    assert page.locator("figure.plot svg.plot").count() == 2
    assert page.locator("#toyland-plot .points a").count() == 3
    assert page.locator("#toyland-plot .labels text").all_text_contents() == [
        "item-knn", "popularity", "sasrec",
    ]  # fmt: skip
    assert page.locator("#count").inner_text() == "10 rows"


@pytest.mark.parametrize("way", ["click", "keyboard"])
def test_a_column_sorts_best_first_then_worst_first_then_as_printed(site, visit, way):
    page = visit().open(site)
    table = "toyland-table-0"
    printed = visible_methods(page)
    index = heads(page, table).index("NDCG@5") + 1

    def sort(direction):
        title = head(page, table, "NDCG@5")
        if way == "click":
            title.click()
        else:
            title.locator("[role=button]").first.focus()
            page.keyboard.press("Enter")
        sorted_by(page, table, "NDCG@5", direction)
        return [float(text) for text in column(page, table, index)]

    first = sort("descending")
    assert first == sorted(first, reverse=True)
    second = sort("ascending")
    assert second == sorted(second)
    sort(None)
    assert visible_methods(page) == printed
    # The other table keeps its order.
    assert visible_methods(page, "bookshop-table-0") == printed


def test_times_sort_by_seconds_not_by_text(site, visit):
    page = visit().open(site)
    head(page, "toyland-table-0", "Training").click()
    sorted_by(page, "toyland-table-0", "Training", "ascending")
    assert visible_methods(page)[-3:] == ["popularity", "item-knn", "sasrec"]


def test_search_narrows_every_table_and_says_how_far(site, visit):
    page = visit().open(site)
    page.get_by_label("Search").fill("knn")
    assert visible_methods(page) == visible_methods(page, "bookshop-table-0") == ["item-knn"]
    assert page.locator("#count").inner_text() == "2 of 10 rows"
    page.get_by_label("Search").fill("0.1")  # figures are not searched
    assert page.locator("#toyland-table-0 tbody").inner_text().strip() == "No method matches."
    page.get_by_label("Search").fill("")
    assert len(visible_methods(page)) == 4


def test_family_filter_hides_rows_and_points(site, visit):
    page = visit().open(site)
    chip = page.get_by_role("button", name="Reference")
    chip.click()
    assert chip.get_attribute("aria-pressed") == "false"
    assert visible_methods(page) == ["sasrec"]
    assert page.locator("#toyland-plot .labels text").all_text_contents() == ["sasrec"]
    chip.press("Space")
    assert len(visible_methods(page)) == 4


def test_rows_of_other_users_stand_apart(site, visit):
    page = visit().open(site)
    page.locator("#toyland summary").click()
    assert visible_methods(page, "toyland-table-1") == ["tallrec"]
    assert "50" in column(
        page, "toyland-table-1", heads(page, "toyland-table-1").index("Users") + 1
    )


def test_exact_figure_and_origin_on_hover_focus_and_arrow_keys(site, visit, runs):
    page = visit().open(site)
    tip = page.locator("#tip")
    assert not tip.is_visible()
    cell = page.locator("#toyland-table-0 tbody tr").filter(has_text="sasrec").locator("td.primary")
    cell.hover()
    shown = tip.inner_text()
    assert cell.get_attribute("data-order") in shown
    assert "95 % CI" in shown
    assert "seeds 0, 1" in shown
    ids = [run.run_id for run in runs if run.method == "sasrec" and run.target == "toyland"]
    assert all(run_id in shown for run_id in ids)
    page.mouse.move(2, 2)
    assert not tip.is_visible()

    # One stop of the tab key per table, arrows inside.
    cells = page.locator("#toyland-table-0 td[data-tip]")
    assert page.locator("#toyland-table-0 td[data-tip][tabindex='0']").count() == 1
    cells.first.focus()
    assert tip.inner_text().startswith("item-knn: NDCG@1 ")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    assert tip.inner_text().startswith("popularity: NDCG@3 ")
    assert page.evaluate("document.activeElement.getAttribute('aria-describedby')") == "tip"
    page.keyboard.press("Escape")
    assert not tip.is_visible()


def test_ranks_sort_by_place_and_stand_on_the_methods_page(site, visit):
    page = visit().open(site)
    table = "toyland-table-0"
    index = heads(page, table).index("Rank") + 1
    ranks = dict(zip(visible_methods(page), column(page, table, index), strict=True))
    table_json = json.loads((site.parent / "tables/toyland.json").read_text())
    places = {row["label"]: row["rank"] for row in table_json["blocks"][0]["rows"]}
    assert len({tuple(place) for place in places.values()}) > 1
    for label, (best, worst) in places.items():
        assert ranks[label] == (str(best) if best == worst else f"{best}–{worst}")
    head(page, table, "Rank").click()
    sorted_by(page, table, "Rank", "ascending")
    first = visible_methods(page)
    assert [sum(places[label]) for label in first] == sorted(map(sum, places.values()))
    page.locator(f"#{table}").get_by_role("link", name="sasrec").click()
    assert f"rank {ranks['sasrec']} in NDCG@5" in page.locator("main").inner_text()


@pytest.fixture
def any_names(monkeypatch):
    """Runs under names that no manifest may hold: the page escapes them whatever its reader lets pass."""
    monkeypatch.setattr("bench.runs.stored.manifest_fault", lambda manifest: None)


def test_full_ranking_and_other_draws_stand_folded_under_the_table(tmp_path, visit, any_names):
    write = RunWriter(tmp_path / "store")
    full, draw = random_outcomes(80, 7, c=200), random_outcomes(80, 8)
    run = scored_on(write(HOSTILE[0], random_outcomes(80, 6)), full=full, draws={1: draw})
    index = site_of([run], tmp_path / "site", ["toyland"])
    page = visit().open(index)
    companion = page.locator("#toyland details.companion")
    assert not companion.locator("table").first.is_visible()
    companion.locator("summary").click()
    rows = companion.locator("tbody tr")
    assert rows.count() == 2
    expected = f"{metric_per_user(full, 'hr@10').mean():.4f}"
    assert rows.first.locator("th").inner_text() == HOSTILE[0]
    assert rows.first.locator("td").first.inner_text() == expected
    assert f"{metric_per_user(draw, 'ndcg@5').mean():.4f}" in rows.last.inner_text()


def test_opening_a_method_from_the_table_and_from_the_plot(site, visit):
    page = visit().open(site)
    page.locator("#toyland-table-0").get_by_role("link", name="sasrec").click()
    assert page.locator("h1").inner_text() == "sasrec"
    text = page.locator("main").inner_text()
    assert "hidden_size" in text
    assert "a" * 64 in text
    assert page.locator("section.target").count() == 2
    page.locator(".back a").click()
    point = page.locator("#toyland-plot .points a").last
    assert "sasrec" in point.get_attribute("aria-label")
    point.focus()
    assert "Training, wall time (s): 120" in page.locator("#tip").inner_text() or "121" in (
        page.locator("#tip").inner_text()
    )
    page.keyboard.press("Enter")
    page.wait_for_url("**/methods/sasrec.html")


def test_plot_follows_the_chosen_metric_and_cost(site, visit):
    page = visit().open(site)
    figure = page.locator("#toyland-plot")
    before = figure.locator("svg.plot").get_attribute("aria-label")
    figure.get_by_label("Metric").select_option("auc")
    figure.get_by_label("Cost").select_option("memory")
    after = figure.locator("svg.plot").get_attribute("aria-label")
    assert before == "NDCG@5 against Training, wall time (s, log scale)"
    assert after == "AUC against Peak memory (MB, log scale)"
    # The hand-written runs record no memory: no point, and the note names them.
    assert figure.locator(".points a").count() == 0
    assert "Without this cost: item-knn, popularity, sasrec." in figure.inner_text()


def test_training_curve_is_drawn(tmp_path, visit):
    write = RunWriter(tmp_path / "store")
    run = write("gru4rec", random_outcomes(60, 1), family="single-domain")
    manifest = json.loads((run.path / "manifest.json").read_text())
    history = [{"epoch": i, "ndcg@5": 0.3 + 0.01 * i} for i in (1, 2, 3)]
    manifest["training"] = {"best_epoch": 3, "history": history}
    (run.path / "manifest.json").write_text(json.dumps(manifest))
    from bench.runs.stored import read_run

    index = site_of([read_run(run.path)], tmp_path / "site", ["toyland"])
    page = visit().open(index.parent / "methods/gru4rec.html")
    assert page.locator("figure.curve .epochs circle").count() == 2
    assert page.locator("figure.curve .best circle").count() == 1


HOSTILE = [
    "<img src=x onerror=\"document.title='pwned'\">",
    "</script><script>document.title='pwned'</script>",
    "&lt;img src=x onerror=document.title='pwned'&gt;",
    "a\"b'c` onfocus=document.title='pwned' autofocus x=\"",
    "{{constructor.constructor('document.title=1')()}} ${document.title=1}",
]


def test_hostile_names_and_titles_stay_text(tmp_path, visit, any_names):
    write = RunWriter(tmp_path / "store")
    target = "<svg onload=\"document.title='pwned'\">"
    runs = [
        write(
            name,
            random_outcomes(80, i, 0.5 + i / 10),
            family=HOSTILE[(i + 1) % 5] if i else "reference",
            target=target,
            config={name: name, "layers": [name]},
            overrides={},
            profile=name[:20],
        )
        for i, name in enumerate(HOSTILE)
    ]
    index = site_of(runs, tmp_path / "site", [target])
    page = visit().open(index)
    assert page.title() == "Leaderboards"
    assert page.locator("h2").inner_text() == target
    names = page.locator("table.board tbody a")
    assert sorted(names.all_inner_texts()) == sorted(HOSTILE)
    assert page.locator("img, iframe, object, main svg:not(.bar):not(.plot)").count() == 0
    page.get_by_label("Search").fill("<img src=x onerror")
    # The last one's family has the words; nothing else has, in particular not what looks escaped.
    assert sorted(names.all_inner_texts()) == sorted([HOSTILE[0], HOSTILE[4]])
    page.get_by_label("Search").fill("")
    page.locator("table.board td.primary").first.focus()
    page.locator("table.board thead th").first.click()
    page.locator("table.board thead th[aria-sort=ascending]").first.wait_for()
    for number in range(len(HOSTILE)):
        names.nth(number).click()
        heading = page.locator("h1").inner_text()
        assert heading in HOSTILE
        assert page.title() == f"{heading} – Leaderboards"
        assert page.locator("dd").first.inner_text() in (heading, f"['{heading}']", str([heading]))
        page.go_back()
    assert page.title() == "Leaderboards"


def test_phone_shows_names_and_never_scrolls_the_page_sideways(site, visit):
    page = visit(**PHONE).open(site)
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= PHONE["viewport"]["width"]
    box = page.locator("#toyland-table-0 tbody th").first.bounding_box()
    assert box["width"] > 100
    # The name stays in sight while the figures scroll below it.
    page.locator("#toyland .scroll").first.evaluate("element => element.scrollLeft = 200")
    assert page.locator("#toyland-table-0 tbody th").first.bounding_box()["x"] >= 0
    page.locator("#toyland-table-0 td.primary").first.tap()
    tip = page.locator("#tip").bounding_box()
    assert tip["x"] >= 0
    assert tip["x"] + tip["width"] <= PHONE["viewport"]["width"]


def contrast(page, selector: str) -> float:
    """WCAG contrast of an element's text and the page behind it."""
    return page.locator(selector).first.evaluate(
        """element => {
          const draw = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
          const light = (css) => {
            draw.fillStyle = css; draw.fillRect(0, 0, 1, 1);
            const [r, g, b] = [...draw.getImageData(0, 0, 1, 1).data].slice(0, 3).map((v) => {
              v /= 255; return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
            });
            return 0.2126 * r + 0.7152 * g + 0.0722 * b;
          };
          const [a, b] = [light(getComputedStyle(element).color),
                          light(getComputedStyle(document.body).backgroundColor)].sort((x, y) => y - x);
          return (a + 0.05) / (b + 0.05);
        }"""
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_both_colour_schemes_are_legible(site, visit, scheme):
    page = visit(color_scheme=scheme).open(site)
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(255, 255, 255)") == (scheme == "light")
    for selector in ("td.primary", "td.family", "tbody a", ".notes", "thead th", ".facts", ".lead"):
        assert contrast(page, selector) >= 4.5, selector


def test_print_hides_the_controls_and_is_light(site, visit):
    page = visit(color_scheme="dark").open(site)
    page.emulate_media(media="print", color_scheme="light")
    for selector in (".controls", ".choices", "nav", ".downloads"):
        assert not page.locator(selector).first.is_visible(), selector
    assert page.locator("#toyland-table-0").is_visible()
    assert page.locator("svg.plot").first.is_visible()
    pdf = page.pdf(format="A4")
    assert pdf.startswith(b"%PDF")


def test_page_is_readable_without_scripts(site, visit):
    page = visit(java_script_enabled=False).open(site)
    assert len(visible_methods(page)) == 4
    assert page.locator("#toyland .bar").count() >= 4
    assert not page.locator(".controls").is_visible()
    assert not page.locator("figure.plot").first.is_visible()


def test_works_from_a_host_under_the_same_policy(site, browser):
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

    handler = functools.partial(Quiet, directory=str(site.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        context = browser.new_context()
        page = context.new_page()
        problems, requests = [], []
        page.on("console", lambda message: problems.append(message.text))
        page.on("request", lambda request: requests.append(request.url))
        origin = f"http://127.0.0.1:{server.server_port}/"
        page.goto(origin)
        assert page.locator("#count").inner_text() == "10 rows"
        assert page.locator("svg.plot").count() == 2
        # The policy stops what is not the site's own, whoever asks for it.
        blocked = page.evaluate(
            """() => new Promise((done) => {
              document.addEventListener('securitypolicyviolation', (e) => done(e.violatedDirective));
              const image = new Image(); image.src = 'http://192.0.2.1/track.png';
            })"""
        )
        assert blocked == "img-src"
        assert all(url.startswith((origin, "http://192.0.2.1")) for url in requests)
        assert all("192.0.2.1" in text for text in problems)
        context.close()
        server.shutdown()
