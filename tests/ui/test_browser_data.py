"""Data, start and answers in a real browser: from an empty folder to a comparison of the tuned model with its base."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ftpipe.child_environment import child_environment, python_path
from tests.reports.xss_payloads import PAYLOADS
from tests.training.tiny_model import save_base
from tests.ui.test_browser import (
    Site,
    browser,
    check_looks,
    expect,
    is_left_to_the_browser,
    open_page,
    send_late,
    signed_in,
)

__all__ = ["browser", "open_page", "signed_in"]

pytestmark = [pytest.mark.needs("playwright"), pytest.mark.slow]

ROOT = Path(__file__).parents[2]
TRAIN_MS = 240_000
"""For a job of seconds, on a busy machine."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The pages over a folder with a broken and a hostile dataset, and a base model of some thousand parameters."""
    folder = tmp_path_factory.mktemp("site")
    save_base(folder / "home" / "models" / "tiny")
    (folder / "broken.jsonl").write_bytes((ROOT / "data" / "broken.jsonl").read_bytes())
    payloads = [one.encode("utf-8", "replace").decode() for one in PAYLOADS]
    rows = [
        {"messages": [{"role": "user", "content": one}, {"role": one, "content": one}], one: one} for one in payloads
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows) + "".join(f"{one}\n" for one in payloads)
    (folder / "hostile.jsonl").write_text(text, encoding="utf-8")
    site = Site(folder)
    yield site
    site.close()
    environment = child_environment({"FTPIPE_HOME": str(folder / "home"), "PYTHONPATH": python_path()})
    subprocess.run(
        [sys.executable, "-m", "ftpipe", "serve", "stop"], env=environment, cwd=folder, timeout=60, check=False
    )


def open_dataset(open_page: Any, name: str, size: tuple[int, int] = (1280, 800)) -> Any:
    page = open_page("/data", with_axe=True, size=size)
    page.get_by_role("link", name=name, exact=True).click()
    expect(page.locator("#report .verdict, #report h2").first).not_to_contain_text("Checking")
    expect(page.locator("#row h2")).to_be_visible()
    return page


def test_dataset_has_no_violation_and_rows_follow_keys(open_page: Any) -> None:
    page = open_dataset(open_page, "broken.jsonl")
    expect(page.locator("#row h2").first).to_have_text("Line 1")
    for key, line in (("j", "Line 2"), ("j", "Line 3"), ("k", "Line 2")):
        page.wait_for_load_state()  # without htmx, a row is a page of its own
        page.keyboard.press(key)
        expect(page.locator("#row h2").first).to_have_text(line)
    check_looks(page, "dataset")
    page.get_by_role("link", name="Show fixes").click()
    expect(page.get_by_role("button", name="Write a new file broken-fixed.jsonl")).to_be_visible()
    check_looks(page, "fixes")


def test_row_is_reached_and_left_on_a_narrow_screen(open_page: Any) -> None:
    page = open_dataset(open_page, "broken.jsonl", (390, 844))
    link = page.locator("[data-row]").nth(8)
    link.click()
    expect(page.locator("#row h2").first).to_have_text("Line 9")
    expect(page.locator("#row h2").first).to_be_in_viewport()
    page.get_by_role("link", name="Back to the list").click()
    expect(link).to_be_in_viewport()
    expect(page.locator("#row h2").first).not_to_be_in_viewport()


def test_start_has_no_violation(open_page: Any) -> None:
    check_looks(open_page("/start?provider=nebius&seed=1", with_axe=True), "start")


@pytest.mark.parametrize("path", ["**/start.js", "**/htmx.min.js"])
def test_start_button_starts_only_the_plan_of_the_fields(open_page: Any, path: str) -> None:
    """A click right after typing shows the new plan, also before the scripts have come; a pause shows it by itself."""
    page = open_dataset(open_page, "test.jsonl")
    page.route(path, send_late)
    page.get_by_role("link", name="Train on it").click(no_wait_after=True)
    start = page.get_by_role("button", name="Start training, free")
    # the answer that shows the new plan is not given: the button beside the old one is clicked
    page.route(re.compile(r"/start\?.*epochs=2"), answer_only_pages)
    page.fill("#f-epochs", "2")
    start.click(no_wait_after=True)
    expect(page.locator("#plan code")).to_contain_text("--epochs 2")
    assert re.search(r"/start\?.*epochs=2", page.url)
    page.fill("#f-epochs", "3")
    expect(page.locator("#plan code")).to_contain_text("--epochs 3")


def answer_only_pages(route: Any) -> None:
    """Leave the request of a script without an answer, as a slow server does."""
    if "hx-request" not in route.request.headers:
        route.continue_()


