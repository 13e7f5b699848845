"""Conversations with several models: each with its own history, errors of one do not stop the others."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from ftpipe.errors import NotFoundError, RequestRefusedError, UsageError
from ftpipe.providers.responses import AnswerPiece, answer_piece_of
from ftpipe.records.evaluation import TokenLogprob
from ftpipe.ui.answers.conversations import ChatModel, Conversations
from ftpipe.ui.answers.sampling import ChatFields

A, B = ChatModel("a", "ft:a", "local"), ChatModel("b", "base", "hosted")


class FakeModels:
    """Answers with the model's name and the number of messages; keeps what it was asked."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.errors: dict[str, Exception] = {}
        self.refuses_probabilities = False
        self.may_go_on = threading.Event()
        self.may_go_on.set()

    def open(self, provider: str) -> Any:  # the stream of its models
        def stream(model: str, messages: list[dict[str, Any]], **sampling: Any) -> Iterator[AnswerPiece]:
            self.requests.append({"provider": provider, "model": model, "messages": messages, **sampling})
            if model in self.errors:
                raise self.errors[model]
            if self.refuses_probabilities and "logprobs" in sampling:
                raise RequestRefusedError("no logprobs here")
            yield AnswerPiece(f"{model} ", (TokenLogprob(token=f"{model} ", logprob=-0.1),))
            self.may_go_on.wait(30)
            yield AnswerPiece(f"{len(messages)}", (TokenLogprob(token=f"{len(messages)}", logprob=-2.0),))
            yield AnswerPiece(finish_reason="stop", completion_tokens=2)

        return stream


@pytest.fixture
def models() -> FakeModels:
    return FakeModels()


@pytest.fixture
def conversations(models: FakeModels) -> Conversations:
    return Conversations(models.open)


def test_each_model_gets_its_own_history(models: FakeModels, conversations: Conversations) -> None:
    fields = ChatFields.of({"system": "Be brief.", "temperature": "0.5", "max_tokens": "8"})
    first = conversations.ask([A, B], fields, "one")
    assert conversations.wait(first.turns[0], 30)
    second = conversations.ask([A, B], fields, "two", conversation_id=first.id)
    assert second is first
    assert conversations.wait(second.turns[1], 30)
    assert [answer.text for answer in second.turns[1].answers] == ["ft:a 4", "base 4"]
    asked = next(one for one in models.requests if one["model"] == "base" and len(one["messages"]) == 4)
    assert [m["content"] for m in asked["messages"]] == ["Be brief.", "one", "base 2", "two"]
    assert (asked["temperature"], asked["max_tokens"], asked["logprobs"]) == (0.5, 8, True)
    assert second.turns[1].answers[0].tokens[1].logprob == -2.0
    assert second.turns[1].answers[0].completion_tokens == 2


def test_a_question_keeps_the_system_message_with_which_it_was_asked(conversations: Conversations) -> None:
    first = conversations.ask([A], ChatFields.of({"system": "Be brief."}), "one")
    assert conversations.wait(first.turns[0], 30)
    conversations.ask([A], ChatFields.of({"system": "Be polite."}), "two", conversation_id=first.id)
    assert conversations.wait(first.turns[1], 30)
    assert [first.messages(0, turn)[0]["content"] for turn in (0, 1)] == ["Be brief.", "Be polite."]


def test_error_of_one_model_leaves_the_other(models: FakeModels, conversations: Conversations) -> None:
    models.errors["base"] = NotFoundError("there is no base", "choose another")
    turn = conversations.ask([A, B], ChatFields(), "hi").turns[0]
    assert conversations.wait(turn, 30)
    assert turn.answers[0].text == "ft:a 1"
    assert (turn.answers[1].error, turn.answers[1].hint) == ("there is no base", "choose another")


