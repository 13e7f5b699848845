"""Makes a training set out of recorded answers: without held-out prompts, bad answers and duplicates."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ftpipe.canonical_json import canonical_json
from ftpipe.dataset.duplicates.near import near_duplicates, should_check_near_duplicates
from ftpipe.errors import DatasetError, UsageError
from ftpipe.grading.answer_agreement import normalize
from ftpipe.grading.graders import grader_metric
from ftpipe.grading.json_values import MISSING, parse_json
from ftpipe.migration.prompts import PromptList, add_dataset, prompt_ids
from ftpipe.migration.recording import (
    Origin,
    Prompt,
    RecordedPrompt,
    RecordingHeader,
    Sample,
    iter_prompts,
    read_header,
)
from ftpipe.output_files import check_outputs, open_output
from ftpipe.records.base import Record
from ftpipe.stages.validate import CheckSettings, failing_lines, validate

HELD_OUT = "held-out prompt"
REPEATED = "prompt of another row"
NEAR_HELD_OUT = "nearly a held-out prompt"
NEAR = "nearly the prompt of another row"
MAX_NAMED_PROMPTS = 10
"""Dropped prompts that are named one by one."""


@dataclass(frozen=True, kw_only=True)
class DistillOptions:
    """Which answers are good enough, and for which host."""

    target: str = "openai"
    """Whose dataset rules apply."""
    model: str = ""
    """Base model that will be trained, for its limits."""
    settings: CheckSettings = field(default_factory=CheckSettings)
    grader: Mapping[str, Any] | None = None
    """A grader in OpenAI's JSON format."""
    min_score: float = 1.0
    """Lowest score of the grader."""
    agreement: float | None = None
    """Share of the samples, the greedy one among them, that must give the same answer."""
    holdouts: tuple[Path, ...] = ()
    """Datasets whose prompts must not become training rows."""
    has_held_out: bool = False
    """Whether held-out prompts of the recordings become training rows."""
    near_duplicates: bool | None = None
    """Whether prompts that are nearly equal count as duplicates; ``None`` if the package for that is installed."""


class RowOrigin(Record):
    """Where one training row is from; one line of the file beside the training set."""

    line: int
    """1-based line of the training set."""
    prompt: str
    """Id of the prompt."""
    origin: Origin
    seen: bool
    """Whether the recorded model was trained on the prompt."""
    source: str
    """File and line of the prompt."""
    recording: str
    """File name of the recording."""
    model: str
    """The model that gave the answer."""
    endpoint: str
    sample: int
    """Which of the prompt's answers it is; 0 is the greedy one."""
    agreement: float | None = None
    """Share of the samples with this answer; ``None`` if there is one sample."""
    score: float | None = None
    """Of the grader; ``None`` without one."""


class DistillResult(Record):
    """The training set, and what was left out."""

    output: Path
    origins: Path
    """File with the origin of each row."""
    prompts: int
    """Prompts in the recordings."""
    rows: int
    by_origin: dict[str, int]
    """Rows by origin of their prompts."""
    dropped: dict[str, int]
    """Why prompts were left out → how many."""
    examples: tuple[str, ...] = ()
    """The first ones, as ``calls.jsonl:7: the answer was cut off``."""
    near_duplicates_checked: bool = True


@dataclass(frozen=True)
class _Row:
    """A training row that may still be dropped."""

    prompt: RecordedPrompt
    record: dict[str, Any]
    origin: RowOrigin


class _SkipPrompt(Exception):
    """A prompt has no answer that may be learnt: the reason."""


def origins_path(output: Path) -> Path:
    """``train.origins.jsonl`` for ``train.jsonl``."""
    return output.with_name(f"{output.stem}.origins.jsonl")


