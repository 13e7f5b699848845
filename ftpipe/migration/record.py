"""Records a model's answers to prompts: planned with their cost, asked once, and on the disk as they arrive."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path

from ftpipe.catalog.inference_prices import answer_price, batch_price_factor
from ftpipe.errors import RequestRefusedError, UsageError
from ftpipe.evaluation.request_runner import RateLimiter
from ftpipe.evaluation.response_cache import Request, ResponseCache
from ftpipe.formatting import plural
from ftpipe.migration.answers import AccountedRunner, RequestParameters, requests_of
from ftpipe.migration.batch_answers import BatchAnswers, BatchIndex
from ftpipe.migration.recording import (
    Prompt,
    RecordedPrompt,
    RecordingHeader,
    RecordingWriter,
    Sample,
    iter_prompts,
)
from ftpipe.migration.spending import Ledger, Rate, RecordingCost, count_prompt_tokens, estimate_cost
from ftpipe.paths import state_dir
from ftpipe.providers.profiles import Profile
from ftpipe.providers.provider import Provider
from ftpipe.records.base import Record
from ftpipe.records.evaluation import Answer
from ftpipe.registry import Registry

MIN_BATCH_SAVING = 0.10
"""The Batch API can take a day: it is the default only if it saves this much, in the currency of the price."""
MIN_DAYS_FOR_BATCH = 2
"""Days before the shutdown of the model from which on no batch is the default."""
PROMPTS_AT_ONCE = 64
"""Prompts whose answers are awaited together when they are asked one by one, before they are written to the file."""
MAX_NAME_CHARACTERS = 80


@dataclass(frozen=True)
class RecordingPlan:
    """What will be asked, in which way, and what it costs."""

    path: Path
    header: RecordingHeader
    prompts: tuple[Prompt, ...]
    """All prompts, those that the file has already among them."""
    missing: tuple[Prompt, ...]
    """Prompts that the file does not have."""
    has_batch: bool
    """Whether the requests go through the Batch API."""
    reason: str
    """Why, or why not."""
    cost: RecordingCost
    """Of the missing prompts, without what is answered already."""
    direct_cost: RecordingCost
    """The same without the Batch API."""
    rate: Rate
    tokens: Mapping[str, int]
    """Prompt → tokens."""

    requests: Mapping[str, list[Request]]
    """Prompt → its requests, the greedy one first; of the missing prompts."""


class RecordingResult(Record):
    """What a recording has after a run."""

    path: Path
    model: str
    prompts: int
    """Prompts in the file that were requested."""
    added: int
    """Prompts that this run wrote."""
    refused: int = 0
    """Samples that the endpoint refused."""
    truncated: int = 0
    """Samples that ended at the maximum of tokens."""
    without_logprobs: int = 0
    """Samples without logarithms of probabilities."""
    spent: float | None = None
    """Cost of all its answers so far; ``None`` if no price is known."""
    currency: str = "USD"


class RecordingStore:
    """What is remembered of the answers of one model at one endpoint, in the project's state folder.

    Answers and batches are read when they are first used.

    Args:
        endpoint: Fingerprint of the endpoint.
        model: The model.
    """

    def __init__(self, endpoint: str, model: str) -> None:
        name = hashlib.sha256(f"{endpoint}\n{model}".encode()).hexdigest()[:16]
        self.folder = state_dir() / "recordings" / name
        self._endpoint = endpoint

    @cached_property
    def cache(self) -> ResponseCache:
        """The answers."""
        return ResponseCache(self.folder, endpoint=self._endpoint)

    @cached_property
    def batches(self) -> BatchIndex:
        """The batches that were created."""
        return BatchIndex(self.folder / "batches.ndjson")

    def ledger_path(self, recording: Path) -> Path:
        """Where the spending for one recording is."""
        return self.folder / f"spending-{hashlib.sha256(str(recording.absolute()).encode()).hexdigest()[:16]}.ndjson"


def default_path(model: str) -> Path:
    """``recordings/<model>.jsonl`` in the working folder."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", model).strip("-.")[:MAX_NAME_CHARACTERS] or "model"
    return Path("recordings") / f"{name}.jsonl"


def make_plan(
    header: RecordingHeader,
    prompts: Sequence[Prompt],
    path: Path,
    *,
    profile: Profile,
    store: RecordingStore,
    batch: bool | None = None,
    days_left: int | None = None,
) -> RecordingPlan:
    """Decide how the answers are asked for, and estimate what they cost.

    Args:
        header: The recording's header.
        prompts: What to ask.
        path: The file; an existing recording of the same header is continued.
        profile: The endpoint's profile.
        store: What was answered already.
        batch: Whether to use the Batch API; ``None`` if it is cheaper.
        days_left: Days until the model is shut down, if that is known.

    Raises:
        UsageError: The Batch API is requested, and the endpoint has none.
    """
    recorded = {one.id for one in iter_prompts(path)} if path.exists() else set()
    missing = tuple(one for one in prompts if one.id not in recorded)
    sampling, model, base = header.sampling, header.model, header.base or header.model
    requests = {one.id: requests_of(model, one.messages, one.tools, sampling) for one in missing}
    open_prompts = [one for one in missing if any(store.cache.get(request.key) is None for request in requests[one.id])]
    tokens = count_prompt_tokens(missing, base)
    price = answer_price(profile.target, base, "tuned" if base != model else "base")
    factor = batch_price_factor(profile.target)
    direct, cheaper = (
        estimate_cost(open_prompts, tokens, sampling, model=base, rate=Rate(price, share))
        for share in (1.0, factor or 1.0)
    )
    has_batch, reason = choose_batch(batch, profile, factor, direct, cheaper, days_left)
    return RecordingPlan(
        path=path,
        header=header,
        prompts=tuple(prompts),
        missing=missing,
        has_batch=has_batch,
        reason=reason,
        cost=cheaper if has_batch else direct,
        direct_cost=direct,
        rate=Rate(price, factor or 1.0) if has_batch else Rate(price),
        tokens=tokens,
        requests=requests,
    )


