"""The runs: a list with search, one run live, its values, and pause, resume and cancel."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from ftpipe.errors import FtpipeError, UsageError
from ftpipe.pipeline.pipeline import Pipeline
from ftpipe.records import Event as JobEvent
from ftpipe.records import Run, RunState
from ftpipe.registry.run_search import RunFilter, search_runs
from ftpipe.reports.models import has_rewards, measures
from ftpipe.ui import run_view
from ftpipe.ui.curves import Curve
from ftpipe.ui.job_watcher import refuse_other_endpoint
from ftpipe.ui.project import Project
from ftpipe.ui.rendering import Page, form_text, page_count, page_number, project_of, render, render_text, url_of
from ftpipe.ui.streams import Event, Streams

RUNS_PER_PAGE = 50
EVENTS_SHOWN = 50
OPEN_RUNS = 50
"""Runs that are looked at for what a queued one waits for."""
VALUES_PER_PAGE = 100
MAX_COMPARED = 6
"""Runs in one chart."""
SCALE = "log"
"""Value of ``scale`` in the URL for a logarithmic axis of the losses."""
ACTIONS = frozenset({"pause", "resume", "cancel", "continue"})


@dataclass(frozen=True, slots=True)
class RunRow:
    """A row of the list."""

    run: Run
    status: run_view.Status
    summary: run_view.Summary | None
    """``None`` if it is fetched later."""
    is_open: bool


def list_runs(request: Request) -> Response:
    """The runs that match a search, a page of them."""
    project, query = project_of(request), request.query_params
    state = _choice(query.get("state", ""))
    page = page_number(request)
    found = search_runs(
        project.registry.engine,
        text=query.get("q", "").strip(),
        state=state,
        offset=(page - 1) * RUNS_PER_PAGE,
        limit=RUNS_PER_PAGE,
    )
    deadline = time.monotonic() + run_view.SUMMARY_BUDGET_SECONDS
    rows = [_row(project, run, deadline) for run in found.runs]
    is_part = "part" in query
    return render(
        request,
        "runs/table.html.j2" if is_part else "runs/list.html.j2",
        rows=rows,
        total=found.total,
        page=page,
        pages=page_count(found.total, RUNS_PER_PAGE),
        first=(page - 1) * RUNS_PER_PAGE,
        text=query.get("q", "").strip(),
        state=state,
        states=list(RunFilter),
        names=run_view,
        project=project,
        has_open=any(row.is_open for row in rows),
    )


def show_row(request: Request) -> Response:
    """One row of the list, with its curve."""
    project, run = project_of(request), _run(request)
    return render(request, "runs/row.html.j2", row=_row(project, run, None), names=run_view, project=project)


def compare_runs(request: Request) -> Response:
    """Lay the chosen runs over each other."""
    chosen = [name for value in request.query_params.getlist("compare") for name in value.split(",") if name]
    if not chosen:
        raise UsageError("no run was chosen", "tick two runs or more in the list")
    first, *others = dict.fromkeys(chosen)
    return RedirectResponse(url_of(request, f"/runs/{first}", compare=",".join(others[: MAX_COMPARED - 1])), 303)


def show_run(request: Request) -> Response:
    """One run, which is brought up to date while it is shown."""
    run = _run(request)
    return render(request, "runs/run.html.j2", **_run_values(request, run))


def stream_run(request: Request) -> Response:
    """What changes of a run: its state, figures and events as HTML, its curves as data."""
    project, run = project_of(request), _run(request)
    streams: Streams = request.app.state.streams
    changes = RunChanges(request, project, run.id, compare=_compared(request))
    return streams.response(request, changes.events, while_open=project.watcher.shown(run.id))


class RunChanges:
    """What has changed of a run since a page was told last.

    Args:
        request: The request of the stream.
        project: The project.
        run_id: The run.
        compare: Runs that it is compared with.
    """

    def __init__(self, request: Request, project: Project, run_id: str, *, compare: list[str]) -> None:
        self._request = request
        self._project = project
        self._run_id = run_id
        self._compare = compare
        self._html = ""
        self._positions: list[int] = []

    def events(self) -> Iterator[Event]:
        """The events since the last call."""
        run = self._project.registry.runs.find(self._run_id)
        if run is None:
            yield Event("", "done", is_last=True)
            return
        curves = _curves(self._project, [run, *_runs(self._project, self._compare)])
        positions = [curve.position for _, curve in curves]
        if positions != self._positions:
            self._positions = positions
            if any(curve.columns for _, curve in curves):  # a chart without values is not shown at all
                groups = run_view.groups_of(curve for _, curve in curves)
                yield Event.of_json("points", {group: run_view.chart_data(curves, group) for group in groups})
        html = render_text(self._request, "runs/live.html.j2", **_run_values(self._request, run))
        if html != self._html:
            self._html = html
            yield Event(html)
        if run.state in (RunState.REGISTERED, RunState.FAILED, RunState.DELETED):
            yield Event("ended", "done", is_last=True)


def points(request: Request) -> Response:
    """The curves of a chart, all of their steps or a part."""
    project, run, query = project_of(request), _run(request), request.query_params
    group = query.get("group", run_view.GROUPS[0])
    if group not in run_view.GROUPS:
        raise UsageError(f"there is no chart {group!r}")
    curves = _curves(project, [run, *_runs(project, _compared(request))])
    start, end = (page_number(request, name, minimum=0) if name in query else None for name in ("start", "end"))
    return JSONResponse(run_view.chart_data(curves, group, start=start, end=end))


def show_values(request: Request) -> Response:
    """Every value of every step, a page at a time."""
    project, run = project_of(request), _run(request)
    curve = _curve(project, run)
    page = page_number(request)
    return render(
        request,
        "runs/values.html.j2",
        run=run,
        name=run_view.name_of(run),
        metrics=list(curve.columns),
        rows=_value_rows(curve, range((page - 1) * VALUES_PER_PAGE, min(page * VALUES_PER_PAGE, len(curve.steps)))),
        total=len(curve.steps),
        page=page,
        pages=page_count(len(curve.steps), VALUES_PER_PAGE),
    )


def ask_action(request: Request) -> Response:
    """Ask before a job is changed, and say what that costs."""
    project, run, action = project_of(request), _run(request), _action(request)
    return render(
        request,
        "runs/confirm.html.j2",
        run=run,
        name=run_view.name_of(run),
        action=action,
        is_paid=_is_paid(project, run),
        provider=project.endpoints.title(run.spec.provider),
        curve=_curve(project, run),
    )


def do_action(request: Request) -> Response:
    """Pause, resume or cancel a job, or continue a run that was interrupted."""
    project, run, action = project_of(request), _run(request), _action(request)
    needs_answer = action == "cancel" or (action in ("resume", "continue") and _is_paid(project, run))
    if needs_answer and form_text(request, "confirmed") != "yes":
        return RedirectResponse(url_of(request, f"/runs/{run.id}/{action}"), 303)
    if action == "continue":
        project.commands.start(["resume", "--detach", run.id], title=f"Continue {run.id}")
    else:
        if run.job is None:
            raise UsageError(f"{run.id} has no job yet", "continue the run first")
        provider = project.endpoints.open(run.spec.provider)
        refuse_other_endpoint(run, provider)
        getattr(provider.jobs, action)(run.job.id)
        Pipeline(provider=provider, registry=project.registry).refresh(run)
    return RedirectResponse(url_of(request, f"/runs/{run.id}"), 303)


def _run_values(request: Request, run: Run) -> dict[str, Any]:
    """What the page of a run shows."""
    project = project_of(request)
    curve = _curve(project, run)
    before = page_number(request, "before", minimum=0) or None
    compared = _runs(project, _compared(request))
    events = _messages(project, run, EVENTS_SHOWN + 1, before)
    latest = events if before is None else _messages(project, run, 1)
    last_message = latest[0][1].message if latest else ""
    is_open, is_starting = run_view.is_open(run), _is_starting(project, run)
    error = project.watcher.error(run.id) if is_open else None
    groups = run_view.groups_of([curve, *(one for _, one in _curves(project, compared))])
    return {
        "run": run,
        "name": run_view.name_of(run),
        "project": project,
        "status": run_view.status_of(run, is_starting=is_starting),
        "is_starting": is_starting,
        "activity": _activity(project, run, curve, last_message),
        "is_pausing": run_view.is_pausing(run, last_message),
        "stages": run_view.stages_of(run),
        "summary": run_view.summarize(curve),
        "groups": groups,
        "has_values": bool(curve.columns) or bool(compared),
        # an open page shows the others as soon as there are values
        "shown_groups": [*groups, *(one for one in run_view.GROUPS if one not in groups)]
        if is_open or is_starting
        else groups,
        "sentences": {group: run_view.chart_sentence(curve, group) for group in run_view.GROUPS},
        "remaining": run_view.remaining_text(run, time.time()),
        "hyperparameters": run_view.hyperparameter_rows(run),
        "metrics": list(curve.columns),
        "rows": _value_rows(curve, range(max(0, len(curve.steps) - 10), len(curve.steps))),
        "steps": len(curve.steps),
        "events": events[:EVENTS_SHOWN],
        "has_more": len(events) > EVENTS_SHOWN,
        "compared": compared,
        "scale": SCALE if request.query_params.get("scale") == SCALE else "",
        "names": run_view,
        "has_rewards": has_rewards,
        "measures": measures,
        "is_open": is_open,
        "is_paid": _is_paid(project, run),
        "read_error": error,
        "commands": project.commands.recent(lambda words: run.id in words, limit=10),
        "evaluations": project.registry.evaluations.recent(run.model.id) if run.model else [],
    }


def _messages(project: Project, run: Run, limit: int, before: int | None = None) -> list[tuple[int, JobEvent]]:
    return project.registry.jobs.recent_events(run.job, limit=limit, before=before) if run.job else []


def _activity(project: Project, run: Run, curve: Curve, last_message: str) -> str:
    """What the run does or waits for, until it has a step, and when it pauses."""
    if curve.columns and not run_view.is_pausing(run, last_message):
        return ""
    return run_view.activity_of(run, last_message, project.registry.runs.open(OPEN_RUNS))


def _is_starting(project: Project, run: Run) -> bool:
    """Whether a command of these pages is about to create the run's job."""
    if run.job is not None or run.state not in (RunState.PREPARED, RunState.UPLOADED):
        return False
    data = project.folder / run.spec.data

    def is_wanted(words: Sequence[str]) -> bool:
        is_train = words[1:2] == ["train"] and any(project.folder / word == data for word in words[2:])
        return is_train or (words[1:2] == ["resume"] and run.id in words)

    return any(command.is_running for command in project.commands.recent(is_wanted, limit=10))


