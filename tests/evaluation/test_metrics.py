"""Each metric tells right from wrong, and is not taken in by how an answer is written."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftpipe.errors import UsageError
from ftpipe.evaluation.metrics import METRICS, TASK_METRICS, select_metrics, structured
from ftpipe.evaluation.metrics import text as text_metrics
from ftpipe.grading import text_similarity
from ftpipe.records.evaluation import Task, ToolCall
from tests.evaluation.factories import answer, call, item

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@pytest.mark.parametrize("text", ["billing", " Billing. ", '"billing"', "BILLING!", "```\nbilling\n```", "**Billing**"])
def test_normalized_ignores_case_quotes_and_punctuation(text: str) -> None:
    assert text_metrics.normalized(item("billing"), answer(text)) == 1


def test_exact_compares_the_stripped_text() -> None:
    assert text_metrics.exact(item("billing"), answer(" billing\n")) == 1
    assert text_metrics.exact(item("billing"), answer("Billing")) == 0


def test_macro_f1_weights_labels_equally() -> None:
    """Computed by hand: a 2/3, b 0, so 1/3."""
    pairs = [("a", "a"), ("a", "b"), ("b", "c")]
    assert text_metrics.macro_f1(pairs) == pytest.approx((2 * 1 / (2 + 1) + 0) / 2)
    assert text_metrics.macro_f1([]) == 0


def test_confusion_collects_unexpected_labels() -> None:
    """All other answers share one column."""
    assert text_metrics.confusion([("a", "a"), ("a", "x"), ("b", "y")]) == {
        "a": {"a": 1, "(other)": 1},
        "b": {"(other)": 1},
    }


@pytest.mark.parametrize("text", ["{", "NaN", '{"a": Infinity}', "text {}", "[" * 5000, "1" * 5000, ""])
def test_json_metrics_score_invalid_json_zero(text: str) -> None:
    """Incomplete documents, NaN, deep nesting and huge numbers."""
    assert structured.json_valid(item("{}"), answer(text)) == 0
    assert structured.json_match(item("{}"), answer(text)) == 0
    assert structured.json_fields(item('{"a": 1}'), answer(text)) == 0


@given(json_values)
def test_json_match_ignores_white_space_and_key_order(value: object) -> None:
    import json

    expected, actual = json.dumps(value), json.dumps(value, indent=3, sort_keys=True)
    assert structured.json_match(item(expected), answer(actual)) == 1
    assert structured.json_fields(item(expected), answer(actual)) == 1


def test_json_fields_counts_missing_and_additional_leaves() -> None:
    """Two of three expected leaves, and one too many: two of four."""
    expected, actual = '{"a": 1, "b": {"c": "x", "d": true}}', '{"a": 1.0, "b": {"c": "x", "d": 1}, "e": null}'
    assert structured.json_fields(item(expected), answer(actual)) == pytest.approx(2 / 4)
    assert structured.matching_fields(item(expected), answer(actual)) == {"a": True, "b": False}
    assert structured.matching_fields(item("[1]"), answer("[1]")) == {}


def test_schema_valid_does_not_resolve_remote_references() -> None:
    """A remote reference is an error, without access to the network."""
    check = structured.schema_check({"type": "object", "required": ["a"]})
    assert check(item(), answer('{"a": 1}')) == 1
    assert check(item(), answer("{}")) == 0
    assert check(item(), answer("no")) == 0
    with pytest.raises(UsageError, match="other documents are not fetched"):
        structured.schema_check({"$ref": "http://127.0.0.1:9/schema.json"})
    with pytest.raises(UsageError, match="not valid"):
        structured.schema_check({"type": "nonsense"})


def test_tool_match_compares_arguments_as_json() -> None:
    """The order of keys and of parallel calls, and the format of numbers, are ignored."""
    expected = item(calls=(call("find", city="Bern", limit=3), call("book", id=1)))
    actual = answer(
        "", ToolCall(name="book", arguments='{"id": 1.0}'), ToolCall(name="find", arguments='{"limit":3,"city":"Bern"}')
    )
    assert structured.tool_match(expected, actual) == 1
    assert structured.tool_name(expected, actual) == 1


def test_tool_metrics_distinguish_wrong_missing_and_additional() -> None:
    """Wrong arguments; no call although one is expected; a call although none is."""
    expected = item(calls=(call("find", city="Bern"),))
    other = answer("", call("find", city="Basel"))
    assert (structured.tool_name(expected, other), structured.tool_match(expected, other)) == (1, 0)
    assert structured.tool_choice(expected, answer("Bern is nice")) == 0
    assert structured.tool_choice(item("no call"), answer("", call("find"))) == 0
    assert structured.tool_match(item("no call"), answer("anything")) == 1


def test_tool_match_compares_invalid_json_as_text() -> None:
    expected = item(calls=(ToolCall(name="f", arguments="{}"),))
    assert structured.tool_match(expected, answer("", ToolCall(name="f", arguments="{oops"))) == 0
    assert structured.tool_match(expected, answer("", ToolCall(name="f", arguments=""))) == 1


def test_rouge_l_is_f1_of_the_common_subsequence() -> None:
    """Police kill the gunman against police killed the gunman: three of four words each way."""
    assert text_similarity.rouge_l("police killed the gunman", "Police kill the gunman") == pytest.approx(0.75)
    assert text_similarity.rouge_l("", "") == 1
    assert text_similarity.rouge_l("a", "") == 0


@given(st.text(max_size=40), st.text(max_size=40))
def test_similarity_is_bounded_and_symmetric(one: str, other: str) -> None:
    """Between 0 and 1, symmetric, and 1 for equal texts."""
    for measure in (text_similarity.rouge_l, text_similarity.edit):
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
