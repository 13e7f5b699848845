"""Move a model to another host: plan, retrain, compare, move the aliases, and roll back.

Everything can be repeated after a kill. The job is the pipeline's run of the same data and parameters, answers are
cached one by one, and an alias that was moved is not moved again.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ftpipe.catalog.trainable_bases import local_bases
from ftpipe.catalog.training_prices import PriceTable
from ftpipe.errors import CostLimitError, UsageError
from ftpipe.formatting import format_money
from ftpipe.migration.base_proposals import (
    best_proposal,
    describe_task,
    find_proposal,
    propose_bases,
    propose_local_bases,
)
from ftpipe.migration.equivalence import (
    DEFAULT_CONFIDENCE,
    DEFAULT_MARGIN,
    ComparisonSet,
    collect_prompts,
)
from ftpipe.migration.migration_file import load_migration, migration_id, migrations_dir, save_migration
from ftpipe.migration.nearest_hyperparameters import nearest_hyperparameters, with_choices
from ftpipe.migration.recording import Recording
from ftpipe.migration.source_model import (
    OpenProvider,
    TrainingData,
    distill_training_data,
    find_training_data,
    read_backup,
)
from ftpipe.paths import models_dir
from ftpipe.pipeline.pipeline import Pipeline
from ftpipe.pipeline.preflight import Plan
from ftpipe.records import Model, Report, RunSpec
from ftpipe.records.evaluation import Evaluation, TokenPrice
from ftpipe.records.migration import (
    AliasMoved,
    BaseProposal,
    GateComparison,
    Migration,
    MigrationState,
    TrainingTask,
)
from ftpipe.records.run import Predecessor
from ftpipe.registry import Registry
from ftpipe.stages.validate import validate
from ftpipe.tokenization import DEFAULT_ENCODING, open_counter


@dataclass(frozen=True, kw_only=True)
class MigrationRequest:
    """What is requested of a migration."""

    base: str | None = None
    """``None`` for the best proposal."""
    training: TrainingData | None = None
    """The data, if the user has named it."""
    backup: Path | None = None
    """A backup that has the data of the old model."""
    distill: Path | None = None
    """A recording whose answers are trained on, in place of the data of the old model."""
    held_out: Path | None = None
    recording: Recording | None = None
    max_answer_tokens: int = 0
    """Longest answer of a recording that does not exist yet, for the cost of the comparison."""
    margin: float = DEFAULT_MARGIN
    confidence: float = DEFAULT_CONFIDENCE
    aliases: tuple[str, ...] = ()
    """Further aliases for the new model."""
    epochs: int | None = None
    learning_rate: float | None = None
    suffix: str | None = None
    seed: int | None = None
    max_cost: float | None = None


@dataclass(frozen=True)
class MigrationPlan:
    """What a migration will do and cost; nothing was sent to the new host, and nothing was paid."""

    migration: Migration
    request: MigrationRequest
    old: Model
    proposal: BaseProposal
    proposals: tuple[BaseProposal, ...]
    task: TrainingTask
    plan: Plan
    """Of the job."""
    prompts: ComparisonSet
    comparison_cost: float | None
    """Highest cost of the requests to both models; ``None`` if a price is not known."""
    note: str = ""

    @property
    def highest_cost(self) -> float | None:
        """Job and requests together; ``None`` if the price of an answer is not known.

        A job whose price only the host knows counts as 0: the pipeline compares the host's estimate with the limit.
        """
        cost = self.plan.cost.high if self.plan.cost else None
        return None if self.comparison_cost is None else (cost or 0.0) + self.comparison_cost

    def raise_blocker(self) -> None:
        """Raise the first reason why the migration cannot start, if there is one.

        Raises:
            FtpipeError: As ``Plan.raise_blocker``; and if job and requests together may cost more than is allowed.
        """
        self.plan.raise_blocker()
        limit, high = self.request.max_cost, self.highest_cost
        currency = self.plan.cost.currency if self.plan.cost else "USD"
        if limit is None:
            return
        if high is None:
            raise CostLimitError(
                "the price of the answers that are compared is not known, so --max-cost cannot be checked",
                "`ftpipe config prices FILE` takes it, or leave --max-cost out",
            )
        if high > limit:
            raise CostLimitError(
                f"job and comparison may cost up to {format_money(high, currency)}, over the limit of "
                f"{format_money(limit, currency)}",
                "compare on fewer prompts, choose a cheaper --base, or raise --max-cost",
            )


@dataclass
class Migrator:
    """Moves one model; every step can be repeated.

    Attributes:
        old: The model that is replaced.
        source_target: Target of its host.
        open_source: Opens its host, if something has to be read there.
        pipeline: Of the new host.
        prices: Training prices of the new host.
        answer_prices: Prices of the answers of the old and of a new model by base; ``None`` if not known.
        clock: UTC Unix seconds.
    """

    old: Model
    source_target: str
    open_source: OpenProvider
    pipeline: Pipeline
    prices: PriceTable
    answer_prices: tuple[TokenPrice | None, Callable[[str], TokenPrice | None]]
    clock: Callable[[], float] = time.time

    @property
    def registry(self) -> Registry:
        """The registry of both models."""
        return self.pipeline.registry

    def plan(self, request: MigrationRequest) -> MigrationPlan:
        """Find the data, choose the base, translate the hyperparameters, and estimate the costs.

        Raises:
            UsageError: There is no data, no base that fits, or nothing to compare the models on.
            DatasetError: The data cannot be read.
        """
        profile = self.pipeline.provider.profile
        folder = migrations_dir() / migration_id(
            endpoint=self.old.endpoint, model=self.old.id, provider="", base="", data_sha256=""
        )
        training = request.training or self._training_data(request, folder)
        report = validate(training.path, target=profile.target, validation=training.validation)
        task = describe_task(training.path, report)
        proposals = self._proposals(task)
        proposal = (
            find_proposal(proposals, request.base, profile.target)
            if request.base
            else best_proposal(proposals, profile.title or profile.name)
        )
        prompts, note = self._prompts(request, training)
        hyperparameters, changes = nearest_hyperparameters(
            self.old, profile, source_target=self.source_target, method=report.method, examples=task.examples
        )
        hyperparameters, changes = with_choices(
            hyperparameters, changes, epochs=request.epochs, learning_rate=request.learning_rate
        )
        spec = RunSpec(
            provider=profile.name,
            data=training.path,
            validation=None if "validation" in profile.unsupported else training.validation,
            model=proposal.name,
            method=report.method,
            hyperparameters=hyperparameters,
            suffix=self._suffix(request),
            seed=self.old.seed if request.seed is None and "seed" not in profile.unsupported else request.seed,
            predecessor=Predecessor(model=self.old.id, endpoint=self.old.endpoint, provider=self.old.provider),
        )
        plan = self.pipeline.plan(spec, max_cost=request.max_cost, prices=self.prices)
        migration = self._migration(request, training, report, plan.spec)
        migration = migration.model_copy(update={"changes": changes, "margin": request.margin})
        cost = self._comparison_cost(prompts, proposal.name)
        if request.max_cost is not None:
            self.pipeline.max_cost = max(0.0, request.max_cost - (cost or 0.0))
        return MigrationPlan(migration, request, self.old, proposal, proposals, task, plan, prompts, cost, note=note)

    def finish(
        self, plan: MigrationPlan, migration: Migration, new: Model, results: list[tuple[Evaluation, GateComparison]]
    ) -> Migration:
        """Save the comparisons, and move the aliases if every gate was passed.

        Args:
            plan: From ``plan``.
            migration: Its state.
            new: The new model, which is registered.
            results: From ``compare_models``.
        """
        for evaluation, _ in results:
            self.registry.evaluations.save(evaluation)
        comparisons = tuple(comparison for _, comparison in results)
        migration = migration.model_copy(update={"comparisons": comparisons, "new_model": new.id})
        if not migration.passed:
            return save_migration(migration.model_copy(update={"state": MigrationState.REJECTED}))
        return self._move_aliases(migration, plan.request.aliases)

    def _move_aliases(self, migration: Migration, further: tuple[str, ...]) -> Migration:
        """Point the aliases of the old model, and its own name, at the new one; each is noted before it is moved."""
        models, new = self.registry.models, migration.new_model or ""
        names = dict.fromkeys((*models.get(self.old.id).aliases, *further, self.old.id))
        current = models.aliases()
        noted = {one.alias: one for one in migration.aliases}
        for name in names:
            if current.get(name) != new:
                noted[name] = AliasMoved(alias=name, from_model=current.get(name, self.old.id))
        migration = save_migration(migration.model_copy(update={"aliases": tuple(noted.values())}))
        reason = f"{migration.id}: every gate was passed"
        for name in noted:
            if current.get(name) != new:
                models.set_alias(name, new, reason=reason)
        return save_migration(migration.model_copy(update={"state": MigrationState.MOVED}))

    def _migration(self, request: MigrationRequest, training: TrainingData, report: Report, spec: RunSpec) -> Migration:
        """The saved state, or a new one."""
        identity = migration_id(
            endpoint=self.old.endpoint,
            model=self.old.id,
            provider=f"{spec.provider} {self.pipeline.provider.endpoint}",
            base=spec.model,
            data_sha256=report.dataset.sha256,
        )
        return load_migration(identity) or Migration(
            id=identity,
            created_at=int(self.clock()),
            old_model=self.old.id,
            old_endpoint=self.old.endpoint,
            old_provider=self.old.provider,
            provider=spec.provider,
            base=spec.model,
            data=training.path,
            data_sha256=report.dataset.sha256,
            data_source=training.source,
            margin=request.margin,
        )

    def _training_data(self, request: MigrationRequest, folder: Path) -> TrainingData:
        if request.distill is not None:
            target = self.pipeline.provider.profile.target
            return distill_training_data(request.distill, folder=folder, target=target, held_out=request.held_out)
        if request.backup is not None:
            job = self.registry.jobs.get(self.old.job_id)
            return read_backup(self.old, request.backup, validation_file=job.validation_file if job else None)
        return find_training_data(self.old, registry=self.registry, open_provider=self.open_source, folder=folder)

    def _proposals(self, task: TrainingTask) -> tuple[BaseProposal, ...]:
        profile = self.pipeline.provider.profile
        if profile.target == "local":
            return propose_local_bases(local_bases(models_dir(), self.prices, default=profile.default_model), task)
        return propose_bases(self.old.base, task, target=profile.target, prices=self.prices)

    def _prompts(self, request: MigrationRequest, training: TrainingData) -> tuple[ComparisonSet, str]:
        """What the models are compared on, and what to tell about it."""
        held_out, note = request.held_out, ""
        if held_out is None and request.recording is None:
            held_out = training.validation
            note = "compared on the validation file, because neither --held-out nor --recording was given"
        if held_out is None and request.recording is None:
            raise UsageError(
                f"there is nothing to compare {self.old.id} with its successor on",
                "name data with correct answers that was not trained on with --held-out, or record answers first: "
                f"`ftpipe models record {self.old.id}`, and then --recording FILE",
            )
        prompts = collect_prompts(training=training.path, held_out=held_out, recording=request.recording)
        prompts.max_tokens = max(prompts.max_tokens or 0, request.max_answer_tokens)
        return prompts, note

    def _suffix(self, request: MigrationRequest) -> str | None:
        """As requested, or that of the old job as far as the new host allows one."""
        job = self.registry.jobs.get(self.old.job_id)
        suffix = request.suffix or (job.suffix if job else None)
        if request.suffix is not None or suffix is None:
            return suffix
        return suffix[: self.pipeline.provider.profile.max_suffix_chars] or None

    def _comparison_cost(self, prompts: ComparisonSet, base: str) -> float | None:
        """The highest cost of the requests to both models."""
        old_price, price_of = self.answer_prices
        asked_old = prompts.missing
        asked_new = [*prompts.items.values(), *(one.to_item() for one in prompts.agreement.values())]
        total, counter = 0.0, open_counter(DEFAULT_ENCODING, size=0)
        for price, items in ((old_price, asked_old), (price_of(base), asked_new)):
            if not items:
                continue
            if price is None:
                return None
            texts = [str(message.get("content") or "") for item in items for message in item.messages]
            read, written = sum(counter.count(texts)), len(items) * prompts.sampling.max_tokens
            total += price.cost(read, written)
        return total


def roll_back(migration: Migration, registry: Registry) -> Migration:
    """Point the aliases of a migration at the models that they pointed at before.

    An alias that somebody has moved to another model since stays there. Both models stay as they are.

    Raises:
        UsageError: No alias was moved.
    """
    if not migration.aliases:
        raise UsageError(
            f"{migration.id} has moved no alias, so there is nothing to roll back",
            "`ftpipe models alias NAME` shows the history of an alias",
        )
    current = registry.models.aliases()
    for moved in migration.aliases:
        if current.get(moved.alias) == migration.new_model:
            registry.models.set_alias(moved.alias, moved.from_model, reason=f"{migration.id} was rolled back")
    return save_migration(migration.model_copy(update={"state": MigrationState.ROLLED_BACK}))