def choose_batch(
    requested: bool | None,
    profile: Profile,
    factor: float | None,
    direct: RecordingCost,
    cheaper: RecordingCost,
    days_left: int | None,
) -> tuple[bool, str]:
    """Whether to use the Batch API, and why.

    Args:
        requested: What the user wants; ``None`` for the Batch API if it is cheaper.
        profile: The endpoint's profile.
        factor: Its price through the Batch API as a share of the ordinary one; ``None`` if that is not known.
        direct: Cost without the Batch API.
        cheaper: Cost with it.
        days_left: Days until the model is shut down, if that is known.

    Raises:
        UsageError: It is requested, and the endpoint has none.
    """
    title = profile.title or profile.name
    if not profile.batch_api:
        if requested:
            raise UsageError(f"{title} has no Batch API", "leave --batch out")
        return False, f"{title} has no Batch API"
    share = f"{factor:.0%} of the price" if factor else "a price that ftpipe does not know"
    if requested is not None:
        return requested, f"as requested; the Batch API has {share}" if requested else "as requested"
    if days_left is not None and days_left < MIN_DAYS_FOR_BATCH:
        return False, "a batch can take a day, and the model is shut down before that or soon after"
    if not direct.requests:
        return False, "everything is answered"
    if direct.expected is not None and cheaper.expected is not None:
        saving = direct.expected - cheaper.expected
        if saving < MIN_BATCH_SAVING:
            least = f"{MIN_BATCH_SAVING:.2f} {direct.currency}"
            return False, f"the Batch API would save less than {least}, and can take a day"
    elif factor is None:
        return False, "it is not known whether the Batch API is cheaper"
    return True, f"the Batch API has {share}, and takes up to a day; --no-batch asks at once"


