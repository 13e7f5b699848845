"""The data page: the project's datasets, their report, their rows, and fixes."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from typing import IO, Any
from urllib.parse import urlsplit

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from ftpipe.dataset.line_index import IndexedLine
from ftpipe.dataset.row_search import parse_row
from ftpipe.errors import FtpipeError, UsageError
from ftpipe.records import Finding, Report, Severity
from ftpipe.records.token_mask import TokenKind, TokenMask
from ftpipe.reports.dataset_html import label_bars, to_histogram
from ftpipe.reports.findings import headline, sort_by_severity
from ftpipe.reports.token_mask import MAX_SHOWN_TOKENS, MEANINGS, mask_title, token_runs
from ftpipe.ui.datasets.check_result import CheckResult, RankingHead
from ftpipe.ui.datasets.checks import CheckRequest, TaskState
from ftpipe.ui.datasets.files import MAX_UPLOAD_BYTES, UPLOAD_SUFFIXES, DatasetFile, sanitize_name
from ftpipe.ui.datasets.row_view import view_row
from ftpipe.ui.datasets.rows_page import RowsQuery, rows_page
from ftpipe.ui.datasets.token_losses import STEP_NAMES, Losses, mean_loss, view_tokens
from ftpipe.ui.rendering import Page, form_text, page_number, project_of, render, url_of

SMALL_BYTES = 2 * 1024 * 1024
SMALL_SECONDS = 0.6
"""How long a page waits for the check of a small file."""
MAX_DIFF_BLOCKS = 200
"""Changed lines that a preview of fixes shows."""
MAX_DIFF_LINE_BYTES = 2000
MAX_STEM_CHARACTERS = 60
"""Of the name of a fixed file, before ``-fixed``."""
TOKEN_LOSS_SECONDS = 0.5
"""How long a request waits for the losses of tokens; the page asks again every second."""
MAX_FIRST_TOKENS = 1000
"""Tokens of a row that are shown before all are wanted."""
MAX_LISTED_LOSSES = 400
"""Trained tokens of a row whose losses are listed in a table."""
LINK_PARAMETERS = ("provider", "model", "loss_model")
MAX_SHOWN_FINDINGS = 5
"""Findings of the whole file that are written out for each rule."""


def _list(request: Request) -> Response:
    datasets = project_of(request).datasets
    return render(
        request, "data/list.html.j2", files=datasets.files.all(), max_bytes=MAX_UPLOAD_BYTES, suffixes=UPLOAD_SUFFIXES
    )


async def _receive(request: Request) -> Response:
    """Store a file that was dropped on the page; its bytes are the body, and its name is a parameter."""
    files = project_of(request).datasets.files
    name = request.query_params.get("name", "")
    with tempfile.TemporaryFile(prefix="ftpipe-") as file:
        size = 0
        async for piece in request.stream():
            size += len(piece)
            if size > MAX_UPLOAD_BYTES:
                raise UsageError("the file is too large", "put it into the project's folder, where it is listed")
            await run_in_threadpool(file.write, piece)
        if not size:
            raise UsageError("the file is empty", "choose another one")
        file.seek(0)
        received = await run_in_threadpool(files.receive, name, file)
    return JSONResponse({"location": url_of(request, f"/data/{received.id}")}, 201)


def _show(request: Request) -> Response:
    """A dataset: its verdict, its findings, and a page of its rows."""
    datasets = project_of(request).datasets
    file = datasets.files.get(request.path_params["file_id"])
    return render(request, "data/dataset.html.j2", **_dataset_values(request, file))


def _report(request: Request) -> Response:
    """The part of the page that waits for the check."""
    datasets = project_of(request).datasets
    file = datasets.files.get(request.path_params["file_id"])
    check = datasets.tasks.check(_check_request(request, file))
    values = _report_values(request, file, check)
    if isinstance(check, CheckResult):
        values["page_url"] = _page_url(request, file)
    return render(request, "data/report.html.j2", **values)


def _page_url(request: Request, file: DatasetFile) -> str:
    """The page that asks for a part of itself, with the rows and the row that the user has chosen meanwhile."""
    path = url_of(request, f"/data/{file.id}")
    with suppress(ValueError):
        current = urlsplit(request.headers.get("hx-current-url", ""))
        if current.path == path and current.query:
            return f"{path}?{current.query}"
    return url_of(request, f"/data/{file.id}", **_rules(request))


def _row(request: Request) -> Response:
    datasets = project_of(request).datasets
    file = datasets.files.get(request.path_params["file_id"])
    check = datasets.tasks.check(_check_request(request, file))
    found = check if isinstance(check, CheckResult) else None
    row = _row_values(request, file, request.path_params["line"], found)
    return render(request, "data/row.html.j2", file=file, query=_query(request), rules=_rules(request), **row)


def _tokens(request: Request) -> Response:
    """The tokens of a row, coloured by their losses as soon as these are known."""
    file = project_of(request).datasets.files.get(request.path_params["file_id"])
    row = _row_values(request, file, request.path_params["line"], None, wait_seconds=TOKEN_LOSS_SECONDS)
    template = "data/row.html.j2" if row["row"] is None else "data/tokens.html.j2"
    return render(request, template, file=file, query=_query(request), rules=_rules(request), **row)


def _check_again(request: Request) -> Response:
    datasets = project_of(request).datasets
    file = datasets.files.get(request.path_params["file_id"])
    datasets.tasks.forget_error(_check_request(request, file))
    return RedirectResponse(url_of(request, f"/data/{file.id}", **_rules(request)), 303)


def _fixes(request: Request) -> Response:
    """The fixes that would be applied, before a new file is written."""
    datasets = project_of(request).datasets
    file = datasets.files.get(request.path_params["file_id"])
    is_unsafe = request.query_params.get("unsafe") == "1"
    state, output = datasets.tasks.fix(_check_request(request, file), unsafe=is_unsafe, wait_seconds=SMALL_SECONDS)
    blocks: list[tuple[str, list[tuple[str, str]]]] = []
    has_more = False
    if state.result is not None:
        diff = output.with_name(output.name + ".diff")
        with diff.open("rb") as lines:
            blocks = list(islice(_diff_blocks(lines), MAX_DIFF_BLOCKS + 1))
        has_more, blocks = len(blocks) > MAX_DIFF_BLOCKS, blocks[:MAX_DIFF_BLOCKS]
    check = datasets.tasks.check(_check_request(request, file))
    groups = _groups(check.report) if isinstance(check, CheckResult) else []
    counts = state.result["counts"] if state.result is not None else {}
    return render(
        request, "data/fixes.html.j2", file=file, state=state, is_unsafe=is_unsafe, blocks=blocks, has_more=has_more,
        rules=_rules(request), name=_fixed_name(file), rule_names={first.code: first.name for first, _, _ in groups},
        errors_left=[group for group in groups if group[0].severity is Severity.ERROR and group[0].code not in counts],
    )  # fmt: skip


def _apply_fixes(request: Request) -> Response:
    """Write the fixed copy as a new dataset of the project."""
    datasets = project_of(request).datasets
    file = datasets.files.get(request.path_params["file_id"])
    is_unsafe = form_text(request, "unsafe") == "1"
    state, output = datasets.tasks.fix(_check_request(request, file), unsafe=is_unsafe)
    if state.result is None:
        raise UsageError(state.error or "the fixes are not ready yet", state.hint or "wait for the preview")
    with output.open("rb") as fixed:
        digest = hashlib.file_digest(fixed, "sha256").hexdigest()
        fixed.seek(0)
        new = datasets.files.store(_fixed_name(file), fixed, digest)
    return RedirectResponse(url_of(request, f"/data/{new.id}", **_rules(request)), 303)


def _compute_losses(request: Request) -> Response:
    """Start ``ftpipe losses`` for a model that was trained on the dataset."""
    project = project_of(request)
    file = project.datasets.files.get(request.path_params["file_id"])
    model = project.registry.models.get(form_text(request, "model", 300))
    arguments = ["losses", "--data", str(file.path), "--", model.id]
    command = project.commands.start(arguments, title=f"Losses of the rows of {file.name}")
    return RedirectResponse(url_of(request, f"/data/{file.id}", losses=command, **_rules(request)), 303)


def _dataset_values(request: Request, file: DatasetFile) -> dict[str, Any]:
    datasets = project_of(request).datasets
    wait = SMALL_SECONDS if file.size <= SMALL_BYTES else 0
    check = datasets.tasks.check(_check_request(request, file), wait_seconds=wait)
    found = check if isinstance(check, CheckResult) else None
    query, index = _query(request), datasets.index(file.path)
    ranking = _ranking(request, found)
    values = _report_values(request, file, check)
    error, page = None, None
    try:
        page = rows_page(index, query, found, datasets.losses(ranking) if ranking else None)
    except UsageError as exc:
        error = exc
    line = page_number(request, "row", minimum=0)
    if not line and page is not None and page.rows and "hx-request" in request.headers:
        line = page.rows[0].line  # this takes the place of a page whose row was fetched already
    command = project_of(request).commands.find(request.query_params.get("losses", ""))
    return values | {
        "index": index,
        "query": query,
        "page": page,
        "page_error": error,
        "ranking": ranking,
        "trained_models": datasets.models_trained_on(found.report.dataset.sha256) if found else [],
        "loss_command": command,
        "row": None,
        "first_row": page.rows[0].line if page is not None and page.rows and not line else 0,
        **(_row_values(request, file, line, found) if line else {}),
    }


def _report_values(request: Request, file: DatasetFile, check: CheckResult | TaskState) -> dict[str, Any]:
    datasets = project_of(request).datasets
    report = check.report if isinstance(check, CheckResult) else None
    profile = datasets.profile(request.query_params.get("provider", ""))
    histograms = report.histograms if report else None
    return {
        "file": file,
        "state": check if isinstance(check, TaskState) else None,
        "report": report,
        "headline": headline(report) if report else "",
        "groups": _groups(report) if report else [],
        "labels": histograms.labels if histograms else (),
        "label_bars": label_bars(histograms.labels) if histograms else [],
        "length_chart": to_histogram(histograms.tokens) if histograms else None,
        "profile": profile,
        "profiles": datasets.profiles,
        "model": _check_request(request, file).model,
        "rules": _rules(request),
        "query": _query(request),
        "has_fixes": bool(report and any(finding.fix for finding in report.findings)),
        "page_url": "",
    }


def _groups(report: Report) -> list[tuple[Finding, int, list[Finding]]]:
    """Each rule with the exact number of its findings, and those of the whole file."""
    groups = []
    for findings in sort_by_severity(report):
        first = findings[0]
        whole_file = [finding for finding in findings if finding.line is None][:MAX_SHOWN_FINDINGS]
        groups.append((first, report.summary.counts.get(first.code, len(findings)), whole_file))
    return groups


def _row_values(
    request: Request, file: DatasetFile, line: int, check: CheckResult | None, *, wait_seconds: float = 0
) -> dict[str, Any]:
    datasets = project_of(request).datasets
    index = datasets.index(file.path)
    lines = index.read(line, 1)
    if not lines:
        message = f"there is no line {line:,}; the file has {index.lines:,}"
        return {"row": None, "row_error": message}
    findings = check.findings([line]).get(line, []) if check is not None else []
    return {
        "row": view_row(lines[0], findings, request.query_params.get("q", "").strip()[:500], is_full=_is_full(request)),
        "is_full": _is_full(request),
        "row_error": "",
        "lines": index.lines,
        **_token_values(request, file, lines[0], wait_seconds),
    }


def _token_values(request: Request, file: DatasetFile, line: IndexedLine, wait_seconds: float) -> dict[str, Any]:
    """The tokens of a row, with their losses if the page asks for them."""
    datasets = project_of(request).datasets
    masks, error = list[TokenMask](), ""
    check_request = _check_request(request, file)
    record = parse_row(line)
    if record is not None:
        try:
            masks = list(datasets.mask_renderer(check_request).masks(line.number, record))
        except FtpipeError as exc:
            error = exc.message
    # other tokens than the model's own have no loss
    models = datasets.loss_models(check_request.model) if masks and all(mask.exact for mask in masks) else []
    name = _rules(request).get("loss_model", "")
    model = next((one for one in models if one.name == name), None)
    state = None
    if model is not None:
        ids = tuple(tuple(token.id or 0 for token in mask.tokens[: mask.limit]) for mask in masks)
        state = datasets.token_losses.get(model, ids, wait_seconds=wait_seconds)
    return {
        "masks": [
            _mask_values(mask, state.losses[index] if state and state.losses else None, is_full=_is_full(request))
            for index, mask in enumerate(masks)
        ],
        "mask_error": error,
        "kinds": [(kind, MEANINGS[kind]) for kind in TokenKind if any(mask.count(kind) for mask in masks)],
        "loss_models": models,
        "loss_model": model,
        "loss_state": state,
        "loss_steps": list(enumerate(STEP_NAMES, 1)),
    }


def _is_full(request: Request) -> bool:
    """Whether long texts are shown as far as the page can show them."""
    return request.query_params.get("full") == "1"


def _mask_values(mask: TokenMask, losses: Losses | None, *, is_full: bool) -> dict[str, Any]:
    views = view_tokens(mask.tokens, losses)
    trained = [view for view in views if view.step]
    return {
        "mask": mask,
        "title": mask_title(mask),
        "trained": mask.count(TokenKind.TRAINED),
        "tokens": views[: MAX_SHOWN_TOKENS if is_full else MAX_FIRST_TOKENS],
        "is_cut": not is_full and len(views) > MAX_FIRST_TOKENS,
        "runs": list(token_runs(mask)),
        "mean_loss": mean_loss(views),
        "hardest": max(trained, key=lambda view: view.loss or 0.0, default=None),
        "losses": trained[:MAX_LISTED_LOSSES],
        "hidden_losses": max(0, len(trained) - MAX_LISTED_LOSSES),
    }


def _ranking(request: Request, check: CheckResult | None) -> RankingHead | None:
    """The losses that are shown: those of the ranking that was made last."""
    if check is None:
        return None
    return next(iter(project_of(request).datasets.rankings(check.report.dataset.sha256)), None)


def _query(request: Request) -> RowsQuery:
    return RowsQuery.of(request.query_params)


def _rules(request: Request) -> dict[str, str]:
    """The parameters that all links keep: the provider and base model of the check, and the model of token losses."""
    query = request.query_params
    values = {name: "".join(filter(str.isprintable, query.get(name, "")[:300])) for name in LINK_PARAMETERS}
    return {name: value for name, value in values.items() if value}


def _check_request(request: Request, file: DatasetFile) -> CheckRequest:
    project = project_of(request)
    rules = _rules(request)
    profile = project.datasets.profile(rules.get("provider", ""))
    return CheckRequest.for_model(file.path, project.settings, profile, rules.get("model", ""))


def _fixed_name(file: DatasetFile) -> str:
    stem = file.path.stem.removesuffix("-fixed")
    return sanitize_name(f"{stem[:MAX_STEM_CHARACTERS]}-fixed.jsonl")


def _diff_blocks(lines: IO[bytes]) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """The blocks of a diff: a title, and lines with ``-`` or ``+``."""
    title, block = "", list[tuple[str, str]]()
    for raw in iter(lambda: lines.readline(MAX_DIFF_LINE_BYTES), b""):
        rest = raw
        while rest and not rest.endswith(b"\n"):
            rest = lines.readline(MAX_DIFF_LINE_BYTES)
        text = raw.rstrip(b"\n").decode("utf-8", "replace") + ("" if raw.endswith(b"\n") else " …")
        if text.startswith("@@ "):
            if title:
                yield title, block
            title, block = text.strip("@ "), []
        else:
            block.append((text[:1], text[1:]))
    if title:
        yield title, block


PAGE = Page(
    title="Data",
    path="/data",
    routes=(
        Route("/data", _list, methods=["GET"]),
        Route("/data/files", _receive, methods=["POST"]),
        Route("/data/{file_id:str}", _show, methods=["GET"]),
        Route("/data/{file_id:str}/report", _report, methods=["GET"]),
        Route("/data/{file_id:str}/row/{line:int}", _row, methods=["GET"]),
        Route("/data/{file_id:str}/row/{line:int}/tokens", _tokens, methods=["GET"]),
        Route("/data/{file_id:str}/check", _check_again, methods=["POST"]),
        Route("/data/{file_id:str}/fixes", _fixes, methods=["GET"]),
        Route("/data/{file_id:str}/fixes", _apply_fixes, methods=["POST"]),
        Route("/data/{file_id:str}/losses", _compute_losses, methods=["POST"]),
    ),
)
