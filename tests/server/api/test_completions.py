"""Completions of texts, with OpenAI's client and an engine that generates a fixed text."""

from __future__ import annotations

import json
import threading
from typing import Any

import openai
import pytest
from openai.types import Completion
from starlette.testclient import TestClient

from ftpipe.errors import NotFoundError
from ftpipe.inference.detokenizer import Delta, TokenLogprob
from ftpipe.inference.request import ContextLengthError, LogitBiasError
from ftpipe.server.api.answer_streams import MAX_CONCURRENT_ANSWERS
from tests.server.conftest import sdk
from tests.server.fakes import FakeEngine


@pytest.fixture
def api(client: TestClient) -> openai.OpenAI:
    """OpenAI's client."""
    return sdk(client)


def complete(api: openai.OpenAI, prompt: Any = "say it", **changes: Any) -> Completion:
    """A completion that is not streamed, and that is what OpenAI's types say."""
    answer: Completion = api.completions.create(model="gpt-4o-mini", prompt=prompt, **changes)
    if not (changes.get("echo") and "logprobs" in changes):  # the first token of a prompt has none, as at OpenAI
        Completion.model_validate(answer.model_dump(exclude_unset=True), strict=True)
    return answer


def refused(client: TestClient, **body: Any) -> tuple[int, str | None, str | None]:
    """Status, parameter and code of an error."""
    answer = client.post("/v1/completions", json={"model": "gpt-4o-mini", "prompt": "x"} | body)
    error = answer.json()["error"]
    return answer.status_code, error["param"], error["code"]


def test_completion_continues_text(api: openai.OpenAI, engine: FakeEngine) -> None:
    """16 tokens at most unless the request says otherwise."""
    answer = complete(api)
    assert (answer.object, answer.model, answer.id[:5]) == ("text_completion", "smollm2-135m-instruct", "cmpl-")
    assert [(one.index, one.text, one.finish_reason, one.logprobs) for one in answer.choices] == [
        (0, "hello there friend", "stop", None)
    ]
    assert answer.usage is not None
    assert answer.usage.model_dump(exclude_unset=True) == {
        "prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10
    }  # fmt: skip
    request = engine.requests[0]
    assert (request.prompt, request.messages, request.max_tokens, request.priority) == (
        "say it", [], 16, "interactive"
    )  # fmt: skip


def test_completion_passes_sampling_on(api: openai.OpenAI, engine: FakeEngine) -> None:
    complete(
        api, max_tokens=2, temperature=0, top_p=0.5, stop=["x", "y"], seed=5, n=2, presence_penalty=1,
        frequency_penalty=-1, logit_bias={"7": 3}, extra_body={"top_k": 4, "min_p": 0.1, "repetition_penalty": 1.5},
    )  # fmt: skip
    assert sorted(request.seed or 0 for request in engine.requests) == [5, 6]
    request = engine.requests[0]
    assert (request.max_tokens, request.temperature, request.top_p, request.stop) == (2, 0.0, 0.5, ("x", "y"))
    assert (request.presence_penalty, request.frequency_penalty, request.logit_bias) == (1.0, -1.0, {7: 3.0})
    assert (request.top_k, request.min_p, request.repetition_penalty) == (4, 0.1, 1.5)


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [
        (["a", "b"], ["a", "b"]),
        ([1, 2], [(1, 2)]),
        ([[1, 2], [3]], [(1, 2), (3,)]),
        ("a", ["a"]),
    ],
)
def test_completion_takes_every_form_of_prompt(
    api: openai.OpenAI, engine: FakeEngine, prompt: Any, prompts: list[Any]
) -> None:
    """Choices are in the order of the prompts; each prompt counts once."""
    answer = complete(api, prompt, n=2, echo=True, max_tokens=1)
    assert sorted(map(str, (request.prompt for request in engine.requests))) == sorted(map(str, prompts * 2))
    texts = [one if isinstance(one, str) else "".join(map(chr, one)) for one in prompts]
    assert [(one.index, one.text) for one in answer.choices] == [
        (2 * index + number, f"{text}hello") for index, text in enumerate(texts) for number in range(2)
    ]
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (7 * len(prompts), 2 * len(prompts))


@pytest.mark.parametrize("prompt", [[], [[]], ["a", 1], [[1], "a"], [-1], [True], {"a": 1}, 7, [[1.5]]])
def test_completion_refuses_other_prompts(client: TestClient, prompt: Any) -> None:
    assert refused(client, prompt=prompt) == (400, "prompt", "invalid_type")


