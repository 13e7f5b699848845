"""An inventory as text for a terminal, as CSV, and as the events of a calendar."""

from __future__ import annotations

import csv
import datetime as dt
import io
from collections.abc import Iterable, Iterator
from itertools import groupby

from ftpipe.formatting import (
    Styler,
    count,
    fit_table,
    format_money,
    format_table,
    format_time,
    plural,
    sanitize_line,
    table_width,
    unstyled,
)
from ftpipe.providers.deadlines import new_jobs_text, shutdown_text
from ftpipe.records.inventory import Inventory, InventoryJob, InventoryModel, RetrainingCost
from ftpipe.reports.calendar import CalendarEvent
from ftpipe.reports.evaluation.csv import escape_csv_cell

UNKNOWN = "–"
SAVE = "save their answers (`ftpipe models record`) and files (`ftpipe models backup`)"
DATA_WORDS = {"available": "yes", "missing": "missing", "unknown": UNKNOWN}
CSV_COLUMNS = (
    *("kind", "id", "provider", "base", "state", "created", "job", "shutdown_date", "days_left"),
    *("training_file", "training_file_state", "trained_tokens", "tokens_are_estimated"),
    *("retrain_at", "retrain_base", "retrain_cost", "currency", "in_registry"),
)


def inventory_lines(inventory: Inventory, style: Styler = unstyled, *, width: int | None = None) -> Iterator[str]:
    """Models by the day on which they end, then jobs without a model, then how many files there are."""
    yield style("bold", f"{sanitize_line(inventory.title, 40)} on {inventory.today}")
    table = format_table(_model_cells(model) for model in inventory.models)
    if inventory.models and (width is None or table_width(table) + 2 <= width):
        yield from _model_table(inventory.models, style)
    else:
        yield from _model_list(inventory, style)
    made = {model.job.id for model in inventory.models if model.job}
    if others := [job for job in inventory.jobs if job.id not in made]:
        yield ""
        yield style("bold", f"jobs without a model: {len(others)}")
        yield from fit_table(_job_cells(others), width=width, drop=(3, 4, 2))
    yield ""
    yield _totals(inventory)


def _model_table(models: Iterable[InventoryModel], style: Styler) -> Iterator[str]:
    header = ("model", "created", "shut down", "days", "checkpoints", "tokens", "data", "retrain")
    first, *rest = format_table([header, *map(_model_cells, models)], right=(3, 4, 5))
    yield style("bold", first)
    yield from rest


def _model_cells(model: InventoryModel) -> tuple[str, ...]:
    days = str(model.days_left) if model.days_left is not None else UNKNOWN
    return (
        sanitize_line(model.id, 120),
        format_time(model.created_at)[:10],
        model.shutdown_date or UNKNOWN,
        days if model.state == "available" else "gone" if model.state == "shut down" else "missing",
        str(len(model.checkpoints)) if model.checkpoints else "",
        tokens_text(model),
        DATA_WORDS[model.training_file_state],
        retraining_text(model),
    )


def _model_list(inventory: Inventory, style: Styler) -> Iterator[str]:
    """Models below their base, each in two lines that fit into 80 columns."""
    today = dt.date.fromisoformat(inventory.today)
    for (state, base, day), models in groupby(
        inventory.models, key=lambda one: (one.state, one.base, one.shutdown_date)
    ):
        when = shutdown_text(day, today) if day else "no shutdown date is known"
        if state == "missing":
            when = "named by jobs, but not listed: deleted, or of another project"
        yield ""
        yield f"{style('bold', sanitize_line(base, 60))}  {style('dim' if state != 'available' else 'warning', when)}"
        for model in models:
            parts = [
                format_time(model.created_at)[:10],
                plural(len(model.checkpoints), "checkpoint") if model.checkpoints else "",
                f"{tokens} tokens" if (tokens := tokens_text(model)) != UNKNOWN else "",
                f"data {DATA_WORDS[model.training_file_state]}" if model.job else "job not visible",
                f"retrain {retraining_text(model)}" if model.retraining else "",
            ]
            yield f"  {sanitize_line(model.id, 120)}"
            yield f"    {' · '.join(part for part in parts if part)}"


