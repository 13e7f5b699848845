"""The models: aliases first, what stops soon, where each comes from, and moving an alias, export and deletion."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from ftpipe.errors import UsageError
from ftpipe.pipeline.deletion import delete_model
from ftpipe.providers.deadlines import days_left
from ftpipe.records import Model
from ftpipe.records.evaluation import Comparison, Evaluation, Score
from ftpipe.registry.models import AliasMove
from ftpipe.reports.evaluation import wording
from ftpipe.reports.models import cost_of, final_loss_text, has_rewards, measures
from ftpipe.reports.runs import hyperparameter_text
from ftpipe.ui.project import LOCAL_PROVIDER, Project
from ftpipe.ui.rendering import Page, form_text, page_count, page_number, project_of, render, url_of

MODELS_PER_PAGE = 50
SOON_DAYS = 60
"""Models whose last day is nearer stand above all others."""
MAX_EVALUATIONS = 200
"""The latest evaluations that are looked at for scores."""
FORMATS = {"adapter": (), "merged": ("--merged",), "gguf": ("--gguf",)}
"""Forms of an export, and the options of the command."""


@dataclass(frozen=True, slots=True)
class AliasRow:
    """An alias, where it points, and where it pointed before."""

    alias: str
    model: Model
    last_move: AliasMove | None


@dataclass(frozen=True, slots=True)
class EvaluatedScore:
    """A model's score in its latest evaluation."""

    evaluation: Evaluation
    score: Score


def list_models(request: Request) -> Response:
    """Aliases, what stops soon, and all models, a page of them."""
    project = project_of(request)
    models = project.registry.models.recent()
    page = page_number(request)
    shown = models[(page - 1) * MODELS_PER_PAGE : page * MODELS_PER_PAGE]
    today = dt.datetime.now(dt.UTC).date()
    dated = [(model, left) for model in models if (left := days_left(model.base_shutdown_date, today)) is not None]
    return render(
        request,
        "models/list.html.j2",
        models=shown,
        total=len(models),
        page=page,
        pages=page_count(len(models), MODELS_PER_PAGE),
        aliases=_alias_rows(project, models),
        ending=sorted([one for one in dated if 0 <= one[1] <= SOON_DAYS], key=lambda one: one[1]),
        gone=sum(left < 0 for _, left in dated),
        billed=[deployment for deployment in project.registry.deployments.recent() if deployment.is_billed],
        scores=latest_scores(project.registry.evaluations.recent(limit=MAX_EVALUATIONS)),
        project=project,
        wording=wording,
        cost_of=cost_of,
        loss_of=final_loss_text,
    )


def show_model(request: Request) -> Response:
    """One model: lineage, evaluations, checkpoints, aliases, and what can be done with it."""
    project, model = project_of(request), _model(request)
    evaluations = project.registry.evaluations.recent(model.id, limit=MAX_EVALUATIONS)
    return render(
        request,
        "models/model.html.j2",
        model=model,
        project=project,
        evaluations=[(one, comparisons_of(one, model.id)) for one in evaluations],
        histories={alias: list(reversed(project.registry.models.alias_history(alias))) for alias in model.aliases},
        aliases=sorted(project.registry.models.aliases()),
        commands=project.commands.recent(lambda words: model.id in words),
        can_export=model.provider == LOCAL_PROVIDER,
        formats=list(FORMATS),
        wording=wording,
        cost_of=cost_of,
        loss_of=final_loss_text,
        hyperparameter_text=hyperparameter_text,
        has_rewards=has_rewards,
        measures=measures,
    )


def ask_alias(request: Request) -> Response:
    """Show where an alias points, where it would point, and what speaks for it."""
    project, model = project_of(request), _model(request)
    alias = request.query_params.get("alias", "").strip()
    if not alias:
        raise UsageError("no alias was given", "choose a name, for example support-bot@production")
    old = project.registry.models.behind_alias(alias)
    both = project.registry.evaluations.recent(old.id, model.id) if old is not None and old.id != model.id else []
    return render(
        request,
        "models/alias.html.j2",
        alias=alias,
        model=model,
        old=old,
        evidence=[(one, comparisons_of(one, model.id, old.id)) for one in both] if old else [],
        scores=latest_scores(project.registry.evaluations.recent(limit=MAX_EVALUATIONS)),
        project=project,
        wording=wording,
        loss_of=final_loss_text,
    )


