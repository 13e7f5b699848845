"""Take the pictures of ``docs/ui.md``: ``python -m tests.ui.screenshots PROJECT [FOLDER]``.

PROJECT is the folder of a project in which the page has received ``data/support_desk/train.jsonl`` and trained the
default base on it for two epochs. Needs Chromium, and ``pip install playwright pillow``.
"""

from __future__ import annotations

import io
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ftpipe.child_environment import child_environment, python_path

DOCS = Path(__file__).parents[2] / "docs" / "images"
DATA = "train.jsonl"
QUESTION = "My parcel still has not come, it was due on Monday."
SIZE = {"width": 1280, "height": 800}
COLOURS = 128
"""Of a picture: enough for text and lines, and it stays under 150 kB."""
WAIT_MS = 300_000
"""The server is started, and the model loaded."""


@contextmanager
def signed_in_page(project: Path) -> Iterator[Any]:
    """The pages of a project in a browser."""
    from playwright.sync_api import sync_playwright

    from tests.ui.test_browser import CHROMIUM

    command = [sys.executable, "-m", "ftpipe", "ui", "--no-browser", "--port", "0"]
    environment = child_environment({"PYTHONPATH": python_path()})
    server = subprocess.Popen(command, cwd=project, env=environment, stderr=subprocess.PIPE, text=True)
    try:
        assert server.stderr is not None
        match = re.search(r"http://\S+", server.stderr.readline())
        if match is None:
            raise SystemExit(server.stderr.read())
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
            page = browser.new_page(viewport=SIZE, color_scheme="light")
            page.set_default_timeout(WAIT_MS)
            page.goto(match[0])
            yield page
            browser.close()
    finally:
        server.send_signal(2)
        server.wait(60)


def save(page: Any, path: Path) -> None:
    """Save what the window shows with few colours."""
    from PIL import Image

    page.mouse.move(0, 0)
    with Image.open(io.BytesIO(page.screenshot())) as picture:
        picture.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)
    sys.stdout.write(f"{path}: {path.stat().st_size:,} bytes\n")


def main(project: Path, folder: Path) -> None:
    """Take the three pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    with signed_in_page(project) as page:
        page.get_by_role("link", name="Runs", exact=True).click()
        page.get_by_role("link", name=DATA).first.click()
        page.wait_for_selector(".plot canvas")
        save(page, folder / "ui-run.png")
        page.get_by_role("link", name="Ask it and its base").click()
        page.locator("#ask summary").click()
        page.fill("#max_tokens", "60")
        page.fill("#message", QUESTION)
        page.get_by_role("button", name="Send").click()
        for column in (0, 1):
            page.locator(f".column-{column} .feedback").wait_for()
        page.locator("#ask summary").click()
        page.evaluate("scrollTo(0, 0)")
        save(page, folder / "ui-answers.png")
        page.get_by_role("link", name="Data", exact=True).click()
        page.get_by_role("link", name=DATA).first.click()
        page.locator("#loss-model").wait_for()
        page.select_option("#loss-model", index=2)
        page.locator("#tokens button").click()
        page.wait_for_selector("#tokens [class*=loss-]")
        page.locator("#tokens .legend").last.scroll_into_view_if_needed()
        page.evaluate("document.activeElement.blur(); getSelection().removeAllRanges()")
        save(page, folder / "ui-data.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else DOCS)
