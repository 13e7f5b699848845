"""``ftpipe models record`` on a local OpenAI account: every answer is asked for once, and nothing changes."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import time_machine

from ftpipe.catalog.inference_prices import answer_price
from ftpipe.errors import CostLimitError, InterruptedRunError, UsageError
from ftpipe.evaluation.request_runner import RateLimiter
from ftpipe.evaluation.response_cache import ResponseCache
from ftpipe.migration.answers import AccountedRunner, RequestParameters, requests_of
from ftpipe.migration.prompts import PromptList, add_dataset, add_log
from ftpipe.migration.record import choose_batch
from ftpipe.migration.recording import Recording, RecordingSampling, read_recording
from ftpipe.migration.spending import Ledger, Rate, RecordingCost
from ftpipe.providers.openai import open_openai
from ftpipe.providers.profiles import find_profile
from ftpipe.records.evaluation import Answer
from tests.cli.cli_runner import CommandResult
from tests.fakes.account_contents import MAIN, MAIN_MODEL, MODELS_WITHOUT_JOB, SUPPORT_DESK
from tests.fakes.openai_account import OpenAIAccount
from tests.fakes.scripted_server import LOST, Fault, RejectedRequest, busy, refusal
from tests.migration.conftest import RunCommand

SETTINGS = """
[providers.openai]
list_lag_seconds = 0.03
poll_first_seconds = 0.001
poll_max_seconds = 0.002
"""
PRICE = answer_price("openai", "gpt-4o-mini-2024-07-18", "tuned")
Run = Callable[..., CommandResult]


@pytest.fixture
def record(run_command: RunCommand) -> Run:
    """``ftpipe models record MODEL`` with these options."""
    Path("ftpipe.toml").write_text(SETTINGS)
    return lambda *options, model=MAIN_MODEL: run_command("models", "record", model, "--provider", "openai", *options)


def held_out(rows: int = 6, name: str = "held.jsonl") -> str:
    """The first rows of a test file."""
    lines = (SUPPORT_DESK / "test.jsonl").read_text("utf-8").splitlines(keepends=True)
    Path(name).write_text("".join(lines[:rows]), encoding="utf-8")
    return name


def recorded(path: str = "golden.jsonl") -> Recording:
    return read_recording(Path(path))


def cost_of(account: OpenAIAccount, factor: float = 1.0) -> float:
    return sum(Rate(PRICE, factor).cost(one.prompt_tokens, one.completion_tokens) for one in account.paid)


def test_record_asks_each_prompt_once_and_changes_nothing(record: Run, account: OpenAIAccount) -> None:
    before = account.state_digest()
    ran = record("--prompts", held_out(), "--samples", "2", "--top-logprobs", "3", "-o", "golden.jsonl", "--yes")
    assert ran.code == 0, ran.err
    assert "about 0.0" in ran.err
    recording = recorded()
    assert [len(one.samples) for one in recording.prompts] == [3] * 6
    assert [one.source for one in recording.prompts] == [f"held.jsonl:{line}" for line in range(1, 7)]
    assert {one.origin for one in recording.prompts} == {"held-out"}
    assert all(one.expected and one.messages[-1]["role"] == "user" for one in recording.prompts)
    logprobs = recording.prompts[0].greedy.logprobs or ()
    assert logprobs
    assert len(logprobs[0].alternatives) == 3
    assert len(account.paid) == 18
    again = record("--prompts", held_out(), "-o", "golden.jsonl", "--yes")
    assert again.code == 0, again.err
    assert len(account.paid) == 18
    assert (account.changes, account.paid_twice(), account.state_digest()) == ([], [], before)


def test_record_answers_are_shared_between_files(record: Run, account: OpenAIAccount) -> None:
    """Another file of the same model asks only for what was not answered yet."""
    assert record("--prompts", held_out(4), "-o", "one.jsonl", "--yes").code == 0
    assert record("--prompts", held_out(6), "-o", "two.jsonl", "--yes").code == 0
    assert len(account.paid) == 6
    assert recorded("two.jsonl").prompts[:4] == recorded("one.jsonl").prompts


def test_record_through_batches_gives_the_same_answers_for_half_the_price(record: Run, account: OpenAIAccount) -> None:
    before = account.state_digest()
    ran = record("--prompts", held_out(), "--samples", "2", "-o", "golden.jsonl", "--yes", "--batch", "--json")
    assert ran.code == 0, ran.err
    assert {one.kind for one in account.paid} == {"batch"}
    assert [(one.method, one.path) for one in account.changes] == [("POST", "/v1/files"), ("POST", "/v1/batches")]
    assert account.state_digest() == before
    assert ran.document["recording"]["spent"] == pytest.approx(cost_of(account, 0.5))
    in_batch = recorded()
    assert record("--prompts", held_out(), "--samples", "2", "-o", "direct.jsonl", "--yes", "--no-batch").code == 0
    assert len(account.paid) == 18
    assert recorded("direct.jsonl").prompts == in_batch.prompts


@pytest.mark.parametrize("route", ["POST /files", "POST /batches", "GET /batches/{id}", "GET /files/{id}/content"])
@pytest.mark.parametrize("fault", [LOST, Fault(executed=False, then="drop")])
def test_record_creates_a_batch_once_if_a_response_is_lost(
    record: Run, account: OpenAIAccount, route: str, fault: Fault
) -> None:
    account.script(route, fault)
    ran = record("--prompts", held_out(), "-o", "golden.jsonl", "--yes", "--batch")
    if ran.code:  # an upload that was lost is not repeated at once
        ran = record("--prompts", held_out(), "-o", "golden.jsonl", "--yes", "--batch")
    assert ran.code == 0, ran.err
    assert (len(account.batches), len(account.paid), account.paid_twice()) == (1, 6, [])
    assert len(recorded().prompts) == 6


def test_record_finds_its_batch_without_the_state_folder(record: Run, account: OpenAIAccount) -> None:
    """By the metadata, after the timeout of a run whose folder was then lost."""
    ran = record("--prompts", held_out(), "-o", "golden.jsonl", "--yes", "--batch", "--timeout", "0")
    assert (ran.code, len(account.batches)) == (8, 1), ran.err
    Path(".ftpipe").rename("gone")
    assert record("--prompts", held_out(), "-o", "golden.jsonl", "--yes", "--batch").code == 0
    assert (len(account.batches), len(account.paid)) == (1, 6)


def test_record_finishes_an_open_batch_before_it_asks_directly(record: Run, account: OpenAIAccount) -> None:
    assert record("--prompts", held_out(4), "-o", "g.jsonl", "--yes", "--batch", "--timeout", "0").code == 8
    assert record("--prompts", held_out(6), "-o", "g.jsonl", "--yes", "--no-batch").code == 0
    assert [one.kind for one in account.paid] == ["batch"] * 4 + ["chat"] * 2
    assert len(recorded("g.jsonl").prompts) == 6


@pytest.mark.parametrize(("status", "word"), [("failed", "refused"), ("cancelled", "cancelled")])
def test_record_reports_a_batch_without_answers(record: Run, account: OpenAIAccount, status: str, word: str) -> None:
    account.batch_statuses = ("validating", status)
    ran = record("--prompts", held_out(), "-o", "golden.jsonl", "--yes", "--batch")
    assert ran.code == 5
    assert word in ran.err
    assert "--no-batch" in ran.err
    assert record("--prompts", held_out(), "-o", "golden.jsonl", "--yes", "--no-batch").code == 0
    assert len(account.paid) == 6


def test_record_sends_the_rest_of_an_expired_batch_again(
    record: Run, account: OpenAIAccount, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was answered in time is used; the file of errors says ``batch_expired`` for the rest."""
    complete = account._complete

    def half(kind: str, fields: dict[str, Any]) -> Any:
        if kind == "batch" and len(account.paid) == 3 and len(account.batches) == 1:
            raise RejectedRequest(429, "This request could not be executed before the completion window expired.")
        return complete(kind, fields)

    monkeypatch.setattr(account, "_complete", half)
    ran = record("--prompts", held_out(), "-o", "golden.jsonl", "--yes", "--batch")
    assert ran.code == 0, ran.err
    assert (len(account.batches), len(account.paid), account.paid_twice()) == (2, 6, [])


