"""The answers page, without a browser: one stream for all models, probabilities, and opinions."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.testclient import TestClient

from ftpipe.providers.responses import AnswerPiece
from ftpipe.records.evaluation import TokenLogprob
from ftpipe.ui.answers.conversations import Conversation, Conversations
from ftpipe.ui.pages.answers import TurnChanges
from ftpipe.ui.project import Project
from tests.ui.conftest import csrf_of

ORIGIN = {"origin": "http://127.0.0.1:8322"}
HOSTILE = "</pre><script>alert(1)</script>"


def stream(model: str, messages: list[dict[str, Any]], **_sampling: Any) -> Iterator[AnswerPiece]:
    for text, logprob in ((f"{model} says ", -0.01), (HOSTILE, -3.0)):
        yield AnswerPiece(text, (TokenLogprob(token=text, logprob=logprob, alternatives={"<b>": -0.2}),))
    yield AnswerPiece(finish_reason="stop", completion_tokens=len(messages))


@pytest.fixture(autouse=True)
def conversations(project: Project) -> Conversations:
    """Models that answer at once."""
    project.__dict__["conversations"] = Conversations(lambda _provider: stream)
    return project.conversations


def ask(client: TestClient, project: Project, models: list[str], **fields: str) -> Conversation:
    form = {"csrf": csrf_of(client), "message": "hi", "model": models, **fields}
    answer = client.post("/answers", data=form, headers=ORIGIN)
    assert answer.status_code == 303
    conversation = project.conversations.get(answer.headers["location"].partition("c=")[2].partition("#")[0])
    assert conversation is not None
    assert project.conversations.wait(conversation.turns[-1], 30)
    return conversation


def test_page_keeps_the_models_in_its_address(client: TestClient) -> None:
    page = client.get("/answers", params={"model": ["ft:a", "base"]}).text
    assert page.count('type="hidden" name="model"') == 2
    assert re.search(r"Message to <bdi>ft:(<wbr>)?a</bdi>, <bdi>base</bdi>", page)
    assert "Choose a model" in client.get("/answers").text


def test_answers_are_side_by_side_and_inert(client: TestClient, project: Project) -> None:
    conversation = ask(client, project, ["ft:a", "base"])
    page = client.get("/answers", params={"model": ["ft:a", "base"], "c": conversation.id}).text
    assert page.count('class="answer column-') == 2
    assert "<script>alert" not in page
    assert "differs from A" in page
    assert 'class="p0" title="99.0%' in page
    assert 'class="p4" title="5.0%' in page
    assert "data-stream" not in page
    assert client.get("/answers", params={"model": "ft:a", "c": conversation.id}).text.count("column-") == 0


def test_stream_has_the_pieces_of_all_models_and_an_end(client: TestClient, project: Project) -> None:
    conversation = ask(client, project, ["ft:a", "base"])
    events = list(TurnChanges(conversation.turns[0]).events())
    assert [event.name for event in events] == ["piece", "answer", "piece", "answer", "done"]
    assert json.loads(events[2].data) == {"column": 1, "text": f"base says {HOSTILE}"}
    assert [event.is_last for event in events] == [False] * 4 + [True]
    body = client.get(f"/answers/{conversation.id}/0/stream").text
    assert body.count("event: piece") == 2
    assert body.rstrip().endswith("event: done\ndata:") or "event: done" in body


def test_wrong_parameters_keep_what_was_typed(client: TestClient) -> None:
    form = {"csrf": csrf_of(client), "message": "my long text", "model": "ft:a", "temperature": "9"}
    answer = client.post("/answers", data=form, headers=ORIGIN)
    assert answer.status_code == 400
    assert "temperature" in answer.text
    assert "my long text" in answer.text


def test_opinions_become_rows_that_are_listed_as_data(client: TestClient, project: Project) -> None:
    conversation = ask(client, project, ["ft:a", "base"])
    url = f"/answers/{conversation.id}/0"
    for column, opinion, correction in ((0, "good", ""), (1, "corrected", "<i>right</i>")):
        form = {"csrf": csrf_of(client), "opinion": opinion, "correction": correction}
        part = client.post(f"{url}/{column}", data=form, headers={**ORIGIN, "hx-request": "true"})
        assert part.status_code == 200
        assert "<i>right" not in part.text
    rows = [json.loads(line) for line in project.feedback.answers.read_text(encoding="utf-8").splitlines()]
    assert [row["messages"][-1]["content"] for row in rows] == [f"ft:a says {HOSTILE}", "<i>right</i>"]
    page = client.get("/answers", params={"model": ["ft:a", "base"], "c": conversation.id}).text
    assert 'aria-pressed="true"' in page
    assert "answers.jsonl</a>" in page
    link = page.partition("Rows from answers: ")[2].partition('href="')[2].partition('"')[0]
    assert client.get(link).status_code == 200
    data = client.get("/data").text
    assert all(f".ftpipe/answers/{name}.jsonl" in data for name in ("answers", "preferences"))


def test_opinion_about_an_answer_that_is_not_there_is_refused(client: TestClient, project: Project) -> None:
    conversation = ask(client, project, ["ft:a"])
    form = {"csrf": csrf_of(client), "opinion": "good"}
    for path in (f"{conversation.id}/0/1", f"{conversation.id}/5/0", "nothing/0/0"):
        assert client.post(f"/answers/{path}", data=form, headers=ORIGIN).status_code == 400
    form["opinion"] = "excellent"
    assert client.post(f"/answers/{conversation.id}/0/0", data=form, headers=ORIGIN).status_code == 400
    assert not project.feedback.answers.exists()


def test_stop_needs_the_token(client: TestClient, project: Project) -> None:
    conversation = ask(client, project, ["ft:a"])
    assert client.post(f"/answers/{conversation.id}/stop", headers=ORIGIN).status_code == 403
    done = client.post(f"/answers/{conversation.id}/stop", data={"csrf": csrf_of(client)}, headers=ORIGIN)
    assert done.status_code == 303