def test_completion_logprobs_are_four_lists(api: openai.OpenAI) -> None:
    """Token, log-probability, alternatives with the token itself, and where the token starts in the text."""
    logprobs = complete(api, logprobs=2, max_tokens=2).choices[0].logprobs
    assert logprobs is not None
    assert logprobs.model_dump() == {
        "tokens": ["hello", " there"],
        "token_logprobs": [-0.5, -0.5],
        "top_logprobs": [{"hello": -0.5}, {" there": -0.5}],
        "text_offset": [0, 5],
    }
    without_top = complete(api, logprobs=0, max_tokens=1).choices[0].logprobs
    assert without_top is not None
    assert without_top.top_logprobs == [{"hello": -0.5}]


def test_completion_echo_has_logprobs_of_prompt(api: openai.OpenAI) -> None:
    """The first token has none; alternatives include the token of the prompt."""
    choice = complete(api, "one two", echo=True, logprobs=1, max_tokens=1).choices[0]
    assert choice.text == "one twohello"
    assert choice.logprobs is not None
    assert choice.logprobs.model_dump() == {
        "tokens": ["one", "two", "hello"],
        "token_logprobs": [None, -2.0, -0.5],
        "top_logprobs": [None, {"?": -0.25, "two": -2.0}, {"hello": -0.5}],
        "text_offset": [0, 3, 6],
    }


def test_completion_of_no_tokens_gives_prompt_alone(api: openai.OpenAI, engine: FakeEngine) -> None:
    """The engine generates one token, which is neither returned nor counted."""
    answer = complete(api, "one two", echo=True, logprobs=1, max_tokens=0)
    choice = answer.choices[0]
    assert (choice.text, choice.finish_reason) == ("one two", "length")
    assert choice.logprobs is not None
    assert choice.logprobs.tokens == ["one", "two"]
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 0
    assert engine.requests[0].max_tokens == 1


def test_completion_serves_lm_eval_likelihoods(api: openai.OpenAI) -> None:
    """What lm-eval sends for tasks with given answers, and how it reads the result.

    Source: EleutherAI/lm-evaluation-harness 4e7e0d4, lm_eval/models/openai_completions.py, 2026-08-21.
    """
    prompts = [[65, 66, 67, 68], [69, 70]]
    answer = complete(api, prompts, temperature=0, max_tokens=1, logprobs=1, seed=1234, echo=True)
    likelihoods = []
    for choice, context_length in zip(sorted(answer.choices, key=lambda one: one.index), (2, 1), strict=True):
        assert choice.logprobs is not None
        assert choice.logprobs.token_logprobs is not None
        assert choice.logprobs.top_logprobs is not None
        tokens = choice.logprobs.token_logprobs[context_length:-1]
        top = choice.logprobs.top_logprobs[context_length:-1]
        is_greedy = all(token == max(each.values()) for token, each in zip(tokens, top, strict=True))
        likelihoods.append((sum(tokens), is_greedy))
    assert likelihoods == [(-7.0, False), (-2.0, False)]


def test_completion_best_of_returns_most_probable(api: openai.OpenAI, engine: FakeEngine) -> None:
    """All are generated and counted; the log-probabilities by which they are chosen are not returned."""
    engine.logprobs_by_seed = {1: -3.0, 2: -1.0, 3: -2.0}
    answer = complete(api, best_of=3, n=2, seed=1, max_tokens=1)
    assert [(one.index, one.logprobs) for one in answer.choices] == [(0, None), (1, None)]
    assert len(engine.requests) == 3
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 3
    scored = complete(api, best_of=3, n=2, seed=1, max_tokens=1, logprobs=0)
    assert [one.logprobs.token_logprobs for one in scored.choices if one.logprobs] == [[-1.0], [-2.0]]


def test_completion_streams_pieces(api: openai.OpenAI) -> None:
    """The same text in pieces, the reason at the end of each choice, then the usage."""
    chunks = list(
        api.completions.create(
            model="gpt-4o-mini", prompt=["a", "b"], stream=True, stream_options={"include_usage": True}, echo=True,
            max_tokens=2, logprobs=1,
        )
    )  # fmt: skip
    assert len({chunk.id for chunk in chunks}) == 1
    for index, prompt in enumerate("ab"):
        mine = [one for chunk in chunks for one in chunk.choices if one.index == index]
        assert "".join(one.text for one in mine) == f"{prompt}hello there"
        offsets = [offset for one in mine if one.logprobs for offset in one.logprobs.text_offset or ()]
        assert offsets == [0, 1, 6]
        assert [one.finish_reason for one in mine] == [None] * (len(mine) - 1) + ["length"]
    assert [chunk.usage is None for chunk in chunks] == [True] * (len(chunks) - 1) + [False]
    assert chunks[-1].choices == []


