"""What is left of a conversation that is too long for the model."""

from __future__ import annotations

import pytest

from ftpipe.inference.request import ContextLengthError
from ftpipe.server.api.response_chat import newest_items
from ftpipe.server.api.response_items import Item, function_call
from ftpipe.server.protocol import bad_request

CONTEXT_TOKENS = 100


def message(tokens: int) -> Item:
    """A message of that many tokens."""
    return {"type": "message", "tokens": tokens}


def count(items: list[Item]) -> int:
    """Tokens of items, as an engine counts them."""
    tokens: int = sum(item.get("tokens", 1) for item in items)
    if tokens >= CONTEXT_TOKENS:
        text = "too long"
        raise bad_request(text, "messages", ContextLengthError.code)
    return tokens


@pytest.mark.parametrize(
    ("sizes", "answer_tokens", "kept"),
    [
        ([10, 10], 1000, 2),
        ([90, 9], 1000, 2),
        ([90, 10], 1000, 1),
        ([10] * 30, 1000, 6),
        ([10] * 30, 5, 8),
        ([10] * 30, 0, 9),
        ([10, 10, 200], 1000, 1),
    ],
)
def test_newest_items_fit_and_leave_room_for_answer(sizes: list[int], answer_tokens: int, kept: int) -> None:
    """A conversation that fits stays as it is; the last item stays even if it does not fit."""
    items = [message(size) for size in sizes]
    assert newest_items(items, count, answer_tokens) == items[len(items) - kept :]


def test_newest_items_have_no_output_without_its_call() -> None:
    items = [
        message(200),
        function_call("fc_1", "c1", "f", "{}") | {"tokens": 90},
        {"type": "function_call_output", "call_id": "c1", "output": "1", "tokens": 10},
        message(10),
    ]
    assert newest_items(items, count, 1000) == items[-1:]


def test_newest_items_pass_other_errors_on() -> None:
    def refuse(_items: list[Item]) -> int:
        text = "wrong"
        raise bad_request(text, "model")

    with pytest.raises(Exception, match="wrong"):
        newest_items([message(1)], refuse, 1)