def _row(project: Project, run: Run, deadline: float | None) -> RunRow:
    summary = project.summaries.get(run.job, project.curves, deadline=deadline) if run.job else run_view.Summary()
    return RunRow(run, run_view.status_of(run), summary, run_view.is_open(run))


def _run(request: Request) -> Run:
    run = project_of(request).registry.runs.find(request.path_params["run"])
    if run is None:
        raise UsageError("there is no such run", "it may have been deleted; see the list of runs")
    return run


def _runs(project: Project, names: Iterable[str]) -> list[Run]:
    return [run for name in names if (run := project.registry.runs.find(name)) is not None]


def _curve(project: Project, run: Run) -> Curve:
    return project.curves.read(run.job) if run.job else Curve()


def _curves(project: Project, runs: Iterable[Run]) -> list[tuple[Run, Curve]]:
    return [(run, _curve(project, run)) for run in runs]


def _compared(request: Request) -> list[str]:
    names = request.query_params.get("compare", "").split(",")
    own = request.path_params["run"]
    return [name for name in dict.fromkeys(names) if name and name != own][: MAX_COMPARED - 1]


def _value_rows(curve: Curve, rows: range) -> list[tuple[int, list[float | None]]]:
    def value(number: float) -> float | None:
        return None if number != number else number

    return [(curve.steps[row], [value(column[row]) for column in curve.columns.values()]) for row in rows]


def _is_paid(project: Project, run: Run) -> bool:
    """Whether the run's provider costs money; true if the configuration does not know it."""
    try:
        return project.endpoints.profile(run.spec.provider).paid
    except FtpipeError:
        return True


def _action(request: Request) -> str:
    action: str = request.path_params["action"]
    if action not in ACTIONS:
        raise UsageError("there is no such action")
    return action


def _choice(text: str) -> RunFilter:
    return next((one for one in RunFilter if one.value == text), RunFilter.ALL)


PAGE = Page(
    "Runs",
    "/runs",
    (
        Route("/runs", list_runs, methods=["GET"]),
        Route("/runs/compare", compare_runs, methods=["GET"]),
        Route("/runs/{run}", show_run, methods=["GET"]),
        Route("/runs/{run}/row", show_row, methods=["GET"]),
        Route("/runs/{run}/stream", stream_run, methods=["GET"]),
        Route("/runs/{run}/points", points, methods=["GET"]),
        Route("/runs/{run}/values", show_values, methods=["GET"]),
        Route("/runs/{run}/{action}", ask_action, methods=["GET"]),
        Route("/runs/{run}/{action}", do_action, methods=["POST"]),
    ),
)
