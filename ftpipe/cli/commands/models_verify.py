"""``ftpipe models verify``: whether the registry and the weights on this machine are as ftpipe wrote them."""

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
    """Check that no other program changed the registry; with MODEL only the rows of that model.

    Every change of the registry is written to an audit log whose entries are chained by SHA-256. The first row or entry
    that ftpipe did not write is named, and so is every weight file that the trainer did not write. Then the exit code
    is 1.
    """
    from ftpipe.registry.verification import verify_registry

    registry = context.registry()
    found = list(verify_registry(registry.engine))
    models = chosen(registry, model, found)
    if model:
        found = [one for one in found if one.table == "audit_log" or belongs(one, models)]
    files = [line for one in models for line in weights(one)]
    wrong = [line for line in files if line["problem"]]
    context.add(tampered=found, files=files, entries=registry.audit_log.size())
    context.exit_code = 1 if found or wrong else 0
    tell(context, registry.audit_log.size(), found, files)


def chosen(registry: Registry, name: str | None, found: list[IntegrityViolation]) -> list[Model]:
    """The models whose weights are looked at; where their rows are changed, those rows are the answer."""
    if name:
        return [registry.models.get(name)]
    return [] if any(one.table == "models" for one in found) else registry.models.recent()


def belongs(place: IntegrityViolation, models: list[Model]) -> bool:
    """Whether a row is part of what these models came from."""
    names = {part for one in models for part in (one.id, one.job_id, one.run_id, one.dataset_sha256, *one.aliases)}
    return bool(names & set(place.key))


def tell(context: CliContext, size: int, found: list[IntegrityViolation], files: list[dict[str, Any]]) -> None:
    """A line for the registry, and one for each weight file that is not whole."""
    bad, good = context.style("error", "✗"), context.style("ok", "✓")
    if found:
        context.print_result(f"{bad} registry   {sanitize_line(found[0].text, 300)}")
        more = f"; {plural(len(found) - 1, 'more place')} in --json" if len(found) > 1 else ""
        context.print_result(f"             {context.style('dim', f'→ whoever edited it did not use ftpipe{more}')}")
    else:
        context.print_result(
            f"{good} registry   {plural(size, 'audit log entry', 'audit log entries')}, unbroken, and every row matches"
        )
    for line in files:
        if line["problem"]:
            context.print_result(f"{bad} weights    {sanitize_line(line['path'], 300)} {line['problem']}")
    whole = sum(not line["problem"] for line in files)
    if whole:
        context.print_result(f"{good} weights    {plural(whole, 'file')} as the trainer wrote them")


def weights(model: Model) -> Iterator[dict[str, Any]]:
    """Every weight file of a model that was trained on this machine, with what is wrong with it; none for others."""
    from ftpipe.server.storage.data_dir import DataDirectory

    if model.provider != "local":
        return
    for path, problem in DataDirectory(server_dir()).job(model.job_id).verify_checkpoints():
        yield {"path": path, "problem": problem}
