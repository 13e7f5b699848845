"""The file of a model's recorded answers: a header line, then one line for each prompt.

::

    {"format": "ftpipe.recording/1", "model": "ft:…", "endpoint": "https://…", "sampling": {…}, …}
    {"id": "…", "origin": "held-out", "messages": […], "expected": {…}, "samples": [{…}, …]}

The first sample of a prompt is greedy, the others have the temperature of the header. A line is only written when all
samples of its prompt are there.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import Field, StringConstraints, ValidationError

from ftpipe.atomic_files import fsync
from ftpipe.canonical_json import canonical_json
from ftpipe.errors import DatasetError, LocalStateError, UsageError
from ftpipe.output_files import open_output
from ftpipe.records.base import Record
from ftpipe.records.evaluation import Answer, Item, TokenLogprob, ToolCall

FORMAT: Literal["ftpipe.recording/1"] = "ftpipe.recording/1"
MAX_LINE_BYTES = 64 * 1024 * 1024
"""Longest line that is read: 100 samples of 4,000 tokens with five alternatives each are 60 MB."""
MAX_PROMPTS = 1_000_000
MAX_SAMPLES = 101
"""Samples of a prompt: the greedy one, and 100 others."""
MAX_MESSAGES = 4_096
"""Messages of a prompt."""

Origin = Literal["held-out", "log", "training"]
"""Where a prompt is from: a held-out file, a log of requests, or the file that the model was trained on."""
R = TypeVar("R", bound=Record)


class RecordingSampling(Record):
    """The sampling parameters of a recording."""

    samples: int = Field(default=0, ge=0, le=MAX_SAMPLES - 1)
    """Samples of each prompt beside the greedy one."""
    temperature: float = Field(default=1.0, ge=0, le=2)
    """Of the samples; the greedy one has 0."""
    max_tokens: int = Field(default=1024, ge=1)
    seed: int | None = 0
    logprobs: bool = True
    """Whether the logarithms of the tokens' probabilities were requested; not every endpoint has them."""
    top_logprobs: int = Field(default=0, ge=0, le=20)
    """Alternatives for each token."""


class RecordingHeader(Record):
    """The first line of a recording."""

    format: Literal["ftpipe.recording/1"] = FORMAT
    model: Annotated[str, StringConstraints(min_length=1, max_length=1_000)]
    base: str = ""
    """Base model; empty if it is not known."""
    provider: str
    endpoint: str
    """Fingerprint of the endpoint, without the key."""
    sampling: RecordingSampling
    created_at: int
    """UTC Unix seconds."""


class ExpectedAnswer(Record):
    """What a dataset says is the correct answer."""

    content: str = ""
    tool_calls: tuple[ToolCall, ...] = ()


class Sample(Record):
    """One answer of the model."""

    content: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    finish_reason: str = ""
    """``stop``, ``length``, ``tool_calls``, ``content_filter``, or another word."""
    logprobs: tuple[TokenLogprob, ...] | None = None
    """``None`` if the endpoint gave none."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    latency_seconds: float | None = Field(default=None, allow_inf_nan=False)
    """``None`` for an answer of the Batch API."""
    error: str = ""
    """Why the endpoint refused the prompt; the other fields are empty then."""

    @classmethod
    def from_answer(cls, answer: Answer) -> Self:
        """The sample that an answer of a request is."""
        return cls(
            content=answer.text,
            tool_calls=answer.tool_calls,
            finish_reason=answer.finish_reason,
            logprobs=answer.logprobs,
            prompt_tokens=answer.prompt_tokens,
            completion_tokens=answer.completion_tokens,
            latency_seconds=round(answer.latency_s, 3) or None,
            error=answer.error,
        )

    def to_answer(self) -> Answer:
        """The sample as an answer that metrics and graders score."""
        return Answer(
            text=self.content,
            tool_calls=self.tool_calls,
            finish_reason=self.finish_reason,
            logprobs=self.logprobs,
            prompt_tokens=self.prompt_tokens,
            completion_tokens=self.completion_tokens,
            latency_s=self.latency_seconds or 0.0,
            error=self.error,
            from_cache=True,
        )


class Prompt(Record):
    """One prompt, and where it is from."""

    id: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{16}$")]
    """See ``prompt_id``."""
    origin: Origin
    seen: bool = False
    """Whether the model was trained on this prompt."""
    source: str = ""
    """File and line of the prompt, as ``held.jsonl:12``."""
    messages: Annotated[tuple[dict[str, Any], ...], Field(min_length=1, max_length=MAX_MESSAGES)]
    tools: tuple[dict[str, Any], ...] = ()
    expected: ExpectedAnswer | None = None

    def to_item(self) -> Item:
        """The prompt as an item of an evaluation, with the dataset's expected answer if there is one."""
        expected = self.expected or ExpectedAnswer()
        _, _, line = self.source.rpartition(":")
        return Item(
            id=self.id,
            line=int(line) if line.isdecimal() else 0,
            messages=self.messages,
            tools=self.tools,
            expected=expected.content,
            expected_calls=expected.tool_calls,
        )


