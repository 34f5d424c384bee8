"""Laws of the page in a real browser: Chromium by Playwright, from file://, with the network off.

Where Chromium lies is BENCH_CHROMIUM, else what `chromium` is on the path. BENCH_AXE names axe.min.js of the npm
package axe-core. What is not there is skipped, with its reason.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import page_made
import pytest

from bench.tables.page import build, charts

CHROMIUM = os.environ.get("BENCH_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
AXE = Path(os.environ.get("BENCH_AXE", "axe.min.js"))
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed; BENCH_CHROMIUM names another"),
    pytest.mark.skipif(not charts.available(), reason="the extra `page` is not installed"),
]
SERIOUS = ("serious", "critical")


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("browser")
    plan, results, frame = page_made.make(folder / "results")
    return build.write_page([(plan, frame)], results, folder / "page").as_uri()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: the extra `browser`")
    with api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    yield from _opened(browser, address)


def _opened(browser: Any, address: str, **how: Any) -> Iterator[Any]:
    """The page with every chart drawn; at the end nothing was complained of, and nothing asked for."""
    context = browser.new_context(offline=True, **how)
    page, said, asked = context.new_page(), [], []
    page.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: said.append(f"error: {error}"))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(address)
    page.wait_for_function(
        "document.querySelectorAll('.live svg').length === document.querySelectorAll('.live').length"
    )
    yield page
    assert said == [] and [url for url in asked if not url.startswith(("data:", "blob:"))] == [
        address.partition("#")[0]
    ]
    context.close()


def labels(page: Any) -> list[str]:
    return list(page.locator("table[data-table] tbody tr:not([hidden]) th").all_inner_texts())


@pytest.mark.slow
def test_it_loads_from_a_file_and_draws_every_chart(page: Any):
    assert page.locator(".live svg").count() == 7 and page.locator("h1").inner_text() == "Robustness of A & B"
    assert page.locator(".still").first.is_hidden() and page.locator("#records").is_hidden()


def test_a_column_sorts_down_up_and_back(page: Any):
    assert labels(page) == ["AT", "MAT_h2"]
    head = page.locator("th", has_text="FGSM").first
    for order, state in ((["MAT_h2", "AT"], "ascending"), (["AT", "MAT_h2"], None)):
        button = head.locator("button")
        if state == "ascending":
            button.click()
            assert labels(page) == ["MAT_h2", "AT"] and head.get_attribute("aria-sort") == "descending"
        button.click()
        assert head.get_attribute("aria-sort") == state
        assert labels(page) == (["AT", "MAT_h2"] if state else order)
    page.locator("th button", has_text="Network").click()
    page.locator("th button", has_text="Network").click()
    assert labels(page) == ["MAT_h2", "AT"], "names too"


def test_rows_filter_and_columns_hide(page: Any):
    page.get_by_label("Filter rows").fill("mat doubt")
    assert labels(page) == ["MAT_h2"] and page.get_by_text("1 of 2 networks").is_visible()
    page.get_by_label("Filter rows").fill("no such name")
    assert labels(page) == []
    page.get_by_label("Filter rows").fill("")
    assert page.locator("td", has_text="doubtful").first.is_visible()
    page.get_by_label("Trust", exact=True).uncheck()
    assert labels(page) == ["AT", "MAT_h2"] and page.locator("td", has_text="doubtful").first.is_hidden()


def test_a_number_opens_its_record_and_back_goes_back(page: Any):
    page.locator("td a.open").nth(1).click()
    dialog = page.get_by_role("dialog")
    assert "AT, C&W" in dialog.inner_text() and "#n" in page.url
    dialog.locator("a").first.click()
    assert "Weights, SHA-256" in dialog.inner_text() and "#a" in page.url
    dialog.get_by_role("button", name="Back").click()
    page.wait_for_function("location.hash.startsWith('#n')")
    assert "AT, C&W" in dialog.inner_text()
    dialog.get_by_role("button", name="Close").click()
    assert dialog.count() == 0 and "#" not in page.url


def test_a_link_to_a_number_can_be_sent(page: Any, browser: Any, address: str):
    link = page.locator("td a.open").first.get_attribute("href")
    for sent in _opened(browser, address + link):
        assert "AT, Clean" in sent.get_by_role("dialog").inner_text()


def test_the_gallery_opens_and_the_trust_column_too(page: Any):
    page.locator(".gallery a").first.click()
    dialog = page.get_by_role("dialog")
    assert "Linf 0.03" in dialog.inner_text() and dialog.locator("img").count() == 3
    page.keyboard.press("Escape")
    page.locator("td a.open", has_text="doubtful").click()
    assert "10 % fewer" in page.get_by_role("dialog").inner_text()


def test_a_chart_answers_to_its_choice(page: Any):
    curves = page.locator(".chart", has_text="Training curves")
    before = curves.locator(".live svg").inner_html()
    curves.locator("select").select_option("MAT_h2")
    page.wait_for_timeout(100)
    assert curves.locator(".live svg").inner_html() != before


def test_the_keyboard_is_enough(page: Any):
    def tab_to(wanted: str) -> None:
        for _ in range(150):
            page.keyboard.press("Tab")
            if page.evaluate(f"document.activeElement.matches({wanted!r})"):
                return
        raise AssertionError(f"no way to {wanted}")

    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    tab_to("[data-filter]")
    page.keyboard.type("mat")
    assert labels(page) == ["MAT_h2"]
    tab_to("thead button")
    page.keyboard.press("Enter")
    assert page.locator("th[aria-sort]").count() == 1
    tab_to("td a.open")
    page.keyboard.press("Enter")
    assert page.get_by_role("dialog").is_visible() and page.evaluate("document.activeElement.textContent") == "Close"
    page.keyboard.press("Escape")
    assert page.get_by_role("dialog").count() == 0
    assert page.evaluate("document.activeElement.matches('td a.open')"), "where it was opened"
    tab_to(".gallery a")


def test_it_prints_pictures_of_its_charts(page: Any):
    assert page.pdf(format="A4")[:5] == b"%PDF-"
    page.emulate_media(media="print")
    assert page.locator(".still").first.is_visible() and page.locator(".live").first.is_hidden()
    assert page.locator("header").is_hidden() and page.locator("table[data-table]").is_visible()


@pytest.mark.parametrize("wide", [320, 390, 1280])
def test_nothing_is_wider_than_the_screen(browser: Any, address: str, wide: int):
    for page in _opened(browser, address, viewport={"width": wide, "height": 800}):
        assert page.evaluate("document.documentElement.scrollWidth") <= wide


def test_without_scripts_everything_is_there(browser: Any, address: str):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(address)
    assert page.locator(".still").first.is_visible() and page.locator("#records").is_visible()
    link = page.locator("td a.open").first
    link.click()
    assert page.locator(link.get_attribute("href")).is_visible() and page.url.endswith(link.get_attribute("href"))
    context.close()


@pytest.mark.skipif(not AXE.is_file(), reason="axe-core is not here: npm pack axe-core, and BENCH_AXE=.../axe.min.js")
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("place", ["", "100.0", "doubtful", ".gallery a"])
def test_axe_finds_nothing_serious(browser: Any, address: str, scheme: str, place: str):
    for page in _opened(browser, address, color_scheme=scheme, bypass_csp=True):
        if place:
            page.locator(place if place.startswith(".") else f"a.open >> text={place}").first.click()
        page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
        page.evaluate(AXE.read_text())
        found = page.evaluate("axe.run()")["violations"]
        told = [
            (one["id"], [node["html"][:160] for node in one["nodes"][:3]]) for one in found if one["impact"] in SERIOUS
        ]
        assert not told
