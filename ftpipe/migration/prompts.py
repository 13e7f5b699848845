"""Reads the prompts to record: from held-out data, from a log of requests, and from the data of the training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ftpipe.dataset import read_records
from ftpipe.dataset.conversion.examples import read_example
from ftpipe.dataset.conversion.legacy_markers import LegacyMarkers
from ftpipe.dataset.conversion.row import ConversionOptions, Row, SkipRow, UnmappedKey
from ftpipe.dataset.conversion.structure import as_messages
from ftpipe.dataset.source_readers import read_source_rows
from ftpipe.errors import DatasetError
from ftpipe.evaluation.items import content_text, item_from_record, tool_calls_of
from ftpipe.migration.recording import ExpectedAnswer, Origin, Prompt, prompt_id

MESSAGE_KEYS = ("role", "content", "name", "tool_calls", "tool_call_id", "function_call", "refusal")
"""Keys of a message that a request may have; logs add ids, times and empty keys."""
REQUEST_PATHS = (
    ("body",),
    ("request", "body"),
    ("request",),
    ("request_body",),
    ("requestBody",),
    ("proxy_server_request", "body"),
    ("input",),
    ("inputs",),
    ("kwargs",),
    (),
)
"""Where a log has the request: Batch API, gateways, LiteLLM, Langfuse and LangSmith; else the row itself."""
NOT_SENT = ("response_format", "tool_choice", "stop", "logit_bias", "reasoning_effort")
"""Parameters of logged requests that change answers and are not sent: a successor is asked without them, too."""
MAX_NAMED_ROWS = 10
"""Skipped rows that are named one by one."""


@dataclass
class PromptList:
    """The prompts of all sources; a prompt that several have is there once, under the first of them."""

    prompts: dict[str, Prompt] = field(default_factory=dict)
    """Prompt by id, in the order of the sources."""
    skipped: Counter[str] = field(default_factory=Counter)
    """Why rows were left out → how many."""
    skipped_rows: list[str] = field(default_factory=list)
    """The first ones, as ``calls.jsonl:7: it has no messages``."""
    not_sent: Counter[str] = field(default_factory=Counter)
    """Parameters of logged requests that are not sent → in how many requests."""
    repeated: int = 0
    """Rows whose prompt was there already."""

    def add(self, prompt: Prompt) -> None:
        """Add a prompt; what is known of it from two sources is combined."""
        known = self.prompts.get(prompt.id)
        if known is None:
            self.prompts[prompt.id] = prompt
            return
        self.repeated += 1
        update = {"seen": known.seen or prompt.seen, "expected": known.expected or prompt.expected}
        self.prompts[prompt.id] = known.model_copy(update=update)

    def skip(self, source: str, reason: str) -> None:
        """Note a row that is left out."""
        self.skipped[reason] += 1
        if len(self.skipped_rows) < MAX_NAMED_ROWS:
            self.skipped_rows.append(f"{source}: {reason}")

    def mark_seen(self, ids: Iterable[str]) -> int:
        """Mark the prompts that the model was trained on; returns how many of the held-out ones are among them."""
        held_out = 0
        for key in self.prompts.keys() & set(ids):
            held_out += self.prompts[key].origin == "held-out"
            self.prompts[key] = self.prompts[key].model_copy(update={"seen": True})
        return held_out


def add_dataset(prompts: PromptList, path: Path, origin: Origin) -> None:
    """Add the prompts of a dataset: of each row everything before the last answer, which is the expected one.

    Args:
        prompts: The list to add to.
        path: Chat, preference or reinforcement JSONL.
        origin: ``held-out``, or ``training`` for the file that the model was trained on.

    Raises:
        DatasetError: The file is in another format, or a line is not a record.
        UsageError: There is no such file.
    """
    for line, record in read_records(path):
        source = f"{path.name}:{line}"
        prompt = prompt_of_record(record, origin=origin, source=source)
        if prompt is None:
            prompts.skip(source, "it has no prompt")
        else:
            prompts.add(prompt)


def prompt_ids(path: Path) -> Iterator[str]:
    """The ids of a dataset's prompts; raises as ``add_dataset`` does."""
    for _, record in read_records(path):
        prompt = prompt_of_record(record, origin="training", source="")
        if prompt is not None:
            yield prompt.id


def prompt_of_record(record: Mapping[str, Any], *, origin: Origin, source: str) -> Prompt | None:
    """The prompt of one record of a dataset; ``None`` if it has none."""
    pair = record.get("input")
    if isinstance(pair, dict):  # a preference record: the preferred answer is the expected one
        preferred = record.get("preferred_output")
        answers = [one for one in preferred if isinstance(one, dict)] if isinstance(preferred, list) else []
        messages = pair.get("messages")
        record = {**pair, "messages": [*messages, *answers[-1:]] if isinstance(messages, list) else None}
    item = item_from_record(0, record)
    if item is not None:
        expected = ExpectedAnswer(content=item.expected, tool_calls=item.expected_calls)
        return _prompt(list(item.messages), _tools(record), origin=origin, source=source, expected=expected)
    messages = record.get("messages")
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        return None
    return _prompt(messages, _tools(record), origin=origin, source=source)


