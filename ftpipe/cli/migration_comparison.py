"""Ask the old and the new model of a migration, deploy the new one if it needs that, and compare them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from ftpipe.cli.context import CliContext
from ftpipe.errors import UsageError

if TYPE_CHECKING:
    from ftpipe.migration.equivalence import Contender
    from ftpipe.migration.migrate import MigrationPlan, Migrator
    from ftpipe.providers.provider import Provider
    from ftpipe.records import Model, Run
    from ftpipe.records.evaluation import Arm, Evaluation
    from ftpipe.records.migration import GateComparison, Migration

CONCURRENCY = 4


def compare(
    context: CliContext,
    migrator: Migrator,
    plan: MigrationPlan,
    migration: Migration,
    run: Run,
    *,
    deployment: str | None,
) -> tuple[list[tuple[Evaluation, GateComparison]], Migration]:
    """Ask both models, as far as answers are missing, and compare them; a deployment that this needs is stopped then.

    Raises:
        UsageError: The new model has to be deployed by hand first.
    """
    provider = migrator.pipeline.provider
    if run.model is None:
        return [], migration
    name = deployment or migration.chat_model or run.model.id
    if provider.profile.deployment_hint and deployment is None:
        raise UsageError(
            f"{run.model.id} is trained, and answers only when it is deployed",
            f"{provider.profile.deployment_hint} Then run the same command again with --deployment NAME",
        )
    return ask_and_compare(context, migrator, plan, run.model, name), migration


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
    from ftpipe.cli.commands.evaluate import FOLDER
    from ftpipe.evaluation.evaluate import ProviderChat
    from ftpipe.evaluation.request_runner import RequestRunner
    from ftpipe.evaluation.response_cache import ResponseCache
    from ftpipe.migration.equivalence import Contender
    from ftpipe.paths import state_dir

    cache = ResponseCache(state_dir() / FOLDER, endpoint=provider.endpoint)
    return Contender(arm, RequestRunner(ProviderChat(provider.models), cache, concurrency=CONCURRENCY))
