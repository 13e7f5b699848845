"""The loss of every token of a row under a model of this machine: computed when the row is shown, kept for a while."""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeAlias

from ftpipe.errors import FtpipeError
from ftpipe.records.token_mask import MaskedToken, TokenKind

STEPS = (0.9, 0.5, 0.1, 0.01)
"""Probabilities under which a token is in the second, third, … of five steps."""
STEP_NAMES = ("over 90 %", "50 to 90 %", "10 to 50 %", "1 to 10 %", "under 1 %")
MAX_ROWS = 200
"""Rows whose losses are kept."""
ABANDONED_SECONDS = 5.0
"""A row that no page has asked for since is not computed."""

Ids: TypeAlias = tuple[int, ...]
Losses: TypeAlias = tuple[float | None, ...]


class LossModel(NamedTuple):
    """A model that tells the losses of tokens."""

    name: str
    provider: str


@dataclass
class TokenLossState:
    """The losses of a row, or how far they are."""

    losses: tuple[Losses, ...] | None = None
    """In nats, for each sequence of the row; the first token of each has none."""
    error: str = ""
    hint: str = ""
    requested_at: float = 0.0
    """When a page asked for it last, in monotonic seconds."""

    @property
    def is_finished(self) -> bool:
        """Whether it has ended, successfully or not."""
        return self.losses is not None or bool(self.error)


class TokenLosses:
    """Computes the losses of one row after the other, in threads, so that no page waits for a model to be loaded.

    Args:
        read: Log-probabilities of the tokens of a text under a model.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        read: Callable[[LossModel, Ids], Sequence[float | None]],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._read = read
        self._clock = clock
        self._states: OrderedDict[tuple[LossModel, tuple[Ids, ...]], TokenLossState] = OrderedDict()
        self._changed = threading.Condition()
        self._slot = threading.Lock()

    def get(self, model: LossModel, sequences: tuple[Ids, ...], *, wait_seconds: float = 0) -> TokenLossState:
        """The losses of the sequences of a row, or how far they are; an error is told once, then it is tried again.

        Args:
            model: The model.
            sequences: The ids of the tokens.
            wait_seconds: How long to wait for them.
        """
        key = (model, sequences)
        with self._changed:
            state = self._states.get(key)
            if state is None:
                state = self._states[key] = TokenLossState()
                threading.Thread(target=self._run, args=(key, state), daemon=True, name="ui-token-losses").start()
            state.requested_at = self._clock()
            self._states.move_to_end(key)
            self._changed.wait_for(lambda: state.is_finished, wait_seconds)
            if state.error:
                self._states.pop(key, None)
            while len(self._states) > MAX_ROWS:
                self._states.popitem(last=False)
            return replace(state)

    def _run(self, key: tuple[LossModel, tuple[Ids, ...]], state: TokenLossState) -> None:
        model, sequences = key
        with self._slot:
            with self._changed:
                if self._clock() - state.requested_at > ABANDONED_SECONDS:
                    self._states.pop(key, None)
                    return
            losses, error, hint = None, "", ""
            try:
                losses = tuple(tuple(map(_loss, self._read(model, ids))) for ids in sequences)
            except FtpipeError as exc:
                error, hint = exc.message, exc.hint
            except Exception as exc:  # noqa: BLE001 - the page shows it
                error = f"the losses could not be computed: {type(exc).__name__}"
            with self._changed:
                state.losses, state.error, state.hint = losses, error, hint
                self._changed.notify_all()


def _loss(logprob: float | None) -> float | None:
    return None if logprob is None else max(0.0, -logprob)


class TokenView(NamedTuple):
    """A token as a row shows it."""

    text: str
    kind: TokenKind
    id: int | None
    loss: float | None = None

    @property
    def step(self) -> int:
        """1 for an expected token to 5 for a surprising one; 0 if it is not trained or its loss is not known."""
        if self.loss is None or self.kind is not TokenKind.TRAINED:
            return 0
        return 1 + sum(math.exp(-self.loss) < step for step in STEPS)

    @property
    def probability(self) -> str:
        """How probable the model finds it; empty if that is not known."""
        return "" if self.loss is None else probability_text(math.exp(-self.loss))

    @property
    def description(self) -> str:
        """Its numbers in words."""
        parts = [f"loss {self.loss:.3f}, probability {self.probability}"] if self.loss is not None else []
        return "; ".join([*parts, self.kind.value, *([f"id {self.id}"] if self.id is not None else [])])


def probability_text(probability: float) -> str:
    """A probability in percent."""
    percent = 100 * probability
    return f"{percent:.1f} %" if percent >= 0.1 else "under 0.1 %"


def view_tokens(tokens: Sequence[MaskedToken], losses: Losses | None) -> list[TokenView]:
    """The tokens of a sequence with their losses, if they are known; tokens beyond the limit have none."""
    known = losses or ()
    return [
        TokenView(token.text, token.kind, token.id, known[index] if index < len(known) else None)
        for index, token in enumerate(tokens)
    ]


def mean_loss(views: Sequence[TokenView]) -> float | None:
    """Nats per trained token; ``None`` if no loss is known."""
    losses = [view.loss for view in views if view.loss is not None and view.kind is TokenKind.TRAINED]
    return sum(losses) / len(losses) if losses else None
