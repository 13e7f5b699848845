"""Records become items with expected answers, and the task is detected."""

from __future__ import annotations

import pytest

from ftpipe.errors import DatasetError
from ftpipe.evaluation.items import detect_task, estimate_max_tokens, items_from_records
from ftpipe.records.evaluation import Arm, Task
from tests.evaluation.factories import call, item


def record(answer: object, *, question: str = "q", **more: object) -> dict[str, object]:
    """A chat record."""
    messages = [
        {"role": "system", "content": "s"},
        {"role": "user", "content": question},
        {"role": "assistant", "content": answer, "weight": 1},
    ]
    return {"messages": messages, **more}


def test_item_expects_the_last_assistant_message() -> None:
    """The rest is the prompt, and weights are not sent."""
    [built] = items_from_records([(3, record("yes"))])
    assert (built.line, built.expected, len(built.messages)) == (3, "yes", 2)
    earlier = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "weight": 0}]}
    messages = [*earlier["messages"], {"role": "user", "content": "c"}, {"role": "assistant", "content": "d"}]
    assert "weight" not in items_from_records([(1, {"messages": messages})])[0].messages[1]


def test_items_drop_repeated_records() -> None:
    """Copies are not independent evidence."""
    assert len(items_from_records([(1, record("a")), (2, record("a")), (3, record("b"))])) == 2


def test_item_reads_content_parts_and_function_calls() -> None:
    """Text parts are joined; ``function_call`` is a tool call."""
    [built] = items_from_records([(1, record([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]))])
    assert built.expected == "ab"
    last = {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": '{"x": 1}'}}
    [built] = items_from_records([(1, {"messages": [{"role": "user", "content": "q"}, last]})])
    assert built.expected_calls == (call("f", x=1),)


def test_item_takes_reference_if_user_is_last() -> None:
    """Reinforcement data have the expected answer beside the messages."""
    [built] = items_from_records([(1, {"messages": [{"role": "user", "content": "q"}], "reference_answer": {"a": 1}})])
    assert built.expected == '{"a":1}'


@pytest.mark.parametrize("broken", [{}, {"messages": "x"}, {"messages": []}, {"messages": [1]}, {"prompt": "x"}])
def test_items_skip_records_without_prompt_or_answer(broken: dict[str, object]) -> None:
    """A file with nothing else is rejected."""
    assert len(items_from_records([(1, broken), (2, record("a"))])) == 1
    with pytest.raises(DatasetError, match="no line"):
        items_from_records([(1, broken)])


def test_item_cluster_comes_from_record_or_metadata() -> None:
    items = items_from_records(
        [(1, record("a", thread="t1")), (2, record("b", metadata={"thread": "t2"}))], cluster_by="thread"
    )
    assert [one.cluster for one in items] == ["t1", "t2"]


def test_messages_for_arm_replace_the_system_prompt() -> None:
    """It replaces the item's; without one the item's stays."""
    [built] = items_from_records([(1, record("a"))])
    better = Arm(name="b", model="m", system="better").messages_for(built)
    assert [message["content"] for message in better] == ["better", "q"]
    assert Arm(name="a", model="m").messages_for(built)[0]["content"] == "s"


@pytest.mark.parametrize(
    ("expected", "task"),
    [
        (["billing", "refund", "Billing", "refund", "other", "other"], Task.LABEL),
        (['{"a": 1}', "[]", '{"b": null}'], Task.JSON),
        (["a long text about one thing", "and another one about something else"], Task.TEXT),
        (["Bern", "Basel", "Zug", "Genf", "Chur", "Thun"], Task.TEXT),
    ],
)
def test_detect_task_from_expected_answers(expected: list[str], task: Task) -> None:
    """Few short labels that repeat, documents, or text."""
    detected, reason = detect_task([item(text, number=index) for index, text in enumerate(expected)])
    assert detected is task
    assert reason


def test_detect_task_with_one_tool_call_is_tools() -> None:
    """Also if most items expect no call."""
    items = [item("no call"), item("", number=2, calls=(call("f"),))]
    assert detect_task(items)[0] is Task.TOOLS


@pytest.mark.parametrize(
    ("answer", "limit"),
    [
        ("queue: billing | priority: urgent", 32),
        ("yes", 32),
        ("word " * 1000, 2032),
        ("你好" * 100, 624),
    ],
    ids=lambda value: str(value)[:8],
)
def test_estimate_max_tokens_is_above_the_longest_answer(answer: str, limit: int) -> None:
    """Twice its tokens, or one for each byte of letters that a small vocabulary does not have."""
    assert estimate_max_tokens([item("no"), item(answer), item("maybe")]) == limit


def test_estimate_max_tokens_counts_tool_calls() -> None:
    long_call = item("", calls=(call("search", query="parcel " * 200),))
    assert estimate_max_tokens([item("yes"), long_call]) > 400
