"""Every link inside the book leads somewhere, and nothing outside is needed to show it."""

from html.parser import HTMLParser
from urllib.parse import unquote, urldefrag, urlsplit

import pytest

LOADS = {"script": "src", "img": "src", "source": "srcset", "link": "href", "iframe": "src"}
NEVER_LOADED = {"canonical", "index", "search", "next", "prev", "author", "copyright"}


class Page(HTMLParser):
    """The anchors of a page, its links, and what the browser fetches to show it."""

    def __init__(self, path):
        super().__init__()
        self.path, self.anchors, self.links, self.loads = path, {""}, set(), set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        given = {name: value or "" for name, value in attrs}
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        target = given.get(LOADS.get(tag, ""), "")
        if tag == "a":
            self.links |= {given["href"]} if "href" in given else set()
        elif target and not NEVER_LOADED & set(given.get("rel", "").split()):
            self.loads.add(target)


@pytest.fixture(scope="module")
def site(html):
    """Every page but the templates that the theme leaves in `_static`."""
    found = (p for p in sorted(html.rglob("*.html")) if "_static" not in p.parts)
    return {path: Page(path) for path in found}


def is_outside(link):
    return urlsplit(link).scheme not in ("", "file")


def target_of(page, link):
    """The file and the anchor that a link inside the book means."""
    path, anchor = urldefrag(link)
    path = unquote(path.partition("?")[0])
    return (page.path.parent / path).resolve() if path else page.path, unquote(anchor)


def test_every_link_inside_leads_to_a_file_and_an_anchor(site):
    dead = []
    for page in site.values():
        for link in page.links | page.loads:
            if is_outside(link):
                continue
            path, anchor = target_of(page, link)
            known = site[path].anchors if path in site else {""} if path.is_file() else set()
            if anchor not in known and not link.startswith("#_"):
                dead.append(f"{page.path.name}: {link}")
    assert not dead, "\n".join(dead)


def test_nothing_outside_is_needed_to_show_a_page(site):
    needed = {
        f"{page.path.name}: {load}"
        for page in site.values()
        for load in page.loads
        if is_outside(load) and not load.startswith("data:")
    }
    assert not needed, "\n".join(sorted(needed))


def test_the_link_check_sees_what_is_broken(tmp_path):
    path = tmp_path / "page.html"
    path.write_text(
        '<p id="here"><a href="#there">x</a><a href="gone.html">y</a>'
        '<img src="https://example.org/a.png"></p>'
    )
    page = Page(path)
    assert page.links == {"#there", "gone.html"}
    assert page.loads == {"https://example.org/a.png"}
    assert target_of(page, "#there") == (path, "there")
    assert "there" not in page.anchors