class RecordedPrompt(Prompt):
    """One prompt with the model's answers."""

    samples: Annotated[tuple[Sample, ...], Field(min_length=1, max_length=MAX_SAMPLES)]
    """The first one is greedy."""

    @property
    def greedy(self) -> Sample:
        """The sample with temperature 0."""
        return self.samples[0]


class Recording(Record):
    """A whole recording."""

    header: RecordingHeader
    prompts: tuple[RecordedPrompt, ...]


def prompt_id(messages: Iterable[Mapping[str, Any]], tools: Iterable[Mapping[str, Any]] = ()) -> str:
    """The id of a prompt: equal prompts have the same, wherever they are from. Weights of messages are left out."""
    parts = {
        "messages": [{key: value for key, value in message.items() if key != "weight"} for message in messages],
        "tools": list(tools),
    }
    return hashlib.sha256(canonical_json(parts)).hexdigest()[:16]


def read_recording(path: Path) -> Recording:
    """Read a whole recording.

    Raises:
        DatasetError: A line is damaged or is not from a recording; the message names it.
        UsageError: There is no such file.
        LocalStateError: It cannot be read.
    """
    return Recording(header=read_header(path), prompts=tuple(iter_prompts(path)))


def read_header(path: Path) -> RecordingHeader:
    """Read only the first line; raises as ``read_recording`` does."""
    first = next(_lines(path), None)
    if first is None:
        raise DatasetError(f"{path} is not a recording: it is empty", "`ftpipe models record` writes recordings")
    return _parse(RecordingHeader, path, 1, first)


def iter_prompts(path: Path) -> Iterator[RecordedPrompt]:
    """Read the prompts one by one, in bounded memory; raises as ``read_recording`` does."""
    lines_by_id: dict[str, int] = {}
    for number, line in enumerate(_lines(path), 1):
        if number == 1:
            _parse(RecordingHeader, path, 1, line)
            continue
        if number > MAX_PROMPTS + 1:
            raise _damaged(path, number, f"it has more than {MAX_PROMPTS:,} prompts")
        prompt = _parse(RecordedPrompt, path, number, line)
        if prompt.id != prompt_id(prompt.messages, prompt.tools):
            raise _damaged(path, number, "its id is not that of its messages")
        first = lines_by_id.setdefault(prompt.id, number)
        if first != number:
            raise _damaged(path, number, f"it has the prompt of line {first} again")
        yield prompt


def _lines(path: Path) -> Iterator[bytes]:
    """The lines, each of which must end with a line break."""
    try:
        with path.open("rb") as file:
            number = 0
            while line := file.readline(MAX_LINE_BYTES + 1):
                number += 1
                if len(line) > MAX_LINE_BYTES:
                    raise _damaged(path, number, f"it is longer than {MAX_LINE_BYTES:,} bytes")
                if not line.endswith(b"\n"):
                    raise _damaged(path, number, "it was cut off", "the command that wrote it repairs it: run it again")
                yield line
    except FileNotFoundError as exc:
        raise UsageError(f"there is no file {path}", "check the path") from exc
    except IsADirectoryError as exc:
        raise UsageError(f"{path} is a folder", "name the file of a recording") from exc
    except OSError as exc:
        raise LocalStateError(f"{path} cannot be read: {exc.strerror or exc}", "check the file's permissions") from exc


def _parse(kind: type[R], path: Path, number: int, line: bytes) -> R:
    try:
        return kind.model_validate_json(line)
    except ValidationError as exc:
        error = exc.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(str(part) for part in error["loc"])
        reason = f"{where}: {error['msg']}" if where else error["msg"]
        if kind is RecordingHeader:
            hint = "name a file that `ftpipe models record` wrote"
            raise DatasetError(f"{path} is not a recording: line 1: {reason}", hint) from exc
        raise _damaged(path, number, reason) from exc


