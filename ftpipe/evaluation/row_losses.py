"""Rank training rows by their loss under the base and the tuned model: wrong labels come to the top.

A model that has learned from many correct rows finds the few wrong ones surprising, as long as it has not memorized
them. The tuned model's loss shows them. The base model's loss, and so the difference, is mostly about the form of the
answer, which the base does not know yet. Measured with 12 answers exchanged among 200 rows and three epochs: of the 20
highest rows, 9 are wrong by tuned loss, 2 by base loss, 4 by the difference (``tests/benchmarks/wrong_labels.py``).
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftpipe.dataset import open_dataset, read_records
from ftpipe.errors import InvalidResponseError, UsageError
from ftpipe.evaluation.items import content_text, tool_calls_of
from ftpipe.records.row_losses import LossRanking, RankBy, RankedRow, RowLosses

if TYPE_CHECKING:
    from ftpipe.providers.provider import Provider

RANKING_KEYS: dict[RankBy, Callable[[RankedRow], float]] = {
    "tuned": lambda row: row.tuned_loss,
    "base": lambda row: row.base_loss,
    "delta": lambda row: row.delta,
}
MAX_TEXT_CHARACTERS = 2000
"""Characters of the prompt and the completion that are kept with a row."""


def rank_rows(
    path: Path,
    *,
    model: str,
    baseline: str,
    provider: Provider,
    rank_by: RankBy = "tuned",
    rule_codes: Mapping[int, Sequence[str]] | None = None,
    clock: Callable[[], float] = time.time,
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> LossRanking:
    """Rank the rows of a dataset by their losses under two models of one base.

    Args:
        path: The chat JSONL file that was trained on.
        model: The tuned model, or one of its checkpoints, by its name at the endpoint.
        baseline: Its base, or another model of the same base.
        provider: The endpoint; only ftpipe's own server returns losses of rows.
        rank_by: The loss, or the difference of both, that rows are sorted by, highest first.
        rule_codes: Line → codes of the dataset rules that it violates.
        clock: UTC Unix seconds.
        on_progress: Called with the rows done and the total, over both models.

    Raises:
        DatasetError: The file is in another format, or a line is not a record; nothing was sent.
        UsageError: The endpoint does not return row losses; nothing was sent to it.
        RequestRefusedError: The endpoint rejects the rows or the models.
    """
    profile = provider.profile
    if not profile.has_row_losses:
        raise UsageError(
            f"{profile.title or profile.name} does not return losses of rows",
            "only ftpipe's own server does: train the same data with --provider local and rank with that model",
        )
    dataset = open_dataset(path)
    for _ in read_records(path):
        pass  # a file with a broken line is refused before anything is sent
    scored = {row.line: row for row in provider.models.losses(path, [baseline, model], on_rows=on_progress)}
    texts = {line: _texts(record) for line, record in read_records(path) if line in scored}
    if not scored or any(len(row.losses) != 2 for row in scored.values()):
        raise InvalidResponseError(
            "a row or model has no loss in the response", "check that the server runs this version of ftpipe"
        )
    rows = [
        _ranked_row(row, *texts.get(row.line, ("", "")), (rule_codes or {}).get(row.line, ()))
        for row in scored.values()
    ]
    return LossRanking(
        id=_id(dataset.sha256, baseline, model),
        created_at=int(clock()),
        data=path.name,
        data_sha256=dataset.sha256,
        baseline=baseline,
        model=model,
        rank_by=rank_by,
        rows=tuple(sorted(rows, key=lambda row: (-RANKING_KEYS[rank_by](row), row.line))),
    )


def _ranked_row(row: RowLosses, prompt: str, completion: str, rule_codes: Sequence[str]) -> RankedRow:
    base_loss, tuned_loss = row.losses
    return RankedRow(
        line=row.line,
        tokens=row.tokens,
        base_loss=base_loss,
        tuned_loss=tuned_loss,
        prompt=prompt,
        completion=completion,
        rule_codes=tuple(rule_codes),
    )


def _id(*parts: str) -> str:
    return "losses-" + hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


def _texts(record: Mapping[str, Any]) -> tuple[str, str]:
    """The last user message of a record, and its last assistant message with its tool calls."""
    messages = [message for message in record.get("messages") or () if isinstance(message, Mapping)]
    user = next((message for message in reversed(messages) if message.get("role") == "user"), {})
    assistant = next((message for message in reversed(messages) if message.get("role") == "assistant"), {})
    calls = "".join(f" → {call.name}({call.arguments})" for call in tool_calls_of(assistant))
    return content_text(user.get("content"))[:MAX_TEXT_CHARACTERS], (content_text(assistant.get("content")) + calls)[
        :MAX_TEXT_CHARACTERS
    ].strip()