def _job_cells(jobs: Iterable[InventoryJob]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [("job", "status", "created", "base", "data")]
    rows += [
        (
            sanitize_line(job.id, 60),
            sanitize_line(job.status, 30),
            format_time(job.created_at)[:10],
            sanitize_line(job.base, 60),
            DATA_WORDS[job.training_file_state],
        )
        for job in jobs
    ]
    return rows


def _totals(inventory: Inventory) -> str:
    named = sum(bool(file.jobs) for file in inventory.files)
    missing = len({name for job in inventory.jobs for name in job.missing_files})
    points = sum(len(model.checkpoints) for model in inventory.models)
    parts = [
        f"{plural(len(inventory.models), 'model')} with {plural(points, 'checkpoint')}",
        plural(len(inventory.jobs), "job"),
        f"{plural(len(inventory.files), 'file')}, {named} of them of jobs",
    ]
    return " · ".join(parts) + (f" · {plural(missing, 'file')} of jobs missing" if missing else "")


def tokens_text(model: InventoryModel) -> str:
    """Trained tokens, with ``~`` if they are estimated."""
    if model.trained_tokens is None:
        return UNKNOWN
    return f"{'~' if model.tokens_are_estimated else ''}{count(model.trained_tokens)}"


def retraining_text(model: InventoryModel) -> str:
    """The cheapest hosted way to train it again: ``0.01 USD nebius``."""
    cost = cheapest_host(model)
    if cost is None:
        return "free here" if model.retraining else UNKNOWN
    about = "~" if model.tokens_are_estimated else ""
    return f"{about}{format_money(cost.cost, cost.currency)} {sanitize_line(cost.provider, 20)}"


def cheapest_host(model: InventoryModel) -> RetrainingCost | None:
    """The cheapest host that costs money; the user's own machine is free and always possible."""
    return next((cost for cost in model.retraining if cost.cost > 0), None)


def notes(inventory: Inventory) -> Iterator[str]:
    """What can still be done on the day of the inventory, in sentences."""
    today = dt.date.fromisoformat(inventory.today)
    if text := new_jobs_text(inventory.last_day_to_create, today):
        elsewhere = "" if inventory.accepts_jobs else ": train again at another host, or here with --provider local"
        yield f"{inventory.title} {text}{elsewhere}"
    ending = [one for one in inventory.models if one.state == "available" and one.days_left is not None]
    for day, models in groupby(ending, key=lambda one: one.shutdown_date):
        number = len(list(models))
        names = f"{plural(number, 'model')} {'stops' if number == 1 else 'stop'} answering"
        yield f"{names} {_on_day(day or '', today)}: {SAVE} before that"
    gone = [one for one in inventory.models if one.state == "shut down"]
    if gone:
        files = sum(one.training_file_state == "available" for one in gone)
        were = "was shut down and does not answer" if len(gone) == 1 else "were shut down and do not answer"
        there = f"{plural(len(gone), 'model')} {were}; training files that are still there: {files} of {len(gone)}"
        yield there + (", which `ftpipe models backup` saves" if files else "")


def _on_day(day: str, today: dt.date) -> str:
    left = (dt.date.fromisoformat(day) - today).days
    if left == 0:
        return "today"
    return f"tomorrow ({day})" if left == 1 else f"on {day}, in {left} days"


def inventory_csv(inventory: Inventory) -> str:
    """A row for each model, checkpoint, job without a model, and file."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\r\n")
    writer.writerow(CSV_COLUMNS)
    for row in _csv_rows(inventory):
        writer.writerow([_csv_cell(row.get(name)) for name in CSV_COLUMNS])
    return stream.getvalue()


def _csv_cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return escape_csv_cell(value) if isinstance(value, str) else str(value)


def _csv_rows(inventory: Inventory) -> Iterator[dict[str, object]]:
    made = set()
    for model in inventory.models:
        cost = cheapest_host(model)
        row: dict[str, object] = {
            "provider": model.provider,
            "base": model.base,
            "state": model.state,
            "created": _csv_time(model.created_at),
            "job": model.job.id if model.job else None,
            "shutdown_date": model.shutdown_date,
            "days_left": model.days_left,
            "in_registry": model.is_registered,
        }
        data = {} if model.job is None else _csv_data(model.job)
        price = {
            "trained_tokens": model.trained_tokens,
            "tokens_are_estimated": model.tokens_are_estimated,
            "retrain_at": cost.provider if cost else None,
            "retrain_base": cost.base if cost else None,
            "retrain_cost": cost.cost if cost else None,
            "currency": cost.currency if cost else None,
        }
        yield {"kind": "model", "id": model.id, **row, **data, **price}
        yield from ({"kind": "checkpoint", "id": name, **row} for name in model.checkpoints)
        made.add(row["job"])
    for job in inventory.jobs:
        if job.id not in made:
            own = {"kind": "job", "id": job.id, "base": job.base, "state": job.status, "job": job.id}
            own |= {"provider": inventory.provider, "created": _csv_time(job.created_at) or ""}
            yield {**own, **_csv_data(job), "trained_tokens": job.trained_tokens, "in_registry": job.is_registered}
    for file in inventory.files:
        created = _csv_time(file.created_at)
        yield {"kind": "file", "id": file.id, "provider": inventory.provider, "state": file.purpose, "created": created}


def _csv_data(job: InventoryJob) -> dict[str, object]:
    return {"training_file": job.training_file, "training_file_state": job.training_file_state}


def _csv_time(seconds: int | None) -> str | None:
    return None if seconds is None else format_time(seconds, "%Y-%m-%dT%H:%M:%SZ")


def calendar_events(inventory: Inventory) -> Iterator[CalendarEvent]:
    """The last day for new jobs, and each day on which models are shut down, from the day of the inventory on."""
    last, title = inventory.last_day_to_create, inventory.title
    if last and inventory.accepts_jobs:
        yield CalendarEvent(
            key=f"{inventory.endpoint} last day",
            day=dt.date.fromisoformat(last),
            summary=f"{title}: last day for new fine-tuning jobs",
            description=f"{title} accepts no new fine-tuning jobs after {last}.",
        )
    answering = [one for one in inventory.models if one.state == "available"]
    ahead = [one for one in answering if one.days_left is not None and one.days_left >= 0]
    days: dict[str, list[str]] = {}
    for model in ahead:
        days.setdefault(model.shutdown_date or "", []).append(model.id)
    for day, names in sorted(days.items()):
        yield CalendarEvent(
            key=f"{inventory.endpoint} shutdown {day}",
            day=dt.date.fromisoformat(day),
            summary=f"{title}: {plural(len(names), 'tuned model')} shut down",
            description="These models stop answering:\n" + "\n".join(names),
        )
