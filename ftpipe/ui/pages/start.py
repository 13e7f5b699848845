"""The start page: choose data, base model and hyperparameters, see the plan and its price, and start the run once."""

from __future__ import annotations

import json
import re
import secrets
import threading
from collections import OrderedDict
from typing import Any

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from ftpipe.config import FLAGS
from ftpipe.errors import FtpipeError, UsageError
from ftpipe.formatting import format_bytes
from ftpipe.modeling.memory import SAMPLE_ROWS, SAMPLE_TOKENS
from ftpipe.records import Method, Run
from ftpipe.records.job import EXTENDED_HYPERPARAMETERS, METHODS_OF
from ftpipe.reports.runs import cost_text, hyperparameter_text, stand_in_text
from ftpipe.reports.trainable_bases import availability_text, memory_text, parameters_text, price_text
from ftpipe.reports.training_estimate import memory_text as estimate_memory_text
from ftpipe.reports.training_estimate import time_text
from ftpipe.ui import run_view
from ftpipe.ui.datasets.checks import TaskState
from ftpipe.ui.project import Project
from ftpipe.ui.rendering import Page, form_of, form_text, project_of, render, url_of
from ftpipe.ui.training_form import HYPERPARAMETERS, LABELS, TrainingForm, TrainingPlan

SMALL_SECONDS = 0.6
MAX_STARTS = 1000
"""Starts that are remembered, so that a form that is sent again starts nothing."""
MAX_KEY_CHARACTERS = 64
CHANGED = "changed"
"""Parameter of the page that comes back if a field was changed just before the button was pressed."""
OPTION_LABELS = {
    **{FLAGS[key]: LABELS[name] for name, key in HYPERPARAMETERS.items()},
    "--seed": "Seed",
    "--suffix": "Suffix",
    "--max-cost": "Limit of the cost",
}
_MEMORY_ROWS = f" for {SAMPLE_ROWS} rows of {SAMPLE_TOKENS:,} tokens"
"""What the memory in the list of base models is about; the plan has that of the data."""
_OPTION = re.compile(r"--[a-z][a-z-]*")
DETAILS = ("method", "grader", "suffix", "seed", "max_cost", "evaluate")
"""Fields that are folded away, as the hyperparameters besides the epochs are."""


class StartedCommands:
    """Which form has started which command: a form that is sent twice, or clicked twice, starts one."""

    def __init__(self) -> None:
        self._commands: OrderedDict[tuple[str, str], str] = OrderedDict()
        self._lock = threading.Lock()

    def start_once(self, project: Project, key: str, arguments: list[str], title: str) -> str:
        """The command of a form; it is started if this is the first time that the form is sent."""
        with self._lock:
            known = self._commands.get((project.owner, key))
            if known is None:
                known = self._commands[project.owner, key] = project.commands.start(arguments, title=title)
                if len(self._commands) > MAX_STARTS:
                    self._commands.popitem(last=False)
            return known

    def find(self, project: Project, key: str) -> str | None:
        """The command that a form has started."""
        return self._commands.get((project.owner, key))


_started = StartedCommands()


def _show(request: Request) -> Response:
    return _render(request, TrainingForm.of(request.query_params))


def _render(request: Request, form: TrainingForm, *, problem: FtpipeError | None = None, status: int = 200) -> Response:
    project = project_of(request)
    files = project.datasets.files.all()
    plan, error = _plan_of(project, form)
    error = problem or error
    planned = {"provider": plan.profile.name, **form.values}
    shown = {**planned, "price": plan.price, "start_key": secrets.token_urlsafe(16)}
    values: dict[str, Any] = {
        "form": form,
        "planned": json.dumps(planned),
        "files": files,
        "graders": project.graders.all() if _is_reinforcement(plan) or form["grader"] else [],
        "is_reinforcement": _is_reinforcement(plan),
        "profiles": project.datasets.profiles,
        "plan": plan,
        "is_changed": CHANGED in request.query_params,
        "error": error,
        "labels": LABELS,
        "with_labels": _with_labels,
        "run_name": run_view.name_of,
        "run_status": run_view.status_of,
        "fields": _fields(plan, form),
        "base_labels": _base_labels(plan),
        "default_validation": project.settings.config.validation,
        "is_detailed": bool(form.values.keys() & {*DETAILS, *HYPERPARAMETERS} - {"epochs"}),
        "start_url": url_of(request, "/start", **shown),
        **_plan_values(project, plan),
    }
    return render(request, "start/start.html.j2", http_status=status, **values)


