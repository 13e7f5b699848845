"""Ask the old and the new model of a migration, deploy the new one if it needs that, and compare them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from ftpipe.cli.context import CliContext
from ftpipe.errors import UsageError

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from ftpipe.migration.equivalence import Contender
    from ftpipe.migration.migrate import MigrationPlan, Migrator
    from ftpipe.providers.provider import Provider
    from ftpipe.records import Model
    from ftpipe.records.deployment import DeploymentOption
    from ftpipe.records.evaluation import Arm, Evaluation
    from ftpipe.records.migration import GateComparison, Migration

CONCURRENCY = 4


def compare(
    context: CliContext,
    migrator: Migrator,
    plan: MigrationPlan,
    migration: Migration,
    new: Model,
    *,
    deployment: str | None,
    yes: bool,
) -> tuple[list[tuple[Evaluation, GateComparison]], Migration]:
    """Ask both models, as far as answers are missing, and compare them; a deployment that this needs is stopped then.

    Raises:
        UsageError: The new model has to be deployed by hand first.
    """
    from ftpipe.migration.migration_file import load_migration, save_migration
    from ftpipe.migration.temporary_deployment import stop_deployment

    provider = migrator.pipeline.provider
    name = deployment or migration.chat_model or new.id
    if provider.deployments is None:
        if provider.profile.deployment_hint and deployment is None:
            raise UsageError(
                f"{new.id} is trained, and answers only when it is deployed",
                f"{provider.profile.deployment_hint} Then run the same command again with --deployment NAME",
            )
        return ask_and_compare(context, migrator, plan, new, name), migration
    if migration.chat_model and has_answers(provider, plan, new, name):
        if migration.has_deployment:  # interrupted between the last answer and the stop
            stop_deployment(new, provider, migrator.registry, context.print_status)
            migration = save_migration(migration.model_copy(update={"has_deployment": False}))
        return ask_and_compare(context, migrator, plan, new, name), migration
    with deployed(context, migrator, plan, migration, new, yes=yes) as chat_model:
        noted = load_migration(migration.id) or migration  # says whether the deployment was started for this
        migration = save_migration(noted.model_copy(update={"chat_model": chat_model}))
        results = ask_and_compare(context, migrator, plan, new, chat_model)
    return results, save_migration(migration.model_copy(update={"has_deployment": False}))


def deployed(
    context: CliContext,
    migrator: Migrator,
    plan: MigrationPlan,
    migration: Migration,
    new: Model,
    *,
    yes: bool,
) -> AbstractContextManager[str]:
    """A deployment of the new model for the comparison, after a question with its price per hour."""
    from ftpipe.migration.migration_file import save_migration
    from ftpipe.migration.temporary_deployment import require_budget, temporary_deployment
    from ftpipe.reports.deployments import price_text

    spent = (plan.plan.cost.high if plan.plan.cost else None) or 0.0

    def confirm(option: DeploymentOption) -> None:
        require_budget(option, spent=spent + (plan.comparison_cost or 0.0), max_cost=plan.request.max_cost)
        what = f"the new model on {option.hardware} for {price_text(option.price_per_hour)}, until it is compared"
        if yes:
            context.print_status(f"deploying {what}")
        else:
            context.confirm(f"Deploy {what}?", undone="the model is trained, and nothing was deployed")

    def note_deployment() -> None:
        save_migration(migration.model_copy(update={"has_deployment": True}))

    return temporary_deployment(
        new,
        migrator.pipeline.provider,
        migrator.registry,
        is_own=migration.has_deployment,
        confirm=confirm,
        on_start=note_deployment,
        on_status=context.print_status,
        sleep=migrator.pipeline.sleep,
    )


def has_answers(provider: Provider, plan: MigrationPlan, new: Model, chat_model: str) -> bool:
    """Whether every answer of the new model is cached, so that it need not be deployed again."""
    from ftpipe.migration.equivalence import missing_answers

    return not missing_answers(contender(provider, arm_for(provider, new, chat_model)), plan.prompts)


def ask_and_compare(
    context: CliContext, migrator: Migrator, plan: MigrationPlan, new: Model, chat_model: str
) -> list[tuple[Evaluation, GateComparison]]:
    """Ask both models, as far as answers are missing, and compare them.

    Raises:
        UsageError: No answer of the old model is known, and it cannot be asked.
    """
    from ftpipe.cli.evaluation_arms import arm_of
    from ftpipe.cli.output.progress import item_progress
    from ftpipe.migration.equivalence import compare_models

    provider = migrator.pipeline.provider
    old_arm = arm_of(plan.old.id, plan.old, migrator.source_target)
    old = contender(migrator.open_source(), old_arm) if plan.prompts.missing else None
    with item_progress(context, "comparing", "request") as progress:
        results = compare_models(
            plan.prompts,
            old=old,
            old_arm=old_arm,
            new=contender(provider, arm_for(provider, new, chat_model)),
            margin=plan.request.margin,
            confidence=plan.request.confidence,
            on_progress=progress,
            clock=time.time,
        )
    if not results:
        raise UsageError(
            f"{plan.old.id} does not answer any more, and nothing of it was recorded",
            f"{new.id} is registered; `ftpipe models alias NAME {new.id}` moves an alias without a comparison",
        )
    return results


def arm_for(provider: Provider, new: Model, chat_model: str) -> Arm:
    """The new model under the name with which it answers."""
    from ftpipe.cli.evaluation_arms import arm_of

    return arm_of(new.id, new, provider.profile.target).model_copy(update={"model": chat_model})


def contender(provider: Provider, arm: Arm) -> Contender:
    """One of the models with its cached answers."""
    from ftpipe.evaluation.evaluate import ProviderChat
    from ftpipe.evaluation.request_runner import RequestRunner
    from ftpipe.evaluation.response_cache import ResponseCache
    from ftpipe.migration.equivalence import Contender
    from ftpipe.paths import EVALUATIONS_FOLDER, state_dir

    chat = ProviderChat(provider.models, provider.profile.waiting_service_tier)
    cache = ResponseCache(state_dir() / EVALUATIONS_FOLDER, endpoint=provider.endpoint)
    return Contender(arm, RequestRunner(chat, cache, concurrency=CONCURRENCY))
