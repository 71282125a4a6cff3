"""Texts from outside become names of files, labels of pictures, words on a page, and nothing else."""

import re
import string
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from matplotlib.cbook import is_math_text

from monai_betavae._texts import (
    DEVICES,
    FORBIDDEN,
    HIDDEN,
    JOINERS,
    MAX_STEM_LENGTH,
    figure_label,
    file_stem,
    make_visible,
    markdown_text,
    without_markup,
)

ANY = st.text(st.characters(codec=None, categories=None), max_size=300)


@given(ANY)
def test_a_stem_is_the_name_of_a_file_everywhere(text):
    stem = file_stem(text)
    assert not set(stem) & set(FORBIDDEN)
    assert not [character for character in stem if unicodedata.category(character) in HIDDEN]
    assert len(stem.encode()) <= MAX_STEM_LENGTH + 1  # an underscore before a device's name
    assert stem.partition(".")[0].strip().upper() not in DEVICES
    assert file_stem(stem) == stem


@pytest.mark.parametrize("name", ["con", "NUL.tar", "Com1.x.y", "lpt¹", "aux ", "CONIN$"])
def test_names_of_devices_get_an_underscore(name):
    assert file_stem(name) == "_" + name


def test_ordinary_names_stay():
    for name in ("sub-01_ses-1_T1w", "Zoë (new) 2", "日本語", "contract", "com10"):
        assert file_stem(name) == make_visible(name) == figure_label(name) == name


def test_a_name_is_cut_between_characters():
    assert file_stem("é" * 200) == "é" * (MAX_STEM_LENGTH // 2)
    assert file_stem("aé" * 200, longest=5) == "aéa"


@given(ANY)
def test_a_label_is_no_formula_and_not_long(text):
    label = figure_label(text)
    assert not is_math_text(label)
    assert not label.startswith("_")
    lines = label.replace(r"\$", "$").removeprefix(" ").split("\n")
    assert len(lines) <= 3
    assert all(len(line) <= 48 for line in lines)


@given(ANY)
def test_what_is_shown_has_a_sign_of_its_own(text):
    shown = make_visible(text)
    assert not [c for c in shown if unicodedata.category(c) in HIDDEN and c not in "\n\t" + JOINERS]
    shown.encode()  # no halves of characters
    assert make_visible(shown) == shown


def test_words_keep_their_joiners():
    word = "می\u200cخواهم"
    assert make_visible(word) == word


@given(ANY)
def test_markdown_shows_a_name_as_text(text):
    written = markdown_text(text, width=400)
    assert without_markup(written) == " ".join(make_visible(text).split())
    # no character of Markdown or HTML is left that isn't taken literally
    assert set(re.sub(r"\\[!-/:-@\[-`{-~]", "", written)) & set(string.punctuation) <= set(",-_.+")
    assert shown_by_markdown(written) == [without_markup(written)]


@given(st.text("aZ09,-_.+*~ ", max_size=12).map(lambda text: text.replace("~~", "~")))
def test_punctuation_without_a_backslash_is_no_markup(text):
    written = markdown_text(text)
    assert shown_by_markdown(written) == [without_markup(written)]


def shown_by_markdown(written):
    """What a cell and a line of Markdown contain, as one text where nothing in it is markup."""
    parser = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    shown = set()
    for page in (f"| Name | Value |\n| --- | --- |\n| x | {written} |\n", f"{written}\n"):
        inline = [token for token in parser.parse(page) if token.type == "inline"]
        children = inline[-1].children if inline else []
        assert {token.type for token in children} <= {"text"}, page
        shown.add("".join(token.content for token in children))
    return sorted(shown)


def test_markdown_cuts_long_names():
    assert markdown_text("a" * 61) == "a" * 59 + "…"
    assert markdown_text("a" * 60) == "a" * 60