def _with_labels(text: str) -> str:
    """A message with the names of the form's fields in place of the options of the command line."""
    return _OPTION.sub(lambda option: OPTION_LABELS.get(option[0], option[0]), text)


def _is_reinforcement(plan: TrainingPlan) -> bool:
    return _method(plan) is Method.REINFORCEMENT


def _method(plan: TrainingPlan) -> Method | None:
    """The method that was chosen, else that of the data."""
    return plan.settings.config.method or (plan.plan.spec.method if plan.plan else None)


def _plan_of(project: Project, form: TrainingForm) -> tuple[TrainingPlan, FtpipeError | None]:
    """The plan of a form; if a field is wrong, that of its provider and method alone, and what is wrong.

    The page shows all fields as they were typed in any case: without the provider that was chosen, a browser would
    choose the first one of the list, which may cost money.
    """
    try:
        plan = TrainingPlan(project, form, wait_seconds=SMALL_SECONDS)
        plan.blocker  # noqa: B018  # it is computed here, so that its errors are shown
    except FtpipeError as exc:
        choices = {"provider": list(project.datasets.profiles), "method": [method.value for method in Method]}
        known = {name: form[name] for name, values in choices.items() if form[name] in values}
        return TrainingPlan(project, TrainingForm(known)), exc
    return plan, None


def _fields(plan: TrainingPlan, form: TrainingForm) -> list[str]:
    """The hyperparameters that the method has and the provider takes, besides the epochs, and those that were typed."""
    method = _method(plan)
    extended = plan.profile.extended_hyperparameters
    names = []
    for name, key in HYPERPARAMETERS.items():
        leaf = key.removeprefix("hyperparameters.")
        is_taken = leaf in extended or leaf not in (*EXTENDED_HYPERPARAMETERS, "n_epochs")
        if (is_taken and (leaf not in METHODS_OF or method in METHODS_OF[leaf])) or (form[name] and name != "epochs"):
            names.append(name)
    return names


def _base_labels(plan: TrainingPlan) -> dict[str, str]:
    """What the list of base models says of each: size, memory, price."""
    labels = {}
    for base in plan.bases:
        parts = [base.name]
        if base.provider == "local":
            parts += [
                parameters_text(base.parameters),
                f"needs {memory_text(base)}{_MEMORY_ROWS}",
                availability_text(base),
            ]
            download = base.download_bytes if base.availability != "installed" else None
            parts += [f"download of {format_bytes(download)}"] if download else []
        else:
            parts += [f"{price_text(base)} per 1M tokens", *(["default"] if base.is_default else [])]
            parts += [f"until {base.last_day}"] if base.last_day else []
        labels[base.name] = " · ".join(part for part in parts if part)
    return labels


def _plan_values(project: Project, plan: TrainingPlan) -> dict[str, Any]:
    made = plan.plan
    if made is None:
        return {"made": None, "state": plan.check if isinstance(plan.check, TaskState) else None}
    return {
        "made": made,
        "state": None,
        "cost": cost_text(made.cost) if plan.profile.paid or made.cost is None else "free",
        "hyperparameters": _resolved_text(plan) or hyperparameter_text(made.spec.hyperparameters),
        "stand_in": stand_in_text(made.spec),
        "command": project.commands.line(plan.arguments()),
        "memory": estimate_memory_text(plan.estimate) if plan.estimate else "",
        "time": time_text(plan.estimate) if plan.estimate else "",
    }