def test_record_leaves_out_parameters_that_the_model_refuses(record: Run, account: OpenAIAccount) -> None:
    message = "Unsupported parameter: 'logprobs' is not supported with this model."
    account.script("POST /chat/completions", refusal(400, "unsupported_parameter", message))
    ran = record("--prompts", held_out(), "-o", "golden.jsonl", "--yes", "--no-batch", "--concurrency", "1")
    assert ran.code == 0, ran.err
    assert "does not take logprobs" in ran.err
    assert all(one.greedy.logprobs is None for one in recorded().prompts)


def test_record_waits_as_long_as_the_endpoint_says(record: Run, account: OpenAIAccount) -> None:
    account.script("POST /chat/completions", busy(retry_after="0"), busy(retry_after_ms="1"))
    ran = record("--prompts", held_out(2), "-o", "golden.jsonl", "--yes", "--no-batch", "--json")
    assert ran.code == 0, ran.err
    assert ran.document["recording"]["spent"] == pytest.approx(cost_of(account))


def test_record_counts_an_answer_whose_response_was_lost(record: Run, account: OpenAIAccount) -> None:
    """It may be paid, so it counts at its highest cost, and the request is sent again."""
    account.script("POST /chat/completions", LOST)
    ran = record("--prompts", held_out(2), "-o", "golden.jsonl", "--yes", "--concurrency", "1", "--json")
    assert ran.code == 0, ran.err
    assert (len(account.paid), len(recorded().prompts)) == (3, 2)
    assert ran.document["recording"]["spent"] > cost_of(account)


