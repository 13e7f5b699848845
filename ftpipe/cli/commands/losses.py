"""``ftpipe evaluate MODEL --losses``: rank training rows by how hard they are before and after tuning."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftpipe.cli.context import CliContext
from ftpipe.cli.dataset_request import require_file
from ftpipe.errors import UsageError
from ftpipe.formatting import relative_path, sanitize_line

if TYPE_CHECKING:
    from ftpipe.config import Settings
    from ftpipe.evaluation.request_runner import Progress
    from ftpipe.records.row_losses import LossRanking
    from ftpipe.registry import Registry

FOLDER = "losses"
"""Where rankings are kept, in the project's state folder."""
OWN = frozenset({"losses", "by", "top", "against", "data", "provider", "html", "csv"})
"""The flags that mean something here."""
LINE_SECONDS = 10.0


def rank_rows(context: CliContext, models: tuple[str, ...], flags: dict[str, Any], given: frozenset[str]) -> None:
    """Resolve model, base and data, ask the endpoint, and show the rows on top.

    Args:
        context: The call.
        models: What was named; one model.
        flags: Of ``evaluate``.
        given: Names of the flags that were typed.

    Raises:
        UsageError: A flag of another kind of evaluation, more than one model, or data or a base that is not known.
    """
    from ftpipe.cli.evaluation_arms import resolve_arms
    from ftpipe.evaluation.row_losses import rank_rows

    if foreign := sorted(given - OWN):
        raise UsageError(
            f"--losses ranks training rows, and --{foreign[0]} does not go with that",
            "it takes --data, --against, --provider, --by, --top, --html and --csv",
        )
    if len(models) != 1:
        raise UsageError("--losses looks at one model at a time", "name one; --against takes another of the same base")
    settings = context.settings({"provider": flags["provider"]})
    found = resolve_arms(context, settings, models, against=flags["against"], prompt=None)
    baseline, model = (arm.model for arm in found.arms)
    data = data_of(context.registry(settings), models[0], flags["data"])
    provider = context.provider(found.provider, settings)
    context.interrupt_message, context.resume_hint = (
        "interrupted; a running job was not touched",
        "run the same command again",
    )
    with rows_bar(context) as on_rows:
        ranking = rank_rows(
            data,
            model=model,
            baseline=baseline,
            provider=provider,
            rank_by=flags["by"],
            rule_codes=findings(data, provider.profile.target, settings),
            on_progress=on_rows,
        )
    show(context, ranking, flags)


def data_of(registry: Registry, name: str, given: Path | None) -> Path:
    """The file to rank: the one that was named, else the one that the model was trained on.

    Raises:
        UsageError: It is not known, or it is not the same any more.
    """
    from ftpipe.dataset import open_dataset

    if given is not None:
        require_file(given)
        return given
    hint = "name the file with --data"
    model = registry.models.get(name)
    run = registry.runs.find(model.job_id)
    if run is None or run.dataset is None:
        raise UsageError(f"the registry does not know what {sanitize_line(name, 80)} was trained on", hint)
    path = run.dataset.path
    if not path.is_file():
        raise UsageError(f"{path}, which {sanitize_line(name, 80)} was trained on, is not there any more", hint)
    if open_dataset(path).sha256 != model.dataset_sha256:
        raise UsageError(f"{path} has changed since {sanitize_line(name, 80)} was trained on it", hint)
    return path


def findings(data: Path, target: str, settings: Settings) -> Mapping[int, tuple[str, ...]]:
    """Line → codes of the rules that have a warning or an error about it."""
    from ftpipe.cli.check_options import check_settings
    from ftpipe.records import Severity
    from ftpipe.stages.validate import validate

    report = validate(data, target=target, settings=check_settings(settings.config))
    found: dict[int, list[str]] = {}
    for one in report.findings:
        if one.line is not None and one.severity is not Severity.INFO and one.code not in found.get(one.line, ()):
            found.setdefault(one.line, []).append(one.code)
    return {line: tuple(codes) for line, codes in found.items()}


@contextmanager
def rows_bar(context: CliContext) -> Iterator[Progress]:
    """Progress in rows over both models: a bar on a terminal, a line now and then elsewhere."""
    if context.quiet:
        yield lambda _done, _total: None
    elif sys.stderr.isatty():
        from rich import progress as parts

        from ftpipe.cli.output.progress import console

        columns = (parts.TextColumn("scoring rows"), parts.BarColumn(), parts.MofNCompleteColumn())
        with parts.Progress(*columns, parts.TimeRemainingColumn(), console=console(context), transient=True) as bars:
            task = bars.add_task("rows", total=None)
            yield lambda done, total: bars.update(task, completed=done, total=total)
    else:
        last = [time.monotonic()]

        def tell(done: int, total: int) -> None:
            if time.monotonic() - last[0] >= LINE_SECONDS:
                last[0] = time.monotonic()
                context.print_status(f"scoring rows: {done:,} of {total:,}")

        yield tell


def show(context: CliContext, ranking: LossRanking, flags: dict[str, Any]) -> None:
    """Put the ranking on stdout or into the document, keep it with its page, and write what else was asked for."""
    from ftpipe.paths import state_dir
    from ftpipe.reports.row_losses import loss_csv, loss_html, loss_lines

    folder = state_dir() / FOLDER
    files = {"json": folder / f"{ranking.id}.json", "html": flags["html"] or folder / f"{ranking.id}.html"}
    texts = {"json": ranking.model_dump_json(), "html": loss_html(ranking, flags["top"])}
    if flags["csv"] is not None:
        files["csv"], texts["csv"] = flags["csv"], loss_csv(ranking)
    for name, path in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(texts[name], encoding="utf-8", newline="")
    context.add(
        ranking=ranking, mean_base_loss=ranking.mean_base_loss, mean_tuned_loss=ranking.mean_tuned_loss, files=files
    )
    context.print_result(loss_lines(ranking, flags["top"], context.style))
    context.print_status(f"page: {files['html']}")
    if any(row.rule_codes for row in ranking.rows[: flags["top"]]):
        context.print_status(
            f"{context.style_err('bold', 'Next:')} ftpipe prepare {relative_path(Path(ranking.data))}, on the rules"
        )
