"""``ftpipe models backup`` and ``ftpipe models restore``: keep what a provider will delete."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

import click

from ftpipe.cli import options as shared
from ftpipe.cli.context import CliContext, pass_cli_context
from ftpipe.cli.dataset_request import LOCAL_PROVIDER
from ftpipe.cli.group import Command
from ftpipe.cli.output.progress import Progress, item_progress
from ftpipe.errors import UsageError
from ftpipe.formatting import format_bytes, format_table, plural, sanitize_line

if TYPE_CHECKING:
    from ftpipe.migration.backup import BackupResult, Selection
    from ftpipe.migration.backup_folder import BackupFolder
    from ftpipe.migration.backup_manifest import MissingItem
    from ftpipe.migration.restore import RestoreResult
    from ftpipe.providers.provider import Provider
    from ftpipe.records import Model

MAX_SHOWN_ITEMS = 40
UNITS = {"check": "", "jobs": "job", "files": "file"}
"""Step of a backup → noun of its items; bytes if it is empty."""


@click.command(
    cls=Command,
    example="ftpipe models backup --all backup/ --provider openai\n"
    "ftpipe models backup support-bot@production backup/\n"
    "ftpipe models backup --verify backup/",
)
@click.argument("names", nargs=-1, required=True, metavar="[MODEL]... DIR")
@click.option("--all", "everything", is_flag=True, help="All jobs and tuned models that the key can see.")
@click.option("--verify", is_flag=True, help="Only check the files in DIR against its manifest; needs no network.")
@click.option(
    "--provider", metavar="NAME", help="Provider.  [default: that of MODEL in the registry, or the configured one]"
)
@shared.trust_host
@pass_cli_context
def backup(context: CliContext, names: tuple[str, ...], everything: bool, verify: bool, provider: str | None) -> None:
    """Save each MODEL, or all of them, in the folder DIR, and change nothing at the provider.

    That is the job with its hyperparameters, events and checkpoints, the training, validation and result files, and
    the model; MODEL is its name, an alias or its job id. A manifest has the SHA-256 and the size of each file.

    The same command continues after any interruption: what is complete is not read again, and what is damaged is. What
    the provider does not give is named with its answer. The exit code is 1 if any of that may still exist there.
    """
    *models, folder = names
    path = Path(folder)
    if verify:
        if models or everything:
            raise UsageError("--verify checks a folder that exists", "run `ftpipe models backup --verify DIR`")
        verify_folder(context, path)
        return
    if bool(models) == everything:
        reason = "--all saves all models" if everything else "neither a model nor --all is given"
        raise UsageError(reason, "run `ftpipe models backup MODEL DIR` or `ftpipe models backup --all DIR`")
    result, saved = make_backup(context, models, path, provider)
    context.exit_code = 1 if any(not item.is_gone for item in result.missing) else 0
    show_backup(context, result, saved)


def make_backup(
    context: CliContext, models: Sequence[str], path: Path, provider_name: str | None
) -> tuple[BackupResult, BackupFolder]:
    """Save models, or all of them if none is given, in a folder.

    Raises:
        UsageError: The models are at several providers, or the folder holds something else.
    """
    from ftpipe.migration.backup import Selection, select_all, select_model

    settings = context.settings({"provider": provider_name})
    known = context.registry(settings, read_only=True).models.recent()
    chosen = {name: find_known(known, name) for name in models}
    names = {model.provider for model in chosen.values() if model is not None}
    if provider_name is None and len(names) > 1:
        raise UsageError(f"these models are at {' and '.join(sorted(names))}", "make one backup for each provider")
    provider = context.provider(
        provider_name or next(iter(names), None) or settings.config.provider or LOCAL_PROVIDER, settings
    )
    selection = Selection([]) if models else select_all(provider.account)
    for name, model in chosen.items():
        one = Selection([model.job_id]) if model is not None else select_model(provider.account, name)
        selection.job_ids += one.job_ids
        selection.model_names += one.model_names
    return save_selection(context, provider, selection, path, known)


def save_selection(
    context: CliContext, provider: Provider, selection: Selection, path: Path, known: Sequence[Model]
) -> tuple[BackupResult, BackupFolder]:
    """Save jobs and models in a folder.

    Args:
        context: The context of the command.
        provider: The endpoint.
        selection: What is saved.
        path: The folder.
        known: Models of the registry, whose aliases are saved, too.
    """
    from ftpipe.migration.backup import Backup, BackupObserver
    from ftpipe.migration.backup_folder import BackupFolder
    from ftpipe.migration.backup_manifest import BackupHeader

    header = BackupHeader(
        provider=provider.profile.name,
        endpoint=provider.endpoint,
        base_url=provider.base_url,
        created_at=int(time.time()),
    )
    hint = "run the same command again; it continues from there"
    with context.interruptible(f"interrupted; {sanitize_line(path, 300)} keeps what is complete", hint):
        folder = BackupFolder.create(path, header)
        registered = {model.job_id: model for model in known if model.endpoint == provider.endpoint}
        with steps(context) as progress:
            observer = BackupObserver(on_status=context.print_status, on_progress=progress)
            result = Backup(provider, folder, registered=registered, observer=observer).run(selection)
    return result, folder


def find_known(models: Sequence[Model], name: str) -> Model | None:
    """The model of the registry with that name, alias, job id or checkpoint."""
    return next(
        (
            model
            for model in models
            if name in (model.id, model.job_id, *model.aliases, *(one.model for one in model.checkpoints))
        ),
        None,
    )


@contextmanager
def steps(context: CliContext) -> Iterator[Callable[[str, int, int], None]]:
    """Show the progress of one step after the other."""
    with ExitStack() as stack:
        current: dict[str, Progress] = {}

        def progress(step: str, done: int, total: int) -> None:
            if step not in current:
                stack.close()
                current.clear()
                current[step] = stack.enter_context(item_progress(context, step, unit=UNITS[step]))
            current[step](done, total)

        yield progress


def show_backup(context: CliContext, result: BackupResult, folder: BackupFolder) -> None:
    """Write what is in the backup, and what is missing."""
    context.add(folder=folder.path, provider=folder.header.provider, **asdict(result))
    contents = ", ".join((plural(result.jobs, "job"), plural(result.models, "model"), plural(result.files, "file")))
    context.print_result(f"{contents} ({format_bytes(result.bytes)}) in {sanitize_line(folder.path, 300)}")
    done = f"{result.read} read now, {result.kept} complete before; each has the size and SHA-256 of the manifest"
    context.print_status(done)
    if not result.jobs and not result.models:
        context.warn_once(
            f"there are no jobs and no tuned models at {folder.header.provider}; --provider NAME saves those of another"
        )
    for job in result.unfinished:
        context.print_status(f"{sanitize_line(job, 80)} has not ended; the next backup reads it again")
    show_missing(context, result.missing)
    context.print_next(f"ftpipe models restore {quote(str(folder.path))}   on another machine")


def show_missing(context: CliContext, missing: Sequence[MissingItem]) -> None:
    """Write what is missing, with the reason, and the number for each."""
    if not missing:
        return
    context.print_result(f"missing: {len(missing)}")
    rows = [
        (
            f"  {context.style('dim' if item.is_gone else 'warning', item.code)}",
            item.kind,
            sanitize_line(item.id, 80),
            sanitize_line(item.reason, 200),
        )
        for item in missing[:MAX_SHOWN_ITEMS]
    ]
    context.print_result(format_table(rows))
    if len(missing) > MAX_SHOWN_ITEMS:
        context.print_result(f"  and {len(missing) - MAX_SHOWN_ITEMS} more; --json has all")


def verify_folder(context: CliContext, path: Path) -> None:
    """Check a backup without the network; the exit code is 1 if a file is damaged or gone."""
    from ftpipe.migration.backup_folder import BackupFolder

    folder = BackupFolder.open(path)
    with steps(context) as progress:
        problems = folder.check(folder.entries.values(), lambda done, total: progress("check", done, total))
    context.add(folder=path, files=len(folder.entries), problems=problems, interrupted=folder.is_interrupted)
    context.exit_code = 1 if problems or folder.is_interrupted else 0
    for name, problem in problems.items():
        context.print_result(f"{context.style('error', '✗')} {name} {problem}")
    good = len(folder.entries) - len(problems)
    context.print_result(f"{context.style('ok', '✓')} {plural(good, 'file')} as in the manifest")
    if folder.is_interrupted:
        context.print_result("the backup was interrupted; run the same command again to complete it")


@click.command(cls=Command, example="ftpipe models restore backup/")
@click.argument("folder", metavar="DIR", type=shared.FOLDER)
@pass_cli_context
def restore(context: CliContext, folder: Path) -> None:
    """Read the backup in DIR into the registry: runs, jobs, events, and models with their origin and aliases.

    No provider and no key is needed. Restoring twice changes nothing. If a file of the backup was changed, it is named,
    and nothing is restored. The training data stays in DIR, where the runs refer to it.
    """
    from ftpipe.migration.backup_folder import BackupFolder
    from ftpipe.migration.restore import Restore

    opened = BackupFolder.open(folder)
    registry = context.registry()
    hint = f"ftpipe models restore {quote(str(folder))}"
    with context.interruptible("interrupted; what was restored is kept", hint), steps(context) as progress:
        result = Restore(opened, registry, on_progress=lambda done, total: progress("check", done, total)).run()
    show_restored(context, result, registry.location)


def show_restored(context: CliContext, result: RestoreResult, location: str) -> None:
    """Write what is in the registry now, and what the backup does not have."""
    context.add(**asdict(result) | {"models": result.models})
    for model in result.models:
        aliases = f"  ({', '.join(model.aliases)})" if model.aliases else ""
        context.print_result(f"{sanitize_line(model.id, 200)}{sanitize_line(aliases, 200)}")
    known = f", {result.known} were known" if result.known else ""
    context.print_status(
        f"{plural(result.jobs, 'job')} restored{known}; {plural(len(result.models), 'model')} in {location}"
    )
    for alias in result.taken_aliases:
        context.print_status(f"the alias {sanitize_line(alias, 100)} stands for another model here and was not changed")
    if result.is_interrupted:
        context.print_status("the backup was interrupted: run the same `ftpipe models backup` again to complete it")
    show_missing(context, result.missing)
    context.print_next("ftpipe models list")
