"""Stage 2 counts exactly and says what a job will cost, without guessing."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import pytest

from ftpipe.catalog.training_prices import PriceTable
from ftpipe.errors import ConfigError, UsageError
from ftpipe.reports.dataset_html import html
from ftpipe.stages.count import cost_by_model, count
from ftpipe.stages.validate import validate
from ftpipe.tokenization import open_tiktoken
from tests.dataset.samples import chats, graded, preference, write

TODAY = dt.date(2026, 11, 24)


def plain_count(record: dict[str, Any]) -> int:
    """The cookbook's formula in its plainest form."""
    encoding, total = open_tiktoken("o200k_base"), 3
    for message in record["messages"]:
        total += 3 + sum(len(encoding.encode(value, disallowed_special=())) for value in message.values())
    return total


def test_count_equals_cookbook_on_plain_chat(tmp_path: Path) -> None:
    """3 a message, every value, 3 a conversation; answers alone are trained."""
    rows = chats()
    report = count(validate(write(tmp_path / "a.jsonl", [*rows])), model="gpt-4.1-mini", today=TODAY)
    assert report.tokens is not None
    assert report.tokens.total == sum(plain_count(row) for row in rows)
    encoding = open_tiktoken("o200k_base")
    assert report.tokens.trained == sum(len(encoding.encode(row["messages"][1]["content"])) for row in rows)


def test_count_name_adds_one_token_and_weight_none(tmp_path: Path) -> None:
    """Weight 0 also takes the answer out of the trained tokens."""
    plain, named = chats(2)
    more = {**named, "messages": [{**named["messages"][0], "name": "ann"}, {**named["messages"][1], "weight": 0}]}
    one = validate(write(tmp_path / "a.jsonl", [plain, named])).tokens
    two = validate(write(tmp_path / "b.jsonl", [plain, more])).tokens
    assert one is not None and two is not None
    assert two.total - one.total == 1 + len(open_tiktoken("o200k_base").encode("ann"))
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
    of = open_tiktoken("o200k_base").encode
    expected = 7 + len(of("weather:Tells the weather")) + 3 + 3 + len(of("unit:string:Unit")) - 3 + 2 * (3 + 1) + 12
    assert two.total - one.total == expected


def test_count_preference_pair_trains_both_answers(tmp_path: Path) -> None:
    """The prompt is not."""
    tokens = validate(write(tmp_path / "a.jsonl", [preference(i) for i in range(12)])).tokens
    assert tokens is not None
    encoding = open_tiktoken("o200k_base")
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


def test_count_old_price_is_a_finding(tmp_path: Path) -> None:
    """The price rows are of mid 2025."""
    report = count(validate(write(tmp_path / "a.jsonl", [*chats()])), model="gpt-4.1-mini", today=TODAY)
    assert report.cost is not None and "days old" in report.cost.warning
    assert report.summary.counts["FT708"] == 1
    again = count(report, model="gpt-4.1-mini", today=TODAY)
    assert again.summary == report.summary


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


def test_count_reinforcement_has_no_token_price(tmp_path: Path) -> None:
    """It is billed by the hour."""
    report = count(
        validate(write(tmp_path / "a.jsonl", [graded(i) for i in range(12)]), target="azure"), model="o4-mini"
    )
    assert report.cost is not None and report.cost.expected is None and "by the hour" in report.cost.warning


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