def add_log(prompts: PromptList, path: Path, *, model: str | None) -> None:
    """Add the requests of a log.

    Each row holds a request of the chat API, with or without its answer, which is not used: a stored completion, a
    line of the Batch API, a row of a gateway, of LiteLLM, Langfuse or LangSmith, or a shape that ``convert`` reads.

    Args:
        prompts: The list to add to.
        path: JSON Lines, JSON, a table or Parquet, also compressed.
        model: Only requests to this model, and those that name none; ``None`` for all.

    Raises:
        DatasetError: The file cannot be read, or holds no request to this model.
        UsageError: There is no such file.
    """
    added, others = 0, Counter[str]()
    for row in read_source_rows(path):
        source = f"{path.name}:{row.line or row.row}"
        if row.error:
            prompts.skip(source, row.error)
            continue
        request, named = _find_request(row.record)
        if model is not None and named and named != model:
            others[named] += 1
            prompts.skip(source, "the request is to another model")
            continue
        try:
            prompt = _prompt_of_request(request, row.record, source)
        except SkipRow as skip:
            prompts.skip(source, str(skip))
            continue
        prompts.add(prompt)
        prompts.not_sent.update(key for key in NOT_SENT if request.get(key) not in (None, "auto", [], {}))
        added += 1
    if not added:
        names = ", ".join(name for name, _ in others.most_common(5))
        hint = f"its requests are to {names}; --any-model uses them" if others else "each row needs a list of messages"
        raise DatasetError(f"{path.name} has no request{f' to {model}' if others else ''} that can be recorded", hint)


def _find_request(record: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """The object with the messages, and the model that the row names."""
    candidates: list[dict[str, Any]] = []
    for path in REQUEST_PATHS:
        value: Any = record
        for key in path:
            value = value.get(key) if isinstance(value, dict) else None
        if isinstance(value, list | str) and path and as_messages(value) is not None:
            value = {"messages": value}
        if isinstance(value, dict):
            candidates.append(value)
    request = next((one for one in candidates if as_messages(one.get("messages")) is not None), record)
    names = [one.get("model") for one in (request, record)]
    return request, next((name for name in names if isinstance(name, str) and name), "")


def _prompt_of_request(request: dict[str, Any], record: dict[str, Any], source: str) -> Prompt:
    """The prompt of a request as it was sent; other shapes are read as ``convert`` reads them.

    Raises:
        SkipRow: There is none.
    """
    messages = as_messages(request.get("messages"))
    if messages is not None and all(isinstance(one, dict) and isinstance(one.get("role"), str) for one in messages):
        tools = _tools(request) or _tools(record)
    else:
        row = Row(record, ConversionOptions())
        try:
            messages = read_example(row, LegacyMarkers()).messages
        except (UnmappedKey, RecursionError) as exc:
            raise SkipRow("", "it is not a request of the chat API") from exc
        tools = tuple(tool for tool in row.tools or () if isinstance(tool, dict))
    prompt = _prompt(messages, tools, origin="log", source=source)
    if prompt is None:
        raise SkipRow("", "it has no turn of the user")
    return prompt


def _prompt(
    messages: list[dict[str, Any]],
    tools: tuple[dict[str, Any], ...],
    *,
    origin: Origin,
    source: str,
    expected: ExpectedAnswer | None = None,
) -> Prompt | None:
    """A prompt of messages, without answers at their end; ``None`` if no turn of the user is left."""
    while messages and messages[-1].get("role") == "assistant":
        answer, messages = messages[-1], messages[:-1]
        if origin != "log" and expected is None:
            expected = ExpectedAnswer(content=content_text(answer.get("content")), tool_calls=tool_calls_of(answer))
    if not any(message.get("role") == "user" for message in messages):
        return None
    sent = tuple(
        {key: message[key] for key in MESSAGE_KEYS if message.get(key) is not None}  # a call may have "content": null
        for message in messages
    )
    return Prompt(
        id=prompt_id(sent, tools), origin=origin, seen=origin == "training", source=source,
        messages=sent, tools=tools, expected=expected,
    )  # fmt: skip


def _tools(record: Mapping[str, Any]) -> tuple[dict[str, Any], ...]:
    """The tools of a request or record; old-style functions become tools."""
    tools, functions = record.get("tools"), record.get("functions")
    if isinstance(tools, list):
        return tuple(tool for tool in tools if isinstance(tool, dict))
    listed = functions if isinstance(functions, list) else []
    return tuple({"type": "function", "function": one} for one in listed if isinstance(one, dict))
