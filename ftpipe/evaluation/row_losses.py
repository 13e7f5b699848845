"""Rank rows by how hard they are for a model before and after tuning: wrong labels come to the top.

What a model has learnt from the many right rows makes the few wrong ones surprising to it, as long as it has not
learnt those by heart. The loss after tuning finds them; the base's own loss, and with it the change, is mostly about
the form of the answer, which the base does not know yet. With 12 answers exchanged among 200 rows and three epochs, 9
are among the 20 highest after tuning, 2 before, and 4 by the change (``tests/benchmarks/wrong_labels.py``).
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftpipe.dataset import iter_records, open_dataset
from ftpipe.errors import InvalidResponseError, UsageError
from ftpipe.evaluation.items import content_text, tool_calls_of
from ftpipe.records.row_losses import LossRanking, RankBy, RankedRow

if TYPE_CHECKING:
    from ftpipe.providers.provider import Provider

RANKING_KEYS: dict[RankBy, Callable[[RankedRow], float]] = {
    "tuned": lambda row: row.tuned_loss,
    "base": lambda row: row.base_loss,
    "delta": lambda row: row.delta,
}
MAX_TEXT_CHARACTERS = 2000
"""Characters of a text that are kept with its row."""


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
    """Ask the endpoint for every row's loss under two models of one base.

    Args:
        path: Chat JSONL, as it was trained on.
        model: The tuned model, or one of its checkpoints, as the endpoint names it.
        baseline: Its base, or another model of the same base.
        provider: The endpoint; only ftpipe's own tells losses row by row.
        rank_by: What ranks.
        rule_codes: Line → codes of the rules that have something to say about it.
        clock: UTC Unix seconds.
        on_progress: Hears the rows that are done and all that there are to do, over both models.

    Raises:
        UsageError: The endpoint tells no losses; nothing was sent to it.
        RequestRefusedError: The rows or the models will not do.
    """
    profile = provider.profile
    if not profile.has_row_losses:
        raise UsageError(
            f"{profile.title or profile.name} tells no losses row by row",
            "only ftpipe's own endpoint does: train the same data with --provider local and rank with that model",
        )
    dataset = open_dataset(path)
    scored = {row.line: row for row in provider.models.losses(path, [baseline, model], on_rows=on_progress)}
    texts = {line: _texts(record) for line, record in iter_records(path) if line in scored}
    if not scored or any(len(row.losses) != 2 for row in scored.values()):
        raise InvalidResponseError("a row or model has no loss in the response", "is it this version's ftpipe?")
    rows = [
        RankedRow(
            line=line,
            tokens=row.tokens,
            base_loss=row.losses[0],
            tuned_loss=row.losses[1],
            prompt=texts.get(line, ("", ""))[0],
            completion=texts.get(line, ("", ""))[1],
            rule_codes=tuple((rule_codes or {}).get(line, ())),
        )
        for line, row in scored.items()
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


def _id(*parts: str) -> str:
    return "losses-" + hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


def _texts(record: Mapping[str, Any]) -> tuple[str, str]:
    """The last question of a record, and its last answer with the tools that it calls."""
    messages = [one for one in record.get("messages") or () if isinstance(one, Mapping)]
    asked = next((one for one in reversed(messages) if one.get("role") == "user"), {})
    answer = next((one for one in reversed(messages) if one.get("role") == "assistant"), {})
    calls = "".join(f" → {call.name}({call.arguments})" for call in tool_calls_of(answer))
    return content_text(asked.get("content"))[:MAX_TEXT_CHARACTERS], (content_text(answer.get("content")) + calls)[
        :MAX_TEXT_CHARACTERS
    ].strip()
