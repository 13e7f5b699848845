"""Stage 2 counts exactly and says what a job will cost, without guessing."""

from __future__ import annotations

import datetime as dt
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import tiktoken

from ftpipe.catalog.training_prices import PriceTable
from ftpipe.errors import ConfigError, UsageError
from ftpipe.records import TokenStats
from ftpipe.reports.dataset_html import html
from ftpipe.reports.dataset_summary import cost_lines, token_lines
from ftpipe.reports.findings import markdown
from ftpipe.reports.runs import cost_text
from ftpipe.stages.count import cost_by_model, count
from ftpipe.stages.validate import validate
from ftpipe.tokenization import open_tiktoken
from tests.dataset.samples import chats, graded, preference, write

TODAY = dt.date(2026, 11, 24)


@lru_cache
def o200k_base() -> tiktoken.Encoding:
    """The encoding; building it takes a third of a second."""
    return open_tiktoken("o200k_base")


def plain_count(record: dict[str, Any]) -> int:
    """The cookbook's formula in its plainest form."""
    encoding, total = o200k_base(), 3
    for message in record["messages"]:
        total += 3 + sum(len(encoding.encode(value, disallowed_special=())) for value in message.values())
    return total


def test_count_equals_cookbook_on_plain_chat(tmp_path: Path) -> None:
    """3 a message, every value, 3 a conversation; answers alone are trained."""
    rows = chats()
    report = count(validate(write(tmp_path / "a.jsonl", [*rows])), model="gpt-4.1-mini", today=TODAY)
    assert report.tokens is not None
    assert report.tokens.total == sum(plain_count(row) for row in rows)
    encoding = o200k_base()
    assert report.tokens.trained == sum(len(encoding.encode(row["messages"][1]["content"])) for row in rows)


def test_count_name_adds_one_token_and_weight_none(tmp_path: Path) -> None:
    """Weight 0 also takes the answer out of the trained tokens."""
    plain, named = chats(2)
    more = {**named, "messages": [{**named["messages"][0], "name": "ann"}, {**named["messages"][1], "weight": 0}]}
    one = validate(write(tmp_path / "a.jsonl", [plain, named])).tokens
    two = validate(write(tmp_path / "b.jsonl", [plain, more])).tokens
    assert one is not None and two is not None
    assert two.total - one.total == 1 + len(o200k_base().encode("ann"))
    assert 0 < two.trained < one.trained


def test_count_tools_follow_cookbook_formula(tmp_path: Path) -> None:
    """7 a function, 3 for properties, 3 a key, enum items, 12 at the end."""
    tool = {
        "type": "function",
        "function": {
            "name": "weather", "description": "Tells the weather.",
            "parameters": {
                "type": "object",
                "properties": {"unit": {"type": "string", "description": "Unit.", "enum": ["c", "f"]}},
            },
        },
    }  # fmt: skip
    plain, other = chats(2)
    one = validate(write(tmp_path / "a.jsonl", [plain, other])).tokens
    two = validate(write(tmp_path / "b.jsonl", [plain, {**other, "tools": [tool]}])).tokens
    assert one is not None and two is not None
    of = o200k_base().encode
    expected = 7 + len(of("weather:Tells the weather")) + 3 + 3 + len(of("unit:string:Unit")) - 3 + 2 * (3 + 1) + 12
    assert two.total - one.total == expected


GUEST = {
    "type": "object",
    "properties": {"name": {"type": "string", "description": "Full name of the guest " * 20}},
}
CITY = {"type": "string", "enum": ["Oslo", "Rome"], "description": "Where it is"}


def tool_stats(folder: Path, parameters: dict[str, Any], *, key: str = "tools") -> TokenStats:
    """Figures of a file in which one record defines a tool with these parameters."""
    function = {"name": "book", "description": "Books a room.", "parameters": parameters}
    row = {**chats(1)[0], key: [{"type": "function", "function": function} if key == "tools" else function]}
    tokens = validate(write(folder / "a.jsonl", [row])).tokens
    assert tokens is not None
    return tokens


def test_count_functions_as_tools(tmp_path: Path) -> None:
    """The old form has the same definitions."""
    parameters = {"type": "object", "properties": {"guest": GUEST}}
    old, new = (tool_stats(tmp_path, parameters, key=key) for key in ("functions", "tools"))
    assert (old.total, old.lower_bound_examples) == (new.total, 0)
    plain = validate(write(tmp_path / "b.jsonl", [*chats(1)])).tokens
    assert plain is not None and new.total > plain.total + 50