def distill(
    recordings: Sequence[Path], output: Path, options: DistillOptions | None = None, *, force: bool = False
) -> DistillResult:
    """Write a training set of recorded answers, and beside it the origin of each row.

    Args:
        recordings: Files of ``ftpipe models record``; of a prompt that several have, the first one counts.
        output: The new chat JSONL.
        options: Which answers are good enough.
        force: Replace the two files if they exist.

    Raises:
        DatasetError: A recording is damaged, or no row is left.
        UsageError: An output exists, agreement is requested of single answers, or the grader is wrong.
        MissingExtraError: Near duplicates are requested, and the package for them is not installed.
    """
    options = options or DistillOptions()
    inputs = [*recordings, *options.holdouts]
    targets = [("--output", output), ("--output", origins_path(output))]
    check_outputs(targets, inputs=inputs, force=force)
    work = _Distillation(recordings, options)
    with tempfile.TemporaryDirectory(prefix="ftpipe-distill-") as folder:
        work.select()
        work.drop_near_duplicates(Path(folder))
        work.drop_faulty_rows(Path(folder) / "rows.jsonl")
    if not work.rows:
        most = work.dropped.most_common(1)
        reason = f": {most[0][0]} ({most[0][1]:,})" if most else ", because the recordings are empty"
        hint = (
            "record prompts of a log or of the training data, or add --include-held-out"
            if work.dropped[HELD_OUT]
            else "loosen the filters"
        )
        raise DatasetError(f"no row is left of {work.total:,} prompts{reason}", hint)
    with open_output(output, force=force) as rows, open_output(origins_path(output), force=force) as origins:
        for number, row in enumerate(work.rows, 1):
            rows.write(_line(row.record))
            origins.write(row.origin.model_copy(update={"line": number}).model_dump_json().encode() + b"\n")
    return DistillResult(
        output=output,
        origins=origins_path(output),
        prompts=work.total,
        rows=len(work.rows),
        by_origin=dict(Counter(row.prompt.origin for row in work.rows)),
        dropped=dict(work.dropped.most_common()),
        examples=tuple(work.examples),
        near_duplicates_checked=work.has_near_check,
    )


class _Distillation:
    """The rows of one training set, and why others were dropped."""

    def __init__(self, recordings: Sequence[Path], options: DistillOptions) -> None:
        self.options = options
        self.headers = {path: read_header(path) for path in recordings}
        self.grade = grader_metric(options.grader) if options.grader is not None else None
        self.rows: list[_Row] = []
        self.held_out: dict[str, Prompt] = {}
        self.dropped: Counter[str] = Counter()
        self.examples: list[str] = []
        self.total = 0
        size = sum(path.stat().st_size for path in recordings)
        self.has_near_check = should_check_near_duplicates(options.near_duplicates, size)
        for path, header in self.headers.items():
            if options.agreement is not None and not header.sampling.samples:
                raise UsageError(
                    f"{path} has one answer to each prompt, so --agreement cannot be computed",
                    "record it again, into another file, with --samples 4",
                )

    def select(self) -> None:
        """Take the best answer to each prompt, unless it is not good enough or the prompt is held out."""
        prompts = [(path, prompt) for path in self.headers for prompt in iter_prompts(path)]
        self.total = len(prompts)
        ids = {key for path in self.options.holdouts for key in prompt_ids(path)}
        if not self.options.has_held_out:
            self.held_out = {prompt.id: prompt for _, prompt in prompts if prompt.origin == "held-out"}
            ids |= self.held_out.keys()
        taken: set[str] = set()
        for path, prompt in prompts:
            try:
                if prompt.id in ids:
                    raise _SkipPrompt(HELD_OUT)
                if prompt.id in taken:
                    raise _SkipPrompt(REPEATED)
                row = self._row(path, self.headers[path], prompt)
            except _SkipPrompt as reason:
                self._drop(prompt, str(reason))
            else:
                taken.add(prompt.id)
                self.rows.append(row)

    def _drop(self, prompt: Prompt, reason: str) -> None:
        self.dropped[reason] += 1
        if len(self.examples) < MAX_NAMED_PROMPTS:
            self.examples.append(f"{prompt.source or prompt.id}: {reason}")

    def _row(self, path: Path, header: RecordingHeader, prompt: RecordedPrompt) -> _Row:
        """The row with the best answer.

        Raises:
            _SkipPrompt: It is not good enough.
        """
        index, agreement = self._choose(prompt)
        sample = prompt.samples[index]
        score = self.grade(prompt.to_item(), sample.to_answer()) if self.grade else None
        if score is not None and score < self.options.min_score:
            raise _SkipPrompt(f"the grader's score is below {self.options.min_score:g}")
        record: dict[str, Any] = {"messages": [*prompt.messages, answer_message(prompt, sample)]}
        if prompt.tools:
            record["tools"] = list(prompt.tools)
        origin = RowOrigin(
            line=0,
            prompt=prompt.id,
            origin=prompt.origin,
            seen=prompt.seen,
            source=prompt.source,
            recording=path.name,
            model=header.model,
            endpoint=header.endpoint,
            sample=index,
            agreement=agreement,
            score=score,
        )
        return _Row(prompt, record, origin)

    def _choose(self, prompt: RecordedPrompt) -> tuple[int, float | None]:
        """Index of the answer to learn, and the share of samples that agree with it.

        Raises:
            _SkipPrompt: Too few agree, or the answer is not usable.
        """
        answers = [answer_key(sample) for sample in prompt.samples]
        share = self.options.agreement
        if share is None or len(answers) == 1:
            chosen = 0
        else:
            counts = Counter(key for key in answers if key is not None)
            best = max(counts, key=counts.__getitem__, default=None)  # the first of several: the greedy one if it is
            if best is None or counts[best] < share * len(answers) - 1e-9:
                raise _SkipPrompt(f"fewer than {share:.0%} of the answers agree")
            chosen = answers.index(best)
        sample = prompt.samples[chosen]
        if fault := fault_of(sample):
            raise _SkipPrompt(fault)
        agreement = answers.count(answers[chosen]) / len(answers) if len(answers) > 1 else None
        return chosen, agreement

    def drop_near_duplicates(self, folder: Path) -> None:
        """Drop rows whose prompt is nearly held out, or nearly that of an earlier row."""
        if not self.has_near_check or not self.rows:
            return
        own, held = folder / "prompts.jsonl", folder / "held-out.jsonl"
        own.write_bytes(b"".join(_line(_turns(row.prompt.messages)) for row in self.rows))
        reasons: dict[int, str] = {line: NEAR for _, line, _, _ in near_duplicates(own)}
        if self.held_out:
            held.write_bytes(b"".join(_line(_turns(prompt.messages)) for prompt in self.held_out.values()))
            reasons |= {line: NEAR_HELD_OUT for _, line, _, _ in near_duplicates(held, own)}
        for path in self.options.holdouts:
            held.write_bytes(b"".join(_line(_turns(messages)) for messages in _prompts_of(path)))
            reasons |= {line: NEAR_HELD_OUT for _, line, _, _ in near_duplicates(held, own)}
        self._keep(lambda line: reasons.get(line))

    def drop_faulty_rows(self, path: Path) -> None:
        """Drop rows that the target would refuse, as ``ftpipe prepare`` finds them."""
        if not self.rows:
            return
        options = self.options
        path.write_bytes(b"".join(_line(row.record) for row in self.rows))
        faulty = failing_lines(
            path, target=options.target, method="supervised", model=options.model, settings=options.settings
        )
        if not faulty:
            return
        report = validate(
            path, target=options.target, method="supervised", model=options.model, settings=options.settings
        )
        codes = {
            item.line: f"{item.code}: {item.message}"
            for item in reversed(report.findings)
            if item.severity == "error" and item.line is not None
        }
        self._keep(lambda line: codes.get(line, "an error of the dataset checks") if line in faulty else None)

    def _keep(self, reason_of: Callable[[int], str | None]) -> None:
        """Keep the rows without a reason to drop them."""
        rows = self.rows
        self.rows = []
        for line, row in enumerate(rows, 1):
            reason = reason_of(line)
            if reason is None:
                self.rows.append(row)
            else:
                self._drop(row.prompt, reason)


