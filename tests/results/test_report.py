"""The report's page as text: what is shown, what is said to be missing, escaping, the same bytes; no browser needed."""

from __future__ import annotations

import re
import sys
from html.parser import HTMLParser

import pytest

from cpt_plugin.cli.main import main
from cpt_plugin.errors import RecordError
from cpt_plugin.results.features import FILE
from cpt_plugin.results.record import save
from cpt_plugin.results.report import html
from cpt_plugin.results.report.gather import gather
from cpt_plugin.results.report.html import Cell
from cpt_plugin.results.store import Failure, add_failure, to_lines
from tests.helpers.records import make_record

HOSTILE = "<script>alert(1)</script>&\"'"


@pytest.fixture
def folder(tmp_path):
    """Two methods, of which one lacks a seed; a run that failed, one that failed and then finished, one begun."""
    place = tmp_path / "output"
    for name, seeds in {"maple": (1, 2), "maple_cpt": (1,)}.items():
        for seed in seeds:
            save(make_record(name, seed), place / name / f"seed{seed}" / "record.json")
    for method, seed in (("maple_cpt", 2), ("maple", 1)):
        key = (method, "", "shapes", 0.25, seed, "base_to_new")
        add_failure(place, Failure(*key, f"loss is nan {HOSTILE}", "2026-01-01T00:00:00+00:00"))
    begun = place / "coop" / "seed1"
    begun.mkdir(parents=True)
    (begun / "run.json").write_text("{}")
    return place


