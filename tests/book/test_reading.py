"""What a reader meets in a browser, offline: equations, phone, search, keyboard, paper, silence."""

import pytest

PHONE = {"width": 390, "height": 844}
# A4 without margins of 15 mm, in the pixels of CSS
PAPER = {"width": 680, "height": 1010}
# what is wider than the article, or than it may be without scrolling
CUT = """all => all.filter(it => it.checkVisibility()).filter(it => {
    const edge = it.closest("article").getBoundingClientRect().right;
    const scrolls = getComputedStyle(it).overflowX != "visible";
    const hides = scrolls && it.scrollWidth > it.clientWidth + 1;
    return hides || it.getBoundingClientRect().right > edge + 1;
}).map(it => it.outerHTML.slice(0, 100))"""


def test_a_page_asks_nothing_of_the_network_and_complains_of_nothing(open_page, address):
    page = open_page(address)
    page.wait_for_timeout(100)  # what a script does after loading
    assert [r for r in page.requests if not r.startswith(("file:", "data:", "blob:"))] == []
    assert page.complaints == []


def test_equations_are_set_without_the_network(open_page, papers):
    page = open_page(papers[0])
    page.wait_for_selector("mjx-container")
    page.evaluate("MathJax.startup.promise.then(() => null)")
    assert page.locator(".math:not(:has(mjx-container))").count() == 0


def test_a_page_fits_a_phone(open_page, address):
    """Neither the page nor its article scrolls sideways; a wide table or code block may."""
    fits_a_phone(open_page, address)


@pytest.mark.parametrize("added", ["genindex.html", "py-modindex.html"])
def test_a_page_that_sphinx_adds_fits_a_phone(open_page, added):
    fits_a_phone(open_page, added)


def fits_a_phone(open_page, address):
    page = open_page(address, viewport=PHONE)
    for part in ("html", ".bd-content", ".bd-article-container", "article"):
        wide = page.eval_on_selector(part, "it => it.scrollWidth - it.clientWidth")
        assert wide <= 1, f"{address}: {part} is {wide} px wider than a phone"


@pytest.mark.parametrize(
    ("words", "found_in"),
    [
        ("not_tried", "api/lab.html"),
        ("gradient flow", "mesa.html"),
        ("Theorem 4.3", "mesa.html"),
        ("Lemma 5.2", "mesa.html"),
        ("verdict", "intro.html"),
    ],
)
def test_search_finds(open_page, words, found_in):
    page = open_page(f"search.html?q={words.replace(' ', '+')}")
    page.wait_for_selector("#search-results li a")
    page.wait_for_function("!document.querySelector('#search-progress, .dots')")
    links = page.locator("#search-results li > a").evaluate_all("all => all.map(a => a.pathname)")
    assert any(link.endswith(f"/{found_in}") for link in links), links


def test_the_ledger_is_legible_in_the_dark(open_page, papers):
    page = open_page(papers[0], color_scheme="dark")
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    ground = page.evaluate(
        "getComputedStyle(document.querySelector('table.ledger').parentElement).backgroundColor"
    )
    assert ground == "rgba(0, 0, 0, 0)"


def test_a_page_is_read_by_keyboard_alone(open_page, papers, tab_to):
    page = open_page(papers[0])
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent.trim()") == "Skip to main content"
    page.keyboard.press("Enter")
    fold = page.locator("details.hide").first
    tab_to(page, "details.hide > summary")
    page.keyboard.press("Enter")
    assert fold.get_attribute("open") is not None
    page.keyboard.press("Control+K")
    page.keyboard.type("verdict")
    page.keyboard.press("Enter")
    page.wait_for_url("**/search.html?q=verdict*")


def test_the_colours_are_chosen_by_keyboard(open_page, tab_to):
    page = open_page("intro.html")
    before = page.evaluate("document.documentElement.dataset.mode")
    tab_to(page, ".theme-switch-button")
    page.keyboard.press("Enter")
    assert page.evaluate("document.documentElement.dataset.mode") != before


def cut_on_paper(page):
    page.evaluate("globalThis.MathJax?.startup.promise.then(() => null)")
    page.emulate_media(media="print")
    return page.locator("article :is(pre, table, img, p.claim, .cell_output)").evaluate_all(CUT)


def test_a_chapter_is_printed_whole(open_page, executed):
    assert cut_on_paper(open_page(executed, viewport=PAPER)) == []


def test_the_claims_are_printed_whole_across_the_page(open_page):
    assert cut_on_paper(open_page("claims.html", viewport=PAPER)) != []
    across = {"width": PAPER["height"], "height": PAPER["width"]}
    assert cut_on_paper(open_page("claims.html", viewport=across)) == []


def test_paper_is_light(open_page):
    page = open_page("intro.html", color_scheme="dark")
    page.evaluate("globalThis.theme = () => document.documentElement.dataset.theme")
    page.evaluate("addEventListener('beforeprint', () => globalThis.inks = theme())")
    page.pdf()
    assert page.evaluate("[inks, theme()]") == ["light", "dark"]


def test_clips_are_printed_as_film_strips(open_page):
    page = open_page("controlvideo.html")
    clips = page.locator("figure.clip").all()
    assert clips
    for clip in clips:
        picture, strip = clip.locator("picture img"), clip.locator(".clip-strip")
        heights = [it.evaluate("it => it.naturalHeight") for it in (picture, strip)]
        assert heights[0] < heights[1]
        assert [it.is_visible() for it in (picture, strip)] == [True, False]
        page.emulate_media(media="print")
        assert [it.is_visible() for it in (picture, strip)] == [False, True]
        assert strip.get_attribute("alt") == picture.get_attribute("alt") != ""
        page.emulate_media(media="screen")
