"""The report in a real browser: no errors, nothing loaded, sorting by a click, narrow screens, hostile names."""

from __future__ import annotations

import pytest

from cpt_plugin.cli.main import main
from cpt_plugin.results.record import save
from tests.helpers import browser
from tests.helpers.records import make_record

HOSTILE = '"><img src=x onerror="window.hacked=1"><script>window.hacked=1</script>'
PHONE = 390

pytestmark = pytest.mark.skipif(browser.find() is None, reason="no Chromium here (Debian's package: chromium)")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A report on three methods with H 10 apart, a hostile variant among them, and a run whose seed is missing."""
    pytest.importorskip("matplotlib")
    place = tmp_path_factory.mktemp("browser") / "an output #1"
    hits = {"coop": (9, 9), "maple": (2, 2), "maple_cpt": (5, 5)}
    for name, correct in hits.items():
        for seed in (1, 2) if name != "maple" else (1,):
            record = make_record(name, seed, correct=correct, new_correct=correct)
            save(record, place / name / f"seed{seed}" / "record.json")
            (place / name / f"seed{seed}" / "log.txt").write_text("a log")
    save(make_record("coop_cpt", 1, variant=HOSTILE, dataset=HOSTILE), place / "hostile" / "record.json")
    assert main(["report", str(place)]) == 0
    return place


@pytest.fixture(scope="module")
def page(folder):
    with browser.browser() as opened:
        opened.open((folder / "report.html").as_uri())
        yield opened


TABLE = "[...document.querySelectorAll('table')].find((t) => t.rows.length === 4)"


def first_column(page):
    return page.evaluate(f"[...{TABLE}.tBodies[0].rows].map((row) => row.cells[0].textContent)")


def test_nothing_is_loaded_and_nothing_complains(page, folder):
    own = (folder / "report.html").as_uri()
    assert own in page.requests
    assert [url[:60] for url in page.requests if url != own and not url.startswith("data:image/png;base64,")] == []
    assert page.complaints == []


def test_the_watch_for_complaints_and_requests_works(folder):
    with browser.browser() as opened:
        opened.open("data:text/html,<img src='file:///nowhere.png'><script>console.error('oh'); nothing();</script>")
        assert any("oh" in line for line in opened.complaints)
        assert any("nothing is not defined" in line for line in opened.complaints)
        assert any("nowhere.png" in url for url in opened.requests)


def test_images_are_shown(page):
    sizes = page.evaluate("[...document.images].map((image) => image.naturalWidth)")
    assert len(sizes) >= 5
    assert min(sizes) > 300


def test_a_click_on_a_head_sorts_and_a_second_one_turns_the_order(page):
    assert first_column(page) == ["coop", "maple", "maple_cpt"]
    head = f"[...{TABLE}.tHead.rows[0].cells].find((c) => c.textContent === 'H').firstChild"
    page.click(head)
    assert first_column(page) == ["maple", "maple_cpt", "coop"]
    page.click(head)
    assert first_column(page) == ["coop", "maple_cpt", "maple"]
    assert page.evaluate(f"{head}.parentNode.getAttribute('aria-sort')") == "descending"
    page.click(f"{TABLE}.tHead.rows[0].cells[0].firstChild")
    assert first_column(page) == ["coop", "maple", "maple_cpt"]
    assert page.evaluate(f"{TABLE}.querySelectorAll('[aria-sort]').length") == 1


def test_names_from_records_are_text(page):
    assert page.evaluate("typeof window.hacked") == "undefined"
    assert page.evaluate("document.scripts.length") == 1
    assert page.evaluate("[...document.images].every((image) => image.src.startsWith('data:image/png'))")
    assert HOSTILE in page.evaluate("document.body.textContent")


def test_links_lead_to_the_files_of_each_run(page, folder):
    links = page.evaluate("[...document.links].map((a) => a.href).filter((href) => !href.includes('#part'))")
    records = {path.as_uri() for path in folder.rglob("record.json")}
    logs = {path.as_uri() for path in folder.rglob("log.txt")}
    assert set(links) == records | logs


def test_a_telephone_scrolls_tables_and_not_the_page(page):
    page.call("Emulation.setDeviceMetricsOverride", width=PHONE, height=800, deviceScaleFactor=2, mobile=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    page.call("Emulation.clearDeviceMetricsOverride")
