"""Lines become questions with wanted answers, and the kind of answer is found out."""

from __future__ import annotations

import pytest

from ftpipe.errors import DatasetError
from ftpipe.evaluation.items import detect_task, items_from_records, messages_for_arm
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


def test_the_last_assistant_message_is_what_is_wanted() -> None:
    """The rest is asked, and weights are not sent."""
    [found] = items_from_records([(3, record("yes"))])
    assert (found.line, found.expected, len(found.messages)) == (3, "yes", 2)
    earlier = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "weight": 0}]}
    messages = [*earlier["messages"], {"role": "user", "content": "c"}, {"role": "assistant", "content": "d"}]
    assert "weight" not in items_from_records([(1, {"messages": messages})])[0].messages[1]


def test_a_record_that_comes_again_counts_once() -> None:
    """Copies would feign evidence."""
    assert len(items_from_records([(1, record("a")), (2, record("a")), (3, record("b"))])) == 2


def test_content_in_parts_and_old_function_calls_are_read() -> None:
    """Text parts are joined; ``function_call`` is a tool call."""
    [found] = items_from_records([(1, record([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]))])
    assert found.expected == "ab"
    last = {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": '{"x": 1}'}}
    [found] = items_from_records([(1, {"messages": [{"role": "user", "content": "q"}, last]})])
    assert found.expected_calls == (call("f", x=1),)


def test_a_reference_stands_in_where_the_user_has_the_last_word() -> None:
    """Reinforcement data name the wanted answer beside the messages."""
    [found] = items_from_records([(1, {"messages": [{"role": "user", "content": "q"}], "reference_answer": {"a": 1}})])
    assert found.expected == '{"a":1}'


@pytest.mark.parametrize("broken", [{}, {"messages": "x"}, {"messages": []}, {"messages": [1]}, {"prompt": "x"}])
def test_lines_without_question_or_answer_are_passed_over(broken: dict[str, object]) -> None:
    """And a file of nothing else is refused."""
    assert len(items_from_records([(1, broken), (2, record("a"))])) == 1
    with pytest.raises(DatasetError, match="no line"):
        items_from_records([(1, broken)])


def test_clusters_come_from_the_record_or_its_metadata() -> None:
    """By the key that was named."""
    found = items_from_records(
        [(1, record("a", thread="t1")), (2, record("b", metadata={"thread": "t2"}))], cluster_by="thread"
    )
    assert [one.cluster for one in found] == ["t1", "t2"]


def test_an_arm_may_have_its_own_system_prompt() -> None:
    """It replaces the item's; without one the item's stays."""
    [found] = items_from_records([(1, record("a"))])
    better = messages_for_arm(found, Arm(name="b", model="m", system="better"))
    assert [message["content"] for message in better] == ["better", "q"]
    assert messages_for_arm(found, Arm(name="a", model="m"))[0]["content"] == "s"


@pytest.mark.parametrize(
    ("wanted", "task"),
    [
        (["billing", "refund", "Billing", "refund", "other", "other"], Task.LABEL),
        (['{"a": 1}', "[]", '{"b": null}'], Task.JSON),
        (["a long text about one thing", "and another one about something else"], Task.TEXT),
        (["Bern", "Basel", "Zug", "Genf", "Chur", "Thun"], Task.TEXT),
    ],
)
def test_the_task_is_found_out_from_the_wanted_answers(wanted: list[str], task: Task) -> None:
    """Few short labels that repeat, documents, or text."""
    found, reason = detect_task([item(text, number=index) for index, text in enumerate(wanted)])
    assert found is task
    assert reason


def test_one_wanted_tool_call_makes_it_a_tool_task() -> None:
    """Also where most items rightly call nothing."""
    items = [item("no call"), item("", number=2, calls=(call("f"),))]
    assert detect_task(items)[0] is Task.TOOLS
