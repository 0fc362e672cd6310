"""A page in a real browser, without a screen: what is in it, how wide it is, what it asked for."""

from __future__ import annotations

import http.server
import json
import shutil
import subprocess
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
MISSING = "there is no chromium to look at the page with: apt-get install chromium, or as root: python3 -m lab install-browser"
DARK = "--blink-settings=preferredColorScheme=0"

FRAME = """<!doctype html><meta charset=utf-8><body><iframe src=/page.html width={width} height=900 {sandbox}></iframe><script>
const frame = document.querySelector("iframe");
onload = async () => {{
  const look = {look};
  const answer = await look(frame.contentDocument, frame.contentWindow);
  const told = document.createElement("pre");
  told.textContent = btoa(encodeURIComponent(JSON.stringify(answer)));
  document.body.replaceChildren(told);
}};
</script>"""
"""The page in a frame of a width that no window of the browser can have, and what is asked about it."""


@dataclass(frozen=True)
class Browser:
    """A chromium with a profile of its own.

    :param folder: for its profile and snapshots
    """

    program: str
    folder: Path

    def run(self, *arguments: str) -> str:
        """Start it once; what it wrote."""
        command = [
            self.program, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
            "--disable-background-networking", "--hide-scrollbars", f"--user-data-dir={self.folder / 'profile'}", *arguments,
        ]  # fmt: skip
        ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    def dump(self, page: str) -> str:
        """The page from a file, as the browser understood it."""
        return self.run("--dump-dom", self._write(page).as_uri())

    def snapshot(self, page: str, *options: str) -> bytes:
        """What is seen of it: the pixels' bytes."""
        target = self.folder / "snapshot.png"
        self.run(f"--screenshot={target}", "--window-size=1280,1000", *options, self._write(page).as_uri())
        return pixels(target.read_bytes())

    def look(
        self, page: str, question: str, *options: str, width: int = 1280, scripts: bool = True
    ) -> tuple[Any, list[str]]:
        """Ask something about the page.

        :param question: a function of JavaScript, of the document and its window
        :param scripts: whether the page's own script may run
        :returns: the answer, and what was asked for at the server that the page came from
        """
        sandbox = "" if scripts else "sandbox=allow-same-origin"
        frame = FRAME.format(width=width, look=question, sandbox=sandbox)
        with _served({"/page.html": page, "/frame.html": frame}) as (address, asked):
            told = self.run("--dump-dom", "--virtual-time-budget=20000", *options, f"{address}/frame.html")
        return _told(told), asked

    def _write(self, page: str) -> Path:
        path = self.folder / "page.html"
        path.write_text(page, encoding="utf-8")
        return path


def find(folder: Path) -> Browser:
    """The browser of this machine. A missing one is a failure: a page that nobody has seen is not tested."""
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.fail(MISSING)
    return Browser(program, folder)


def pixels(snapshot: bytes) -> bytes:
    """The inflated rows of a PNG, filtered as they are: a blank one has hardly two values."""
    data, place = b"", 8
    while place < len(snapshot):
        length, kind = int.from_bytes(snapshot[place : place + 4]), snapshot[place + 4 : place + 8]
        data += snapshot[place + 8 : place + 8 + length] if kind == b"IDAT" else b""
        place += length + 12
    return zlib.decompress(data)


def contrast(one: str, other: str) -> float:
    """WCAG's contrast of two colours as browsers tell them: rgb(1, 2, 3)."""
    lights = sorted((_light(one), _light(other)))
    return (lights[1] + 0.05) / (lights[0] + 0.05)


def _light(colour: str) -> float:
    parts = [int(part) / 255 for part in colour[colour.index("(") + 1 : -1].split(",")[:3]]
    red, green, blue = (part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _told(dumped: str) -> Any:
    import base64
    from urllib.parse import unquote

    assert "<pre>" in dumped, dumped[:2000]
    return json.loads(unquote(base64.b64decode(dumped.partition("<pre>")[2].partition("</pre>")[0]).decode()))


@contextmanager
def _served(pages: dict[str, str]) -> Iterator[tuple[str, list[str]]]:
    """Pages at an address of the loopback, and a list of what is asked for there."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            content = pages.get(self.path, "").encode()
            self.send_response(200 if content else 404)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_arguments: Any) -> None:
            """Nothing: the list says it."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