def test_record_keeps_refusals_of_single_prompts_and_stops_if_all_are_refused(
    record: Run, account: OpenAIAccount
) -> None:
    account.script("POST /chat/completions", refusal(400, None, "too long \x1b[31m"))
    ran = record("--prompts", held_out(3), "-o", "golden.jsonl", "--yes", "--no-batch", "--concurrency", "1")
    assert ran.code == 0, ran.err
    assert "1 request refused" in ran.err
    assert [bool(one.greedy.error) for one in recorded().prompts] == [True, False, False]
    account.always("POST /chat/completions", refusal(400, None, "no \x1b[31mway"))
    ran = record("--prompts", held_out(6), "-o", "other.jsonl", "--yes", "--no-batch", "--seed", "9")
    assert ran.code == 5
    assert "\x1b" not in ran.err
    assert recorded("other.jsonl").prompts == ()


def test_record_stops_before_the_limit_and_continues_with_a_higher_one(record: Run, account: OpenAIAccount) -> None:
    options = ("--prompts", held_out(40), "-o", "golden.jsonl", "--yes", "--no-batch", "--max-tokens", "64")
    cost = json.loads(record(*options, "--dry-run", "--json").out)["cost"]
    low = record(*options, "--max-cost", str(cost["expected"] / 2))
    assert (low.code, account.paid) == (1, [])
    limit = cost["expected"] * 1.02
    ran = record(*options, "--max-cost", str(limit))
    assert ran.code == 1
    assert "could exceed --max-cost" in ran.err
    assert 0 < cost_of(account) <= limit
    assert 0 < len(recorded().prompts) < 40
    assert record(*options, "--max-cost", str(limit * 10)).code == 0
    assert (len(recorded().prompts), len(account.paid), account.paid_twice()) == (40, 40, [])


def test_record_needs_a_confirmation_and_a_known_price_for_a_limit(record: Run, account: OpenAIAccount) -> None:
    held_out()
    assert record("--prompts", "held.jsonl").code == 2
    unknown = record("--prompts", "held.jsonl", "--max-cost", "5", "--yes", model="gpt-6-luna")
    assert (unknown.code, "no price" in unknown.err) == (1, True)
    limited = record("--prompts", "held.jsonl", "--max-cost", "0.000001", "--yes")
    assert (limited.code, "over the limit of <0.0001 USD" in limited.err) == (1, True)
    assert record().code == 2
    assert account.log == []
    ran = record("--prompts", "held.jsonl", "--yes", "--json", model="gpt-6-luna")
    assert (ran.code, ran.document["cost"]["expected"], len(account.paid)) == (0, None, 6)


def test_record_default_of_the_batch_api_depends_on_saving_and_date(record: Run, account: OpenAIAccount) -> None:
    few = ("--prompts", held_out(20), "--dry-run", "--json")
    many, model = (*few, "--samples", "100"), "ft:gpt-4.1-2025-04-14:acme:contracts:0a1b2c3d"
    assert record(*few, model=model).document["batch"] is False
    assert record(*many, model=model).document["batch"] is True
    assert record(*many, "--no-batch", model=model).document["batch"] is False
    with time_machine.travel(datetime(2027, 1, 13, 12, tzinfo=UTC), tick=True):
        assert record(*many, model=model).document["batch"] is False
    assert account.log == []