@pytest.mark.parametrize(
    "property_",
    [
        {"$ref": "#/$defs/Guest"},
        {"$ref": "#/$defs/Alias"},
        {"allOf": [{"$ref": "#/$defs/Guest"}]},
        {"anyOf": [GUEST, {"type": "null"}]},
        {"oneOf": [{"type": "string"}, {"$ref": "#/$defs/Guest"}]},
        {"type": "array", "items": {"$ref": "#/$defs/Guest"}},
        {"type": "array", "items": {"anyOf": [GUEST]}},
    ],
)
def test_count_schema_behind_references_and_alternatives(property_: dict[str, Any], tmp_path: Path) -> None:
    """At least as many tokens as the same schema written out, and marked as a lower bound."""
    definitions = {"Guest": GUEST, "Alias": {"$ref": "#/$defs/Guest"}}
    inline = tool_stats(tmp_path, {"type": "object", "properties": {"guest": GUEST}})
    other = tool_stats(tmp_path, {"type": "object", "properties": {"guest": property_}, "$defs": definitions})
    assert inline.total - 5 <= other.total <= inline.total + 10
    assert (inline.exact, inline.lower_bound_examples) == (True, 0)
    assert (other.exact, other.lower_bound_examples) == (False, 1)
    if set(property_) == {"$ref"}:
        assert other.total == inline.total


@pytest.mark.parametrize(
    "changed",
    [{"default": "x"}, {"title": "City"}, {"pattern": "^x"}, {"additionalProperties": {"type": "string"}}, {"not": {}}],
)
def test_count_with_uncounted_keywords_is_a_lower_bound(changed: dict[str, Any], tmp_path: Path) -> None:
    exact = tool_stats(tmp_path, {"type": "object", "properties": {"city": CITY}, "additionalProperties": False})
    lower = tool_stats(tmp_path, {"type": "object", "properties": {"city": {**CITY, **changed}}})
    assert (exact.total, exact.exact) == (lower.total, True)
    assert (lower.exact, lower.lower_bound_examples) == (False, 1)


def test_count_reference_loops_and_growth_end(tmp_path: Path) -> None:
    """Schemas that refer to themselves, and that double at each of 60 levels."""
    loop = {"type": "object", "properties": {"next": {"$ref": "#"}, "other": {"$ref": "#/properties/other"}}}
    doubled = {f"d{n}": {"properties": {name: {"$ref": f"#/$defs/d{n + 1}"} for name in "ab"}} for n in range(60)}
    for parameters in (loop, {"$defs": doubled, "$ref": "#/$defs/d0"}):
        assert tool_stats(tmp_path, parameters).lower_bound_examples == 1


def test_count_schema_that_is_a_reference_itself(tmp_path: Path) -> None:
    inline = tool_stats(tmp_path, {"allOf": [GUEST]})
    assert tool_stats(tmp_path, {"$ref": "#/$defs/All", "$defs": {"All": {"allOf": [GUEST]}}}).total == inline.total


@pytest.mark.parametrize(
    ("part", "is_lower_bound"),
    [({"type": "input_audio", "input_audio": {}}, 1), ({"type": "refusal", "refusal": "No."}, 0)],
)
def test_count_of_other_parts(part: dict[str, Any], is_lower_bound: int, tmp_path: Path) -> None:
    """A refusal is text; the tokens of audio are not known."""
    row = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": [part]}]}
    empty = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": None}]}
    one, two = (validate(write(tmp_path / "a.jsonl", [each])).tokens for each in (row, empty))
    assert one is not None and two is not None
    assert one.lower_bound_examples == is_lower_bound
    assert one.total - two.total == one.trained == (0 if is_lower_bound else 2)


