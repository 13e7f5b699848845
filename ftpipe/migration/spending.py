"""What recorded answers cost: the estimate before, and a ledger that keeps the limit across interruptions."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ftpipe.canonical_json import canonical_json
from ftpipe.dataset.file_context import FileContext
from ftpipe.dataset.json_line import Line
from ftpipe.dataset.record import DatasetRecord
from ftpipe.dataset.scan.token_count import RecordTokenCounter, collect_countable_texts
from ftpipe.errors import CostLimitError, LocalStateError
from ftpipe.formatting import format_money
from ftpipe.migration.recording import ExpectedAnswer, Prompt, RecordingSampling
from ftpipe.records.base import Record
from ftpipe.records.evaluation import Answer, TokenPrice
from ftpipe.records.leave import MAX_ROUNDING_ERROR
from ftpipe.tokenization import encoding_for, open_counter

GUESSED_ANSWER_TOKENS = 256
"""Expected length of an answer if no prompt has an expected one."""


@dataclass(frozen=True)
class Rate:
    """What a token costs at an endpoint, by one way of asking."""

    price: TokenPrice | None
    """``None`` if it is not known."""
    factor: float = 1.0
    """0.5 if the Batch API is half as expensive."""

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float:
        """The cost of a request; 0 if the price is not known."""
        if self.price is None:
            return 0.0
        return self.price.cost(prompt_tokens, completion_tokens) * self.factor

    def cost_of(self, answer: Answer, highest: float) -> float:
        """The cost of an answer, by the usage that the endpoint reported; ``highest`` if it reported none."""
        if answer.prompt_tokens <= 0 or answer.completion_tokens < 0:
            return highest
        if answer.completion_tokens == 0 and (answer.text or answer.tool_calls):
            return highest
        return self.cost(answer.prompt_tokens, answer.completion_tokens)


class RecordingCost(Record):
    """What a recording would cost, before anything is sent."""

    requests: int
    prompt_tokens: int
    completion_tokens: int
    """Expected."""
    expected: float | None
    """``None``, like ``high``, if no price is known."""
    high: float | None
    """If every answer is as long as ``max_tokens`` allows."""
    currency: str = "USD"
    price_as_of: str = ""
    source: str = ""


def count_prompt_tokens(prompts: Sequence[Prompt], model: str) -> dict[str, int]:
    """Prompt → tokens, as far as they are known; images and tools count as the model counts them."""
    encoding = encoding_for(model).name
    records = [{"messages": list(one.messages), **({"tools": list(one.tools)} if one.tools else {})} for one in prompts]
    raws = [canonical_json(record) for record in records]
    counter = RecordTokenCounter(open_counter(encoding, size=sum(map(len, raws))), encoding)
    context = FileContext("", "openai", None, "", "chat")
    rows = [
        DatasetRecord(Line(number, 0, raw), record, "chat", context)
        for number, (raw, record) in enumerate(zip(raws, records, strict=True), 1)
    ]
    counts = counter.count([collect_countable_texts(row, model) for row in rows])
    return {one.id: total for one, (total, _, _) in zip(prompts, counts, strict=True)}


def expected_answer_tokens(prompts: Sequence[Prompt], model: str, max_tokens: int) -> int:
    """Mean tokens of the answers that the data expect; a guess if there are none."""
    texts = [_text_of(one.expected) for one in prompts if one.expected is not None]
    if not texts:
        return min(GUESSED_ANSWER_TOKENS, max_tokens)
    counter = open_counter(encoding_for(model).name, size=sum(map(len, texts)))
    return min(max_tokens, -(-sum(counter.count(texts)) // len(texts)))


def _text_of(answer: ExpectedAnswer) -> str:
    return answer.content + "".join(call.name + call.arguments for call in answer.tool_calls)


def estimate_cost(
    prompts: Sequence[Prompt], tokens: dict[str, int], sampling: RecordingSampling, *, model: str, rate: Rate
) -> RecordingCost:
    """What the answers to some prompts cost.

    Args:
        prompts: Those that have no answers yet.
        tokens: From ``count_prompt_tokens``.
        sampling: Decides how many answers there are, and how long they can be.
        model: The model, for its tokenizer.
        rate: Its price.
    """
    samples = 1 + sampling.samples
    requests = len(prompts) * samples
    prompt_tokens = sum(tokens[one.id] for one in prompts) * samples
    completion_tokens = expected_answer_tokens(prompts, model, sampling.max_tokens) * requests
    price = rate.price
    return RecordingCost(
        requests=requests,
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        expected=rate.cost(prompt_tokens, completion_tokens) if price else None,
        high=rate.cost(prompt_tokens, requests * sampling.max_tokens) if price else None,
        currency=price.currency if price else "USD",
        price_as_of=price.as_of if price else "",
        source=price.source if price else "no price is known",
    )


class Ledger:
    """What was reserved for requests and batches before they were sent, and what they then cost.

    Each change is one appended line. What was reserved and never settled counts in full: the endpoint may have answered
    when this program was killed.

    Args:
        path: The file; created with the first line.
        max_cost: The limit for everything in the file; ``None`` for no limit.
        currency: Of the limit, for messages.
    """

    def __init__(self, path: Path, *, max_cost: float | None = None, currency: str = "USD") -> None:
        self.path = path
        self.max_cost = max_cost
        self.currency = currency
        self._reserved: dict[str, float] = {}
        self._settled = 0.0
        self._lock = threading.Lock()
        self._needs_newline = False
        self._load()

    @property
    def spent(self) -> float:
        """Settled costs, and reservations that were not settled."""
        return self._settled + sum(self._reserved.values())

    @property
    def open_keys(self) -> frozenset[str]:
        """What was sent and has no known outcome."""
        return frozenset(self._reserved)

    def reserved(self, key: str) -> float:
        """What is reserved for a request or batch."""
        return self._reserved.get(key, 0.0)

    def fits(self, amount: float) -> bool:
        """Whether so much more stays within the limit."""
        return self.max_cost is None or self.spent + amount <= self.max_cost + MAX_ROUNDING_ERROR

    def reserve(self, key: str, amount: float, *, is_sent: bool = False) -> None:
        """Reserve the highest cost of a request before it is sent.

        Args:
            key: The request or batch.
            amount: Its highest cost.
            is_sent: It was sent before, so that the limit cannot stop it any more.

        Raises:
            CostLimitError: It could exceed the limit.
            LocalStateError: The file cannot be written.
        """
        with self._lock:
            earlier = self._reserved.get(key, 0.0)
            if not is_sent and not self.fits(amount - earlier):
                raise self.limit_error()
            self._append({"key": key, "reserved": amount})
            self._reserved[key] = amount

    def settle(self, key: str, amount: float) -> None:
        """The cost of a request is known; 0 if it was not executed. Costs of several attempts add up."""
        with self._lock:
            self._append({"key": key, "settled": amount})
            self._reserved.pop(key, None)
            self._settled += amount

    def limit_error(self) -> CostLimitError:
        """The error if the next request could exceed the limit."""
        spent, limit = format_money(self.spent, self.currency), format_money(self.max_cost, self.currency)
        return CostLimitError(
            f"the next request could exceed --max-cost: up to {spent} of {limit} are spent",
            "the same command with a higher --max-cost continues; answers so far are not paid again",
        )

    def _append(self, entry: dict[str, object]) -> None:
        line = ("\n" if self._needs_newline else "") + json.dumps(entry) + "\n"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                os.write(descriptor, line.encode())
            finally:
                os.close(descriptor)
        except OSError as exc:
            raise LocalStateError(
                f"{self.path} cannot be written: {exc.strerror or exc}", "free space on the disk, then continue"
            ) from exc
        self._needs_newline = False

    def _load(self) -> None:
        """Read the file without a line that a kill cut off."""
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return
        except OSError as exc:
            raise LocalStateError(f"{self.path} cannot be read: {exc.strerror}", "check its permissions") from exc
        self._needs_newline = bool(data) and not data.endswith(b"\n")
        for line in data.splitlines():
            try:
                entry = json.loads(line)
                key, reserved, settled = entry["key"], entry.get("reserved"), entry.get("settled")
                if settled is None:
                    self._reserved[key] = float(reserved)
                else:
                    self._reserved.pop(key, None)
                    self._settled += float(settled)
            except (ValueError, KeyError, TypeError, AttributeError):
                continue
