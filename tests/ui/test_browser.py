"""The pages in a real browser: what scripts do, no error in its console, nothing against its policy, and axe-core."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ftpipe.child_environment import child_environment, python_path
from ftpipe.records import Job, Run
from ftpipe.registry import Registry, open_registry
from ftpipe.server.process_control import stop
from tests.reports.xss_payloads import PAYLOADS
from tests.ui import seeds
from tests.ui.pages.test_evaluations import evaluation_of, losing

pytestmark = [pytest.mark.needs("playwright"), pytest.mark.slow]

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next((path for name in PROGRAMS if (path := shutil.which(name))), None)
SCREENSHOTS = Path(folder).absolute() if (folder := os.environ.get("FTPIPE_TEST_SCREENSHOTS")) else None
"""Folder for a picture of each page; without it none is taken."""
AXE = Path(__file__).parent / "axe-core" / "axe.min.js"
RUN_AXE = "axe.run({runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice']})"
SIZES = ((390, 844), (1280, 800), (2000, 1200))
WAIT_MS = 30_000
"""On a busy machine."""
ALIAS = "support@production"
MODEL = "ft:smollm2-135m-instruct:support-1:000001"
PAGES = {
    "runs": "/runs",
    "run": "/runs/run-000000000001",
    "log": "/runs/run-000000000001?scale=log",
    "compare": "/runs/run-000000000001?compare=run-000000000002",
    "values": "/runs/run-000000000001/values",
    "cancel": "/runs/run-000000000003/cancel",
    "models": "/models",
    "model": f"/models/show?name={MODEL}",
    "alias": f"/models/alias?name={MODEL}&alias={ALIAS}",
    "delete": f"/models/delete?name={MODEL}",
    "evaluations": "/evaluations",
    "evaluate": f"/evaluations/start?model={MODEL}",
    "data": "/data",
    "start": "/start",
    "answers": "/answers",
    "evaluation": "/evaluations/eval-000000000001",
    "error": "/no-such-page",
}


class Site:
    """A server of pages in a process of its own, over a seeded project."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.registry = open_registry(folder / ".ftpipe" / "registry.db")
        seed(self.registry, folder / ".ftpipe")
        line = '{"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]}\n'
        (folder / "test.jsonl").write_text(line * 12, encoding="utf-8")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "ftpipe", "ui", "--no-browser", "--port", "0"],
            cwd=folder,
            env=child_environment({"FTPIPE_HOME": str(folder / "home"), "PYTHONPATH": python_path()}),
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stderr is not None
        match = re.search(r"open (http://\S+)", self.process.stderr.readline())
        assert match, self.process.stderr.read()
        self.link = match[1]
        self.url = self.link.partition("/?")[0]

    def close(self) -> None:
        """Stop the server as Ctrl-C does."""
        self.registry.close()
        self.process.send_signal(2)
        _, errors = self.process.communicate(timeout=60)
        stop(self.folder / "home" / "server")  # a page may have started the embedded server
        assert (self.process.returncode, "Traceback" in errors) == (0, False), errors


def seed(registry: Registry, state_dir: Path) -> None:
    seeds.succeeded_run(registry, 1)
    seeds.succeeded_run(registry, 2, suffix="غرفة الدعم", data="بيانات/تدريب.jsonl")
    running = seeds.run_of(3, suffix="a-very-long-suffix-" * 3, model="organisation/" + "long-base-name-" * 8)
    seeds.add_run(registry, running, seeds.job_of(running), steps=12)
    registry.models.set_alias(ALIAS, MODEL)
    registry.models.set_alias(ALIAS, "ft:smollm2-135m-instruct:غرفة الدعم:000002", reason="fewer wrong labels")
    for number, payload in enumerate(PAYLOADS, 10):
        text = payload.encode("utf-8", "replace").decode()
        run = seeds.run_of(number, suffix=text, model=text)
        job = seeds.job_of(run, "failed", error={"code": text, "message": text})
        seeds.add_run(registry, run, job, steps=3)
        event = seeds.metric_event(9).model_copy(update={"message": text, "type": "message"})
        registry.jobs.save_events(job, [event])
        registry.models.add(seeds.model_of(run, id=f"{text} {number}", base=text, job_id=f"ftjob-m{number}"))
    evaluation = losing(evaluation_of(1))
    registry.evaluations.save(evaluation)
    folder = state_dir / "evaluations"
    folder.mkdir()
    (folder / f"{evaluation.id}.json").write_text(evaluation.model_dump_json(), encoding="utf-8")
    from ftpipe.reports.evaluation.html import to_html

    (folder / f"{evaluation.id}.html").write_text(to_html(evaluation), encoding="utf-8")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The pages, served."""
    site = Site(tmp_path_factory.mktemp("site"))
    yield site
    site.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """The system's Chromium."""
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def signed_in(browser: Any, site: Site) -> Any:
    """The cookie of a session, from the printed link."""
    context = browser.new_context()
    page = context.new_page()
    page.goto(site.link)
    assert "token" not in page.url
    state = context.storage_state()
    context.close()
    return state


