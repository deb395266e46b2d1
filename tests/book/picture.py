"""Take the picture in the README, of a figure and the claim it proves.

    python tests/book/picture.py _build/site/mesa.html mesa-e2

The claim's card is at the lower edge of the window; a palette keeps the file small.
"""

import io
import sys
from pathlib import Path

from conftest import FLAGS, ROOT, find_chromium
from PIL import Image
from playwright.sync_api import sync_playwright

INTO_VIEW = "card => window.scrollBy(0, card.getBoundingClientRect().bottom - innerHeight + 12)"


def main(page: str, claim: str) -> None:
    """Open the page, scroll to the claim, write `book/_static/page.png`."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=FLAGS)
        reader = browser.new_page(viewport={"width": 1280, "height": 900})
        reader.goto(Path(page).resolve().as_uri())
        reader.evaluate("MathJax.startup.promise.then(() => null)")
        reader.locator(f"[id='{claim}'] p.claim").first.evaluate(INTO_VIEW)
        reader.wait_for_timeout(500)
        shot = Image.open(io.BytesIO(reader.screenshot()))
        browser.close()
    shot.convert("P", palette=Image.Palette.ADAPTIVE, colors=256).save(
        ROOT / "book/_static/page.png", optimize=True
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
