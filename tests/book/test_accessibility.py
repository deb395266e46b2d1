"""Axe on every page, light and dark: WCAG 2.1 A and AA, and its best practices."""

import pytest
from axe_playwright_python.sync_playwright import Axe

# all rules once; in the dark only colours differ
RULES = {
    "light": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"],
    "dark": ["color-contrast"],
}

# (rule, what the element's html holds): whose it is
KNOWN = {
    ("region", "navbar-brand"): "sphinx-book-theme sets the book's title outside a landmark",
    ("aria-allowed-role", 'role="doc-biblioentry"'): "docutils marks up a bibliography so",
    ("aria-deprecated-role", 'role="doc-biblioentry"'): "docutils marks up a bibliography so",
    ("aria-required-children", 'class="citation-list"'): "docutils marks up a bibliography so",
}


def is_known(rule, html):
    return any(rule == known and part in html for known, part in KNOWN)


@pytest.mark.parametrize("scheme", RULES)
def test_a_page_is_accessible(open_page, address, scheme):
    page = open_page(address, color_scheme=scheme)
    # thousands of elements: MathJax's own; code in cells, whose colours are those of all code
    what = {"exclude": [["mjx-container"], [".cell_input .highlight"]]}
    how = {"runOnly": RULES[scheme], "resultTypes": ["violations"]}
    violations = Axe().run(page, what, how).response["violations"]
    ours = [
        f"{violation['id']} ({violation['impact']}): {node['html'][:200]}"
        for violation in violations
        for node in violation["nodes"]
        if not is_known(violation["id"], node["html"])
    ]
    assert not ours, "\n".join(ours)
