"""What is sent for a mirrored chat, and the most that it can cost."""

from __future__ import annotations

from typing import Any

import pytest

from ftpipe.server.shadow.sampling import (
    MAX_PRICED_TOKENS,
    highest_tokens,
    is_sampled,
    is_text,
    mirrored_fields,
    with_token_limit,
)

MESSAGES = [{"role": "user", "content": "hi"}]


def test_mirrored_fields_are_those_that_change_the_answer() -> None:
    """Not those that say who wrote the chat, make the host do more, or are unknown."""
    kept = {"messages": MESSAGES, "temperature": 0, "tools": [], "max_tokens": 5, "top_k": 4, "min_p": 0.1}
    kept["repeat_penalty"] = 1.1
    left_out = {
        "model": "old", "n": 3, "stream": True, "store": True, "metadata": {"a": "b"}, "user": "anna", "seed": None,
        "safety_identifier": "anna", "web_search_options": {}, "service_tier": "priority", "unknown": 1,
    }  # fmt: skip
    assert mirrored_fields(kept | left_out) == kept


@pytest.mark.parametrize("limits", [{}, {"max_tokens": -1}, {"max_completion_tokens": "9"}, {"max_tokens": True}])
def test_token_limit_is_set_if_there_is_no_valid_one(limits: dict[str, Any]) -> None:
    """Some hosts take -1 for no limit."""
    limited = with_token_limit({"messages": MESSAGES, **limits})
    assert limited == {"messages": MESSAGES, "max_completion_tokens": MAX_PRICED_TOKENS}


def test_token_limit_of_the_caller_is_kept() -> None:
    fields = {"messages": MESSAGES, "max_tokens": 9, "max_completion_tokens": 5}
    assert with_token_limit(fields) == fields
    assert highest_tokens(fields)[1] == 9


def test_highest_tokens_are_no_fewer_than_bytes() -> None:
    text = "wörd " * 100
    prompt, _ = highest_tokens({"messages": [{"role": "user", "content": text}], "max_tokens": 1})
    assert prompt > len(text.encode())


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("text", True),
        (None, True),
        ([{"type": "text", "text": "a"}], True),
        ([{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "https://x/y.png"}}], False),
        ([{"type": "file"}], False),
        (5, False),
    ],
)
def test_text_has_a_highest_price_and_images_have_none(content: Any, expected: bool) -> None:
    assert is_text({"messages": [{"role": "user", "content": content}]}) is expected


def test_sampled_share_has_the_right_size() -> None:
    """Of evenly spread digests; none at 0, all at 1."""
    digests = [f"{number:013x}{number:019x}" for number in range(0, 16**13, 16**13 // 1000)]
    assert abs(sum(is_sampled(digest, 0.1) for digest in digests) - 100) <= 2
    assert not any(is_sampled(digest, 0.0) for digest in digests)
    assert all(is_sampled(digest, 1.0) for digest in digests)