def test_record_refuses_a_model_that_is_gone(record: Run, account: OpenAIAccount) -> None:
    with time_machine.travel(datetime(2027, 1, 15, 12, tzinfo=UTC), tick=True):
        ran = record("--prompts", held_out(), "-o", "golden.jsonl", "--yes", "--no-batch")
    assert (ran.code, account.paid) == (5, [])
    assert "does not have this model" in ran.err or "shut down" in ran.err


def test_record_overwrites_and_mixes_nothing(record: Run, account: OpenAIAccount) -> None:
    Path("notes.jsonl").write_text("mine\n")
    ran = record("--prompts", held_out(), "-o", "notes.jsonl", "--yes")
    assert (ran.code, Path("notes.jsonl").read_text()) == (1, "mine\n")
    assert record("--prompts", held_out(), "-o", "golden.jsonl", "--yes").code == 0
    other = record("--prompts", held_out(), "-o", "golden.jsonl", "--yes", model=MODELS_WITHOUT_JOB[0])
    assert (other.code, "has model ft:" in other.err) == (2, True)
    assert len(account.paid) == 6


def test_record_marks_prompts_that_the_model_was_trained_on(record: Run, account: OpenAIAccount) -> None:
    lines = (SUPPORT_DESK / "train.jsonl").read_text("utf-8").splitlines(keepends=True)
    Path("train.jsonl").write_text("".join(lines[:3]), encoding="utf-8")
    both = held_out(2)
    Path(both).write_text(Path(both).read_text("utf-8") + lines[0], encoding="utf-8")
    ran = record("--prompts", both, "--training", "train.jsonl", "-o", "golden.jsonl", "--yes")
    assert ran.code == 0, ran.err
    assert "1 held-out prompt" in ran.err
    assert [(one.origin, one.seen) for one in recorded().prompts] == [
        ("held-out", False),
        ("held-out", False),
        ("held-out", True),
        ("training", True),
        ("training", True),
    ]
    assert record("--training", "auto", "--yes").code == 2


