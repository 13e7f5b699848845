"""The separators and stop sequences of legacy prompt/completion files, where nearly all rows carry them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any, NamedTuple

MIN_SHARE = 0.95
"""Share of the rows that must carry a marker before it counts as one."""
PROMPT_ENDS = ("\n\n###\n\n", "\n\n###", "\n\n====\n\n", " ->", "\n\n->", "\n\nSummary:\n\n")
"""Separators after a prompt. Source: OpenAI legacy fine-tuning guide and its prepare_data tool, 2023."""
COMPLETION_ENDS = ("\n###", " ###", "###", " END", "\nEND")
"""Stop sequences after a completion. Source: the same."""
_WEAK_ENDS = (" END", "\nEND")
"""Ends that are also code: they count only beside another marker of the format."""


class LegacyMarkers(NamedTuple):
    """What is taken off the prompts and completions of a file; empty texts for nothing."""

    prompt_end: str = ""
    completion_start: str = ""
    completion_end: str = ""

    def strip_prompt(self, text: str) -> str:
        """The prompt without its separator."""
        return text.removesuffix(self.prompt_end)

    def strip_completion(self, text: str) -> str:
        """The completion without the blank before it and the stop sequence."""
        return text.removeprefix(self.completion_start).removesuffix(self.completion_end)

    def __str__(self) -> str:
        """What is taken off, in words."""
        sides = ("after prompts", "before completions", "after completions")
        return ", ".join(f"{marker!r} {side}" for marker, side in zip(self, sides, strict=True) if marker)


def find_markers(records: Iterable[dict[str, Any]]) -> LegacyMarkers:
    """The markers of a file's prompt/completion rows; none if there are other rows."""
    prompts: Counter[str] = Counter()
    starts: Counter[str] = Counter()
    ends: Counter[str] = Counter()
    rows = 0
    for record in records:
        prompt, completion = record.get("prompt"), record.get("completion")
        if not isinstance(prompt, str) or not isinstance(completion, str):
            continue
        rows += 1
        prompts.update(end for end in PROMPT_ENDS if prompt.endswith(end))
        ends.update(end for end in COMPLETION_ENDS if completion.endswith(end) and completion != end)
        starts.update([" "] if completion[:1] == " " and completion[1:2].strip() else [])
    prompt_end = _usual(prompts, PROMPT_ENDS, rows)
    start, end = _usual(starts, (" ",), rows), _usual(ends, COMPLETION_ENDS, rows)
    if end in _WEAK_ENDS and not (prompt_end or start):
        end = ""
    return LegacyMarkers(prompt_end, start if prompt_end or end else "", end)


def _usual(counts: Counter[str], markers: tuple[str, ...], rows: int) -> str:
    """The first of the markers that nearly all rows carry."""
    return next((marker for marker in markers if rows and counts[marker] >= MIN_SHARE * rows), "")
