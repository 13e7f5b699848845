"""Asks a model for answers one by one: parameters that it refuses are left out, and each request is accounted for."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ftpipe.errors import (
    AuthenticationError,
    FtpipeError,
    InterruptedRunError,
    NotFoundError,
    QuotaError,
    RateLimitError,
    RequestRefusedError,
    ResponseTimeoutError,
)
from ftpipe.evaluation.evaluate import ProviderChat
from ftpipe.evaluation.items import tool_calls_of
from ftpipe.evaluation.request_runner import Progress, RateLimiter, RequestRunner, ignore_progress
from ftpipe.evaluation.response_cache import Request, ResponseCache
from ftpipe.formatting import plural
from ftpipe.migration.recording import RecordingSampling
from ftpipe.migration.spending import Ledger, Rate
from ftpipe.providers.provider import Provider
from ftpipe.providers.responses import ChatCompletion
from ftpipe.records.evaluation import Answer, SamplingParams

NOT_EXECUTED = (RequestRefusedError, RateLimitError, AuthenticationError, NotFoundError, QuotaError)
"""Errors after which a request was certainly not answered, and costs nothing."""
REASONING_BASES = ("o1", "o3", "o4", "gpt-5")
"""Start of the names of models that take no temperature. Source: OpenAI reasoning guide, read 2026-11."""
_NOT_SUPPORTED = re.compile(
    r"unsupported|not\s+(?:be\s+)?support|unrecogni[sz]ed|unknown|not\s+(?:allowed|permitted|available|enabled)"
    r"|only the default|extra",
    re.IGNORECASE,
)
MAX_ATTEMPTS = 8
"""How often a request is sent at most, after errors and when the endpoint is busy."""
MAX_TIMEOUTS = 3
"""How often a request is sent to an endpoint that does not answer in time; each time may be paid."""
MAX_WAIT_AFTER_INTERRUPT_SECONDS = 30.0
"""How long Ctrl-C waits for answers that are under way, since they are paid; a second Ctrl-C leaves them."""
OPTIONAL = ("top_logprobs", "logprobs", "seed", "temperature")
"""Parameters that are left out if the model does not take them."""


class RequestParameters:
    """The parameters of requests to one model; those that it refuses are not sent again.

    Args:
        sampling: The sampling parameters of the recording.
        base: The base model; decides what a reasoning model does not take.
        on_status: Called with what was left out.
    """

    def __init__(
        self, sampling: RecordingSampling, *, base: str, on_status: Callable[[str], None] = lambda _text: None
    ) -> None:
        self._sampling = sampling
        self._on_status = on_status
        is_reasoning = base.lower().startswith(REASONING_BASES)
        self._limit_name = "max_completion_tokens" if is_reasoning else "max_tokens"
        self._dropped = {"temperature", "logprobs", "top_logprobs"} if is_reasoning else set[str]()

    def options(self, request: Request) -> dict[str, Any]:
        """What is sent beside model and messages."""
        sampling = self._sampling
        options: dict[str, Any] = {
            self._limit_name: request.sampling.max_tokens,
            "temperature": request.sampling.temperature,
            "seed": request.seed,
            "logprobs": True if sampling.logprobs else None,
            "top_logprobs": sampling.top_logprobs if sampling.logprobs and sampling.top_logprobs else None,
            "tools": [dict(tool) for tool in request.tools] or None,
        }
        return {name: value for name, value in options.items() if value is not None and name not in self._dropped}

    def body(self, request: Request) -> dict[str, Any]:
        """The body of a request."""
        messages = [dict(message) for message in request.messages]
        return {"model": request.model, "messages": messages, **self.options(request)}

    def adapt(self, refusal: str) -> bool:
        """Leave out what a refusal says is not supported; whether that is anything."""
        if not _NOT_SUPPORTED.search(refusal):
            return False
        if self._limit_name == "max_tokens" and "max_completion_tokens" in refusal:
            self._limit_name = "max_completion_tokens"
            return True
        name = next((one for one in OPTIONAL if re.search(rf"\b{one}\b", refusal) and one not in self._dropped), None)
        if name is None:
            return False
        self._dropped |= {"logprobs", "top_logprobs"} if name == "logprobs" else {name}
        self._on_status(f"the model does not take {name}: the answers are recorded without it")
        return True


def requests_of(
    model: str,
    messages: tuple[Mapping[str, Any], ...],
    tools: tuple[Mapping[str, Any], ...],
    sampling: RecordingSampling,
) -> list[Request]:
    """The requests for a prompt's samples, the greedy one first."""
    greedy = SamplingParams(temperature=0.0, max_tokens=sampling.max_tokens, seed=sampling.seed)
    drawn = SamplingParams(temperature=sampling.temperature, max_tokens=sampling.max_tokens, seed=sampling.seed)
    return [
        Request(
            model=model, messages=messages, sampling=drawn if sample else greedy, sample=sample, tools=tools
        )
        for sample in range(1 + sampling.samples)
    ]  # fmt: skip