def test_completion_stream_ends_with_done(client: TestClient) -> None:
    answer = client.post("/v1/completions", json={"model": "gpt-4o-mini", "prompt": "x", "stream": True})
    assert answer.headers["content-type"].startswith("text/event-stream")
    blocks = answer.text.strip().split("\n\n")
    assert blocks[-1] == "data: [DONE]"
    assert "usage" not in json.loads(blocks[0].removeprefix("data: "))


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({"suffix": "end"}, "suffix", "unsupported_parameter"),
        ({"best_of": 1, "n": 2}, "best_of", "invalid_value"),
        ({"best_of": 2, "stream": True}, "best_of", "invalid_value"),
        ({"stream_options": {}}, "stream_options", "invalid_value"),
        ({"logprobs": 6}, "logprobs", "invalid_value"),
        ({"prompt": ["x"] * 300, "n": 2}, "prompt", "invalid_value"),
        ({"other": 1}, "other", "unknown_parameter"),
    ],
)
def test_completion_refuses_by_name(client: TestClient, body: dict[str, Any], param: str, code: str) -> None:
    assert refused(client, **body) == (400, param, code)
    assert refused(client, suffix=None, model="no-such-model") == (404, "model", "model_not_found")


def test_completion_maps_errors_of_engine(client: TestClient, engine: FakeEngine) -> None:
    """Of several prompts the error names one, also in a stream that has not begun."""
    engine.error = ContextLengthError("too long")
    assert refused(client) == (400, "prompt", "context_length_exceeded")
    assert refused(client, prompt=["x"], stream=True) == (400, "prompt[0]", "context_length_exceeded")
    assert refused(client, prompt=[1, 2]) == (400, "prompt", "context_length_exceeded")
    engine.error = LogitBiasError("no such token")
    assert refused(client, prompt=["x", "y"]) == (400, "logit_bias", "invalid_logit_bias")
    engine.error = NotFoundError("no weights")
    assert refused(client) == (503, "model", "model_unavailable")


def test_completion_computes_prompts_at_the_same_time(api: openai.OpenAI, engine: FakeEngine) -> None:
    """So that they are one batch; each waits for the others before its first token."""
    together = threading.Barrier(MAX_CONCURRENT_ANSWERS, timeout=20)

    def meet() -> None:
        together.wait()

    engine.before_token = meet
    answer = complete(api, ["x"] * MAX_CONCURRENT_ANSWERS, max_tokens=1)
    assert len(answer.choices) == MAX_CONCURRENT_ANSWERS
    assert not together.broken


def test_completion_streams_choices_at_the_same_time(api: openai.OpenAI, engine: FakeEngine) -> None:
    together = threading.Barrier(3, timeout=20)

    def meet() -> None:
        together.wait()

    engine.before_token = meet
    chunks = list(api.completions.create(model="gpt-4o-mini", prompt="x", n=3, max_tokens=1, stream=True))
    texts = [(one.index, one.text) for chunk in chunks for one in chunk.choices if one.text]
    assert sorted(texts) == [(index, "hello") for index in range(3)]
    assert not together.broken


def test_completion_counts_offsets_in_characters(
    api: openai.OpenAI, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A token can be a part of a character, or have several."""
    parts = (TokenLogprob("\\xc3", -1.0, raw=b"\xc3"), TokenLogprob("\\xa9", -1.0, raw=b"\xa9"))
    deltas = [
        Delta("é", parts),
        Delta("ab", (TokenLogprob("ab", -1.0),)),
        Delta("c", (TokenLogprob("c", -1.0),), "stop", completion_tokens=4),
    ]
    monkeypatch.setattr(engine, "generate", lambda **_: (delta for delta in deltas))
    logprobs = complete(api, logprobs=1).choices[0].logprobs
    assert logprobs is not None
    assert (logprobs.tokens, logprobs.text_offset) == (["\\xc3", "\\xa9", "ab", "c"], [0, 0, 1, 3])
