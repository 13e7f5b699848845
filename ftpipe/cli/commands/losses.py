"""``ftpipe losses``: rank training rows by their loss under the base and the tuned model, to find wrong labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ftpipe.cli import options as shared
from ftpipe.cli.context import CliContext, pass_cli_context
from ftpipe.cli.dataset_request import require_file
from ftpipe.cli.group import Command
from ftpipe.errors import UsageError
from ftpipe.formatting import relative_path, sanitize_line
from ftpipe.output_files import check_outputs

if TYPE_CHECKING:
    from ftpipe.config import Settings
    from ftpipe.records.row_losses import LossRanking, RankBy
    from ftpipe.registry import Registry

FOLDER = "losses"
"""Folder of the rankings, in the project's state folder."""


@dataclass(frozen=True, kw_only=True)
class LossesOptions:
    """Options of ``ftpipe losses``."""

    model: str
    baseline: str | None = None
    data: Path | None = None
    provider: str | None = None
    rank_by: RankBy = "tuned"
    top: int = 20
    html: Path | None = None
    csv: Path | None = None


@click.command(cls=Command, example="ftpipe losses ft:…\nftpipe losses ft:… --rank-by delta --top 50 --csv rows.csv")
@click.argument("model")
@click.option("--baseline", metavar="MODEL", help="Model to compare with, of the same base.  [default: the base model]")
@click.option(
    "--data", type=shared.FILE, metavar="FILE", help="Rows to rank.  [default: the data that MODEL was trained on]"
)
@click.option("--provider", metavar="NAME", help="Provider of the model.  [default: from the registry]")
@click.option(
    "--rank-by",
    type=click.Choice(["tuned", "base", "delta"]),
    default=LossesOptions.rank_by,
    show_default=True,
    help="Loss to rank by: of the tuned model, of the base model, or their difference.",
)
@click.option(
    "--top", type=click.IntRange(min=1), default=LossesOptions.top, show_default=True, metavar="N", help="Rows to list."
)
@click.option("--html", type=shared.OUTPUT_FILE, metavar="FILE", help="Write the HTML report to this file.")
@click.option("--csv", type=shared.OUTPUT_FILE, metavar="FILE", help="Write all rows as CSV to this file.")
@shared.trust_host
@pass_cli_context
def losses(context: CliContext, /, **params: Any) -> None:
    """Rank the training rows of MODEL by loss.

    A row that is still hard after training contradicts the other rows, so wrong labels and rare cases come first. Only
    ftpipe's own server computes the loss of each row; hosted providers do not.
    """
    from ftpipe.cli.evaluation_arms import resolve_arms
    from ftpipe.cli.output.progress import item_progress
    from ftpipe.evaluation.row_losses import rank_rows

    options = LossesOptions(**params)
    settings = context.settings({"provider": options.provider})
    resolved = resolve_arms(context, settings, [options.model], baseline=options.baseline, prompt=None)
    if len(resolved.arms) != 2:
        raise UsageError("the model and the baseline are the same", "give another model with --baseline")
    baseline, model = (arm.model for arm in resolved.arms)
    data = options.data or training_data(context.registry(settings), options.model)
    require_file(data)
    reports = (("--html", options.html), ("--csv", options.csv))
    check_outputs([(flag, path) for flag, path in reports if path], inputs=[data], force=context.force)
    provider = context.provider(resolved.provider, settings)
    with (
        context.interruptible("interrupted; jobs are not affected", "run the same command again"),
        item_progress(context, "scoring rows", "row") as on_rows,
    ):
        ranking = rank_rows(
            data,
            model=model,
            baseline=baseline,
            provider=provider,
            rank_by=options.rank_by,
            rule_codes=codes_by_line(data, provider.profile.target, settings),
            on_progress=on_rows,
        )
    show(context, ranking, options)


def training_data(registry: Registry, name: str) -> Path:
    """Find the file that a model was trained on.

    Raises:
        UsageError: It is not known, or it has changed.
    """
    from ftpipe.dataset import open_dataset

    hint = "give the file with --data"
    shown = sanitize_line(name, 80)
    model = registry.models.get(name)
    run = registry.runs.find(model.job_id)
    if run is None or run.dataset is None:
        raise UsageError(f"the registry does not know what {shown} was trained on", hint)
    path = run.dataset.path
    if not path.is_file():
        raise UsageError(f"{path}, which {shown} was trained on, does not exist any more", hint)
    if open_dataset(path).sha256 != model.dataset_sha256:
        raise UsageError(f"{path} has changed since {shown} was trained on it", hint)
    return path


def codes_by_line(data: Path, target: str, settings: Settings) -> Mapping[int, tuple[str, ...]]:
    """Map each line to the codes of its warnings and errors."""
    from ftpipe.cli.check_options import check_settings
    from ftpipe.records import Severity
    from ftpipe.stages.validate import validate

    report = validate(data, target=target, settings=check_settings(settings.config))
    codes: dict[int, list[str]] = {}
    for one in report.findings:
        if one.line is not None and one.severity is not Severity.INFO and one.code not in codes.get(one.line, ()):
            codes.setdefault(one.line, []).append(one.code)
    return {line: tuple(names) for line, names in codes.items()}


def show(context: CliContext, ranking: LossRanking, options: LossesOptions) -> None:
    """Write the ranking to stdout or into the JSON document, and save it with its page."""
    from ftpipe.cli.commands.evaluate import write_files
    from ftpipe.paths import state_dir
    from ftpipe.reports.row_losses import loss_csv, loss_html, loss_lines

    folder = state_dir() / FOLDER
    files = {"json": folder / f"{ranking.id}.json", "html": options.html or folder / f"{ranking.id}.html"}
    texts = {"json": ranking.model_dump_json(), "html": loss_html(ranking, options.top)}
    if options.csv is not None:
        files["csv"], texts["csv"] = options.csv, loss_csv(ranking)
    write_files(files, texts, force=context.force)
    context.add(
        ranking=ranking, mean_base_loss=ranking.mean_base_loss, mean_tuned_loss=ranking.mean_tuned_loss, files=files
    )
    context.print_result(loss_lines(ranking, options.top, context.style, width=context.width))
    context.print_status(f"report: {files['html']}")
    if any(row.rule_codes for row in ranking.rows[: options.top]):
        context.print_next(f"ftpipe prepare {relative_path(Path(ranking.data))}")
