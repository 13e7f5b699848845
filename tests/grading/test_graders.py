"""Graders in OpenAI's JSON score as they say, and nothing of them is run."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftpipe.errors import UsageError
from ftpipe.evaluation.metrics import select_metrics
from ftpipe.grading.grader_types import ScoreModel
from ftpipe.grading.graders import MAX_RENDERED_CHARACTERS, context_of, grader_metric
from ftpipe.grading.score_model import ModelReply, parse_score
from ftpipe.records.evaluation import Item, Task
from tests.evaluation.factories import answer, item


def check(operation: str = "eq", **fields: Any) -> dict[str, Any]:
    """A string check of the answer against the wanted text."""
    usual = {"type": "string_check", "name": "c", "input": "{{sample.output_text}}", "reference": "{{ item.expected }}"}
    return {**usual, "operation": operation, **fields}


def with_fields(**fields: Any) -> Item:
    """An item whose record has further keys."""
    return item("Bern").model_copy(update={"fields": fields})


@pytest.mark.parametrize(
    ("operation", "text", "score"),
    [
        ("eq", "Bern", 1), ("eq", "bern", 0), ("ne", "Basel", 1), ("like", "It is Bern.", 1), ("ilike", "BERN!", 1),
        ("like", "B", 0),
    ],
)  # fmt: skip
def test_grader_string_check_operations(operation: str, text: str, score: float) -> None:
    """Equal, unequal, contained, contained whatever the case."""
    assert grader_metric(check(operation))(item("Bern"), answer(text)) == score


def test_grader_template_paths() -> None:
    """Keys, indexes, JSON of the answer; what is not there is empty."""
    record = with_fields(city={"names": ["Bern", "Berne"]}, number=3)
    given_answer = answer('{"city": "Berne", "n": 3}')
    assert (
        context_of(record, given_answer).render("{{item.city.names[1]}}={{ sample.output_json.city }}") == "Berne=Berne"
    )
    assert context_of(record, given_answer).render("{{item.number}}|{{item.none.x}}|{{sample.output_json.n}}") == "3||3"


def test_grader_template_values_are_not_rendered_again() -> None:
    """An answer that writes a slot gets nothing for it."""
    assert (
        context_of(item("secret"), answer("{{item.expected}}")).render("{{sample.output_text}}") == "{{item.expected}}"
    )


def test_grader_template_unknown_variable_is_an_error() -> None:
    """An unknown variable is empty and an error; null is not unknown."""
    context = context_of(with_fields(nothing=None), answer("no json"))
    assert context.render("{{item.nothing}}|{{item.x}}|{{other.x}}|{{item}}") == "null|||"
    assert context.errors == {"invalid_variable_error"}
    assert context.render("{{sample.output_json.a}}") == ""
    assert context.errors == {"invalid_variable_error", "sample_parse_error"}


def test_grader_text_similarity_measures() -> None:
    """Fuzzy, and words by run."""
    grader = {**check(), "type": "text_similarity", "evaluation_metric": "rouge_2"}
    score = grader_metric(grader)(item("the cat sat down"), answer("the cat sat up"))
    assert score == pytest.approx(2 / 3)
    fuzzy = grader_metric({**grader, "evaluation_metric": "fuzzy_match"})
    assert fuzzy(item("Bern"), answer("Bern")) == 1


def test_grader_multi_evaluates_expression() -> None:
    """And stays within 0 and 1, also where the formula has no value."""
    parts = {"same": check(), "near": check("ilike")}
    grader = {"type": "multi", "graders": parts, "calculate_output": "0.25 * same + 0.75 * max(near, same)"}
    assert grader_metric(grader)(item("Bern"), answer("bern")) == 0.75
    for formula, score in (
        ("same / (near - near)", 0),
        ("near * 9", 1),
        ("sqrt(-near)", 0),
        ("-near", 0),
        ("2 ** 99999", 0),
    ):
        assert grader_metric({**grader, "calculate_output": formula})(item("Bern"), answer("Bern")) == score


@pytest.mark.parametrize(
    "formula",
    [
        "__import__('os')", "same.real", "(lambda: 1)()", "[1]", "'a'", "x", "same if same else 1", "", "1;2",
        "(" * 300, "1" * 501, "1+" * 600 + "1",
    ],
)  # fmt: skip
def test_grader_multi_refuses_non_arithmetic_expression(formula: str) -> None:
    """Before anything is reckoned."""
    with pytest.raises(UsageError, match="calculate_output"):
        grader_metric({"type": "multi", "graders": {"same": check()}, "calculate_output": formula})


@given(st.text(max_size=40))
def test_grader_multi_any_expression_is_valid_or_usage_error(formula: str) -> None:
    """Never another error, never a score outside 0 and 1."""
    try:
        metric = grader_metric({"type": "multi", "graders": {"a": check()}, "calculate_output": formula})
    except UsageError:
        return
    assert 0 <= metric(item("x"), answer("x")) <= 1


@pytest.mark.parametrize(
    "grader",
    [
        {}, {"type": "python"}, {"type": "score_model"}, check("is"), check(input=3), {"type": "multi"},
        {"type": "multi", "graders": {"a": 1}, "calculate_output": "a"}, {**check(), "type": "text_similarity"},
        {"type": "multi", "graders": {"a": {"type": "multi", "graders": {"b": check()}, "calculate_output": "b"}},
         "calculate_output": "a"},
        {"type": "multi", "graders": {f"g{n}": check() for n in range(33)}, "calculate_output": "g0"},
        {**check(), "type": "text_similarity", "evaluation_metric": "cosine"},
    ],
)  # fmt: skip
def test_grader_unsupported_is_refused_with_hint(grader: dict[str, Any]) -> None:
    """Code, models, unknown words, missing fields."""
    with pytest.raises(UsageError) as caught:
        grader_metric(grader)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("reply", "score", "error"),
    [
        ('{"result": 0.25}', 0.25, ""),
        ('{"result": 1}', 1, ""),
        ('{\n  "result": 1.00000000', 1, ""),
        ('{"result": 0.333', 0.333, ""),
        ('{"result": 0.33', 0, "model_grader_parse_error"),
        ('{"result": 1', 0, "model_grader_parse_error"),
        ('{"result": 1.0000001', 0, "model_grader_parse_error"),
        ('{"result": 0.500000, "more": ', 0, "model_grader_parse_error"),
        ('x {"result": 0.5000', 0, "model_grader_parse_error"),
        ("0.5", 0, "model_grader_parse_error"),
        ("9" * 100_000, 0, "model_grader_parse_error"),
    ],
)
def test_score_model_reply_is_a_score_or_an_error(reply: str, score: float, error: str) -> None:
    """A reply that was cut off within the digits behind the point says its score."""
    grader = ScoreModel.model_validate(
        {"type": "score_model", "name": "j", "model": "m", "input": [{"role": "user", "content": "x"}]}
    )
    assert parse_score(grader, ModelReply(reply))[:2] == (score, error)


def test_grader_is_primary_metric_unless_another_is_requested() -> None:
    """It comes first among the metrics."""
    metrics, primary = select_metrics(Task.LABEL, [item("a")], grader=check())
    assert (metrics[0].name, primary) == ("grader", "grader")
    assert select_metrics(Task.LABEL, [item("a")], requested=["exact"], grader=check())[1] == "exact"
    with pytest.raises(UsageError, match="needs a grader"):
        select_metrics(Task.LABEL, [item("a")], requested=["grader"])


@pytest.mark.parametrize(
    ("template", "limit"),
    [
        ("{{" + " " * 60_000, 1.0),
        ("{{ " * 30_000, 1.0),
        ("{{" + "a" * 60_000 + "}}", 1.0),
        ("{{item.a}}" * 5_000, 2.0),
        ("{{item.items}}" * 5_000, 2.0),
        ("{{sample.output_json.a}}" * 4_000, 2.0),
        ("{{item" + ".a" * 90 + "}}" * 20_000, 2.0),
    ],
)
def test_grader_template_is_rendered_in_bounded_time(template: str, limit: float) -> None:
    """Neither blanks nor repetitions of a long value cost more than the largest text that is compared."""
    record = with_fields(a="x" * 200_000, items=["y" * 10] * 20_000)
    context = context_of(record, answer("[" * 100_000))
    started_at = time.thread_time()
    assert len(context.render(template)) <= MAX_RENDERED_CHARACTERS
    assert time.thread_time() - started_at < limit


def test_grader_marks_a_text_that_was_cut() -> None:
    context = context_of(with_fields(a="x" * 200_000), answer(""))
    context.render("{{item.a}}" * 5)
    assert context.errors == set()
    context.render("{{item.a}}" * 6)
    assert context.errors == {"truncated_observation_error"}


def test_multi_grader_of_many_measures_takes_bounded_time() -> None:
    """Thirty-two measures over long texts share what is compared."""
    text = " ".join(f"w{number % 997}" for number in range(20_000))
    part = {"type": "text_similarity", "name": "g", "input": "{{sample.output_text}}", "reference": "{{item.text}}"}

    def seconds(measure: str, count: int) -> float:
        parts = {f"g{number}": {**part, "evaluation_metric": measure} for number in range(count)}
        multi = {"type": "multi", "name": "m", "graders": parts, "calculate_output": f"2 * g0 - g{count - 1}"}
        started_at = time.thread_time()
        assert grader_metric(multi)(with_fields(text=text), answer(text)) == pytest.approx(1)
        return time.thread_time() - started_at

    for measure in ("gleu", "bleu", "rouge_5", "rouge_l", "fuzzy_match"):
        together = seconds(measure, 32)
        assert together < 6
        if measure in ("gleu", "bleu"):  # the slow ones; each for itself they would take 32 times as much as one
            assert together < 16 * max(seconds(measure, 1) for _ in range(3))
