"""The evaluations: regressions first, the matrix of models and datasets, one evaluation with its report in place."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from ftpipe.errors import LocalStateError, UsageError
from ftpipe.paths import EVALUATIONS_FOLDER
from ftpipe.records.evaluation import Answer, Evaluation, Outcome
from ftpipe.reports.evaluation import wording
from ftpipe.ui.pages.models import EvaluatedScore
from ftpipe.ui.project import LOCAL_PROVIDER, Project
from ftpipe.ui.rendering import Page, form_of, form_text, page_count, page_number, project_of, render, url_of

EVALUATIONS_PER_PAGE = 50
ITEMS_PER_PAGE = 20
MAX_EVALUATIONS = 500
"""The latest evaluations that are shown; others stay in the registry."""
MAX_CHOICES = 50
"""The newest models, which can be chosen for an evaluation."""
MAX_MATRIX_MODELS, MAX_MATRIX_DATASETS = 50, 12
CACHED_EVALUATIONS = 4
"""Evaluations with all their answers in memory."""
SHOWN = {"regressed": "got worse", "improved": "got better", "different": "differ", "all": "all"}
"""Which items of an evaluation are shown."""
REPORT_POLICY = "sandbox; default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
_STYLE_HASH = re.compile(rb"style-src '(sha256-[A-Za-z0-9+/]{43}=)'")
_ID = re.compile(r"eval-[0-9a-f]{12}")
_HEAD_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Matrix:
    """The latest score of each model on each dataset."""

    datasets: list[tuple[str, str]]
    """Name and SHA-256, the latest first."""
    rows: list[tuple[str, list[EvaluatedScore | None]]]
    """A model, and its scores in the order of the datasets."""


def list_evaluations(request: Request) -> Response:
    """All evaluations, those with a regression first, and the matrix."""
    project = project_of(request)
    evaluations = project.registry.evaluations.recent(limit=MAX_EVALUATIONS)
    ordered = sorted(evaluations, key=lambda one: not has_regressed(one))
    page = page_number(request)
    return render(
        request,
        "evaluations/list.html.j2",
        evaluations=ordered[(page - 1) * EVALUATIONS_PER_PAGE : page * EVALUATIONS_PER_PAGE],
        total=len(ordered),
        regressed=sum(map(has_regressed, ordered)),
        page=page,
        pages=page_count(len(ordered), EVALUATIONS_PER_PAGE),
        matrix=matrix_of(evaluations),
        commands=project.commands.recent(lambda words: list(words[:2]) == ["ftpipe", "evaluate"]),
        wording=wording,
    )


def ask_start(request: Request) -> Response:
    """What is compared, on which data."""
    project = project_of(request)
    chosen = request.query_params.getlist("model")
    models = project.registry.models.recent(MAX_CHOICES)
    return render(
        request,
        "evaluations/start.html.j2",
        models=models,
        aliases=project.registry.models.aliases(),
        chosen=chosen,
        files=project.datasets.files.all(),
        project=project,
    )


def start(request: Request) -> Response:
    """Start an evaluation in the background; ask before it costs money."""
    project = project_of(request)
    names = [name for name in form_of(request).getlist("model") if isinstance(name, str) and name]
    if not names:
        raise UsageError("no model was chosen", "go back, and tick one or more")
    models = [project.registry.models.get(name) for name in dict.fromkeys(names)]
    file = project.datasets.files.get(form_text(request, "data"))
    options = {name: form_text(request, name, 200) for name in ("baseline", "limit", "gate")}
    if options["limit"] and not (options["limit"].isascii() and options["limit"].isdigit()):
        raise UsageError("the number of items is not a whole number", "leave it empty for all items")
    words = [word for name, value in options.items() if value for word in (f"--{name}={value}",)]
    arguments = ["evaluate", f"--data={file.path}", *words, "--", *dict.fromkeys(names)]
    paid = sorted({one.provider for one in models if one.provider != LOCAL_PROVIDER})
    if paid and form_text(request, "confirmed") != "yes":
        items = project.datasets.index(file.path).lines
        return render(
            request,
            "evaluations/confirm.html.j2",
            line=project.commands.line(arguments),
            fields=[*(("model", name) for name in names), ("data", file.id), *options.items()],
            requests=min(items, int(options["limit"] or items)) * (len(names) + 1),
            providers=[project.endpoints.title(name) for name in paid],
        )
    title = f"Evaluate {', '.join(dict.fromkeys(names))} on {file.name}"
    project.commands.start(arguments, title=title)
    return RedirectResponse(url_of(request, "/evaluations"), 303)


def show_evaluation(request: Request) -> Response:
    """One evaluation: verdict, gates, items that changed, and its report."""
    project = project_of(request)
    evaluation = _evaluation(project, request)
    challenger = request.query_params.get("challenger", "")
    if challenger not in evaluation.challengers:
        challenger = wording.ordered_challengers(evaluation)[0]
    shown = request.query_params.get("show", "")
    shown = shown if shown in SHOWN else "regressed"
    items = _items(evaluation, challenger, shown)
    page = page_number(request)
    return render(
        request,
        "evaluations/evaluation.html.j2",
        evaluation=evaluation,
        challenger=challenger,
        shown=shown,
        choices=SHOWN,
        counts={name: len(_items(evaluation, challenger, name)) for name in SHOWN},
        items=items[(page - 1) * ITEMS_PER_PAGE : page * ITEMS_PER_PAGE],
        page=page,
        pages=page_count(len(items), ITEMS_PER_PAGE),
        has_report=_path(project, evaluation.id, "html").is_file(),
        wording=wording,
        answer_text=answer_text,
        ordered=wording.ordered_challengers(evaluation),
    )


def show_item(request: Request) -> Response:
    """One item with its prompt, the expected answer and all others; its address can be kept."""
    evaluation = _evaluation(project_of(request), request)
    name = request.path_params["item"]
    outcome = next((one for one in evaluation.outcomes if one.item.id == name), None)
    if outcome is None:
        raise UsageError("this evaluation has no such item", "its answers may have been deleted from the state folder")
    return render(
        request,
        "evaluations/item.html.j2",
        evaluation=evaluation,
        outcome=outcome,
        answer_text=answer_text,
        wording=wording,
    )


def show_report(request: Request) -> Response:
    """The report that ``ftpipe evaluate`` has written, with a policy that lets it do nothing but look as it does."""
    project = project_of(request)
    evaluation = _evaluation(project, request)
    path = _path(project, evaluation.id, "html")
    try:
        html = path.read_bytes()
    except OSError as exc:
        raise UsageError("the report of this evaluation was deleted", "evaluate again; answers are cached") from exc
    match = _STYLE_HASH.search(html[:_HEAD_BYTES])
    style = f"'{match[1].decode()}'" if match else "'none'"
    return HTMLResponse(html, headers={"content-security-policy": f"{REPORT_POLICY}; style-src {style}"})


def has_regressed(evaluation: Evaluation) -> bool:
    """Whether a candidate is worse than the baseline, or a gate has failed."""
    losses = (evaluation.primary_comparison(name).verdict == "loss" for name in evaluation.candidates)
    return any(losses) or not all(gate.passed for gate in evaluation.gates)


def matrix_of(evaluations: Iterable[Evaluation]) -> Matrix:
    """The latest score of each model on each dataset, from evaluations in order, the newest first."""
    datasets: dict[str, str] = {}
    cells: dict[str, dict[str, EvaluatedScore]] = {}
    for evaluation in evaluations:
        if evaluation.data_sha256 not in datasets and len(datasets) < MAX_MATRIX_DATASETS:
            datasets[evaluation.data_sha256] = evaluation.data
        if evaluation.data_sha256 not in datasets:
            continue
        for result in evaluation.arms:
            score = EvaluatedScore(evaluation, result.score(evaluation.primary_metric))
            if len(cells) < MAX_MATRIX_MODELS or result.arm.name in cells:
                cells.setdefault(result.arm.name, {}).setdefault(evaluation.data_sha256, score)
    rows = [(model, [scores.get(sha256) for sha256 in datasets]) for model, scores in cells.items()]
    return Matrix([(name, sha256) for sha256, name in datasets.items()], rows)


def answer_text(answers: Sequence[Answer]) -> str:
    """The first answer as text; empty if there is none."""
    return wording.answer_text(answers[0]) if answers else ""


def _items(evaluation: Evaluation, challenger: str, shown: str) -> list[Outcome]:
    regressed, improved = evaluation.changed_items(challenger)
    if shown in ("regressed", "improved"):
        return regressed if shown == "regressed" else improved
    if shown == "all":
        return list(evaluation.outcomes)
    return [
        one
        for one in evaluation.outcomes
        if answer_text(one.answers[evaluation.baseline]) != answer_text(one.answers[challenger])
    ]


def _evaluation(project: Project, request: Request) -> Evaluation:
    """An evaluation of the registry, with its answers if they are still in the state folder."""
    name = request.path_params["evaluation"]
    summary = project.registry.evaluations.find(name)
    if summary is None:
        raise UsageError("there is no such evaluation in the registry", "see the list of evaluations")
    path = _path(project, summary.id, "json")
    try:
        whole = _read(path, path.stat().st_mtime_ns)
    except OSError:
        return summary
    return summary.model_copy(update={"outcomes": whole.outcomes})


@lru_cache(maxsize=CACHED_EVALUATIONS)
def _read(path: Path, _modified: int) -> Evaluation:
    try:
        return Evaluation.model_validate_json(path.read_bytes())
    except ValueError as exc:
        raise LocalStateError(f"{path} is damaged", "evaluate again; answers are cached") from exc


def _path(project: Project, evaluation_id: str, kind: str) -> Path:
    if not _ID.fullmatch(evaluation_id):  # it becomes a file name
        raise LocalStateError(f"{evaluation_id} is not the id of an evaluation", "`ftpipe doctor` checks the registry")
    return project.state_dir / EVALUATIONS_FOLDER / f"{evaluation_id}.{kind}"


PAGE = Page(
    "Evaluations",
    "/evaluations",
    (
        Route("/evaluations", list_evaluations, methods=["GET"]),
        Route("/evaluations/start", ask_start, methods=["GET"]),
        Route("/evaluations/start", start, methods=["POST"]),
        Route("/evaluations/{evaluation}", show_evaluation, methods=["GET"]),
        Route("/evaluations/{evaluation}/report", show_report, methods=["GET"]),
        Route("/evaluations/{evaluation}/items/{item}", show_item, methods=["GET"]),
    ),
)