def test_unexpected_error_does_not_leave_an_answer_open(models: FakeModels, conversations: Conversations) -> None:
    models.errors["ft:a"] = ZeroDivisionError()
    turn = conversations.ask([A], ChatFields(), "hi").turns[0]
    assert conversations.wait(turn, 30)
    assert "ZeroDivisionError" in turn.answers[0].error


def test_model_without_probabilities_answers(models: FakeModels, conversations: Conversations) -> None:
    models.refuses_probabilities = True
    turn = conversations.ask([B], ChatFields(), "hi").turns[0]
    assert conversations.wait(turn, 30)
    assert (turn.answers[0].text, turn.answers[0].error) == ("base 1", "")


def test_stopped_answer_keeps_what_has_come(models: FakeModels, conversations: Conversations) -> None:
    models.may_go_on.clear()
    conversation = conversations.ask([A], ChatFields(), "hi")
    with pytest.raises(UsageError, match="still answering"):
        conversations.ask([A], ChatFields(), "again", conversation_id=conversation.id)
    conversations.stop(conversation)
    models.may_go_on.set()
    assert conversations.wait(conversation.turns[0], 30)
    answer = conversation.turns[0].answers[0]
    assert answer.text.startswith("ft:a ")
    assert answer.finish_reason == "stopped"


def test_other_models_begin_a_new_conversation(conversations: Conversations) -> None:
    first = conversations.ask([A], ChatFields(), "hi")
    assert conversations.wait(first.turns[0], 30)
    second = conversations.ask([A, B], ChatFields(), "hi", conversation_id=first.id)
    assert second.id != first.id
    assert conversations.get(first.id) is first


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"temperature": "3"}, "temperature"),
        ({"max_tokens": "0"}, "maximum of tokens"),
        ({"tools": "{}"}, "tools"),
        ({"tools": "[1]"}, "tools"),
        ({"tools": "nonsense"}, "must be JSON"),
        ({"response_format": "[]"}, "form"),
    ],
)
def test_wrong_parameters_are_refused_before_anything_is_sent(
    models: FakeModels, conversations: Conversations, values: dict[str, str], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        conversations.ask([A], ChatFields.of(values), "hi")
    assert models.requests == []


def test_plain_schema_becomes_a_response_format() -> None:
    sampling = ChatFields.of({"response_format": '{"type": "object"}', "tools": '[{"type": "function"}]'}).sampling()
    assert sampling["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "answer", "schema": {"type": "object"}},
    }
    assert sampling["tools"] == [{"type": "function"}]


def test_parts_of_a_tool_call_are_joined(conversations: Conversations) -> None:
    answer = conversations.ask([A], ChatFields(), "hi").turns[0].answers[0]
    for part in ({"id": "call_1", "function": {"name": "find", "arguments": ""}}, {"function": {"arguments": '{"a"'}},
                 {"function": {"arguments": ": 1}"}}):  # fmt: skip
        answer.add(answer_piece_of({"choices": [{"delta": {"tool_calls": [{"index": 0, **part}]}}]}))
    (call,) = answer.message["tool_calls"]
    assert (call["id"], call["function"]) == ("call_1", {"name": "find", "arguments": '{"a": 1}'})


def test_piece_of_a_chunk_has_text_probabilities_and_usage() -> None:
    chunk = {
        "choices": [
            {
                "delta": {"content": "yes"},
                "finish_reason": "stop",
                "logprobs": {
                    "content": [{"token": "yes", "logprob": -0.5, "top_logprobs": [{"token": "no", "logprob": -1.0}]}]
                },
            }
        ],
        "usage": {"prompt_tokens": 3, "completion_tokens": 1},
    }
    piece = answer_piece_of(chunk)
    assert (piece.text, piece.finish_reason, piece.prompt_tokens, piece.completion_tokens) == ("yes", "stop", 3, 1)
    assert piece.logprobs == (TokenLogprob(token="yes", logprob=-0.5, alternatives={"no": -1.0}),)
    assert answer_piece_of({"choices": []}) == AnswerPiece()
