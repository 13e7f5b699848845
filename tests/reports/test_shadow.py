"""Comparisons of shadow traffic as text."""

from __future__ import annotations

from typing import Any

import pytest

from ftpipe.formatting import columns
from ftpipe.records.shadow import Estimate, Percentiles, ShadowStatus
from ftpipe.reports.shadow import shadow_lines, verdict_text

DAY = 86_400


def status(**changes: Any) -> ShadowStatus:
    """A comparison after 812 answers."""
    fields: dict[str, Any] = {
        "owner": "local",
        "old": "ft:gpt-4o-mini-2024-07-18:acme::abc",
        "new": "smollm2-135m-instruct",
        "share": 0.1,
        "started_at": 1_795_000_000,
        "updated_at": 1_795_100_000,
        "chats": 8120,
        "mirrored": 812,
        "failed": 2,
        "interrupted": 0,
        "dropped": 3,
        "unpaid": 0,
        "different_chats": 812,
        "errors": {"model_unavailable": 2},
        "measure": "disagreement",
        "margin": 0.05,
        "verdict": "undecided",
        "more_requests": 420,
        "agreement": Estimate(low=0.901, value=0.934, high=0.959, outcomes=812),
        "repeat_agreement": None,
        "difference": None,
        "old_score": None,
        "new_score": None,
        "old_latency": Percentiles(p50=0.42, p95=1.1),
        "new_latency": Percentiles(p50=0.31, p95=0.9),
        "latency_ratio": Estimate(low=0.7, value=0.74, high=0.78, outcomes=810),
        "old_tokens": 31.0,
        "new_tokens": 29.4,
        "new_cost": 0.0,
        "old_cost": None,
    }
    return ShadowStatus(**(fields | changes))


def text(*, now: float = 1_795_000_000 + 3 * DAY, **changes: Any) -> str:
    return " ".join(" ".join(line.split()) for line in shadow_lines(status(**changes), now=now))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({}, "keep watching: about 420 more mirrored chats expected"),
        ({"more_requests": None}, "keep watching"),
        ({"verdict": "no_difference"}, "no difference above 5 points: fewer than 5 % of the answers differ"),
        ({"verdict": "no_difference", "measure": "score"}, "no difference above 5 points"),
        ({"verdict": "higher"}, "differs: more than 5 % of the answers differ"),
        ({"verdict": "lower", "measure": "score"}, "differs: the new model scores lower"),
        (
            {"verdict": "higher", "measure": "extra_disagreement"},
            "differs: the new model's answers differ more often than the old one's second answers",
        ),
        ({"verdict": "no_difference", "measure": "score", "margin": 0.125}, "no difference above 12.5 points"),
    ],
)
def test_verdict_is_a_sentence(changes: dict[str, Any], sentence: str) -> None:
    assert verdict_text(status(**changes)) == sentence


def test_lines_say_what_was_compared() -> None:
    shown = text()
    assert "ft:gpt-4o-mini-2024-07-18:acme::abc → smollm2-135m-instruct" in shown
    assert "93.4 % (90.1 to 95.9 %) of 812 answers" in shown
    assert "new takes 0.74 times as long (0.70 to 0.78)" in shown
    assert "8,120 chats, 812 mirrored (share 10 %), 2 without an answer, 3 dropped" in shown
    assert "model_unavailable (2)" in shown
    assert "for 3 d; shadow for two to four weeks before you delete anything, until 2026-12-02 at least" in shown
    assert "owner" not in shown
    assert "cost" not in shown


def test_lines_after_two_weeks() -> None:
    assert "two weeks are over" in text(now=1_795_000_000 + 15 * DAY)


def test_lines_with_everything() -> None:
    difference = Estimate(low=-0.05, value=-0.02, high=0.01, outcomes=812)
    shown = text(
        owner="anna",
        measure="score",
        difference=difference,
        old_score=0.81,
        new_score=0.79,
        repeat_agreement=Estimate(low=0.93, value=0.95, high=0.97, outcomes=812),
        different_chats=700,
        interrupted=1,
        unpaid=4,
        new_cost=0.31,
        old_cost=1.5,
    )
    assert "owner anna" in shown
    assert "old 0.810, new 0.790: -0.020 (-0.050 to +0.010)" in shown
    assert "the old model agrees with itself in 95.0 % (93.0 to 97.0 %)" in shown
    assert "812 answers to 700 different chats" in shown
    assert "1 unfinished, 4 not sent (see --shadow-price, --shadow-max-cost)" in shown
    assert "cost old 1.50 USD at OpenAI's price, new 0.31 USD" in shown


def test_lines_without_answers() -> None:
    nothing = Estimate(low=0.0, value=None, high=1.0, outcomes=0)
    unknown = Percentiles(p50=None, p95=None)
    shown = text(
        agreement=nothing, latency_ratio=nothing, old_latency=unknown, new_latency=unknown, mirrored=0, failed=0,
        errors={}, old_cost=0.0, old_tokens=None, new_tokens=None, more_requests=None, different_chats=0,
    )  # fmt: skip
    assert "no answers yet" in shown
    assert "latency" not in shown
    assert "cost" not in shown


def test_names_and_codes_cannot_control_the_terminal() -> None:
    """They come from requests and from other hosts."""
    evil = "\x1b[2Jx\r\u202e"
    for line in shadow_lines(status(old=evil, new=evil, owner=evil, errors={evil: 1}), now=0):
        assert line.isprintable()


def test_lines_fit_the_terminal() -> None:
    assert all(columns(line) <= 80 for line in shadow_lines(status(), now=1_795_000_000 + DAY, width=80))