def answer_of(completion: ChatCompletion) -> Answer:
    """A completion as an answer."""
    return Answer(
        text=completion.text,
        tool_calls=tool_calls_of({"tool_calls": list(completion.tool_calls)}),
        finish_reason=completion.finish_reason,
        logprobs=completion.logprobs,
        prompt_tokens=completion.prompt_tokens or 0,
        completion_tokens=completion.completion_tokens or 0,
        latency_s=completion.latency_s,
    )


class AccountedRunner(RequestRunner):
    """Sends requests concurrently, each only if its highest cost still fits the limit.

    Args:
        provider: The endpoint.
        cache: Answers of earlier requests.
        parameters: What is sent beside the messages.
        ledger: Keeps the limit.
        rate: The price of a token.
        highest_costs: Request key → what it costs if the answer is as long as it can be.
        concurrency: Maximum number of concurrent requests.
        rate_limiter: Delays the start of requests.
        on_status: Called with what is waited for.
        sleep: Waits between attempts.
    """

    def __init__(
        self,
        provider: Provider,
        cache: ResponseCache,
        *,
        parameters: RequestParameters,
        ledger: Ledger,
        rate: Rate,
        highest_costs: Mapping[str, float],
        concurrency: int,
        rate_limiter: RateLimiter,
        on_status: Callable[[str], None] = lambda _text: None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        super().__init__(
            ProviderChat(provider.models, provider.profile.waiting_service_tier),
            cache,
            concurrency=concurrency,
            rate_limiter=rate_limiter,
            max_attempts=MAX_ATTEMPTS,
            sleep=sleep,
        )
        self._models = provider.models
        tier = provider.profile.waiting_service_tier
        self._options = {"service_tier": tier} if tier else {}
        self._parameters = parameters
        self._ledger = ledger
        self._rate = rate
        self._highest_costs = highest_costs
        self._on_status = on_status
        self._under_way: set[str] = set()
        self._has_ended = threading.Condition()

    def run(self, requests: Sequence[Request], *, on_progress: Progress = ignore_progress) -> dict[str, Answer]:
        """Answer every request, as ``RequestRunner.run`` does; Ctrl-C waits a little for answers that are under way."""
        try:
            return super().run(requests, on_progress=on_progress)
        except InterruptedRunError:
            self._wait_for_answers()
            raise

    def _wait_for_answers(self) -> None:
        ends_at = time.monotonic() + MAX_WAIT_AFTER_INTERRUPT_SECONDS
        with self._has_ended:
            if self._under_way:
                self._on_status(f"waiting for {plural(len(self._under_way), 'answer')} under way; Ctrl-C stops that")
            while self._under_way and (left := ends_at - time.monotonic()) > 0:
                try:
                    self._has_ended.wait(min(left, 0.2))  # a short wait, so that Ctrl-C is noticed
                except KeyboardInterrupt:
                    return

    def send(self, request: Request) -> Answer:
        """Reserve the highest cost, send the request, and send it again without a parameter that the model refuses."""
        with self._has_ended:
            self._under_way.add(request.key)
        try:
            return self._send_accounted(request)
        except BaseException:
            self._end(request)
            raise

    def _send_accounted(self, request: Request) -> Answer:
        highest, timeouts = self._highest_costs.get(request.key, 0.0), 0
        while True:
            self._ledger.reserve(request.key, highest)
            body = self._parameters.body(request)
            model, messages = body.pop("model"), body.pop("messages")
            try:
                completion = self._models.chat(
                    model, messages, attempts=1, extra_headers={"Idempotency-Key": request.key}, **self._options, **body
                )
            except FtpipeError as exc:
                self._ledger.settle(request.key, 0.0 if isinstance(exc, NOT_EXECUTED) else highest)
                timeouts += isinstance(exc, ResponseTimeoutError)
                if isinstance(exc, ResponseTimeoutError) and timeouts < MAX_TIMEOUTS:
                    continue
                if isinstance(exc, RequestRefusedError) and self._parameters.adapt(exc.message):
                    continue
                raise
            return answer_of(completion)

    def on_answer(self, request: Request, answer: Answer) -> None:
        """Settle the reservation by the usage that the endpoint reported."""
        self._ledger.settle(request.key, self._rate.cost_of(answer, self._highest_costs.get(request.key, 0.0)))
        self._end(request)

    def _end(self, request: Request) -> None:
        with self._has_ended:
            self._under_way.discard(request.key)
            self._has_ended.notify_all()
