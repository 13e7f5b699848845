"""Base models of other hosts: what each can be trained on, with prices and sources."""

from __future__ import annotations

import datetime as dt

import pytest

from ftpipe.catalog.base_models import base_models, example_limit
from ftpipe.catalog.cost import epochs_range, estimate
from ftpipe.catalog.host_bases import find_host_base, host_bases, size_of
from ftpipe.catalog.training_prices import PriceTable
from ftpipe.dataset.rules.base import TARGETS
from ftpipe.providers.profiles import load_profiles
from ftpipe.records import Method, TokenStats

TODAY = dt.date(2026, 11, 28)
HOSTS = ("together", "fireworks", "nebius", "azure", "openai", "bedrock")


@pytest.mark.parametrize("target", HOSTS)
def test_host_bases_have_source_and_size(target: str) -> None:
    bases = host_bases(target)
    assert bases
    assert all(base.source and base.as_of.year >= 2026 and base.succeeds for base in bases)


@pytest.mark.parametrize("target", ["together", "fireworks", "azure", "openai"])
def test_every_size_has_a_successor_with_a_price(target: str) -> None:
    prices = PriceTable.load(target=target)
    for size in ("small", "medium", "large"):
        names = [base.name for base in host_bases(target) if size in base.succeeds]
        assert any(prices.row(name) is not None for name in names), size


def test_every_base_of_openai_has_a_size() -> None:
    """A model whose base has no size is compared with medium ones, and the plan says that this is a guess."""
    assert [base.name for base in base_models() if base.shutdown and size_of(base.name) is None] == []


def test_find_host_base_by_whole_name_or_last_part() -> None:
    whole = find_host_base("accounts/fireworks/models/qwen3-8b", "fireworks")
    assert whole is not None and whole == find_host_base("Qwen3-8B", "fireworks")
    assert find_host_base("qwen3-8b", "together") is None


def test_example_limit_of_hosts() -> None:
    assert example_limit("openai/gpt-oss-20b", "together") == 24_576
    assert example_limit("Qwen/Qwen3.8-27B", "together") is None
    assert example_limit("gpt-4.1-mini", "openai") == 65_536


def test_estimate_uses_the_price_of_the_method() -> None:
    """Preference training costs 2.5 times as much at Together."""
    row = PriceTable.load(target="together").row("openai/gpt-oss-20b")
    tokens = TokenStats(
        encoding="o200k_base", exact=False, total=10_000_000, trained=1, examples=1, mean=1, min=1, p50=1, p90=1, p95=1,
        p99=1, max=1, longest_line=1, billable=10_000_000,
    )  # fmt: skip
    costs = [
        estimate(tokens, method=method, model="m", span=epochs_range(1, 2), row=row, today=TODAY).expected
        for method in (Method.SUPERVISED, Method.DPO)
    ]
    assert costs == [pytest.approx(8.0), pytest.approx(20.0)]


def test_profiles_have_rules_for_their_targets() -> None:
    assert {profile.target for profile in load_profiles().values()} <= set(TARGETS)
