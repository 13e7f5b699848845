"""The steps of ``ftpipe leave``: each is what a command of its own does, and can be repeated."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from ftpipe.cli.commands.models_backup import save_selection
from ftpipe.cli.commands.models_migrate import MigrateOptions, make_migrator, migrate_model, request_of, show_plan
from ftpipe.cli.commands.models_record import RecordOptions, plan_recording, run_recording
from ftpipe.cli.context import CliContext
from ftpipe.errors import FtpipeError, InterruptedRunError, StillRunningError, UsageError
from ftpipe.formatting import sanitize_line
from ftpipe.migration.backup import Selection
from ftpipe.migration.backup_folder import BackupFolder
from ftpipe.migration.backup_manifest import Kind, safe_name
from ftpipe.migration.leave import check_budget, save_state
from ftpipe.migration.record import RecordingStore, default_path
from ftpipe.migration.spending import Ledger
from ftpipe.providers.provider import Provider
from ftpipe.records import Job
from ftpipe.records.leave import LeaveModel, LeaveStage, LeaveState
from ftpipe.records.migration import Migration, MigrationState
from ftpipe.registry import Registry

STAGES = {
    MigrationState.PLANNED: LeaveStage.RECORDED,
    MigrationState.TRAINED: LeaveStage.TRAINED,
    MigrationState.REJECTED: LeaveStage.REJECTED,
    MigrationState.MOVED: LeaveStage.MOVED,
    MigrationState.ROLLED_BACK: LeaveStage.TRAINED,
}
MISSING: dict[Kind, str] = {
    "job": "job",
    "events": "events of",
    "checkpoints": "checkpoints of",
    "object": "file",
    "content": "file",
    "model": "model",
}
"""What a backup does not have, in words."""
STOPPING = (InterruptedRunError, StillRunningError)
"""Errors that end the command; any other one stops a single model."""


@dataclass
class LeaveSteps:
    """Moves the models of a state, which is saved after each step.

    Attributes:
        context: The command's context.
        provider: The endpoint that is left.
        registry: The project's registry.
        state: How far the move is.
        backup: The folder that holds the backup: that of the state, or a temporary one of a dry run.
        is_dry_run: Whether nothing is saved.
        timeout: Seconds to wait for each job and batch; ``None`` for no limit.
    """

    context: CliContext
    provider: Provider
    registry: Registry
    state: LeaveState
    backup: Path
    is_dry_run: bool = False
    timeout: float | None = None

    def back_up(self) -> None:
        """Save the models in the folder, which costs nothing."""
        known = {model.id: model for model in self.registry.models.recent()}
        jobs = {one.model: known[one.model].job_id for one in self.state.models if one.model in known}
        selection = Selection([job for job in jobs.values() if job], [name for name, job in jobs.items() if not job])
        _, saved = save_selection(self.context, self.provider, selection, self.backup, list(known.values()))
        for one in self.state.models:
            with self._problems_of(one):
                if one.model not in jobs:
                    raise UsageError(
                        f"{self.state.title} does not list it any more, or its job could not be added to the registry",
                        "`ftpipe models inventory` says which, and names its job; `ftpipe models backup JOB DIR` saves "
                        "what is left of that",
                    )
                self._save(_with_backup(one, saved, jobs[one.model]))

    def plan(self) -> None:
        """Find out for each model how it is recorded and retrained, and what that costs; nothing is paid."""
        for one in self.state.open_models:
            with self._problems_of(one):
                self._save(self._planned(one))

    def run(self) -> None:
        """Record, retrain and compare each model.

        Raises:
            InterruptedRunError: Ctrl-C; the same command continues.
            StillRunningError: The time is up; the same command continues.
        """
        for one in self.state.open_models:
            with self._problems_of(one):
                self._record(one)
                recorded = self.state.model(one.model)
                if recorded.is_planned_later:
                    self._save(self._planned(recorded))
                    check_budget(self.state)
                options = replace(self._migrate_options(recorded), max_cost=self._migration_limit(recorded))
                migration = migrate_model(self.context, options)
                if migration is not None:
                    self._save(self._with_migration(recorded, migration))

    def _planned(self, one: LeaveModel) -> LeaveModel:
        if one.data is None and self.state.log is None:
            raise UsageError(
                "its training file is gone, and there are no requests whose answers it could be trained on",
                "give requests that were sent to it with --log FILE, or run `ftpipe models migrate MODEL --data FILE` "
                "with a copy of the training file",
            )
        changes: dict[str, object] = {}
        record = self._record_options(one)
        max_answer_tokens = 0
        if record is not None:
            plan = plan_recording(self.context, self.context.settings({"provider": record.provider}), record)
            max_answer_tokens = plan.header.sampling.max_tokens
            changes |= {"recording_cost": plan.cost.high, "prompts": len(plan.prompts), "recording_reason": plan.reason}
        else:
            reason = "there are no prompts: it has no validation file, and neither --held-out nor --log was given"
            changes |= {"recording_cost": 0.0, "recording_reason": reason}
        options = self._migrate_options(one)
        if record is not None and options.recording is None and (options.backup is None or options.held_out is None):
            return one.model_copy(update=changes | {"is_planned_later": True})
        settings = self.context.settings({"provider": options.to})
        migrator = make_migrator(self.context, settings, options)
        migration = migrator.plan(replace(request_of(settings, options), max_answer_tokens=max_answer_tokens))
        show_plan(self.context, migrator, migration)
        migration.raise_blocker()
        cost = migration.plan.cost
        is_free = not migrator.pipeline.provider.profile.paid
        is_trained = one.new_model is not None and one.migration_id == migration.migration.id
        changes |= {
            "is_planned_later": False,
            "examples": migration.task.examples,
            "new_base": migration.proposal.name,
            "reason": migration.proposal.reason,
            "source": migration.proposal.source,
            "changes": tuple(str(one) for one in migration.migration.changes if one.before != one.after),
            "training_cost": 0.0 if is_free or is_trained else cost.high if cost else None,
            "comparison_cost": migration.comparison_cost,
        }
        return one.model_copy(update=changes)

    def _record(self, one: LeaveModel) -> None:
        """Record the answers that are missing, if there are prompts."""
        options = self._record_options(one)
        if options is None:
            return
        limit = self.state.limit_for(planned=one.recording_cost or 0.0, spent=self._recording_spent(one))
        settings = self.context.settings({"provider": options.provider, "max_cost": limit})
        plan = plan_recording(self.context, settings, options)
        result = run_recording(self.context, settings, plan, options)
        update = {"stage": LeaveStage.RECORDED, "recording": result.path.absolute(), "prompts": result.prompts}
        self._save(one.model_copy(update=update | {"recording_cost": 0.0, "spent": self._spent(one)}))

    def _record_options(self, one: LeaveModel) -> RecordOptions | None:
        """``None`` if there is nothing to ask the model."""
        held_out = self.state.held_out or one.validation
        if held_out is None and self.state.log is None:
            return None
        return RecordOptions(
            model=one.model,
            provider=self.state.provider,
            prompts=(held_out,) if held_out else (),
            log=(self.state.log,) if self.state.log else (),
            output=self._recording_path(one),
            samples=self.state.samples or None,  # a recording that exists may have more
            timeout=self.timeout,
            yes=True,
        )

    def _recording_path(self, one: LeaveModel) -> Path:
        return one.recording or default_path(one.model)

    def _migrate_options(self, one: LeaveModel) -> MigrateOptions:
        path = self._recording_path(one)
        recording = path if path.is_file() else None
        return MigrateOptions(
            model=one.model,
            to=self.state.to,
            source=self.state.provider,
            base=self.state.base,
            backup=self.backup if one.data else None,
            held_out=self.state.held_out or one.validation,
            recording=recording,
            distill=recording if one.data is None else None,
            margin=self.state.margin,
            timeout=self.timeout,
            yes=True,
        )

    def _with_migration(self, one: LeaveModel, migration: Migration) -> LeaveModel:
        costs = [compared.cost for compared in migration.comparisons if compared.cost is not None]
        update = {
            "stage": STAGES[migration.state],
            "migration_id": migration.id,
            "new_model": migration.new_model,
            "comparisons": migration.comparisons,
            "aliases": tuple(moved.alias for moved in migration.aliases),
            "training_cost": 0.0,
            "comparison_cost": 0.0,
            "comparison_spent": sum(costs) if len(costs) == len(migration.comparisons) else one.comparison_cost or 0.0,
        }
        changed = one.model_copy(update=update)
        return changed.model_copy(update={"spent": self._spent(changed)})

    def _spent(self, one: LeaveModel) -> float:
        """What the recording, the job and the comparison have cost, as far as that is known."""
        spent = self._recording_spent(one) + one.comparison_spent
        if one.new_model:
            new = self.registry.models.get(one.new_model)
            spent += new.actual_cost if new.actual_cost is not None else new.estimated_cost or 0.0
        return spent

    def _recording_spent(self, one: LeaveModel) -> float:
        store = RecordingStore(self.provider.endpoint, one.model)
        return Ledger(store.ledger_path(self._recording_path(one))).spent

    def _migration_limit(self, one: LeaveModel) -> str | None:
        """What job and comparison of a model may cost, with what they have cost already."""
        planned = (one.training_cost or 0.0) + (one.comparison_cost or 0.0)
        limit = self.state.limit_for(planned=planned, spent=one.spent - self._recording_spent(one))
        return None if limit is None else str(limit)

    @contextmanager
    def _problems_of(self, one: LeaveModel) -> Iterator[None]:
        """Keep an error of one model with it, so that the others go on.

        The steps describe one model in the JSON document; it is left with the state, which has all of them.
        """
        fields = self.context.fields
        self.context.fields = dict(fields)
        try:
            yield
        except STOPPING:
            raise
        except FtpipeError as error:
            known = self.state.model(one.model)
            self._save(known.model_copy(update={"problem": error.message, "hint": error.hint}))
            name = sanitize_line(one.model, 200)
            style = self.context.style_err
            self.context.print_status(f"{style('error', '✗')} {name}: {sanitize_line(error.message, 500)}")
            if self.is_dry_run and error.hint:
                self.context.print_status(f"  next: {sanitize_line(error.hint, 500)}")
        finally:
            self.context.fields = fields

    def _save(self, one: LeaveModel) -> None:
        self.state = self.state.with_model(one)
        if not self.is_dry_run:
            save_state(self.state)


def _with_backup(one: LeaveModel, folder: BackupFolder, job_id: str) -> LeaveModel:
    """A model with what the backup has of it."""
    entry = folder.entries.get(f"jobs/{safe_name(job_id)}/job.json")
    job = Job.model_validate(folder.read_json(entry)["record"]) if entry else None
    file_ids = job.file_ids if job else ()
    ids = {job_id, one.model, *file_ids}
    missing = [
        item
        for (_, name), item in sorted(folder.missing.items())
        if name in ids or name.startswith((f"{job_id} ", f"{one.model} "))
    ]
    update = {
        "stage": LeaveStage.BACKED_UP if one.stage is LeaveStage.LISTED else one.stage,
        "saved_files": sum(folder.content(file_id) is not None for file_id in file_ids),
        "missing": tuple(f"{MISSING[item.kind]} {item.id}: {item.reason}" for item in missing),
        "data": _content_path(folder, job.training_file if job else ""),
        "validation": _content_path(folder, (job.validation_file if job else "") or ""),
    }
    return one.model_copy(update=update)


def _content_path(folder: BackupFolder, file_id: str) -> Path | None:
    entry = folder.content(file_id) if file_id else None
    return (folder.path / entry.path).absolute() if entry else None