class Reader(HTMLParser):
    """Text by the element it stands in; tags that are opened; attributes."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.words, self.attributes = [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.words.append(data)


def report(folder, *options):
    assert main(["report", str(folder), "--no-figures", *options]) == 0
    return (folder / "report.html").read_text(encoding="utf-8")


def section(page, title):
    return next(part for part in page.split("<h2")[1:] if f">{title}<" in part)


def test_what_is_missing_failed_begun_and_damaged_is_said(folder):
    (folder / "maple" / "record-damaged.json").write_text("{")
    (folder / "maple" / FILE).write_bytes(b"no features")
    lacking = section(report(folder), "Missing and failed")
    assert "shapes, tau 0.25, base to new: maple_cpt, seeds 2" in lacking
    assert lacking.count("loss is nan") == 1
    assert "maple_cpt, seed 2, at 2026-01-01T00:00:00+00:00: loss is nan" in lacking
    assert "coop/seed1" in lacking
    assert "record-damaged.json: is not JSON" in lacking
    assert f"maple/{FILE}: features cannot be read" in lacking


def test_damaged_files_and_figures_that_cannot_be_drawn_are_said_where_it_was_typed(folder, capsys, monkeypatch):
    (folder / "maple" / "record-damaged.json").write_text("{")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["report", str(folder)]) == 0
    printed = capsys.readouterr()
    assert "1 damaged file named in it" in printed.out
    assert printed.err.count("Without figures: ") == 1
    assert "matplotlib" in printed.err


def test_expected_seeds_can_be_given(folder):
    assert "maple, seeds 3" in section(report(folder, "--seeds", "1,2,3"), "Missing and failed")


def test_records_that_do_not_belong_together_are_said_and_shown_as_runs(folder):
    save(make_record("coop", 1, shots=4), folder / "other" / "record.json")
    page = report(folder)
    assert "records of one table differ in shots" in section(page, "Missing and failed")
    assert section(page, "Runs").count("<tr>") == 5
    assert "id=" in page
    assert "shapes, tau 0.25, base to new</h2>" not in page


def test_every_text_from_records_is_escaped(folder):
    changes = {"dataset": HOSTILE, "variant": HOSTILE, "device": HOSTILE, "versions": {HOSTILE: HOSTILE}}
    record = make_record("coop", 1, created=HOSTILE, config={HOSTILE: HOSTILE}, **changes)
    save(record, folder / HOSTILE.replace("/", "") / "record.json")
    read = Reader(report(folder))
    assert read.tags.count("script") == 1
    assert HOSTILE in " ".join(read.words)
    links = [value for name, value in read.attributes if name == "href" and not value.startswith("#")]
    assert len(links) == 4
    assert all(re.fullmatch(r"\./[\w%./-]+", value) for value in links)


def test_a_page_asks_for_nothing_and_allows_its_own_script_only(folder):
    page = report(folder)
    assert not re.search(r"https?://|@import|url\(", page)
    read = Reader(page)
    policy = next(value for name, value in read.attributes if value and value.startswith("default-src"))
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert "unsafe" not in policy
    assert not {"link", "iframe", "object", "base"} & {*read.tags}


def test_the_same_records_give_the_same_page_and_a_second_report_does_not_count_the_first(folder):
    assert report(folder) == report(folder)


def test_links_are_relative_to_where_the_page_lies(folder):
    elsewhere = folder.parent / "pages" / "one.html"
    (folder / "maple" / "seed1" / "log.txt").write_text("a log")
    assert main(["report", str(folder), "--no-figures", "-o", str(elsewhere)]) == 0
    page = elsewhere.read_text(encoding="utf-8")
    assert 'href="./../output/maple/seed1/record.json"' in page
    assert page.count("log.txt</a>") == 1
    assert str(folder) not in page


def test_exported_records_count_once_beside_their_own_files(folder):
    before = gather(folder).records
    (folder / "all.jsonl").write_text(to_lines([*before, make_record("coop", 9)]))
    assert len(gather(folder).records) == len(before) + 1


def test_a_table_of_configs_is_added_with_published_figures_apart(folder):
    page = report(folder, "--table", "seeds")
    part = section(page, "Harmonic mean by seed")
    assert ">coop<" in part
    assert "missing: coop, base to new, tau 0.25: all 5 runs" in part


def test_settings_and_environment_are_listed_with_their_owners(folder):
    save(make_record("coop", 1, config={"OPTIM.LR": 0.5}, device="cuda"), folder / "coop" / "record.json")
    page = report(folder)
    settings = section(page, "Configuration")
    assert "0.002: maple, maple_cpt; 0.5: coop" in settings
    assert settings.index("OPTIM.LR") < settings.index("OPTIM.NAME")
    assert "OUTPUT_DIR" not in settings
    assert "cpu (3 runs); cuda (1 runs)" in section(page, "Environment")


def test_numbers_sort_by_value_and_what_is_lacking_by_none():
    table = html.table("a", ["b", "c"], [["x", Cell("9.0 ±1", 9.0)], ["y", Cell("-", float("nan"))]])
    assert '<td data-value="9.0">9.0 ±1</td>' in table
    assert '<td data-value="">-</td>' in table


def test_figures_are_part_of_the_page_with_their_words(folder):
    pytest.importorskip("matplotlib")
    save(make_record("maple_cpt", 1, variant="x", config={"OPTIM.LR": 0.5}), folder / "variant" / "record.json")
    assert main(["report", str(folder)]) == 0
    read = Reader((folder / "report.html").read_text(encoding="utf-8"))
    captions = [value for name, value in read.attributes if name == "alt"]
    assert len(captions) == read.tags.count("img") == 5
    assert any(words.startswith("Spread over seeds") and "missing: maple_cpt, seeds 2." in words for words in captions)
    assert any(caption.startswith("maple_cpt: one setting at a time") for caption in captions)


def test_nothing_to_report_is_an_error_with_the_folder(tmp_path, capsys):
    with pytest.raises(RecordError, match="there is no such folder"):
        gather(tmp_path / "nowhere")
    assert main(["report", str(tmp_path)]) == 2
    assert "no records and no begun runs" in capsys.readouterr().err


def test_accuracies_that_mean_nothing_are_said_to(folder):
    save(make_record("coop", 1, dataset="eurosat"), folder / "coop" / "seed9" / "record.json")
    words = " ".join(Reader(report(folder)).words)
    assert "accuracies mean nothing on eurosat: the micro model knows neither real images" in words
    assert words.count("ACCURACIES MEAN NOTHING here") == 1, "above its own table"
