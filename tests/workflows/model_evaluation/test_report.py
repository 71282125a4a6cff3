"""The report: one file, everything escaped, nothing fetched."""

import html.parser
import math
import re

import pytest
from matplotlib.figure import Figure

from monai_betavae.workflows.model_evaluation.report import Report, interval_text, number_text


class Page(html.parser.HTMLParser):
    """What a browser would make of the page: tags, their attributes, and the text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.text = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, tag

    def handle_data(self, data):
        self.text.append(data)


def filled():
    report = Report("Title", "lead")
    report.section("First <b>")
    report.text("a & b < c")
    report.note("careful")
    report.note("fine", "good")
    report.table(["subject", "error"], [["<script>alert(1)</script>", 0.12345], ["=1+1", None]], "caption")
    report.facts({"beta": 4.0, "grid": '64" x'})
    figure = Figure(figsize=(1, 1))
    figure.subplots().plot([0, 1])
    report.figure(figure, 'a "figure"')
    report.figure(b"GIF89a", "moving")
    report.section("Second")
    return report


def test_the_page_is_well_formed_and_says_what_was_given():
    page = Page(filled().page())
    assert page.open == []
    text = " ".join(page.text)
    for expected in ("Title", "lead", "First <b>", "a & b < c", "<script>alert(1)</script>", "0.123", "–", "caption"):
        assert expected in text
    assert [tag for tag, _ in page.tags].count("h2") == 2
    links = [attrs["href"] for tag, attrs in page.tags if tag == "a"]
    assert links == ["#section-1", "#section-2"]
    assert [attrs["id"] for tag, attrs in page.tags if tag == "h2"] == ["section-1", "section-2"]


def test_nothing_is_fetched_and_no_script_runs():
    text = filled().page()
    page = Page(text)
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in page.tags}
    sources = [attrs["src"] for _, attrs in page.tags if "src" in attrs]
    assert [source.split(";")[0] for source in sources] == ["data:image/png", "data:image/gif"]
    assert not re.findall(r"https?://", text)
    policy = next(attrs["content"] for tag, attrs in page.tags if attrs.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy


def test_numbers_stand_right_where_a_column_has_nothing_else():
    report = Report("t")
    report.table(["name", "value"], [["a", 1.0], ["b", None]])
    page = Page(report.page())
    cells = [attrs.get("class") for tag, attrs in page.tags if tag in ("th", "td")]
    assert cells == [None, "number"] * 3


def test_a_note_of_another_kind():
    with pytest.raises(ValueError, match="`kind` must be one of 'warning', 'good', 'plain', got 'bad'"):
        Report("t").note("x", "bad")


def test_write_is_whole(tmp_path):
    filled().write(tmp_path / "a" / "report.html")
    assert (tmp_path / "a" / "report.html").read_text(encoding="utf-8") == filled().page()
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["report.html"]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0, "0"),
        (0.0, "0"),
        (-0.5, "-0.500"),
        (12.345, "12.3"),
        (123456.7, "123457"),
        (1.5e-7, "1.5e-07"),
        (2.5e9, "2500000000"),
        (math.inf, "–"),
        (None, "–"),
    ],
)
def test_numbers(value, expected):
    assert number_text(value) == expected


def test_intervals():
    assert interval_text(1.0, math.nan, math.nan) == "1"
    assert interval_text(-0.25, -0.5, 0.125) == "-0.250 [-0.500, 0.125]"
