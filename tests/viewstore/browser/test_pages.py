"""The pages in a real browser: clean, accessible, useful without scripts and without a mouse."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.viewstore.browser.conftest import Open, Visit, serving
from tests.viewstore.pages import HOSTILE
from viewstore.inspect.pages.tabs import TABS

pytestmark = pytest.mark.browser

STORES = ("digits", "searched", "hostile", "told")
SCHEMES = ("light", "dark")
SIDES = (1300, 390)  # of a window, in pixels: a desk, a phone
MOST_PAGES = 30
# Addresses of pages that the links of the tabs do not show all of.
STEPS = ("browse?n=5", "browse?sort=random&seed=3", "browse?where=label%20%3D%201", "sample/?key=0")


def tabs_of(visit: Visit) -> list[str]:
    """Return the addresses of the tabs that a store has, below its Overview."""
    visit.go("")
    found = visit.page.eval_on_selector_all("nav a", "links => links.map(a => a.href)")
    return [each.removeprefix(visit.address) for each in found]


def pages_of(visit: Visit) -> list[str]:
    """Return an address of every kind of page that a store has."""
    return [*tabs_of(visit), *STEPS]


@pytest.mark.parametrize("name", STORES)
def test_no_page_complains_or_asks_elsewhere(sites: dict[str, str], visit: Open, name: str) -> None:
    with visit(sites[name]) as visiting:
        for address in pages_of(visiting):
            visiting.go(address)
            visiting.page.wait_for_load_state("networkidle")
            if "label" not in address:  # digits have no label 1 by number in every store
                assert visiting.page.locator("h1").count() == 1, address
        complaints = [each for each in visiting.problems if not each.startswith(("404", "400"))]
        assert not complaints


def test_every_kind_of_page_is_looked_at(sites: dict[str, str], visit: Open) -> None:
    seen = set()
    for name in STORES:
        with visit(sites[name]) as visiting:
            seen |= {
                urlsplit(each).path.partition("/")[0] or "overview" for each in pages_of(visiting)
            }
    assert seen >= {tab.name for tab in TABS if tab.name != "picture"}


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", STORES)
def test_axe_finds_no_violation(
    sites: dict[str, str], visit: Open, axe: str, name: str, scheme: str
) -> None:
    found = {}
    with visit(sites[name], bypass_csp=True, color_scheme=scheme) as visiting:
        for address in pages_of(visiting):
            visiting.go(address)
            visiting.page.evaluate(axe)
            violations = visiting.page.evaluate("async () => (await axe.run()).violations")
            for each in violations:
                nodes = [node["html"][:200] for node in each["nodes"]]
                found[f"{address} {each['id']}: {each['help']}"] = nodes[:3]
    assert not found, json.dumps(found, indent=1)


@pytest.mark.parametrize("width", SIDES)
@pytest.mark.parametrize("name", STORES)
def test_nothing_is_wider_than_the_window(
    sites: dict[str, str], visit: Open, name: str, width: int
) -> None:
    too_wide = {}
    with visit(sites[name], viewport={"width": width, "height": 800}) as visiting:
        for address in pages_of(visiting):
            visiting.go(address)
            found = visiting.page.evaluate("document.documentElement.scrollWidth")
            if found > width:
                too_wide[address] = found
    assert not too_wide


def test_names_that_are_markup_stay_text_on_every_page(sites: dict[str, str], visit: Open) -> None:
    with visit(sites["hostile"]) as visiting:
        for address in pages_of(visiting):
            visiting.go(address)
            visiting.page.wait_for_load_state("networkidle")
            assert visiting.page.locator("img[src=x]").count() == 0, address
        visiting.go("browse")
        assert HOSTILE in visiting.page.inner_text("main")
        assert not [each for each in visiting.problems if not each.startswith(("404", "400"))]


def test_without_scripts_links_and_forms_do_it_all(sites: dict[str, str], visit: Open) -> None:
    with visit(sites["digits"], java_script_enabled=False) as visiting:
        page = visiting.page
        visiting.go("")
        page.click("nav a:has-text('Browse')")
        page.fill("input[name=where]", "index >= 40")
        page.press("input[name=where]", "Enter")
        assert "40" in page.inner_text("[role=status]")
        page.select_option("select[name=sort]", "-index")
        page.click("form.query button")
        first = page.locator(".rows > li").first
        assert "79" in first.inner_text()
        first.locator("h3 a").click()
        assert "79" in page.inner_text("h1")
        page.fill("input[name=key]", "0")
        page.press("input[name=key]", "Enter")
        assert "0" in page.inner_text("h1")
        page.click("nav a:has-text('Compare')")
        assert page.locator("h1").inner_text()
        assert not visiting.problems


def test_keys_alone_lead_from_overview_to_a_filtered_sample_and_back(
    sites: dict[str, str], visit: Open
) -> None:
    with visit(sites["digits"]) as visiting:
        page = visiting.page
        visiting.go("")
        page.keyboard.press("Tab")  # the link that skips to the content
        while page.evaluate("document.activeElement.textContent") != "Browse":
            page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        page.wait_for_url("**/browse*")
        page.keyboard.press("/")
        page.keyboard.type("index >= 40")
        page.keyboard.press("Enter")
        page.wait_for_url("**where=*")
        page.keyboard.press("j")
        page.keyboard.press("j")
        page.keyboard.press("Enter")
        page.wait_for_url("**/sample/*")
        assert "41" in page.inner_text("h1")
        before = page.url
        page.keyboard.press("j")
        page.wait_for_function("before => location.href !== before", arg=before)
        page.keyboard.press("Escape")
        page.wait_for_url(before)
        page.keyboard.press("Escape")
        page.wait_for_url("**where=*")
        page.keyboard.press("?")
        assert page.locator("dialog[open]").count() == 1
        assert not visiting.problems


def test_keys_can_be_turned_off(sites: dict[str, str], visit: Open) -> None:
    with visit(sites["digits"]) as visiting:
        page = visiting.page
        visiting.go("browse")
        page.keyboard.press("?")
        page.click("#keys-switch")
        page.keyboard.press("Escape")
        page.keyboard.press("g")
        assert page.evaluate("document.activeElement.tagName") != "INPUT"
        page.keyboard.press("?")
        page.click("#keys-switch")
        page.keyboard.press("Escape")
        page.keyboard.press("g")
        assert page.evaluate("document.activeElement.name") == "key"


def test_all_of_it_works_below_a_root_path(digits: Path, visit: Open) -> None:
    with serving(digits, root_path="/a/b") as address:
        place = urlsplit(address)
        with visit(f"{place.scheme}://{place.netloc}/a/b/inspect/digits/") as visiting:
            for each in pages_of(visiting):
                visiting.go(each)
                visiting.page.wait_for_load_state("networkidle")
            assert "/a/b/inspect/digits/" in visiting.page.url
            assert not visiting.problems


def test_a_mark_by_key_keeps_the_cursor_where_it_was(sites: dict[str, str], visit: Open) -> None:
    with visit(sites["digits"]) as visiting:
        page = visiting.page
        visiting.go("browse")
        for marks in ("0", "0%2C1", "0%2C1%2C2"):
            page.keyboard.press("j")
            page.keyboard.press("x")
            page.wait_for_url(f"**marks={marks}#*")
        assert page.locator(".marked").count() == 3
        page.wait_for_function("document.activeElement.closest('li')?.id === 'r2'")
        page.keyboard.press("x")
        page.wait_for_url("**marks=0%2C1#r2")
        page.keyboard.press("k")
        assert page.evaluate("document.activeElement.closest('li').id") == "r1"
        assert not visiting.problems


@pytest.mark.parametrize("width", SIDES)
def test_pictures_of_a_row_have_one_scale_where_pixels_are_as_many(
    sites: dict[str, str], visit: Open, width: int
) -> None:
    with visit(sites["searched"], viewport={"width": width, "height": 800}) as visiting:
        for address in ("", "browse", "sample/?key=0"):
            visiting.go(address)
            widths = visiting.page.eval_on_selector_all(
                ".block:has(.same) .stack img, .block:has(.same) .absent",
                "all => [...new Set(all.map(one => one.getBoundingClientRect().width))]",
            )
            assert len(widths) == 1, (address, widths)
