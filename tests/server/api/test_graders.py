"""Graders over HTTP, and the measures and formulas under them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.testclient import TestClient

from ftpipe.errors import UsageError
from ftpipe.grading.expression import Expression, ExpressionError
from ftpipe.grading.text_similarity import MEASURES
from tests.grading.test_python_grader import needs_sandbox
from tests.server.conftest import MakeClient, upload
from tests.server.fakes import TINY, FakeEngine

CHECK = {"type": "string_check", "name": "c", "input": "{{sample.output_text}}", "reference": "{{item.want}}"}
ALIKE = {"type": "text_similarity", "name": "s", "input": "{{ sample.output_text }}", "reference": "{{item.want}}"}


def run(client: TestClient, grader: dict[str, Any], sample: str, item: dict[str, Any]) -> dict[str, Any]:
    """Grade one sample."""
    body = {"grader": grader, "model_sample": sample, "item": item}
    answer = client.post("/v1/fine_tuning/alpha/graders/run", json=body)
    assert answer.status_code == 200, answer.text
    described: dict[str, Any] = answer.json()
    return described


@pytest.mark.parametrize(
    ("operation", "sample", "want", "reward"),
    [
        ("eq", "Paris", "Paris", 1),
        ("eq", "paris", "Paris", 0),
        ("ne", "paris", "Paris", 1),
        ("like", "in Paris now", "Paris", 1),
        ("like", "in paris now", "Paris", 0),
        ("ilike", "in paris now", "Paris", 1),
    ],
)
def test_a_string_check_compares(client: TestClient, operation: str, sample: str, want: str, reward: float) -> None:
    """The four operations."""
    assert run(client, CHECK | {"operation": operation}, sample, {"want": want})["reward"] == reward


def test_a_multi_grader_combines_by_formula(client: TestClient) -> None:
    """Sub-rewards are told by name."""
    graders = {"exact": CHECK | {"operation": "eq"}, "near": ALIKE | {"evaluation_metric": "fuzzy_match"}}
    multi = {"type": "multi", "name": "m", "graders": graders, "calculate_output": "0.5 * exact + max(near, 0.5) / 2"}
    result = run(client, multi, "abc", {"want": "abc"})
    assert result["reward"] == 1.0
    assert result["sub_rewards"] == {"exact": 1.0, "near": 1.0}
    body = {"grader": multi | {"calculate_output": "exact + nobody"}}
    refused = client.post("/v1/fine_tuning/alpha/graders/validate", json=body).json()
    assert refused["error"]["param"] == "grader.calculate_output"


JUDGE = {
    "type": "score_model",
    "name": "judge",
    "model": "gpt-4o-mini",
    "input": [
        {"role": "system", "content": "Score it."},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "{{sample.output_text}}"}]},
    ],
    "sampling_params": {"max_completions_tokens": 7, "seed": 3},
}


def test_score_model_asks_a_model_of_this_server(client: TestClient, engine: FakeEngine) -> None:
    """Its reply is the reward; who answered and how many tokens it took is told."""
    engine.text = '{"result":0.25}'
    graded = run(client, JUDGE, "Paris", {})
    assert graded["reward"] == 0.25
    assert graded["metadata"]["sampled_model_name"] == TINY
    assert graded["metadata"]["token_usage"] == 8
    assert graded["model_grader_token_usage_per_model"] == {TINY: {"prompt_tokens": 7, "completion_tokens": 1}}
    (request,) = engine.requests
    assert (request.max_tokens, request.seed, request.temperature) == (7, 3, 0)
    assert "Paris" in str(request.messages)
    assert '"maximum": 1' in (request.grammar or "")
    parts = {"judge": JUDGE, "exact": CHECK | {"operation": "eq"}}
    multi = {"type": "multi", "name": "m", "graders": parts, "calculate_output": "judge + exact"}
    both = run(client, multi, "Paris", {"want": "Paris"})
    assert (both["reward"], both["sub_rewards"]) == (1.25, {"judge": 0.25, "exact": 1.0})


def test_score_model_without_score_is_an_error_flag(client: TestClient, engine: FakeEngine) -> None:
    """A reply out of range counts as the lowest score; so does none."""
    engine.text = '{"result":0.25}'
    graded = run(client, JUDGE | {"range": [0.5, 2]}, "Paris", {})
    assert (graded["reward"], graded["metadata"]["errors"]["model_grader_parse_error"]) == (0.5, True)
    engine.error = UsageError("the prompt is too long")
    graded = run(client, JUDGE | {"range": [-1, 1]}, "Paris", {})
    assert (graded["reward"], graded["metadata"]["errors"]["model_grader_server_error"]) == (-1, True)
    assert "the prompt is too long" in graded["metadata"]["errors"]["model_grader_server_error_details"]


@pytest.mark.parametrize(
    ("changes", "param", "code"),
    [
        ({"model": "nobody"}, "grader.model", "grader_model_not_found"),
        ({"model": "ft:smollm2-135m-instruct:local::12345678"}, "grader.model", "grader_model_not_found"),
        ({"model": "../../etc/passwd"}, "grader.model", "grader_model_not_found"),
        ({"model": "http://127.0.0.1:9/v1"}, "grader.model", "grader_model_not_found"),
        ({"range": [1, 0]}, "grader.range", None),
        ({"range": [0]}, "grader.range", None),
        ({"input": []}, "grader.input", None),
        (
            {"input": [{"role": "user", "content": {"type": "input_image", "image_url": "http://x"}}]},
            "grader.input",
            None,
        ),
        ({"sampling_params": {"max_completions_tokens": 10**9}}, "grader.sampling_params", None),
        ({"base_url": "http://127.0.0.1:9"}, "grader.base_url", None),
    ],
)
def test_score_model_is_refused(
    client: TestClient, engine: FakeEngine, changes: dict[str, Any], param: str, code: str | None
) -> None:
    """By the endpoint that validates, and by that which runs; nothing is asked, and no address can be named."""
    for path, rest in (("validate", {}), ("run", {"model_sample": "x"})):
        answer = client.post(f"/v1/fine_tuning/alpha/graders/{path}", json={"grader": JUDGE | changes, **rest})
        error = answer.json()["error"]
        assert answer.status_code == 400, error
        assert str(error["param"]).startswith(param), error
        assert code in (None, error["code"])
    assert engine.requests == []


CODE = {
    "type": "python",
    "name": "code",
    "source": "def grade(sample, item):\n    return len(sample['output_text']) / item['n']",
}


def test_python_is_refused_unless_the_server_allows_it(client: TestClient) -> None:
    """In a job, too, and as a part of a multi grader; the message names the option."""
    multi = {"type": "multi", "name": "m", "graders": {"code": CODE}, "calculate_output": "code"}
    for grader, at in ((CODE, "grader.type"), (multi, "grader.graders.code.type")):
        for path, rest in (("validate", {}), ("run", {"model_sample": "x"})):
            answer = client.post(f"/v1/fine_tuning/alpha/graders/{path}", json={"grader": grader, **rest})
            error = answer.json()["error"]
            assert (answer.status_code, error["param"], error["code"]) == (400, at, "unsupported_grader")
            assert "--allow-python-graders" in error["message"]
        method = {"type": "reinforcement", "reinforcement": {"grader": grader}}
        body = {"model": "gpt-4o-mini", "training_file": upload(client)["id"], "method": method}
        error = client.post("/v1/fine_tuning/jobs", json=body).json()["error"]
        assert error["param"] == f"method.reinforcement.{at}"
        assert "--allow-python-graders" in error["message"]


@needs_sandbox
def test_python_scores_where_the_server_allows_it(make_client: MakeClient) -> None:
    """Its errors are told by a flag and in words, and count as 0; a source without a function is refused."""
    client = make_client(allow_python_graders=True)
    multi = {"type": "multi", "name": "m", "graders": {"code": CODE}, "calculate_output": "code * 2"}
    assert run(client, multi, "Paris", {"n": 10})["reward"] == 1.0
    failed = run(client, CODE, "Paris", {"n": 0})
    errors = failed["metadata"]["errors"]
    assert (failed["reward"], errors["python_grader_runtime_error"]) == (0.0, True)
    assert errors["python_grader_runtime_error_details"] == "line 2: ZeroDivisionError: division by zero"
    valid = client.post("/v1/fine_tuning/alpha/graders/validate", json={"grader": CODE})
    assert valid.json() == {"grader": CODE}
    for source, message in (("x = 1", "no function grade"), ("def grade(:", "SyntaxError"), ("", "source")):
        refused = client.post("/v1/fine_tuning/alpha/graders/validate", json={"grader": CODE | {"source": source}})
        assert refused.status_code == 400
        assert message in refused.text


def test_an_unknown_variable_is_told_and_scores_nothing(client: TestClient) -> None:
    """The flag of the service is set."""
    result = run(client, CHECK | {"operation": "eq"}, "x", {})
    assert (result["reward"], result["metadata"]["errors"]["invalid_variable_error"]) == (0.0, True)


def test_json_of_the_sample_can_be_reached(client: TestClient) -> None:
    """By path; a sample that is no JSON is told."""
    grader = CHECK | {"operation": "eq", "input": "{{sample.output_json.a.b}}"}
    assert run(client, grader, '{"a": {"b": "y"}}', {"want": "y"})["reward"] == 1
    assert run(client, grader, "no json", {"want": "y"})["metadata"]["errors"]["sample_parse_error"]


def test_grader_templates_reach_indexes_and_tool_calls(client: TestClient) -> None:
    """As in `evaluate`: lists by index, calls in the sample, and JSON whatever the order of its keys."""
    call = '<tool_call>{"name": "find", "arguments": {"id": 7}}</tool_call>'
    grader = CHECK | {"operation": "eq", "input": "{{sample.output_tools[0].function.name}}"}
    assert run(client, grader | {"reference": "{{item.tools[1]}}"}, call, {"tools": ["list", "find"]})["reward"] == 1
    grader = CHECK | {"operation": "eq", "input": "{{sample.output_json}}"}
    assert run(client, grader, '{"b": 1.0, "a": null}', {"want": {"a": None, "b": 1}})["reward"] == 1


def test_grader_item_that_is_nested_too_deeply_is_an_error(client: TestClient) -> None:
    """It is not a failure of the server; the same value on both sides is equal."""
    deep: Any = "end"
    for _ in range(90):
        deep = [deep]
    result = run(client, CHECK | {"operation": "eq", "input": "{{item.want}}"}, "x", {"want": deep})
    assert result["reward"] == 1


@pytest.mark.parametrize("kind", ["python", "label_model", "nonsense", {}, None])
def test_graders_that_need_more_are_refused_clearly(client: TestClient, kind: Any) -> None:
    """Whatever the type is."""
    answer = client.post("/v1/fine_tuning/alpha/graders/validate", json={"grader": {"type": kind, "name": "x"}})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "grader.type")


@pytest.mark.parametrize("name", sorted(MEASURES))
def test_every_measure_knows_the_same_and_the_different(name: str) -> None:
    """1 for the same text of at least five words, 0 for nothing in common."""
    text = "the quick brown fox jumps over the lazy dog"
    assert MEASURES[name](text, text) == pytest.approx(1.0)
    assert MEASURES[name](text, "zzz") < 0.2


@given(st.sampled_from(sorted(MEASURES)), st.text(max_size=60), st.text(max_size=60))
def test_every_measure_stays_between_0_and_1(name: str, text: str, reference: str) -> None:
    """Whatever the texts."""
    assert 0.0 <= MEASURES[name](text, reference) <= 1.0


@pytest.mark.parametrize(
    ("formula", "value"), [("1 + 2 * 3", 7), ("-a ** 2", -4), ("(a + b) / 4", 1.25), ("sqrt(4)", 2), ("min(a, b)", 2)]
)
def test_a_formula_has_the_usual_value(formula: str, value: float) -> None:
    """Precedence included."""
    assert Expression(formula).evaluate({"a": 2.0, "b": 3.0}) == value


@pytest.mark.parametrize(
    "formula",
    ["__import__('os')", "a.b", "a[0]", "9**99**9", "1/0", "lambda: 1", "c", "'x'", "True", "(" * 500, "exp(999)",
     "min()", "(-1) ** 0.5", "a if a else b", "log(0)", "1e999"],
)  # fmt: skip
def test_a_formula_that_is_no_arithmetic_is_refused(formula: str) -> None:
    """No code is run, and no number grows without end."""
    with pytest.raises(ExpressionError):
        Expression(formula).evaluate({"a": 2.0, "b": 3.0})