def test_lower_bound_is_told_in_every_output(tmp_path: Path) -> None:
    """Text, Markdown, page, plan, cost and JSON."""
    row = {
        **chats(1)[0],
        "tools": [{"type": "function", "function": {"name": "book", "parameters": {"title": "Book"}}}],
    }
    report = count(validate(write(tmp_path / "a.jsonl", [*chats(11), row])), model="gpt-4.1-mini", today=TODAY)
    assert report.tokens is not None and report.cost is not None
    texts = {
        "tokens": token_lines(report)[1],
        "note": "\n".join(token_lines(report)),
        "cost": "\n".join(cost_lines(report.cost)),
        "markdown": markdown(report),
        "page": html(report, cost_by_model(report, today=TODAY)),
        "plan": cost_text(report.cost),
    }
    assert [name for name, text in texts.items() if "at least" not in text and name != "note"] == []
    assert "lower bound" in texts["note"] and "lower bound" in texts["markdown"] and "lower bound" in texts["page"]
    assert report.model_dump()["tokens"]["lower_bound_examples"] == 1
    assert report.model_dump()["cost"]["is_lower_bound"] is True
    exact = count(validate(write(tmp_path / "b.jsonl", [*chats(12)])), model="gpt-4.1-mini", today=TODAY)
    assert exact.cost is not None
    shown = [*token_lines(exact), *cost_lines(exact.cost), markdown(exact), html(exact), cost_text(exact.cost)]
    assert not any("at least" in text for text in shown)


@pytest.mark.parametrize(
    "name", ["gpt-35-turbo", "gpt-35-turbo-0125", "gpt-35-turbo-1106", "gpt-35-turbo-0613.ft-0a1b"]
)
def test_count_knows_azure_names(name: str, tmp_path: Path) -> None:
    """Encoding, price and shutdown date are those of OpenAI's spelling."""
    report = count(validate(write(tmp_path / "a.jsonl", [*chats()]), model=name), model=name, epochs=1, today=TODAY)
    assert report.tokens is not None and report.cost is not None
    assert (report.tokens.encoding, report.tokens.exact) == ("cl100k_base", True)
    assert report.cost.price_per_million == 8.0
    for target in ("openai", "azure"):
        assert "FT710" in validate(tmp_path / "a.jsonl", model=name, target=target, today=TODAY).summary.counts


def test_count_preference_pair_trains_both_answers(tmp_path: Path) -> None:
    """The prompt is not."""
    tokens = validate(write(tmp_path / "a.jsonl", [preference(i) for i in range(12)])).tokens
    assert tokens is not None
    encoding = o200k_base()
    answers = [
        preference(i)[key][0]["content"] for i in range(12) for key in ("preferred_output", "non_preferred_output")
    ]
    assert tokens.trained == sum(len(encoding.encode(text)) for text in answers)


def test_count_requested_epochs_have_exact_cost(tmp_path: Path) -> None:
    """Low = expected = high = tokens × epochs × price."""
    report = count(validate(write(tmp_path / "a.jsonl", [*chats()])), model="gpt-4.1-mini", epochs=3, today=TODAY)
    cost, tokens = report.cost, report.tokens
    assert cost is not None and tokens is not None
    assert cost.low == cost.expected == cost.high == pytest.approx(tokens.total * 3 * 5.0 / 1e6)
    assert cost.epochs_rule == "requested"


def test_count_auto_epochs_have_cost_range(tmp_path: Path) -> None:
    """The service may choose otherwise, so low is below and high above."""
    cost = count(validate(write(tmp_path / "a.jsonl", [*chats()])), model="gpt-4.1-mini", today=TODAY).cost
    assert cost is not None and cost.low is not None and cost.expected is not None and cost.high is not None
    assert cost.low < cost.expected < cost.high


@pytest.mark.parametrize(("as_of", "warning"), [("2026-09-01", "84 days old"), (None, "has no date")])
def test_count_old_price_of_the_configuration_is_a_finding(as_of: str | None, warning: str, tmp_path: Path) -> None:
    prices = PriceTable.load({"gpt-4.1-mini": {"training": 4.0} | ({"as_of": as_of} if as_of else {})})
    path = write(tmp_path / "a.jsonl", [*chats()])
    report = count(validate(path), model="gpt-4.1-mini", prices=prices, today=TODAY)
    assert report.cost is not None and warning in report.cost.warning
    assert report.summary.counts["FT708"] == 1
    again = count(report, model="gpt-4.1-mini", prices=prices, today=TODAY)
    assert again.summary == report.summary


