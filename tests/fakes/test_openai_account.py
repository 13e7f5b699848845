"""The fake account behaves as the tests that use it assume: pages, dates, answers, and what it counts."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import openai
import pytest
import time_machine
from openai.types.chat import ChatCompletionUserMessageParam

from tests.fakes.account_contents import MAIN, MAIN_MODEL, TUNES
from tests.fakes.openai_account import OpenAIAccount
from tests.fakes.scripted_server import Fault

QUESTION: ChatCompletionUserMessageParam = {"role": "user", "content": "my invoice is wrong"}


@pytest.fixture
def account() -> Iterator[OpenAIAccount]:
    """The account on a day on which everything works."""
    with time_machine.travel(datetime(2026, 11, 28, 12, tzinfo=UTC), tick=True), OpenAIAccount() as running:
        yield running


def client_of(account: OpenAIAccount) -> openai.OpenAI:
    return openai.OpenAI(base_url=account.base_url, api_key="sk-test", max_retries=0)


def test_openai_account_lists_in_pages_and_changes_nothing(account: OpenAIAccount) -> None:
    before = account.state_digest()
    client = client_of(account)
    jobs = list(client.fine_tuning.jobs.list(limit=100))
    assert [job.id for job in jobs] == [tune.id for tune in sorted(TUNES, key=lambda one: one.day, reverse=True)]
    assert len(jobs) == 40
    assert account.calls["GET /fine_tuning/jobs"] == 2
    assert len(list(client.fine_tuning.jobs.list_events(MAIN.id, limit=100))) == 63
    files = list(client.files.list())
    assert {file.id for file in files} == account.files.keys()
    assert len({file.purpose for file in files}) > 6
    named = {job.training_file for job in jobs}
    assert len(named - account.files.keys()) == 8  # deleted, or of another project
    assert account.changes == []
    assert account.paid == []
    assert account.state_digest() == before


def test_openai_account_answers_the_same_to_the_same_request(account: OpenAIAccount) -> None:
    client = client_of(account)
    answers = [
        client.chat.completions.create(model=MAIN_MODEL, messages=[QUESTION], temperature=0, logprobs=True)
        for _ in range(2)
    ]
    assert answers[0].choices[0].message == answers[1].choices[0].message
    text = answers[0].choices[0].message.content or ""
    assert "queue:" in text
    logprobs = answers[0].choices[0].logprobs
    assert logprobs is not None and logprobs.content is not None
    assert "".join(one.token for one in logprobs.content) == text
    assert len(account.paid_twice()) == 2
    samples = client.chat.completions.create(model=MAIN_MODEL, messages=[QUESTION], n=8, temperature=1)
    assert len({choice.message.content for choice in samples.choices}) > 1
    stream = client.chat.completions.create(model=MAIN_MODEL, messages=[QUESTION], temperature=0, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == text
    assert account.changes == []


def test_openai_account_runs_a_batch(account: OpenAIAccount) -> None:
    client = client_of(account)
    lines = [
        {
            "custom_id": f"row-{number}",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {"model": MAIN_MODEL if number else "no-model", "messages": [QUESTION], "seed": number},
        }
        for number in range(3)
    ]
    data = "\n".join(map(json.dumps, lines)).encode()
    file = client.files.create(file=("in.jsonl", data), purpose="batch")
    batch = client.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h", metadata={"k": "v"}
    )
    seen = [batch.status]
    while batch.status != "completed":
        assert account.paid == []
        batch = client.batches.retrieve(batch.id)
        seen.append(batch.status)
    assert seen == ["validating", "in_progress", "finalizing", "completed"]
    assert [one.id for one in client.batches.list()] == [batch.id]
    assert batch.request_counts is not None and batch.request_counts.failed == 1
    output = client.files.content(batch.output_file_id or "").text.splitlines()
    assert [json.loads(line)["custom_id"] for line in output] == ["row-2", "row-1"]
    assert "no-model" in client.files.content(batch.error_file_id or "").text
    assert [one.kind for one in account.paid] == ["batch", "batch"]
    assert account.paid_twice() == []


@pytest.mark.parametrize(
    ("day", "can_create", "answers"),
    [("2027-01-06", True, True), ("2027-01-13", False, True), ("2027-01-15", False, False)],
)
def test_openai_account_keeps_its_dates(day: str, can_create: bool, answers: bool) -> None:
    with time_machine.travel(f"{day}T12:00:00+00:00", tick=True), OpenAIAccount() as account:
        client = client_of(account)
        training_file = account.jobs[MAIN.id]["training_file"]
        try:
            job = client.fine_tuning.jobs.create(model="gpt-4o-mini-2024-07-18", training_file=training_file)
            assert can_create
            assert [client.fine_tuning.jobs.retrieve(job.id).status for _ in range(4)][-1] == "succeeded"
        except openai.PermissionDeniedError as error:
            assert not can_create
            assert error.code == "training_not_available"
        listed = {model.id for model in client.models.list()}
        assert (MAIN_MODEL in listed) == answers
        try:
            client.chat.completions.create(model=MAIN_MODEL, messages=[QUESTION])
            assert answers
        except openai.NotFoundError as error:
            assert not answers
            assert error.code == "model_not_found"


def test_openai_account_cuts_a_response(account: OpenAIAccount) -> None:
    account.script("GET /models", Fault(then="cut"))
    with pytest.raises(openai.APIConnectionError):
        client_of(account).models.list()
    assert account.log[-1].path == "/v1/models"


def test_openai_account_runs_as_a_process(tmp_path: Path) -> None:
    log = tmp_path / "requests.jsonl"
    command = [sys.executable, "-m", "tests.fakes.openai_account", "--today", "2027-01-15", "--log", str(log)]
    folder = Path(__file__).parents[2]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=folder) as process:
        try:
            assert process.stdout is not None
            base_url = process.stdout.readline().split()[1].partition("=")[2]
            client = openai.OpenAI(base_url=base_url, api_key="sk-test", max_retries=0)
            assert MAIN_MODEL not in {model.id for model in client.models.list()}
        finally:
            process.terminate()
        assert process.wait(timeout=60) == 0
    assert json.loads(log.read_text())["path"] == "/v1/models"
