"""The viewer in a headless browser: sliders change pictures, keys page, the scatter tells who, the filter filters."""

import numpy as np
import pytest
from chromium import launched, opened
from viewer_pages import HOSTILE, LATENTS, N, balls, data_of, deforming_model, made, page_of

from monai_betavae.networks.latent_model import decode_array
from monai_betavae.workflows.model_evaluation.viewer.planes import planes_through


@pytest.fixture(scope="module")
def browser():
    with launched() as found:
        yield found


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    path = tmp_path_factory.mktemp("viewer") / "report.html"
    path.write_text(page_of(made(balls())[0]), encoding="utf-8")
    return path


def pictures(page, place):
    return page.locator(f"{place} canvas").evaluate_all("all => all.map((canvas) => canvas.toDataURL())")


def chosen(page):
    return page.locator("#v-card h4").text_content()


def test_sliders_change_the_pictures(browser, report, tmp_path):
    with opened(browser, report) as page:
        assert page.locator("#viewer").is_visible()
        assert not page.locator("#viewer-off").is_visible()
        assert page.locator("#v-sliders input").count() == LATENTS
        start = pictures(page, "#v-brain")
        unchanged = pictures(page, "#v-change")
        first, second = page.locator("#v-sliders input").nth(0), page.locator("#v-sliders input").nth(1)
        first.focus()
        for _ in range(8):
            page.keyboard.press("ArrowRight")
        assert first.input_value() == "2"
        assert page.locator("#v-sliders output").nth(0).text_content() == "+2.00"
        one = pictures(page, "#v-brain")
        assert all(before != after for before, after in zip(start, one, strict=True))
        assert pictures(page, "#v-change") != unchanged
        assert "One slider moved: a blend" in page.locator("#v-moved").text_content()
        page.keyboard.press("End")
        assert "One slider moved: decoded" in page.locator("#v-moved").text_content()
        second.fill("-1.5")
        both = pictures(page, "#v-brain")
        assert all(before != after for before, after in zip(one, both, strict=True))
        assert "2 sliders moved" in page.locator("#v-moved").text_content()
        page.screenshot(path=tmp_path / "moved.png", full_page=True)
        page.locator("#v-reset").click()
        assert (pictures(page, "#v-brain"), pictures(page, "#v-change")) == (start, unchanged)
        page.locator("#v-match").click()
        assert pictures(page, "#v-brain") != start


def test_a_slider_at_a_step_shows_the_decoded_bytes(browser, report):
    with opened(browser, report) as page:
        page.locator("#v-sliders input").nth(1).fill("-2.25")
        # the canvas's grey against that of the page's own bytes, by the page's scale
        largest = page.evaluate("""() => {
          const { sliders } = JSON.parse(document.getElementById("viewer-data").textContent);
          const n = sliders.planes.reduce((sum, { width, height }) => sum + width * height, 0);
          const all = Uint8Array.from(atob(sliders.frames.latents[1].frames), (c) => c.charCodeAt(0));
          const bytes = all.subarray(n, 2 * n);
          const shown = [...document.querySelectorAll("#v-brain canvas")].flatMap((canvas) =>
            Array.from(canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data)
              .filter((_, i) => i % 4 === 0));
          const [low, high] = sliders.frames.stored;
          return Math.max(...shown.map((grey, i) => {
            const value = low + (bytes[i] / 255) * (high - low);
            const share = (value - sliders.shown[0]) / (sliders.shown[1] - sliders.shown[0]);
            return Math.abs(grey - 255 * Math.min(Math.max(share, 0), 1));
          }));
        }""")
        assert largest <= 0.51


def test_a_template_is_decoded_in_the_page_in_any_plane(browser, tmp_path):
    held_out = balls()
    network = deforming_model(held_out)
    text = page_of(made(held_out, network=network)[0])
    given = data_of(text)["sliders"]
    (tmp_path / "report.html").write_text(text, encoding="utf-8")
    code, values, centre = np.zeros((1, LATENTS), np.float32), [2.25, -1.5, 0.75], [5, 4, 7]
    code[0, [each["latent"] for each in given["template"]["latents"]]] = values
    expected = planes_through(decode_array(network, code)[:, 0], centre)[0]
    low, high = given["shown"]
    expected = 255 * np.clip((expected - low) / (high - low), 0, 1)
    with opened(browser, tmp_path / "report.html") as page:
        for index, value in enumerate(values):
            page.locator(f"#v-slider-{index}").fill(str(value))
        for index, place in enumerate(centre):
            page.locator("#v-positions input").nth(index).fill(str(place))
        assert page.locator("#v-moved").text_content() == "3 sliders moved: decoded in this page."
        assert "z +21 mm" in page.locator("#v-brain").text_content()
        shown = page.locator("#v-brain canvas").evaluate_all(
            "all => all.flatMap((canvas) => Array.from(canvas.getContext('2d').getImageData(0, 0, canvas.width, "
            "canvas.height).data).filter((_, i) => i % 4 === 0))"
        )
        # bytes of the components, and that of the picture
        assert np.abs(np.array(shown) - expected).max() <= 2
        page.locator("#v-reset").click()
        assert page.locator("#v-moved").text_content().startswith("All sliders at 0")