def _damaged(path: Path, number: int, reason: str, hint: str = "") -> DatasetError:
    return DatasetError(
        f"{path}, line {number}: {reason}", hint or "restore the file from a copy, or remove this line and record again"
    )


class RecordingWriter:
    """Appends prompts to a recording; a line is on the disk before ``append`` returns.

    An existing file is continued if it has the same model, endpoint and sampling parameters. A last line that a kill
    cut off is repaired: it is completed if only its line break is missing, and removed otherwise.

    Args:
        path: The file; created if it does not exist.
        header: The first line of a new file.

    Attributes:
        header: The first line of the file, which can be older than ``header``.
        ids: Prompts that the file has already.

    Raises:
        UsageError: The file exists and is of another model, endpoint or sampling.
        DatasetError: The file exists and is damaged, or is not a recording.
        LocalStateError: The file cannot be written.
    """

    def __init__(self, path: Path, header: RecordingHeader) -> None:
        self.path = path
        if not path.exists() and not path.is_symlink():
            with open_output(path) as file:
                file.write(_line_of(header))
            fsync(path)
            fsync(path.parent)
        self.header = repair_last_line(path)
        require_same_settings(path, self.header, header)
        self.ids = {prompt.id for prompt in iter_prompts(path)}

    def append(self, prompt: RecordedPrompt) -> None:
        """Write a prompt with its answers; one that the file has already is left out.

        Raises:
            LocalStateError: The disk is full, or the file cannot be written.
        """
        if prompt.id in self.ids:
            return
        line = _line_of(prompt)
        if len(line) > MAX_LINE_BYTES:
            raise LocalStateError(
                f"the answers to {prompt.source or prompt.id} are longer than {MAX_LINE_BYTES:,} bytes",
                "record fewer samples, or without --top-logprobs",
            )
        try:
            descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | getattr(os, "O_BINARY", 0))
            try:
                view = memoryview(line)
                while view:
                    view = view[os.write(descriptor, view) :]
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as exc:
            raise LocalStateError(
                f"{self.path} cannot be written: {exc.strerror or exc}",
                "free space on the disk, then run the same command again; answers that were paid are not lost",
            ) from exc
        self.ids.add(prompt.id)


def repair_last_line(path: Path) -> RecordingHeader:
    """Complete or remove a last line without a line break, and return the header; no other file is changed.

    Raises:
        DatasetError: The file is not a recording.
        LocalStateError: It cannot be read or written.
    """
    header = read_header(path)
    try:
        with path.open("r+b") as file:
            size = file.seek(0, os.SEEK_END)
            start = _last_line_start(file, size)
            if start == size:
                return header
            file.seek(start)
            if _is_json_object(file.read()):
                file.write(b"\n")
            else:
                file.truncate(start)
            file.flush()
            os.fsync(file.fileno())
    except OSError as exc:
        raise LocalStateError(
            f"{path} cannot be written: {exc.strerror or exc}", "check the file's permissions"
        ) from exc
    return header


def _last_line_start(file: Any, size: int) -> int:  # noqa: ANN401  # a binary file
    """Offset after the last line break; the size of the file if it ends with one."""
    block, end = 1 << 16, size
    while end > 0:
        begin = max(0, end - block)
        file.seek(begin)
        at = file.read(end - begin).rfind(b"\n")
        if at >= 0:
            return int(begin + at + 1)
        end = begin
    return 0


def _is_json_object(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _line_of(record: Record) -> bytes:
    return record.model_dump_json(exclude_defaults=not isinstance(record, RecordingHeader)).encode() + b"\n"


def require_same_settings(path: Path, existing: RecordingHeader, wanted: RecordingHeader) -> None:
    """Refuse to continue a recording with other settings, whose answers could not be compared.

    Raises:
        UsageError: The model, the endpoint or the sampling differs; the first difference is named.
    """
    for name in ("model", "endpoint", "sampling"):
        old, new = getattr(existing, name), getattr(wanted, name)
        if old == new:
            continue
        if name == "sampling":
            fields = [key for key in RecordingSampling.model_fields if getattr(old, key) != getattr(new, key)]
            name, old, new = fields[0], getattr(old, fields[0]), getattr(new, fields[0])
        raise UsageError(
            f"{path} exists already, and has {name} {old}, not {new}",
            "give the same settings to continue it, or move this file away to record anew",
        )
