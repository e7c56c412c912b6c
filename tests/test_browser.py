"""The report in a browser: it opens from disk without an error, a request or a missing image."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote

import nbformat
import pytest
from axe_playwright_python.sync_playwright import Axe
from chapters import CHAPTERS

from kdutils.report.exporters import PageExporter

pytest_plugins = ["smoke_report", "chromium"]
WIDE = {"width": 1200, "height": 900}
LOOKS = """
[...document.body.querySelectorAll('*')].filter(element => element.checkVisibility()).map(element => {
    const {color, fontSize, fontWeight} = getComputedStyle(element), behind = []
    for (let under = element; under; under = under.parentElement) {
        const {backgroundColor, opacity} = getComputedStyle(under)
        behind.push(`${backgroundColor} ${opacity}`)
    }
    return [color, fontSize, fontWeight, ...behind.filter(each => each != 'rgba(0, 0, 0, 0) 1')].join(' ')
})
"""


@pytest.fixture(scope="module", params=["index", *CHAPTERS])
def visit(request, browser, smoke):
    """An opened page, with the list of what went wrong and of what it asked for."""
    page = browser.new_page(viewport=WIDE)
    page.errors, page.asked = [], []
    page.on(
        "console", lambda message: page.errors.append(message.text) if message.type in ("error", "warning") else None
    )
    page.on("pageerror", lambda error: page.errors.append(str(error)))
    page.on("requestfailed", lambda asked: page.errors.append(asked.url))
    page.on("request", lambda asked: page.asked.append(asked.url))
    page.goto((smoke.reports / f"{request.param}.html").as_uri(), wait_until="load", timeout=120_000)
    page.evaluate("document.querySelectorAll('img').forEach(image => image.loading = 'eager')")
    page.wait_for_function("[...document.images].every(image => image.complete)", timeout=120_000)
    yield page
    page.close()


def test_it_opens_without_an_error_or_a_request_outside(visit):
    assert visit.errors == []
    assert visit.asked and [url[:80] for url in visit.asked if not url.startswith(("file://", "data:"))] == []


def test_every_image_is_seen(visit):
    images = visit.evaluate(
        "[...document.images].map(image => [image.naturalWidth, image.getBoundingClientRect().width])"
    )
    assert images and all(natural > 0 and shown > 0 for natural, shown in images)


def test_maths_is_set_as_mathml(visit):
    maths = visit.evaluate(
        "[...document.querySelectorAll('math')].map(m => [m instanceof MathMLElement, m.getBoundingClientRect().width])"
    )
    assert all(native and width > 0 for native, width in maths)
    assert bool(maths) == (not visit.url.endswith("index.html"))
    assert "$" not in visit.inner_text("main") and "\\frac" not in visit.inner_text("main")


def test_lines_of_equations_end_at_their_mark(browser):
    cell = nbformat.v4.new_markdown_cell(r"$$\begin{aligned} a + u &= b \\ c &= d \end{aligned}$$")
    html, _ = PageExporter().from_notebook_node(nbformat.v4.new_notebook(cells=[cell]), {"metadata": {"path": "."}})
    page = browser.new_page(viewport=WIDE)
    page.set_content(html)
    ends = page.evaluate("[...document.querySelectorAll('mi')].map(m => m.getBoundingClientRect().right)")
    page.close()
    (_, u, _, c, _) = ends
    assert abs(u - c) < 1


def test_code_is_folded_away_but_for_formulas(visit, smoke):
    folds = visit.evaluate("[...document.querySelectorAll('details.code')].map(fold => fold.open)")
    path = smoke.reports / Path(unquote(visit.url)).name
    cells = [] if path.stem == "index" else nbformat.read(path.with_suffix(".ipynb"), as_version=4).cells
    assert folds.count(True) == sum("show-input" in cell.metadata.get("tags", []) for cell in cells)
    assert folds.count(False) > 3 or not cells
    assert not visit.evaluate("[...document.querySelectorAll('details.solution')].some(fold => fold.open)")


def test_a_narrow_screen_does_not_scroll_sideways(visit):
    visit.set_viewport_size({"width": 390, "height": 800})
    assert visit.evaluate("document.documentElement.scrollWidth") <= 390
    visit.set_viewport_size(WIDE)


@pytest.fixture(scope="module")
def met():
    """The looks of text whose contrast was checked, by colour scheme."""
    return {"light": set(), "dark": set()}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_barrier(visit, scheme, met):
    visit.emulate_media(color_scheme=scheme)
    looks = set(visit.evaluate(LOOKS)) - met[scheme]  # nothing else decides on contrast, which takes longest to check
    met[scheme] |= looks
    if looks or scheme == "light":
        options = {"rules": {"color-contrast": {"enabled": bool(looks)}}, "resultTypes": ["violations"]}
        only = {"runOnly": ["color-contrast"]} if scheme == "dark" else {}  # all that differs
        found = Axe().run(visit, options=options | only)
        assert found.violations_count == 0, found.generate_report()


def test_the_index_leads_to_a_chapter_and_back(browser, smoke):
    page = browser.new_page()
    page.goto((smoke.reports / "index.html").as_uri())
    page.click("h2 a >> text=Task 3")
    page.wait_for_url("**/03_one_teacher.html")
    assert page.inner_text("h1") == "Task 3: one teacher"
    page.click("a[rel=index]")
    page.wait_for_url("**/index.html")
    page.close()