@pytest.fixture
def open_page(browser: Any, site: Site, signed_in: Any) -> Iterator[Any]:
    """Opens pages; any error in a console, and any report against the policy, fails the test."""
    problems: list[str] = []
    contexts = []

    def open_page(path: str, *, size: tuple[int, int] = (1280, 800), with_axe: bool = False) -> Any:
        context = browser.new_context(
            storage_state=signed_in, viewport={"width": size[0], "height": size[1]}, color_scheme="light"
        )
        context.set_default_timeout(WAIT_MS)
        contexts.append(context)
        context.add_init_script(
            "document.addEventListener('securitypolicyviolation', (event) =>"
            " console.error('policy: ' + event.violatedDirective + ' ' + event.blockedURI))"
        )
        if with_axe:
            context.add_init_script(path=str(AXE))
        page = context.new_page()
        # a status of 4xx is a console error, too, and the error page is opened on purpose
        page.on("console", lambda one: problems.append(one.text) if is_problem(one) else None)
        page.on("pageerror", lambda one: problems.append(str(one)))
        page.goto(f"{site.url}{path}")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert problems == []


def is_problem(message: Any) -> bool:
    return message.type in ("error", "warning") and "no-such-page" not in message.location.get("url", "")


def expect(locator: Any) -> Any:
    """Waits for what a test expects, without the eval that the policy refuses."""
    from playwright.sync_api import expect

    expect.set_options(timeout=WAIT_MS)
    return expect(locator)


FITS = """async () => {
  for (let frame = 0; frame < 300; frame++) {  // a chart takes its new size after the window has
    if (document.documentElement.scrollWidth <= innerWidth) return true;
    await new Promise(requestAnimationFrame);
  }
  return false;
}"""


def violations(page: Any) -> list[str]:
    found = page.evaluate(RUN_AXE)["violations"]
    return [f"{one['id']}: {node['target']} {node['failureSummary']}" for one in found for node in one["nodes"]]


def check_looks(page: Any, name: str) -> None:
    """Check a page in light and dark and at three sizes, and take a picture of each if that is asked for."""
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        page.evaluate("scrollTo(0, 0)")  # nothing is half below the header, which stays in place
        assert violations(page) == []
        for width, height in SIZES:
            page.set_viewport_size({"width": width, "height": height})
            assert page.evaluate(FITS), width
            if SCREENSHOTS is not None:
                SCREENSHOTS.mkdir(parents=True, exist_ok=True)
                page.screenshot(path=SCREENSHOTS / f"{name}-{width}-{scheme}.png")


@pytest.mark.parametrize("name", PAGES)
def test_page_has_no_violation_and_no_overflow(open_page: Any, name: str) -> None:
    """In light and dark; nothing is wider than the window at three sizes."""
    check_looks(open_page(PAGES[name], with_axe=True), name)


def test_hostile_text_does_nothing(open_page: Any, site: Site) -> None:
    """None of the payloads has run, in lists or on a page of its own."""
    for path in ("/runs", "/models", "/evaluations/eval-000000000001", *(f"/runs/run-{n:012x}" for n in range(10, 23))):
        page = open_page(path)
        assert page.title().endswith("· ftpipe")
        assert page.evaluate("document.querySelectorAll('main img, main script, main svg[onload]').length") == 0
        page.context.close()


def test_curve_is_drawn_and_follows_keys(open_page: Any) -> None:
    page = open_page(PAGES["run"])
    page.wait_for_selector(".plot canvas")
    plot = page.locator(".plot").first
    assert "lowest at step 30" in plot.get_attribute("aria-label")
    plot.focus()
    plot.press("End")
    expect(page.locator(".plot .u-legend").first).to_contain_text("30")


def test_curve_leaves_the_keys_of_the_history_to_the_browser(open_page: Any) -> None:
    page = open_page(PAGES["run"])
    page.wait_for_selector(".plot canvas")
    assert is_left_to_the_browser(page.locator(".plot").first)


def is_left_to_the_browser(element: Any) -> bool:
    """Whether nothing prevents what the browser does with Alt and an arrow key in an element."""
    press = "new KeyboardEvent('keydown', {key: 'ArrowLeft', altKey: true, bubbles: true, cancelable: true})"
    return bool(element.evaluate(f"(element) => element.dispatchEvent({press})"))