def test_plan_is_that_of_the_fields_whenever_they_change(open_page: Any, site: Site) -> None:
    """Before the scripts have come, and if the answer to an earlier question comes last."""
    page = open_dataset(open_page, "test.jsonl")
    page.route("**/start.js", send_late)
    page.get_by_role("link", name="Train on it").click(no_wait_after=True)
    page.fill("#f-epochs", "2")
    expect(page.locator("#plan code")).to_contain_text("--epochs 2")
    old = re.sub("epochs=[0-9]*", "epochs=7", page.url) + "&epochs=7"
    with page.expect_response(lambda response: "epochs=2" in response.url):
        page.evaluate("(url) => htmx.ajax('GET', url, {target: '#plan', select: '#plan', swap: 'outerMorph'})", old)
    expect(page.locator("#plan code")).to_contain_text("--epochs 2")


def test_hostile_rows_do_nothing(open_page: Any) -> None:
    page = open_dataset(open_page, "hostile.jsonl")
    for number in range(0, 2 * len(PAYLOADS), 5):
        page.locator("[data-row]").nth(number).click()
        expect(page.locator("#row h2").first).to_have_text(f"Line {number + 1}")
    assert page.title() == "hostile.jsonl · ftpipe"
    assert page.evaluate("document.querySelectorAll('main img, main script, main svg[onload]').length") == 0


def test_from_a_dropped_file_to_a_comparison(open_page: Any, site: Site) -> None:
    """Drop a file, start, watch, ask the tuned model and its base, and correct an answer; no terminal is needed."""
    page = open_page("/data", with_axe=True)
    page.set_input_files("#file", ROOT / "data" / "support_desk" / "train.jsonl")
    page.wait_for_url(re.compile("/data/[0-9a-f]{16}"))
    expect(page.locator("#report")).to_contain_text("would accept train.jsonl")
    page.get_by_role("link", name="Train on it").click()
    page.select_option("#f-model", "tiny")
    page.fill("#f-epochs", "1")
    page.locator("#f-epochs").blur()
    expect(page.locator("#plan code")).to_contain_text("--model tiny --epochs 1")
    page.get_by_role("button", name="Start training, free").click()
    page.get_by_role("link", name="Watch the run").click(timeout=TRAIN_MS)
    expect(page.locator("#state")).to_contain_text("succeeded", timeout=TRAIN_MS)
    page.goto(f"{site.url}/answers")
    tuned = page.locator("#model-0 option").nth(1).get_attribute("value")
    page.goto(f"{site.url}/answers?model={tuned}&model=tiny")
    page.locator("#ask summary").click()
    expect(page.locator("#system")).to_have_value(re.compile("Route the ticket"))
    page.fill("#max_tokens", "8")
    page.fill("#message", "My parcel is late.")
    page.get_by_role("button", name="Send").click()
    for column in (0, 1):
        expect(page.locator(f".column-{column} .feedback")).to_be_visible(timeout=TRAIN_MS)
    page.locator(".column-1 .feedback summary").click()
    page.fill("#correction-0-1", "queue: delivery | priority: normal")
    page.locator(".column-1").get_by_role("button", name="Save the correction").click()
    expect(page.locator(".column-1")).to_contain_text("1 pair in preferences.jsonl")
    check_looks(page, "answers")
    check_losses(open_page, site)
    rows = (site.folder / ".ftpipe" / "answers" / "answers.jsonl").read_text(encoding="utf-8")
    assert json.loads(rows)["messages"][-1]["content"] == "queue: delivery | priority: normal"


def check_losses(open_page: Any, site: Site) -> None:
    """The tokens of rows under the model that was trained, and those of hostile rows under its base."""
    page = open_page("/data", with_axe=True)
    page.get_by_role("link", name="train.jsonl", exact=True).click()
    page.goto(f"{page.url}?model=tiny")
    expect(page.locator("#loss-model")).to_be_visible()
    page.select_option("#loss-model", index=1)
    page.locator("#tokens button").click()
    expect(page.locator("#tokens [class*=loss-]").first).to_be_visible(timeout=TRAIN_MS)
    tokens = page.locator("#tokens [data-note]")
    tokens.focus()
    tokens.press("End")
    expect(page.locator("#tokens .token-note")).to_contain_text(re.compile(r"loss [0-9.]+, probability"))
    assert is_left_to_the_browser(tokens)
    check_looks(page, "losses")
    page.keyboard.press("j")
    expect(page.locator("#row h2").first).to_have_text("Line 2")
    expect(page.locator("#tokens [class*=loss-]").first).to_be_visible(timeout=TRAIN_MS)
    page.goto(f"{site.url}/data")
    page.get_by_role("link", name="hostile.jsonl", exact=True).click()
    hostile = page.url
    for line in (1, 2, len(PAYLOADS)):
        page.goto(f"{hostile}?model=tiny&loss_model=tiny&row={line}")
        expect(page.locator("#tokens [hx-get]")).to_have_count(0, timeout=TRAIN_MS)
        assert page.evaluate("document.querySelectorAll('main img, main script, main svg[onload]').length") == 0
