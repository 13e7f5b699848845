"""What the stored comparisons show."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ftpipe.catalog.inference_prices import answer_price
from ftpipe.errors import NotFoundError
from ftpipe.pipeline.shadow_status import shadow_statuses
from ftpipe.records.shadow import ShadowStatus
from ftpipe.server.storage import ShadowResultRow, open_store
from ftpipe.server.storage.shadow_results import ShadowCounts

TOKENS = {"prompt": 7, "completion": 3}


def row(number: int, *, agrees: bool | None = True, **changes: Any) -> dict[str, Any]:
    """The columns of a comparison."""
    columns = {
        "created_at": 1_000,
        "status": "sent" if agrees is None else "answered",
        "request_digest": f"request {number}",
        "old_digest": "a",
        "old_seconds": 1.0,
        "old_tokens": TOKENS,
        "new_digest": "a" if agrees else "b",
        "new_seconds": 2.0,
        "new_tokens": {"prompt": 8, "completion": 5},
        "agrees": agrees,
    }
    return columns | changes


def status_of(folder: Path, *rows: dict[str, Any], margin: float = 0.05, old: str = "old") -> ShadowStatus:
    """The status of one pair with these comparisons."""
    folder.mkdir(exist_ok=True)
    store = open_store(folder / "server.db")
    with store.write() as tx:
        pair_id = tx.shadow.add_counts("local", old, "new", 0.1, ShadowCounts(chats=len(rows), dropped=2, unpaid=1))
        for columns in rows:
            tx.shadow.add(ShadowResultRow(pair_id=pair_id, **columns))
    store.close()
    (status,) = shadow_statuses(folder, margin=margin)
    return status


def test_status_of_answers_that_agree(tmp_path: Path) -> None:
    status = status_of(tmp_path, *(row(number) for number in range(200)))
    assert (status.verdict, status.measure, status.more_requests) == ("no_difference", "disagreement", 0)
    assert (status.chats, status.mirrored, status.dropped, status.unpaid) == (200, 200, 2, 1)
    assert status.agreement.value == 1
    assert 0.95 < status.agreement.low < 1 == status.agreement.high
    assert status.latency_ratio.value == pytest.approx(2, rel=0.02)
    assert status.latency_ratio.low > 1
    assert (status.old_tokens, status.new_tokens) == (3, 5)
    assert (status.old_latency.p50, status.new_latency.p95) == (1, 2)


def test_status_of_few_answers_says_how_many_more(tmp_path: Path) -> None:
    status = status_of(tmp_path, *(row(number) for number in range(20)))
    assert status.verdict == "undecided"
    assert 100 < (status.more_requests or 0) < 200


def test_status_of_answers_that_differ(tmp_path: Path) -> None:
    status = status_of(tmp_path, *(row(number, agrees=number % 5 > 0) for number in range(300)))
    assert status.verdict == "higher"
    assert status_of(tmp_path / "wide", *(row(n, agrees=n % 5 > 0) for n in range(300)), margin=0.4).verdict == (
        "no_difference"
    )


def test_status_takes_disagreement_of_the_old_model_with_itself_into_account(tmp_path: Path) -> None:
    """Sampled answers differ by themselves; that is no difference between the models."""
    rows = [row(n, agrees=n % 5 > 0, repeat_agrees=n % 5 != 1, repeat_seconds=4.0) for n in range(2000)]
    status = status_of(tmp_path, *rows)
    assert (status.measure, status.verdict) == ("extra_disagreement", "no_difference")
    assert status.repeat_agreement is not None
    assert status.repeat_agreement.value == 0.8
    assert status.old_latency.p50 == 4
    assert status.latency_ratio.value == pytest.approx(0.5, rel=0.02)
    worse = status_of(tmp_path / "worse", *(row(n, agrees=n % 5 > 1, repeat_agrees=n % 5 > 0) for n in range(500)))
    assert (worse.measure, worse.verdict) == ("extra_disagreement", "higher")


def test_status_is_about_scores_if_there_are_any(tmp_path: Path) -> None:
    rows = [row(n, agrees=False, old_score=1.0, new_score=float(n % 4 > 0)) for n in range(300)]
    status = status_of(tmp_path, *rows)
    assert (status.measure, status.verdict) == ("score", "lower")
    assert (status.old_score, status.new_score) == (1, 0.75)
    assert status.difference is not None
    assert status.difference.low < -0.25 == status.difference.value
    assert status.difference.high < 0


def test_status_counts_failures_and_unfinished_chats(tmp_path: Path) -> None:
    """A failure is an answer that does not agree; a chat without an outcome says nothing but may have cost money."""
    failure = row(1, agrees=False, status="failed", error="timeout", new_seconds=None, new_digest=None)
    status = status_of(tmp_path, row(0), failure, row(2, agrees=None, new_cost=0.5), row(0))
    assert (status.mirrored, status.failed, status.interrupted, status.different_chats) == (3, 1, 1, 2)
    assert status.errors == {"timeout": 1}
    assert status.agreement.outcomes == 3
    assert status.new_cost == 0.5


def test_status_has_the_price_of_a_hosted_old_model(tmp_path: Path) -> None:
    """Of what its tokens cost at OpenAI; a model of one's own has no such price."""
    price = answer_price("openai", "gpt-4o-mini-2024-07-18", "tuned")
    assert price is not None
    status = status_of(tmp_path, row(0), row(1), old="ft:gpt-4o-mini-2024-07-18:acme::abc")
    assert status.old_cost == pytest.approx(2 * (7 * price.input + 3 * price.output) / 1e6)
    assert status_of(tmp_path / "own", row(0)).old_cost is None


def test_status_without_answers(tmp_path: Path) -> None:
    status = status_of(tmp_path)
    assert (status.verdict, status.more_requests, status.agreement.value) == ("undecided", None, None)
    assert status.latency_ratio.value is None


def test_status_without_a_server(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no server has used"):
        shadow_statuses(tmp_path)
    assert list(tmp_path.iterdir()) == []
