"""``ftpipe models delete`` and ``ftpipe jobs delete``: delete at the provider and in the registry, after a question."""

from __future__ import annotations

import click

from ftpipe.cli import options as shared
from ftpipe.cli.context import CliContext, pass_cli_context
from ftpipe.cli.group import Command
from ftpipe.errors import UsageError
from ftpipe.formatting import plural, sanitize_line
from ftpipe.records import Job, Model
from ftpipe.registry import Registry


@click.command(
    "delete", cls=Command, example="ftpipe models delete ft:…\nftpipe models delete ft:… --only-registry --yes"
)
@click.argument("model")
@shared.only_registry
@click.option("--force", is_flag=True, help="Delete it although an alias points to it; the alias is removed, too.")
@shared.yes_delete
@shared.trust_host
@pass_cli_context
def delete_model(context: CliContext, model: str, only_registry: bool, force: bool, yes: bool) -> None:
    """Delete MODEL (its name, an alias or its job id) with its checkpoints, at its provider and in the registry.

    What it cost and its evaluations stay in the registry. The same `ftpipe train` then trains a new model.
    """
    settings = context.settings()
    registry = context.registry(settings)
    record = registry.models.get(model)
    check_model(record, model, force=force)
    name = sanitize_line(record.id, 200)
    if only_registry:
        context.confirm_deletion(f"Remove {name} from the registry, and keep it at {record.provider}?", yes=yes)
        registry.runs.delete_model(record)
        is_deleted = False
    else:
        from ftpipe.cli.output.run import host_of
        from ftpipe.pipeline.deletion import delete_model as delete

        provider = context.provider(record.provider, settings)
        place = "this machine" if record.endpoint.startswith("local:") else host_of(provider)
        checkpoints = f" and {plural(len(record.checkpoints), 'checkpoint')}" if record.checkpoints else ""
        context.confirm_deletion(f"Delete {name}{checkpoints} at {place} for good?", yes=yes)
        is_deleted = delete(record, provider=provider, registry=registry)
        if not is_deleted:
            context.print_status(f"{record.provider} did not have it any more")
    context.add(model=record.id, deleted_at_provider=is_deleted, removed_aliases=record.aliases)
    context.print_result(f"deleted {name}")


def check_model(record: Model, name: str, *, force: bool) -> None:
    """Refuse to delete a model that was named by a checkpoint, or that an alias needs.

    Raises:
        UsageError: It is refused.
    """
    if name not in (record.id, record.job_id, *record.aliases):
        raise UsageError(
            f"{name} is a checkpoint of {record.id}", f"to delete the model: `ftpipe models delete {record.id}`"
        )
    if record.aliases and not force:
        aliases = ", ".join(record.aliases)
        verb = "points" if len(record.aliases) == 1 else "point"
        raise UsageError(
            f"{aliases} {verb} to {record.id}",
            "move it with `ftpipe models alias NAME MODEL`, or add --force to remove it",
        )


@click.command("delete", cls=Command, example="ftpipe jobs delete ftjob-0123456789abcdef")
@click.argument("job")
@shared.only_registry
@shared.yes_delete
@shared.trust_host
@pass_cli_context
def delete_job(context: CliContext, job: str, only_registry: bool, yes: bool) -> None:
    """Delete JOB, which has ended without a model or whose model was deleted, with its events and checkpoints.

    It is deleted in the registry and at the embedded server; hosted providers keep their jobs. What it cost stays in
    the registry. The same `ftpipe train` then creates a new job.
    """
    settings = context.settings()
    registry = context.registry(settings)
    record = find_job_to_delete(registry, job)
    name = sanitize_line(record.id, 80)
    if only_registry:
        context.confirm_deletion(f"Remove {name} from the registry, and keep it at {record.provider}?", yes=yes)
        registry.runs.delete_job(record)
        is_deleted = False
    else:
        from ftpipe.pipeline.deletion import delete_job as delete

        provider = context.provider(record.provider, settings)
        is_own = provider.profile.target == "local"
        place = "at the embedded server and in the registry" if is_own else "in the registry"
        context.confirm_deletion(f"Delete {name} ({sanitize_line(record.status, 40)}) {place} for good?", yes=yes)
        is_deleted = delete(record, provider=provider, registry=registry)
        if not is_own:
            context.print_status(f"{record.provider} keeps the job: its API cannot delete jobs")
    context.add(job=record.id, deleted_at_provider=is_deleted)
    context.print_result(f"deleted {name}")


def find_job_to_delete(registry: Registry, name: str) -> Job:
    """The job of that id, or of the run of that id.

    Raises:
        UsageError: The registry has no such job, or has its model.
    """
    run = registry.runs.find(name)
    job = run.job if run else registry.jobs.get(name)
    if job is None:
        raise UsageError(f"the registry has no job {name!r}", "run `ftpipe jobs list` for known jobs")
    model = next((one for one in registry.models.recent() if one.job_id == job.id), None)
    if model is not None:
        raise UsageError(f"{model.id} was made by {job.id}", f"delete it first: `ftpipe models delete {model.id}`")
    return job
