"""The table of all claims in a browser: filter, address, what opens, the way to the cell."""

from urllib.parse import urlencode

import pytest


def rows(page):
    return page.locator("table.claims tbody tr:visible")


def choose(page, title):
    return page.locator(f".claims-filter label:has-text('{title}') select")


def said(page):
    return page.locator(".claims-filter output").inner_text()


def verdicts(page):
    """By what the rows are counted: the default scale, or a larger one where it did not try."""
    stands = "row.querySelector('[data-stands]')?.dataset.stands"
    one = f"all => all.map(row => {stands} ?? row.querySelector('.verdict').textContent)"
    return rows(page).evaluate_all(one)


def test_claims_are_filtered_by_hand_and_from_the_address(open_page):
    page = open_page("claims.html")
    everything = rows(page).count()
    choices = choose(page, "Verdict").locator("option").all_inner_texts()
    assert choices[0] == "all"
    assert len(choices) > 1
    counts = {}
    for choice in choices[1:]:
        choose(page, "Verdict").select_option(choice)
        assert set(verdicts(page)) == {choice}
        counts[choice] = rows(page).count()
        assert page.url.endswith(f"claims.html?{urlencode({'verdict': choice})}")
    assert sum(counts.values()) == everything
    choose(page, "Paper").select_option("mesa")
    again = open_page(page.url.rpartition("/")[2])
    assert verdicts(again) == verdicts(page)
    assert choose(again, "Paper").input_value() == "mesa"
    choose(page, "Paper").select_option("all")
    choose(page, "Verdict").select_option("all")
    assert page.url.endswith("/claims.html")


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("verdict=maybe", "no verdict is “maybe”"),
        ("paper=<b>&verdict=holds", "no paper is “<b>”"),
    ],
)
def test_what_the_address_asks_in_vain_is_said(open_page, query, message):
    page = open_page(f"claims.html?{query}")
    assert said(page) == f"{rows(page).count()} of {counted(page)} claims; {message}"
    choose(page, "Paper").select_option("mesa")
    assert message not in said(page)


def counted(page):
    return page.locator("table.claims tbody tr").count()


def test_claims_are_filtered_and_opened_by_keyboard_alone(open_page, tab_to):
    page = open_page("claims.html")
    tab_to(page, ".claims-filter select")
    page.keyboard.press("ArrowDown")
    assert 0 < rows(page).count() < counted(page)
    tab_to(page, "table.claims summary")
    page.keyboard.press("Enter")
    tab_to(page, "table.claims details[open] a", at_most=1)
    page.keyboard.press("Enter")
    run = page.url.rpartition("#")[2]
    assert run.startswith("run-")
    assert "Python" in page.locator(f"li:has(> [id='{run}'], > p > [id='{run}'])").inner_text()


def test_claims_stand_without_script(open_page):
    with_script = rows(open_page("claims.html")).count()
    assert rows(open_page("claims.html", java_script_enabled=False)).count() == with_script > 0


def test_the_numbers_of_the_front_page_lead_to_as_many_claims(open_page):
    front = open_page("intro.html")
    links = front.locator("td a[href^='claims.html']").all()[::9]
    assert links
    for link in links:
        page = open_page(link.get_attribute("href"))
        assert rows(page).count() == int(link.inner_text())


def test_a_claim_leads_to_the_cell_that_proves_it(open_page):
    page = open_page("claims.html")
    link = page.locator("table.claims tbody a").first
    id = link.inner_text()
    link.click()
    page.wait_for_load_state("load")
    assert page.url.endswith(f"#{id}")
    assert "cell" in (page.locator(f"[id='{id}']").get_attribute("class") or "")
