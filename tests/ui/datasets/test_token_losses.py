"""Losses of tokens: computed once, in the background, and what a page shows of them."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence

import pytest

from ftpipe.errors import ProviderError
from ftpipe.records.token_mask import MaskedToken, TokenKind
from ftpipe.ui.datasets.token_losses import (
    ABANDONED_SECONDS,
    MAX_ROWS,
    STEPS,
    LossModel,
    TokenLosses,
    TokenView,
    mean_loss,
    probability_text,
    view_tokens,
)

MODEL = LossModel("ft:tiny:1", "local")
WAIT_SECONDS = 30


class Endpoint:
    """Tells log-probabilities, and remembers for which texts."""

    def __init__(self) -> None:
        self.requests: list[tuple[int, ...]] = []
        self.may_answer = threading.Event()
        self.may_answer.set()
        self.error: Exception | None = None

    def __call__(self, model: LossModel, ids: Sequence[int]) -> list[float | None]:
        assert model == MODEL
        self.requests.append(tuple(ids))
        self.may_answer.wait(WAIT_SECONDS)
        if self.error is not None:
            raise self.error
        return [None, *(-0.5 for _ in ids[1:])]


def test_losses_are_computed_once_for_all_sequences_of_a_row() -> None:
    endpoint = Endpoint()
    losses = TokenLosses(endpoint)
    endpoint.may_answer.clear()
    row = ((1, 2, 3), (1, 4))
    assert not losses.get(MODEL, row).is_finished, "a page does not wait for a model to be loaded"
    endpoint.may_answer.set()
    assert losses.get(MODEL, row, wait_seconds=WAIT_SECONDS).losses == ((None, 0.5, 0.5), (None, 0.5))
    assert losses.get(MODEL, row).losses is not None
    assert endpoint.requests == [(1, 2, 3), (1, 4)]


@pytest.mark.parametrize(
    ("error", "message", "hint"),
    [
        (ProviderError("the server does not answer", "start it"), "the server does not answer", "start it"),
        (KeyError("a secret"), "the losses could not be computed: KeyError", ""),
    ],
)
def test_error_is_told_once_and_tried_again(error: Exception, message: str, hint: str) -> None:
    endpoint = Endpoint()
    losses = TokenLosses(endpoint)
    endpoint.error = error
    state = losses.get(MODEL, ((1, 2),), wait_seconds=WAIT_SECONDS)
    assert (state.losses, state.error, state.hint) == (None, message, hint)
    endpoint.error = None
    assert losses.get(MODEL, ((1, 2),), wait_seconds=WAIT_SECONDS).losses == ((None, 0.5),)


def test_row_that_nobody_looks_at_any_more_is_not_computed() -> None:
    """Somebody who goes through the rows with a key waits for the last one only."""
    endpoint, now = Endpoint(), 0.0
    losses = TokenLosses(endpoint, clock=lambda: now)
    endpoint.may_answer.clear()
    for number in range(5):
        losses.get(MODEL, ((number, 1),))
    now += ABANDONED_SECONDS + 1
    losses.get(MODEL, ((4, 1),))
    endpoint.may_answer.set()
    assert losses.get(MODEL, ((4, 1),), wait_seconds=WAIT_SECONDS).losses is not None
    assert len(endpoint.requests) <= 2


def test_losses_of_many_rows_are_forgotten() -> None:
    endpoint = Endpoint()
    losses = TokenLosses(endpoint)
    for number in range(MAX_ROWS + 1):
        losses.get(MODEL, ((number,),), wait_seconds=WAIT_SECONDS)
    losses.get(MODEL, ((MAX_ROWS,),), wait_seconds=WAIT_SECONDS)
    assert len(endpoint.requests) == MAX_ROWS + 1
    losses.get(MODEL, ((0,),), wait_seconds=WAIT_SECONDS)
    assert len(endpoint.requests) == MAX_ROWS + 2


def view(probability: float, kind: TokenKind = TokenKind.TRAINED) -> TokenView:
    return TokenView("x", kind, 7, -math.log(probability))


def test_steps_are_those_of_the_legend() -> None:
    assert [view(one).step for one in (1.0, 0.95, 0.6, 0.2, 0.05, 0.001)] == [1, 1, 2, 3, 4, 5]
    assert [view(step * 0.99).step for step in STEPS] == [2, 3, 4, 5]
    assert view(0.001, TokenKind.PROMPT).step == 0
    assert TokenView("x", TokenKind.TRAINED, 7).step == 0


def test_numbers_of_a_token_are_words() -> None:
    assert view(0.099).description == "loss 2.313, probability 9.9 %; trained; id 7"
    assert TokenView("x", TokenKind.PROMPT, None).description == "prompt"
    assert [probability_text(one) for one in (1.0, 0.001, 0.00099)] == ["100.0 %", "0.1 %", "under 0.1 %"]


def test_mean_is_of_trained_tokens_that_have_a_loss() -> None:
    tokens = [MaskedToken(text=kind.value, kind=kind, id=1) for kind in (TokenKind.PROMPT, *[TokenKind.TRAINED] * 3)]
    views = view_tokens(tokens, (None, 1.0, 3.0))
    assert [one.loss for one in views] == [None, 1.0, 3.0, None], "a token beyond the limit has none"
    assert mean_loss(views) == 2.0
    assert mean_loss(view_tokens(tokens, None)) is None