def test_keys_and_buttons_page_through_subjects(browser, report):
    with opened(browser, report) as page:
        assert (chosen(page), page.locator("#v-place").text_content()) == ("sub-0", f"1 of {N}")
        first = pictures(page, "#v-pictures")
        assert len(first) == 12
        assert page.locator("#v-previous").is_disabled()
        page.locator("#v-pager").focus()
        page.keyboard.press("ArrowRight")
        assert chosen(page) == HOSTILE
        assert all(before != after for before, after in zip(first, pictures(page, "#v-pictures"), strict=True))
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowLeft")
        page.keyboard.press("ArrowLeft")
        assert chosen(page) == "sub-0"
        assert pictures(page, "#v-pictures") == first
        page.locator("#v-next").click()
        page.locator("#v-subject").select_option(label="sub-7")
        assert page.locator("#v-place").text_content() == f"8 of {N}"
        middle = pictures(page, "#v-pictures")
        page.locator("#v-view").select_option("1")
        assert pictures(page, "#v-pictures") != middle
        before = pictures(page, "#v-pictures")
        page.locator("#v-threshold").fill("6")
        after = pictures(page, "#v-pictures")
        # columns are image, reconstruction, residual, deviation: the last alone has a threshold
        assert [old == new for old, new in zip(before, after, strict=True)] == [True, True, True, False] * 3
        page.locator("#v-order").select_option(label="age, highest first")
        assert chosen(page) == f"sub-{N - 1}"


def test_the_scatter_tells_who_is_there(browser, report):
    with opened(browser, report) as page:
        svg = page.locator("#v-scatter svg")
        svg.scroll_into_view_if_needed()
        assert svg.locator("path").count() == N
        box = svg.locator("path").nth(4).bounding_box()
        place = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        page.mouse.move(*place)
        assert page.locator("#v-who h4").text_content() == "sub-4"
        assert "age 24.5" in page.locator("#v-who").text_content()
        assert "sub-4" in svg.text_content()
        page.mouse.click(*place)
        assert chosen(page) == "sub-4"
        page.mouse.move(0, 0)
        svg.focus()
        seen = []
        page.keyboard.press("ArrowLeft")
        for _ in range(N):
            page.keyboard.press("ArrowLeft")
        for _ in range(N):
            seen.append(page.locator("#v-who h4").text_content())
            page.keyboard.press("ArrowRight")
        assert len(set(seen)) == N
        page.keyboard.press("Enter")
        assert chosen(page) == seen[-1]
        page.locator("#v-x").select_option("2")
        assert page.locator("#v-scatter svg").locator("path").nth(4).bounding_box()["x"] != box["x"]
        page.locator("#v-colour").select_option(label="sex")
        assert page.locator("#v-legend").text_content() == "FM(missing)"
        assert (
            svg.locator("path").evaluate_all("paths => new Set(paths.map((path) => path.getAttribute('d'))).size") == 2
        )


def test_the_filter_acts_on_scatter_and_pager(browser, report):
    with opened(browser, report) as page:
        n_female = sum(record["sex"] == "F" for record in balls().records)
        page.get_by_label("M", exact=True).uncheck()
        page.get_by_label("(missing)", exact=True).uncheck()
        assert page.locator("#v-count").text_content() == f"{n_female} of {N} subjects"
        assert page.locator("#v-scatter path").count() == n_female
        assert page.locator("#v-subject option").count() == n_female
        page.get_by_label("age from").fill("30")
        page.get_by_label("age to").fill("33")
        # ages are 20.5 + row: 30.5 and 32.5 are women's
        assert page.locator("#v-subject option").all_text_contents() == ["sub-10", "sub-12"]
        assert chosen(page) == "sub-10"
        page.get_by_label("age to").fill("29")
        assert page.locator("#v-none").is_visible()
        assert not page.locator("#v-shown").is_visible()
        assert page.locator("#v-match").is_disabled()
        page.locator("#v-clear").click()
        assert page.locator("#v-count").text_content() == f"{N} of {N} subjects"
        assert page.locator("#v-shown").is_visible()


@pytest.mark.parametrize("width", [1280, 800, 400])
def test_nothing_is_wider_than_the_page(browser, report, width):
    with opened(browser, report, width) as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_all_of_it_has_a_name_and_can_be_reached_by_keys(browser, report):
    with opened(browser, report) as page:
        nameless = page.locator("#viewer :is(button, select, input)").evaluate_all(
            "all => all.filter((e) => !(e.getAttribute('aria-label') || e.textContent.trim() || e.labels?.length))"
            ".map((e) => e.id)"
        )
        assert nameless == []
        reached = set()
        for _ in range(60):
            page.keyboard.press("Tab")
            reached.add(page.evaluate("document.activeElement.id || document.activeElement.tagName"))
            outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
            assert outline != "none" or page.evaluate("document.activeElement.tagName") == "BODY"
        assert {"v-slider-0", "v-reset", "v-x", "svg", "v-pager", "v-next", "v-subject", "v-threshold"} <= reached


def test_without_scripts_the_page_says_so(browser, report):
    with opened(browser, report, scripts=False) as page:
        assert page.locator("#viewer-off").is_visible()
        assert not page.locator("#viewer").is_visible()