def _resolved_text(plan: TrainingPlan) -> str:
    """The hyperparameters with the values that ``auto`` stands for; empty if the provider chooses them."""
    if plan.profile.target != "local":
        return ""
    given = {name for name, key in HYPERPARAMETERS.items() if key in plan.settings.origins}
    return ", ".join(
        f"{LABELS[name].lower().replace('lora', 'LoRA')} {value}{'' if name in given else ' (auto)'}"
        for name, value in plan.resolved.items()
    )


def _start(request: Request) -> Response:
    """Start the run, unless this form has started it already.

    The form holds the fields as they are now, and the query the plan beside the button. If they differ, as they do when
    a field was changed just before the click, the plan of the fields is shown, and nothing is started.
    """
    project, shown = project_of(request), request.query_params
    key = shown.get("start_key", "").strip()[:MAX_KEY_CHARACTERS]
    if not key:
        raise UsageError("the form is not complete", "load the page again")
    known = _started.find(project, key)
    if known is not None:
        return RedirectResponse(url_of(request, f"/start/{known}"), 303)
    form = TrainingForm.of(form_of(request))
    if form.values != TrainingForm.of(shown).values:
        return RedirectResponse(url_of(request, "/start", **form.values, **{CHANGED: 1}), 303)
    plan = TrainingPlan(project, form, wait_seconds=SMALL_SECONDS)
    try:
        if plan.plan is None:
            raise UsageError("the data are still being checked", "start when the plan is complete")
        if plan.blocker is not None:
            raise plan.blocker
        if plan.price != shown.get("price", ""):
            raise UsageError(
                "the plan has changed since the page was loaded, and nothing was started",
                "read the plan again, then start it",
            )
        if plan.price == "unknown" and form_text(request, "accept") != "yes":
            raise UsageError("the price is not known, and you have not accepted that", "tick the box to accept it")
    except FtpipeError as exc:
        return _render(request, form, problem=exc, status=409)
    arguments = plan.arguments()
    name = plan.data.name if plan.data else ""
    command = _started.start_once(
        project, key, [arguments[0], "--yes", *arguments[1:]], f"Train {plan.model} on {name}"
    )
    existing = plan.existing_run.id if plan.existing_run else None
    sha256 = plan.plan.report.dataset.sha256
    return RedirectResponse(url_of(request, f"/start/{command}", data=sha256, existing=existing), 303)


def _started_run(request: Request) -> Response:
    """What the command that was started is doing, and its run as soon as there is one."""
    project = project_of(request)
    command = project.commands.find(request.path_params["command_id"])
    if command is None:
        raise UsageError("this start is not known any more", "look for its run in the list of runs")
    document = command.document or {}
    run_values = document.get("run")
    run_id = run_values.get("id") if isinstance(run_values, dict) else None
    runs, existing = project.registry.runs, None
    run = runs.find(str(run_id)) if run_id else _newest_run(project, request, command.started_at)
    if existing_id := request.query_params.get("existing", ""):
        existing = runs.find(existing_id)
        run = run or existing
    return render(
        request,
        "start/started.html.j2",
        command=command,
        run=run,
        is_existing=existing is not None and run is not None and run.id == existing.id,
    )


def _newest_run(project: Project, request: Request, started_at: float) -> Run | None:
    """The newest run on the same data that was created since the command began."""
    sha256 = request.query_params.get("data", "")
    runs = project.registry.runs.recent(20)
    return next((run for run in runs if run.dataset_sha256 == sha256 and run.created_at >= int(started_at) - 1), None)


PAGE = Page(
    title="Train",
    path="/start",
    routes=(
        Route("/start", _show, methods=["GET"]),
        Route("/start", _start, methods=["POST"]),
        Route("/start/{command_id:str}", _started_run, methods=["GET"]),
    ),
)
