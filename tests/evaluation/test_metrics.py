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
from ftpipe.evaluation.metrics import (
    text as similarity,
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
def test_a_normalised_match_overlooks_how_a_label_is_written(text: str) -> None:
    """Case, spacing, quotes, marks and fences are not the answer."""
    assert match.normalised(item("billing"), answer(text)) == 1


def test_an_exact_match_wants_the_text_itself() -> None:
    """Only the blank edges are free."""
    assert match.exact(item("billing"), answer(" billing\n")) == 1
    assert match.exact(item("billing"), answer("Billing")) == 0


def test_macro_f1_weighs_every_label_the_same() -> None:
    """Hand-reckoned: a 2/3, b 0, so 1/3."""
    pairs = [("a", "a"), ("a", "b"), ("b", "c")]
    assert match.macro_f1(pairs) == pytest.approx((2 * 1 / (2 + 1) + 0) / 2)
    assert match.macro_f1([]) == 0


def test_the_confusion_gathers_strange_answers() -> None:
    """What is no wanted label has one column."""
    assert match.confusion([("a", "a"), ("a", "x"), ("b", "y")]) == {"a": {"a": 1, "(other)": 1}, "b": {"(other)": 1}}


@pytest.mark.parametrize("text", ["{", "NaN", '{"a": Infinity}', "text {}", "[" * 5000, "1" * 5000, ""])
def test_what_is_no_json_scores_nothing_and_breaks_nothing(text: str) -> None:
    """Half documents, NaN, bottomless nesting and endless numbers."""
    assert structure.json_valid(item("{}"), answer(text)) == 0
    assert structure.json_match(item("{}"), answer(text)) == 0
    assert structure.json_fields(item('{"a": 1}'), answer(text)) == 0


@given(json_values)
def test_any_document_matches_itself_however_it_is_spaced(value: object) -> None:
    """Spacing and the order of keys do not count."""
    import json

    wanted, got = json.dumps(value), json.dumps(value, indent=3, sort_keys=True)
    assert structure.json_match(item(wanted), answer(got)) == 1
    assert structure.json_fields(item(wanted), answer(got)) == 1


def test_fields_are_counted_by_leaf_and_made_up_ones_count_against() -> None:
    """Two of three wanted leaves right, one too many: two of four."""
    wanted, got = '{"a": 1, "b": {"c": "x", "d": true}}', '{"a": 1.0, "b": {"c": "x", "d": 1}, "e": null}'
    assert structure.json_fields(item(wanted), answer(got)) == pytest.approx(2 / 4)
    assert structure.field_hits(item(wanted), answer(got)) == {"a": True, "b": False}
    assert structure.field_hits(item("[1]"), answer("[1]")) == {}


def test_a_schema_is_checked_and_fetches_nothing() -> None:
    """Type, required field; a reference to elsewhere is refused without a look at the network."""
    check = structure.schema_check({"type": "object", "required": ["a"]})
    assert check(item(), answer('{"a": 1}')) == 1
    assert check(item(), answer("{}")) == 0
    assert check(item(), answer("no")) == 0
    away = structure.schema_check({"$ref": "http://127.0.0.1:9/schema.json"})
    with pytest.raises(UsageError, match="points to something"):
        away(item(), answer("{}"))
    with pytest.raises(UsageError, match="not valid"):
        structure.schema_check({"type": "nonsense"})


def test_tool_calls_are_compared_by_structure() -> None:
    """The order of keys, of parallel calls and the way numbers are written do not matter."""
    wanted = item(calls=(call("find", city="Bern", limit=3), call("book", id=1)))
    got = answer(
        "", ToolCall(name="book", arguments='{"id": 1.0}'), ToolCall(name="find", arguments='{"limit":3,"city":"Bern"}')
    )
    assert structure.tool_match(wanted, got) == 1
    assert structure.tool_name(wanted, got) == 1


def test_wrong_missing_and_needless_calls_are_told_apart() -> None:
    """Name right and arguments wrong; no call where one is wanted; a call where none is."""
    wanted = item(calls=(call("find", city="Bern"),))
    other = answer("", call("find", city="Basel"))
    assert (structure.tool_name(wanted, other), structure.tool_match(wanted, other)) == (1, 0)
    assert structure.tool_choice(wanted, answer("Bern is nice")) == 0
    assert structure.tool_choice(item("no call"), answer("", call("find"))) == 0
    assert structure.tool_match(item("no call"), answer("anything")) == 1


def test_arguments_that_are_no_json_match_nothing_that_is() -> None:
    """A model that writes broken arguments has not called the tool rightly."""
    wanted = item(calls=(ToolCall(name="f", arguments="{}"),))
    assert structure.tool_match(wanted, answer("", ToolCall(name="f", arguments="{oops"))) == 0
    assert structure.tool_match(wanted, answer("", ToolCall(name="f", arguments=""))) == 1


def test_rouge_l_is_the_f_of_the_longest_common_words() -> None:
    """Police kill the gunman against police killed the gunman: three of four words each way."""
    assert alike.rouge_l("police killed the gunman", "Police kill the gunman") == pytest.approx(0.75)
    assert alike.rouge_l("", "") == 1
    assert alike.rouge_l("a", "") == 0


@given(st.text(max_size=40), st.text(max_size=40))
def test_likeness_is_a_share_and_has_no_direction(one: str, other: str) -> None:
    """Between 0 and 1, the same both ways, and 1 with itself."""
    for measure in (alike.rouge_l, alike.edit):
        assert 0 <= measure(one, other) <= 1
        assert measure(one, other) == pytest.approx(measure(other, one))
        assert measure(one, one) == 1


def test_chrf_agrees_with_its_library() -> None:
    """As a share, and with the signature that makes it reproducible."""
    pytest.importorskip("sacrebleu")
    assert METRICS["chrf"].compute(item("the cat sat"), answer("the cat sat")) == pytest.approx(1)
    assert 0 < METRICS["chrf"].compute(item("the cat sat"), answer("the cat lay")) < 1
    assert "nc:6" in similarity.chrf_signature()


@pytest.mark.parametrize("task", list(Task))
def test_every_task_has_metrics_that_exist(task: Task) -> None:
    """The table names nothing that is not there."""
    metrics, primary = select_metrics(task, [item("x")])
    assert set(TASK_METRICS[task]) <= {metric.name for metric in metrics}
    assert primary in {metric.name for metric in metrics}
    assert all(metric.about for metric in metrics)


def test_long_texts_are_judged_by_likeness_and_short_ones_as_a_whole() -> None:
    """Nobody expects a paragraph word for word."""
    assert select_metrics(Task.TEXT, [item("yes")])[1] == "normalised"
    assert (
        select_metrics(Task.TEXT, [item("a long answer of many words that nobody repeats word for word")])[1]
        == "rouge_l"
    )


def test_an_unknown_metric_is_refused_with_the_known_ones() -> None:
    """The hint lists them."""
    with pytest.raises(UsageError) as caught:
        select_metrics(Task.LABEL, [], requested=["exakt"])
    assert "normalised" in caught.value.hint
    with pytest.raises(UsageError, match="needs a schema"):
        select_metrics(Task.JSON, [], requested=["schema_valid"])
