"""Each metric tells right from wrong, and is not taken in by how an answer is written."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftpipe.errors import UsageError
from ftpipe.evaluation.metrics import (
    METRICS,
    TASK_METRICS,
    select_metrics,
)
from ftpipe.evaluation.metrics import (
    structured as structure,
)
from ftpipe.evaluation.metrics import (
    text as match,
)
from ftpipe.grading import text_similarity as alike
from ftpipe.records.evaluation import Task, ToolCall
from tests.evaluation.factories import answer, call, item

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@pytest.mark.parametrize("text", ["billing", " Billing. ", '"billing"', "BILLING!", "```\nbilling\n```", "**Billing**"])
def test_normalized_ignores_case_quotes_and_punctuation(text: str) -> None:
    assert match.normalized(item("billing"), answer(text)) == 1


def test_exact_compares_the_stripped_text() -> None:
    assert match.exact(item("billing"), answer(" billing\n")) == 1
    assert match.exact(item("billing"), answer("Billing")) == 0


def test_macro_f1_weights_labels_equally() -> None:
    """Computed by hand: a 2/3, b 0, so 1/3."""
    pairs = [("a", "a"), ("a", "b"), ("b", "c")]
    assert match.macro_f1(pairs) == pytest.approx((2 * 1 / (2 + 1) + 0) / 2)
    assert match.macro_f1([]) == 0


def test_confusion_collects_unexpected_labels() -> None:
    """All other answers share one column."""
    assert match.confusion([("a", "a"), ("a", "x"), ("b", "y")]) == {"a": {"a": 1, "(other)": 1}, "b": {"(other)": 1}}


@pytest.mark.parametrize("text", ["{", "NaN", '{"a": Infinity}', "text {}", "[" * 5000, "1" * 5000, ""])
def test_json_metrics_score_invalid_json_zero(text: str) -> None:
    """Incomplete documents, NaN, deep nesting and huge numbers."""
    assert structure.json_valid(item("{}"), answer(text)) == 0
    assert structure.json_match(item("{}"), answer(text)) == 0
    assert structure.json_fields(item('{"a": 1}'), answer(text)) == 0


@given(json_values)
def test_json_match_ignores_white_space_and_key_order(value: object) -> None:
    import json

    wanted, got = json.dumps(value), json.dumps(value, indent=3, sort_keys=True)
    assert structure.json_match(item(wanted), answer(got)) == 1
    assert structure.json_fields(item(wanted), answer(got)) == 1


def test_json_fields_counts_missing_and_additional_leaves() -> None:
    """Two of three expected leaves, and one too many: two of four."""
    wanted, got = '{"a": 1, "b": {"c": "x", "d": true}}', '{"a": 1.0, "b": {"c": "x", "d": 1}, "e": null}'
    assert structure.json_fields(item(wanted), answer(got)) == pytest.approx(2 / 4)
    assert structure.field_hits(item(wanted), answer(got)) == {"a": True, "b": False}
    assert structure.field_hits(item("[1]"), answer("[1]")) == {}


def test_schema_valid_does_not_resolve_remote_references() -> None:
    """A remote reference is an error, without access to the network."""
    check = structure.schema_check({"type": "object", "required": ["a"]})
    assert check(item(), answer('{"a": 1}')) == 1
    assert check(item(), answer("{}")) == 0
    assert check(item(), answer("no")) == 0
    away = structure.schema_check({"$ref": "http://127.0.0.1:9/schema.json"})
    with pytest.raises(UsageError, match="cannot be resolved"):
        away(item(), answer("{}"))
    with pytest.raises(UsageError, match="not valid"):
        structure.schema_check({"type": "nonsense"})


def test_tool_match_compares_arguments_as_json() -> None:
    """The order of keys and of parallel calls, and the format of numbers, are ignored."""
    wanted = item(calls=(call("find", city="Bern", limit=3), call("book", id=1)))
    got = answer(
        "", ToolCall(name="book", arguments='{"id": 1.0}'), ToolCall(name="find", arguments='{"limit":3,"city":"Bern"}')
    )
    assert structure.tool_match(wanted, got) == 1
    assert structure.tool_name(wanted, got) == 1


def test_tool_metrics_distinguish_wrong_missing_and_additional() -> None:
    """Wrong arguments; no call although one is expected; a call although none is."""
    wanted = item(calls=(call("find", city="Bern"),))
    other = answer("", call("find", city="Basel"))
    assert (structure.tool_name(wanted, other), structure.tool_match(wanted, other)) == (1, 0)
    assert structure.tool_choice(wanted, answer("Bern is nice")) == 0
    assert structure.tool_choice(item("no call"), answer("", call("find"))) == 0
    assert structure.tool_match(item("no call"), answer("anything")) == 1


def test_tool_match_compares_invalid_json_as_text() -> None:
    wanted = item(calls=(ToolCall(name="f", arguments="{}"),))
    assert structure.tool_match(wanted, answer("", ToolCall(name="f", arguments="{oops"))) == 0
    assert structure.tool_match(wanted, answer("", ToolCall(name="f", arguments=""))) == 1


def test_rouge_l_is_f1_of_the_common_subsequence() -> None:
    """Police kill the gunman against police killed the gunman: three of four words each way."""
    assert alike.rouge_l("police killed the gunman", "Police kill the gunman") == pytest.approx(0.75)
    assert alike.rouge_l("", "") == 1
    assert alike.rouge_l("a", "") == 0


@given(st.text(max_size=40), st.text(max_size=40))
def test_similarity_is_bounded_and_symmetric(one: str, other: str) -> None:
    """Between 0 and 1, symmetric, and 1 for equal texts."""
    for measure in (alike.rouge_l, alike.edit):
        assert 0 <= measure(one, other) <= 1
        assert measure(one, other) == pytest.approx(measure(other, one))
        assert measure(one, one) == 1


def test_chrf_is_between_zero_and_one() -> None:
    pytest.importorskip("sacrebleu")
    assert METRICS["chrf"].compute(item("the cat sat"), answer("the cat sat")) == pytest.approx(1)
    assert 0 < METRICS["chrf"].compute(item("the cat sat"), answer("the cat lay")) < 1


@pytest.mark.parametrize("task", list(Task))
def test_select_metrics_knows_each_task(task: Task) -> None:
    metrics, primary = select_metrics(task, [item("x")])
    assert set(TASK_METRICS[task]) <= {metric.name for metric in metrics}
    assert primary in {metric.name for metric in metrics}
    assert all(metric.compute.__doc__ for metric in metrics)


def test_select_metrics_uses_similarity_for_long_texts() -> None:
    assert select_metrics(Task.TEXT, [item("yes")])[1] == "normalized"
    assert (
        select_metrics(Task.TEXT, [item("a long answer of many words that nobody repeats word for word")])[1]
        == "rouge_l"
    )


def test_select_metrics_lists_known_ones_if_unknown() -> None:
    with pytest.raises(UsageError) as caught:
        select_metrics(Task.LABEL, [], requested=["exakt"])
    assert "normalized" in caught.value.hint
    with pytest.raises(UsageError, match="needs a schema"):
        select_metrics(Task.JSON, [], requested=["schema_valid"])