@pytest.mark.parametrize("model", ["gpt-4.1-mini", "gpt-9"])
def test_count_does_not_warn_about_the_prices_of_ftpipe(model: str, tmp_path: Path) -> None:
    """They are of mid 2025, which `ftpipe doctor` tells; the report shows the date, or that there is no price."""
    report = count(validate(write(tmp_path / "a.jsonl", [*chats()])), model=model, today=TODAY)
    assert "FT708" not in report.summary.counts and report.summary.warnings == (model == "gpt-4.1-mini") * 0
    assert report.cost is not None
    text = "\n".join(cost_lines(report.cost))
    assert ("as of 2025-06-30" if model == "gpt-4.1-mini" else "No training price is known") in text
    assert "days old" not in text


def test_count_unknown_price_has_no_cost(tmp_path: Path) -> None:
    """No figure at all."""
    cost = count(validate(write(tmp_path / "a.jsonl", [*chats()])), model="gpt-9", today=TODAY).cost
    assert cost is not None
    assert (cost.low, cost.expected, cost.high, cost.price_per_million) == (None, None, None, None)
    assert "No training price" in cost.warning


def test_count_configured_price_overrides_packaged_price(tmp_path: Path) -> None:
    """By alias, with its date and source."""
    prices = PriceTable.load({"gpt-4.1-mini": {"training": 4.0, "as_of": TODAY, "source": "invoice"}})
    cost = count(
        validate(write(tmp_path / "a.jsonl", [*chats()])), model="gpt-4.1-mini-2025-04-14", prices=prices, today=TODAY
    ).cost
    assert cost is not None
    assert (cost.price_per_million, cost.price_as_of, cost.source, cost.warning) == (4.0, "2026-11-24", "invoice", "")


def test_count_local_target_costs_nothing(tmp_path: Path) -> None:
    """Target local, and the count says that it is not the base's own tokenizer."""
    report = count(validate(write(tmp_path / "a.jsonl", [*chats()]), target="local"), model="smollm2-135m-instruct")
    assert report.cost is not None and report.tokens is not None
    assert (report.cost.expected, report.cost.source, report.cost.warning) == (0.0, "your own machine", "")
    assert not report.tokens.exact and "its own tokenizer" in report.tokens.note
    assert "estimated with o200k_base" in report.tokens.note
    assert "the limit per row and --show-mask use the base model's own tokenizer" in "\n".join(token_lines(report))


def test_count_reinforcement_has_no_token_price(tmp_path: Path) -> None:
    """It is billed by the hour."""
    report = count(
        validate(write(tmp_path / "a.jsonl", [graded(i) for i in range(12)]), target="azure"), model="o4-mini"
    )
    assert report.cost is not None and report.cost.expected is None and "by the hour" in report.cost.warning


def test_count_reinforcement_is_free_on_the_own_machine(tmp_path: Path) -> None:
    """As any training there; a limit can be checked."""
    path = write(tmp_path / "a.jsonl", [graded(i) for i in range(12)])
    report = validate(path, target="local", method="reinforcement")
    counted = count(report, model="smollm2-135m-instruct", max_cost=0.0)
    assert counted.cost is not None
    assert (counted.cost.expected, counted.cost.high, counted.cost.warning) == (0.0, 0.0, "")
    assert "FT707" not in {finding.code for finding in counted.findings}


@pytest.mark.parametrize("price", ["five", -1, {"training": True}, {"training": 1, "as_of": "soon"}])
def test_price_table_rejects_invalid_price(price: object) -> None:
    """With an example of a right one."""
    with pytest.raises(ConfigError):
        PriceTable.load({"gpt-4.1": price})


def test_count_rejects_epochs_out_of_range(tmp_path: Path) -> None:
    """1 to 50."""
    report = validate(write(tmp_path / "a.jsonl", [*chats()]))
    with pytest.raises(UsageError):
        count(report, model="gpt-4.1", epochs=51)


def test_cost_by_model_and_page_do_not_read_the_file_again(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [*chats()])
    report = count(validate(path), model="gpt-4.1-mini-2025-04-14", epochs=2, today=TODAY)
    path.unlink()
    costs = cost_by_model(report, epochs=2, today=TODAY)
    assert report.histograms is not None and sum(b.count for b in report.histograms.tokens) == report.dataset.examples
    assert report.cost in costs and list(costs) == sorted(costs, key=lambda cost: (cost.expected, cost.model))
    assert "gpt-4.1-mini-2025-04-14" in html(report, costs)
