"""``ftpipe models verify``: check that the registry and the weights on this machine were not changed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from ftpipe.cli.context import CliContext, pass_cli_context
from ftpipe.cli.group import Command
from ftpipe.formatting import plural, sanitize_line
from ftpipe.paths import server_dir
from ftpipe.records import Model

if TYPE_CHECKING:
    from ftpipe.registry import Registry
    from ftpipe.registry.verification import IntegrityViolation


@click.command(cls=Command, example="ftpipe models verify\nftpipe models verify support-bot@production")
@click.argument("model", required=False)
@pass_cli_context
def verify(context: CliContext, model: str | None) -> None:
    """Check that the registry and the weights were not changed by another program. With MODEL check only its data.

    Every change of the registry has an entry in an audit log, and the entries are chained by SHA-256. The first row or
    entry that does not match is shown, and every weight file that differs from what the trainer wrote. The exit code is
    1 if there is any.
    """
    from ftpipe.registry.verification import verify_registry

    registry = context.registry()
    violations = list(verify_registry(registry.engine))
    models = select_models(registry, model, violations)
    if model:
        violations = [one for one in violations if one.table == "audit_log" or belongs_to(one, models)]
    files = [line for one in models for line in check_weights(one)]
    context.add(tampered=violations, files=files, entries=registry.audit_log.size())
    context.exit_code = 1 if violations or any(line["problem"] for line in files) else 0
    show(context, registry.audit_log.size(), violations, files)


def select_models(registry: Registry, name: str | None, violations: list[IntegrityViolation]) -> list[Model]:
    """Select the models whose weights are checked; none if the rows of the models themselves were changed."""
    if name:
        return [registry.models.get(name)]
    return [] if any(one.table == "models" for one in violations) else registry.models.recent()


def belongs_to(violation: IntegrityViolation, models: list[Model]) -> bool:
    """Whether a row is part of the lineage of these models."""
    names = {part for one in models for part in (one.id, one.job_id, one.run_id, one.dataset_sha256, *one.aliases)}
    return bool(names & set(violation.key))


def show(context: CliContext, entries: int, violations: list[IntegrityViolation], files: list[dict[str, Any]]) -> None:
    """Write a line for the registry, one for each changed weight file, and one for the others."""
    bad, good = context.style("error", "✗"), context.style("ok", "✓")
    if violations:
        more = f"; {plural(len(violations) - 1, 'more row', 'more rows')} in --json" if len(violations) > 1 else ""
        context.print_result(f"{bad} registry   {sanitize_line(violations[0].text, 300)}")
        context.print_result(
            f"             {context.style('dim', f'→ it was changed by a program other than ftpipe{more}')}"
        )
    else:
        count = plural(entries, "audit log entry", "audit log entries")
        context.print_result(f"{good} registry   {count}, unbroken, and every row matches")
    for line in files:
        if line["problem"]:
            context.print_result(f"{bad} weights    {sanitize_line(line['path'], 300)} {line['problem']}")
    unchanged = sum(not line["problem"] for line in files)
    if unchanged:
        context.print_result(f"{good} weights    {plural(unchanged, 'file')} unchanged since training")


def check_weights(model: Model) -> Iterator[dict[str, Any]]:
    """Yield every weight file of a model that was trained on this machine, with its problem or an empty text."""
    from ftpipe.server.storage.data_dir import DataDirectory

    if model.provider != "local":
        return
    for path, problem in DataDirectory(server_dir()).job(model.job_id).verify_checkpoints():
        yield {"path": path, "problem": problem}
