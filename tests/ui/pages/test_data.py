"""The data page, without a browser: rows, filters, checks, fixes, uploads, hostile content."""

from __future__ import annotations

import html
import json
import re
import threading
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from ftpipe.errors import ProviderError
from ftpipe.paths import models_dir
from ftpipe.ui.datasets.checks import DatasetTasks
from ftpipe.ui.datasets.token_losses import Ids, LossModel, TokenLosses
from ftpipe.ui.datasets.worker import run_task
from ftpipe.ui.project import Project
from tests.training.tiny_model import save_base
from tests.ui.conftest import csrf_of

BROKEN = Path(__file__).parents[3] / "data" / "broken.jsonl"
HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>{{ 7*7 }}\x1b[31m\u202e"


def row(question: str, answer: str = "yes") -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def write(folder: Path, rows: list[dict[str, Any]], name: str = "data.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(one) + "\n" for one in rows), encoding="utf-8")
    return path


@pytest.fixture(autouse=True)
def tasks_in_threads(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Checks run in a thread of the test, and pages wait for them."""
    project.datasets.tasks = DatasetTasks(project.state_dir, run=lambda _state, task: {"result": run_task(task)})
    monkeypatch.setattr("ftpipe.ui.pages.data.SMALL_SECONDS", 30)


def address(project: Project, path: Path) -> str:
    return f"/data/{next(file.id for file in project.datasets.files.all() if file.path == path)}"


def test_list_names_the_files_of_the_project(client: TestClient, project: Project, own_home: Path) -> None:
    assert "No datasets yet" in client.get("/data").text
    path = write(own_home, [row("hi")])
    page = client.get("/data")
    assert f'href="{address(project, path)}"' in page.text
    assert page.status_code == 200


def test_dataset_shows_verdict_rows_and_findings(client: TestClient, project: Project, own_home: Path) -> None:
    path = own_home / "broken.jsonl"
    path.write_bytes(BROKEN.read_bytes())
    page = client.get(address(project, path)).text
    assert "would reject broken.jsonl: 16 errors" in page
    assert "FT204" in page
    only = client.get(address(project, path), params={"rule": "FT204"}).text
    assert only.count("data-row") == 1
    one = client.get(f"{address(project, path)}/row/3").text
    assert "messages[0].role" in one or "FT204" in one


def test_row_shows_what_is_trained(client: TestClient, project: Project, own_home: Path) -> None:
    path = write(own_home, [row("How late are you open?", "Until eight.")])
    part = client.get(f"{address(project, path)}/row/1").text
    assert "Trained on" in part
    assert 'class="token trained"' in part
    assert "As a table" in part
    assert "there is no line 9" in client.get(f"{address(project, path)}/row/9").text
    page = client.get(address(project, path), params={"row": "9", "model": "smollm2-135m-instruct"}).text
    assert "there is no line 9" in page
    assert '<input type="hidden" name="model" value="smollm2-135m-instruct">' in page, "the filters keep the rules"


def test_pages_of_a_hundred_and_go_to_line(client: TestClient, project: Project, own_home: Path) -> None:
    path = write(own_home, [row(f"question {number}") for number in range(1, 251)])
    url = address(project, path)
    first = client.get(url).text
    assert first.count("data-row") == 100
    assert "question 100<" in first
    assert "after=100" in first
    third = client.get(url, params={"line": "201"}).text
    assert third.count("data-row") == 50
    assert "question 201<" in third
    assert "Next 100" not in third
    assert "The file has no lines here" in client.get(url, params={"line": "999"}).text
    assert "not a number" in client.get(url, params={"line": "x"}).text


def test_long_row_is_shown_in_part_first(client: TestClient, project: Project, own_home: Path) -> None:
    """A row of 100 kB took seconds; 20,000 lines made a page of 100,000 pixels."""
    path = write(own_home, [row("word " * 5000, "\n" * 2000), row("short")])
    part = client.get(f"{address(project, path)}/row/1").text
    assert "Long texts are shown in part" in part
    assert part.partition("</pre>")[0].count("word") == 4000 // 5
    assert part.count('<span class="token') <= 1000 + 10
    everything = client.get(f"{address(project, path)}/row/1", params={"full": 1}).text
    assert "Long texts" not in everything
    assert everything.partition("</pre>")[0].count("word") == 20_000 // 5
    assert everything.count('<span class="token') > 1010
    found = client.get(f"{address(project, path)}/row/1", params={"q": "word"}).text
    assert found.count('<mark class="hit">') == 4000, "a search is not cut short"
    assert part.count('<pre class="long" tabindex="0"') >= 2, "it scrolls by itself, with keys, too"
    short = client.get(f"{address(project, path)}/row/2").text
    assert "Long texts" not in short
    assert 'class="long"' not in short


def test_caption_counts_what_a_search_found(client: TestClient, project: Project, own_home: Path) -> None:
    path = write(own_home, [row("a cat" if number in (0, 60) else "dog") for number in range(61)])
    assert ">2 rows that fit</caption>" in client.get(address(project, path), params={"q": "cat"}).text
    assert ">61 rows, 1 to 61</caption>" in client.get(address(project, path)).text


def test_rejected_data_offer_their_fixes_first(client: TestClient, project: Project, own_home: Path) -> None:
    path = own_home / "broken.jsonl"
    path.write_bytes(BROKEN.read_bytes())
    page = client.get(address(project, path)).text
    assert re.search('<a class="button" [^>]*>Train on it', page)
    assert re.search('<a class="button primary" [^>]*>Show fixes', page)
    assert re.search(r"<summary>\d+ more rules</summary>", page), "no list that is cut at its edge"
    many = [len(re.findall('class="pill', cell)) for cell in re.findall('<td class="codes">.*?</td>', page)]
    assert max(many) <= 4
    fixes = client.get(f"{address(project, path)}/fixes").text
    assert re.search(r"<td>FT\d+ [a-z-]+</td>", fixes)
    assert "The new file would still be rejected" in fixes
    good = write(own_home, [row(f"mail {number}") for number in range(20)], "good.jsonl")
    assert re.search('<a class="button primary" [^>]*>Train on it', client.get(address(project, good)).text)


def test_search_marks_what_it_finds(client: TestClient, project: Project, own_home: Path) -> None:
    path = write(own_home, [row(f"question {number}") for number in range(1, 251)])
    page = client.get(address(project, path), params={"q": "QUESTION 24"}).text
    assert page.count("data-row") == 11
    assert '<mark class="hit">question 24</mark>' in page
    assert "No row fits" in client.get(address(project, path), params={"q": "nothing"}).text


def test_hostile_text_and_names_are_inert(client: TestClient, project: Project, own_home: Path) -> None:
    rows = [row(HOSTILE, HOSTILE), {HOSTILE: HOSTILE}, {"messages": [{"role": HOSTILE, "content": HOSTILE}]}]
    path = write(own_home, rows, "<img src=x onerror=alert(3)>.jsonl")
    pages = [client.get("/data"), client.get(address(project, path), params={"q": HOSTILE[:60], "row": "1"})]
    pages += [client.get(f"{address(project, path)}/row/{line}", params={"q": "<b>"}) for line in (1, 2, 3)]
    pages.append(
        client.get(address(project, path), params={"label": HOSTILE[:60], "provider": "local", "model": HOSTILE})
    )
    for page in pages:
        assert page.status_code == 200
        for raw in ("<script>alert", "<img", "\x1b", "\u202e"):
            assert raw not in page.text


def test_ids_do_not_become_paths(client: TestClient) -> None:
    for wrong in ("..%2f..%2fetc%2fpasswd", "%2fetc%2fpasswd", "x" * 16):
        assert client.get(f"/data/{wrong}").status_code in (400, 404)


def test_dropped_file_is_stored_and_shown(client: TestClient, project: Project) -> None:
    body = "".join(json.dumps(row(f"q{number}")) + "\n" for number in range(20)).encode()
    headers = {"x-csrf-token": csrf_of(client), "content-type": "application/octet-stream"}
    received = client.post("/data/files", params={"name": "../träin.jsonl"}, content=body, headers=headers)
    assert received.status_code == 201
    stored = project.state_dir / "datasets" / "träin.jsonl"
    assert stored.read_bytes() == body
    assert "would accept träin.jsonl" in client.get(received.json()["location"]).text
    refused = client.post("/data/files", params={"name": "x.exe"}, content=body, headers=headers)
    assert refused.status_code == 400
    assert "not named like a dataset" in refused.text
    assert client.post("/data/files", params={"name": "a.jsonl"}, content=b"", headers=headers).status_code == 400


def test_dropped_file_needs_the_token(client: TestClient, project: Project) -> None:
    assert client.post("/data/files", params={"name": "a.jsonl"}, content=b"{}").status_code == 403
    assert not (project.state_dir / "datasets").exists()


def test_fixes_are_shown_before_a_new_file_is_written(client: TestClient, project: Project, own_home: Path) -> None:
    path = own_home / "data.jsonl"
    path.write_text(json.dumps(row("<b>one</b>")) + "\n\n" + json.dumps(row("two")) + "\n", encoding="utf-8")
    before = path.read_bytes()
    url = f"{address(project, path)}/fixes"
    page = client.get(url).text
    assert "FT007" in page
    assert "line 2" in page
    assert not (project.state_dir / "datasets").exists()
    done = client.post(url, data={"csrf": csrf_of(client), "unsafe": "0"}, headers={"origin": "http://127.0.0.1:8322"})
    assert done.status_code == 303
    assert "data-fixed.jsonl" in client.get(done.headers["location"]).text
    fixed = project.state_dir / "datasets" / "data-fixed.jsonl"
    assert fixed.read_text(encoding="utf-8").count("\n") == 2
    assert path.read_bytes() == before


def test_page_of_a_dataset_that_is_being_checked(
    client: TestClient, project: Project, own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows are shown at once; a filter that needs the check says so."""
    project.datasets.tasks = DatasetTasks(
        project.state_dir, run=lambda _state, _task: {"error": {"message": "no disk"}}
    )
    monkeypatch.setattr("ftpipe.ui.pages.data.SMALL_SECONDS", 0)
    path = write(own_home, [row("hi")])
    url = address(project, path)
    waiting = client.get(url, params={"rule": "FT204"}).text
    assert "still being checked" in waiting
    monkeypatch.setattr("ftpipe.ui.pages.data.SMALL_SECONDS", 30)
    assert "no disk" in client.get(url).text
    assert "no disk" in client.get(f"{url}/report").text


def test_page_keeps_rows_and_row_when_its_check_ends(client: TestClient, project: Project, own_home: Path) -> None:
    """What the user has chosen while the check ran; the URL of another page does not count."""
    path = write(own_home, [row(f"question {n}") for n in range(250)])
    url = address(project, path)
    assert re.search(r'<tr class="current">.*?>1</a>', client.get(url).text, re.S)
    current = f"http://127.0.0.1/{url[1:]}?line=101&row=105&q=question#row"
    report = client.get(f"{url}/report", headers={"hx-request": "true", "hx-current-url": current}).text
    refresh = html.unescape(re.search(r'id="page-update" hx-get="([^"]*)"', report)[1])  # type: ignore[index]
    assert refresh == f"{url}?line=101&row=105&q=question"
    section = report[report.index("<section") :].partition(">")[0]
    assert "hx-get" not in section, "it polls until now: the request would wait for one of these, or be dropped"
    page = client.get(refresh, headers={"hx-request": "true"}).text
    assert re.search(r'<tr class="current">.*?>105</a>', page, re.S)
    assert "<h2>Line 105</h2>" in page
    for other in ("http://127.0.0.1/data?line=2", "http://[", "", f'http://x{url}?a="><script>'):
        report = client.get(f"{url}/report", headers={"hx-current-url": other}).text
        assert re.search(rf'hx-get="{url}[^"<>]*" hx-trigger="load, every 5s"', report)
        assert "line=2" not in report


def test_model_says_what_computes_losses(client: TestClient, project: Project, own_home: Path) -> None:
    """Without a model that was trained on the data there is no form for losses."""
    path = write(own_home, [row("hi")])
    assert "Compute losses" not in client.get(address(project, path)).text


MODELS = [LossModel("ft:tiny:<b>", "local"), LossModel("tiny", "local")]


@pytest.fixture
def tiny_base(project: Project, monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """A base model of this machine, and an endpoint whose second token is a surprise; it answers when this is set."""
    save_base(models_dir() / "tiny")
    may_answer = threading.Event()
    may_answer.set()

    def logprobs(model: LossModel, ids: Ids) -> list[float | None]:
        may_answer.wait(30)
        if model == MODELS[0]:
            raise ProviderError(f"no model {model.name}", "<i>train one</i>")
        return [None, *(-6.0 if index % 2 else -0.01 for index in range(1, len(ids)))]

    project.datasets.token_losses = TokenLosses(logprobs)
    monkeypatch.setattr(project.datasets, "loss_models", lambda base: MODELS if base == "tiny" else [])
    monkeypatch.setattr("ftpipe.ui.pages.data.TOKEN_LOSS_SECONDS", 30)
    return may_answer


def test_tokens_are_coloured_by_their_loss(
    client: TestClient, project: Project, own_home: Path, tiny_base: threading.Event
) -> None:
    """With numbers in titles and in a table; the page itself does not wait for the model."""
    url = address(project, write(own_home, [row("How late are you open?", "Until eight.")]))
    asked = {"model": "tiny", "loss_model": "tiny"}
    plain = client.get(url, params={"row": "1", "model": "tiny"}).text
    assert "Colour by the loss under" in plain
    assert "loss-5" not in plain
    tiny_base.clear()
    first = client.get(url, params={"row": "1", **asked}).text
    assert f'hx-get="{url}/row/1/tokens?' in first
    tiny_base.set()
    done = client.get(f"{url}/row/1/tokens", params=asked).text
    assert "hx-get" not in done
    assert re.search(r'class="token trained loss-5" title="loss 6.000, probability 0.2 %; trained; id \d+"', done)
    assert re.search(r'class="token trained loss-1" title="loss 0.010, probability 99.0 %; trained; id \d+"', done)
    assert "token prompt loss" not in done
    assert "Losses as a table" in done
    assert "highest <" not in done
    assert "highest 6.000 at" in done
    following = client.get(url, params={"after": "0", **asked}).text
    assert f"{url}/row/1?" in following
    assert "loss_model=tiny" in following, "the next row is coloured, too"


def test_tokens_without_losses_say_why(client: TestClient, project: Project, own_home: Path, tiny_base: object) -> None:
    url = address(project, write(own_home, [row("How late are you open?", "Until eight.")]))
    failed = client.get(f"{url}/row/1/tokens", params={"model": "tiny", "loss_model": MODELS[0].name}).text
    assert "no model ft:tiny:&lt;b&gt;" in failed
    assert "&lt;i&gt;train one&lt;/i&gt;" in failed
    unknown = client.get(f"{url}/row/1/tokens", params={"model": "tiny", "loss_model": "<b>x"}).text
    assert "is not known under &lt;b&gt;x; choose another model" in unknown
    other = client.get(f"{url}/row/1/tokens", params={"loss_model": "tiny"}).text
    assert "its base is not that of the check" in other
    assert "there is no line 9" in client.get(f"{url}/row/9/tokens", params={"loss_model": "tiny"}).text
