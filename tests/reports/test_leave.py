"""The page about leaving a provider shows dates, costs and evidence, and no data is active in it."""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import re
from pathlib import Path
from typing import Any

import pytest

from ftpipe.records.evaluation import GateResult
from ftpipe.records.leave import LeaveModel, LeaveStage, LeaveState
from ftpipe.records.migration import GateComparison
from ftpipe.reports.leave import headline, leave_html
from tests.reports.test_evaluation import ALLOWED, Tags
from tests.reports.xss_payloads import PAYLOADS

TODAY = dt.date(2026, 12, 20)


def comparison(text: str = "text", *, passed: bool = True) -> GateComparison:
    """A comparison of 48 prompts."""
    return GateComparison(
        kind="expected answers",
        evaluation_id=text,
        items=48,
        metric=text,
        old_score=0.92,
        new_score=0.90,
        difference=-0.02,
        low=-0.04,
        high=0.01,
        confidence=0.95,
        gate=GateResult(expression=text, passed=passed, explanation=text),
        note=text,
    )


def state(text: str = "text", **changes: Any) -> LeaveState:
    """One model in each stage, with the text in every field that a stranger can write."""
    models = [
        LeaveModel(
            model=f"{text}{stage.value}",
            base=text,
            stage=stage,
            problem=text if stage is LeaveStage.BACKED_UP else "",
            hint=text,
            shutdown_date="2027-01-14",
            saved_files=3,
            missing=(text,),
            data=Path("train.jsonl"),
            examples=145,
            prompts=48,
            recording_reason=text,
            new_base=text,
            reason=text,
            source=text,
            changes=(text,),
            recording_cost=0.5,
            training_cost=1.0,
            comparison_cost=0.25,
            migration_id=text if stage is LeaveStage.MOVED else None,
            new_model=text,
            comparisons=(comparison(text, passed=stage is LeaveStage.MOVED),),
            aliases=(text,) if stage is LeaveStage.MOVED else (),
        )
        for stage in LeaveStage
    ]
    fields: dict[str, Any] = {
        "created_at": 1,
        "updated_at": 1_796_000_000,
        "provider": "openai",
        "title": text,
        "endpoint": text,
        "last_day_to_create": "2027-01-06",
        "to": text,
        "backup": Path("backup"),
        "max_cost": 20.0,
        "models": tuple(models),
        "staying": (text,),
    }
    return LeaveState.model_validate({**fields, **changes})


@pytest.mark.parametrize("payload", PAYLOADS)
def test_leave_html_escapes_data(payload: str) -> None:
    """Only the template's tags, no handler or link, and only its own style sheet is allowed."""
    html = leave_html(state(payload), today=TODAY)
    tags = Tags()
    tags.feed(html)
    assert {tag for tag, _ in tags.tags} <= ALLOWED | {"dl", "dt", "dd", "ul", "li"}
    names = {name for _, attributes in tags.tags for name in attributes}
    assert not [name for name in names if name in ("href", "src", "style") or name.startswith("on")]
    [style] = re.findall(r"<style>(.*?)</style>", html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"default-src 'none'; style-src 'sha256-{digest}'" in html
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", html)


def test_leave_html_shows_dates_costs_and_gates() -> None:
    html = leave_html(state(), today=TODAY)
    assert "in 17 days" in html
    assert "in 25 days" in html
    assert "92.0 %" in html
    assert "-2.0" in html
    assert "ftpipe models migrate --rollback textmoved" in html
    assert "limit 20.00 USD" in html
    assert html.count("✗") == len(LeaveStage) - 1


@pytest.mark.parametrize(("day", "shown"), [("2027-01-14", "today"), ("2027-01-15", "1 day ago")])
def test_leave_html_counts_days_after_the_end(day: str, shown: str) -> None:
    assert shown in leave_html(state(), today=dt.date.fromisoformat(day))


def test_headline_counts_models() -> None:
    text = headline(state())
    assert text.startswith("1 of 6 models can leave text")
    assert "1 has a successor that is not shown to be good enough" in text
    assert "1 needs a decision" in text
    assert "3 are not finished" in text


def test_highest_cost_leaves_out_what_is_done_or_stopped() -> None:
    assert state().highest_cost == pytest.approx(3 * 1.75)
    unknown = state().models[0].model_copy(update={"training_cost": None})
    assert state(models=(unknown,)).highest_cost is None