def fault_of(sample: Sample) -> str:
    """Why an answer must not be learnt; empty if it may."""
    if sample.error:
        return "the endpoint refused the prompt"
    if sample.finish_reason == "length":
        return "the answer was cut off"
    if sample.finish_reason in ("refusal", "content_filter"):
        return "the model refused to answer"
    if not sample.content.strip() and not sample.tool_calls:
        return "the answer is empty"
    return ""


def answer_key(sample: Sample) -> str | None:
    """The same for answers that agree: JSON by value, other texts without case and punctuation at the ends.

    ``None`` for an answer that must not be learnt: it agrees with none.
    """
    if fault_of(sample):
        return None
    value = parse_json(sample.content)
    text = canonical_json(value).decode() if isinstance(value, dict | list) else normalize(sample.content)
    calls = [[call.name, _arguments(call.arguments)] for call in sample.tool_calls]
    return json.dumps([text, calls], sort_keys=True)


def _arguments(text: str) -> Any:  # noqa: ANN401  # any JSON value
    value = parse_json(text)
    return text if value is MISSING else value


def answer_message(prompt: Prompt, sample: Sample) -> dict[str, Any]:
    """The assistant's message with an answer."""
    message: dict[str, Any] = {"role": "assistant"}
    if sample.content or not sample.tool_calls:
        message["content"] = sample.content
    if sample.tool_calls:
        message["tool_calls"] = [
            {
                "id": f"call_{prompt.id}_{number}",
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for number, call in enumerate(sample.tool_calls)
        ]
    return message


def _turns(messages: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """A prompt without what all prompts have in common: two short questions under one system message are not equal."""
    return {"messages": [one for one in messages if one.get("role") not in ("system", "developer")]}


def _prompts_of(path: Path) -> Iterator[Sequence[Mapping[str, Any]]]:
    prompts = PromptList()
    add_dataset(prompts, path, "held-out")
    yield from (prompt.messages for prompt in prompts.prompts.values())


def _line(record: Mapping[str, Any]) -> bytes:
    return json.dumps(record, ensure_ascii=False).encode() + b"\n"
