"""Run Lighthouse on the rendered book, served compressed, and keep what it says.

    python tests/book/lighthouse.py _build/site

It needs node, which fetches Lighthouse at the version below, and Chromium. The scores stand in
`lighthouse.json` beside this file; below what is wanted, the command fails and says where.
"""

import gzip
import json
import os
import subprocess
import sys
import tempfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from conftest import find_chromium, pages

LIGHTHOUSE = "lighthouse@12.8.2"
WANTED = {"accessibility": 100, "performance": 90}
KEPT = Path(__file__).with_name("lighthouse.json")
COMPRESSED = {".html", ".css", ".js", ".svg", ".json"}


class Compressed(SimpleHTTPRequestHandler):
    """Serve files as a host of static pages does: compressed, and to be kept by the browser."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            self.send_error(404)
            return
        body = path.read_bytes()
        self.send_response(200)
        self.send_header("Content-Type", self.guess_type(path))
        self.send_header("Cache-Control", "public, max-age=31536000")
        if path.suffix in COMPRESSED:
            body = gzip.compress(body)
            self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *_: object) -> None:
        """Say nothing of each file."""


def scores(address: str) -> dict[str, Any]:
    """Return what Lighthouse says of one address: scores, and the audits that are not passed."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "report.json"
        flags = "--headless=new --no-sandbox --disable-gpu"
        options = ["--preset=desktop", "--quiet", "--output=json", f"--output-path={out}"]
        command = ["npx", "--yes", LIGHTHOUSE, address, *options, f"--chrome-flags={flags}"]
        env = {**os.environ, "CHROME_PATH": str(find_chromium())}
        subprocess.run(command, env=env, check=True)
        report = json.loads(out.read_text(encoding="utf-8"))
    failed = [it for it in report["audits"].values() if it["score"] is not None and it["score"] < 1]
    return {
        "scores": {name: round(100 * it["score"]) for name, it in report["categories"].items()},
        "below": {it["id"]: it.get("displayValue", it["title"]) for it in failed},
        "lighthouse": report["lighthouseVersion"],
        "chromium": report["environment"]["hostUserAgent"],
        "fetched": report["fetchTime"],
    }


def main(site: str, *addresses: str) -> int:
    """Run it on the addresses, all pages where none is named; return 1 below what is wanted.

    What is kept of other pages that still exist stays.
    """
    handler = partial(Compressed, directory=site)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        here = f"http://127.0.0.1:{server.server_port}"
        found = {name: scores(f"{here}/{name}") for name in addresses or pages()}
        server.shutdown()
    kept = json.loads(KEPT.read_text(encoding="utf-8")) if KEPT.exists() else {}
    kept = {name: it for name, it in (kept | found).items() if name in pages()}
    KEPT.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    low = [
        f"{name}: {what} {it['scores'][what]}, wanted {least}"
        for name, it in found.items()
        for what, least in WANTED.items()
        if it["scores"][what] < least
    ]
    print(*low or ["all as wanted"], sep="\n")
    return 1 if low else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
