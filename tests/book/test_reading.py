"""What a reader meets in a browser, offline: equations, phone, search, filter, silence."""

import re

import pytest

# of the theme, on every page: sphinx-thebe adds its script twice
KNOWN_COMPLAINTS = re.compile(r"Identifier 'THEBE_JS_URL' has already been declared")
PHONE = {"width": 390, "height": 844}


def test_a_page_asks_nothing_of_the_network_and_complains_of_nothing(open_page, address):
    page = open_page(address)
    page.wait_for_timeout(100)  # what a script does after loading
    assert [r for r in page.requests if not r.startswith(("file:", "data:", "blob:"))] == []
    assert [c for c in page.complaints if not KNOWN_COMPLAINTS.search(c)] == []


def test_equations_are_set_without_the_network(open_page, papers):
    page = open_page(papers[0])
    page.wait_for_selector("mjx-container")
    page.evaluate("MathJax.startup.promise.then(() => null)")
    assert page.locator(".math:not(:has(mjx-container))").count() == 0


def test_a_page_fits_a_phone(open_page, address):
    """Neither the page nor its article scrolls sideways; a wide table or code block may."""
    page = open_page(address, viewport=PHONE)
    for part in ("html", ".bd-content", ".bd-article-container", "article"):
        wide = page.eval_on_selector(part, "it => it.scrollWidth - it.clientWidth")
        assert wide <= 1, f"{address}: {part} is {wide} px wider than a phone"


@pytest.mark.parametrize(
    ("words", "found_in"),
    [("not_tried", "api/lab.html"), ("gradient flow", "mesa.html"), ("verdict", "intro.html")],
)
def test_search_finds(open_page, words, found_in):
    page = open_page(f"search.html?q={words.replace(' ', '+')}")
    page.wait_for_selector("#search-results li a")
    page.wait_for_function("!document.querySelector('#search-progress, .dots')")
    links = page.locator("#search-results li > a").evaluate_all("all => all.map(a => a.pathname)")
    assert any(link.endswith(f"/{found_in}") for link in links), links


def rows(page):
    return page.locator("table.claims tbody tr:visible")


def test_claims_are_filtered_by_hand_and_from_the_address(open_page):
    page = open_page("claims.html")
    everything = rows(page).count()
    verdicts = page.locator(".claims-filter select").nth(1)
    choices = verdicts.locator("option").all_inner_texts()
    assert choices[0] == "all"
    assert len(choices) > 1
    counts = {}
    for choice in choices[1:]:
        verdicts.select_option(choice)
        # other scales have verdict columns of their own, to the right of the filtered one
        shown = [row.locator(".verdict").first.inner_text() for row in rows(page).all()]
        assert set(shown) == {choice}
        counts[choice] = len(shown)
        asked = open_page(f"claims.html?verdict={choice}&paper=mesa")
        assert rows(asked).count() <= len(shown)
        assert asked.locator(".claims-filter select").nth(1).input_value() == choice
    assert sum(counts.values()) == everything


def test_claims_stand_without_script(open_page):
    with_script = rows(open_page("claims.html")).count()
    assert rows(open_page("claims.html", java_script_enabled=False)).count() == with_script > 0


def test_a_claim_leads_to_the_cell_that_proves_it(open_page):
    page = open_page("claims.html")
    link = page.locator("table.claims tbody a").first
    id = link.inner_text()
    link.click()
    page.wait_for_load_state("load")
    assert page.url.endswith(f"#{id}")
    assert "cell" in (page.locator(f"[id='{id}']").get_attribute("class") or "")


def test_the_ledger_is_legible_in_the_dark(open_page, papers):
    page = open_page(papers[0], color_scheme="dark")
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    ground = page.evaluate(
        "getComputedStyle(document.querySelector('table.ledger').parentElement).backgroundColor"
    )
    assert ground == "rgba(0, 0, 0, 0)"