def test_curve_has_a_logarithmic_scale_that_the_address_keeps(open_page: Any) -> None:
    page = open_page(PAGES["compare"])
    linear = drawing(page)
    page.get_by_role("link", name="Logarithmic scale").click()
    page.wait_for_url("**compare=**scale=log#chart-loss")
    assert drawing(page) != linear
    page.get_by_role("link", name="Linear scale").click()
    page.wait_for_url(lambda url: "scale" not in url and "compare=" in url)
    assert drawing(page) == linear


def drawing(page: Any) -> str:
    """The first chart, as soon as it is drawn."""
    page.wait_for_selector(".plot canvas")
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    return str(page.evaluate("document.querySelector('.plot canvas').toDataURL()"))


def test_search_looks_for_what_was_typed_before_its_script_came(open_page: Any, site: Site) -> None:
    page = open_page("/models")
    page.route("**/page.js", send_late)
    page.goto(f"{site.url}/runs", wait_until="commit")
    page.fill("#q", "train-1.jsonl")
    expect(page.locator("#runs tbody tr")).to_have_count(1)


def test_search_filters_while_typing(open_page: Any) -> None:
    page = open_page("/runs")
    page.keyboard.press("/")
    page.keyboard.type("train-1.jsonl")
    expect(page.locator("#runs tbody tr")).to_have_count(1)
    expect(page.locator("#runs tbody a")).to_have_text("support-1")


def test_run_is_brought_up_to_date(open_page: Any, site: Site) -> None:
    """State and curve of an open page follow the registry, without loading it again."""
    run = seeds.run_of(50)
    job = seeds.job_of(run)
    seeds.add_run(site.registry, run, job, steps=12)
    page = open_page(f"/runs/{run.id}")
    page.wait_for_selector(".plot canvas")
    expect(page.locator("#chart-accuracy")).to_be_hidden()
    finish(site.registry, run, job)
    expect(page.locator("#state")).to_contain_text("succeeded")
    expect(page.locator(".plot").first).to_have_attribute("aria-label", re.compile("step 13"))
    expect(page.locator("figcaption").first).to_contain_text("step 13")
    expect(page.locator("#chart-accuracy")).to_be_visible()
    page.wait_for_selector("figure:has(#chart-accuracy) canvas")


def test_run_is_brought_up_to_date_if_a_script_comes_late(open_page: Any, site: Site) -> None:
    """The stream is opened also if its script arrives long after that of htmx, as on a busy machine."""
    run = seeds.run_of(51)
    job = seeds.job_of(run)
    seeds.add_run(site.registry, run, job, steps=12)
    page = open_page("/runs")
    page.route("**/hx-sse.min.js", send_late)
    page.goto(f"{site.url}/runs/{run.id}")
    finish(site.registry, run, job)
    expect(page.locator("#state")).to_contain_text("succeeded")


def send_late(route: Any) -> None:
    time.sleep(1)
    route.continue_()


def finish(registry: Registry, run: Run, job: Job) -> None:
    registry.jobs.save_events(job, [seeds.metric_event(13, 30, train_mean_token_accuracy=0.5)])
    done = job.model_copy(update={"status": "succeeded", "fine_tuned_model": "ft:x"})
    registry.runs.register(seeds.model_of(run), run.model_copy(update={"job": done}), price_row="")


def test_alias_moves_back(open_page: Any, site: Site) -> None:
    page = open_page("/models")
    page.get_by_role("link", name="Move back …").click()
    page.get_by_label("Reason, for the history").fill("it was better")
    page.get_by_role("button", name="Move the alias").click()
    page.wait_for_url("**/models/show**")
    assert site.registry.models.aliases()[ALIAS] == MODEL


def test_page_stays_if_the_server_does_not_answer_a_change(open_page: Any) -> None:
    page = open_page("/runs")
    page.evaluate("window.realFetch = window.fetch; window.fetch = () => Promise.reject(new TypeError()); 0")
    button = page.get_by_role("button", name="Open in another browser")
    button.click()
    expect(page.locator("#problem")).to_contain_text("The server does not answer")
    assert page.url.endswith("/runs")
    page.evaluate("window.fetch = async () => new Response('', { status: 401 }); 0")
    button.click()
    expect(page.locator("#problem")).to_contain_text("You are signed out")
    page.evaluate("window.fetch = window.realFetch; 0")
    button.click()
    expect(page.get_by_role("heading", name="Open in another browser")).to_be_visible()


def test_report_opens_in_place(open_page: Any) -> None:
    page = open_page(PAGES["evaluation"])
    page.locator("iframe").scroll_into_view_if_needed()
    frame = page.frame_locator("iframe")
    frame.locator("h1").wait_for()
    assert frame.locator("body").evaluate("(body) => getComputedStyle(body).maxWidth") != "none", "it has its style"