def test_record_knows_provider_and_training_file_of_a_registered_model(
    record: Run, run_command: RunCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run_command("jobs", "adopt", MAIN.id, "--provider", "openai").code == 0
    assert run_command("models", "alias", "desk@live", MAIN_MODEL).code == 0
    ran = run_command("models", "record", "desk@live", "--prompts", held_out(2), "-o", "golden.jsonl", "--yes")
    assert ran.code == 0, ran.err
    header = recorded().header
    assert (header.model, header.base, header.provider) == (MAIN_MODEL, "gpt-4o-mini-2024-07-18", "openai")
    training = Path("train.jsonl")
    training.write_bytes((SUPPORT_DESK / "train.jsonl").read_bytes())
    monkeypatch.setattr("ftpipe.evaluation.training_overlap.find_training_file", lambda *_: training)
    ran = record("--training", "auto", "--limit", "3", "-o", "seen.jsonl", "--yes")
    assert ran.code == 0, ran.err
    assert [(one.origin, one.seen) for one in recorded("seen.jsonl").prompts] == [("training", True)] * 3
    assert "ftpipe distill seen.jsonl" in ran.err


def test_interrupt_waits_for_answers_that_are_under_way(account: OpenAIAccount, tmp_path: Path) -> None:
    """They are paid: Ctrl-C sends no other request, and what arrives is kept."""
    release, held_back = threading.Event(), threading.Event()

    def hold_second(_route: str) -> None:
        if len(account.paid) == 2:
            held_back.set()
            release.wait(60)

    def interrupt(done: int, _total: int) -> None:
        if done == 1 and held_back.wait(60):
            raise KeyboardInterrupt

    account.after = hold_second
    statuses: list[str] = []

    def note(text: str) -> None:
        statuses.append(text)
        release.set()

    provider = open_openai(
        find_profile("openai").model_copy(update={"base_url": account.base_url, "key_env": ""}),
        {},
        sleep=lambda _: None,
    )
    cache = ResponseCache(tmp_path)
    runner = AccountedRunner(
        provider,
        cache,
        parameters=RequestParameters(RecordingSampling(), base="gpt-4o-mini"),
        ledger=Ledger(tmp_path / "spending.ndjson"),
        rate=Rate(PRICE),
        highest_costs={},
        concurrency=1,
        rate_limiter=RateLimiter(None),
        on_status=note,
    )
    requests = requests_of(MAIN_MODEL, (USER,), (), RecordingSampling(samples=9))
    with pytest.raises(InterruptedRunError):
        runner.run(requests, on_progress=interrupt)
    provider.close()
    assert statuses == ["waiting for 1 answer under way; Ctrl-C stops that"]
    assert (len(account.paid), cache.size) == (2, 2)
    assert Ledger(tmp_path / "spending.ndjson").open_keys == frozenset()


# Reading prompts.

USER = {"role": "user", "content": "Where is my order?"}
SYSTEM = {"role": "system", "content": "You help."}
ANSWER = {"role": "assistant", "content": "On its way."}
TOOL = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object", "properties": {}}}}
STORED = {"id": "m1", "content_parts": None, "name": None}


@pytest.mark.parametrize(
    "row",
    [
        {"model": "m", "messages": [SYSTEM, USER]},
        {"model": "m", "messages": [SYSTEM, USER, ANSWER]},
        {"messages": [{**SYSTEM, **STORED}, {**USER, **STORED}], "choices": [{"message": ANSWER}], "model": "m"},
        {"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": {"messages": [SYSTEM, USER]}},
        {"request": {"model": "m", "messages": [SYSTEM, USER]}, "response": {"choices": [{"message": ANSWER}]}},
        {"request": {"body": {"messages": [SYSTEM, USER]}}, "response": {"status": 500}},
        {"proxy_server_request": {"body": {"messages": [SYSTEM, USER]}}, "model": "m"},
        {"input": [SYSTEM, USER], "output": ANSWER, "model": "m", "usage": {"input": 3}},
        {"input": {"messages": [SYSTEM, USER]}, "output": {"content": "On its way."}},
        {"messages": json.dumps([SYSTEM, USER]), "response": "{}", "model": "m"},
        {"inputs": {"messages": [SYSTEM, USER]}, "outputs": {"content": "On its way."}},
    ],
)
def test_log_of_any_shape_gives_the_request_as_it_was_sent(tmp_path: Path, row: dict[str, Any]) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text(json.dumps(row) + "\n", encoding="utf-8")
    prompts = PromptList()
    add_log(prompts, path, model="m")
    (prompt,) = prompts.prompts.values()
    assert (prompt.messages, prompt.origin, prompt.expected) == ((SYSTEM, USER), "log", None)


def test_log_leaves_out_other_models_and_says_why(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    rows: list[dict[str, Any]] = [
        {"model": "m", "messages": [USER], "tools": [TOOL]},
        {"model": "other", "messages": [SYSTEM, USER]},
        {"messages": [SYSTEM]},
        {"level": "info"},
        {"model": "m", "messages": [USER], "tools": [TOOL], "response_format": {"type": "json_object"}, "stop": None},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    prompts = PromptList()
    add_log(prompts, path, model="m")
    assert [one.tools for one in prompts.prompts.values()] == [(TOOL,)]
    assert prompts.repeated == 1
    assert prompts.not_sent == {"response_format": 1}
    assert sum(prompts.skipped.values()) == 3
    assert prompts.skipped["the request is to another model"] == 1
    assert prompts.skipped_rows[0].startswith("log.jsonl:2: ")
    path.write_text(json.dumps(rows[1]) + "\n", encoding="utf-8")
    with pytest.raises(Exception, match="no request to m") as caught:
        add_log(PromptList(), path, model="m")
    assert "--any-model" in caught.value.hint  # type: ignore[attr-defined]  # an FtpipeError
    add_log(prompts, path, model=None)
    assert len(prompts.prompts) == 2


def test_dataset_of_each_method_gives_prompts(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows: list[dict[str, Any]] = [
        {"messages": [SYSTEM, USER, {**ANSWER, "weight": 1}]},
        {
            "input": {"messages": [USER], "tools": [TOOL]},
            "preferred_output": [ANSWER],
            "non_preferred_output": [SYSTEM],
        },
        {"messages": [{"role": "user", "content": "two plus two"}], "reference_answer": "4"},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    prompts = PromptList()
    add_dataset(prompts, path, "training")
    found = list(prompts.prompts.values())
    assert [one.messages[-1]["role"] for one in found] == ["user"] * 3
    assert [one.expected.content if one.expected else "" for one in found] == ["On its way.", "On its way.", "4"]
    assert all(one.seen for one in found)


# Parts.


def test_parameters_of_reasoning_models_and_refusals() -> None:
    request = requests_of("o4-mini", (USER,), (), RecordingSampling(samples=1))[1]
    plain = RequestParameters(RecordingSampling(samples=1, top_logprobs=2), base="gpt-4o-mini")
    assert plain.options(request) == {
        "max_tokens": 1024, "temperature": 1.0, "seed": 1, "logprobs": True, "top_logprobs": 2
    }  # fmt: skip
    assert RequestParameters(RecordingSampling(), base="o4-mini-2025-04-16").options(request) == {
        "max_completion_tokens": 1024, "seed": 1
    }  # fmt: skip
    assert not plain.adapt("max_tokens is too large: 99999")
    assert not plain.adapt("This model is not supported")
    assert plain.adapt("Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.")
    assert plain.adapt("'temperature' does not support 0 with this model. Only the default (1) value is supported.")
    assert plain.adapt("Unrecognized request argument supplied: logprobs")
    assert plain.options(request) == {"max_completion_tokens": 1024, "seed": 1}


@pytest.mark.parametrize(
    "answer",
    [Answer(text="hi"), Answer(text="hi", prompt_tokens=5), Answer(prompt_tokens=-9, completion_tokens=-9)],
)
def test_answer_without_usage_counts_at_its_highest_cost(answer: Answer) -> None:
    """An endpoint that reports no tokens, or fewer than none, does not get past the limit."""
    assert Rate(PRICE).cost_of(answer, 0.25) == 0.25
    full = Answer(text="hi", prompt_tokens=5, completion_tokens=1)
    assert 0 < Rate(PRICE).cost_of(full, 0.25) < 0.25


def test_record_does_not_forget_what_a_killed_request_may_have_cost(
    record: Run, account: OpenAIAccount, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reservation stays spent when the request is sent again."""
    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "settle", lambda *_args: None)  # killed before it was settled
        patch.setattr(ResponseCache, "put", lambda *_args: None)
        record("--prompts", held_out(1), "-o", "golden.jsonl", "--yes", "--no-batch")
    (path,) = Path().glob(".ftpipe/recordings/*/spending-*.ndjson")
    lost = Ledger(path).spent
    assert lost > 0
    Path("golden.jsonl").unlink(missing_ok=True)
    ran = record("--prompts", held_out(1), "-o", "golden.jsonl", "--yes", "--no-batch", "--json")
    assert ran.code == 0, ran.err
    assert ran.document["recording"]["spent"] == pytest.approx(lost + cost_of(account) / 2)
    assert len(account.paid) == 2


def test_ledger_counts_what_was_sent_and_survives_a_cut_line(tmp_path: Path) -> None:
    path = tmp_path / "spending.ndjson"
    ledger = Ledger(path, max_cost=1.0)
    ledger.reserve("a", 0.4)
    ledger.reserve("b", 0.4)
    with pytest.raises(CostLimitError):
        ledger.reserve("c", 0.4)
    ledger.settle("a", 0.1)
    ledger.reserve("c", 0.4)
    path.write_bytes(path.read_bytes() + b'{"key": "d", "rese')
    again = Ledger(path, max_cost=1.0)
    assert again.spent == pytest.approx(0.9)
    assert again.open_keys == frozenset("bc")
    again.settle("b", 0.0)
    assert Ledger(path).spent == pytest.approx(0.5)
    assert path.stat().st_mode & 0o077 == 0


def test_batch_is_refused_where_there_is_none(record: Run) -> None:
    free = RecordingCost(requests=1, prompt_tokens=1, completion_tokens=1, expected=None, high=None)
    with pytest.raises(UsageError, match="no Batch API"):
        choose_batch(True, find_profile("azure"), None, free, free, None)
    assert choose_batch(None, find_profile("azure"), None, free, free, None)[0] is False