@dataclass
class Recorder:
    """Asks for the answers of a plan, and writes them to its file."""

    plan: RecordingPlan
    provider: Provider
    registry: Registry
    max_cost: float | None = None
    """The limit for the whole recording, what earlier runs paid for it included."""
    concurrency: int = 4
    rate_limiter: RateLimiter = field(default_factory=lambda: RateLimiter(None))
    timeout: float | None = None
    """Seconds to wait for batches; ``None`` for no limit."""
    on_status: Callable[[str], None] = lambda _text: None
    on_progress: Callable[[int, int], None] = lambda _done, _total: None
    sleep: Callable[[float], None] = time.sleep
    store: RecordingStore = field(init=False)
    ledger: Ledger = field(init=False)

    def __post_init__(self) -> None:
        self.parameters = RequestParameters(
            self.plan.header.sampling, base=self.plan.header.base, on_status=self.on_status
        )
        self._refused: dict[str, Answer] = {}

    def run(self) -> RecordingResult:
        """Record the missing answers; one process at a time records a model.

        Raises:
            CostLimitError: The next request could exceed the limit; answers so far are in the file.
            StillRunningError: The time is up; a batch goes on at the endpoint.
            InterruptedRunError: Ctrl-C.
            UsageError: The file is of another model, endpoint or sampling.
            FtpipeError: The endpoint failed; the same call continues.
        """
        name = f"recording {self.plan.header.endpoint} {self.plan.header.model}"
        with self.registry.lock(name, on_wait=lambda: self.on_status("waiting for another process that records …")):
            # opened under the lock: another process may have got answers since the plan
            self.store = RecordingStore(self.plan.header.endpoint, self.plan.header.model)
            self.ledger = Ledger(
                self.store.ledger_path(self.plan.path), max_cost=self.max_cost, currency=self.plan.cost.currency
            )
            writer = RecordingWriter(self.plan.path, self.plan.header)
            before = len(writer.ids)
            self._note_lost_answers()
            with self._written_at_the_end(writer):
                self._ask(writer)
        return self._result(len(writer.ids) - before)

    @contextmanager
    def _written_at_the_end(self, writer: RecordingWriter) -> Iterator[None]:
        """Write what is answered, also if the block ends with an error."""
        try:
            yield
        finally:
            self._write(writer, self.plan.missing)

    def _note_lost_answers(self) -> None:
        """Settle what was answered just before a kill, and say what was lost."""
        lost, rate = 0, Rate(self.plan.rate.price)
        for key in self.ledger.open_keys - self.store.batches.entries.keys():
            answer, highest = self.store.cache.get(key), self.ledger.reserved(key)
            # the reservation for the same request, sent again, must not replace what may have been paid
            self.ledger.settle(key, highest if answer is None else rate.cost_of(answer, highest))
            lost += answer is None
        if lost:
            self.on_status(
                f"{plural(lost, 'request')} under way when an earlier run was stopped: the answers are lost, count as "
                "spent, and are requested again"
            )

    def _ask(self, writer: RecordingWriter) -> None:
        requests = self.plan.requests
        everything = [request for group in requests.values() for request in group]
        if self.plan.has_batch or self.store.batches.open_entries:
            self._ask_in_batches(everything if self.plan.has_batch else [], writer)
        if not self.plan.has_batch:
            self._ask_directly(requests, writer)

    def _ask_in_batches(self, requests: Sequence[Request], writer: RecordingWriter) -> None:
        """Finish open batches, and ask for the rest in new ones."""
        if self.provider.batches is None:
            raise UsageError(
                f"batches are open at {self.plan.header.endpoint}, and its profile says that it has no Batch API",
                "set batch_api = true for this provider in ftpipe.toml",
            )
        factor = batch_price_factor(self.provider.profile.target) or 1.0
        batches = BatchAnswers(
            batches=self.provider.batches,
            profile=self.provider.profile,
            endpoint=self.provider.endpoint,
            cache=self.store.cache,
            journal=self.registry.journal,
            index=self.store.batches,
            ledger=self.ledger,
            rate=Rate(self.plan.rate.price, factor),
            parameters=self.parameters,
            highest_costs=self._highest_costs(factor),
            timeout=self.timeout,
            on_status=self.on_status,
            on_progress=self.on_progress,
            on_batch=lambda: self._write(writer, self.plan.missing),
            sleep=self.sleep,
            refused=self._refused,
        )
        batches.run(requests)

    def _ask_directly(self, requests: Mapping[str, list[Request]], writer: RecordingWriter) -> None:
        """Ask one by one, some prompts at a time, and write each when all its samples are there."""
        runner = AccountedRunner(
            self.provider,
            self.store.cache,
            parameters=self.parameters,
            ledger=self.ledger,
            rate=Rate(self.plan.rate.price),
            highest_costs=self._highest_costs(1.0),
            concurrency=self.concurrency,
            rate_limiter=self.rate_limiter,
            on_status=self.on_status,
            sleep=self.sleep,
        )
        missing = self.plan.missing
        samples = 1 + self.plan.header.sampling.samples
        total, size = len(missing) * samples, max(PROMPTS_AT_ONCE, self.concurrency * 4)
        for start in range(0, len(missing), size):
            group = missing[start : start + size]
            answers = runner.run(
                [request for one in group for request in requests[one.id]],
                on_progress=partial(self._report, start * samples, total),
            )
            refused = {key: answer for key, answer in answers.items() if answer.error}
            if start == 0 and refused and len(refused) == len(answers):
                raise RequestRefusedError(
                    f"the endpoint refused every request: {next(iter(refused.values())).error}",
                    "check the model and the prompts; nothing was recorded",
                )
            self._refused |= refused
            self._write(writer, group)

    def _report(self, before: int, total: int, count: int, _count_of_group: int) -> None:
        self.on_progress(before + count, total)

    def _highest_costs(self, factor: float) -> dict[str, float]:
        """Request → its cost if the answer is as long as it can be."""
        rate, limit = Rate(self.plan.rate.price, factor), self.plan.header.sampling.max_tokens
        return {
            request.key: rate.cost(self.plan.tokens[prompt], limit)
            for prompt, group in self.plan.requests.items()
            for request in group
        }

    def _write(self, writer: RecordingWriter, prompts: Iterable[Prompt]) -> None:
        """Write the prompts whose samples are all there."""
        requests = self.plan.requests
        for prompt in prompts:
            if prompt.id in writer.ids:
                continue
            answers = [self.store.cache.get(one.key) or self._refused.get(one.key) for one in requests[prompt.id]]
            samples = tuple(Sample.from_answer(answer) for answer in answers if answer is not None)
            if len(samples) == len(answers):
                writer.append(RecordedPrompt(**dict(prompt), samples=samples))

    def _result(self, added: int) -> RecordingResult:
        wanted = {one.id for one in self.plan.prompts}
        recorded = [one for one in iter_prompts(self.plan.path) if one.id in wanted]
        samples = [sample for one in recorded for sample in one.samples]
        price = self.plan.rate.price
        return RecordingResult(
            path=self.plan.path,
            model=self.plan.header.model,
            prompts=len(recorded),
            added=added,
            refused=sum(bool(sample.error) for sample in samples),
            truncated=sum(sample.finish_reason == "length" for sample in samples),
            without_logprobs=sum(sample.logprobs is None and not sample.error for sample in samples),
            spent=self.ledger.spent if price is not None else None,
            currency=price.currency if price is not None else "USD",
        )