def move_alias(request: Request) -> Response:
    """Point an alias at a model, unless it has been moved since the page was made."""
    project, model = project_of(request), _model(request)
    alias, expected = form_text(request, "alias"), form_text(request, "old")
    old = project.registry.models.behind_alias(alias)
    if (old.id if old else "") != expected:
        raise UsageError(f"{alias} was moved meanwhile", "go back, load the page again, and look where it points")
    if project.registry.models.get(model.id).endpoint != model.endpoint:
        raise UsageError(f"another endpoint has a newer model {model.id}", "an alias points to the newer one")
    project.registry.models.set_alias(alias, model.id, reason=form_text(request, "reason", 500))
    return _to_model(request, model)


def export_model(request: Request) -> Response:
    """Write a model for other programs, in the background."""
    project, model = project_of(request), _model(request)
    form = form_text(request, "format")
    if form not in FORMATS:
        raise UsageError("there is no such form of an export", f"choose one of {', '.join(FORMATS)}")
    if model.provider != LOCAL_PROVIDER:
        raise UsageError(f"{model.id} is at {model.provider}", "only models of this machine can be exported")
    project.commands.start(["models", "export", *FORMATS[form], "--", model.id], title=f"Export as {form}")
    return _to_model(request, model)


def ask_deletion(request: Request) -> Response:
    """Ask before a model is deleted."""
    project, model = project_of(request), _model(request)
    return render(request, "models/delete.html.j2", model=model, project=project)


def do_deletion(request: Request) -> Response:
    """Delete a model at its endpoint and in the registry, or in the registry alone."""
    project, model = project_of(request), _model(request)
    if model.aliases and form_text(request, "aliases") != "yes":
        raise UsageError(
            f"{', '.join(model.aliases)} would be removed, too", "tick that, or move the alias to another model first"
        )
    scope = form_text(request, "scope")
    if scope == "registry":
        project.registry.runs.delete_model(model)
    elif scope == "everywhere":
        provider = project.endpoints.open(model.provider, start=model.provider == LOCAL_PROVIDER)
        delete_model(model, provider=provider, registry=project.registry)
    else:
        raise UsageError("it was not said where the model is deleted", "choose one of the two")
    return RedirectResponse(url_of(request, "/models"), 303)


def latest_scores(evaluations: Iterable[Evaluation]) -> Mapping[str, EvaluatedScore]:
    """Model → its score in the latest of these evaluations, which are in order, the newest first."""
    scores: dict[str, EvaluatedScore] = {}
    for evaluation in evaluations:
        for result in evaluation.arms:
            if not result.arm.system and result.arm.model not in scores:
                scores[result.arm.model] = EvaluatedScore(evaluation, result.score(evaluation.primary_metric))
    return scores


def comparisons_of(evaluation: Evaluation, *models: str) -> list[Comparison]:
    """The comparisons on the primary metric in which all of these models take part."""
    names = {result.arm.name: result.arm.model for result in evaluation.arms}
    return [
        one
        for one in evaluation.comparisons
        if one.metric == evaluation.primary_metric and set(models) <= {names[one.baseline], names[one.challenger]}
    ]


def _alias_rows(project: Project, models: Sequence[Model]) -> list[AliasRow]:
    rows = []
    for model in models:
        for alias in model.aliases:
            history = project.registry.models.alias_history(alias)
            rows.append(AliasRow(alias, model, history[-1] if history else None))
    return sorted(rows, key=lambda row: row.alias)


def _model(request: Request) -> Model:
    """The model that the query, or the form of a change, names."""
    values = request.query_params
    name = values.get("name") or form_text(request, "name")
    endpoint = values.get("endpoint") or form_text(request, "endpoint")
    registry = project_of(request).registry
    model = registry.models.find(endpoint, name) if endpoint else registry.models.get(name)
    if model is None:
        raise UsageError("there is no such model in the registry", "it may have been deleted; see the list of models")
    return model


def _to_model(request: Request, model: Model) -> Response:
    return RedirectResponse(url_of(request, "/models/show", name=model.id, endpoint=model.endpoint), 303)


PAGE = Page(
    "Models",
    "/models",
    (
        Route("/models", list_models, methods=["GET"]),
        Route("/models/show", show_model, methods=["GET"]),
        Route("/models/alias", ask_alias, methods=["GET"]),
        Route("/models/alias", move_alias, methods=["POST"]),
        Route("/models/export", export_model, methods=["POST"]),
        Route("/models/delete", ask_deletion, methods=["GET"]),
        Route("/models/delete", do_deletion, methods=["POST"]),
    ),
)
