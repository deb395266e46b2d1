"""Axe on every page, light and dark: WCAG 2.1 A and AA, and its best practices."""

from axe_playwright_python.sync_playwright import Axe

RULES = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]}
# it compares elements with all others: what looks alike is looked at once
CONTRAST = "color-contrast"
ALIKE = 20

# elements by the thousand that are not ours to mend: MathJax's, and the colours of code
WITHOUT_MATH_AND_CODE = """() => {
    for (const it of document.querySelectorAll("mjx-container, .cell_input .highlight"))
        it.replaceWith("x");
}"""
# entries of the reference look alike, and so do those of its contents, and the rows of tables
WITHOUT_WHAT_LOOKS_ALIKE = """count => {
    for (const kind of ["dl.py", ".bd-sidebar-secondary li", "tr"])
        [...document.querySelectorAll(kind)].slice(count).forEach(it => it.remove());
}"""

# (rule, what the element's html holds): whose it is
KNOWN = {
    ("region", "navbar-brand"): "sphinx-book-theme sets the book's title outside a landmark",
}


def is_known(rule, html):
    return any(rule == known and part in html for known, part in KNOWN)


def complaints(page, rules):
    how = {**rules, "resultTypes": ["violations"]}
    return [
        f"{violation['id']} ({violation['impact']}): {node['html'][:200]}"
        for violation in Axe().run(page, options=how).response["violations"]
        for node in violation["nodes"]
        if not is_known(violation["id"], node["html"])
    ]


def test_a_page_is_accessible(open_page, address):
    page = open_page(address)
    page.evaluate("globalThis.MathJax?.startup.promise.then(() => null)")
    page.evaluate(WITHOUT_MATH_AND_CODE)
    found = complaints(page, {**RULES, "rules": {CONTRAST: {"enabled": False}}})
    page.evaluate(WITHOUT_WHAT_LOOKS_ALIKE, ALIKE)
    page.add_style_tag(content="* { transition: none !important; }")  # no colour on its way
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        page.wait_for_function(f"document.documentElement.dataset.theme == '{scheme}'")
        found += [f"{scheme}: {one}" for one in complaints(page, {"runOnly": [CONTRAST]})]
    assert not found, "\n".join(found)
