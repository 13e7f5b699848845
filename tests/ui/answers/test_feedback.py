"""Opinions become rows that ``ftpipe prepare`` takes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ftpipe.errors import UsageError
from ftpipe.stages.validate import validate
from ftpipe.ui.answers.feedback import Feedback, FeedbackFiles


def feedback(number: int, opinion: str, *, question: str = "", answer: str = "", **changes: Any) -> Feedback:
    values = {
        "id": f"c-{number}",
        "question": question or f"q-{number}",
        "created_at": 0,
        "model": "ft:x",
        "provider": "local",
        "messages": [{"role": "system", "content": "Sort."}, {"role": "user", "content": f"mail {question or number}"}],
        "answer": {"role": "assistant", "content": answer or f"answer {number}"},
        "opinion": opinion,
    }
    return Feedback.model_validate({**values, **changes})


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def files(tmp_path: Path) -> FeedbackFiles:
    return FeedbackFiles(tmp_path / ".ftpipe", clock=lambda: 5.0)


def test_good_answers_and_corrections_are_rows(files: FeedbackFiles) -> None:
    files.save(feedback(1, "good"))
    files.save(feedback(2, "bad"))
    counts = files.save(feedback(3, "corrected", correction="right"))
    assert counts == {"answers": 2, "preferences": 1}
    assert [row["messages"][-1]["content"] for row in rows(files.answers)] == ["answer 1", "right"]
    (pair,) = rows(files.preferences)
    assert pair["preferred_output"] == [{"role": "assistant", "content": "right"}]
    assert pair["non_preferred_output"] == [{"role": "assistant", "content": "answer 3"}]


def test_good_and_bad_answer_to_one_question_are_a_pair(files: FeedbackFiles) -> None:
    files.save(feedback(1, "good", question="q"))
    files.save(feedback(2, "bad", question="q"))
    (pair,) = rows(files.preferences)
    assert pair["preferred_output"][0]["content"] == "answer 1"
    assert pair["non_preferred_output"][0]["content"] == "answer 2"


def test_last_opinion_counts(files: FeedbackFiles) -> None:
    files.save(feedback(1, "good"))
    assert files.save(feedback(1, "none")) == {"answers": 0, "preferences": 0}
    assert rows(files.answers) == []
    files.save(feedback(1, "corrected", correction="x"))
    assert files.opinions()["c-1"].opinion == "corrected"
    assert len((files.answers.parent / "feedback.jsonl").read_text(encoding="utf-8").splitlines()) == 3


def test_earlier_answers_of_a_conversation_are_not_trained(files: FeedbackFiles) -> None:
    messages = [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "first"},
        {"role": "user", "content": "two"},
    ]
    files.save(feedback(1, "good", messages=messages))
    (row,) = rows(files.answers)
    assert [message.get("weight") for message in row["messages"]] == [None, 0, None, None]


def test_equal_rows_are_written_once(files: FeedbackFiles) -> None:
    for number in (1, 2):
        files.save(feedback(number, "good", question="q", answer="same"))
    assert len(rows(files.answers)) == 1


@pytest.mark.parametrize("end", ["\n", ""])
def test_journal_that_a_crash_has_cut_is_read(files: FeedbackFiles, end: str) -> None:
    files.save(feedback(1, "good"))
    with (files.answers.parent / "feedback.jsonl").open("a", encoding="utf-8") as journal:
        journal.write(f'{{"id": "c-2", "quest{end}')
    assert files.save(feedback(3, "good"))["answers"] == 2


def test_empty_correction_is_refused(files: FeedbackFiles) -> None:
    with pytest.raises(UsageError, match="empty"):
        files.save(feedback(1, "corrected"))
    assert not files.answers.exists()


def test_prepare_takes_both_files(files: FeedbackFiles) -> None:
    for number in range(12):
        files.save(feedback(number, "corrected" if number % 2 else "good", correction=f"right {number}" * (number % 2)))
    for path, method in ((files.answers, "supervised"), (files.preferences, "dpo")):
        report = validate(path, target="local", model="smollm2-135m-instruct")
        assert (report.summary.errors, report.method.value) == (0, method)
